"""Step 2: the drift of the traffic, and the live version's ratings against those of the version that it replaced.

Both served requests of the same cycle (`log.HOLDBACK`). Where the 95 % interval of the difference of their mean
ratings lies below 0, the live version is rolled back: one that is as good as its predecessor is, in one cycle of forty.
"""

from __future__ import annotations

from typing import Any

from sims.statistics import Interval, difference_interval

from . import registry
from .context import Context
from .drift import drift
from .generation import Vectors, as_vectors

FEWEST = 20  # ratings of each version


def watch(context: Context) -> str:
    """Measure drift and ratings; roll back if users are less content."""
    store, cycle = context.store, context.cycle
    version = registry.live(store)
    distance, level = drift(trained_prompts(context, version.version), asked_prompts(context), context.rng("drift"))
    effect = rating_effect(context)
    bad = effect is not None and effect.high < 0
    said = f"drift {distance:.3g} (level {level:.2g})"
    if effect is not None:
        said += f"; rating of {version.name} {effect.estimate:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"
    with store.transaction():
        store.measure(cycle, "drift", distance)
        store.measure(cycle, "drift level", level)
        for number, mean, count in store.all(
            "SELECT version, avg(rating), count(rating) FROM log WHERE cycle = ? AND version NOT NULL GROUP BY version",
            cycle,
        ):
            if count:
                store.measure(cycle, f"rating v{number}", mean)
        note: dict[str, Any] = {"drift": distance, "level": level, "version": version.version, "rolled_back": bad}
        if effect is not None:
            note["rating"] = [effect.estimate, effect.low, effect.high]
        if bad:
            assert effect is not None
            why = f"rated {effect.estimate:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}] against its predecessor"
            _, back = registry.roll_back(store, cycle, why)
            said += f": rolled back to {back.name}"
            note["to"] = back.version
        store.finish(cycle, "watch", note)
    return said


def rating_effect(context: Context) -> Interval | None:
    """Mean rating of the live version minus its predecessor's, in this cycle; None with too few ratings."""
    standing = registry.standing(context.store)
    if len(standing) < 2:
        return None
    live, before = (_ratings(context, row["version"]) for row in standing[:-3:-1])
    return difference_interval(live, before) if min(len(live), len(before)) >= FEWEST else None


def _ratings(context: Context, version: int) -> list[float]:
    """This cycle's ratings of a version."""
    rows = context.store.all(
        "SELECT rating FROM log WHERE cycle = ? AND version = ? AND rating NOT NULL ORDER BY id", context.cycle, version
    )
    return [float(row["rating"]) for row in rows]


def trained_prompts(context: Context, version: int) -> Vectors:
    """Vectors of the prompts that a version was trained on; for the first one, those of the first cycle's traffic."""
    rows = context.store.all(
        "SELECT v.prompt FROM trained t JOIN vectors v ON v.row = t.row WHERE t.version = ? ORDER BY v.row", version
    )
    if not rows:
        rows = context.store.all(
            "SELECT v.prompt FROM vectors v JOIN log l ON l.id = v.row WHERE l.cycle = 1 ORDER BY l.id"
        )
    return as_vectors([row["prompt"] for row in rows])


def asked_prompts(context: Context) -> Vectors:
    """Vectors of this cycle's prompts."""
    rows = context.store.all(
        "SELECT v.prompt FROM vectors v JOIN log l ON l.id = v.row WHERE l.cycle = ? ORDER BY l.id", context.cycle
    )
    return as_vectors([row["prompt"] for row in rows])
