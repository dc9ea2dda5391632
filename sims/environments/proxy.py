"""A proxy reward: a Bradley–Terry reward model fitted to finitely many labelled pairs, with the gold reward kept.

The learner sees the proxy; records have both, and the exact win rate by gold against the reference. The pairs are drawn
per run: responses from the data policy, labels from gold, possibly with a taste for length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from sims.core.numerics.noise import Noise
from sims.core.numerics.sampling import inverse_cdf
from sims.core.objectives.batch import Batch, pick
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, setting

from .bandit import BanditOverlap
from .bradley_terry import fit_bradley_terry, pair_losses
from .enumerable import EnumerableSpec, Tables, given
from .learned_reward import LearnedReward
from .recorded import RecordedEnvironment, at_cells, cells_of, normals, of_pairs, of_problem
from .space import EOS, TokenSpace
from .token_tree import TokenTree

MOST_FEATURES = 2000


class Problem(NamedTuple):
    """What a reward model is fitted for, float64; with a leading axis of runs where each has its own. gold: (X, N);
    probabilities: (X, N), the data policy's of each whole response; features: (X, N, F), what a score may depend on."""

    gold: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray

    def of_run(self, run: int) -> Problem:
        own = zip(self, (2, 2, 3), strict=True)
        return Problem(*(x if x.ndim == axes else x[run] for x, axes in own))


@dataclass(frozen=True)
class Proxy(EnumerableSpec):
    """What every environment with a proxy reward has; a subclass mixes it into an environment and names features.

    Labels: P(first ≻ second) = σ((u_1 − u_2)/label_temperature) with u = gold + length_bias·length, in tokens. The
    score is θ·φ, the minimum of Bradley–Terry's loss with an L2 penalty (`bradley_terry`), times the label temperature
    where there is one: then a labeller of the same temperature that is given proxy rewards labels as the reward model
    predicts. So the proxy is gold, up to a constant, as pairs of every kind grow many and the features suffice; unless
    an error is planted: with `overscore`, the response of least gold to each prompt has the largest score.
    """

    has_data: ClassVar[bool] = True
    has_features: ClassVar[bool] = True

    num_pairs: int = setting(256, "recorded pairs, each of two draws from the data policy", at_least=1)
    proxy: Literal["table", "features", "gold"] = setting(
        "features",
        "scores of the reward model: one free number per response, or linear in the environment's features; gold: no "
        "reward model, the learner sees gold",
    )
    proxy_l2: float = setting(0.1, "L2 penalty on the reward model's parameters, half its square added", above=0)
    length_bias: float = setting(0.0, "how much a token of length is worth to who labels the recorded pairs, in reward")
    fresh_labels: Literal["noisy", "noiseless"] = setting(
        "noisy", "labels of fresh responses, by the reward model: with the noise of the recorded ones, or without"
    )

    overscore: float | None = setting(
        None,
        "an error to plant: the reward model scores the response of least gold to each prompt by so much above all "
        "others, in reward; none: nothing is planted",
        at_least=0,
        omit_default=True,
    )

    @property
    def has_proxy(self) -> bool:
        return self.proxy != "gold"

    @property
    def without_reward_model(self) -> Self:
        return self.replace(proxy="gold", overscore=None)

    def problem(self, noise: Noise) -> Problem:
        """What the runs of `noise` are about: the same for all, unless an environment draws it per run."""
        return Problem(self.gold(noise), self.recorded_probabilities(noise), self.features(noise))

    def gold(self, noise: Noise) -> np.ndarray:
        """(X, N) gold rewards, or (R, X, N) where runs differ. noise: the runs, from their start."""
        return self.rewards()

    def recorded_prompts(self, uniforms: Tensor) -> Tensor:
        """The prompts of recorded pairs, from uniforms on [0, 1): (R, D)."""
        return (uniforms * self.num_prompts).long().clamp(max=self.num_prompts - 1)

    def recorded_probabilities(self, noise: Noise) -> np.ndarray:
        """(X, N), or (R, X, N): of each whole response, to stand in a recorded pair."""
        return self.response_probabilities()

    def recorded_labels(self, noise: Noise, gold: np.ndarray, prompts: Tensor, drawn: Tensor) -> Tensor:
        """(R, D, 1) labels of recorded pairs. gold: `problem`'s; prompts: (R, D); drawn: (R, D, 2), their responses."""
        liked = torch.from_numpy(gold + self.length_bias * self.lengths()).expand(len(prompts), *gold.shape[-2:])
        first, second = at_cells(liked, cells_of(prompts, drawn, liked)).split(1, dim=-1)
        return self.labeller.label(first, second, noise.uniforms("recorded labels", self.num_pairs, 1, 2))

    def lengths(self) -> np.ndarray:
        """(N,) tokens of each response before EOS."""
        return lengths(self.space).numpy()

    def check(self) -> None:
        super().check()
        size = self.num_prompts * len(self.space.all_responses[0])
        if self.proxy == "table" and size > MOST_FEATURES:
            rule = f"must be features: a table would have {size:,} free numbers, at most {MOST_FEATURES:,} are fitted"
            raise SpecError("proxy", self.proxy, rule)
        if self.overscore is not None and not self.has_proxy:
            raise SpecError("overscore", self.overscore, "must be none where there is no reward model: proxy = gold")

    def tables(self, noise: Noise) -> Tables:
        """Gold rewards; recorded pairs, as indices of responses; and what the reward model that fits them says."""
        own = of_problem(noise)
        problem = self.problem(own)
        uniforms = own.uniforms("recorded pairs", self.num_pairs, 3)
        prompts = self.recorded_prompts(uniforms[..., 0])
        data_policy = torch.from_numpy(problem.probabilities).expand(*noise.lead, *problem.gold.shape[-2:])
        drawn = torch.stack([inverse_cdf(data_policy, uniforms[..., k], prompts) for k in (1, 2)], dim=-1)
        labels = self.recorded_labels(own, problem.gold, prompts, drawn)
        found = {
            "rewards": problem.gold,
            "pair_prompts": prompts.numpy()[..., None],
            "pair_responses": drawn.numpy(),
            "pair_labels": labels.numpy(),
        }
        if not self.has_proxy:
            return found
        pairs = zip(prompts.numpy(), drawn.numpy(), labels[..., 0].numpy(), strict=True)
        fitted = [self.fitted(problem.of_run(run), *own_pairs) for run, own_pairs in enumerate(pairs)]
        return found | {name: np.stack([tables[name] for tables in fitted]) for name in fitted[0]}

    def fitted(self, problem: Problem, prompts: np.ndarray, responses: np.ndarray, labels: np.ndarray) -> Tables:
        """The reward model of one run's pairs, as its tables; see `fit`."""
        scores, numbers = self.fit(prompts, responses, labels, problem.features)
        if self.overscore is not None:
            scores = overscored(scores, problem.gold, self.overscore)
        return {"scores": scores, "fit": numbers}

    def fit(
        self, prompts: np.ndarray, responses: np.ndarray, labels: np.ndarray, features: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The reward model of one run's pairs: scores (X, N), of mean 0 over the responses of a prompt; and its mean
        loss and its accuracy on these pairs, (1, 2). prompts, labels: (D,); responses: (D, 2), their indices; features:
        (X, N, F), or the environment's own."""
        x, n = self.num_prompts, len(self.space.all_responses[0])
        if self.proxy == "table":
            features = np.eye(x * n).reshape(x, n, -1)
        elif features is None:
            features = self.features()
        differences = features[prompts, responses[:, 0]] - features[prompts, responses[:, 1]]
        theta = fit_bradley_terry(differences, labels, self.proxy_l2)
        scores = self.in_reward(features @ theta)
        return scores - scores.mean(-1, keepdims=True), fit_numbers(differences @ theta, labels)

    def in_reward(self, scores: np.ndarray) -> np.ndarray:
        """Scores of the reward model, which are log-odds of its labels, in units of reward."""
        return scores * (self.label_temperature or 1.0)

    def response_probabilities(self, noise: Noise | None = None) -> np.ndarray:
        """(X, N), or (R, X, N) where runs differ: the data policy's probability of each whole response."""
        responses, mask = self.space.all_responses
        nodes = self.space.node_index(responses)
        logp = self.reference_logp(noise)
        tokens = logp[..., 0 if nodes is None else nodes.numpy(), responses.numpy()]  # (..., X, N, L)
        return np.exp(np.where(mask.numpy(), tokens, 0.0).sum(-1))

    def environment(self, tables: Tables, dtype: torch.dtype, noise: Noise) -> ProxyEnvironment:
        gold = torch.from_numpy(tables["rewards"]).to(dtype)
        prompts, drawn = torch.from_numpy(tables["pair_prompts"])[..., 0], torch.from_numpy(tables["pair_responses"])
        every, masks = self.space.all_responses
        cells = cells_of(prompts, drawn, gold)
        rewards = at_cells(gold.expand(*noise.lead, *gold.shape[-2:]), cells)
        data = of_pairs(prompts, every[drawn], rewards, masks[drawn], torch.from_numpy(tables["pair_labels"]).to(dtype))
        covered = torch.zeros(*noise.lead, gold.shape[-2] * gold.shape[-1], dtype=torch.bool)
        covered = covered.scatter(1, cells.flatten(1), True).view(*noise.lead, *gold.shape[-2:])
        learned = None
        if self.has_proxy:
            loss, accuracy = torch.from_numpy(tables["fit"]).to(dtype)[:, 0].unbind(-1)
            learned = LearnedReward(torch.from_numpy(tables["scores"]).to(dtype), loss, accuracy)
        fresh = self.labeller if self.fresh_labels == "noisy" else Labeller(correct_above=self.correct_above)
        margins = torch.from_numpy(tables["margins"]).to(dtype) if "margins" in tables else None
        return self.made(self.space, gold, fresh, covered, data, learned, margins, self.parts(tables, dtype))

    def made(self, *parts: Any) -> ProxyEnvironment:
        """The environment of what it consists of, as `ProxyEnvironment` takes it."""
        return ProxyEnvironment(*parts)

    def parts(self, tables: Tables, dtype: torch.dtype) -> Mapping[str, Tensor]:
        """What gold is made of, and is measured too: name → (R, X, N)."""
        return {}


def overscored(scores: np.ndarray, gold: np.ndarray, above: float) -> np.ndarray:
    """Scores by which the response of least gold to each prompt is so much above the best of the others, which keep
    theirs up to a constant; of mean 0 over responses. scores, gold: (X, N), N ≥ 2."""
    worst = gold.argmin(-1)[:, None]
    planted = scores.copy()
    np.put_along_axis(planted, worst, -np.inf, axis=-1)
    np.put_along_axis(planted, worst, planted.max(-1, keepdims=True) + above, axis=-1)
    return planted - planted.mean(-1, keepdims=True)


def fit_numbers(margins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean loss of pairs, and the share that is ordered as labelled: (1, 2). margins, labels: (D,)."""
    # As a tie is labelled ½, a margin of 0 is right where the label is.
    accuracy = (np.sign(margins) == np.sign(labels - 0.5)).mean()
    return np.array([[pair_losses(margins, labels).mean(), accuracy]])


def lengths(space: TokenSpace) -> Tensor:
    """(N,) tokens of each response before EOS."""
    responses, mask = space.all_responses
    return (mask & (responses != EOS)).sum(-1) if space.eos else mask.sum(-1)


class ProxyEnvironment(RecordedEnvironment):
    """Recorded pairs of each run, the proxy that was fitted to them, and the win rate by gold.

    margins: (R, X·N, N), by how much a proxy that compares two responses prefers the first to the second, which labels
    fresh pairs of single actions; None: they are labelled by their scores. parts: rewards that gold is made of, name →
    (R, X, N), each of which records have as gold_NAME and best_NAME.
    """

    def __init__(
        self,
        space: TokenSpace,
        gold: Tensor,
        labeller: Labeller,
        covered: Tensor,
        data: Batch,
        learned: LearnedReward | None,
        margins: Tensor | None = None,
        parts: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        super().__init__(space, gold, labeller, covered, data, learned)
        self.margins, self.parts = margins, parts
        if margins is not None:
            self.compared = self._by_margins

    def facts(self) -> dict[str, Tensor]:
        """And the smallest expected gold, worst_reward; and of each part the same, and the largest, best_NAME: (R,)."""
        found = {"worst_reward": self.rewards.amin(-1).mean(-1).expand(len(self.covered))}
        for name, part in self.parts.items():
            found |= {f"best_{name}": part.amax(-1).mean(-1), f"worst_{name}": part.amin(-1).mean(-1)}
        return super().facts() | found

    def _by_margins(self, prompts: Tensor, responses: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the proxy prefers the first of each pair, and 0: (..., B, Q) both."""
        assert self.margins is not None
        first, second = pick(responses[..., 0], pairs)
        width = self.margins.shape[-1]
        cells = (prompts.unsqueeze(-1) * width + first) * width + second  # (R, B, Q)
        margin = self.margins.flatten(1).gather(1, cells.flatten(1)).view(cells.shape)
        return margin, torch.zeros_like(margin)

    def measures(self, logp: Tensor, logp_ref: Tensor) -> dict[str, Tensor]:
        """unseen_mass; win_rate, exact: Σ π(y)·π_ref(y')·[r(y) > r(y')], ties ½, mean over prompts; how the policy's
        implicit reward and the proxy classify pairs (`accuracy`); the expected reward of each part of gold; and where
        responses end by EOS, their expected length."""
        policy, reference = logp.double().exp(), logp_ref.double().exp()
        order = torch.sign(self.rewards.unsqueeze(-1) - self.rewards.unsqueeze(-2)).double()
        # Contiguous: the last bits of a sum depend on how its terms lie in memory, and so on R.
        wins = (0.5 * (order + 1.0) * reference.unsqueeze(-2)).contiguous().sum(-1)
        found = super().measures(logp, logp_ref) | {"win_rate": (policy * wins).contiguous().sum(-1).mean(-1)}
        scored = {"policy": (logp - logp_ref).double()}
        if self.learned is not None:
            scored["proxy"] = self.learned.scores.double()
        for name, scores in scored.items():
            found[f"{name}_accuracy"] = accuracy(scores, order, reference)
            found[f"{name}_accuracy_on_policy"] = accuracy(scores, order, policy)
        found = {name: x.to(logp.dtype) for name, x in found.items()}
        for name, part in self.parts.items():
            found[f"gold_{name}"] = (logp.exp() * part).sum(-1).mean(-1)
        if self.space.eos:
            found["length"] = (logp.exp() * lengths(self.space)).sum(-1).mean(-1)
        return found


def accuracy(scores: Tensor, order: Tensor, probabilities: Tensor) -> Tensor:
    """(R,): the share of pairs of two draws that scores order as gold does, exact, mean over prompts; ties of the
    scores count ½, pairs that are equal by gold are left out. scores, probabilities: (R, X, N); order: (R, X, N, N) or
    (X, N, N), the sign of the difference in gold. ½ where a prompt has a single response."""
    weight = probabilities.unsqueeze(-1) * probabilities.unsqueeze(-2) * order.abs()
    agreement = torch.sign(scores.unsqueeze(-1) - scores.unsqueeze(-2)) * order
    total = weight.contiguous().flatten(-2).sum(-1)
    right = (weight * agreement).contiguous().flatten(-2).sum(-1)
    return (0.5 + 0.5 * right / total.clamp(min=torch.finfo(total.dtype).tiny)).mean(-1)


@dataclass(frozen=True)
class ProxyBandit(Proxy, BanditOverlap, kind="proxy_bandit"):
    """The bandit of `bandit_overlap`; the learner sees a reward model of labelled pairs, a sum of cosines.

    They are cos(πk(a + ½)/N), k = 1 … num_features. Where the data policy never goes, the sum goes on somehow.

    >>> run = sims.run(sims.RLOO(), sims.ProxyBandit(), updates=20, runs=2)
    >>> run.reward.shape == run.gold.shape == run.record.arrays["win_rate"].shape  # proxy, gold, against the reference
    True
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(
        ("peak", "width", "overlap", "spread", "proxy", "proxy_l2", "length_bias", "overscore", "num_features")
    )

    num_features: int = setting(8, "cosines that the proxy is made of (proxy = features)", at_least=1)

    def check(self) -> None:
        super().check()
        if self.num_features > self.num_actions - 1:
            rule = f"must be at most {self.num_actions - 1}, with which any scores of {self.num_actions} actions can be"
            raise SpecError("num_features", self.num_features, f"{rule} had, up to a constant")

    def features(self, noise: Noise | None = None) -> np.ndarray:
        place = (np.arange(self.num_actions) + 0.5) / self.num_actions
        waves = np.cos(np.pi * np.arange(1, self.num_features + 1) * place[:, None])
        return np.tile(waves, (self.num_prompts, 1, 1))


@dataclass(frozen=True)
class ProxyTree(Proxy, TokenTree, kind="proxy_token_tree"):
    """The tree of `token_tree`; the learner sees a reward model of labelled pairs that counts tokens, a bag of words.

    A score is linear in how often each token but EOS stands in a response. These counts add up to the length, so that
    a length bias of the labels is learned, and goes on beyond the lengths that were seen.

    >>> run = sims.run(sims.RLOO(), sims.ProxyTree(length_bias=0.5), updates=20, runs=2)
    >>> round(float(run.record.arrays["win_rate"][0, 0]), 6)  # of the reference against itself
    0.5
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(("table_seed", "proxy", "proxy_l2", "length_bias", "overscore"))

    table_seed: int | None = setting(  # type: ignore[assignment]  # frozen: nobody assigns one to a TokenTree's
        0, "seed of the rewards and of the data policy; none: each run draws its own", at_least=0
    )

    @property
    def rewards_per_run(self) -> bool:
        return self.table_seed is None

    def problem(self, noise: Noise) -> Problem:
        if self.table_seed is not None:
            return super().problem(noise)
        rewards = noise.uniforms("tree rewards", self.num_prompts, len(self.space.all_responses[0]))
        return Problem(rewards.numpy(), self.response_probabilities(noise), self.features())

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        if self.table_seed is not None:
            return super().reference_logp(noise)
        noise = given(noise, "this environment draws a reference per run")
        shape = (self.num_prompts, self.space.nodes, self.vocabulary)
        logits = normals(of_problem(noise), "tree logits", *shape)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def features(self, noise: Noise | None = None) -> np.ndarray:
        responses, mask = (x.numpy() for x in self.space.all_responses)
        tokens = np.arange(EOS + 1, self.vocabulary)
        counts = ((responses[..., None] == tokens) & mask[..., None]).sum(1)
        return np.tile(counts.astype(np.float64), (self.num_prompts, 1, 1))
