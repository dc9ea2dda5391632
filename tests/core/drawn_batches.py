"""Batches in general position for any algorithm: hypothesis draws sizes and style, and a seed gives the numbers.

A `Case` is a batch with everything that a policy could say of it, so that any algorithm runs on it, and a few ways of
writing the same batch differently: cut, reordered, padded. What an algorithm makes of one is `found`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from sims.core.algorithms import Algorithm, State, Targets, all_algorithms
from sims.core.objectives.batch import Batch, Outputs
from tests.core.algorithms.test_every_algorithm import variants

KINDS = list(all_algorithms())

# Which of a batch's fields have an entry per token, and which one per response.
TOKEN_FIELDS = ("responses", "mask", "logp_sampler", "logp_policy", "logp_ref", "values")
RESPONSE_FIELDS = ("weight", "rewards", "gold", "desirable")
OTHER_FIELDS = ("prompts", "prompt_mask", "pairs", "pair_label", "pair_weight", "probes", "reference_version")


def examples(number: int) -> settings:
    """So many examples where the long tests run too, and else half as many; the same each time."""
    fewer = number if settings.default is settings.get_profile("every example") else -(-number // 2)
    return settings(max_examples=fewer, derandomize=True, deadline=None)


@cache
def algorithms(kind: str) -> st.SearchStrategy[Algorithm]:
    """An algorithm by its defaults, or with some of its fields varied."""
    cls = all_algorithms()[kind]
    # What a table policy cannot give, and these batches can: the log-probs of prompts.
    more = [cls(include_prompt=True)] if "include_prompt" in cls.names() else []
    return st.sampled_from([*variants(cls).values(), *more])


@dataclass(frozen=True)
class Shape:
    lead: tuple[int, ...]
    prompts: int
    generations: int
    length: int


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """K = 2 … 8, L = 1 … 12; B = L now and then, and so many runs as prompts or as responses per prompt."""
    length, generations = draw(st.integers(1, 12)), draw(st.integers(2, 8))
    prompts = draw(st.sampled_from([1, 2, 3, length, length]))
    lead = draw(st.sampled_from([(), (1,), (prompts,), (generations,), (2, 3)]))
    return Shape(lead, prompts, generations, length)


@dataclass(frozen=True)
class Style:
    """mask: all tokens, padded on the right, with holes, or with responses that have no token at all. log_probs: what
    a whole response's are at most, in size. weight, pair_weight: None, 0 or 1, or any positive number."""

    seed: int
    mask: str
    rewards: str
    log_probs: float
    on_policy: bool
    weight: str
    pair_weight: str
    desirable: bool
    dtype: torch.dtype


@st.composite
def styles(draw: st.DrawFn, **only: Sequence[Any]) -> Style:
    """`only` limits what a field is drawn from."""
    choices: dict[str, Sequence[Any]] = {
        "seed": range(1000),
        "mask": ("full", "ragged", "holes"),
        "rewards": ("real", "tied", "equal"),
        "log_probs": (1.0, 10.0, 60.0),
        "on_policy": (False, False, False, True),
        "weight": ("none", "0 or 1", "positive"),
        "pair_weight": ("none", "0 or 1", "positive"),
        "desirable": (True, False),
        "dtype": (torch.float64,),
    }
    return Style(**{name: draw(st.sampled_from(only.get(name, values))) for name, values in choices.items()})


@dataclass(frozen=True, eq=False)
class Case:
    """A batch with what the policy says of it. logp, values, probe_logp: (..., B, K, L); prompt_logp: (..., B, P)."""

    shape: Shape
    style: Style
    batch: Batch
    logp: Tensor
    values: Tensor
    prompt_logp: Tensor
    probe_logp: Tensor

    def __repr__(self) -> str:
        return f"make_case({self.shape}, {self.style})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints of a failing example."""
        printer.text(repr(self))

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: x for f in fields(self) if isinstance(x := getattr(self, f.name), Tensor)}

    def over_prompts(self, change: Callable[[Tensor, int], Tensor]) -> Case:
        """`change(tensor, axis of B)` on everything there is."""
        axis = len(self.shape.lead)
        changed = {name: change(x, axis) for name, x in self.tensors().items()}
        return replace(self, batch=self.batch.over_prompts(change), **changed)

    def take_prompts(self, index: Sequence[int]) -> Case:
        return self.over_prompts(lambda x, axis: x.index_select(axis, torch.tensor(index)))

    def run(self, index: tuple[int, ...]) -> Case:
        """One of the runs, without leading axes."""
        alone = self.over_prompts(lambda x, axis: x[index])
        return replace(alone, shape=replace(self.shape, lead=()))

    def take_responses(self, index: Sequence[int]) -> Case:
        """Responses `index` of each prompt, in this order; a pair that lost a member is there with weight 0."""
        axis, kept = len(self.shape.lead) + 1, torch.tensor(index)
        place = torch.full((self.batch.mask.shape[-2],), -1)
        place[kept] = torch.arange(len(index))
        pairs, weight = place[self.batch.need("pairs")], self.batch.pair_weight
        if weight is None:
            weight = torch.ones_like(self.batch.need("pair_label"))
        whole = (pairs >= 0).all(-1)
        pairs = torch.where(whole.unsqueeze(-1), pairs, torch.tensor([0, 1]))

        def take(x: Tensor) -> Tensor:
            return x.index_select(axis, kept)

        names = TOKEN_FIELDS + RESPONSE_FIELDS
        batch = _change(self.batch, names, take, pairs=pairs, pair_weight=weight * whole)
        return replace(
            self, batch=batch, logp=take(self.logp), values=take(self.values), probe_logp=take(self.probe_logp)
        )

    def over_tokens(self, change: Callable[[Tensor], Tensor]) -> Case:
        """`change(tensor)` on whatever has an entry per token, in the last axis."""
        return replace(
            self,
            batch=_change(self.batch, TOKEN_FIELDS, change),
            logp=change(self.logp),
            values=change(self.values),
            probe_logp=change(self.probe_logp),
        )

    def to(self, dtype: torch.dtype) -> Case:
        """The same numbers in another precision."""

        def convert(x: Tensor, axis: int = 0) -> Tensor:
            return x.to(dtype) if x.is_floating_point() else x

        return self.over_prompts(convert)


def _change(batch: Batch, names: Sequence[str], change: Callable[[Tensor], Tensor], **more: Tensor) -> Batch:
    changed: dict[str, Any] = {name: change(x) for name in names if (x := getattr(batch, name)) is not None}
    if batch.probes is not None:
        changed["probes"] = _change(batch.probes, names, change)
    return batch.replace(**changed, **more)


@st.composite
def cases(draw: st.DrawFn, **only: Sequence[Any]) -> Case:
    return make_case(draw(shapes()), draw(styles(**only)))


def make_case(shape: Shape, style: Style) -> Case:
    """Numbers in general position. What is masked or absent holds numbers too: reading them changes the result."""
    generator = torch.Generator().manual_seed(style.seed)
    responses = (*shape.lead, shape.prompts, shape.generations)
    tokens = (*responses, shape.length)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def weights(choice: str, *size: int) -> Tensor | None:
        some = {"none": None, "0 or 1": (uniform(*size) < 0.7).double(), "positive": 0.2 + uniform(*size)}
        return some[choice]

    def log_probs(*size: int) -> Tensor:
        return -style.log_probs / shape.length * (0.01 + uniform(*size))

    def masks() -> Tensor:
        if style.mask == "full":
            return torch.ones((), dtype=torch.bool).expand(tokens)
        shortest = 0 if style.mask == "empty" else 1
        if style.mask == "holes":
            holes = uniform(*tokens) < 0.3
            holes[..., 0] = False
            return ~holes
        end = torch.randint(shortest, shape.length + 1, (*responses, 1), generator=generator)
        return torch.arange(shape.length) < end

    def ids(*size: int) -> Tensor:
        return torch.randint(0, 7, size, generator=generator)

    rewards = {
        "real": normal(*responses),
        "tied": ids(*responses) / 4.0 - 0.5,
        "equal": torch.full(responses, 0.1, dtype=torch.float64),
    }[style.rewards].double()
    prompt_length = 1 + style.seed % 4
    padding = torch.randint(0, prompt_length, (*shape.lead, shape.prompts, 1), generator=generator)
    pair_shape = (*shape.lead, shape.prompts, 1 + style.seed % 3)
    first = torch.randint(0, shape.generations, pair_shape, generator=generator)
    apart = torch.randint(1, shape.generations, pair_shape, generator=generator)
    label = uniform(*pair_shape)
    logp_sampler, mask = log_probs(*tokens), masks()
    prompts = (*shape.lead, shape.prompts, prompt_length)
    batch = Batch(
        prompts=ids(*prompts),
        prompt_mask=torch.arange(prompt_length) >= padding,
        responses=ids(*tokens),
        mask=mask,
        weight=weights(style.weight, *responses),
        rewards=rewards,
        gold=rewards,
        pairs=torch.stack([first, (first + apart) % shape.generations], dim=-1),
        pair_label=torch.where(uniform(*pair_shape) < 0.5, label, label.round()),
        pair_weight=weights(style.pair_weight, *pair_shape),
        desirable=uniform(*responses) if style.desirable else None,
        logp_sampler=logp_sampler,
        logp_ref=log_probs(*tokens),
        values=normal(*tokens),
        probes=Batch(
            prompts=ids(*prompts),
            responses=ids(*tokens),
            mask=masks(),
            weight=weights(style.weight, *responses),
            logp_ref=log_probs(*tokens),
        ),
    )
    logp = logp_sampler.clone() if style.on_policy else log_probs(*tokens)
    if style.seed % 2:  # the sampler was another policy
        batch = batch.replace(logp_policy=log_probs(*tokens))
    case = Case(shape, style, batch, logp, normal(*tokens), log_probs(*prompts), log_probs(*tokens))
    # By way of float32, so that either width holds the very same numbers.
    return case.to(torch.float32).to(style.dtype)


@contextmanager
def float64_by_default() -> Iterator[None]:
    """What no tensor's type decides, such as a count divided by a count, is float64 within."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def with_nan(case: Case) -> Case:
    """NaN, or another id, wherever nothing counts: masked tokens, absent responses, pairs that have no weight or lost
    a member, a prompt's padding and its first token, which nothing predicts."""
    batch = case.batch
    absent, pairs = _absent(batch), batch.need("pairs")
    uncounted = absent.gather(-1, pairs[..., 0]) | absent.gather(-1, pairs[..., 1])
    if batch.pair_weight is not None:
        uncounted = uncounted | (batch.pair_weight == 0)
    assert batch.probes is not None and batch.prompt_mask is not None
    asked = batch.prompt_mask & ~absent.all(-1, keepdim=True)
    spoilt = _spoilt(batch).replace(
        prompts=_spoil(batch.prompts, ~asked),
        pair_label=_spoil(batch.need("pair_label"), uncounted),
        probes=_spoilt(batch.probes),
    )
    return replace(
        case,
        batch=spoilt,
        logp=_spoil(case.logp, _hidden(batch)),
        values=_spoil(case.values, _hidden(batch)),
        prompt_logp=_spoil(case.prompt_logp, ~asked | (batch.prompt_mask.cumsum(-1) <= 1)),
        probe_logp=_spoil(case.probe_logp, _hidden(batch.probes)),
    )


def _absent(batch: Batch) -> Tensor:
    return torch.zeros_like(batch.mask[..., 0]) if batch.weight is None else batch.weight == 0


def _hidden(batch: Batch) -> Tensor:
    return ~batch.mask | _absent(batch).unsqueeze(-1)


def _spoil(x: Tensor, where: Tensor) -> Tensor:
    return x.masked_fill(where, torch.nan) if x.is_floating_point() else torch.where(where, x + 1, x)


def _spoilt(batch: Batch) -> Batch:
    names = [name for name in TOKEN_FIELDS + RESPONSE_FIELDS if name not in ("mask", "weight")]
    there = {name: x for name in names if (x := getattr(batch, name)) is not None}
    masks = {True: _hidden(batch), False: _absent(batch)}
    return batch.replace(**{name: _spoil(x, masks[name in TOKEN_FIELDS]) for name, x in there.items()})


@dataclass(frozen=True, eq=False)
class Found:
    """Each prompt's loss (..., B), and the gradient of a run's loss by log-probs, values and prompts' log-probs."""

    loss: Tensor
    logp: Tensor
    values: Tensor
    prompt_logp: Tensor

    @property
    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.logp, self.values, self.prompt_logp


def later_state(algorithm: Algorithm, case: Case) -> State:
    """What the algorithm carries after a first batch, of the case's first prompt alone."""
    state = algorithm.initial_state(case.shape.lead, case.logp.dtype, case.logp.device)
    return algorithm.targets(case.batch.narrow(0, 1), state)[1]


def aim(algorithm: Algorithm, batch: Batch, state: State, epoch: int = 0) -> Targets:
    """The targets of a collected batch."""
    return algorithm.at_epoch(batch, algorithm.targets(batch, state)[0], epoch)


def update(algorithm: Algorithm, case: Case, targets: Targets) -> Found:
    """One minibatch, not cut further."""
    probe_logp = case.probe_logp if algorithm.needs_probes else None
    return differentiate(algorithm, case, algorithm.at_update(case.batch, targets, probe_logp))


def differentiate(algorithm: Algorithm, case: Case, targets: Targets) -> Found:
    """The loss as it stands, and its gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in (case.logp, case.values, case.prompt_logp)]
    outputs = Outputs(leaves[0], leaves[1], None, leaves[2])
    loss = algorithm.loss(outputs, case.batch, targets)
    return Found(loss.detach(), *torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True))


def found(algorithm: Algorithm, case: Case, state: State | None = None, epoch: int = 0) -> Found:
    """Loss and gradients of a case from beginning to end."""
    state = later_state(algorithm, case) if state is None else state
    return update(algorithm, case, aim(algorithm, case.batch, state, epoch))


def same(got: Tensor, expected: Tensor, tolerance: float = 1e-11) -> None:
    """Equal up to `tolerance` of the largest entry, everywhere finite."""
    assert got.shape == expected.shape
    if expected.numel():
        most, largest = float((got - expected).abs().max()), float(expected.abs().max())
        assert largest < float("inf")
        assert most <= tolerance * (1.0 + largest), f"off by {most} where the largest is {largest}"


def all_same(got: Found, expected: Found, tolerance: float = 1e-11) -> None:
    """Equal losses, run by run, and gradients."""
    same(got.loss.sum(-1), expected.loss.sum(-1), tolerance)
    for ours, theirs in zip(got.gradients, expected.gradients, strict=True):
        same(ours, theirs, tolerance)
