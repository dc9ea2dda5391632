"""Every algorithm once: its hyper-parameters, what it needs, its targets and its loss. One family a file.

`base` says what an algorithm is and how to add one.
"""

from sims.core.spec import find_kind, kinds_of

# The table lists algorithms in the order of these imports.
# isort: off
from . import policy_gradient, clipped, contrastive
from . import likelihood, best_of_n, filtering, reward_weighted
from . import online_contrastive, reference_free, reward_model

# isort: on
from .base import Algorithm, PairAlgorithm, SlotDistribution, State, Targets
from .table import algorithm_table

__all__ = [
    "Algorithm",
    "PairAlgorithm",
    "SlotDistribution",
    "State",
    "Targets",
    "algorithm_table",
    "all_algorithms",
    "best_of_n",
    "clipped",
    "contrastive",
    "filtering",
    "find_algorithm",
    "likelihood",
    "online_contrastive",
    "policy_gradient",
    "reference_free",
    "reward_model",
    "reward_weighted",
]


def all_algorithms() -> dict[str, type[Algorithm]]:
    """Every registered algorithm by its name.

    >>> sims.all_algorithms()["dpo"]().beta
    0.1
    """
    return kinds_of(Algorithm)


def find_algorithm(name: str) -> type[Algorithm]:
    """The algorithm of that name; an unknown one raises SpecError with the nearest name."""
    return find_kind(name, Algorithm, "algorithm")
