r"""Math-Verify as a reward: the same answer in another form is right, another answer is wrong.

The library itself is asked, not a stand-in.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import math_verify
import pytest

from llm.tasks import Completions, Verifiable
from llm.tasks.expressions import delimited, same_expression
from sims.core.spec import SpecError

SAME = same_expression()

RIGHT = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    (r"\frac{1}{2}", r"So it is $\frac{2}{4}$."),
    ("0.5", r"\frac12"),
    (r"50\%", "0.5"),
    ("10", "10 cm"),
    (r"10 \text{ cm}", "10"),
    ("18", "$18"),
    ("18", r"The total is \boxed{18}."),
    ("18", "She pays 3 + 15 = 18"),
    ("1000", "1,000"),
    ("(0, 1]", "$(0,1]$"),
    ("[0,1]", "[0, 1]"),
    (r"x \in (0,1]", "(0,1]"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x^2 + 2x + 1", "(x+1)^2"),
    (r"\{1, 2\}", r"\{2, 1\}"),
    ("5", "x = 5"),
    ("blue", "blue"),
]
WRONG = [
    (r"\frac{1}{2}", "0.49"),
    (r"\frac{1}{2}", "2"),
    (r"\sqrt{8}", "8"),
    ("18", "19"),
    ("18", "-18"),
    ("18", "180"),
    ("18", ""),
    ("18", "17 18 19"),
    ("1000", "1.000"),
    ("(0,1]", "(0,1)"),
    ("(0,1]", "[0,1)"),
    ("(1,2)", "(2,1)"),
    ("x^2 + 2x + 1", "(x-1)^2"),
    ("3.14", r"\pi"),
    ("blue", "red"),
    ("blue", ""),
]


@pytest.mark.parametrize(("truth", "answer"), RIGHT)
def test_another_form_of_the_answer_is_right(truth: str, answer: str) -> None:
    assert SAME(truth, answer)


@pytest.mark.parametrize(("truth", "answer"), WRONG)
def test_another_answer_is_wrong(truth: str, answer: str) -> None:
    assert not SAME(truth, answer)


def test_off_the_main_thread_answers_are_what_they_are() -> None:
    """The library's clock works on the main thread alone; elsewhere there is none."""
    found: list[bool] = []
    for answer in ("0.5", "0.25"):
        thread = threading.Thread(target=lambda given=answer: found.append(SAME(r"\frac{1}{2}", given)))
        thread.start()
        thread.join()
    assert found == [True, False]


def test_a_busy_machine_makes_no_answer_wrong_and_an_endless_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.tasks.expressions.SECONDS", 0.2)
    real = math_verify.verify

    def waits(*arguments: Any, **options: Any) -> bool:
        time.sleep(0.5)
        return real(*arguments, **options)

    def never_ends(*arguments: Any, **options: Any) -> bool:
        while True:
            pass

    monkeypatch.setattr(math_verify, "verify", waits)
    assert same_expression()("0.5", "1/2")
    monkeypatch.setattr(math_verify, "verify", never_ends)
    assert not same_expression()("0.5", "1/2")


def test_what_is_put_between_dollars() -> None:
    for text in (r"\sqrt{8}", "(0,1]", "x^2", r"10 \text{ cm} = a"):
        assert delimited(text) == f"${text}$"
    for text in ("18", "1/2", "10 cm", r"It is \sqrt{8}", "$x^2$", r"\boxed{x^2}", r"\(x^2\)", ""):
        assert delimited(text) == text


def rewards(task: Verifiable, truth: str, *completions: str) -> list[float]:
    """Rewards of completions of one prompt."""
    count = len(completions)
    blank: list[list[int]] = [[]] * count
    return list(
        task.reward()(Completions(["?"] * count, completions, blank, [0] * count, {"solution": [truth] * count}))
    )


def test_the_reward_looks_behind_the_marker() -> None:
    """Worked solutions are full of numbers, and of those of other questions."""
    task = Verifiable(data="x.jsonl", checker="math_verify", answer_column="solution")
    truth = "Each of 4 boxes holds 6 eggs, 4 * 6 = <<4*6=24>>24, of which 5 break: 24 - 5 = <<24-5=19>>19.\n#### 19"
    right = ("#### 19", "24 less 5.\n#### 38/2", "That leaves 19 eggs.", "#### 19 eggs", r"\boxed{19}", truth)
    assert rewards(task, truth, *right) == [1.0] * len(right)
    wrong = ("#### 24", "First 19, then\n#### 20", "19 of 24", "", "#### ", truth + "\n#### 23")
    assert rewards(task, truth, *wrong) == [0.0] * len(wrong)
    assert rewards(task.replace(answer_marker="Answer:"), r"\frac{3}{4}", "Answer: 0.75", "Answer: 0.7") == [1, 0]
    exact = task.replace(checker="exact")
    assert rewards(exact, truth, "#### 19", "#### 19.0", "That leaves 19 eggs.") == [1, 0, 0]


def test_where_the_library_is_missing_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(SpecError, match="checker = 'math_verify': needs the library: pip install math-verify; or take"):
        Verifiable(data="x.jsonl", checker="math_verify").reward()
