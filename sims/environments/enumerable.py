"""Environments whose responses can all be listed: a table holds the reward of each response to each prompt. Tables can
be stacked, one per run, so that environments that differ only in numbers are trained together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from sims.core.loop.checks import check_shape
from sims.core.numerics.noise import Noise
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, setting, to_json, undefined

from .space import TokenSpace
from .toy import RewardLabeller, ToyEnvironment

Tables = dict[str, np.ndarray]


@dataclass(frozen=True)
class EnumerableSpec(ToyEnvironment):
    """Settings of an environment that is a table of rewards and a data policy.

    >>> isinstance(sims.BanditR1(), sims.EnumerableSpec), isinstance(sims.TokenBanditR1(), sims.EnumerableSpec)
    (True, False)
    """

    exact: ClassVar[str] = "reward, KL, entropy, optimum"
    estimators: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(("reward", "gold", "kl_policy_ref", "entropy"), "exact")
    )
    only_numbers: ClassVar[frozenset[str]] = frozenset()  # settings that only change the tables' numbers
    has_features: ClassVar[bool] = False  # whether it defines `features`, for a policy that sees responses

    def stack_key(self) -> Any:
        alike = {name: value for name, value in to_json(self).items() if name not in self.only_numbers}
        kept = ("full_support", "rewards_per_run", "has_proxy")
        return alike | {name: getattr(self, name) for name in kept}

    @property
    def full_support(self) -> bool:
        """Whether the data policy gives every response some probability."""
        return True

    @property
    def rewards_per_run(self) -> bool:
        """Whether each run draws gold rewards of its own."""
        return False

    @property
    def has_proxy(self) -> bool:
        """Whether the learner's rewards are a reward model's, and not gold."""
        return False

    @property
    def without_reward_model(self) -> Self:
        """The same environment and data, with gold rewards."""
        return self

    def rewards(self) -> np.ndarray:
        """(X, N) float64, in the order of `space.all_responses`."""
        raise undefined(self, "rewards", "(X, N) float64, the reward of each response to each prompt")

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        """(X, nodes, V) float64, or (R, X, nodes, V) where runs differ: log-probs of each token after each prefix
        under the policy that training starts from. noise: the runs, for environments that are drawn per run."""
        raise undefined(self, "reference_logp", "(X, nodes, V) float64, log-probs of each token after each prefix")

    def features(self, noise: Noise | None = None) -> np.ndarray:
        """(X, N, F) float64, or (R, X, N, F) where runs differ: what describes each response to each prompt."""
        raise undefined(self, "features", "(X, N, F) float64, what describes each response to each prompt")

    def tables(self, noise: Noise) -> Tables:
        """What differs between environments with the same `stack_key`, except the reference: rewards (X, N); and what
        is drawn per run, (R, ...)."""
        return {"rewards": self.rewards()}

    def environment(self, tables: Tables, dtype: torch.dtype, noise: Noise) -> EnumerableEnvironment:
        """The environment with these tables; each may have a leading axis of runs."""
        return EnumerableEnvironment(self.space, torch.from_numpy(tables["rewards"]).to(dtype), self.labeller)

    def build(self, dtype: torch.dtype, noise: Noise) -> EnumerableEnvironment:
        return self.environment(self.checked_tables(noise), dtype, noise)

    def checked_tables(self, noise: Noise) -> Tables:
        """`tables`; SpecError if the rewards are not one finite number per prompt and response."""
        tables, name = self.tables(noise), f"{type(self).__name__}.rewards"
        rewards = tables["rewards"] = _numbers(name, tables["rewards"])
        lead = noise.lead if rewards.ndim == 3 else ()
        shape = (*lead, self.num_prompts, len(self.space.all_responses[0]))
        check_shape(name, torch.from_numpy(rewards), shape, "one number per prompt and response")
        if not np.isfinite(rewards).all():
            where = np.argwhere(~np.isfinite(rewards))[0].tolist()
            raise SpecError(f"{name}{where}", float(rewards[tuple(where)]), "must be finite")
        return tables

    def checked_reference_logp(self, noise: Noise) -> np.ndarray:
        """`reference_logp`; SpecError if it is not log-probs of every token after each prefix."""
        name = f"{type(self).__name__}.reference_logp"
        logp = _numbers(name, self.reference_logp(noise))
        lead = noise.lead if logp.ndim == 4 else ()
        shape = (*lead, self.num_prompts, self.space.nodes, self.space.vocabulary)
        check_shape(name, torch.from_numpy(logp), shape, "one log-prob per prompt, prefix and token")
        total = np.exp(logp).sum(-1)
        if not (np.abs(total - 1.0) < 1e-9).all():
            where = np.argwhere(~(np.abs(total - 1.0) < 1e-9))[0].tolist()
            raise SpecError(f"{name}{where}", float(total[tuple(where)]), "their exp must sum to 1 over the tokens")
        return logp


def _numbers(name: str, table: object) -> np.ndarray:
    """A table as an array; SpecError if it is none of numbers, as what a method without `return` gives."""
    try:
        found = np.asarray(table)
    except ValueError:  # rows of unequal length
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "fiu":
        raise SpecError(name, table, "must be an array of numbers")
    return found


def given(noise: Noise | None, why: str) -> Noise:
    """The runs' noise; ValueError that says why it is needed, where there is none."""
    if noise is None:
        raise ValueError(f"noise = None: must be given, as {why}")
    return noise


@dataclass(frozen=True)
class SideBySide(EnumerableSpec):
    """Several environments with the same `stack_key` as one: the first runs[0] runs have the first, and so on.

    It is never part of a record, which has a single environment.
    """

    problems: tuple[EnumerableSpec, ...] = setting((), help=None)
    runs: tuple[int, ...] = setting((), help=None)

    @classmethod
    def of(cls, problems: Sequence[EnumerableSpec], runs: Sequence[int]) -> EnumerableSpec:
        """Stack `problems[i]` for `runs[i]` runs each; equal ones are returned unchanged, as one."""
        first = problems[0]
        if all(problem == first for problem in problems):
            return first
        common = {name: getattr(first, name) for name in ToyEnvironment.names()}
        return cls(**common, problems=tuple(problems), runs=tuple(runs))

    @property
    def space(self) -> TokenSpace:
        return self.problems[0].space

    @property
    def full_support(self) -> bool:
        return self.problems[0].full_support

    @property
    def rewards_per_run(self) -> bool:
        return self.problems[0].rewards_per_run

    @property
    def without_reward_model(self) -> Self:
        return self.replace(problems=tuple(problem.without_reward_model for problem in self.problems))

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        noise = given(noise, "each run has its own environment")
        return np.concatenate([_a_run(x, own, 3) for x, own in self._each(noise, "checked_reference_logp")])

    def tables(self, noise: Noise) -> Tables:
        found = self._each(noise, "checked_tables")
        return {name: np.concatenate([_a_run(x[name], own, 2) for x, own in found]) for name in found[0][0]}

    def features(self, noise: Noise | None = None) -> np.ndarray:
        noise = given(noise, "each run has its own environment")
        return np.concatenate([_a_run(x, own, 3) for x, own in self._each(noise, "features")])

    def environment(self, tables: Tables, dtype: torch.dtype, noise: Noise) -> EnumerableEnvironment:
        return self.problems[0].environment(tables, dtype, noise)

    def _each(self, noise: Noise, method: str) -> list[tuple[Any, Noise]]:
        """What a method gives of each environment, with the streams of its runs; of equal environments whose runs are
        the same, as those of arms that differ elsewhere, once."""
        found: list[tuple[Any, Noise]] = []
        asked: list[tuple[EnumerableSpec, Noise]] = []
        for problem, own in self._parts(noise):
            same = (i for i, (other, its) in enumerate(asked) if its.runs == own.runs and other == problem)
            before = next(same, None)
            found.append((getattr(problem, method)(own) if before is None else found[before][0], own))
            asked.append((problem, own))
        return found

    def _parts(self, noise: Noise) -> list[tuple[EnumerableSpec, Noise]]:
        """Each environment with the streams of its own runs, from their start."""
        ends = np.cumsum(self.runs)
        return [
            (p, noise.from_start(noise.runs[end - count : end]))
            for p, count, end in zip(self.problems, self.runs, ends, strict=True)
        ]


def _a_run(table: np.ndarray, noise: Noise, axes: int) -> np.ndarray:
    """A table of `axes` axes, repeated for each run unless it has a runs axis already."""
    return np.broadcast_to(table, (*noise.lead, *table.shape[-axes:]))


class EnumerableEnvironment(RewardLabeller):
    """Looks up rewards in a table. The learner sees the gold reward, unless a subclass replaces it.

    rewards: (X, N), one for each prompt and response; or (R, X, N) where runs differ. prompt_weights: (R, X), the
    probability of each prompt; None where all are as likely.
    """

    def __init__(self, space: TokenSpace, rewards: Tensor, labeller: Labeller) -> None:
        super().__init__(labeller)
        self.space = space
        self.prompt_weights: Tensor | None = None
        self.set_rewards(rewards)

    def set_rewards(self, rewards: Tensor) -> None:
        """These from now on, of the same shape as before."""
        space, self.rewards = self.space, rewards
        self.num_prompts = rewards.shape[-2]
        responses, _ = space.all_responses
        table = rewards.new_full((*rewards.shape[:-1], space.vocabulary**space.length), torch.nan)
        table[..., space.code(responses)] = rewards
        self._width = table.shape[-1]
        self._first = None  # where each run's table begins
        if rewards.dim() > 2:
            self._first = (torch.arange(len(rewards)) * self.num_prompts * self._width)[:, None, None]
        self._table = table.flatten()

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """(..., B, K) rewards of responses (..., B, K, L); padding must be EOS."""
        code = self.space.code(responses) if self.space.length > 1 else responses[..., 0]
        if self.num_prompts > 1:
            code = code + (prompts * self._width).unsqueeze(-1)
        return self._table.take(code if self._first is None else code + self._first)

    def all_prompts(self) -> Tensor:
        """(X,) prompt ids."""
        return torch.arange(self.num_prompts, device=self.rewards.device)

    def all_responses(self) -> tuple[Tensor, Tensor]:
        """Every response and its mask: (N, L) both."""
        responses, mask = self.space.all_responses
        return responses.to(self.rewards.device), mask.to(self.rewards.device)

    def all_rewards(self) -> Tensor:
        """Gold rewards: (X, N), or (R, X, N) where runs differ."""
        return self.rewards

    def seen_rewards(self) -> Tensor:
        """The rewards that the learner sees: (X, N), or (R, X, N) where runs differ."""
        return self.rewards

    def mean(self, terms: Tensor) -> Tensor:
        """Their sum over responses, mean over prompts as users ask: (R,). terms: (R, X, N)."""
        return self.weighted(terms.sum(-1))

    def weighted(self, numbers: Tensor) -> Tensor:
        """Mean over prompts as users ask: (R,). numbers: (R, X), or (X,)."""
        return numbers.mean(-1) if self.prompt_weights is None else (self.prompt_weights * numbers).sum(-1)

    def facts(self) -> dict[str, Tensor]:
        """Arrays for the record of environments that are drawn per run: name → (R, ...)."""
        return {}

    def measures(self, logp: Tensor, logp_ref: Tensor) -> dict[str, Tensor]:
        """What its records have of a policy beside rewards, KL and entropy, at each evaluation: name → (R,).

        logp, logp_ref: (R, X, N), of the policy and of the reference; each name is an array of `record_schema`.
        """
        return {}
