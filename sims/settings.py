"""Settings by name: each goes to the part of an experiment that has a field of that name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

from .core.spec import Spec, SpecError


class Settings(TypedDict, total=False):
    """The fields of `Schedule`, `Optimiser`, `Labelling`, `Deployment` and `Computation`, and some of `Experiment`."""

    name: str
    evaluations: int
    precision: Literal["float32", "float64"]

    batch_size: int
    num_generations: int
    minibatch_size: int | None
    epochs: int
    sync_every_updates: float | None
    source: Literal["policy", "pool", "replay", "dataset"]
    pool_size: int | None
    pool_policy: Literal["initial", "final"]
    replay_window: float | None
    reference: Literal["fixed", "copy", "ema"]
    reference_every_updates: int | None
    reference_rate: float | None

    method: Literal["adam", "sgd"]
    learning_rate: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    weight_decay: float
    max_grad_norm: float | None

    labels: Literal["environment", "implicit"]
    implicit_beta: float
    implicit_policy: Literal["sampler", "frozen"]
    implicit_after_updates: int

    label_candidates: int
    curated_pairs: int
    gate_comparisons: int
    gate_win_rate: float
    gate_gold_loss: float | None

    generator: Literal["pcg64", "philox"]
    device: Literal["cpu", "cuda"]
    capture: bool


def changed(
    parts: Mapping[str, Spec], settings: Mapping[str, Any], own: Iterable[str] = (), elsewhere: Iterable[Spec] = ()
) -> dict[str, Any]:
    """The parts with the settings in them, each in the first part that has its field; and those in `own` as they are.

    An unknown setting raises SpecError with the nearest known one. elsewhere: specs whose fields must be set where they
    are created, as the error then explains.
    """
    own = list(own)
    found: dict[str, Any] = dict(parts)
    of_part: dict[str, dict[str, Any]] = {name: {} for name in parts}
    for name, value in settings.items():
        part = next((part for part, spec in parts.items() if name in spec.names()), None)
        if name in own:
            found[name] = value
        elif part is not None:
            of_part[part][name] = value
        else:
            raise SpecError(
                name, value, _unknown(name, [*own, *(n for p in parts.values() for n in p.names())], elsewhere)
            )
    return found | {part: found[part].replace(**values) for part, values in of_part.items() if values}


def _unknown(name: str, known: Iterable[str], elsewhere: Iterable[Spec]) -> str:
    """An error message for an unknown setting, with the nearest known one."""
    owner = next((spec for spec in elsewhere if name in spec.names()), None)
    if owner is not None:
        return f"belongs to {owner.kind}: {type(owner).__name__}({name}=...)"
    near = difflib.get_close_matches(name, list(known), n=1)
    return "no such setting" + (f"; did you mean {near[0]}?" if near else f": must be one of {', '.join(known)}")
