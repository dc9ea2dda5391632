"""What all toy environments share: settings of the labeller, prompts that are numbers, and labels from rewards.

**To add an environment whose responses can be listed** (up to some ten thousand of them):

(1) Add a frozen dataclass with a `kind` to a file of this folder; a new file is imported in `__init__`:

    from dataclasses import dataclass
    from typing import ClassVar

    import numpy as np

    from sims.core.numerics.noise import Noise
    from sims.core.spec import setting

    from .enumerable import EnumerableSpec
    from .space import TokenSpace


    @dataclass(frozen=True)
    class TwoArms(EnumerableSpec, kind="two_arms"):
        '''Two actions, of which the second has `gap` more reward; the data policy is uniform.'''

        only_numbers: ClassVar[frozenset[str]] = frozenset(("gap",))

        gap: float = setting(0.5, "reward of the second action minus that of the first", above=0)

        @property
        def space(self) -> TokenSpace:
            return TokenSpace(2)

        def rewards(self) -> np.ndarray:
            return np.tile([0.0, self.gap], (self.num_prompts, 1))

        def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
            return np.full((self.num_prompts, self.space.nodes, 2), np.log(0.5))

Its first sentence appears in the table of environments. `space` defines the responses: V tokens, at most L of them,
with or without EOS. `rewards` is (X, N), float64: the reward of each of the N responses to each of the X prompts, in
the order of `space.all_responses`. `reference_logp` is (X, nodes, V): log-probs of each token after each prefix
under the data policy, where training starts; a bandit has one node. `only_numbers` names the settings that change
these two tables and nothing else: experiments that differ in them are trained as one stack.

(2) List the class in `sims/__init__.pyi`, which makes it `sims.NAME`, with an example (`>>>`) in its docstring; and put
the table that `python -m sims --environments` prints into the README.

The command line and the tests of `tests/environments/test_every_environment.py` find it by its kind. Exact quantities,
labels, pairs and policies work without further code. Tables drawn per run, recorded pairs and a learned reward: see
`contextual`.

**To add one whose responses are too many to list**: a subclass of `ToyEnvironment` with `space`, `build`, and
`evaluation_samples`; and what `build` makes, a subclass of `RewardLabeller` with `reward` (..., B, K) of responses
(..., B, K, L), and `best_responses` (X, L). A policy needs access to its data policy: see `token_bandit`, and
`DataDistribution` in `sims/policies/transformer.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.loop.checks import PER_RESPONSE, check_shape
from sims.core.loop.protocols import EnvironmentSpec, Labels, Prompts
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, pick
from sims.core.objectives.preferences import Labeller, Pairing, choose_pairs
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, setting, undefined

from .space import TokenSpace


@dataclass(frozen=True)
class ToyEnvironment(EnvironmentSpec):
    """Settings that every toy environment has; `build` makes the environment of some runs."""

    executor: ClassVar[str] = "sims.experiments.executor:execute"
    has_data: ClassVar[bool] = False  # whether it holds recorded pairs, for source = dataset
    exact: ClassVar[str] = "–"  # what is computed without sampling, for the table of environments

    num_prompts: int = setting(1, "number of different prompts (X)", at_least=1)
    label_temperature: float = setting(
        0.0, "temperature of the Bradley-Terry labels, in units of reward; 0: noiseless", at_least=0
    )
    flip_rate: float = setting(0.0, "probability that a label is flipped", at_least=0, at_most=0.5)
    correct_above: float = setting(0.5, "responses with a reward above this are correct (pairing = correct_incorrect)")

    def check_experiment(self, algorithm: Algorithm, schedule: Schedule) -> None:
        if schedule.source == "dataset":
            if not self.has_data:
                raise SpecError(
                    "source", "dataset", f"must be policy, pool or replay: {self.kind} holds no recorded data"
                )
            if algorithm.label_pairing is None:
                raise SpecError("source", "dataset", f"holds pairs without log-probs: {algorithm.kind} takes no pairs")
        if getattr(algorithm, "include_prompt", False):
            raise SpecError("include_prompt", True, "must be false: the prompts of toy environments are numbers")

    @property
    def space(self) -> TokenSpace:
        """The responses."""
        raise undefined(self, "space", "a TokenSpace, the responses")

    @property
    def labeller(self) -> Labeller:
        return Labeller(self.label_temperature, self.flip_rate, self.correct_above)

    def build(self, dtype: torch.dtype, noise: Noise) -> Any:
        """The environment that these settings describe; where it is random, one draw per run."""
        raise undefined(self, "build", "the environment that these settings describe")


class RewardLabeller:
    """Draws prompts uniformly, rewards responses, and labels pairs by those rewards.

    A subclass defines `reward`; and `gold` with the same arguments, where the learner's reward is a proxy of the one
    that it is evaluated by. compared: where its labels are not drawn from the rewards of the two responses of a pair,
    what is compared instead, (prompts, responses, pairs (..., B, Q, 2)) → of the first, of the second, (..., B, Q).
    """

    num_prompts: int
    gold: Callable[[Tensor, Tensor], Tensor] | None = None
    compared: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __init__(self, labeller: Labeller) -> None:
        self.labeller = labeller

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """(..., B, K) rewards that the learner sees, of responses (..., B, K, L)."""
        raise undefined(self, "reward", "(..., B, K), one number per response")

    def prompts(self, batch_size: int, noise: Noise) -> Prompts:
        """Ids (..., B), each prompt as likely as the others."""
        count = self.num_prompts
        if count == 1:
            return Prompts(torch.zeros((), dtype=torch.int64, device=noise.device).expand(*noise.lead, batch_size))
        return Prompts((noise.uniforms("prompts", batch_size) * count).long().clamp(max=count - 1))

    def label(
        self,
        prompts: Prompts,
        responses: Tensor,
        mask: Tensor,
        pairing: Pairing | None,
        noise: Noise,
        rewards: Tensor | None = None,
    ) -> Labels:
        """Rewards; and with a pairing, its pairs and their labels. rewards: used instead of its own."""
        own = self.reward(prompts.tokens, responses)
        if own.shape != responses.shape[:-1]:
            check_shape(f"{type(self).__name__}.reward", own, tuple(responses.shape[:-1]), PER_RESPONSE)
        gold = own if self.gold is None else self.gold(prompts.tokens, responses)
        compared = self.compared if rewards is None else None
        rewards = own if rewards is None else rewards
        if pairing is None:
            return Labels(rewards=rewards, gold=gold)
        pairs, weight = choose_pairs(rewards, pairing, self.labeller.correct_above)
        first, second = pick(rewards, pairs) if compared is None else compared(prompts.tokens, responses, pairs)
        # Drawn even if unused, so that noiseless and noisy labellers share the random numbers of a stream.
        uniforms = noise.uniforms("labels", *pairs.shape[len(noise.lead) :])
        return Labels(rewards, gold, pairs, self.labeller.label(first, second, uniforms), weight)

    def recorded(self, batch_size: int, noise: Noise) -> Batch:
        """The next recorded pairs; SpecError for environments without."""
        raise SpecError("source", "dataset", "must be policy, pool or replay: there are no recorded data here")
