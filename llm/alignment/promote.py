"""Step 7: the candidate that the gate passed goes live; the cycle ends."""

from __future__ import annotations

import shutil

from . import registry
from .context import Context
from .gate import report_of
from .update import WORK


def promote(context: Context) -> str:
    """Let the candidate of the cycle go live, or leave the live version where it is."""
    store, cycle = context.store, context.cycle
    verdict = store.done(cycle, "gate") or {}
    number: int | None = verdict.get("version")
    work = store.folder / WORK
    if work.exists():  # before the cycle ends: whoever is killed here, or may not remove it, comes back
        shutil.rmtree(work)
    with store.transaction():
        if number is not None and verdict["passed"]:
            registry.promote(store, number, cycle, "the gate passed it")
        store.finish(cycle, "promote", {"version": number, "live": registry.live(store).version})
    if number is None:
        return f"v{registry.live(store).version} stays live"
    if verdict["passed"]:
        return f"v{number} is live"
    why = "; ".join(f"{check.name} {check.said}" for check in report_of(store, number) if not check.passed)
    return f"v{number} stays out ({why}); v{registry.live(store).version} stays live"
