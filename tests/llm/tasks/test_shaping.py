"""What a response's length adds to its reward, and never to the gold reward."""

from __future__ import annotations

import pytest
import torch

from llm.models.decoding import Decoding
from llm.models.spec import LanguageModelSpec
from llm.tasks import MinLength
from llm.tasks.environment import TextEnvironment
from llm.tasks.shaping import Shaping
from sims.core.algorithms import find_algorithm
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from tests.llm.tiny_data import WORDS


def test_training_rewards_are_shaped_and_gold_ones_are_not():
    task = MinLength(length_penalty=0.5, overlong_tokens=2, overlong_weight=3.0)
    env = TextEnvironment(task, WORDS, torch.device("cpu"), torch.float64, max_new_tokens=4)
    tokens = torch.tensor([[[4, 4, 2, 0], [4, 4, 4, 2], [4, 4, 4, 4]]])  # 3, 4 and 4 tokens; the last has no EOS
    rewards, gold = env.score(env.prompts(1, Noise.single(0)).examples, tokens, tokens != 0)
    assert gold.tolist() == [[-2, -3, -4]] and env.has_gold
    assert rewards.tolist() == [[-2 - 1.5 - 1.5, -3 - 2 - 3, -4 - 2 - 3]]


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(SpecError, match=r"overlong_weight = 2.0: only means something with overlong_tokens"):
        Shaping(overlong_weight=2.0)
    spec = LanguageModelSpec(decoding=Decoding(max_new_tokens=8))
    spec.check_environment(MinLength(overlong_tokens=8))
    with pytest.raises(SpecError, match="overlong_tokens = 9: must be at most max_new_tokens = 8"):
        spec.check_environment(MinLength(overlong_tokens=9))
    with pytest.raises(SpecError, match=r"missing_eos_penalty = -1.0: must be"):
        Shaping(missing_eos_penalty=-1.0)


def test_a_response_that_does_not_end_is_worth_less_with_any_task():
    """TRL's `rewards[~contain_eos_token] -= missing_eos_penalty`, beside what lengths add."""
    task = MinLength(length_penalty=0.5, missing_eos_penalty=1.5)
    env = TextEnvironment(task, WORDS, torch.device("cpu"), torch.float64, max_new_tokens=4)
    tokens = torch.tensor([[[4, 4, 2, 0], [4, 4, 4, 2], [4, 4, 4, 4]]])  # the last has no EOS
    rewards, gold = env.score(env.prompts(1, Noise.single(0)).examples, tokens, tokens != 0)
    assert gold.tolist() == [[-2, -3, -4]] and env.has_gold
    assert rewards.tolist() == [[-2 - 1.5, -3 - 2, -4 - 2 - 1.5]]


@pytest.mark.parametrize("name", Shaping.SHAPES)
def test_rows_with_labels_of_their_own_are_trained_on_without_a_reward(name):
    own = MinLength(data="pairs.jsonl", data_kind="preference", **{name: 2})
    recorded, dpo, kto, rwr = Schedule(source="dataset"), *(find_algorithm(x)() for x in ("dpo", "kto", "rwr"))
    for algorithm in (dpo, kto):
        with pytest.raises(
            SpecError, match=f"{name} = 2.*: means nothing with source = dataset, whose rows have labels"
        ):
            own.check_experiment(algorithm, recorded)
    own.replace(relabel=True).check_experiment(dpo, recorded)
    own.check_experiment(dpo, Schedule())
    own.check_experiment(rwr, recorded)
    MinLength(**{name: 2}).check_experiment(dpo, recorded.replace(num_generations=2))
