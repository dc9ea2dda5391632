"""Problems to learn: rewards and data policies under full control."""

from .bandit import Bandit, BanditOverlap, BanditR1, BanditR2
from .contextual import Contextual, ContextualEnvironment
from .enumerable import EnumerableEnvironment, EnumerableSpec
from .token_bandit import TokenBandit, TokenBanditR1, TokenBanditR2, TokenBanditSmall
from .token_tree import TokenTree
from .toy import RewardLabeller, ToyEnvironment

__all__ = [
    "Bandit",
    "BanditOverlap",
    "BanditR1",
    "BanditR2",
    "Contextual",
    "ContextualEnvironment",
    "EnumerableEnvironment",
    "EnumerableSpec",
    "RewardLabeller",
    "TokenBandit",
    "TokenBanditR1",
    "TokenBanditR2",
    "TokenBanditSmall",
    "TokenTree",
    "ToyEnvironment",
]
