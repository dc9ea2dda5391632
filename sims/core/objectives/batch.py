"""What one collection of responses looks like to every algorithm.

Trailing axes are always (B, K, L): prompts, responses per prompt, tokens. A bandit is L = 1. Leading axes, written
`...`, count independent runs; a language model has none. B counts prompts, so that the "batch size" of most papers is
B·K here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import torch
from torch import Tensor

from sims.core.numerics.recorded import on_host

from .reductions import pair_weights


@dataclass(frozen=True, eq=False)
class Batch:
    """Responses and their data, frozen at collection; None for fields that the algorithm does not use.

    Entries of absent responses may be anything, NaN included: here their mask becomes False, their rewards 0, and their
    pairs get weight 0.

    prompts: (..., B) ids, or (..., B, P) tokens padded on the left, with prompt_mask of the same shape.
    responses: (..., B, K, L) token ids.
    mask: (..., B, K, L) bool, True where the policy chose a token, EOS included; built while sampling.
    weight: (..., B, K), 0 where a response is absent (filtered, ragged); every denominator uses it. None: all present.
    rewards, gold: (..., B, K), what the learner sees, and what it is evaluated by.
    pairs: (..., B, Q, 2) indices into K; pair_label: (..., B, Q) probability that the first of a pair is preferred;
        pair_weight: (..., B, Q); zero-weight pairs are ignored. None: all weigh 1.
    desirable: (..., B, K) probability that a response is labelled good (KTO).
    logp_sampler: (..., B, K, L) log-probs under the distribution that drew the tokens.
    logp_policy: (..., B, K, L) log-probs under the policy as it was at collection; None where that is the sampler.
    logp_ref, values: (..., B, K, L) reference log-probs and critic values, frozen at collection.
    probes: the same prompts with other prompts' responses, for algorithms that compare against mismatched text.
    reference_version: how often the reference had been replaced or averaged when logp_ref was computed.
    """

    prompts: Tensor
    responses: Tensor
    mask: Tensor
    prompt_mask: Tensor | None = None
    weight: Tensor | None = None
    rewards: Tensor | None = None
    gold: Tensor | None = None
    pairs: Tensor | None = None
    pair_label: Tensor | None = None
    pair_weight: Tensor | None = None
    desirable: Tensor | None = None
    logp_sampler: Tensor | None = None
    logp_policy: Tensor | None = None
    logp_ref: Tensor | None = None
    values: Tensor | None = None
    probes: Batch | None = None
    reference_version: int = 0

    def __post_init__(self) -> None:
        """Clear absent entries, so that no algorithm has to handle them."""
        if self.weight is None and self.pair_weight is None:
            return
        cleared: dict[str, Tensor | None] = {}
        if self.weight is not None:
            there = self.weight > 0
            cleared["mask"] = self.mask & there.unsqueeze(-1)
            cleared |= {name: torch.where(there, x, 0.0) for name in _LABELS if (x := getattr(self, name)) is not None}
        if self.pairs is not None:
            weight = cleared["pair_weight"] = pair_weights(self.weight, self.pairs, self.pair_weight)
            if weight is not None and self.pair_label is not None:
                cleared["pair_label"] = torch.where(weight > 0, self.pair_label, 0.5)
        for name, value in cleared.items():
            object.__setattr__(self, name, value)

    @property
    def lead(self) -> tuple[int, ...]:
        """Sizes of the axes that count runs."""
        return tuple(self.responses.shape[:-3])

    @property
    def size(self) -> int:
        """B, the number of prompts."""
        return self.responses.shape[-3]

    def need(self, name: str) -> Tensor:
        """A field that an algorithm requires; ValueError if it is None."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"batch.{name} is missing: this algorithm needs it")
        return value  # type: ignore[no-any-return]

    def ratio_to_reference(self) -> Tensor:
        """log π − log π_ref of each token, π the policy as it was at collection: (..., B, K, L)."""
        policy = self.need("logp_sampler") if self.logp_policy is None else self.logp_policy
        return policy - self.need("logp_ref")

    def replace(self, **changes: Any) -> Batch:
        return replace(self, **changes)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are not None, by name; without probes, which are made anew from the batch."""
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}

    def over_prompts(self, change: Callable[[Tensor, int], Tensor]) -> Batch:
        """Apply `change(tensor, axis of B)` to every field, the probes' included."""
        axis = len(self.lead)
        changed = {name: change(value, axis) for name, value in self.tensors().items()}
        if self.probes is not None:
            changed["probes"] = self.probes.over_prompts(change)  # type: ignore[assignment]
        return replace(self, **changed)  # type: ignore[arg-type]

    def narrow(self, start: int, length: int) -> Batch:
        """Prompts `start` to `start + length`, as views."""
        if start == 0 and length == self.size:
            return self
        return self.over_prompts(lambda x, axis: x.narrow(axis, start, length))

    def gather(self, index: Tensor) -> Batch:
        """The prompts at `index` (..., B'), a different index per run."""
        return self.over_prompts(lambda x, axis: take_items(x, index, axis))

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """Batches of the same fields, concatenated along B; without probes, which are made anew."""
        first, axis = batches[0], len(batches[0].lead)
        parts = [batch.tensors() for batch in batches]
        joined = {name: torch.cat([part[name] for part in parts], dim=axis) for name in parts[0]}
        return replace(first, probes=None, **joined)  # type: ignore[arg-type]


_LABELS = ("rewards", "gold", "desirable")


def up_to_last(mask: Tensor) -> Tensor:
    """Which slots (..., L) of responses are read: all up to the last token that counts, masked ones among them."""
    return mask.flip(-1).cumsum(-1).flip(-1) > 0


def take_items(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """`x[..., index, ...]` along `axis`, run by run. x: lead + (B,) + rest; index: lead + (B',)."""
    rest = x.shape[axis + 1 :]
    return x.gather(axis, index.reshape(index.shape + (1,) * len(rest)).expand(index.shape + rest))


@dataclass(frozen=True)
class OutputRequest:
    """What a policy is asked to compute besides log-probs; see `Outputs`."""

    values: bool = False
    entropy: bool = False
    prompt_logp: bool = False


LOG_PROBS = OutputRequest()  # nothing else


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a policy computes for a batch. logp, values, entropy: (..., B, K, L).

    prompt_logp: (..., B, P) log-probs of the prompts' own tokens, from a policy that can score them; entries at padding
    and at a prompt's first token, which nothing predicts, are never read.
    """

    logp: Tensor
    values: Tensor | None = None
    entropy: Tensor | None = None
    prompt_logp: Tensor | None = None


@overload
def over(value: Tensor, like: Tensor) -> Tensor: ...
@overload
def over(value: float | Tensor, like: Tensor) -> float | Tensor: ...
def over(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A hyper-parameter that broadcasts against `like`, whose leading axes are the runs: a float unchanged, an array
    over runs with trailing axes of size 1 added."""
    return value.reshape(value.shape + (1,) * (like.dim() - value.dim())) if isinstance(value, Tensor) else value


def in_use(value: float | Tensor) -> bool:
    """Whether a coefficient is not 0. A tensor, one value per run, counts as not 0: runs in which it is 0 are not
    stacked with others (`experiment.stack_key`)."""
    return isinstance(value, Tensor) or value > 0


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """x where mask, else 0; entries where mask is False, NaN included, affect neither the value nor the gradient.

    x itself where the mask is a single True expanded over all slots, as token spaces without EOS give it: read from its
    strides, because masking would cost as much as the losses on a bandit; on the CPU only, as elsewhere reading waits.
    """
    if on_host(mask) and mask.numel() > 0 and not any(mask.stride()) and bool(mask.as_strided((), ())):
        return x
    return torch.where(mask, x, 0.0)


def sequence_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Σ_t x_t over the tokens of each response. x, mask: (..., L); returns (...)."""
    counted = masked(x, mask)
    return counted.squeeze(-1) if x.shape[-1] == 1 else counted.sum(-1)


def lengths(mask: Tensor) -> Tensor:
    """Number of tokens of each response, EOS included. mask: (..., L); returns (...) int64."""
    return mask.sum(-1)


def pick(x: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """First and second member of each pair. x: (..., B, K); pairs: (..., B, Q, 2); returns two (..., B, Q)."""
    return x.gather(-1, pairs[..., 0]), x.gather(-1, pairs[..., 1])
