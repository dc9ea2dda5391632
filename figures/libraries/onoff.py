"""This package's own losses, checked as anybody's."""

from __future__ import annotations

from importlib import metadata

from sims.checks.adapters import as_function, estimator
from sims.checks.claims import ALGORITHMS
from sims.core.algorithms import all_algorithms

from .paths import Library, LossPath

REDUCTIONS = {"rloo": "sequence_sum", "reinforce": "sequence_sum", "grpo": "sequence_mean", "sft": "sequence_sum"}


def library() -> Library:
    """All algorithms whose loss fits a family, at their defaults, REINFORCE without a baseline; and estimators."""
    paths = []
    for family, kinds in ALGORITHMS.items():
        for kind in kinds:
            cls = all_algorithms()[kind]
            algorithm = cls().replace(baseline="none") if kind == "reinforce" else cls()
            source = f"{cls.__module__}.{cls.__name__}"
            paths.append(LossPath(kind, source, family, as_function(algorithm), algorithm, REDUCTIONS.get(kind)))
    for name, claim in (("k2", "kl_policy_ref"), ("k3", "kl_ref_policy")):
        source = f"sims.core.objectives.divergences.{name}"
        paths.append(LossPath(f"KL estimator {name}", source, "token", estimator(name), claim))
    return Library("onoff", metadata.version("onoff-sims"), tuple(paths))
