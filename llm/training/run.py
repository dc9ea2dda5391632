"""A run of a language model: built from its spec, trained by the loop of `sims.core`, evaluated on fresh samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.distributed.spread import DistributedLearner, Ranks, Sharding, SpreadPolicy, check_sharding
from llm.embedded import EMBEDDED
from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.spec import LanguageModelSpec
from llm.models.vllm_sampler import check_sampler
from llm.tasks import LANGUAGE, Task
from llm.tasks.environment import TextEnvironment, response_lengths
from sims.core.loop.learner import Learner
from sims.core.loop.protocols import Policy, SampleRequest
from sims.core.loop.train import Training, Update
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest, pick, sequence_sum
from sims.experiments.experiment import Experiment

from .learning_rate import ScheduledOptimiser

Arrays = dict[str, np.ndarray]


class RunError(RuntimeError):
    """A run that cannot continue; the message names the update and the reason."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Fresh samples of a policy, one response per prompt, and their metrics.

    numbers: means over responses of reward, gold, length (tokens before EOS), finished (ended by EOS), kl_policy_ref
    (nats per response, log π − log π_ref of its own samples; it can be negative, and is unbiased while top_p = 1),
    entropy (nats per token, over all tokens), and what the task measures (`Task.measure`). prompts, completions,
    rewards, golds, lengths: one entry per response.
    """

    numbers: dict[str, float]
    prompts: list[str]
    completions: list[str]
    rewards: list[float]
    golds: list[float]
    lengths: list[int]


class Run:
    """Run `index` of an experiment, in progress. Its noise is the stream (seed, index), as in the simulations.

    ranks: the processes that share it; each must make every call of this class, and gets the same numbers. sharding:
    none, each process holds all weights; full, its part of them (llm.distributed.sharded); update, its part, but all
    of them while it samples."""

    def __init__(
        self,
        experiment: Experiment,
        index: int = 0,
        device: torch.device | str = "cpu",
        ranks: Ranks | None = None,
        sharding: Sharding = "none",
    ) -> None:
        assert isinstance(experiment.policy, LanguageModelSpec) and isinstance(experiment.environment, Task)
        self.experiment, self.device = experiment, torch.device(device)
        check_sampler(experiment, self.device, sharding)
        spec, task, algorithm = experiment.policy, experiment.environment, experiment.algorithm
        ranks = ranks or Ranks()
        check_sharding(sharding, ranks.count)
        self.noise = single_noise(experiment.seed, index)
        self.tokenizer = load_tokenizer(spec)
        # Of a sharded model the first process reads the weights, on the CPU, and the others get their parts from it.
        loaded_on = self.device if sharding == "none" else torch.device("cpu" if ranks.first else "meta")
        self.policy: CausalLMPolicy = build_policy(
            spec, self.tokenizer, algorithm.needs_critic, experiment.dtype, loaded_on
        )
        self.sharded: Any = None
        policy, learner = self._spread(ranks, sharding)

        def environment(split: str | None) -> TextEnvironment:
            return TextEnvironment(
                task,
                self.tokenizer,
                self.device,
                experiment.dtype,
                experiment.schedule.num_generations,
                algorithm.label_pairing,
                split,
                self.policy.eos_token_ids,
            )

        self.environment = environment(task.data_split)
        split = task.evaluation_split or ("held_out" if task.data == LANGUAGE else task.data_split)
        self.evaluation_environment = self.environment if split == self.environment.split else environment(split)
        self.training = Training(
            policy, self.environment, algorithm, experiment.schedule, learner, self.noise, experiment.labelling
        )

    def _spread(self, ranks: Ranks, sharding: Sharding) -> tuple[Any, Learner]:
        """The policy that the training loop uses, and its learner, for one process or several."""
        optimiser, size = self.experiment.optimiser, self.experiment.policy.micro_batch_size  # type: ignore[attr-defined]
        if ranks.count == 1:
            return self.policy, Learner(self.policy, optimiser, (), size)
        if sharding == "none":
            return SpreadPolicy(self.policy, ranks), DistributedLearner(self.policy, optimiser, ranks, size)
        from llm.distributed.sharded import ShardedLearner, ShardedPolicy

        self.policy = self.sharded = ShardedPolicy(self.policy, ranks, self.device, sharding == "update")
        return SpreadPolicy(self.sharded, ranks), ShardedLearner(self.sharded, optimiser, ranks, size)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """`Training.state_dict` with full tensors, sharded or not; each process must call it, and the first gets
        them."""
        tensors, numbers = self.training.state_dict()
        return (tensors if self.sharded is None else self.sharded.full_state(tensors)), numbers

    def load_state_dict(self, tensors: dict[str, Tensor], numbers: dict[str, int]) -> None:
        """Continue from the `state_dict` of a run of the same spec on any number of processes, sharded or not."""
        own = tensors if self.sharded is None else self.sharded.part_of_state(tensors)
        self.training.load_state_dict({name: x.to(self.device) for name, x in own.items()}, numbers)

    def model_weights(self) -> dict[str, Tensor] | None:
        """Weights to save: None for those that the model holds; of a sharded model all of them, on the first process.
        Each process must call it."""
        return None if self.sharded is None else self.sharded.model_weights()

    def train(self) -> Iterator[Update]:
        """Train to the end. Raises RunError, naming the update, for a loss that is not finite, or lack of memory.

        An update whose loss or gradient is not finite has changed no weight.
        """
        updates = self.training.train(self.experiment.updates)
        while True:
            coming = self.training.updates + 1
            self._set_learning_rate()
            try:
                update = next(updates, None)
            except FloatingPointError as error:
                raise RunError(f"update {coming}: {error}") from error
            except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                ways = "lower micro_batch_size, sample_batch_size or logits_at_a_time, or set gradient_checkpointing"
                raise RunError(f"update {coming}: out of memory: {ways} ({str(error).splitlines()[0]})") from error
            if update is None:
                return
            if not bool(update.stats.alive):
                found = f"loss = {float(update.stats.loss):g}, gradient norm = {float(update.stats.grad_norm):g}"
                raise RunError(f"update {update.number}: {found}: must be finite; lower learning_rate")
            yield update

    def _set_learning_rate(self) -> None:
        """Set the learning rate of the next update, under a `ScheduledOptimiser`."""
        spec, optimiser = self.experiment.optimiser, self.training.learner.optimiser
        if isinstance(spec, ScheduledOptimiser):
            rate = spec.learning_rate * spec.factor(self.training.updates, self.experiment.updates)
            # A tensor: a spec refuses a rate of 0, which is where a warm-up begins.
            optimiser.spec = spec.replace(learning_rate=self.training.learner.parameters[0].new_tensor(rate))

    def evaluate(self) -> Evaluation:
        """The policy as it is now, against the reference, on the same prompts and uniforms every time.

        Raises RunError for a policy whose logits are not finite.
        """
        task: Task = self.experiment.environment  # type: ignore[assignment]
        given = self.evaluation_environment.state_dict()
        self.evaluation_environment.load_state_dict(dict.fromkeys(given, 0))
        try:
            return evaluate(
                self.training.policy,
                self.training.reference.policy,
                self.evaluation_environment,
                task.evaluation_prompts,
                self.noise.runs[0],
            )
        except FloatingPointError as error:
            raise RunError(f"update {self.training.updates}: evaluation: {error}") from error
        finally:
            self.evaluation_environment.load_state_dict(given)


def single_noise(seed: int, run: int) -> Noise:
    """The noise of run `run` of a seed, without an axis of runs."""
    noise = Noise([(seed, run)])
    noise.lead = ()
    return noise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is lack of memory, of the device or of the machine."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@torch.no_grad()
def evaluate(
    policy: Policy,
    reference: Policy,
    environment: TextEnvironment,
    prompts: int,
    run: tuple[int, int] = (0, 0),
) -> Evaluation:
    """Draw one response to each of the next prompts and reward it. run: (seed, index), whose noise is used."""
    noise = single_noise(*run)
    drawn = environment.prompts(prompts, noise)
    samples = policy.sample(SampleRequest(drawn, 1, noise, "evaluation responses"))
    rewards, gold = environment.score(drawn.examples, samples.responses, samples.mask)
    batch = Batch(drawn.tokens, samples.responses, samples.mask, drawn.mask)
    scored, logp_ref = policy.forward(batch, OutputRequest(entropy=True)), reference.forward(batch).logp
    assert scored.entropy is not None
    lengths = response_lengths(samples.responses, samples.mask, environment.eos_token_ids)
    numbers = {
        "reward": rewards,
        "gold": gold,
        "length": lengths.double(),
        "finished": (lengths < samples.mask.sum(-1)).double(),
        "kl_policy_ref": sequence_sum(scored.logp - logp_ref, samples.mask),
        "entropy": scored.entropy[samples.mask],
    }
    completions = environment.completions(drawn.examples, samples.responses, samples.mask)
    for name, values in environment.task.measure(completions).items():
        numbers[name] = torch.tensor(values, dtype=torch.float64)
    return Evaluation(
        numbers={name: float(x.double().mean()) for name, x in numbers.items()},
        prompts=[prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) for prompt in completions.prompts],
        completions=list(completions.texts),
        rewards=rewards.flatten().tolist(),
        golds=gold.flatten().tolist(),
        lengths=lengths.flatten().tolist(),
    )


def execute(experiments: Sequence[Experiment], progress: Callable[[int], None] = lambda updates: None) -> list[Arrays]:
    """Run experiments one after another, and the runs of each likewise: the arrays of each one's record.

    Over (runs, points): the numbers of `Evaluation`, on fresh samples; loss, grad_norm of the update before the point
    (NaN at the start); for algorithms on pairs, mean over pairs: logp_chosen, logp_rejected of the batch after that
    update (NaN at the start), and first_logp_chosen, first_logp_rejected of the pairs of the first batch, the same at
    all points. Over points: updates, samples, staleness. Over runs: diverged_at (−1: never; what follows is NaN),
    reference_reward (the gold reward at the start) and best_reward (`Task.best_reward`). progress is told how many
    updates are done of a run, mean over all runs.
    """
    total, done, found = sum(e.runs for e in experiments), 0, []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # results keep their bits at one thread
    try:
        for experiment in experiments:
            rows = []
            for index in range(experiment.runs):

                def advance(updates: int, before: int = done, most: int = experiment.updates) -> None:
                    progress((before * most + updates) // total)

                rows.append(_run_one(experiment, index, advance))
                done += 1
            shared = {name: rows[0][name] for name in ("updates", "samples", "staleness")}
            stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name not in shared}
            found.append(stacked | shared)
    finally:
        torch.set_num_threads(threads)
    return found


def device_for(experiment: Experiment) -> str:
    """cuda where there is a GPU, but cpu for embedded models: they are fastest there, and reproducible bit for bit."""
    spec: LanguageModelSpec = experiment.policy  # type: ignore[assignment]
    return "cuda" if torch.cuda.is_available() and spec.model not in EMBEDDED else "cpu"


def _run_one(experiment: Experiment, index: int, progress: Callable[[int], None]) -> Arrays:
    run, points = Run(experiment, index, device_for(experiment)), experiment.evaluated_at
    rows: list[dict[str, float]] = [run.evaluate().numbers | {"loss": np.nan, "grad_norm": np.nan}]
    compared = experiment.algorithm.label_pairing is not None
    if compared:
        rows[0] |= dict.fromkeys(("logp_chosen", "logp_rejected", "first_logp_chosen", "first_logp_rejected"), np.nan)
    first: Batch | None = None
    counts, died = [(0, 0, 0)], -1
    try:
        for update in run.train():
            if compared and first is None:
                first = update.batch
                # An algorithm without a reference never renews it.
                given = first.logp_ref
                rows[0] |= _of_pairs(run.training.reference.score(first) if given is None else given, first, "first_")
            if update.number == points[len(rows)]:
                row = run.evaluate().numbers | {
                    "loss": float(update.stats.loss),
                    "grad_norm": float(update.stats.grad_norm),
                }
                if first is not None:
                    row |= _of_pairs(log_probs(run.policy, update.batch), update.batch)
                    row |= _of_pairs(log_probs(run.policy, first), first, "first_")
                rows.append(row)
                counts.append((update.number, update.samples, update.staleness))
                progress(update.number)
    except RunError as error:
        if isinstance(error.__cause__, (MemoryError, RuntimeError)):
            raise
        died = run.training.updates
    samples_per_update = experiment.schedule.samples_per_batch / experiment.schedule.updates_per_batch
    for point in points[len(rows) :]:
        rows.append(dict.fromkeys(rows[0], np.nan))
        counts.append((point, int(point * samples_per_update), counts[-1][2]))
    updates, samples, staleness = np.array(counts).T
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return arrays | {
        "updates": updates,
        "samples": samples,
        "staleness": staleness,
        "diverged_at": np.array(died),
        "reference_reward": np.array(rows[0]["gold"]),
        "best_reward": np.array(experiment.environment.best_reward()),  # type: ignore[attr-defined]
    }


def _of_pairs(logp: Tensor, batch: Batch, prefix: str = "") -> dict[str, float]:
    chosen, rejected = pair_log_probs(logp, batch)
    return {f"{prefix}logp_chosen": float(chosen.mean()), f"{prefix}logp_rejected": float(rejected.mean())}


@torch.no_grad()
def log_probs(policy: Policy, batch: Batch) -> Tensor:
    """log π of the tokens of a batch's responses: (B, K, L)."""
    return policy.forward(batch).logp


def pair_log_probs(logp: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """log π of the chosen and of the rejected response of each pair of a batch: (B, Q) each. logp: (B, K, L)."""
    first, second = pick(sequence_sum(logp, batch.mask), batch.need("pairs"))
    return by_label(first, second, batch.need("pair_label"))


def by_label(first: Tensor, second: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The values of the chosen and of the rejected response of each pair; the first is chosen where label ≥ ½."""
    won = label >= 0.5
    return torch.where(won, first, second), torch.where(won, second, first)
