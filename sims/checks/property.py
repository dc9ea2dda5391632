"""What a property is: data, and a function that makes one attempt to break it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .families import FAMILIES, Draw
from .trials import Subject, Trial

EVERY = tuple(FAMILIES)
MASKED = ("group", "token", "actor_critic", "likelihood")


@dataclass(frozen=True)
class Property:
    """rows: of the table of bugs (`bugs`); rows_by_claim: those of one claim alone.

    needs: the reason why it does not apply to a loss, "" if it does. some: it is enough that one trial holds.
    examples: how many batches are drawn. seen_to_fail: a small wrong loss that it finds.
    """

    name: str
    rows: tuple[int, ...]
    statement: str
    families: tuple[str, ...]
    trial: Callable[[Subject, Draw], Trial]
    seen_to_fail: str
    needs: Callable[[Subject], str] = lambda subject: ""
    some: bool = False
    examples: int = 25
    rows_by_claim: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def why_not(self, subject: Subject) -> str:
        if subject.family.name not in self.families:
            return f"is about the families {', '.join(self.families)}"
        return self.needs(subject)

    def rows_of(self, subject: Subject) -> tuple[int, ...]:
        """The rows that a failure of this loss may be about."""
        if not self.rows_by_claim or subject.claim is None:
            return self.rows
        return self.rows_by_claim.get(subject.claim.name, ())
