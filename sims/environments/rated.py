"""Responses that are described by features and rated by people, well or badly; and two tasks for one network.

Rewards, features and reference are drawn per run, so that an interval over runs is one over problems too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sims.core.loop.protocols import Prompts
from sims.core.numerics.log_softmax import log_softmax
from sims.core.numerics.noise import Generator, Noise
from sims.core.spec import SpecError, setting

from .enumerable import Tables, given
from .proxy import Proxy, ProxyEnvironment
from .recorded import at_cells, cells_of, normals
from .space import TokenSpace


class Drawn(NamedTuple):
    """What is drawn per run. features: (R, X, N, F); aspects: (R, X, N, A), each of variance 1 over responses, and the
    directions of what the features explain of them, weights: (R, A, F); taste: (R, X, N), what raters like besides, of
    variance 1 too; other: (R, F), one more direction."""

    features: np.ndarray
    aspects: np.ndarray
    weights: np.ndarray
    taste: np.ndarray
    other: np.ndarray


@dataclass(frozen=True)
class RatedResponses(Proxy, kind="rated_responses"):
    """Responses described by features; gold is the mean of several aspects, and the recorded pairs are rated by people.

    φ(x, y) ~ N(0, I_F). An aspect is a = √(1 − u)·φ·w + √u·ε(x, y), of variance 1, u = `unexplained`, w a random
    direction; directions and ε of two aspects have a correlation of `aspect_correlation`. A rating of anything is its
    value + bias·(φ·b), b another direction, + an error, of which the difference between two responses is logistic with
    scale `rating_noise`. So one overall rating of each gives Bradley–Terry labels, and the errors of A aspects' ratings
    have a mean with an A-th of the variance.

    >>> sims.run(sims.DPO(), sims.RatedResponses(), sims.ResponseMLP(), updates=20, runs=2, source="dataset")
    Result(dpo on rated_responses: 2 runs of 20 updates, ...)
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(
        {
            *("proxy_l2", "overscore", "unexplained", "aspect_correlation", "reference_tilt", "pair_tilt"),
            *("rated", "rating_noise", "rating_flips", "rating_bias"),
        }
    )

    num_prompts: int = setting(8, "number of different prompts (X)", at_least=1)
    num_responses: int = setting(16, "number of responses to each prompt (N)", at_least=2)
    num_features: int = setting(8, "numbers that describe a response to a prompt (F)", at_least=1)
    num_aspects: int = setting(1, "aspects that the gold reward is the mean of (A)", at_least=1)
    aspect_correlation: float = setting(0.5, "correlation between two aspects of a response", at_least=0, at_most=1)
    unexplained: float = setting(
        0.2, "share of an aspect's variance that the features do not explain", at_least=0, below=1
    )
    reference_tilt: float = setting(
        0.0, "reference: proportional to exp(tilt x gold), gold in standard deviations; below 0 it avoids what is good"
    )
    pair_tilt: float = setting(
        0.0,
        "who draws the recorded responses: proportional to reference x exp(tilt x gold), gold in standard deviations",
    )
    rated: Literal["overall", "aspects", "first"] = setting(
        "overall",
        "what the labels of recorded pairs follow: one overall rating, the mean of one for each aspect, or one of the "
        "first aspect alone",
    )
    rating_noise: float = setting(
        0.0, "scale of the logistic error in the difference of two ratings, in reward", at_least=0
    )
    rating_flips: float = setting(0.0, "probability that a recorded label is flipped", at_least=0, at_most=0.5)
    rating_bias: float = setting(0.0, "how much raters like something else that the features show, in reward")

    def check(self) -> None:
        super().check()
        if self.length_bias:
            raise SpecError("length_bias", self.length_bias, "must be 0: all responses are of one length")
        if self.rated != "overall" and self.num_aspects == 1:
            raise SpecError("rated", self.rated, "must be overall where num_aspects = 1: there is one rating")
        for name in ("reference_tilt", "pair_tilt"):
            if abs(getattr(self, name)) > 50:  # e to it must be a number, for the likeliest of many normal ones
                raise SpecError(name, getattr(self, name), "must be between -50 and 50")

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.num_responses)

    @property
    def rewards_per_run(self) -> bool:
        return True

    def in_reward(self, scores: np.ndarray) -> np.ndarray:
        return scores * (self.rating_noise or 1.0)

    def rewards(self) -> np.ndarray:
        raise ValueError(f"{self.kind}: its rewards are drawn per run: see `all_rewards()` of what `build` returns")

    def drawn(self, noise: Noise) -> Drawn:
        """What is drawn for the runs of `noise`; shared by all who ask, so not to be changed."""
        sizes = (self.num_prompts, self.num_responses, self.num_features, self.num_aspects)
        return _drawn(sizes, self.aspect_correlation, self.unexplained, tuple(noise.runs), noise.generator)

    def gold(self, noise: Noise) -> np.ndarray:
        return np.asarray(self.drawn(noise).aspects.mean(-1))

    def features(self, noise: Noise | None = None) -> np.ndarray:
        noise = given(noise, "this environment draws features per run")
        return self.drawn(noise).features

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        noise = given(noise, "this environment draws a reference per run")
        return log_softmax(self.reference_tilt * _standardised(self.gold(noise)))[..., None, :]

    def recorded_probabilities(self, noise: Noise) -> np.ndarray:
        tilt = self.reference_tilt + self.pair_tilt
        return np.asarray(np.exp(log_softmax(tilt * _standardised(self.gold(noise)))))

    def recorded_labels(self, noise: Noise, gold: np.ndarray, prompts: Tensor, drawn: Tensor) -> Tensor:
        problem = self.drawn(noise)
        rated = {"overall": gold[..., None], "aspects": problem.aspects, "first": problem.aspects[..., :1]}[self.rated]
        liked = torch.from_numpy(rated + self.rating_bias * problem.taste[..., None])
        cells = cells_of(prompts, drawn, liked[..., 0])
        first, second = (
            torch.stack([at_cells(part, cells)[..., side] for part in liked.unbind(-1)], -1) for side in (0, 1)
        )
        uniforms = noise.uniforms("recorded labels", self.num_pairs, rated.shape[-1] + 1)
        errors = self.rating_noise * torch.logit(uniforms[..., 1:], eps=1e-12)
        won = (torch.sign((first - second + errors).mean(-1)) + 1.0) / 2.0
        return torch.where(uniforms[..., 0] < self.rating_flips, 1.0 - won, won).unsqueeze(-1)

    def tables(self, noise: Noise) -> Tables:
        found = super().tables(noise)
        if self.num_aspects > 1:
            aspects = self.drawn(noise).aspects
            found |= {"first": aspects[..., 0], "second": aspects[..., 1:].mean(-1)}
        return found

    def parts(self, tables: Tables, dtype: torch.dtype) -> Mapping[str, Tensor]:
        """The first aspect, and the mean of the others."""
        return {name: torch.from_numpy(tables[name]).to(dtype) for name in ("first", "second") if name in tables}


@functools.lru_cache(maxsize=8)  # everything that a run is built of asks for it, policies too
def _drawn(
    sizes: tuple[int, int, int, int],
    correlation: float,
    unexplained: float,
    runs: tuple[tuple[int, int], ...],
    generator: Generator,
) -> Drawn:
    """`RatedResponses.drawn`. sizes: X, N, F, A."""
    noise = Noise(runs, generator)
    *places, width, count = sizes

    def correlated(each: np.ndarray, common: np.ndarray) -> np.ndarray:
        return np.sqrt(correlation) * common + np.sqrt(1.0 - correlation) * each

    features = normals(noise, "features", *places, width)
    common, liked, other = np.moveaxis(normals(noise, "directions", 3, width), 1, 0)
    weights = correlated(normals(noise, "weights", count, width), common[:, None])
    rest = normals(noise, "unexplained", *places, count + 1)
    rest = correlated(rest[..., 1:], rest[..., :1])
    aspects = np.sqrt(1.0 - unexplained) * _project(features, weights) + np.sqrt(unexplained) * rest
    return Drawn(features, aspects, weights, _project(features, liked[:, None])[..., 0], other)


Order = Literal["mixed", "verifiable", "rated", "verifiable_rated", "rated_verifiable"]


@dataclass(frozen=True)
class TwoTasks(RatedResponses, kind="two_tasks"):
    """Two tasks for one network, half of the prompts verifiable and half rated.

    The first half of the prompts are verifiable, with reward 1 for one right response, and 0 for all others. Right is
    the response with the largest φ·v, v a direction at a cosine of `task_correlation` to that of what is rated, and the
    learner sees gold. The rewards of the other prompts are dense, half of what they are in `rated_responses` so that
    either task has about as much to gain, and the learner sees a reward model of recorded pairs of them. A response's
    features say of which task it is. `order`: which prompts are drawn.

    >>> tasks = sims.TwoTasks(order="rated_verifiable", switch_after=10)
    >>> run = sims.run(sims.RLOO(), tasks, sims.ResponseMLP(), updates=20, runs=2, evaluations=4)
    >>> run.record.arrays["gold_first"].shape  # of the verifiable prompts; gold_second: of the others
    (2, 5)
    """

    only_numbers: ClassVar[frozenset[str]] = RatedResponses.only_numbers | {"task_correlation"}

    task_correlation: float = setting(
        0.0, "cosine between the directions of what is right and of what is rated well", at_least=-1, at_most=1
    )
    order: Order = setting("mixed", "which prompts are drawn: of both tasks, of one alone, or of one after the other")
    switch_after: int = setting(100, "batches of the first task, where one comes after the other", at_least=1)

    def check(self) -> None:
        super().check()
        if self.num_prompts % 2:
            raise SpecError("num_prompts", self.num_prompts, "must be even: half of them are of either task")
        if self.proxy == "table":
            raise SpecError("proxy", self.proxy, "must be features: the recorded pairs are of half of the prompts")

    @property
    def verifiable(self) -> np.ndarray:
        """(X,) bool."""
        return np.arange(self.num_prompts) < self.num_prompts // 2

    def features(self, noise: Noise | None = None) -> np.ndarray:
        """And as a last one the task: 1 of verifiable prompts, −1 of the others."""
        found = super().features(noise)
        task = np.where(self.verifiable, 1.0, -1.0)[:, None, None]
        return np.concatenate([found, np.broadcast_to(task, (*found.shape[:-1], 1))], axis=-1)

    def gold(self, noise: Noise) -> np.ndarray:
        problem = self.drawn(noise)
        right = problem.features @ self._direction(problem)[:, None, :, None]
        best = right[..., 0] == right[..., 0].max(-1, keepdims=True)
        return np.where(self.verifiable[:, None], best, 0.5 * problem.aspects.mean(-1))

    def _direction(self, problem: Drawn) -> np.ndarray:
        """(R, F), of length 1: v."""
        rated = _unit(problem.weights.mean(1))
        other = problem.other - (problem.other * rated).sum(-1, keepdims=True) * rated
        cosine = self.task_correlation
        return np.asarray(cosine * rated + np.sqrt(1.0 - cosine**2) * _unit(other))

    def recorded_prompts(self, uniforms: Tensor) -> Tensor:
        return self.num_prompts // 2 + super().recorded_prompts(uniforms) // 2

    def tables(self, noise: Noise) -> Tables:
        found = super().tables(noise)
        verifiable = self.verifiable[:, None]
        if self.has_proxy:
            found |= {"scores": np.where(verifiable, found["rewards"], found["scores"])}
        return found | {
            "first": np.where(verifiable, 2.0 * found["rewards"], 0.0),
            "second": np.where(verifiable, 0.0, 2.0 * found["rewards"]),
        }

    def made(self, *parts: Any) -> ProxyEnvironment:
        return TwoTasksEnvironment(*parts, order=self.order, switch_after=self.switch_after)


class TwoTasksEnvironment(ProxyEnvironment):
    """Draws prompts of both tasks, of one, or of one after the other: it counts the batches of prompts that it drew."""

    def __init__(self, *parts: Any, order: Order, switch_after: int) -> None:
        super().__init__(*parts)
        self.tasks, self.switch_after, self.batches = order.split("_"), switch_after, 0

    def prompts(self, batch_size: int, noise: Noise) -> Prompts:
        task = self.tasks[0 if self.batches < self.switch_after else -1]
        self.batches += 1
        found = super().prompts(batch_size, noise)
        if task == "mixed":
            return found
        return Prompts(found.tokens // 2 + (0 if task == "verifiable" else self.num_prompts // 2))

    def state_dict(self) -> dict[str, int]:
        """How many batches of prompts were drawn, for a checkpoint."""
        return {"batches": self.batches}

    def load_state_dict(self, numbers: Mapping[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self.batches = numbers["batches"]


def _unit(direction: np.ndarray) -> np.ndarray:
    return np.asarray(direction / np.linalg.norm(direction, axis=-1, keepdims=True))


def _project(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """φ·w of weights that are normalised to length 1: variance 1. features: (R, X, N, F); weights: (R, A, F); returns
    (R, X, N, A)."""
    return np.einsum("rxnf,raf->rxna", features, _unit(weights))


def _standardised(gold: np.ndarray) -> np.ndarray:
    """Per prompt, with mean 0 and variance 1 over the responses. (..., N)."""
    centred = gold - gold.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True)))
