"""Several processes on the CPU take the very steps of one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.distributed.spread import DistributedLearner, Ranks, SpreadPolicy, check_processes, joined
from llm.models.policy import CausalLMPolicy
from llm.reward_models.fit import RewardTraining, fit
from sims.core.algorithms import Algorithm, Targets, all_algorithms
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Labels, Policy, Prompts, SampleRequest
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, pick
from sims.core.objectives.preferences import Labeller, Pairing, choose_pairs
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from tests.llm.reward_models.test_reward_training import tiny_batch, tiny_reward_model
from tests.llm.tiny_models import pad_left, tiny_policy
from tests.processes import Fork, forked

PROMPTS = [[3, 4, 5, 6], [7], [8, 9], [4, 4, 10], [11, 3, 5, 7, 9]]  # 5: no multiple of 2 or 3
SCHEDULE = Schedule(batch_size=5, num_generations=4)
# Those whose targets or losses look across prompts, and some of the others; the rest are long.
ACROSS = ["awr", "dapo", "dpo", "group_dpo", "grpo", "kto", "mixture", "nash_md", "ppo", "reinforce"]
ACROSS += ["rejection_sampling", "rest", "rwr", "simpo"]
KINDS = {3: ACROSS, 2: ["dapo", "dpo", "group_dpo", "kto", "nash_md", "ppo"]}


class LengthTask:
    """Long responses of large tokens are good."""

    def prompts(self, batch_size: int, noise: Noise) -> Prompts:
        return Prompts(*pad_left(PROMPTS))

    def label(self, prompts: Prompts, responses: Tensor, mask: Tensor, pairing: Pairing | None, noise: Noise) -> Labels:
        rewards = mask.sum(-1) + (responses * mask).sum(-1).double() / 10
        if pairing is None:
            return Labels(rewards, rewards)
        labeller = Labeller(label_temperature=1.0, correct_above=5.0)
        pairs, weight = choose_pairs(rewards, pairing, labeller.correct_above)
        label = labeller.label(*pick(rewards, pairs), noise.uniforms("labels", *pairs.shape))
        return Labels(rewards, rewards, pairs, label, weight)

    def recorded(self, batch_size: int, noise: Noise) -> Batch:
        raise NotImplementedError


class Kept(Learner):
    """Remembers the last gradient and loss."""

    def gradient(self, algorithm: Algorithm, batch: Batch, targets: Targets) -> tuple[list[Tensor], Tensor]:
        self.last = super().gradient(algorithm, batch, targets)
        return self.last


class KeptOnRanks(Kept, DistributedLearner):
    pass


def two_updates(kind: str, ranks: Ranks | None) -> dict[str, Tensor]:
    """Responses, loss and gradient of the second update; ranks: None for the plain learner, nothing of ours around."""
    algorithm = all_algorithms()[kind]()
    policy: CausalLMPolicy = tiny_policy(
        max_new_tokens=6, eos_token_ids=(2, 5, 8, 12), critic="shared" if algorithm.needs_critic else None
    )
    optimiser = Optimiser(method="sgd", learning_rate=0.01)
    actor: Policy = policy
    if ranks is None:
        learner: Kept = Kept(policy, optimiser, (), micro_batch_size=2)
    else:
        learner = KeptOnRanks(policy, optimiser, ranks, micro_batch_size=2)
        actor = SpreadPolicy(policy, ranks)
    training = Training(actor, LengthTask(), algorithm, SCHEDULE, learner, Noise.single(3))
    *_, last = training.train(2)
    gradient, loss = learner.last
    found = {f"{kind}.gradient.{i}": x for i, x in enumerate(gradient)}
    lengths = last.batch.mask.sum(-1)
    return found | {
        f"{kind}.loss": loss.double(),
        f"{kind}.responses": last.batch.responses,
        f"{kind}.lengths": lengths,
    }


def reward_update(ranks: Ranks | None) -> dict[str, Tensor]:
    """A reward model after one update of its fit: 3 prompts, of which the second has no pair that counts."""
    model = tiny_reward_model("gpt2")
    batch = tiny_batch().replace(pair_weight=torch.tensor([[1.0], [0.0], [2.0]]))
    (step,) = fit(model, batch, training=RewardTraining(batch_size=3, micro_batch_size=1), ranks=ranks)
    numbers = torch.tensor([step.loss, step.accuracy, step.grad_norm], dtype=torch.float64)
    return {"reward.step": numbers, "reward.head": model.classifier.score.weight.detach()}


def work(folder: Path, kinds: Mapping[int, Sequence[str]]) -> None:
    """One of three processes: algorithms on all three, then some on the first two of them."""
    with joined(3) as three:
        pair = dist.new_group([0, 1])
        teams = {3: three} | ({2: Ranks(three.rank, 2, pair)} if three.rank < 2 else {})
        for count, ranks in teams.items():
            found = reward_update(ranks)
            for kind in kinds[count]:
                found |= two_updates(kind, ranks)
            if ranks.rank == count - 1:
                save_file({name: x.contiguous() for name, x in found.items()}, folder / f"{count}.safetensors")
        try:
            three.check_same("seed", torch.tensor([float(three.rank == 2)]))
        except RuntimeError as error:
            (folder / f"{three.rank}.error").write_text(str(error))
        three.check_same("seed", torch.tensor([1.0]))


def saved(folder: Path, kinds: Mapping[int, Sequence[str]]) -> Path:
    """What three processes and two of them saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    given = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    group = Fork(forked, 3, work, folder, kinds, environment=given)
    try:
        assert group.wait() == 0, group.printed()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group.pid, signal.SIGKILL)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("ranks"), KINDS)


@dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that are threads of this process; a sum is only waited for."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

    def sum(self, tensors: Sequence[Tensor]) -> None:
        self.barrier.wait()


def test_the_first_process_looks_before_the_others_and_none_goes_on_before_all_have() -> None:
    barrier, seen = threading.Barrier(2), []

    def process(rank: int) -> None:
        Threads(rank, 2, None, barrier).in_turn(lambda: seen.append(rank), "cpu")
        seen.append(10 + rank)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[:2] == [0, 1] and sorted(seen[2:]) == [10, 11]


def take_the_steps_of_one(folder: Path, count: int, kinds: Sequence[str]) -> None:
    """Loss and gradient of algorithms, on ragged responses to 5 prompts, after an update and fresh samples."""
    theirs = load_file(folder / f"{count}.safetensors")
    for kind in kinds:
        mine = two_updates(kind, None)
        assert len(mine[f"{kind}.lengths"].unique()) > 2
        assert max(x.abs().max() for name, x in mine.items() if "gradient" in name) > 1e-4, kind
        for name, x in mine.items():
            torch.testing.assert_close(theirs[name], x, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("count", [2, 3])
def test_processes_take_the_steps_of_one(runs: Path, count: int):
    take_the_steps_of_one(runs, count, KINDS[count])


@pytest.mark.long
def test_so_they_do_with_every_other_algorithm(tmp_path: Path):
    others = sorted(all_algorithms().keys() - KINDS[3])
    take_the_steps_of_one(saved(tmp_path, {3: others, 2: []}), 3, others)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_fit_the_reward_model_of_one(runs: Path, count: int):
    theirs = load_file(runs / f"{count}.safetensors")
    for name, x in reward_update(None).items():
        torch.testing.assert_close(theirs[name], x, rtol=1e-9, atol=1e-9)


def test_a_process_that_differs_is_named(runs: Path):
    messages = [(runs / f"{rank}.error").read_text() for rank in range(3)]
    assert messages == ["seed: process 2 has other values than process 0; were they started with the same seed?"] * 3


def test_one_process_is_the_plain_learner():
    mine, theirs = two_updates("grpo", None), two_updates("grpo", Ranks())
    for name, x in mine.items():
        assert torch.equal(theirs[name], x)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_slices_cover_everything_once(count: int):
    for size in range(9):
        spans = [Ranks(rank, count).span(size) for rank in range(count)]
        assert [i for start, length in spans for i in range(start, start + length)] == list(range(size))
        assert max(length for _, length in spans) - min(length for _, length in spans) <= 1


def test_fewer_processes_than_asked_for_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SpecError, match=r"processes = 2: only 1 runs; start them with torchrun"), joined(2):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpecError, match=r"processes = 3: 2 run;"):
        check_processes(3)
    with pytest.raises(SpecError, match=r"processes = 1: 2 run;"):
        check_processes(1)
    assert check_processes(2) == check_processes(None) == 2


def test_fewer_prompts_than_processes_are_refused():
    policy = SpreadPolicy(tiny_policy(), Ranks(0, 6))
    with pytest.raises(SpecError, match="batch_size = 5: must be at least the number of processes, 6"):
        policy.sample(SampleRequest(Prompts(*pad_left(PROMPTS)[:1]), 2, Noise.single(0)))
