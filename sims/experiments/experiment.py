"""An experiment: one arm of a comparison with R runs, as data. Its JSON identifies it, and names its record on disk."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from sims.core.algorithms import Algorithm
from sims.core.loop.deployment import Deployment
from sims.core.loop.labelling import Labelling
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
from sims.core.loop.train import check_run
from sims.core.schedule import Schedule
from sims.core.spec import NAME, Spec, SpecError, setting, to_json

from .computation import Computation

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Experiment(Spec, kind="experiment"):
    """All settings that determine a record's numbers.

    >>> experiment = sims.Experiment("mine", sims.BanditR1(), sims.Table(), sims.DPO(), updates=200, evaluations=4)
    >>> experiment.evaluated_at
    [0, 50, 100, 150, 200]
    >>> experiment.replace(algorithm=sims.DPO(beta=0.5)).algorithm.beta
    0.5
    """

    name: str = setting(help="name of the record on disk; letters, digits, _ and -")
    environment: EnvironmentSpec = setting(help="source of prompts and rewards")
    policy: PolicySpec = setting(help="policy that is trained")
    algorithm: Algorithm = setting(help="algorithm that trains it")
    schedule: Schedule = setting(Schedule(), "how responses are collected and reused")
    optimiser: Optimiser = setting(Optimiser(), "optimiser settings")
    labelling: Labelling = setting(Labelling(), "source of rewards and labels", omit_default=True)
    deployment: Deployment = setting(Deployment(), "what is labelled, and gates of what users get", omit_default=True)
    computation: Computation = setting(Computation(), "random generator and device", omit_default=True)
    updates: int = setting(1000, "number of updates; must be a multiple of the updates per batch", at_least=1)
    evaluations: int = setting(20, "number of evaluations, besides the one before training", at_least=1)
    runs: int = setting(20, "number of independent runs", at_least=1)
    seed: int = setting(0, "seed; run r of two experiments with the same seed has the same random numbers", at_least=0)
    precision: Literal["float32", "float64"] = setting("float32", "floating-point precision of parameters and losses")

    def check(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SpecError("name", self.name, "must be made of letters, digits, _ and -")
        for field in ("environment", "policy", "algorithm"):
            part = getattr(self, field)
            if not part.kind:
                name = type(part).__name__
                raise SpecError(
                    field, name, f'must have a kind, which names it in records: class {name}(..., kind="...")'
                )
        for part in (getattr(self, name) for name in self.names()):
            if isinstance(part, Spec):
                check_range(part, self.precision)
        if self.environment.text:
            for part, usual in ((self.computation, Computation()), (self.deployment, Deployment())):
                for name in part.names():
                    value, default = getattr(part, name), getattr(usual, name)
                    if value != default:
                        rule = f"must be {default} for language models, which have settings of their own"
                        raise SpecError(name, value, rule)
        check_run(self.algorithm, self.schedule, self.labelling, self.deployment)
        self.policy.check_environment(self.environment)
        self.environment.check_experiment(self.algorithm, self.schedule)
        self.schedule.check_updates(self.updates)
        if self.labelling.implicit_after_updates >= self.updates:
            rule = f"must be below updates = {self.updates}, for the policy to label at least one batch"
            raise SpecError("implicit_after_updates", self.labelling.implicit_after_updates, rule)
        if self.evaluations > self.updates:
            raise SpecError("evaluations", self.evaluations, f"must be at most updates = {self.updates}")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def evaluated_at(self) -> list[int]:
        """Updates at which the policy is evaluated: 0, then evenly spread up to the last."""
        return [self.updates * i // self.evaluations for i in range(self.evaluations + 1)]

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values, complete."""
        return to_json(self)  # type: ignore[no-any-return]


# The specs that an experiment is made of, and their base classes.
PARTS: dict[str, type[Spec]] = {
    name: kind for name, kind in Experiment.hints().items() if isinstance(kind, type) and issubclass(kind, Spec)
}


def check_range(spec: Spec, precision: str = "float32") -> None:
    """Refuse, with SpecError, a number that the precision of the computation cannot hold: it would be 0 or infinite."""
    limits: torch.finfo = torch.finfo(getattr(torch, precision))
    for name, value in _parts(spec):
        if isinstance(value, Spec):
            check_range(value, precision)
        elif isinstance(value, torch.Tensor):
            rule = "must be one number: experiments with one value each are trained together (`sims.run_experiments`)"
            raise SpecError(name, value.tolist(), rule)
        elif isinstance(value, float) and math.isfinite(value) and value:
            if abs(value) > limits.max:
                raise SpecError(name, value, f"must be at most {limits.max:.1e} in {precision}")
            if abs(value) < limits.smallest_normal:
                raise SpecError(name, value, f"must be 0, or at least {limits.smallest_normal:.1e} in {precision}")


def _parts(spec: Spec) -> Iterator[tuple[str, Any]]:
    """Fields by name; of a tuple, each part."""
    for name in spec.names():
        value = getattr(spec, name)
        for each in value if isinstance(value, tuple) else (value,):
            yield name, each


def stack_key(experiment: Experiment) -> str:
    """Experiments with equal keys can run as one stack: they differ only in name, seed, runs, per-run numbers, and
    settings that their environment's key leaves out.

    Whether a number is 0 is part of the key: a penalty of weight 0 is not computed.
    """
    changes: dict[str, Any] = {"environment": experiment.environment.stack_key()}
    for part in ("algorithm", "optimiser"):
        spec = getattr(experiment, part)
        numbers = {name: getattr(spec, name) for name in spec.per_run_fields()}
        changes[part] = to_json(spec) | {name: value == 0 for name, value in numbers.items()}
    return json.dumps(experiment.to_json() | {"name": "", "seed": 0, "runs": 0} | changes, sort_keys=True)


def stack_specs(specs: Sequence[S], runs: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> S:
    """One spec for several that differ in per-run numbers: each such number becomes an array over all runs.

    Also for a single spec, so that stacking changes no bit of a result.
    """
    changes = {}
    for name in specs[0].per_run_fields():
        values = [getattr(spec, name) for spec in specs]
        if any(value != 0 for value in values):
            rows = [value for value, count in zip(values, runs, strict=True) for _ in range(count)]
            changes[name] = torch.tensor(rows, dtype=dtype, device=device)
    return dataclasses.replace(specs[0], **changes)
