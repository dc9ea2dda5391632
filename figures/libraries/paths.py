"""What is said of a loss of a library: which function it is, and what it is claimed to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sims.checks.trials import EXACT


@dataclass(frozen=True)
class LossPath:
    """A loss, from what a family passes to the number that is differentiated.

    name: of the row. source: what of the library is executed. function: as `sims.checks.check_loss` takes it, with its
    claim, reduction, tolerance and options. left_out: property → reason why it is not asked of this loss.
    """

    name: str
    source: str
    family: str
    function: Callable[..., Any]
    claim: Any = None
    reduction: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = EXACT
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Library:
    """A library at a version. revision: of a checkout. unable: losses that cannot be run here → why."""

    name: str
    version: str
    paths: tuple[LossPath, ...]
    url: str = ""
    revision: str = ""
    unable: Mapping[str, str] = field(default_factory=dict)
