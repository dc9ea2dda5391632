"""Users whose questions and preferences drift from cycle to cycle, biased labellers, and skills that few ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from sims.core.loop.protocols import Policy, Prompts
from sims.core.numerics.noise import Noise
from sims.core.numerics.sampling import inverse_cdf
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, setting

from .enumerable import EnumerableEnvironment, EnumerableSpec, Tables, given
from .recorded import normals, of_problem
from .space import TokenSpace

TYPICAL_LENGTH, LENGTH_SPREAD = 100.0, 0.5  # tokens; standard deviation of their logarithm


@dataclass(frozen=True)
class Drifting(EnumerableSpec, kind="drifting"):
    """Prompts of users and of a gold set, whose popularity and gold rewards move once per cycle; drawn per run.

    A cycle, say a week, is `updates_per_cycle` updates long. The gold reward of a response is Φ(u), uniform on [0, 1],
    where u of cycle c + 1 is √(1 − d²)·u + d·ξ with standard normal u and ξ: a cycle is as difficult as the one
    before, whatever the drift d. The popularity of prompts is the softmax of `prompt_spread` times a number that
    drifts likewise. Prompts of the gold set, the last `gold_prompts`, are skills that the reference has, whose rewards
    do not drift: together they are asked with probability `gold_share`.

    Each response has a length of 100·e^{z/2} tokens and a style z', z and z' standard normal and independent of gold.
    What the learner sees and labellers go by is gold + bias·(z or z') − length_penalty·z. The reference's logits
    are skill·u of the first cycle, plus noise.

    >>> run = sims.run(sims.DPO(), sims.Drifting(), sims.MLP(hidden=(16,)), updates=20, runs=2, sync_every_updates=10)
    >>> run.record.arrays["deployed_gold"].shape  # what users get, from the policy of the last sync
    (2, 21)
    """

    only_numbers: ClassVar[frozenset[str]] = frozenset(
        {
            *("prompt_spread", "prompt_drift", "preference_drift", "gold_share", "problems"),
            *("bias", "bias_of", "length_penalty", "reference_noise", "reference_skill", "gold_skill"),
        }
    )

    exact: ClassVar[str] = "reward, KL, entropy"

    num_prompts: int = setting(16, "number of different prompts (X), those of the gold set included", at_least=1)
    num_responses: int = setting(16, "number of responses to each prompt (N)", at_least=2)
    updates_per_cycle: int = setting(10, "updates in a cycle, after which users and preferences have moved", at_least=1)
    cycles: int = setting(20, "cycles after which nothing moves any more", at_least=1)
    prompt_spread: float = setting(0.0, "spread of the logits of the prompts' popularity", at_least=0)
    prompt_drift: float = setting(0.0, "drift of these logits per cycle (d)", at_least=0, at_most=1)
    preference_drift: float = setting(0.3, "drift of the gold rewards per cycle (d)", at_least=0, at_most=1)
    gold_prompts: int = setting(0, "number of prompts of the gold set", at_least=0)
    gold_share: float = setting(0.0, "probability that a prompt is of the gold set", at_least=0, below=1)
    bias: float = setting(0.0, "reward that labellers see in a standard deviation of length or style")
    bias_of: Literal["length", "style"] = setting("length", "what the bias is about")
    length_penalty: float = setting(0.0, "reward taken off per standard deviation of the logarithm of length")
    reference_skill: float = setting(0.5, "how strongly the reference's logits follow the first rewards")
    gold_skill: float = setting(3.0, "the same on the gold set")
    reference_noise: float = setting(0.5, "standard deviation of the noise in these logits", at_least=0, at_most=50)
    problems: int | None = setting(
        None, "number of different problems: run r has problem r modulo this; none: one per run", at_least=1
    )

    def check(self) -> None:
        if self.gold_prompts >= self.num_prompts:
            rule = f"must be below num_prompts = {self.num_prompts}: users ask for something else too"
            raise SpecError("gold_prompts", self.gold_prompts, rule)
        if self.gold_share and not self.gold_prompts:
            raise SpecError("gold_share", self.gold_share, "only means something with gold_prompts of 1 or more")

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.num_responses)

    @property
    def has_proxy(self) -> bool:
        return bool(self.bias or self.length_penalty)

    @property
    def drifts(self) -> bool:
        """Whether users or their preferences move."""
        return bool(self.preference_drift or self.prompt_drift)

    def _own(self, noise: Noise) -> Noise:
        own = of_problem(noise)
        if self.problems is None:
            return own
        return own.from_start([(seed, run % self.problems) for seed, run in own.runs])

    def _drift(self, start: np.ndarray, steps: np.ndarray, d: float) -> np.ndarray:
        """(R, cycles + 1, ...): start (R, ...), then one step per cycle, (R, cycles, ...)."""
        found = [start]
        for c in range(self.cycles):
            found.append(np.sqrt(1.0 - d * d) * found[-1] + d * steps[:, c])
        return np.stack(found, axis=1)

    def _first_scores(self, noise: Noise) -> np.ndarray:
        """(R, X, N): u of the first cycle."""
        return normals(self._own(noise), "scores", self.num_prompts, self.num_responses)

    def gold_rewards(self, noise: Noise) -> np.ndarray:
        """(R, cycles + 1, X, N)."""
        first, x = self._first_scores(noise), self.num_prompts - self.gold_prompts
        steps = normals(self._own(noise), "drift of scores", self.cycles, self.num_prompts, self.num_responses)
        scores = self._drift(first, steps, self.preference_drift)
        scores[:, :, x:] = first[:, None, x:]  # skills stay what they are
        return np.asarray(ndtr(scores))

    def popularity(self, noise: Noise) -> np.ndarray:
        """(R, cycles + 1, X): the probability of each prompt."""
        own, x = self._own(noise), self.num_prompts - self.gold_prompts
        first, steps = normals(own, "popularity", x), normals(own, "drift of popularity", self.cycles, x)
        weight = np.exp(self.prompt_spread * self._drift(first, steps, self.prompt_drift))
        asked = weight / weight.sum(-1, keepdims=True) * (1.0 - self.gold_share)
        rare = np.full((*asked.shape[:-1], self.gold_prompts), self.gold_share / max(self.gold_prompts, 1))
        return np.concatenate([asked, rare], axis=-1)

    def attributes(self, noise: Noise) -> np.ndarray:
        """(R, 2, X, N): length and style, in standard deviations."""
        return normals(self._own(noise), "attributes", 2, self.num_prompts, self.num_responses)

    def reference_logp(self, noise: Noise | None = None) -> np.ndarray:
        noise = given(noise, "this environment draws a reference per run")
        skill = np.full((self.num_prompts, 1), self.reference_skill)
        skill[self.num_prompts - self.gold_prompts :] = self.gold_skill
        off = normals(self._own(noise), "reference logits", self.num_prompts, self.num_responses)
        logits = skill * self._first_scores(noise) + self.reference_noise * off
        logits -= logits.max(-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[..., None, :]

    def tables(self, noise: Noise) -> Tables:
        """rewards: of the first cycle; of every cycle, one below the other: gold and seen (R, cycles·X, N), and the
        popularity (R, cycles, X); and what lengths and the bias are about, (R, X, N), in standard deviations."""
        gold, attributes = self.gold_rewards(noise), self.attributes(noise)
        length, style = attributes[:, :1], attributes[:, 1:]
        biased = length if self.bias_of == "length" else style
        seen = gold + self.bias * biased - self.length_penalty * length
        rows = (len(noise.runs), -1, self.num_responses)
        return {
            "rewards": gold[:, 0],
            "gold": gold.reshape(rows),
            "seen": seen.reshape(rows),
            "popularity": self.popularity(noise),
            "lengths": length[:, 0],
            "biased": biased[:, 0],
        }

    def environment(self, tables: Tables, dtype: torch.dtype, noise: Noise) -> DriftingEnvironment:
        found = {name: torch.from_numpy(np.array(table)).to(dtype) for name, table in tables.items()}
        return DriftingEnvironment(self.space, self.labeller, found, self.updates_per_cycle, self.gold_prompts)


class DriftingEnvironment(EnumerableEnvironment):
    """The rewards and the popularity of the cycle that `advance` was last told.

    tables: those of `Drifting.tables`, with an axis of runs. gold_prompts: how many of the last prompts are the gold
    set's.
    """

    def __init__(
        self,
        space: TokenSpace,
        labeller: Labeller,
        tables: dict[str, Tensor],
        updates_per_cycle: int,
        gold_prompts: int,
    ) -> None:
        super().__init__(space, tables["rewards"], labeller)
        self.updates_per_cycle, self.gold_prompts = updates_per_cycle, gold_prompts
        self.every_gold, self.every_seen = (
            tables[name].unflatten(1, (-1, self.num_prompts)) for name in ("gold", "seen")
        )
        self.popularity = tables["popularity"]
        self.tokens = TYPICAL_LENGTH * (LENGTH_SPREAD * tables["lengths"]).exp()
        self.biased = tables["biased"]
        self._seen = EnumerableEnvironment(space, self.every_seen[:, 0], labeller)
        self._lengths = EnumerableEnvironment(space, self.tokens, labeller)
        self.gold = super().reward
        self.cycle = -1
        self.advance(0)

    def advance(self, updates: int) -> None:
        """It is now after so many updates."""
        cycle = min(updates // self.updates_per_cycle, self.popularity.shape[1] - 1)
        if cycle != self.cycle:
            self.cycle = cycle
            self.set_rewards(self.every_gold[:, cycle])
            self._seen.set_rewards(self.every_seen[:, cycle])
            self.prompt_weights = self.popularity[:, cycle]

    def prompts(self, batch_size: int, noise: Noise) -> Prompts:
        """Ids (R, B), by the popularity of the cycle."""
        assert self.prompt_weights is not None
        return Prompts(inverse_cdf(self.prompt_weights, noise.uniforms("prompts", batch_size)))

    def reward(self, prompts: Tensor, responses: Tensor) -> Tensor:
        return self._seen.reward(prompts, responses)

    def seen_rewards(self) -> Tensor:
        return self._seen.rewards

    def curated(self, prompts: Prompts, responses: Tensor) -> Tensor:
        """(R, B): the short-but-right pairs, whose shorter response has the larger gold reward. responses: (R, B, 2,
        1)."""
        gold = super().reward(prompts.tokens, responses)
        length = self._lengths.reward(prompts.tokens, responses)
        return (gold[..., 0] - gold[..., 1]) * (length[..., 0] - length[..., 1]) < 0

    def gold_set_score(self, policy: Policy) -> Tensor:
        """(R,): expected gold reward on the gold set."""
        return self._of_gold_set(policy.all_log_probs())  # type: ignore[attr-defined]

    def _of_gold_set(self, logp: Tensor) -> Tensor:
        first = self.num_prompts - self.gold_prompts
        return (logp.exp() * self.rewards)[:, first:].sum(-1).mean(-1)

    def measures(self, logp: Tensor, logp_ref: Tensor) -> dict[str, Tensor]:
        """What drifts: the reference's gold reward and the largest one, as users ask now. The expected length and what
        the bias rewards; and the gold set's score."""
        found = {
            "reference_now": self.mean(logp_ref.exp() * self.rewards),
            "best_now": self.weighted(self.rewards.amax(-1)),
            "length": self.mean(logp.exp() * self.tokens),
            "exploit": self.mean((logp.exp() - logp_ref.exp()) * self.biased),
        }
        return found | ({"gold_set": self._of_gold_set(logp)} if self.gold_prompts else {})
