"""Toy environments: prompts, rewards, labels, and the data policy that training starts from.

bandit           one prompt, 100 actions, one reward peak: R1, R2, and one with a chosen overlap
contextual       prompts × responses, with recorded pairs and learned rewards
drifting         users and preferences that move, a bias of labellers, skills that few ask for
proxy            bandits and token trees whose learner sees a reward model of a few labelled pairs
rated            responses with features and raters; a verifiable and a rated task for one network
proxy_features   problems drawn per run: gold is a network of what describes a response, the proxy one of some capacity
token_bandit     sequences of tokens, each rewarded like an action of the bandit
token_tree       short sequences with EOS and random rewards, or right and wrong ones
toy              what all of them share, and how to add one
enumerable       environments whose responses can all be listed: tables of rewards
space            token sequences of bounded length
recorded         environments with recorded pairs, and rewards that may be learned from them
learned_reward   a reward model fitted to recorded pairs, with early stopping
bradley_terry    one that is linear in given features, fitted exactly
"""

from .bandit import Bandit, BanditOverlap, BanditR1, BanditR2
from .contextual import Contextual
from .drifting import Drifting
from .enumerable import EnumerableEnvironment, EnumerableSpec
from .proxy import Proxy, ProxyBandit, ProxyEnvironment, ProxyTree
from .proxy_features import ProxyFeatures
from .rated import RatedResponses, TwoTasks
from .recorded import RecordedEnvironment
from .token_bandit import TokenBandit, TokenBanditR1, TokenBanditR2, TokenBanditSmall
from .token_tree import TokenTree, VerifiableTree
from .toy import RewardLabeller, ToyEnvironment

__all__ = [
    "Bandit",
    "BanditOverlap",
    "BanditR1",
    "BanditR2",
    "Contextual",
    "Drifting",
    "EnumerableEnvironment",
    "EnumerableSpec",
    "Proxy",
    "ProxyBandit",
    "ProxyEnvironment",
    "ProxyFeatures",
    "ProxyTree",
    "RatedResponses",
    "RecordedEnvironment",
    "RewardLabeller",
    "TokenBandit",
    "TokenBanditR1",
    "TokenBanditR2",
    "TokenBanditSmall",
    "TokenTree",
    "ToyEnvironment",
    "TwoTasks",
    "VerifiableTree",
]
