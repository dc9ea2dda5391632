"""Tasks: the reward of a language model's responses, and where its prompts come from.

    completions    responses as rewards receive them
    data_source    settings: the rows, and how a row becomes a prompt and its responses
    labels         settings: how rewards become labels of pairs
    shaping        settings: what is added to a reward for a response's length
    task           base class: these settings, and the methods that a task defines
    length         rewards that are functions of the number of tokens
    verifiable     1 for right answers, else 0
    forbidden      1 for responses without some words, else 0
    expressions    comparison of mathematical answers
    function       a user's Python function
    learned        a reward model
    proxy          a reward model fitted to preferences of a known gold reward
    two_tasks      right answers for some prompts, lengths for the others
    judged         a language model behind an endpoint
    environment    prompts and labelled responses for the training loop
    table          what `python -m llm --tasks` prints

**To add a reward**, write a Python function in TRL's signature, in any module, and name it: `llm.tasks.function` has
the smallest. Nothing in the package changes.

**To add a task**, which has settings, an optimum and a metric of its own:

(1) Write a frozen dataclass with a `kind` in a file of this folder, imported below and listed in `__all__`. The
smallest, `llm/tasks/brevity.py`:

    from dataclasses import dataclass
    from typing import ClassVar

    from llm.tasks.completions import Reward
    from llm.tasks.task import Task
    from sims.core.spec import setting


    @dataclass(frozen=True)
    class Brevity(Task, kind="brevity"):
        '''r = −(characters)^power: short words count for less than long ones.'''

        description: ClassVar[str] = "−characters to a power"
        optimum: ClassVar[str] = "0: an empty response"

        power: float = setting(1.0, "exponent of the number of characters", above=0)

        def reward(self) -> Reward:
            return lambda completions: [-(float(len(text)) ** self.power) for text in completions.texts]

        def best_reward(self) -> float:
            return 0.0

`reward` returns a function of `Completions`: of prompts, texts, token ids, lengths and the data's further columns, N of
each. It returns N finite numbers. Without `best_reward` the largest is unknown. Figures show the metric `reward`; one
of your own is what `measure` returns, as in `length`, and `metric` names it.

(2) List the class in `llm/__init__.pyi`, which makes it `llm.NAME`, with an example (`>>>`) in its docstring; and put
the table that `python -m llm --tasks` prints into the README.

The command line and the tests of `tests/llm/tasks/test_every_task.py` find it by its kind, and `python -m llm train
--preset tiny-min-length --task brevity --power 0.5` trains on it, with the rest of that preset. A setting without a
default, such as a file, gets a value in `SETTINGS` of the tests.
"""

from llm.tasks.completions import Completions, Reward
from llm.tasks.data_source import LANGUAGE, DataSource
from llm.tasks.forbidden import ForbiddenWords
from llm.tasks.function import RewardFunction
from llm.tasks.judged import JudgeReward
from llm.tasks.labels import Labels
from llm.tasks.learned import LearnedReward
from llm.tasks.length import MinLength, ModeLength, SkewLength
from llm.tasks.proxy import ProxyReward
from llm.tasks.table import task_table
from llm.tasks.task import Task
from llm.tasks.two_tasks import VerifiableAndRated
from llm.tasks.verifiable import Verifiable

__all__ = [
    "LANGUAGE",
    "Completions",
    "DataSource",
    "ForbiddenWords",
    "JudgeReward",
    "Labels",
    "LearnedReward",
    "MinLength",
    "ModeLength",
    "ProxyReward",
    "Reward",
    "RewardFunction",
    "SkewLength",
    "Task",
    "Verifiable",
    "VerifiableAndRated",
    "task_table",
]
