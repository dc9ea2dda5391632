"""Every checker takes the solution that its notebook shows, and names what is wrong with a wrong answer.

The solutions are the folded code of the notebooks themselves.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import sims
import sims.exact
from notebooks.build import sources
from sims.teaching import (
    exercises_01,
    exercises_02,
    exercises_06,
    exercises_07,
    exercises_08,
    exercises_09,
    exercises_10,
)
from sims.teaching.checking import Exercise, Verdict

SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)


def asked(source: Path) -> list[tuple[str, str]]:
    """Of each exercise of a notebook: the checker's call, and the code of its solution."""
    # Not by jupytext, which takes seconds to import, of every process that collects tests: the notebook is in step with
    # its source (`test_notebooks.py`).
    cells = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    found = []
    for cell, following in itertools.pairwise(cells):
        code = "".join(cell["source"])
        if cell["cell_type"] == "code" and "answer = ..." in code:
            call = ast.unparse(ast.parse(code).body[-1])
            solution = SOLUTION.search("".join(following["source"]))
            assert solution, f"{source.name}: no folded solution behind {call}"
            found.append((call, solution[1]))
    return found


def verdict_on(call: str, answer: Any) -> Verdict:
    """What the checker says of an answer. call: such as exercises_01.optimum(answer)."""
    module = importlib.import_module(f"sims.teaching.{call.partition('.')[0]}")
    return eval(call, {call.partition(".")[0]: module, "answer": answer})  # type: ignore[no-any-return]


CASES = [(source.stem, call, solution) for source in sources() for call, solution in asked(source)]
NAMES = [f"{stem}:{call.partition('.')[2].partition('(')[0]}" for stem, call, _ in CASES]


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.stem)
def test_each_notebook_has_three_exercises(source: Path) -> None:
    assert len(asked(source)) == 3


@pytest.mark.parametrize(("call", "solution"), [case[1:] for case in CASES], ids=NAMES)
def test_the_folded_solution_is_right(call: str, solution: str) -> None:
    names: dict[str, Any] = {"np": np, "torch": torch, "sims": sims}
    exec(solution, names)
    verdict = verdict_on(call, names["answer"])
    assert verdict.right, verdict


@pytest.mark.parametrize(("call", "solution"), [case[1:] for case in CASES], ids=NAMES)
def test_each_fault_is_told_from_what_is_right_and_from_the_others(call: str, solution: str) -> None:
    exercise = exercise_of(call)
    assert len(exercise.faults) >= 2
    for fault, wrong in exercise.faults.items():
        verdict = exercise(wrong, seed=7)
        assert verdict.right is False and verdict.message == fault


@pytest.mark.parametrize(("call", "solution"), [case[1:] for case in CASES], ids=NAMES)
def test_no_answer_is_no_mistake(call: str, solution: str) -> None:
    assert verdict_on(call, ...).right is None


def exercise_of(call: str) -> Exercise:
    """The exercise that a call calls."""
    module, _, name = call.partition("(")[0].partition(".")
    return getattr(importlib.import_module(f"sims.teaching.{module}"), name)  # type: ignore[no-any-return]


def one_hots(scores: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """−pull at each chosen response and +pull at each rejected one, by a matrix of ones and zeros."""
    every = np.arange(len(scores))
    return pull @ ((rejected[:, None] == every).astype(float) - (chosen[:, None] == every))


def one_order(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each pair of methods, whether both sides have it in the same order."""
    return np.array([(x[i] > x[j]) == (y[i] > y[j]) for i, j in itertools.combinations(range(len(x)), 2)])


# Wrong answers as somebody might type them, and a word of what the checker must say of each.
TYPED: list[tuple[Exercise, str, Callable[..., Any], str]] = [
    (exercises_01.optimum, "no β", lambda p, r, b: (s := p + r) - np.log(np.exp(s).sum()), "β is missing"),
    (exercises_01.optimum, "no Z", lambda p, r, b: p + r / b, "normaliser"),
    (exercises_01.optimum, "no reference", lambda p, r, b: r / b - np.log(np.exp(r / b).sum()), "reference is missing"),
    (exercises_01.optimum, "no log", lambda p, r, b: np.exp(p + r / b) / np.exp(p + r / b).sum(), "probabilities"),
    (exercises_01.optimum, "largest", lambda p, r, b: r.max(), "shape is ()"),
    (exercises_01.optimum, "nothing", lambda p, r, b: None, "returned None"),
    (exercises_01.optimum, "typo", lambda p, r, b: p + reward, "NameError"),  # type: ignore[name-defined]  # noqa: F821
    (exercises_01.kl, "reversed", lambda p, q: (np.exp(q) * (q - p)).sum(), "reversed"),
    (exercises_01.kl, "mean", lambda p, q: np.mean(p - q), "averaged"),
    (exercises_01.kl, "mean of terms", lambda p, q: (np.exp(p) * (p - q)).mean(), "divided by"),
    (exercises_01.kl, "bits", lambda p, q: (np.exp(p) * (p - q)).sum() / np.log(2), "factor"),
    (exercises_01.implied_reward, "no β", lambda p, q, b: p - q, "β is missing"),
    (exercises_01.implied_reward, "sign", lambda p, q, b: b * (q - p), "sign"),
    (exercises_01.implied_reward, "no reference", lambda p, q, b: b * p, "reference"),
    (exercises_02.score, "one-hot", lambda p, y: np.eye(len(p))[y], "normaliser"),
    (exercises_02.score, "sign", lambda p, y: p - np.eye(len(p))[y], "sign"),
    (exercises_02.score, "plus", lambda p, y: np.eye(len(p))[y] + p, "subtracted"),
    (exercises_02.leave_one_out, "all", lambda r: r - np.mean(r), "own reward"),
    (exercises_02.leave_one_out, "divided", lambda r: (r - r.mean()) / r.std(ddof=1), "standard deviation"),
    (exercises_02.best_baseline, "mean", lambda p, r: (p * r).sum(), "mean reward"),
    (exercises_02.best_baseline, "even", lambda p, r: r.sum() / len(r), "equally likely"),
    (exercises_06.fitting_slope, "σ", lambda s, w, x: one_hots(s, w, x, 1 / (1 + np.exp(s[x] - s[w]))), "surprising"),
    (exercises_06.fitting_slope, "alike", lambda s, w, x: one_hots(s, w, x, np.ones(len(w))), "pulls alike"),
    (exercises_06.fitting_slope, "sign", lambda s, w, x: one_hots(s, x, w, 1 / (1 + np.exp(s[w] - s[x]))), "sign"),
    (exercises_06.win_rate, "ties", lambda p, q, r: np.exp(p) @ (r[:, None] > r) @ np.exp(q), "Ties are lost"),
    (exercises_06.win_rate, "rewards", lambda p, q, r: (np.exp(p) * r).sum() - (np.exp(q) * r).sum(), "however large"),
    (exercises_06.win_rate, "exchanged", lambda p, q, r: np.exp(q) @ (r[:, None] > r) @ np.exp(p), "On problem"),
    (exercises_06.best_by_proxy, "gold", lambda p, s, g, n: sims.exact.best_of_n(p, g, n) @ g, "best by gold"),
    (exercises_06.best_by_proxy, "no n", lambda p, s, g, n: np.exp(p) @ g, "mean gold"),
    (exercises_06.best_by_proxy, "cdf", lambda p, s, g, n: np.exp(p) @ (s <= s[:, None]) ** n @ g, "On problem"),
    (exercises_07.sequence_logp, "no EOS", lambda t, n: sum(t[:n]), "EOS is left out"),
    (exercises_07.sequence_logp, "padding", lambda t, n: np.log(np.exp(t).prod()), "Padding"),
    (exercises_07.sequence_logp, "mean", lambda t, n: t[: n + 1].sum() / (n + 1), "mean"),
    (exercises_07.overlap, "slice", lambda p, m, r: sum(p[m - r : m + r + 1]), "below 0"),
    (exercises_07.overlap, "range", lambda p, m, r: sum(p[n] for n in range(max(m - r, 0), m + r)), "upper end"),
    (exercises_07.overlap, "less", lambda p, m, r: (p * (abs(np.arange(len(p)) - m) < r)).sum(), "exactly"),
    (exercises_07.kendall, "share", lambda x, y: one_order(x, y).mean(), "share of pairs in the same"),
    (exercises_07.kendall, "Pearson", lambda x, y: np.cov(x, y)[0, 1] / x.std(ddof=1) / y.std(ddof=1), "Pearson"),
    (exercises_07.kendall, "argsort", lambda x, y: np.corrcoef(x.argsort(), y.argsort())[0, 1], "argsort"),
    (exercises_08.kl_penalty, "k1", lambda p, q: p - q, "k1"),
    (exercises_08.kl_penalty, "k3", lambda p, q: torch.exp(q - p) - 1 - (q - p), "k3"),
    (exercises_08.kl_penalty, "mean", lambda p, q: (p - q).mean(), "one number for each"),
    (exercises_08.kl_penalty, "detached", lambda p, q: (p - q).detach(), "no gradient"),
    (exercises_08.mask, "no EOS", lambda r: r != 0, "EOS is masked"),
    (exercises_08.mask, "all", lambda r: r >= 0, "Padding"),
    (
        exercises_08.accumulated,
        "means",
        lambda x, m: np.mean([a[b > 0].mean() for a, b in zip(x, m, strict=True)]),
        "own",
    ),
    (exercises_08.accumulated, "padded", lambda x, m: np.mean(np.concatenate(x) * np.concatenate(m)), "padding"),
    (exercises_09.chosen_rate, "logit", lambda f, p: f[0] @ (f[0] - f[1]), "normaliser"),
    (exercises_09.chosen_rate, "even", lambda f, p: (f[0] - f.mean(0)) @ (f[0] - f[1]), "unweighted"),
    (exercises_09.negative_k1, "count", lambda p, q: np.mean(p < q), "equally likely"),
    (exercises_09.negative_k1, "reference", lambda p, q: np.exp(q)[p < q].sum(), "π_ref"),
    (exercises_09.seen_by_any, "linear", lambda m, n, s: m * n * s, "exceed 1"),
    (exercises_09.seen_by_any, "one", lambda m, n, s: 1 - (1 - m) ** n, "one seed"),
    (
        exercises_10.label_probability,
        "gold",
        lambda g, n, b, t, f: f + (1 - 2 * f) / (1 + np.exp((g[1] - g[0]) / t)),
        "bias",
    ),
    (exercises_10.energy_distance, "scipy", lambda x, y: stats.energy_distance(x, y) ** 2, "itself too"),
    (exercises_10.energy_distance, "once", lambda x, y: abs(x[:, None] - y).mean(), "On problem"),
    (exercises_10.rating_effect, "weeks", lambda s, w, r: np.nanmean(r[s]) - np.nanmean(r[w < 3]), "On problem"),
    (exercises_10.rating_effect, "all", lambda s, w, r: np.nanmean(r[s]) - np.nanmean(r[~s]), "something else"),
]


@pytest.mark.parametrize(("exercise", "name", "answer", "word"), TYPED, ids=lambda x: x if isinstance(x, str) else "")
def test_a_typed_mistake_is_named(exercise: Exercise, name: str, answer: Callable[..., Any], word: str) -> None:
    verdict = exercise(answer)
    assert verdict.right is False and word in verdict.message, verdict


def test_an_answer_that_only_a_number_tells_from_the_right_one_is_shown_that_number() -> None:
    verdict = exercises_01.kl(lambda p, q: sims.exact.kl_policy_ref(p, q) ** 2)
    assert verdict.right is False and "On problem" in verdict.message


def test_an_answer_cannot_spoil_its_problem() -> None:
    def spoiling(logp_ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
        logp_ref += rewards / beta
        logp_ref -= np.log(np.exp(logp_ref).sum())
        return logp_ref

    assert exercises_01.optimum(spoiling).right


def test_the_penalty_that_is_right_has_the_gradient_of_the_exact_kl() -> None:
    random = np.random.default_rng(4)
    logits, logp_ref = random.normal(size=5), sims.exact.log_softmax(random.normal(size=5))
    found = exercises_08.expected_gradient(exercises_08.kl_penalty.exact, logits, logp_ref)
    pi, ratio = np.exp(sims.exact.log_softmax(logits)), sims.exact.log_softmax(logits) - logp_ref
    np.testing.assert_allclose(found, pi * (ratio - pi @ ratio), rtol=0, atol=1e-12)
