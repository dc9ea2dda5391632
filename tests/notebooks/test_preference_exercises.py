"""Wrong answers to the exercises of notebooks 3, 4 and 5 as somebody might type them, and a word of what the checker
must say of each; and the sliders."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sims.teaching import exercises_03, exercises_04, exercises_05
from sims.teaching.checking import Exercise
from sims.teaching.sliders import Board, sliders, train_grid

TYPED: list[tuple[Exercise, str, Callable[..., Any], str]] = [
    (exercises_03.preference_probability, "transposed", lambda r: 1 / (1 + np.exp(r[:, None] - r)), "wrong way round"),
    (exercises_03.preference_probability, "ratio", lambda r: r[:, None] / np.add.outer(r, r), "compares exp(r)"),
    (exercises_03.preference_probability, "one row", lambda r: 1 / (1 + np.exp(-(r[0] - r))), "shape"),
    (exercises_03.preference_probability, "hard", lambda r: r[:, None] > r, "always wins"),
    (exercises_03.dpo_loss, "no reference", lambda w, x, rw, rx, b: np.log1p(np.exp(-b * (w - x))), "reference"),
    (exercises_03.dpo_loss, "β outside", lambda w, x, rw, rx, b: b * np.log1p(np.exp(x - rx - w + rw)), "β is outside"),
    (exercises_03.dpo_loss, "mean", lambda w, x, rw, rx, b: np.log1p(np.exp(-b * (w - rw - x + rx))).mean(), "shape"),
    (exercises_03.falls_when_pushed, "only one", lambda p, k: np.arange(len(p)) == k, "Every other logit rises"),
    (exercises_03.falls_when_pushed, "upwards", lambda p, k: ~exercises_03.falls_when_pushed.exact(p, k), "likelier"),
    (exercises_03.falls_when_pushed, "rare", lambda p, k: p < p.mean(), "1/N"),
    (exercises_03.falls_when_pushed, "Σ p²", lambda p, k: p < (p**2).sum(), "Σ p²"),
    (exercises_04.gradient_on_logits, "w", lambda w, p: w, "also lowers all other"),
    (exercises_04.gradient_on_logits, "descent", lambda w, p: p * w.sum() - w, "sign is wrong"),
    (exercises_04.gradient_on_logits, "under p", lambda w, p: w - p * (p @ w), "Σ p·w"),
    (exercises_04.best_of_n, "worst", lambda p, r, n: exercises_04.best_of_n.exact(p, -r, n), "worst of n"),
    (exercises_04.best_of_n, "greedy", lambda p, r, n: (r == r.max()) * 1.0, "always takes the best"),
    (exercises_04.best_of_n, "level", lambda p, r, n: [p[r <= x].sum() ** n - p[r < x].sum() ** n for x in r], "share"),
    (exercises_04.best_of_n, "power", lambda p, r, n: p**n / (p**n).sum(), "all draws"),
    (exercises_04.reverse_kl_gradient, "forward", lambda p, q: p - q, "forward KL"),
    (exercises_04.reverse_kl_gradient, "no KL", lambda p, q: p * np.log(p / q), "sums to 0"),
    (exercises_05.effective_share, "swapped", lambda p, q: 1 / np.exp(2 * q - p).sum(), "exchanged"),
    (exercises_05.effective_share, "inverse", lambda p, q: np.exp(2 * p - q).sum(), "reciprocal"),
    (exercises_05.effective_share, "sum", lambda p, q: 1 / np.exp(2 * (p - q)).sum(), "summed"),
    (exercises_05.clipped_slope, "both sides", lambda w, a, e: np.where(abs(w - 1) > e, 0, -w * a), "both sides"),
    (exercises_05.clipped_slope, "no ratio", lambda w, a, e: np.where(a * (w - 1) > abs(a) * e, 0, -a), "ratio"),
    (exercises_05.in_reach, "no Z", lambda p, r, b: (np.exp(p + r / b) * r).sum(), "not normalised"),
    (exercises_05.in_reach, "best", lambda p, r, b: r.max(), "largest reward"),
]


@pytest.mark.parametrize(("exercise", "name", "answer", "word"), TYPED, ids=lambda x: x if isinstance(x, str) else "")
def test_a_typed_mistake_is_named(exercise: Exercise, name: str, answer: Callable[..., Any], word: str) -> None:
    verdict = exercise(answer)
    assert verdict.right is False and word in verdict.message, verdict


def test_sliders_draw_what_they_are_set_to() -> None:
    """The picture after a move is the board's own of the new setting, and no trace of the old one is left in it."""
    pytest.importorskip("ipywidgets", reason="sliders are for Jupyter: pip install 'onoff-sims[notebooks]'")
    grid = train_grid([0.1, 1.0], [1, np.inf], [0.5, 0.01], runs=2, updates=20)
    box = sliders(Board(grid))
    (beta, sync, overlap), image = box.children[0].children, box.children[1]
    before = bytes(image.value)
    beta.value, sync.value, overlap.value = 1.0, np.inf, 0.01
    assert bytes(image.value) == Board(grid).draw(1.0, np.inf, 0.01) != before
    beta.value, sync.value, overlap.value = 0.1, 1, 0.5
    assert bytes(image.value) == before == Board(grid).draw(0.1, 1, 0.5)
    assert Image.open(io.BytesIO(before)).size == (945, 351)


def test_a_setting_of_a_grid_is_the_run_that_it_would_be_alone() -> None:
    grid = train_grid([0.1, 1.0], [2], [0.5, 0.01], runs=2, updates=20)
    alone = train_grid([1.0], [2], [0.01], runs=2, updates=20)
    np.testing.assert_array_equal(grid[1.0, 2, 0.01].reward, alone[1.0, 2, 0.01].reward)
    for (beta, sync, overlap), result in grid.items():
        parts = result.experiment.algorithm, result.experiment.schedule, result.experiment.environment
        assert (parts[0].beta, parts[1].sync_period, parts[2].overlap) == (beta, sync, overlap)  # type: ignore[attr-defined]
