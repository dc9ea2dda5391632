"""Every row of every figure, on records with a planted effect: does the verdict say what was planted?

Nothing runs: records are made up (`synthetic`), and what each row should answer is said by hand (`planted`). The noise
of the runs is fixed and small beside the margins, so that no test here has a chance to fail by luck.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import pytest

from figures.arms import gating, matched
from figures.catalogue import catalogue, row
from figures.claims import Verdict
from figures.figure import all_figures
from figures.gallery import toy_to_lm
from sims.experiments import measures
from sims.experiments.store import Record
from sims.statistics import intervals as statistics
from sims.statistics.bootstrap import mean_bounds
from tests.figures.planted import PLANTED, Planted, Term
from tests.figures.synthetic import QUANTITIES, Levels, balanced, filled, skeleton

RANKED = "toy_to_lm"  # its effect is a rank correlation, which has tests of its own below
SHARES = {("data_quality", "C44")}  # and those of shares of variance: `test_data_quality.py`
# Rows of probabilities, of accuracies and of entropies: no score of their arms is 0 of the reference.
WITHOUT_A_SCORE = {("C49", "bandit"), ("C49", "mlp"), ("C20", "mlp"), ("C37", "token")}
NAMES = {f"{p.figure}: {p.id}, {p.part} ({p.setting})": p for p in PLANTED}
FIGURES = all_figures()
WITH_CLAIMS = [name for name, figure in FIGURES.items() if figure.claims]


@functools.cache
def empty(figure: str) -> Mapping[str, Record]:
    return skeleton(FIGURES[figure])


@functools.cache
def level(figure: str, noise: float) -> Mapping[str, Record]:
    """Records of a figure in which all arms are alike but for their noise."""
    return {key: filled(record, {}, noise) for key, record in empty(figure).items()}


def students(x: np.ndarray, level: float, resamples: int | None, seed: int) -> tuple[np.ndarray, ...]:
    """Student's ends are enough to see a state, or an interval move: the noise here is small and normal."""
    return _students(x.tobytes(), x.shape, level)


@functools.lru_cache(10_000)  # most rows stay where they are when a record of another is moved
def _students(numbers: bytes, shape: tuple[int, ...], level: float) -> tuple[np.ndarray, ...]:
    return mean_bounds(np.frombuffer(numbers).reshape(shape), level, None, 0)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, called once for the same objects: most records are those of the tables before. Now and then it
    begins anew, as those of all tables are gigabytes."""
    known: dict[tuple[int, ...], tuple[Any, Any]] = {}  # the objects too, so that no other gets their identity

    def found(*given: Any) -> Any:
        key = tuple(map(id, given))
        if key not in known:
            if len(known) == 5_000:
                known.clear()
            known[key] = given, function(*given)
        return known[key][1]

    return found


STUDENTS = mock.patch.object(statistics, "mean_bounds", students)
SCORES = mock.patch.object(measures, "_score", once(measures._score))
ENVIRONMENTS = mock.patch.object(gating, "from_json", once(gating.from_json))


Rows = Mapping[tuple[str, str, str], Verdict]


def rows_of(figure: str, records: Mapping[str, Record]) -> Rows:
    """Rows by id, part and setting."""
    with STUDENTS, SCORES, ENVIRONMENTS, mock.patch.object(toy_to_lm, "RESAMPLES", 100):
        return _rows(figure, records)


def _rows(figure: str, records: Mapping[str, Record]) -> Rows:
    return {(r.id, r.part, r.setting): r for r in FIGURES[figure].verdicts(records)}


def matching(figure: str, arms: str) -> list[str]:
    """Keys of records; a pattern that matches none is a mistake of the line in `planted`."""
    found = [key for key in empty(figure) if re.fullmatch(arms, key)]
    assert found, f"{figure}: no record is called {arms}"
    return found


# The rows that there are.


@pytest.mark.parametrize("name", WITH_CLAIMS)
def test_a_figure_gives_the_rows_of_the_catalogue(name: str) -> None:
    found = rows_of(name, level(name, 0.01))
    listed = {
        (entry.id, r.claim.part, setting)
        for entry in catalogue().values()
        for r in entry.rows
        if r.figure == name
        for setting in r.settings
    }
    assert set(found) == listed
    for (id, part, setting), verdict in found.items():
        claim = row(id, part).claim
        assert verdict.figure == name and verdict.command == f"python -m figures {name}"
        assert (verdict.claim, verdict.margin, verdict.unit) == (claim.text, claim.margin, claim.unit)
        assert verdict.claimed == claim.claimed and verdict.note.endswith(".")
        assert "{" not in verdict.measure
        gates = [gate.name for gate in verdict.gates]
        if "grid edge" in gates and (id, setting) not in WITHOUT_A_SCORE:
            assert "above the reference" in gates, f"{id}, {part}: may a tuned arm end below it?"
        if "grid edge" in gates:
            assert "luck of tuning" in gates, f"{id}, {part}: do settings score what they did in tuning?"
        if id in ("C28", "C35") or "shared arms" in gates:
            assert "within the scale" in gates, f"{id}, {part}: is what the larger difference needs below the largest?"
        if claim.kind == "effect":
            assert "placebo" in gates, f"{id}, {part}: names none, nor why none applies"


def test_every_row_has_a_line_in_planted() -> None:
    rows = {(r.figure, e.id, r.claim.part, s) for e in catalogue().values() for r in e.rows for s in r.settings}
    lines = [(p.figure, p.id, p.part, p.setting) for p in PLANTED]
    assert len(lines) == len(set(lines))
    assert {line for line in rows if line[0] != RANKED and line[:2] not in SHARES} == set(lines)


# Planted effects.


def plant(line: Planted, term: Term, effect: float, noise: float) -> Verdict:
    """The row where `term` alone differs, by what should give the effect."""
    by = (effect if line.base is None else effect - line.base) / term.times
    others = () if line.base is None else tuple(other.arms for other in line.terms)
    alongs = line.along if isinstance(line.along, tuple) else (line.along,)
    along = dict(zip(line.terms, alongs, strict=False)).get(term)
    arms = term.arms if along is None else f"{term.arms}|{along}"
    moved = (arms, term.quantity) if by or others else None
    return planted(line.figure, moved, by, noise, line.base, others, line.weaker, line.raised)[
        line.id, line.part, line.setting
    ]


@functools.lru_cache(1000)  # rows of a figure that are of the same arms are tested together
def planted(
    figure: str,
    moved: tuple[str, str] | None,
    by: float,
    noise: float,
    base: float | None,
    others: tuple[str, ...],
    weaker: str | None,
    raised: tuple[Term, ...],
) -> Rows:
    """All rows of a figure where a quantity of the records `moved` differs by `by`, and else nothing."""
    start = QUANTITIES if base is None else dict.fromkeys(QUANTITIES, base)
    records = dict(level(figure, noise))
    for arms in others:
        records |= {key: filled(empty(figure)[key], start, noise) for key in matching(figure, arms)}
    lifted: dict[str, Levels] = {}
    for also in raised:
        for key in matching(figure, also.arms):
            lifted[key] = {**lifted.get(key, {}), also.quantity: QUANTITIES[also.quantity] + also.times}
    records |= {key: filled(empty(figure)[key], {**start, **levels}, noise) for key, levels in lifted.items()}
    weak: dict[str, float] = {name: QUANTITIES[name] - 0.3 for name in ("score", "first", "second")}
    weak |= {"best": 0.05, "exploit": 0.0, "growth": 0.5}
    weaker_ones = set(matching(figure, weaker)) if weaker is not None else set()
    records |= {key: filled(empty(figure)[key], weak, noise) for key in weaker_ones}
    for key in matching(figure, moved[0]) if moved is not None else ():
        levels: Levels = {**start, **(weak if key in weaker_ones else {}), **lifted.get(key, {})}
        assert moved is not None
        records[key] = filled(empty(figure)[key], {**levels, moved[1]: levels[moved[1]] + by}, noise)
    return rows_of(figure, records)


def expected(line: Planted, effect: float, margin: float) -> str:
    """The state by the words of the rule; at ±margin itself the interval has it inside."""
    if line.at_most:
        return "inconclusive" if np.isclose(effect, margin) else "supported" if effect < margin else "opposite"
    if line.claimed == 0:
        at_margin = np.isclose(abs(effect), margin)
        return "inconclusive" if at_margin else "supported" if abs(effect) < margin else "opposite"
    towards = effect * line.claimed
    if np.isclose(towards, margin):
        return "inconclusive"
    if towards > margin:
        return "supported"
    return "opposite" if towards < -margin and not np.isclose(towards, -margin) else "too small"


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_effect_gives_its_state(name: str) -> None:
    """Every state that an interval can give, by the first term of the effect; each other by itself, on both sides of
    0."""
    line = NAMES[name]
    margin = row(line.id, line.part).claim.margin
    if row(line.id, line.part).claim.kind == "theorem":
        holds = plant(line, line.terms[0], margin / 2, margin / 50)
        assert (holds.verdict, holds.low, holds.high, holds.p) == ("theorem", None, None, None)
        assert plant(line, line.terms[0], 3 * margin, margin / 50).verdict == "opposite"
        return
    told = set()
    for term in line.terms:
        for times in (-3.0, -1.0, 0.0, 1.0, 3.0) if term is line.terms[0] else (-3.0, 3.0):
            if line.base is not None and times < 0:
                continue  # a probability or a distance
            effect = margin * times
            if line.base is not None and times == 0:
                effect = line.base
            found = plant(line, term, effect, margin / 50 if line.base is None else line.base / 10)
            assert found.effect == pytest.approx(effect, rel=1e-6, abs=1e-6 * margin), (term, times)
            wanted = "no test" if line.closed else expected(line, effect, margin)
            assert found.verdict == wanted, (term, times, found)
            told.add(found.verdict)
    if line.closed:
        return
    one_sided = line.claimed != 0 and line.base is None
    sides = {"opposite", "too small"} if one_sided else {"too small"} if line.claimed else {"opposite"}
    assert told == {"supported", "inconclusive", *sides}


# Which records a row rests on.


@functools.cache
def movers(name: str) -> dict[tuple[str, str, str], tuple[set[str], set[str]]]:
    """For each row: the records that its hashes name, and those that move its interval when they are moved.

    Records are moved together, of each row at most one that it names: which one moved it is then known, as long as what
    it does not name does not. That is all moved at once, down and up. The best of several moves an effect only upwards,
    the worst only downwards: what is named and did not move upwards is moved down. Where all are alike the worst of
    several has nothing to fall from, and a ranking can come out as it was: what still did not move is moved where arms
    lie apart, and what could lose something does.
    """
    start = level(name, 1e-3)
    if name == RANKED:  # one of its tasks shows as much as all, in a fraction of the time
        start = {key: record for key, record in start.items() if key.split("/")[1] == "min"}
    before = rows_of(name, start)
    found = {address: (set(r.spec_hashes), set[str]()) for address, r in before.items()}
    apart = {key: 0.05 * (0.618 * i % 1.0) for i, key in enumerate(start, 1)}
    for line in PLANTED:
        if line.figure == name and line.at_most:
            apart |= dict.fromkeys(matching(name, line.terms[0].arms), 0.4 * line.terms[0].times)

    def at(by: Mapping[str, float]) -> dict[str, Record]:
        return {key: filled(empty(name)[key], {}, 1e-3, x) for key, x in by.items()}

    @functools.cache
    def lying_apart() -> tuple[Mapping[str, Record], Rows]:
        records = at(apart)
        return records, rows_of(name, records)

    def moved(by: Mapping[str, Record], of: Mapping[str, Record], was: Rows) -> set[tuple[str, str, str]]:
        after = rows_of(name, {**of, **by})
        return {address for address in was if _interval(after[address]) != _interval(was[address])}

    naming = {key: {address for address, (named, _) in found.items() if key in named} for key in start}
    for by, lies_apart in ((0.3, False), (-0.3, False), (0.3, True)):
        left = {key: rows for key, rows in naming.items() if any(key not in found[address][1] for address in rows)}
        for together in _of_other_rows(left):
            of, was = lying_apart() if lies_apart else (start, before)
            addresses = moved(at({key: by + (apart[key] if lies_apart else 0.0) for key in together}), of, was)
            for key in together:
                for address in naming[key] & addresses:
                    found[address][1].add(key)
    # Each by another amount: two that are moved alike could cancel.
    unlike = {key: 0.2 + 0.2 * i / len(start) for i, key in enumerate(start)}
    up, down = at(unlike), at({key: -x for key, x in unlike.items()})
    for others in {frozenset(start.keys() - named) for named, _ in found.values()} - {frozenset()}:
        for address in moved(only(up, others), start, before) | moved(only(down, others), start, before):
            named, moving = found[address]
            if not others & named:
                alone = {k for k in others for way in (up, down) if address in moved({k: way[k]}, start, before)}
                moving |= alone or {f"several of {sorted(others)} at once"}
    return found


def only(records: Mapping[str, Record], keys: Iterable[str]) -> dict[str, Record]:
    return {key: records[key] for key in keys}


def _of_other_rows(rows: Mapping[str, set[tuple[str, str, str]]]) -> list[list[str]]:
    """Records, by the rows that each is of, such that no two in a list are of one row."""
    made: list[tuple[list[str], set[tuple[str, str, str]]]] = []
    for key, own in rows.items():
        for keys, taken in made:
            if not own & taken:
                keys.append(key)
                taken |= own
                break
        else:
            made.append(([key], set(own)))
    return [keys for keys, _ in made]


def _interval(verdict: Verdict) -> tuple[float, float | None, float | None]:
    """To rounding: an arm that cancels leaves its last bits."""
    ends = (None if end is None else round(end, 9) for end in (verdict.low, verdict.high))
    return round(verdict.effect, 9), *ends  # type: ignore[return-value]


@pytest.mark.parametrize("name", WITH_CLAIMS)
def test_the_hashes_of_a_row_name_the_records_that_move_it(name: str) -> None:
    for address, (named, moving) in movers(name).items():
        assert named == moving, f"{address}: named in vain {sorted(named - moving)}; unnamed {sorted(moving - named)}"


@pytest.mark.parametrize("name", [n for n in NAMES if NAMES[n].figure != "reachable_policies"])
def test_a_row_rests_on_the_arms_that_its_claim_is_about(name: str) -> None:
    line = NAMES[name]
    patterns = [term.arms for term in line.terms] + ([line.also] if line.also else [])
    about = {key for pattern in patterns for key in matching(line.figure, pattern)}
    assert movers(line.figure)[line.id, line.part, line.setting][1] == about


# Rank correlations.

ORDERS = {
    "same": list(range(15)),
    "reversed": list(range(15))[::-1],
    "unrelated": [7, 1, 12, 4, 9, 0, 14, 3, 10, 6, 2, 13, 5, 11, 8],
}


def ranked(order: str, noise: float = 1e-3) -> Rows:
    """Toys rank the algorithms as they are listed, on every task; the model in an order of its own. However many tasks
    were computed, they are enough."""
    records = {}
    for key, record in empty(RANKED).items():
        scale, _, name, _, _ = key.split("/")
        rank = matched.ONLINE.index(name)
        learned = 0.3 + 0.02 * (rank if scale == "toy" else ORDERS[order][rank])  # all are above the reference
        records[key] = filled(record, {"score": learned}, noise)
    with mock.patch.object(toy_to_lm, "LEAST_TASKS", 1):
        return rows_of(RANKED, records)


@pytest.mark.parametrize(("order", "tau", "said"), [("same", 1, "supported"), ("reversed", -1, "opposite")])
def test_a_planted_ranking_gives_its_state(order: str, tau: float, said: str) -> None:
    found = ranked(order)
    assert len(found) == 4
    for row_found in found.values():
        assert row_found.effect == pytest.approx(tau) and row_found.verdict == said, row_found


def test_a_ranking_of_its_own_is_not_supported_and_one_of_noise_is_no_test() -> None:
    """Of 105 pairs 59 are in the same order and 46 are not. With noise of 250 ranks per run, no side repeats itself."""
    address = ("toy→lm", "on-policy, final score", "lm")
    own = ranked("unrelated")[address]
    assert own.effect == pytest.approx((59 - 46) / 105) and own.verdict in ("inconclusive", "too small")
    noisy = ranked("same", noise=5.0)[address]
    assert noisy.verdict == "no test" and "odd against even runs" in str(noisy.why)


def test_fewer_tasks_than_were_asked_for_are_no_test() -> None:
    with mock.patch.object(toy_to_lm, "LEAST_TASKS", 1 + len(toy_to_lm.TASKS)):
        found = rows_of(RANKED, level(RANKED, 1e-3))
    assert {row_found.verdict for row_found in found.values()} == {"no test"}
    assert all("size" in str(row_found.why) for row_found in found.values())


def test_noise_is_balanced() -> None:
    noise = balanced("a", 20)
    assert noise[::2].mean() == pytest.approx(0) and noise[1::2].mean() == pytest.approx(0)
    assert noise.std() == pytest.approx(1) and not np.allclose(noise, balanced("b", 20))
