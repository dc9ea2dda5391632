"""A run of a language model: built from its spec, trained by the loop of `sims.core`, evaluated on fresh samples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.data.rows import to_stderr
from llm.data.whole import repeated
from llm.distributed.spread import DistributedLearner, Ranks, Sharding, SpreadPolicy, check_sharding
from llm.embedded import EMBEDDED
from llm.models.aside import Aside
from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.spec import LanguageModelSpec
from llm.models.steps import check_static
from llm.models.vllm_sampler import check_sampler
from llm.tasks import Task
from llm.tasks.environment import TextEnvironment
from sims.core.loop.learner import Learner
from sims.core.loop.train import Training, Update, uses_reference
from sims.experiments.evaluation import PairEvaluation
from sims.experiments.executor import one_thread
from sims.experiments.experiment import Experiment
from sims.experiments.record_loop import Arrays, Diverged, Hooks, Recorder

from .evaluation import EvaluatedSamples, FirstPairEvaluation, SampleEvaluation, as_evaluated, evaluate, single_noise
from .learning_rate import ScheduledOptimiser


class RunError(RuntimeError):
    """A run that cannot continue; the message names the update and the reason."""


class RunDiverged(RunError, Diverged):
    """A run whose loss, gradient or logits are not finite."""


class Run:
    """Run `index` of an experiment, in progress. Its noise is the stream (seed, index), as in the simulations.

    ranks: the processes that share it; each must make every call of this class, and gets the same numbers. sharding:
    none, each process holds all weights; full, its part of them (llm.distributed.sharded); update, its part, but all
    of them while it samples. told: whether it says what became of rows."""

    def __init__(
        self,
        experiment: Experiment,
        index: int = 0,
        device: torch.device | str = "cpu",
        ranks: Ranks | None = None,
        sharding: Sharding = "none",
        told: bool = True,
    ) -> None:
        assert isinstance(experiment.policy, LanguageModelSpec) and isinstance(experiment.environment, Task)
        self.experiment, self.device = experiment, torch.device(device)
        check_sampler(experiment, self.device, sharding)
        spec, algorithm = experiment.policy, experiment.algorithm
        task = experiment.environment.of_run(index)  # type: ignore[attr-defined]
        self.ranks = ranks = ranks or Ranks()
        check_sharding(sharding, ranks.count, spec)
        self.noise = single_noise(experiment.seed, index)
        self.tokenizer = load_tokenizer(spec)
        # Of a sharded model the first process reads the weights, on the CPU, and the others get their parts from it.
        loaded_on = self.device if sharding == "none" else torch.device("cpu" if ranks.first else "meta")
        self.policy: CausalLMPolicy = build_policy(
            spec, self.tokenizer, algorithm.needs_critic, experiment.dtype, loaded_on
        )
        self.policy.copies_are_averaged = experiment.schedule.reference == "ema"
        self.sharded: Any = None
        policy, learner = self._spread(ranks, sharding)

        def environment(split: str | None, told: bool) -> TextEnvironment:
            return TextEnvironment(
                task,
                self.tokenizer,
                self.device,
                experiment.dtype,
                experiment.schedule.num_generations,
                algorithm.label_pairing,
                split,
                self.policy.eos_token_ids,
                self.policy.decoding.stop_strings,
                self.policy.decoding.max_new_tokens,
                algorithm.needs_rewards,
                to_stderr if told and ranks.first else _untold,
            )

        self.environment = environment(task.data_split, told)
        split = task.split_for_evaluation
        self.evaluation_environment = self.environment
        if split != self.environment.split:  # a share of the same rows, or a split of its own
            self.evaluation_environment = environment(split, told and not task.held_out_share)
        self._check_data(ranks)
        self.training = Training(
            policy,
            self.environment,
            algorithm,
            experiment.schedule,
            learner,
            self.noise,
            experiment.labelling,
            self._reference(policy),
        )
        # What evaluations compare with: the policy before the first update.
        self.initial = self.training.reference.policy if experiment.schedule.reference == "fixed" else policy.clone()

    def _reference(self, policy: Any) -> Any:
        """The reference where training does not ask it and evaluations alone do: a copy beside the device. None where
        it does, and for a sharded policy, whose copies are small."""
        experiment = self.experiment
        if uses_reference(experiment.algorithm, experiment.schedule, experiment.labelling) or self.sharded is not None:
            return None
        aside = Aside(self.policy)
        return aside if self.ranks.alone else SpreadPolicy(aside, self.ranks)

    def _check_data(self, ranks: Ranks) -> None:
        """Refuse rows that do not fit the model; say how many evaluation prompts are trained on."""
        trained, held_out = self.environment, self.evaluation_environment
        positions = self.policy.language_model.positions
        for each in {id(trained): trained, id(held_out): held_out}.values():
            each.check_lengths(positions, self.policy.decoding.max_new_tokens)
            if self.policy.decoding.cache_implementation == "static" and self.sharded is None:
                longest = max(len(example.prompt_ids) for example in each.examples)
                check_static(self.policy.language_model, longest + self.policy.decoding.max_new_tokens)
        shared = repeated(held_out.examples, trained.examples) if held_out is not trained else 0
        if shared and ranks.first:
            print(f"{shared} of {len(held_out.examples)} evaluation prompts are trained on", file=sys.stderr)

    def _spread(self, ranks: Ranks, sharding: Sharding) -> tuple[Any, Learner]:
        """The policy that the training loop uses, and its learner, for one process or several."""
        spec: LanguageModelSpec = self.experiment.policy  # type: ignore[assignment]
        optimiser, together = self.experiment.optimiser, (spec.micro_batch_size, spec.scoring.group_by_length)
        if ranks.alone:
            return self.policy, Learner(self.policy, optimiser, (), *together)
        if sharding == "none":
            return SpreadPolicy(self.policy, ranks), DistributedLearner(self.policy, optimiser, ranks, *together)
        from llm.distributed.sharded import ShardedLearner, ShardedPolicy

        self.policy = self.sharded = ShardedPolicy(self.policy, ranks, self.device, sharding == "update")
        return SpreadPolicy(self.sharded, ranks), ShardedLearner(self.sharded, optimiser, ranks, *together)

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
        """Train to the end. Raises, naming the update, RunDiverged for a loss that is not finite, and RunError for lack
        of memory.

        An update whose loss or gradient is not finite has changed no weight.
        """
        updates = self.training.train(self.experiment.updates)
        while True:
            coming = self.training.updates + 1
            self._set_learning_rate()
            try:
                update = next(updates, None)
            except FloatingPointError as error:
                raise RunDiverged(f"update {coming}: {error}") from error
            except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                ways = "lower micro_batch_size, sample_batch_size or logits_at_a_time, or set gradient_checkpointing"
                raise RunError(f"update {coming}: out of memory: {ways} ({str(error).splitlines()[0]})") from error
            if update is None:
                return
            if not bool(update.stats.alive):
                found = f"loss = {float(update.stats.loss):g}, gradient norm = {float(update.stats.grad_norm):g}"
                raise RunDiverged(f"update {update.number}: {found}: must be finite; lower learning_rate")
            yield update

    def _set_learning_rate(self) -> None:
        """Set the learning rate of the next update, under a `ScheduledOptimiser`."""
        spec, optimiser = self.experiment.optimiser, self.training.learner.optimiser
        if isinstance(spec, ScheduledOptimiser):
            rate = spec.learning_rate * spec.factor(self.training.updates, self.experiment.updates)
            # A tensor: a spec refuses a rate of 0, which is where a warm-up begins.
            optimiser.spec = spec.replace(learning_rate=self.training.learner.parameters[0].new_tensor(rate))

    def evaluate(self) -> EvaluatedSamples:
        """The policy as it is now, against the initial one, on the same prompts and uniforms every time.

        Raises RunDiverged for a policy whose logits are not finite.
        """
        task: Task = self.experiment.environment  # type: ignore[assignment]
        given = self.evaluation_environment.state_dict()
        self.evaluation_environment.load_state_dict(dict.fromkeys(given, 0))
        try:
            with as_evaluated(self.training.policy, self.initial):
                return evaluate(
                    self.training.policy,
                    self.initial,
                    self.evaluation_environment,
                    task.evaluation_prompts,
                    self.noise.runs[0],
                )
        except FloatingPointError as error:
            raise RunDiverged(f"update {self.training.updates}: evaluation: {error}") from error
        finally:
            self.evaluation_environment.load_state_dict(given)

    def sample_evaluation(self) -> SampleEvaluation:
        """`evaluate`, as a part of the recording loop."""
        task: Task = self.experiment.environment  # type: ignore[assignment]
        bounds = task.bounds_of_parts(self.policy.decoding.max_new_tokens)
        return SampleEvaluation(self.evaluate, {"best_reward": task.best_reward(), **bounds})


def _untold(line: str) -> None:
    """Tell nobody: another has said it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is lack of memory, of the device or of the machine."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def execute(experiments: Sequence[Experiment], progress: Callable[[int], None] = lambda updates: None) -> list[Arrays]:
    """Run experiments one after another, and the runs of each likewise: the arrays of each one's record, those of
    `Recorder.arrays` in float64, with the measurements of `llm.training.evaluation`.

    A run that diverges is NaN from then on, and the next goes on. progress is told how many updates are done of a run,
    mean over all runs.
    """
    total, done, found = sum(e.runs for e in experiments), 0, []
    with one_thread():
        for experiment in experiments:
            runs = []
            for index in range(experiment.runs):

                def advance(updates: int, before: int = done, most: int = experiment.updates) -> None:
                    progress((before * most + updates) // total)

                runs.append(_run_one(experiment, index, advance))
                done += 1
            shared = {name: runs[0][name] for name in ("updates", "samples", "staleness")}
            found.append({name: np.stack([run[name] for run in runs]) for name in runs[0] if name not in shared})
            found[-1] |= shared
    return found


def device_for(experiment: Experiment) -> str:
    """cuda where there is a GPU, but cpu for embedded models: they are fastest there, and reproducible bit for bit."""
    spec: LanguageModelSpec = experiment.policy  # type: ignore[assignment]
    return "cuda" if torch.cuda.is_available() and spec.model not in EMBEDDED else "cpu"


def _run_one(experiment: Experiment, index: int, progress: Callable[[int], None]) -> Arrays:
    run = Run(experiment, index, device_for(experiment))
    evaluations = [run.sample_evaluation(), PairEvaluation(run.training), FirstPairEvaluation(run.training)]
    recorder = Recorder(run.training, experiment, evaluations, Hooks(evaluated=progress))
    recorder.run(run.train())
    return {name: x.astype(np.float64) if x.dtype.kind == "f" else x for name, x in recorder.arrays().items()}
