"""A proxy reward: a reward model fitted to noisy preferences of a known gold reward, on the embedded language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch

from llm.data import Example, Limits, TextEncoder
from llm.embedded import language
from llm.tasks.completions import Reward
from llm.tasks.data_source import LANGUAGE
from llm.tasks.learned import score_texts
from llm.tasks.length import NEAR, near_length
from llm.tasks.task import Task
from sims.core.numerics.noise import Noise
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, setting

if TYPE_CHECKING:
    from llm.reward_models.model import RewardModel

HELD_OUT_PAIRS = 256


@dataclass(frozen=True)
class ProxyReward(Task, kind="proxy_reward"):
    """r from a reward model that is fitted, before training, to preferences whose gold reward is known; policies are
    trained by r and evaluated by the gold reward −| |y| − mode |. The set-up of Gao et al. 2023 and Tang et al. 2024.

    `recorded_prompts` pairs are drawn from the embedded language and labelled by a Bradley-Terry annotator,
    P(first ≻ second) = σ((g_1 − g_2) / annotator_temperature), g the gold reward in tokens. On them the embedded Pythia
    with a new head is fitted, by the loss and the loop of `python -m llm reward`; the same pairs, with the same labels,
    are the recorded data of offline algorithms. All of it is a function of `proxy_seed` and the other settings. Run i
    of an experiment has the pairs and the reward model of proxy_seed + i, so that an interval over runs covers these.

    Almost all recorded responses are longer than a `mode` of 10, so that the data say "shorter is better", and a policy
    that follows the proxy passes the mode: over-optimisation, by coverage. The default of `label_temperature`, 0, is of
    online labels: the proxy's larger score is preferred.

    >>> task = llm.ProxyReward(mode=10, recorded_prompts=512)
    >>> task.best_reward(), round(task.overlap()["reference near optimum"], 3)
    (0.0, 0.42)
    """

    metric: ClassVar[str] = "gold"
    description: ClassVar[str] = "a reward model of noisy preferences for a length near `mode`"
    optimum: ClassVar[str] = "0 (gold): any response of that length"

    mode: int = setting(10, "length with the largest gold reward, in tokens before EOS", at_least=0)
    annotator_temperature: float = setting(
        2.0, "temperature of the annotator of the recorded pairs, in tokens; 0: noiseless", at_least=0
    )
    proxy_epochs: int = setting(4, "passes of the reward model over the recorded pairs", at_least=1)
    proxy_learning_rate: float = setting(1e-3, "learning rate of the reward model", above=0)
    proxy_seed: int = setting(0, "seed of the first run's recorded pairs, labels and reward model", at_least=0)

    def check(self) -> None:
        super().check()
        if self.data != LANGUAGE:
            rule = "must be language, whose gold reward is known; learned_reward takes a reward model on other data"
            raise SpecError("data", self.data, rule)

    def reward(self) -> Reward:
        return score_texts(self.proxy(), _encoder(), Limits())

    def of_run(self, index: int) -> ProxyReward:
        return self.replace(proxy_seed=self.proxy_seed + index)

    def gold(self) -> Reward:
        return near_length(self.mode)

    def best_reward(self) -> float:
        return 0.0

    def recorded_rows(self, encoder: TextEncoder) -> Sequence[Example] | None:
        """The annotator's pairs, chosen response first."""
        return _annotated(self._pairs, self.recorded_prompts, encoder, "train")

    def overlap(self) -> Mapping[str, float]:
        return {"reference near optimum": language.length_mass(self.mode, NEAR)}

    def proxy(self) -> RewardModel:
        """The proxy, fitted once per process."""
        return _fit(self._pairs, self.recorded_prompts, self.proxy_epochs, self.proxy_learning_rate)

    def accuracy(self) -> float:
        """Share of held-out pairs that the proxy orders as the annotator did, who is not always right herself."""
        from llm.reward_models.scoring import held_out, preference_batch

        rows = _annotated(self._pairs, HELD_OUT_PAIRS, _encoder(), "held_out")
        return held_out(self.proxy(), preference_batch(rows, _encoder().pad)).accuracy

    @property
    def _pairs(self) -> _Pairs:
        return _Pairs(self.mode, self.annotator_temperature, self.proxy_seed)


class _Pairs(NamedTuple):
    """What the annotator's pairs follow from."""

    mode: int
    temperature: float
    seed: int


@lru_cache(maxsize=1)
def _encoder() -> TextEncoder:
    return TextEncoder(language.build_tokenizer())


def _annotated(pairs: _Pairs, count: int, encoder: TextEncoder, split: language.Split) -> list[Example]:
    """So many pairs of a split, chosen response first."""
    from llm.reward_models.data import language_pairs

    rows = language_pairs(count, np.random.default_rng([pairs.seed, split == "held_out"]), split, encoder)
    lengths = torch.tensor([[len(ids) - 1 for ids in row.completion_ids] for row in rows])  # without EOS
    gold = -(lengths - pairs.mode).abs().double()
    uniforms = Noise.single(pairs.seed).uniforms(f"annotator {split}", count, 1, 2)
    first = Labeller(pairs.temperature).label(gold[:, :1], gold[:, 1:], uniforms).flatten()
    # A noiseless tie goes to the first, which was drawn like the second.
    return [
        row if label else replace(row, completion_ids=row.completion_ids[::-1])
        for row, label in zip(rows, first.tolist(), strict=True)
    ]


@lru_cache(maxsize=32)  # the arms of a figure have some ten reward models in common
def _fit(pairs: _Pairs, count: int, epochs: int, learning_rate: float) -> RewardModel:
    from llm.reward_models.fit import RewardTraining, fit
    from llm.reward_models.model import new_reward_model
    from llm.reward_models.scoring import preference_batch

    rows = _annotated(pairs, count, _encoder(), "train")
    # In float64, as a fit magnifies rounding: on another processor the scores would differ by 2e-3.
    model = new_reward_model("pythia", pairs.seed, dtype=torch.float64)
    training = RewardTraining(epochs=epochs, learning_rate=learning_rate, seed=pairs.seed)
    for _ in fit(model, preference_batch(rows, _encoder().pad), training=training):
        pass
    return model
