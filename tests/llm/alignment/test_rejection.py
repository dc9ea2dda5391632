"""The classifier of rows that labellers reject: its optimum, when it is off, what it keeps, and what it flags."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from llm.alignment import loop, rejection
from llm.alignment.context import keep_settings
from llm.alignment.generation import as_vectors
from llm.alignment.logistic import log_loss, logistic, probability
from llm.alignment.rejection import FEWEST, Classifier, Fitted, fit, fitted, keep, kept, left_out
from llm.alignment.settings import Filtering, Settings
from llm.alignment.sqlite import sqlite3
from llm.alignment.store import FILE, opened, read_only
from sims.core.spec import SpecError
from tests.llm.alignment.test_alignment_loop import SMALL, until

RNG = np.random.default_rng
PROMPTS = [f"prompt {i}" for i in range(400)]


def rows(count: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, 3), and whether each row is rejected, with probability σ(slope · the first entry)."""
    rng = RNG(seed)
    vectors = rng.normal(size=(count, 3)).astype(np.float32)
    return vectors, (rng.random(count) < probability(slope * vectors[:, 0].astype(float))).astype(float)


def test_at_the_optimum_the_gradient_is_zero_and_the_hessian_is_its_slope() -> None:
    design, labels = RNG(0).normal(size=(40, 3)), RNG(1).random(40)
    prior = np.array([1.0, 10.0, 0.0])
    theta, hessian = logistic(design, labels, prior)

    def gradient(at: np.ndarray) -> np.ndarray:
        return np.asarray(design.T @ (1 / (1 + np.exp(-design @ at)) - labels) + prior * at)

    assert np.abs(gradient(theta)).max() < 1e-12
    slopes = [(gradient(theta + step) - gradient(theta - step)) / 2e-5 for step in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(hessian, slopes, rtol=0, atol=1e-7)
    assert log_loss(np.array([0.0, 2.0]), np.array([1.0, 0.0])) == pytest.approx([np.log(2), np.log(1 + np.exp(2))])


def test_separable_rows_are_told_apart_by_finite_numbers_and_the_prior_tempers_them() -> None:
    vectors = np.array([[-2.0, 0.0], [-1.0, 1.0], [1.0, 0.0], [2.0, 1.0]] * 10, np.float32)
    rejected = (vectors[:, 0] > 0).astype(float)
    free, held = (fit(vectors, rejected, precision) for precision in (1.0, 100.0))
    for found in (free, held):
        assert np.isfinite(found.weight).all() and ((found.chance(vectors) > 0.5) == (rejected > 0.5)).all()
        assert found.chance(vectors).mean() == pytest.approx(rejected.mean(), abs=1e-9)  # b is free
    assert free.chance(vectors[-1:]) > held.chance(vectors[-1:])
    flat = np.concatenate([vectors, np.ones((40, 1), np.float32)], 1)
    np.testing.assert_allclose(fit(flat, rejected, 1.0).chance(flat), free.chance(vectors), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([], "there are no labels yet"),
        ([0.5] * 30, "there are no labels yet"),  # ties say nothing of either
        ([1.0] * 90, f"90 labelled rows were rejected and 0 preferred, and it needs {FEWEST} of both"),
        ([0.0] * 90, f"0 labelled rows were rejected and 90 preferred, and it needs {FEWEST} of both"),
    ],
)
def test_without_labels_of_both_kinds_it_is_off_and_says_why(labels: list[float], why: str) -> None:
    vectors = RNG(0).normal(size=(len(labels), 3)).astype(np.float32).reshape(-1, 3)
    found = fitted(vectors, np.array(labels), PROMPTS[: len(labels)])
    assert found.classifier is None and found.why == why


def test_what_is_told_apart_by_chance_alone_is_off() -> None:
    """Labels that have nothing to do with the vectors, of 40 seeds: each is on with probability 1 in 40 at most, as the
    whole interval must be above 0; more than 5 of 40 are with probability below 0.001."""
    on = [fitted(*rows(200, 0.0, seed), PROMPTS[:200]).classifier is not None for seed in range(40)]
    assert sum(on) <= 5
    found = fitted(*rows(200, 0.0, on.index(False)), PROMPTS[:200])
    assert "no more than chance may give" in found.why and found.gain is not None and found.gain[1] <= 0


def test_rows_that_differ_are_told_apart_and_the_probabilities_are_about_right() -> None:
    """Seed 0 alone: nothing is left to chance. In float64 the mode is where the data are from."""
    vectors, rejected = rows(400, 2.0)
    found = fitted(vectors, rejected, PROMPTS)
    assert found.classifier is not None and found.gain is not None and found.gain[1] > 0.1
    assert found.slope == pytest.approx(1.0, abs=0.25) and (found.labelled, found.rejected) == (400, rejected.sum())
    assert found.classifier.weight[0] / found.classifier.scale[0] == pytest.approx(2.0, abs=0.5)


def test_left_out_rows_that_are_separated_have_a_finite_slope() -> None:
    rejected = (np.arange(400) % 2).astype(float)
    found = fitted(np.stack([2 * rejected - 1] * 2, 1).astype(np.float32), rejected, PROMPTS)
    assert found.classifier is not None and found.slope is not None and 1 < found.slope < 5  # else 7.6


def test_no_row_has_a_part_in_its_own_left_out_odds() -> None:
    vectors, rejected = rows(60, 2.0)
    fold = np.arange(60) % 3
    before = left_out(vectors, rejected, fold, 1.0)
    after = left_out(vectors, np.where(fold == 1, 1 - rejected, rejected), fold, 1.0)
    np.testing.assert_array_equal(after[fold == 1], before[fold == 1])
    assert (after[fold != 1] != before[fold != 1]).all()
    one_kind = np.where(fold == 0, rejected, 1.0)  # the other two folds have rejected rows alone
    assert left_out(vectors, one_kind, fold, 1.0)[fold == 0] == pytest.approx(np.log(41))  # 40 rows, and one of each


def test_rows_of_one_prompt_are_left_out_together() -> None:
    """Every prompt has two rows with the same vector and label: who leaves out one by one would know the other."""
    rng = RNG(0)
    vectors = np.repeat(1e3 * rng.normal(size=(60, 80)), 2, 0).astype(np.float32)  # more numbers than prompts
    rejected = np.repeat((np.arange(60) % 2).astype(float), 2)
    together = fitted(vectors, rejected, [f"{i // 2}" for i in range(120)])
    alone = fitted(vectors, rejected, [f"{i}" for i in range(120)])
    assert together.classifier is None and alone.classifier is not None


def test_what_is_kept_gives_the_same_flags_bit_for_bit(tmp_path: Path) -> None:
    vectors, rejected = rows(400, 2.0)
    found = fitted(vectors, rejected, PROMPTS)
    off = Fitted(None, "there are no labels yet")
    with opened(tmp_path) as store, store.transaction():
        keep(store, 1, off)
        keep(store, 2, found)
    with opened(tmp_path) as store:
        assert kept(store, 1) == off and kept(store, 3) is None
        again = kept(store, 2)
    assert again is not None and again.classifier is not None and found.classifier is not None
    np.testing.assert_array_equal(again.classifier.chance(vectors), found.classifier.chance(vectors))
    assert vars(again) | {"classifier": None} == vars(found) | {"classifier": None}


def test_rows_that_are_likely_to_be_rejected_are_chosen_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second cycle, after the labels of the first: the likeliest, as far as the budget's share goes."""

    def always(vectors: np.ndarray, rejected: np.ndarray, prompts: list[str]) -> Fitted:
        return Fitted(fit(vectors, rejected, 1.0) if len(rejected) else None, "", len(rejected))

    monkeypatch.setattr(rejection, "fitted", always)
    changes = SMALL | {"rejected_share": 0.3, "flag_above": 0.01, "flagged_share": 0.0, "trigger": 1000}
    with opened(tmp_path / "loop") as store:
        keep_settings(store, Settings().changed(**changes))
        loop.run(store, 1, lambda line: None)
        until(store, "label")
        decided = store.all("SELECT row, reason FROM decisions WHERE cycle = 2 AND decision = 'chosen' ORDER BY row")
        flagged = {row["row"]: row["reason"] for row in decided if row["reason"].startswith("likely rejected")}
        held = kept(store, 2)
        left = store.all(
            "SELECT v.* FROM vectors v JOIN decisions d ON d.row = v.row WHERE d.cycle = 2 AND decision != 'dropped' "
            "ORDER BY v.row"
        )
        answered = store.all("SELECT v.*, a.label FROM vectors v JOIN answers a ON a.row = v.row ORDER BY v.row")
        labelled = len(answered)
    assert held is not None and held.classifier is not None and labelled > 3
    texts, earlier = (
        np.concatenate([as_vectors([row[name] for row in some]) for name in ("prompt", "response")], 1)
        for some in (left, answered)
    )
    served_lost = np.array([1.0 - row["label"] for row in answered])  # a label is for the first, which was served
    np.testing.assert_array_equal(held.classifier.chance(texts), fit(earlier, served_lost, 1.0).chance(texts))
    chance = dict(zip((row["row"] for row in left), held.classifier.chance(texts).tolist(), strict=True))
    likeliest = itertools.islice(sorted(chance, key=lambda row: -chance[row]), 3)  # 0.3 of a budget of 10
    expected = {row: f"likely rejected: {chance[row]:.2f}, by a classifier of {labelled} labels" for row in likeliest}
    assert flagged == expected


def test_a_store_of_the_format_before_is_brought_up_when_it_is_written_to(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / FILE) as connection:  # as it was
        connection.execute("DROP TABLE classifiers")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    said = "format 2: this version reads format 3, which the next step of the loop makes"
    with pytest.raises(SpecError, match=said), read_only(tmp_path):
        pass
    with opened(tmp_path) as store, store.transaction():
        keep(store, 1, Fitted(None, "there are no labels yet"))
    with read_only(tmp_path) as store:
        assert kept(store, 1) == Fitted(None, "there are no labels yet")


def test_the_shares_of_the_budget_add_up() -> None:
    with pytest.raises(SpecError, match=r"random_share = 0\.7: must be at most 1 - flagged_share - rejected_share"):
        Filtering(random_share=0.7, rejected_share=0.2)
    assert Classifier(np.zeros(1), np.ones(1), np.ones(1), 0.0).chance(np.zeros((1, 1), np.float32)) == [0.5]
