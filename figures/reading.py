"""The committed records of a figure, for whoever wants its numbers and none of its runs: nothing is computed.

Nor is it asked whether today's code would give them again: `python -m figures NAME` does that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sims.core.spec import SpecError
from sims.experiments.experiment import Experiment
from sims.experiments.record_file import Record
from sims.experiments.store import Store

from .committed import Committed, Tuned
from .figure import Figure, Records, call
from .lab import Lab


def committed_records(figure: Figure) -> Records:
    """The records that a figure asks for, tuned as they were, under the names that it gives them.

    SpecError where one is not in the repository: of another version of the figure, or of none.

    >>> from figures.gallery.reachable_policies import FIGURE
    >>> {record.source for record in committed_records(FIGURE).values()}
    {'committed'}
    """
    found: Records = call(figure, "collect", _Reader(Store("never written"), kept_before=Committed(figure.name)))
    return found


class _Reader(Lab):
    """A lab that computes nothing."""

    def exact(self, name: str, spec: Mapping[str, Any], compute: Callable[..., Any], modules: Sequence[str]) -> Record:
        return self._read(name, spec)

    def _tested(self, arms: Mapping[str, Experiment], *same_bits: Mapping[str, Record]) -> dict[str, Record]:
        return {name: self._read(arm.name, arm.to_json()) for name, arm in arms.items()}

    def _tune(self, arms: Mapping[str, Experiment], *how: Any) -> list[Tuned]:
        raise SpecError("arms", ", ".join(arms), f"must be tuned in {self._file}, and are not")

    def _read(self, name: str, spec: Mapping[str, Any]) -> Record:
        found = self._committed(name, spec)
        if found is None:
            raise SpecError("record", name, f"must be in {self._file}, with these settings")
        return found

    @property
    def _file(self) -> str:
        assert self.kept_before is not None
        return f"figures/records/{self.kept_before.path.name}"
