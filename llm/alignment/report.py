"""What happened, cycle by cycle, read from the store: for the page, and as text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from . import registry
from .context import STEPS
from .gate import Check, report_of
from .store import Store


@dataclass(frozen=True)
class Cycle:
    """One cycle. notes: of its steps; live: the version at its end; candidate: the one that was trained, if any;
    passed: the gate's verdict; checks: behind it; reasons: (decision, reason, rows) of the filter."""

    number: int
    notes: dict[str, dict[str, Any]]
    live: int
    candidate: int | None
    passed: bool | None
    checks: list[Check]
    reasons: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return "promote" in self.notes

    @property
    def rolled_back(self) -> bool:
        return bool(self.notes.get("watch", {}).get("rolled_back"))

    @property
    def happened(self) -> str:
        """The cycle in a line."""
        said = []
        if self.rolled_back:
            note = self.notes["watch"]
            said.append(f"v{note['version']} rolled back to v{note['to']}")
        if self.candidate is None:
            said.append("no candidate" if self.finished else "under way")
        elif self.passed is None:
            said.append(f"v{self.candidate} trained")
        elif self.passed:
            said.append(f"v{self.candidate} passed the gate" + (" and went live" if self.finished else ""))
        else:
            failed = ", ".join(check.name for check in self.checks if not check.passed)
            said.append(f"v{self.candidate} refused: {failed}")
        return "; ".join(said)


def cycles(store: Store) -> list[Cycle]:
    """Every cycle that has begun."""
    return [_cycle(store, row["cycle"]) for row in store.all("SELECT DISTINCT cycle FROM steps ORDER BY cycle")]


def _cycle(store: Store, number: int) -> Cycle:
    notes = {
        row["step"]: json.loads(row["note"])
        for row in store.all("SELECT step, note FROM steps WHERE cycle = ?", number)
    }
    live = store.one("SELECT version FROM live WHERE cycle <= ? ORDER BY number DESC LIMIT 1", number)
    candidate = notes.get("update", {}).get("version")
    passed = None if candidate is None else store.one("SELECT passed FROM verdicts WHERE version = ?", candidate)
    # Reasons without their numbers: "uncertain: 0.61, rank 3 of 290" counts as uncertain.
    reasons = store.all(
        "SELECT decision, substr(reason, 1, CASE WHEN instr(reason, ':') > 0 THEN instr(reason, ':') - 1 "
        "WHEN reason LIKE 'near-duplicate%' THEN 14 ELSE length(reason) END) AS why, count(*) AS rows "
        "FROM decisions WHERE cycle = ? GROUP BY decision, why ORDER BY decision, why",
        number,
    )
    return Cycle(
        number,
        notes,
        live,
        candidate,
        None if passed is None else bool(passed),
        [] if candidate is None else report_of(store, candidate),
        [(row["decision"], row["why"], row["rows"]) for row in reasons],
    )


def gold_by_cycle(store: Store) -> dict[str, list[tuple[float, ...]]]:
    """The gold score of what was live at the end of each cycle, by skill: (cycle, mean, low, high), with the ends of
    Gaffke's 95 % interval over responses to the gold prompts."""
    found: dict[str, list[tuple[float, ...]]] = {}
    measured = {
        side: [store.measured(f"gold {side}{name}/") for name in ("", " low", " high")]
        for side in ("live", "candidate")
    }
    for cycle, skill in sorted(measured["live"][0]):
        side = "candidate" if (store.done(cycle, "gate") or {}).get("passed") else "live"
        found.setdefault(skill, []).append((cycle, *(values[cycle, skill] for values in measured[side])))
    return found


def status(store: Store) -> str:
    """The versions and the cycles, as text."""
    live = registry.live(store)
    lines = ["version  parent  cycle  new + old pairs  verdict"]
    back = registry.withdrawn(store)
    for version in registry.versions(store):
        passed = store.one("SELECT passed FROM verdicts WHERE version = ?", version.version)
        verdict = {None: "", 1: "passed", 0: "refused"}[passed]
        if passed and version.version in back:
            verdict += ", rolled back"
        if version == live:
            verdict = f"{verdict}, live".removeprefix(", ")
        parent = f"v{version.parent}" if version.parent else ""
        pairs = f"{version.spec['new']} + {version.spec['replayed']}" if version.parent else ""
        lines.append(f"{version.name:9}{parent:8}{version.cycle or '':<7}{pairs:17}{verdict}".rstrip())
    lines += ["", *(f"cycle {cycle.number}  {cycle.happened}" for cycle in cycles(store))]
    waiting = [step for step in STEPS if store.done(store.cycle, step) is None]
    lines.append(f"next: {waiting[0]} of cycle {store.cycle}")
    return "\n".join(lines)
