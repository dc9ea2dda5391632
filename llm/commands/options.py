"""An experiment from the command line: a preset, and any of its fields changed."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import torch

from llm.models.decoding import Decoding, VLLMDecoding
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from llm.tasks import RewardFunction, Task
from llm.training.learning_rate import ScheduledOptimiser
from llm.training.presets import PRESETS
from sims.core.algorithms import Algorithm, find_algorithm
from sims.core.algorithms.mixture import Mixture
from sims.core.loop.labelling import Labelling
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.core.spec import Spec, SpecError, find_kind, kinds_of, nearest, to_json
from sims.experiments.experiment import PARTS, Experiment
from sims.experiments.options import OptionParser, add_options, given, kind_name, show, whole

S = TypeVar("S", bound=Spec)
_NESTED = ("decoding", "scoring")
MOST_THREADS = 1024


def parse(
    parser: OptionParser, arguments: Sequence[str], preset: str, stored: Experiment | None = None
) -> tuple[Experiment, argparse.Namespace]:
    """The experiment that the options describe, and all options, those that `parser` has already among them.

    preset: the default one; stored: what to start from instead of a preset, if any. A first pass finds preset, task and
    algorithm; a second pass parses the options that these have. Raises SpecError.
    """
    chooser = _choices(OptionParser("python -m llm", parser.reads_config, add_help=False), preset)
    chooser.add_argument("--reward-funcs")
    first = chooser.parse_known_args(list(arguments))[0]
    if first.reward_funcs is not None and first.task is None:  # as in TRL, where they are all that a reward is
        first.task = RewardFunction.kind
    base = find_preset(first.preset) if stored is None else stored
    task: type[Task] = type(base.environment)  # type: ignore[assignment]
    if first.task is not None:
        task = find_kind(kind_name(first.task), Task, "task")
    algorithm = type(base.algorithm)
    if first.algorithm is not None:
        algorithm = find_algorithm(kind_name(first.algorithm))
    _choices(parser, preset)
    policy: LanguageModelSpec = base.policy  # type: ignore[assignment]
    changed = base.algorithm if algorithm is type(base.algorithm) else algorithm()
    name = base.name if task is type(base.environment) else task.kind.replace("_", "-")  # a preset's has its task's
    if algorithm is not type(base.algorithm) or task is not type(base.environment):
        name = f"{name}-{algorithm.kind}"
    parts: list[tuple[type[Spec], str, tuple[str, ...], dict[str, Any]]] = [
        (task, f"task {task.kind}", (), _kept(base.environment, task)),
        (LanguageModelSpec, "model", _NESTED, _values(policy)),
        (VLLMDecoding, "decoding", (), _values(policy.decoding)),
        (Scoring, "scoring", ("precision",), _values(policy.scoring)),
        (algorithm, f"algorithm {algorithm.kind}", (), _values(changed)),
        (Schedule, "schedule", (), _values(base.schedule)),
        (ScheduledOptimiser, "optimiser", (), _values(base.optimiser)),
        (Labelling, "labelling", (), _values(base.labelling)),
        (Experiment, "experiment", tuple(PARTS), _values(base) | {"name": name}),
    ]
    for cls, title, skip, defaults in parts:
        whose = (
            "its own defaults"
            if cls is algorithm is not type(base.algorithm)
            else "defaults of the run"
            if stored
            else f"defaults of {first.preset}"
        )
        add_options(parser, cls, f"{title} ({whose})", skip, defaults)
    _add_computation(parser, policy)
    options = parser.parse_strictly(arguments)
    computed = {} if options.compute_precision is None else {"precision": options.compute_precision}
    experiment = base.replace(
        **{"name": name, **_own(base, options)},
        environment=_task(base.environment, task, options),
        policy=policy.replace(
            **given(options, LanguageModelSpec, _NESTED),
            decoding=_decoding(policy.decoding, options),
            scoring=policy.scoring.replace(**given(options, Scoring, ("precision",)), **computed),
        ),
        algorithm=_changed(changed, options),
        schedule=_changed(base.schedule, options),
        optimiser=_optimiser(base.optimiser, options),
        labelling=_changed(base.labelling, options),
    )
    return experiment, options


def as_options(experiment: Experiment) -> dict[str, Any]:
    """Every option that `parse` makes this experiment of, by name: all settings, so that no default matters."""
    spec: LanguageModelSpec = experiment.policy  # type: ignore[assignment]
    found: dict[str, Any] = {
        "task": experiment.environment.kind.replace("_", "-"),
        "algorithm": experiment.algorithm.kind.replace("_", "-"),
        "use_vllm": isinstance(spec.decoding, VLLMDecoding),
        "compute_precision": spec.scoring.precision,
    }
    parts = (experiment.environment, spec, spec.decoding, spec.scoring, experiment.algorithm, experiment.schedule)
    for part in (*parts, experiment.optimiser, experiment.labelling, experiment):
        skipped = {*PARTS, *_NESTED} | ({"precision"} if part is spec.scoring else set())
        offered = {f.name for f in dataclasses.fields(part) if f.metadata.get("help") is not None} - skipped
        found |= {name: value for name, value in to_json(part).items() if name in offered}
    if isinstance(experiment.algorithm, Mixture):
        found["losses"] = [show(loss) for loss in experiment.algorithm.losses]
    return found


def find_preset(name: str) -> Experiment:
    """A preset by its name. SpecError for an unknown name suggests the nearest.

    >>> llm.find_preset("tiny-min-length").environment.kind
    'min_length'
    """
    if name not in PRESETS:
        raise SpecError("preset", name, f"must be one of {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return PRESETS[name]


def _choices(parser: OptionParser, preset: str) -> OptionParser:
    group = parser.add_argument_group("choices; each has options of its own: --help after a choice lists them")
    group.add_argument(
        "--preset",
        default=preset,
        metavar="NAME",
        help=f"experiment to start from: {', '.join(PRESETS)} (default {preset})",
    )
    for name, base in (("task", Task), ("algorithm", Algorithm)):
        listed = ", ".join(kind.replace("_", "-") for kind in kinds_of(base))
        group.add_argument(f"--{name}", metavar="NAME", help=f"{listed} (default: the preset's)")
    return parser


def _add_computation(parser: OptionParser, policy: LanguageModelSpec) -> None:
    """Options whose names are not those of one field. `precision` alone is the experiment's."""
    group = parser.add_argument_group("computation")
    group.add_argument(
        "--compute-precision",
        choices=get_args(Scoring.hints()["precision"]),
        help="precision of sampling and scoring: stored (that of the weights), or bfloat16 (autocast) "
        f"(default {policy.scoring.precision})",
    )
    group.add_argument(
        "--use-vllm",
        action=argparse.BooleanOptionalAction,
        help="sample responses with vLLM, in the training process and on its GPU",
    )


def _values(spec: Spec) -> dict[str, Any]:
    """A spec's fields by name."""
    return {name: getattr(spec, name) for name in spec.names()}


def _kept(base: Spec, cls: type[Task]) -> dict[str, Any]:
    """The settings of the preset's task that a task of class `cls` keeps: all, or those that every task has."""
    return {name: getattr(base, name) for name in (base.names() if cls is type(base) else Task.names())}


def _changed(spec: S, options: argparse.Namespace) -> S:
    return spec.replace(**given(options, type(spec)))


def _decoding(base: Decoding, options: argparse.Namespace) -> Decoding:
    """The preset's decoding with changes: a `VLLMDecoding` where vLLM samples."""
    uses_vllm = isinstance(base, VLLMDecoding) if options.use_vllm is None else options.use_vllm
    cls, changed = VLLMDecoding if uses_vllm else Decoding, given(options, VLLMDecoding)
    for name, value in changed.items():
        if name not in cls.names():
            raise SpecError(name, value, "only means something with use_vllm")
    kept = {name: getattr(base, name) for name in base.names() if name in cls.names()}
    return cls(**kept | changed)


def _optimiser(base: Optimiser, options: argparse.Namespace) -> Optimiser:
    """The preset's optimiser with changes; a plain `Optimiser` for a constant rate, so that the spec's hash stays."""
    changed = {name: getattr(base, name) for name in base.names()} | given(options, ScheduledOptimiser)
    found = ScheduledOptimiser(**changed)
    if found.lr_scheduler_type != "constant":
        return found
    return Optimiser(**{name: getattr(found, name) for name in Optimiser.names()})


def _task(base: Spec, cls: type[Task], options: argparse.Namespace) -> Task:
    """The preset's task with changes; another task keeps the settings that all tasks have: data and labels."""
    return cls(**_kept(base, cls) | given(options, cls))


def _own(base: Experiment, options: argparse.Namespace) -> dict[str, object]:
    """The experiment's own fields. With fewer updates than the preset has evaluations, every update is evaluated."""
    found = given(options, Experiment, tuple(PARTS))
    updates = found.get("updates", base.updates)
    if "evaluations" not in found and base.evaluations > updates:
        found["evaluations"] = updates
    return found


def add_device(parser: argparse.ArgumentParser) -> None:
    """Options for the device and the threads of the CPU."""
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where to compute; auto: on a GPU if there is one (default auto)",
    )
    parser.add_argument(
        "--threads", type=whole, default=1, metavar="INT", help="CPU threads; 1 is fastest for tiny models (default 1)"
    )


def check_threads(threads: int) -> None:
    """SpecError for a number that no machine has: torch would be told to start so many, or could not read it."""
    if not 1 <= threads <= MOST_THREADS:
        raise SpecError("threads", threads, f"must be int from 1 to {MOST_THREADS:,}")


def device_of(options: argparse.Namespace) -> str:
    """The device that the options name on this machine. SpecError for cuda where there is no GPU."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SpecError("device", "cuda", "there is no GPU here: must be cpu or auto")
    return "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
