# The public face of the package: `llm.NAME` for each name below, loaded on first use. Type checkers read this list,
# and so does `__init__.py`.

# isort: off

# Tune a language model and look at the result.
from .api import run as run
from .commands.options import find_preset as find_preset
from .training.presets import PRESETS as PRESETS

# What responses are rewarded for.
from .tasks import MinLength as MinLength
from .tasks import ModeLength as ModeLength
from .tasks import ProxyReward as ProxyReward
from .tasks import SkewLength as SkewLength
from .tasks import Verifiable as Verifiable
from .tasks import ForbiddenWords as ForbiddenWords
from .tasks import VerifiableAndRated as VerifiableAndRated
from .tasks import RewardFunction as RewardFunction
from .tasks import LearnedReward as LearnedReward
from .tasks import JudgeReward as JudgeReward
from .tasks import Task as Task
from .tasks import Completions as Completions

# The model, and how it is sampled, scored and trained.
from .models.spec import LanguageModelSpec as LanguageModelSpec
from .models.decoding import Decoding as Decoding
from .models.settings import Scoring as Scoring
from .training.learning_rate import ScheduledOptimiser as ScheduledOptimiser
