"""What one update of DPO on the table enters, and that its labels are checked without a check in every update."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import sims
from sims.core.algorithms import Algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import EnumerableEnvironment
from tests.entered import entered, listed

RUNS = 2
# Of our own functions, from the draw of the prompts to the end of the optimiser's step. More is more to read.
FUNCTIONS, FILES = 38, 18
OPERATIONS = {"dpo": 135, "rloo": 94}  # of PyTorch, those that another one calls not counted


def training(algorithm: Algorithm, environment_class: type[EnumerableEnvironment] = EnumerableEnvironment) -> Training:
    """A table of logits on the bandit R1, in float32."""
    noise, spec = Noise.of(0, RUNS), sims.BanditR1()
    policy = sims.Table().build(spec, noise, algorithm.needs_critic, torch.float32)
    environment = environment_class(spec.space, torch.from_numpy(spec.rewards()).float(), spec.labeller)
    return Training(policy, environment, algorithm, Schedule(), Learner(policy, Optimiser(), noise.lead), noise)


def test_one_update_of_dpo_on_the_table_is_few_functions_of_few_files() -> None:
    updates = training(sims.DPO()).train(3)
    next(updates), next(updates)  # what is done once has been done by then
    found = entered(lambda: next(updates))
    files = len({path for path, _ in found})
    assert len(found) <= FUNCTIONS and files <= FILES, f"{len(found)} functions of {files} files:\n{listed(found)}"


@pytest.mark.parametrize("algorithm", [sims.DPO(), sims.RLOO()], ids=lambda x: x.kind)
def test_one_update_on_the_table_is_few_operations(algorithm: Algorithm) -> None:
    updates = training(algorithm).train(3)
    next(updates), next(updates)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        next(updates)
    inner = [event.cpu_parent is not None and event.cpu_parent.name.startswith("aten::") for event in profiler.events()]
    names = [event.name for event, is_inner in zip(profiler.events(), inner, strict=True) if not is_inner]
    names = [name for name in names if name.startswith("aten::")]
    assert len(names) <= OPERATIONS[algorithm.kind], f"{len(names)} operations: {Counter(names).most_common()}"


class LateNaN(EnumerableEnvironment):
    """Its rewards are not numbers from the second batch on."""

    batches = 0

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        self.batches += 1
        return super().reward(prompts, responses) * (1.0 if self.batches == 1 else math.nan)


class Flat(EnumerableEnvironment):
    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        return super().reward(prompts, responses).mean(-1)


@pytest.mark.parametrize("algorithm", [sims.DPO(), sims.RLOO()], ids=lambda x: x.kind)
def test_a_reward_that_is_not_a_number_is_named_in_whichever_batch_it_comes(algorithm: Algorithm) -> None:
    updates = training(algorithm, LateNaN).train(3)
    next(updates)
    with pytest.raises(SpecError, match=r"LateNaN.label: rewards\[0, 0, 0\] = nan: must be finite"):
        next(updates)


def test_rewards_of_the_wrong_shape_are_refused_in_the_first_batch() -> None:
    with pytest.raises(SpecError, match=r"Flat.reward: shape = \(2, 64\): must be \(2, 64, 2\)"):
        next(training(sims.DPO(), Flat).train(3))
