"""A run whose weights are spread over processes is the run of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from llm.__main__ import main
from llm.distributed.sharded import _BY_PARAMETER, ShardedLearner, ShardedPolicy
from llm.distributed.spread import Ranks, SpreadPolicy, joined
from llm.training import checkpoint
from llm.training.memory import estimate
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.algorithms import find_algorithm
from sims.core.algorithms.contrastive import DPO
from sims.core.loop.labelling import Labelling
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Policy, Samples
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import TokenTree
from sims.policies import Table
from tests.llm.distributed.test_distributed import PROMPTS, SCHEDULE, Kept, LengthTask
from tests.llm.tiny_models import pad_left, tiny_model, tiny_policy
from tests.llm.training.test_checkpoint import arguments, last_update
from tests.processes import Fork, forked, wait_until


@dataclass(frozen=True)
class Case:
    """An algorithm on a shape of model; settings go to `tiny_policy`, schedule changes 5 prompts with 4 responses."""

    kind: str
    shape: str = "gpt_neox"
    settings: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    lora: bool = False
    dtype: torch.dtype = torch.float64
    gathers_to_sample: bool = False


CASES = {
    "rloo": Case("rloo"),
    "gathered": Case("dpo", "mistral", gathers_to_sample=True),
    "critic": Case("ppo", "mistral", {"critic": "shared", "gradient_checkpointing": True, "logits_at_a_time": 40}),
    "own critic": Case("ppo", settings={"critic": "own"}, schedule={"minibatch_size": 1}),  # idle processes
    "tied": Case("dpo", "gpt2", {"sample_batch_size": 3, "score_batch_size": 2}, {"sync_every_updates": 2}),
    "blend": Case("nash_md", schedule={"reference": "ema", "reference_rate": 0.5}),
    "probes": Case("kto"),
    "adapters": Case("dpo", "mistral", lora=True),
    "half": Case(
        "nash_md",
        settings={"precision": "bfloat16"},
        schedule={"reference": "ema", "reference_rate": 0.5},
        dtype=torch.float32,
    ),
}
# What three processes do is what more than two do; two, of which each has another's half, take two cases.
SEVERAL = {3: list(CASES), 2: ["critic", "half"]}


class KeptShards(Kept, ShardedLearner):
    pass


def two_updates(name: str, ranks: Ranks | None, given: list[Samples] | None = None) -> dict[str, Tensor]:
    """Of two batches: their responses, the last loss and gradient, the weights before, and how far they moved.

    ranks None: in one process. given: the responses to each batch, instead of drawing them. The weights of all
    processes but the first start elsewhere, and must not matter.
    """
    case = CASES[name]
    model: Any = tiny_model(case.shape, seed=ranks.rank if ranks else 0, dtype=case.dtype)
    if case.lora:
        config = LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = get_peft_model(model, config)
    policy = tiny_policy(model, max_new_tokens=6, eos_token_ids=(2, 5, 8, 12), **case.settings)
    optimiser = Optimiser(method="sgd", learning_rate=0.1, max_grad_norm=1.0)
    actor: Policy = policy
    if ranks is None:
        learner: Kept = Kept(policy, optimiser, (), micro_batch_size=1)
    else:
        policy = ShardedPolicy(policy, ranks, torch.device("cpu"), case.gathers_to_sample)
        learner = KeptShards(policy, optimiser, ranks, micro_batch_size=1)
        actor = SpreadPolicy(policy, ranks)
    schedule = SCHEDULE.replace(**case.schedule)
    training = Training(actor, LengthTask(), find_algorithm(case.kind)(), schedule, learner, Noise.single(3))
    if given is not None:
        training.collector._responses = lambda prompts: given.pop(0)
    starts = [x.detach().clone() for x in policy.named_parameters().values()]
    found: dict[str, Tensor] = {}
    for i in range(2):
        *_, last = training.train((i + 1) * schedule.updates_per_batch)
        drawn = {"responses": last.batch.responses, "mask": last.batch.mask, "logp": last.batch.need("logp_sampler")}
        found |= {f"{what} {i}": x for what, x in drawn.items()}
    found |= {"loss": learner.last[1].double(), "norm": last.stats.grad_norm}
    for i, (key, x) in enumerate(policy.named_parameters().items()):
        parts = {f"gradient {i}": learner.last[0][i], f"start {i}": starts[i], f"moved {i}": x.detach() - starts[i]}
        found |= parts if ranks is None else {what: policy.shared.full(key, part) for what, part in parts.items()}
    return {f"{name}: {what}": x for what, x in found.items()}


def held(ranks: Ranks) -> dict[str, int]:
    """Numbers that this process holds of each part of a run, and of all that is in the module."""
    run = Run(PRESETS["tiny-min-length"].replace(updates=60), ranks=ranks, sharding="full")
    next(run.train())
    optimiser, module = run.training.learner.optimiser, run.policy.shared.module
    return {
        "weights": sum(x.numel() for x in run.policy.parameters()),
        "module": sum((x.to_local() if isinstance(x, DTensor) else x).numel() for x in module.parameters()),
        "moments": sum(x.numel() for x in (*optimiser.mean, *optimiser.square)),
        "reference": sum(x.numel() for x in run.training.reference.policy.parameters()),
    }


SAME = {
    "precision": "float64",
    "algorithm": "dpo",
    "sync-every-updates": "2",
    "reference": "ema",
    "reference-rate": "0.2",
    "save-every": "2",
}


def work(folder: Path, count: int, updates: int) -> int:
    """One of `count` processes: its cases, then the run of the command line that two start and three end."""

    with joined(count) as ranks:
        found = {key: x for name in CASES if name in SEVERAL[count] for key, x in two_updates(name, ranks).items()}
        if ranks.rank == count - 1:
            save_file({name: x.contiguous() for name, x in found.items()}, folder / f"{count}.safetensors")
        (folder / f"{count}-{ranks.rank}.json").write_text(json.dumps(held(ranks)))
    os.environ["MASTER_PORT"] = os.environ["NEXT_PORT"]  # the first one's server may not have ended everywhere
    more = [] if count == 2 else ["--resume"]
    changes = SAME | {"updates": str(updates), "sharding": "full", "processes": str(count)}
    return main(arguments(folder / "run", *more, **changes))


def start(folder: Path, count: int, updates: int) -> Fork:
    """So many processes, in a session of their own."""
    with socket.socket() as one, socket.socket() as another:
        for free in (one, another):
            free.bind(("127.0.0.1", 0))
        ports = {"MASTER_PORT": str(one.getsockname()[1]), "NEXT_PORT": str(another.getsockname()[1])}
    given = ports | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    return Fork(forked, count, work, folder, count, updates, environment=given)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes saved until they were killed in a run, and what three did, which ended that run.

    In between one process took a few updates of the run, with whole weights.
    """
    folder = tmp_path_factory.mktemp("sharded")
    two = start(folder, 2, 1_000_000)
    try:
        wait_until(lambda: last_update(folder / "run") >= 3, two)
    finally:
        os.killpg(two.pid, signal.SIGKILL)
        two.wait()
    updates = last_update(folder / "run") // 2 * 2 + 8  # the busier the machine, the more the two took
    assert main(arguments(folder / "run", "--resume", updates=str(updates), **SAME)) == 0
    shutil.rmtree(folder / "run" / "model")
    three = start(folder, 3, updates + 4)
    try:
        assert three.wait() == 0, three.printed()
    finally:
        if three.poll() is None:
            os.killpg(three.pid, signal.SIGKILL)
    return folder


EXACT = [name for name, case in CASES.items() if "precision" not in case.settings]


@pytest.mark.parametrize("name", EXACT)
def test_sharded_processes_take_the_steps_of_one(runs: Path, name: str):
    """Responses, loss, gradient and weights, on ragged responses to 5 prompts."""
    mine = two_updates(name, None)
    assert mine[f"{name}: gradient 0"].abs().max() > 1e-6 or CASES[name].lora
    for count in (count for count, names in SEVERAL.items() if name in names):
        theirs = saved(runs, count, name)
        assert theirs.keys() == mine.keys()
        for key, x in mine.items():
            assert theirs[key].dtype == x.dtype
            assert (theirs[key].double() - x.double()).norm() <= 1e-9 * (1.0 + x.double().norm()), (count, key)


def test_sharded_processes_in_bfloat16_take_the_steps_of_one(runs: Path):
    """Loss, gradient and movement of the weights, given the responses that the processes drew.

    Two numbers that differ in the last bit of float32 may be cast to neighbours in bfloat16, 2⁻⁸ apart. So where the
    order of a sum depends on the rows beside it, a response may go on with another token, and gradients differ: on
    one processor or another by up to 2⁻⁷ of their norm, as they do between two instruction sets. 2⁻⁵ is beyond that,
    and far below what a prompt too many, or a mean over the wrong count, would change.
    """
    for count in (2, 3):
        theirs = saved(runs, count, "half")
        drawn = [Samples(*(theirs[f"half: {what} {i}"] for what in Samples._fields)) for i in range(2)]
        mine = two_updates("half", None, drawn)
        assert theirs.keys() == mine.keys()
        for key, x in mine.items():
            assert theirs[key].dtype == x.dtype
            tolerance = 0.0 if key.startswith("half: start") else 2**-5
            assert (theirs[key].double() - x.double()).norm() <= tolerance * x.double().norm(), (count, key)
        policy = tiny_policy(tiny_model("gpt_neox", dtype=torch.float32), max_new_tokens=6, precision="bfloat16")
        prompts, prompt_mask = pad_left(PROMPTS)
        responses, mask, logp = (theirs[f"half: {what} 0"] for what in Samples._fields)
        with torch.no_grad():
            scored = policy.forward(Batch(prompts, responses, mask, prompt_mask=prompt_mask)).logp
        assert (scored - logp).norm() <= 2**-5 * scored.norm(), count


def saved(runs: Path, count: int, name: str) -> dict[str, Tensor]:
    """What so many processes found in a case."""
    return {key: x for key, x in load_file(runs / f"{count}.safetensors").items() if key.startswith(f"{name}: ")}


def test_a_killed_run_goes_on_sharded_or_not_to_the_same_weights(runs: Path, tmp_path: Path):
    updates, last = checkpoint.found(runs / "run")[-1]
    assert main(arguments(tmp_path, updates=str(updates), **SAME)) == 0
    for file in (f"{last.name}/state.safetensors", "model/model.safetensors"):
        mine, theirs = load_file(tmp_path / file), load_file(runs / "run" / file)
        assert mine.keys() == theirs.keys()
        for key, x in mine.items():
            torch.testing.assert_close(theirs[key], x, rtol=1e-8, atol=1e-9, msg=lambda m, n=key: f"{n}: {m}")


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_holds_its_part(runs: Path, count: int):
    total = sum(x.numel() for x in Run(PRESETS["tiny-min-length"]).policy.parameters())
    times = {"weights": 1, "module": 1, "moments": 2, "reference": 1}
    for rank in range(count):
        found = json.loads((runs / f"{count}-{rank}.json").read_text())
        for name, several in times.items():
            assert found[name] < 1.05 * several * total / count, (rank, name)


def test_whoever_has_weights_in_a_state_has_them_gathered():
    """A run's state holds a tensor a parameter of each policy that is not the policy itself or its first copy."""
    spec, noise = TokenTree(), Noise.of(0, 1)
    labelling = Labelling(labels="implicit", implicit_policy="frozen", implicit_after_updates=1)
    names: set[str] = set()
    for schedule, who in (
        (Schedule(batch_size=4, sync_every_updates=2), labelling),
        (Schedule(batch_size=4, reference="ema", reference_rate=0.1), None),
    ):
        policy = Table().build(spec, noise, False, torch.float64)
        learner = Learner(policy, Optimiser(), noise.lead)
        run = Training(policy, spec.build(torch.float64, noise), DPO(), schedule, learner, noise, who)
        list(run.train(2))
        names |= run.state_dict()[0].keys()
    gathered = {"policy.0", "sampler.0", "reference.0", "labeller.0", "learner.mean.0", "learner.square.0"}
    assert {name for name in names if _BY_PARAMETER.fullmatch(name)} == gathered == names - {"learner.alive"}


def test_one_process_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SpecError, match="sharding = 'full': needs several processes; start them with torchrun"):
        Run(PRESETS["tiny-min-length"], sharding="full")
    assert main(["train", "--output", str(tmp_path), "--sharding", "update"]) == 2
    assert "sharding = 'update': needs several processes" in capsys.readouterr().err
    assert main(["train", "--output", str(tmp_path), "--sharding", "full", "--processes", "2"]) == 2
    assert "processes = 2: only 1 runs" in capsys.readouterr().err


def test_a_dry_run_counts_each_process(capsys: pytest.CaptureFixture[str]):
    preset = PRESETS["mistral-7b-ultrafeedback"]
    experiment = preset.replace(policy=preset.policy.replace(lora_rank=None, base_precision="as_run"))
    whole, spread, sharded = (estimate(experiment, *x) for x in ((1,), (8,), (8, "full")))
    assert spread.held == whole.held
    for name in ("weights", "optimiser"):
        assert sharded.held[name] == whole.held[name] // 8
    assert sharded.held["reference, sampler"] == sharded.held["weights"]  # whole it holds matrices in bfloat16
    assert sharded.held["reward models"] == whole.held["reward models"]
    assert spread.sampling["cache"] == whole.sampling["cache"] // 8  # 64 responses side by side in one, 8 in each of 8
    gathered = estimate(experiment, 8, "update").sampling["gathered weights"]
    assert sharded.sampling["gathered weights"] < gathered < whole.held["weights"]
    assert main(["train", "--dry-run", "--processes", "4", "--sharding", "full"]) == 0
    assert "memory of each of 4 processes, GiB" in capsys.readouterr().out
