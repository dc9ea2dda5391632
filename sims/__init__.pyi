# The public face of the package: `sims.NAME` for each name below, loaded on first use. Type checkers read this list,
# and so does `__init__.py`.

# isort: off

# Run an experiment and look at it.
from .api import run as run
from .api import run_experiment as run_experiment
from .api import run_experiments as run_experiments
from .experiments.results import Result as Result
from .experiments.experiment import Experiment as Experiment
from .experiments.computation import Computation as Computation
from .core.loop.deployment import Deployment as Deployment
from .core.loop.labelling import Labelling as Labelling
from .core.loop.optimise import Optimiser as Optimiser
from .core.schedule import Schedule as Schedule
from .core.spec import SpecError as SpecError
from .experiments.record_file import Record as Record
from .experiments.store import Store as Store

# Pure functions: losses of PyTorch tensors, checks of them, exact answers in NumPy, intervals and comparisons of runs.
from . import checks as checks
from . import exact as exact
from . import losses as losses
from . import statistics as statistics

# Algorithms, in the order of the table that `algorithm_table` gives.
from .core.algorithms import algorithm_table as algorithm_table
from .core.algorithms import all_algorithms as all_algorithms
from .core.algorithms.policy_gradient import Reinforce as Reinforce
from .core.algorithms.policy_gradient import RLOO as RLOO
from .core.algorithms.clipped import PPO as PPO
from .core.algorithms.clipped import GRPO as GRPO
from .core.algorithms.clipped import DrGRPO as DrGRPO
from .core.algorithms.clipped import DAPO as DAPO
from .core.algorithms.clipped import GSPO as GSPO
from .core.algorithms.clipped import CISPO as CISPO
from .core.algorithms.contrastive import DPO as DPO
from .core.algorithms.contrastive import ConservativeDPO as ConservativeDPO
from .core.algorithms.contrastive import RobustDPO as RobustDPO
from .core.algorithms.contrastive import SLiC as SLiC
from .core.algorithms.contrastive import GroupDPO as GroupDPO
from .core.algorithms.contrastive import IPO as IPO
from .core.algorithms.contrastive import DPOWithNLL as DPOWithNLL
from .core.algorithms.contrastive import KTO as KTO
from .core.algorithms.likelihood import SFT as SFT
from .core.algorithms.likelihood import PrefFT as PrefFT
from .core.algorithms.best_of_n import BestOfN as BestOfN
from .core.algorithms.best_of_n import BestOfNNegative as BestOfNNegative
from .core.algorithms.best_of_n import SuperHF as SuperHF
from .core.algorithms.filtering import RejectionSampling as RejectionSampling
from .core.algorithms.filtering import RAFT as RAFT
from .core.algorithms.filtering import ReST as ReST
from .core.algorithms.reward_weighted import RWR as RWR
from .core.algorithms.reward_weighted import AWR as AWR
from .core.algorithms.online_contrastive import XPO as XPO
from .core.algorithms.online_contrastive import NashMD as NashMD
from .core.algorithms.reference_free import CPO as CPO
from .core.algorithms.reference_free import SimPO as SimPO
from .core.algorithms.reference_free import ORPO as ORPO
from .core.algorithms.mixture import Mixture as Mixture

# Environments.
from .environments.bandit import BanditR1 as BanditR1
from .environments.bandit import BanditR2 as BanditR2
from .environments.bandit import BanditOverlap as BanditOverlap
from .environments.contextual import Contextual as Contextual
from .environments.drifting import Drifting as Drifting
from .environments.proxy import ProxyBandit as ProxyBandit
from .environments.proxy import ProxyTree as ProxyTree
from .environments.rated import RatedResponses as RatedResponses
from .environments.rated import TwoTasks as TwoTasks
from .environments.proxy_features import ProxyFeatures as ProxyFeatures
from .environments.token_bandit import TokenBanditR1 as TokenBanditR1
from .environments.token_bandit import TokenBanditR2 as TokenBanditR2
from .environments.token_bandit import TokenBanditSmall as TokenBanditSmall
from .environments.token_tree import TokenTree as TokenTree

# Policies.
from .policies.table import Table as Table
from .policies.mlp import MLP as MLP
from .policies.response_mlp import ResponseMLP as ResponseMLP
from .policies.transformer import Transformer as Transformer
from .policies.fine_tuned import FineTuned as FineTuned

# What an algorithm or an environment of your own extends.
from .core.algorithms.base import Algorithm as Algorithm
from .core.algorithms.base import PairAlgorithm as PairAlgorithm
from .core.spec import setting as setting
from .environments.enumerable import EnumerableSpec as EnumerableSpec
from .environments.space import TokenSpace as TokenSpace
