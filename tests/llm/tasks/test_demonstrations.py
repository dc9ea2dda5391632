"""Demonstrations of right answers, for supervised fine-tuning: each run has its own."""

from __future__ import annotations

import pytest
import torch

from llm.embedded import language
from llm.tasks import Verifiable
from llm.tasks.environment import TextEnvironment
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.likelihood import SFT
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError

TASK = Verifiable(recorded_prompts=64, demonstration_seed=5)
TAUGHT = Schedule(source="dataset", batch_size=8, num_generations=1)


def prompts_of(task: Verifiable) -> list[str]:
    env = TextEnvironment(task, language.build_tokenizer(), torch.device("cpu"))
    assert bool((env.recorded(64, Noise.single(0)).rewards == 1.0).all())  # right, every one
    return [str(row.prompt) for row in task.recorded_rows(env.encoder) or ()]


def test_demonstrations_are_right_on_training_prompts_and_differ_by_run() -> None:
    one, again, other = (prompts_of(task) for task in (TASK.of_run(1), TASK.replace(demonstration_seed=6), TASK))
    assert one == again != other
    assert {language.parse_prompt(prompt).split for prompt in one} == {"train"}
    assert Verifiable().of_run(3) == Verifiable()


def test_pairs_of_them_and_other_data_are_refused() -> None:
    TASK.check_experiment(SFT(include_prompt=True), TAUGHT)
    TASK.check_experiment(DPO(), Schedule())  # online, nothing recorded is used
    with pytest.raises(SpecError, match="demonstration_seed = 5: must be none: dpo compares responses"):
        TASK.check_experiment(DPO(), TAUGHT.replace(num_generations=2))
    with pytest.raises(SpecError, match="must be none: the responses of other data are what they are"):
        Verifiable(data="rows.jsonl", demonstration_seed=0)
