"""An experiment from the command line: a preset, and any of its fields changed."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import TypeVar, get_args

import torch

from llm.models.sampling import Decoding
from llm.models.scoring import Scoring
from llm.models.spec import LanguageModelSpec
from llm.models.vllm_sampler import VLLMDecoding
from llm.tasks import Task
from llm.training.learning_rate import ScheduledOptimiser
from llm.training.presets import PRESETS
from sims.core.algorithms import Algorithm, find_algorithm
from sims.core.loop.labelling import Labelling
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.core.spec import Spec, SpecError, find_kind, kinds_of
from sims.experiments.experiment import Experiment
from sims.experiments.options import OptionParser, add_options, given

S = TypeVar("S", bound=Spec)
_PARTS = ("environment", "policy", "algorithm", "schedule", "optimiser", "labelling")
_NESTED = ("decoding", "scoring")


def parse(parser: OptionParser, arguments: Sequence[str], preset: str) -> tuple[Experiment, argparse.Namespace]:
    """The experiment that the options describe, beside the options that `parser` has of its own.

    preset: the default one. The first pass finds the choices, the second their own options. Raises SpecError.
    """
    first = _choices(OptionParser("python -m llm", add_help=False), preset).parse_known_args(list(arguments))[0]
    base = find_preset(first.preset)
    task: type[Task] = type(base.environment)  # type: ignore[assignment]
    if first.task is not None:
        task = find_kind(first.task.replace("-", "_"), Task, "task")
    algorithm = type(base.algorithm)
    if first.algorithm is not None:
        algorithm = find_algorithm(first.algorithm.replace("-", "_"))
    _choices(parser, preset)
    parts: list[tuple[type[Spec], str, tuple[str, ...]]] = [
        (task, f"task {task.kind}", ()),
        (LanguageModelSpec, "model", _NESTED),
        (VLLMDecoding, "decoding", ()),
        (Scoring, "scoring", ("precision",)),
        (algorithm, f"algorithm {algorithm.kind}", ()),
        (Schedule, "schedule", ()),
        (ScheduledOptimiser, "optimiser", ()),
        (Labelling, "labelling", ()),
        (Experiment, "experiment", _PARTS),
    ]
    for cls, title, skip in parts:
        add_options(parser, cls, f"{title} (defaults are those without a preset)", skip)
    # A run and its log-probs both have a precision.
    parser.add_argument(
        "--compute-precision",
        choices=get_args(Scoring.hints()["precision"]),
        help="of sampling and scoring: that of the weights, or bfloat16 under autocast",
    )
    parser.add_argument(
        "--use-vllm", action=argparse.BooleanOptionalAction, help="draw with vLLM, beside the trainer on its GPU"
    )
    options = parser.parse_strictly(arguments)
    computed = {} if options.compute_precision is None else {"precision": options.compute_precision}
    policy: LanguageModelSpec = base.policy  # type: ignore[assignment]
    changed = base.algorithm if algorithm is type(base.algorithm) else algorithm()
    name = base.name if algorithm is type(base.algorithm) else f"{base.name}-{algorithm.kind}"
    experiment = base.replace(
        **{"name": name, "environment": _task(base.environment, task, options)},
        policy=policy.replace(
            **given(options, LanguageModelSpec, _NESTED),
            decoding=_decoding(policy.decoding, options),
            scoring=policy.scoring.replace(**given(options, Scoring, ("precision",)), **computed),
        ),
        algorithm=_changed(changed, options),
        schedule=_changed(base.schedule, options),
        optimiser=_optimiser(base.optimiser, options),
        labelling=_changed(base.labelling, options),
        **_lengths(base, options),
    )
    return experiment, options


def find_preset(name: str) -> Experiment:
    """A preset by its name; SpecError names the nearest.

    >>> llm.find_preset("tiny-min-length").environment.kind
    'min_length'
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SpecError("preset", name, f"must be one of {', '.join(PRESETS)}{hint}")
    return PRESETS[name]


def _choices(parser: OptionParser, preset: str) -> OptionParser:
    group = parser.add_argument_group("choices; each brings options of its own, which --help then shows")
    group.add_argument("--preset", default=preset, metavar="NAME", help=f"{', '.join(PRESETS)} (default {preset})")
    for name, base in (("task", Task), ("algorithm", Algorithm)):
        listed = ", ".join(kind.replace("_", "-") for kind in kinds_of(base))
        group.add_argument(f"--{name}", metavar="NAME", help=f"{listed} (default: the preset's)")
    return parser


def _changed(spec: S, options: argparse.Namespace) -> S:
    return spec.replace(**given(options, type(spec)))


def _decoding(base: Decoding, options: argparse.Namespace) -> Decoding:
    """The preset's decoding changed, drawn by vLLM or not; a spec says which by its kind."""
    uses_vllm = isinstance(base, VLLMDecoding) if options.use_vllm is None else options.use_vllm
    cls, changed = VLLMDecoding if uses_vllm else Decoding, given(options, VLLMDecoding)
    for name, value in changed.items():
        if name not in cls.names():
            raise SpecError(name, value, "only means something with use_vllm")
    kept = {name: getattr(base, name) for name in base.names() if name in cls.names()}
    return cls(**kept | changed)


def _optimiser(base: Optimiser, options: argparse.Namespace) -> Optimiser:
    """The preset's optimiser changed; a plain one while its rate is constant, so that such a spec is what it was."""
    changed = {name: getattr(base, name) for name in base.names()} | given(options, ScheduledOptimiser)
    found = ScheduledOptimiser(**changed)
    if found.lr_scheduler_type != "constant":
        return found
    return Optimiser(**{name: getattr(found, name) for name in Optimiser.names()})


def _task(base: Spec, cls: type[Task], options: argparse.Namespace) -> Task:
    """The preset's task changed; another task takes over what all tasks have: data and labels."""
    kept = base.names() if cls is type(base) else Task.names()
    return cls(**{name: getattr(base, name) for name in kept} | given(options, cls))


def _lengths(base: Experiment, options: argparse.Namespace) -> dict[str, object]:
    """The experiment's own fields; fewer updates than the preset evaluates at mean fewer evaluations."""
    found = given(options, Experiment, _PARTS)
    updates = found.get("updates", base.updates)
    if "evaluations" not in found and base.evaluations > updates:
        found["evaluations"] = updates
    return found


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: a GPU where there is one"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="INT", help="of the CPU; 1 is fastest for tiny models (default 1)"
    )


def device_of(options: argparse.Namespace) -> str:
    """The device that the options of `add_device` come to here; SpecError for a GPU where there is none."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SpecError("device", "cuda", "there is no GPU here: must be cpu or auto")
    return "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
