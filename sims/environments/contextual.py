"""Prompts with one best response each, and recorded preferences that cover some of the responses: Xu et al. 2024."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, setting

from .enumerable import EnumerableSpec, Tables, given
from .learned_reward import RewardModel, fit
from .recorded import RecordedEnvironment, at_cells, cells_of, normals, of_pairs, of_problem
from .space import TokenSpace


@dataclass(frozen=True)
class Contextual(EnumerableSpec, kind="contextual"):
    """X prompts × N responses; reward 1 on the diagonal, and below `off_diagonal`, drawn once, elsewhere.

    Which responses the recorded pairs cover is drawn per run: the best one unless `best_in_data` is false, and others
    up to `coverage`. All pairs of covered responses are recorded, once each. Xu et al. specify neither rewards, pairs
    nor reference; these are chosen here. The reference's logits are normal noise; then `tilt`, `uncovered_mass` and
    `best_mass` are applied, in this order.

    >>> sims.run(sims.DPO(), sims.Contextual(coverage=0.5), updates=20, runs=2, source="dataset", batch_size=48)
    Result(dpo on contextual: 2 runs of 20 updates, ...)
    """

    has_data: ClassVar[bool] = True
    only_numbers: ClassVar[frozenset[str]] = frozenset(
        {
            *("off_diagonal", "table_seed", "best_in_data", "tilt", "tilt_by"),
            *("reference_noise", "uncovered_mass", "best_mass"),
        }
    )

    num_prompts: int = setting(8, "number of different prompts (X)", at_least=1)
    num_responses: int = setting(8, "number of responses to each prompt (N)", at_least=3)
    off_diagonal: float = setting(
        0.5, "rewards of all but the best response are drawn from U(0, off_diagonal)", above=0, below=1
    )
    table_seed: int = setting(0, "seed of the rewards", at_least=0)
    coverage: float = setting(
        0.5, "share of each prompt's responses that appear in the recorded pairs", above=0, at_most=1
    )
    best_in_data: bool = setting(True, "whether the best response appears in the recorded pairs")
    tilt: Literal["none", "losers", "winners"] = setting(
        "none", "recorded responses that the reference favours: none, all but the best of them, or the best"
    )
    # Above these, e to the sum of both may be infinite: no normal number is above 8.6.
    tilt_by: float = setting(2.0, "amount added to their logits (tilt = losers or winners)", at_least=0, at_most=200)
    reference_noise: float = setting(
        0.1, "standard deviation of the noise in the reference's logits", at_least=0, at_most=50
    )
    uncovered_mass: float | None = setting(
        None, "the reference's total probability of responses in no recorded pair; none: not set",
        above=0, below=1,
    )  # fmt: skip
    best_mass: float | None = setting(
        None, "the reference's probability of the best response; none: not set", at_least=0, below=1
    )
    reward_model: Literal["none", "table", "mlp"] = setting(
        "none", "source of the learner's rewards: the gold reward, or a reward model fitted to the recorded pairs"
    )
    reward_model_hidden: tuple[int, ...] = setting(
        (64, 64), "widths of the reward model's hidden layers (reward_model = mlp)"
    )
    reward_model_loss: float = setting(0.1, "early stopping of the reward model: mean Bradley-Terry loss", above=0)
    reward_model_steps: int = setting(2000, "largest number of training steps of the reward model", at_least=1)

    def check(self) -> None:
        free = self.num_responses - (0 if self.best_in_data else 1)
        if not 2 <= self.covered_responses <= free:
            rule = f"must cover from 2 to {free} of {self.num_responses} responses, not {self.covered_responses}"
            raise SpecError("coverage", self.coverage, rule)
        if self.uncovered_mass is not None and self.covered_responses == self.num_responses:
            raise SpecError(
                "uncovered_mass", self.uncovered_mass, "must be none where coverage = 1, as every response is covered"
            )
        hidden = self.reward_model_hidden
        if not hidden or min(hidden) < 1:
            raise SpecError("reward_model_hidden", hidden, "must name at least one layer, each of width at least 1")
        for name, default in _of_reward_model().items():
            value = getattr(self, name)
            if self.reward_model == "none" and value != default:
                raise SpecError(name, value, "only means something with reward_model = table or mlp")

    @property
    def covered_responses(self) -> int:
        """How many responses of a prompt appear in the recorded pairs."""
        return round(self.coverage * self.num_responses)

    @property
    def recorded_pairs(self) -> int:
        """D, the number of recorded pairs."""
        return self.num_prompts * self.covered_responses * (self.covered_responses - 1) // 2

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.num_responses)

    @property
    def full_support(self) -> bool:
        return self.best_mass != 0

    @property
    def has_proxy(self) -> bool:
        return self.reward_model != "none"

    @property
    def without_reward_model(self) -> Self:
        return self.replace(reward_model="none", **_of_reward_model())

    def best(self) -> np.ndarray:
        """(X,) the best response to each prompt."""
        return np.arange(self.num_prompts) % self.num_responses

    def rewards(self) -> np.ndarray:
        shape = (self.num_prompts, self.num_responses)
        table = np.random.default_rng(self.table_seed).uniform(0.0, self.off_diagonal, size=shape)
        table[np.arange(self.num_prompts), self.best()] = 1.0
        return table

    def covered(self, noise: Noise) -> np.ndarray:
        """(R, X, N) bool: which responses appear in each run's recorded pairs."""
        order = of_problem(noise).uniforms("coverage", self.num_prompts, self.num_responses).numpy().copy()
        order[..., np.arange(self.num_prompts), self.best()] = -1.0 if self.best_in_data else 2.0
        return order.argsort(-1).argsort(-1) < self.covered_responses

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        noise = given(noise, "this environment draws a reference per run")
        covered, rewards = self.covered(noise), self.rewards()
        normal = normals(of_problem(noise), "reference logits", self.num_prompts, self.num_responses)
        winner = np.where(covered, rewards, -1.0).argmax(-1)[..., None] == np.arange(self.num_responses)
        favoured = {"none": False, "winners": winner, "losers": covered & ~winner}[self.tilt]
        mass = np.exp(self.reference_noise * normal + self.tilt_by * np.asarray(favoured))
        if self.uncovered_mass is not None:
            mass = _share(mass, ~covered, self.uncovered_mass)
        if self.best_mass is not None:
            best = np.arange(self.num_responses) == self.best()[:, None]
            mass = _share(mass, np.broadcast_to(best, mass.shape), self.best_mass)
        with np.errstate(divide="ignore"):
            return np.log(mass / mass.sum(-1, keepdims=True))[..., None, :]

    def tables(self, noise: Noise) -> Tables:
        return {"rewards": self.rewards(), "covered": self.covered(noise)}

    def environment(self, tables: Tables, dtype: torch.dtype, noise: Noise) -> RecordedEnvironment:
        gold, covered = torch.from_numpy(tables["rewards"]).to(dtype), torch.from_numpy(tables["covered"])
        data = recorded_pairs(gold, covered, self.labeller, noise)
        learned = None
        if self.reward_model != "none":
            model = RewardModel(
                self.reward_model, self.reward_model_hidden, self.reward_model_loss, self.reward_model_steps
            )
            learned = fit(model, data, (self.num_prompts, self.num_responses), of_problem(noise), dtype)
        return RecordedEnvironment(self.space, gold, self.labeller, covered, data, learned)


def _of_reward_model() -> dict[str, Any]:
    """The settings of a reward model, with their defaults."""
    return {f.name: f.default for f in dataclasses.fields(Contextual) if f.name.startswith("reward_model_")}


def _share(mass: np.ndarray, part: np.ndarray, share: float) -> np.ndarray:
    """Rescale so that `part` of the responses holds `share` of the mass. mass, part: (..., N)."""
    inside, outside = np.where(part, mass, 0.0), np.where(part, 0.0, mass)
    scaled = inside / inside.sum(-1, keepdims=True) * share + outside / outside.sum(-1, keepdims=True) * (1.0 - share)
    return np.asarray(scaled)


def recorded_pairs(gold: Tensor, covered: Tensor, labeller: Labeller, noise: Noise) -> Batch:
    """Every pair of covered responses, once: prompts (R, D), responses (R, D, 2, 1), one label each by the labeller.

    gold: (X, N), or (R, X, N) where runs differ; covered: (R, X, N), equally many per prompt.
    """
    runs, prompts, _ = covered.shape
    count = int(covered[0, 0].sum())
    shown = covered.nonzero()[:, -1].view(runs, prompts, count)
    responses = shown[..., torch.combinations(torch.arange(count), 2)].flatten(1, 2)  # (R, D, 2)
    which = torch.arange(prompts).repeat_interleave(responses.shape[1] // prompts).expand(runs, -1)
    rewards = at_cells(gold.expand(covered.shape), cells_of(which, responses, gold))
    uniforms = of_problem(noise).uniforms("recorded labels", responses.shape[1], 1, 2)
    label = labeller.label(rewards[..., :1], rewards[..., 1:], uniforms)
    tokens = responses.unsqueeze(-1)
    return of_pairs(which, tokens, rewards, torch.ones((), dtype=torch.bool).expand(tokens.shape), label)
