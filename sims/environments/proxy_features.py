"""Problems that are drawn: responses described by numbers, gold a random network of these, and a reward model of some
capacity that was fitted to few labelled pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, setting

from .bradley_terry import fit_bradley_terry
from .enumerable import Tables, given
from .proxy import Problem, Proxy, fit_numbers
from .recorded import normals, of_problem
from .space import TokenSpace


@dataclass(frozen=True)
class ProxyFeatures(Proxy, kind="proxy_features"):
    """Responses described by numbers; each run draws gold and data policy, the learner sees a reward model of pairs.

    The numbers φ of a response are standard normal. Gold is Σ_j a_j·tanh(w_j·φ + b_j) over `gold_width` units, all
    normal, then of mean 0 and standard deviation 1 over all responses. The data policy is ∝ e^{s·v·φ}, v a random
    direction and s = `reference_spread`: what lies far the other way is rarely drawn, and to it a reward model has to
    extrapolate. The reward model is linear in φ and in `num_features` units max(0, u_k·φ + c_k), of which the first
    stay the same as there are more. A pairwise one (Tang et al. 2024) is linear in φ_1 − φ_2 and in as many units of
    both responses, f(φ_1, φ_2) − f(φ_2, φ_1), so that the order in which it sees them does not matter; its reward is
    its mean margin over a response of the data policy.

    >>> run = sims.run(sims.DPO(), sims.ProxyFeatures(), sims.ResponseMLP(fit_steps=100), updates=20, runs=2)
    >>> run.record.arrays["rewards"].shape  # each run has its own gold
    (2, 4, 32)
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(
        ("gold_width", "reference_spread", "num_features", "proxy_l2", "overscore")
    )

    num_prompts: int = setting(4, "number of different prompts (X)", at_least=1)
    num_responses: int = setting(32, "number of responses to each prompt (N)", at_least=2, at_most=200)
    num_inputs: int = setting(6, "numbers that describe a response to a prompt", at_least=1)
    gold_width: int = setting(16, "units of the network that is the gold reward", at_least=1)
    reference_spread: float = setting(1.0, "standard deviation of the data policy's logits", at_least=0, at_most=50)
    num_features: int = setting(32, "units of the reward model, its capacity (proxy = features)", at_least=0)
    proxy_form: Literal["pointwise", "pairwise"] = setting(
        "pointwise", "what the reward model scores: a response, or a pair of them, whatever their order"
    )

    def check(self) -> None:
        super().check()
        if self.proxy_form == "pairwise" and self.proxy != "features":
            raise SpecError("proxy_form", "pairwise", "only means something when proxy = features")
        if self.proxy_form == "pairwise" and self.overscore is not None:
            raise SpecError("overscore", self.overscore, "must be none where pairs are scored: proxy_form = pairwise")

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.num_responses)

    @property
    def rewards_per_run(self) -> bool:
        return True

    def features(self, noise: Noise | None = None) -> np.ndarray:
        """φ, which a policy sees; those of the reward model are made of it (`problem`)."""
        noise = given(noise, "this environment draws responses per run")
        return normals(of_problem(noise), "responses", self.num_prompts, self.num_responses, self.num_inputs)

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        noise = given(noise, "this environment draws a reference per run")
        direction = normals(of_problem(noise), "direction of the reference", self.num_inputs)
        direction /= np.sqrt((direction**2).sum(-1, keepdims=True))
        logits = self.reference_spread * (self.features(noise) * direction[:, None, None]).sum(-1)
        return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[..., None, :]

    def problem(self, noise: Noise) -> Problem:
        inputs, own, size = self.features(noise), of_problem(noise), self.num_inputs
        weights = normals(own, "gold", self.gold_width, size + 2)  # of the inputs, the bias, and the unit's own
        gold = np.stack([np.tanh(x @ w[:, :-2].T + w[:, -2]) @ w[:, -1] for x, w in zip(inputs, weights, strict=True)])
        gold -= gold.mean((-2, -1), keepdims=True)
        gold /= np.sqrt((gold**2).mean((-2, -1), keepdims=True))
        return Problem(gold, self.response_probabilities(noise), self._features(inputs, own))

    def _features(self, inputs: np.ndarray, noise: Noise) -> np.ndarray:
        """(R, X, N, F): φ and the units of a pointwise reward model, or φ and, of a pairwise one, both parts of what
        goes into its units: u_k·φ_1 + c_k and u'_k·φ_2."""
        sides = 2 if self.proxy_form == "pairwise" else 1
        weights = normals(noise, "units of the reward model", self.num_features, sides * self.num_inputs + 1)
        size = self.num_inputs
        found = []
        for x, w in zip(inputs, weights, strict=True):
            parts = [x @ w[:, size * k : size * (k + 1)].T / np.sqrt(sides * size) for k in range(sides)]
            parts[0] = parts[0] + w[:, -1]
            found.append(np.concatenate([x, *(parts if sides > 1 else [np.maximum(parts[0], 0.0)])], axis=-1))
        return np.stack(found)

    def fitted(self, problem: Problem, prompts: np.ndarray, responses: np.ndarray, labels: np.ndarray) -> Tables:
        if self.proxy_form == "pointwise":
            return super().fitted(problem, prompts, responses, labels)
        differences = self._between(problem.features)  # (X, N, N, F)
        seen = differences[prompts, responses[:, 0], responses[:, 1]]
        theta = fit_bradley_terry(seen, labels, self.proxy_l2)
        margins = self.in_reward(differences @ theta)
        margins = (margins - margins.swapaxes(1, 2)) / 2  # to the last bit: a tie is one in either order
        scores = (margins * problem.probabilities[:, None, :]).sum(-1)
        scores -= scores.mean(-1, keepdims=True)
        flat = margins.reshape(-1, self.num_responses)
        return {"scores": scores, "fit": fit_numbers(seen @ theta, labels), "margins": flat}

    def _between(self, features: np.ndarray) -> np.ndarray:
        """(X, N, N, F): what a pairwise margin is linear in; exchanging the responses turns its sign."""
        own, first, second = np.split(features, [self.num_inputs, self.num_inputs + self.num_features], axis=-1)
        units = np.maximum(first[:, :, None] + second[:, None, :], 0.0)
        return np.concatenate([own[:, :, None] - own[:, None, :], units - units.swapaxes(1, 2)], axis=-1)
