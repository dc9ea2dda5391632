"""All algorithms, one dataclass each: hyper-parameters, needs, targets and loss.

base                 the interface of an algorithm, and how to add one
policy_gradient      REINFORCE, RLOO
clipped              PPO, GRPO and its variants: Dr. GRPO, DAPO, GSPO, CISPO
contrastive          DPO and its variants, IPO, SLiC, KTO
likelihood           SFT, Pref-FT
best_of_n            best-of-N, with a negative gradient, with a KL penalty (SuperHF)
filtering            rejection sampling, RAFT, ReST
reward_weighted      RWR, AWR
online_contrastive   XPO, Nash-MD
reference_free       CPO, SimPO, ORPO
mixture              a weighted sum of several losses
reward_model         settings of a reward model's loss
table                the table of algorithms in the README
"""

from sims.core.spec import find_kind, kinds_of

# The table lists algorithms in the order of these imports.
# isort: off
from . import policy_gradient, clipped, contrastive
from . import likelihood, best_of_n, filtering, reward_weighted
from . import online_contrastive, reference_free, reward_model
from . import mixture

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
    "mixture",
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
