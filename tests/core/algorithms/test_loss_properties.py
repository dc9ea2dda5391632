"""What must hold of every algorithm on any batch. Rows are those of `tests/BUGS.md`.

Runs on a new algorithm without being told: its fields are varied by `test_every_algorithm.variants`. `sims.checks`
holds what a plain function of a family can show, and tries our losses as anybody's (`tests/checks`). Here is what only
a whole batch has: weights, pairs, truncation, the axes of runs, all options, and algorithms that are of no family.
"""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sims.core.algorithms import Algorithm, all_algorithms
from sims.core.loop.learner import narrow
from sims.core.objectives.batch import Batch
from tests.core.algorithms.test_every_algorithm import variants
from tests.core.drawn_batches import (
    KINDS,
    OTHER_FIELDS,
    RESPONSE_FIELDS,
    TOKEN_FIELDS,
    Case,
    Found,
    Shape,
    Style,
    aim,
    algorithms,
    all_same,
    cases,
    differentiate,
    examples,
    float64_by_default,
    found,
    later_state,
    make_case,
    same,
    update,
    with_nan,
)

every_algorithm = pytest.mark.parametrize("kind", KINDS)
WIDTHS = (torch.float32, torch.float64)
STYLED = {"mask": ("full", "ragged", "holes", "empty")}


def test_every_field_of_a_batch_is_drawn() -> None:
    """A new one must say whether it has an entry per token or per response, so that reordering and cutting reach it."""
    assert sorted(f.name for f in fields(Batch)) == sorted(TOKEN_FIELDS + RESPONSE_FIELDS + OTHER_FIELDS)


def numbers_a_run(algorithm: Algorithm, lead: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Another value per run for each field that may have one; one that is 0 stays so in every second algorithm."""
    generator = torch.Generator().manual_seed(len(lead))
    numbers = {}
    for name in algorithm.per_run_fields():
        value = getattr(algorithm, name)
        share = torch.rand(lead, generator=generator, dtype=dtype)
        if value or len(lead) == 1:
            numbers[name] = value * (0.4 + 0.6 * share) if value else 0.2 + 0.5 * share
    return numbers


@every_algorithm
@examples(10)
@given(data=st.data())
def test_row_28_one_loss_a_prompt_whatever_the_sizes(kind: str, data: st.DataObject) -> None:
    """B = L, as many runs as prompts or responses: nothing broadcasts that should not."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED, dtype=WIDTHS))
    got = found(algorithm, case)
    assert got.loss.shape == (*case.shape.lead, case.shape.prompts)
    assert got.loss.dtype == case.logp.dtype
    assert torch.isfinite(got.loss).all()
    assert all(torch.isfinite(gradient).all() for gradient in got.gradients)


@every_algorithm
@examples(10)
@given(data=st.data())
def test_leading_axes_are_a_stack_of_single_runs(kind: str, data: st.DataObject) -> None:
    """One number per run, where that is possible, against floats; and what runs beside a run changes no bit of it."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    lead = case.shape.lead
    numbers = numbers_a_run(algorithm, lead, case.logp.dtype)
    stacked = algorithm.replace(**numbers)
    state = later_state(stacked, case)
    together = found(stacked, case, state)
    for index in itertools.islice(itertools.product(*map(range, lead)), 3):
        one = algorithm.replace(**{name: float(x[index]) for name, x in numbers.items()})
        alone = found(one, case.run(index), {name: x[index] for name, x in state.items()})
        same(alone.loss, together.loss[index])
        for ours, theirs in zip(alone.gradients, together.gradients, strict=True):
            same(ours, theirs[index])
    if len(lead) == 1:
        run = slice(lead[0] - 1, lead[0])
        last = replace(case.over_prompts(lambda x, axis: x[run]), shape=replace(case.shape, lead=(1,)))
        without = stacked.replace(**{name: x[run] for name, x in numbers.items()})
        apart = found(without, last, {name: x[run] for name, x in state.items()})
        assert torch.equal(apart.loss, together.loss[run])
        assert all(torch.equal(a, b[run]) for a, b in zip(apart.gradients, together.gradients, strict=True))


@every_algorithm
@examples(10)
@given(data=st.data())
def test_row_45_reordering_prompts_reorders_targets_and_gradients(kind: str, data: st.DataObject) -> None:
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    order = data.draw(st.permutations(range(case.shape.prompts)))
    state, axis, index = later_state(algorithm, case), len(case.shape.lead), torch.tensor(order)
    other = case.take_prompts(order)
    targets, reordered = aim(algorithm, case.batch, state), aim(algorithm, other.batch, state)
    assert targets.keys() == reordered.keys()
    for name, value in targets.items():
        same(reordered[name], value.index_select(axis, index))
    got, expected = update(algorithm, other, reordered), update(algorithm, case, targets)
    same(got.loss, expected.loss.index_select(axis, index))
    for ours, theirs in zip(got.gradients, expected.gradients, strict=True):
        same(ours, theirs.index_select(axis, index))


@every_algorithm
@examples(10)
@given(data=st.data())
def test_reordering_responses_reorders_gradients(kind: str, data: st.DataObject) -> None:
    """Pairs move along with their members: which slot a response stands in means nothing."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    order = data.draw(st.permutations(range(case.shape.generations)))
    state, axis, index = later_state(algorithm, case), len(case.shape.lead) + 1, torch.tensor(order)
    got, expected = found(algorithm, case.take_responses(order), state), found(algorithm, case, state)
    same(got.loss, expected.loss)
    same(got.prompt_logp, expected.prompt_logp)
    same(got.logp, expected.logp.index_select(axis, index))
    same(got.values, expected.values.index_select(axis, index))


def deviation_of_a_sample(algorithm: Algorithm) -> bool:
    """Whether rewards are divided by the batch's deviation with ddof 1, which is not that of the batch twice over."""
    values: dict[str, Any] = {name: getattr(algorithm, name) for name in algorithm.names()}
    return values.get("scale_rewards") == "batch" and values.get("ddof") == 1


@every_algorithm
@examples(10)
@given(data=st.data())
def test_rows_11_and_18_twice_the_batch_is_the_same_loss(kind: str, data: st.DataObject) -> None:
    """Means, not sums; and the denominator is the minibatch's: half of the doubled batch is the batch again."""
    algorithm = data.draw(algorithms(kind).filter(lambda a: not deviation_of_a_sample(a)))
    case = data.draw(cases(**STYLED))
    state, once = later_state(algorithm, case), case.shape.prompts
    expected = found(algorithm, case, state)
    double = case.take_prompts([*range(once), *range(once)])
    targets = aim(algorithm, double.batch, state)
    twice = update(algorithm, double, targets)
    same(twice.loss.sum(-1), expected.loss.sum(-1))
    axis = len(case.shape.lead)
    for ours, theirs in zip(twice.gradients, expected.gradients, strict=True):
        for copy in ours.split(once, axis):
            same(2.0 * copy, theirs)
    half = double.take_prompts(range(once))
    all_same(update(algorithm, half, narrow(double.batch, targets, 0, half.batch.size)[1]), expected)


@every_algorithm
@examples(10)
@given(data=st.data())
def test_rows_10_13_14_17_any_partition_of_a_minibatch(kind: str, data: st.DataObject) -> None:
    """Micro-batches and ranks of any sizes, ragged lengths, the value loss included: parts add up to the whole."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    state = later_state(algorithm, case)
    targets = aim(algorithm, case.batch, state)
    probe_logp = case.probe_logp if algorithm.needs_probes else None
    targets = algorithm.at_update(case.batch, targets, probe_logp)
    whole, axis = differentiate(algorithm, case, targets), len(case.shape.lead)
    every = range(case.shape.prompts)
    ranks = data.draw(st.lists(st.integers(0, 2), min_size=len(every), max_size=len(every)))
    total = torch.zeros_like(whole.loss.sum(-1))
    for rank in set(ranks):
        mine = [prompt for prompt in every if ranks[prompt] == rank]
        index = torch.tensor(mine)
        part = differentiate(
            algorithm, case.take_prompts(mine), {name: x.index_select(axis, index) for name, x in targets.items()}
        )
        total += part.loss.sum(-1)
        for ours, theirs in zip(part.gradients, whole.gradients, strict=True):
            same(ours, theirs.index_select(axis, index))
    same(total, whole.loss.sum(-1))


def without(case: Case, absent: Tensor) -> Case:
    """The case with some of its responses, `absent` (B, K), given weight 0, among the probes too."""

    def weight(old: Tensor | None) -> Tensor:
        return (torch.ones_like(case.logp[..., 0]) if old is None else old).masked_fill(absent, 0.0)

    probes = case.batch.probes
    assert probes is not None
    batch = case.batch.replace(weight=weight(case.batch.weight), probes=probes.replace(weight=weight(probes.weight)))
    return replace(case, batch=batch)


@every_algorithm
@examples(12)
@given(data=st.data())
def test_rows_12_and_46_weight_0_is_deleted(kind: str, data: st.DataObject) -> None:
    """Whole prompts, or some of every prompt's responses: no numerator and no denominator counts them."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    prompts, generations = case.shape.prompts, case.shape.generations
    rows = data.draw(st.lists(st.integers(0, prompts - 1), min_size=1, max_size=prompts, unique=True))
    slots = data.draw(st.lists(st.integers(0, generations - 1), min_size=2, max_size=generations, unique=True))
    there = torch.zeros(prompts, generations, dtype=torch.bool)
    there[torch.tensor(rows).unsqueeze(-1), torch.tensor(slots)] = True
    state = later_state(algorithm, case)
    expected = found(algorithm, case.take_prompts(rows).take_responses(slots), state)
    got, axis = found(algorithm, without(case, ~there), state), len(case.shape.lead)
    same(got.loss.sum(-1), expected.loss.sum(-1))
    for ours, theirs in ((got.logp, expected.logp), (got.values, expected.values)):
        kept = ours.index_select(axis, torch.tensor(rows)).index_select(axis + 1, torch.tensor(slots))
        same(kept, theirs)
        assert (ours.masked_fill(there.unsqueeze(-1), 0.0) == 0.0).all()
    same(got.prompt_logp.index_select(axis, torch.tensor(rows)), expected.prompt_logp)


@every_algorithm
@examples(10)
@given(data=st.data())
def test_a_pair_of_weight_0_is_a_deleted_pair(kind: str, data: st.DataObject) -> None:
    """Row 12, of pairs."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    pairs = case.batch.need("pairs").shape[-2]
    kept = data.draw(st.lists(st.integers(0, pairs - 1), min_size=1, max_size=pairs, unique=True))
    weight = case.batch.pair_weight
    ones = torch.ones_like(case.batch.need("pair_label"))
    there = torch.zeros(pairs, dtype=torch.bool)
    there[kept] = True
    zeroed = case.batch.replace(pair_weight=(ones if weight is None else weight) * there)
    fewer = case.batch.replace(
        pairs=case.batch.need("pairs")[..., kept, :],
        pair_label=case.batch.need("pair_label")[..., kept],
        pair_weight=None if weight is None else weight[..., kept],
    )
    state = later_state(algorithm, case)
    all_same(found(algorithm, replace(case, batch=zeroed), state), found(algorithm, replace(case, batch=fewer), state))


@every_algorithm
@examples(10)
@given(data=st.data())
def test_rows_16_and_47_more_masked_tokens_change_nothing(kind: str, data: st.DataObject) -> None:
    """To the right of a response, as padding, or between its tokens, as a tool's answer."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    length, more = case.shape.length, data.draw(st.integers(1, 4))
    right = list(range(length))
    places = data.draw(st.just(right) | st.permutations(range(length + more)).map(lambda p: sorted(p[:length])))
    generator = torch.Generator().manual_seed(case.style.seed)

    def inserted(x: Tensor) -> Tensor:
        wide = torch.randn(*x.shape[:-1], length + more, generator=generator)
        wide = torch.zeros_like(wide, dtype=x.dtype) if not x.is_floating_point() else wide.to(x.dtype)
        wide[..., places] = x
        return wide

    state = later_state(algorithm, case)
    got, expected = found(algorithm, case.over_tokens(inserted), state), found(algorithm, case, state)
    same(got.loss, expected.loss)
    same(got.prompt_logp, expected.prompt_logp)
    for ours, theirs in ((got.logp, expected.logp), (got.values, expected.values)):
        same(ours[..., places], theirs)
        ours[..., places] = 0.0
        assert (ours == 0.0).all()


@every_algorithm
@examples(20)
@given(data=st.data())
def test_rows_35_and_46_nan_where_nothing_counts(kind: str, data: st.DataObject) -> None:
    """NaN in masked slots, in all of an absent response, in pairs that do not count and in a prompt's padding reaches
    neither loss nor gradient; responses without a token, and prompts without a response, divide nothing by 0."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED, dtype=WIDTHS))
    spoilt, passes = with_nan(case), range(1 if type(algorithm).at_epoch is Algorithm.at_epoch else 3)
    for epoch in passes:
        got = found(algorithm, spoilt, later_state(algorithm, spoilt), epoch)
        expected = found(algorithm, case, later_state(algorithm, case), epoch)
        assert torch.isfinite(expected.loss).all()
        for ours, theirs in zip((got.loss, *got.gradients), (expected.loss, *expected.gradients), strict=True):
            assert torch.equal(ours, theirs)


@every_algorithm
@examples(10)
@given(data=st.data())
def test_no_float32_creeps_into_float64(kind: str, data: st.DataObject) -> None:
    """A count divided by a count has PyTorch's default precision, float32, whatever is computed with it: were the
    default float64, no bit would change."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    got = found(algorithm, case)
    with float64_by_default():
        expected = found(algorithm, case)
    for ours, theirs in zip((got.loss, *got.gradients), (expected.loss, *expected.gradients), strict=True):
        assert torch.equal(ours, theirs)


@every_algorithm
@examples(12)
@given(data=st.data())
def test_row_51_float32_is_float64_rounded(kind: str, data: st.DataObject) -> None:
    """At log-probs of a response down to −60, too. An empty response has probability 1, whose odds ORPO takes to be the
    largest of the precision: another number in each."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(**STYLED))
    assume(kind != "orpo" or bool(case.batch.mask.any(-1).all()))
    narrow = found(algorithm, case.to(torch.float32))
    wide = found(algorithm, case)
    all_same(Found(*(x.double() for x in (narrow.loss, *narrow.gradients))), wide, 1e-4)


class WatchForFloat32(TorchDispatchMode):
    """Notes the operations that give a float32 tensor: between integers a division does, whatever else is float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen += [str(func) for x in tree_leaves(out) if isinstance(x, Tensor) and x.dtype == torch.float32]
        return out


@every_algorithm
def test_nothing_in_float64_is_computed_in_float32(kind: str) -> None:
    style = Style(3, "ragged", "real", 1.0, False, "0 or 1", "0 or 1", True, torch.float64)
    case = make_case(Shape((2,), 3, 4, 5), style)
    for name, algorithm in variants(all_algorithms()[kind]).items():
        with WatchForFloat32() as watch:
            found(algorithm, case)
        assert not watch.seen, f"{name}: {watch.seen}"
