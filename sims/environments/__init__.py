"""Problems whose every response can be listed, so that reward, KL and the optimum are exact."""

from .bandit import Bandit, BanditOverlap, BanditR1, BanditR2
from .enumerable import EnumerableEnvironment, ToyEnvironment
from .token_tree import TokenTree

__all__ = ["Bandit", "BanditOverlap", "BanditR1", "BanditR2", "EnumerableEnvironment", "TokenTree", "ToyEnvironment"]
