"""Exercises: a student's function is tried on random problems, and its faults are named.

What is right is computed by the exact layer, on problems drawn afresh, and not kept as a magic number. A wrong answer
is compared with the ways in which one goes wrong, each a function that has the fault: the first that gives the same on
every problem names it. Else the answer's shape, scale or offset say what can be said.

**To add an exercise**: an `Exercise` in the notebook's own file.

    kl = Exercise(
        problem=lambda random: {name: log_softmax(random.normal(size=5)) for name in ("logp", "logp_ref")},
        exact=exact.kl_policy_ref,
        faults={"The direction is reversed: this is KL(π_ref‖π).": exact.kl_ref_policy},
        done="KL(π‖π_ref) is an expectation under π.",
    )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Answer = Callable[..., Any]
Problem = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a checker says. right: None where there is no answer yet."""

    right: bool | None
    message: str

    def __str__(self) -> str:
        mark = {True: "✔ Right.", False: "✘ Not yet.", None: "… No answer yet."}[self.right]
        return f"{mark} {self.message}"

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return f"**{str(self).partition('. ')[0]}.** {self.message}"


def itself(answer: Answer, *arguments: Any) -> Any:
    """What a function returns: the measure of most exercises."""
    return answer(*arguments)


@dataclass(frozen=True)
class Exercise:
    """A question whose answer is a function; call it on one.

    problem: draws a problem's arguments by name, in the order in which the answer takes them.
    exact: the right answer, of the same arguments. faults: functions of these too, each by the sentence that names its
    fault. done: what a right answer has shown. measure: what is compared, of an answer and a problem's arguments: what
    it returns, unless given. tolerance: the largest difference that counts as none, relative to the largest number.

    >>> double = sims.teaching.checking.Exercise(
    ...     problem=lambda random: {"x": random.normal(size=3)},
    ...     exact=lambda x: 2 * x,
    ...     faults={"This is the square.": lambda x: x**2},
    ...     done="2x.",
    ... )
    >>> double(lambda x: x + x)
    ✔ Right. 2x.
    >>> double(lambda x: x * x)
    ✘ Not yet. This is the square.
    >>> double(lambda x: -2 * x)
    ✘ Not yet. The sign is wrong: every number is the negative of the exact one.
    >>> double(...)
    … No answer yet. Put a function of (x) in the place of `...`, and run the cell again.
    """

    problem: Callable[[np.random.Generator], Problem]
    exact: Answer
    faults: Mapping[str, Answer]
    done: str
    measure: Callable[..., Any] = field(default=itself)
    tolerance: float = 1e-7
    problems: int = 4

    def __call__(self, answer: Any, seed: int = 0) -> Verdict:
        """Try an answer on problems drawn from a seed."""
        problems = [self.problem(np.random.default_rng([seed, number])) for number in range(self.problems)]
        takes = f"({', '.join(problems[0])})"
        if answer is Ellipsis or answer is None:
            return Verdict(None, f"Put a function of {takes} in the place of `...`, and run the cell again.")
        if not callable(answer):
            return Verdict(False, f"The answer is a {type(answer).__name__}: it must be a function of {takes}.")
        exact = [self.measured(self.exact, problem) for problem in problems]
        try:
            given = [self.measured(answer, problem) for problem in problems]
        except Exception as error:  # whatever a student's function raises is for the student to read
            return Verdict(False, f"Your function of {takes} raised {type(error).__name__}: {error}")
        if self.same(given, exact):
            return Verdict(True, self.done)
        for fault, wrong in self.faults.items():
            if self.same(given, [self.measured(wrong, problem) for problem in problems]):
                return Verdict(False, fault)
        return Verdict(False, self._what_can_be_said(given, exact))

    def measured(self, answer: Answer, problem: Problem) -> np.ndarray:
        """The numbers that are compared, as an array; what an answer is given, it cannot spoil for the next one."""
        result = self.measure(answer, *(_copy(value) for value in problem.values()))
        if result is None:
            raise TypeError("it returned None: is there a return?")
        return np.asarray(result.detach() if isinstance(result, torch.Tensor) else result, dtype=np.float64)

    def same(self, given: list[np.ndarray], other: list[np.ndarray]) -> bool:
        """Whether two answers agree on every problem."""
        return all(
            a.shape == b.shape and np.allclose(a, b, rtol=0.0, atol=self.tolerance * _scale(b))
            for a, b in zip(given, other, strict=True)
        )

    def _what_can_be_said(self, given: list[np.ndarray], exact: list[np.ndarray]) -> str:
        """Of an answer whose fault is not on the list: its shape, sign, scale or offset; else how far it is off."""
        for a, b in zip(given, exact, strict=True):
            if a.shape != b.shape:
                return f"The shape is {a.shape}: it must be {b.shape}, for a problem of this size."
            if not np.isfinite(a).all():
                return "Some numbers are not finite: is there a division by 0, or the log of 0?"
        if self.same([-a for a in given], exact):
            return "The sign is wrong: every number is the negative of the exact one."
        if all(b.size > 1 and (b > 0).all() for b in given) and self.same([np.log(a) for a in given], exact):
            return "These are probabilities: the log of them is asked for."
        several = any(b.size > 1 for b in exact)
        ratios = [float((a * b).sum() / (b * b).sum()) if b.any() else 1.0 for a, b in zip(given, exact, strict=True)]
        if several or np.ptp(ratios) < self.tolerance:  # of a single number any other is a multiple
            scaled = [a / ratio if ratio else a for a, ratio in zip(given, ratios, strict=True)]
            if self.same(scaled, exact):
                shown = ", ".join(f"{ratio:.4g}" for ratio in ratios)
                return (
                    f"A factor is missing or too much: on {len(ratios)} problems you have {shown} times what is exact."
                )
        offsets = [float((a - b).mean()) for a, b in zip(given, exact, strict=True)]
        if several and self.same([a - offset for a, offset in zip(given, offsets, strict=True)], exact):
            shown = ", ".join(f"{offset:+.4g}" for offset in offsets)
            return f"All numbers are off by the same constant, {shown} on {len(offsets)} problems: is it normalised?"
        worst = max(range(len(exact)), key=lambda i: float(np.abs(given[i] - exact[i]).max()))
        a, b = np.atleast_1d(given[worst]).ravel(), np.atleast_1d(exact[worst]).ravel()
        at = int(np.abs(a - b).argmax())
        where = f"number {at + 1} of {len(b)}" if len(b) > 1 else "the number"
        return f"On problem {worst + 1}, {where} is {a[at]:.6g}: the exact one is {b[at]:.6g}."


def _scale(x: np.ndarray) -> float:
    """The size of an answer's largest number; 1 for smaller ones and for none."""
    finite = np.abs(x[np.isfinite(x)])
    return max(1.0, float(finite.max())) if finite.size else 1.0


def _copy(value: Any) -> Any:
    """A problem's argument, for one answer alone."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return value.clone() if isinstance(value, torch.Tensor) else value
