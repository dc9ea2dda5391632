"""The page: one HTML file without scripts and without links, for any screen, light or dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment

from . import registry, rejection
from .chart import Points, line_chart
from .context import Context, settings_of
from .report import Cycle, cycles, gold_by_cycle
from .settings import Settings
from .store import Store

TEMPLATE = Path(__file__).with_name("page.html")


def page(store: Store) -> str:
    """The page of a store, as HTML."""
    every = cycles(store)
    settings = settings_of(store, store.cycle) or Settings()
    versions = registry.versions(store)
    back = registry.withdrawn(store)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        cycles=every,
        rows=[_row(store, settings, cycle) for cycle in every],
        gold=_gold_rows(store, every),
        interval=_interval,
        live=registry.live(store),
        refused=sum(cycle.passed is False for cycle in every),
        rolled_back=sum(cycle.rolled_back for cycle in every),
        charts=charts(store, every),
        versions=[(version, _state(store, version.version, back)) for version in versions],
        lessons=settings.users.scenario == "lessons" and Context(store, settings).simulated,
        classifiers=[
            (cycle.number, found, rejection.came_true(store, cycle.number))
            for cycle in every
            if (found := rejection.kept(store, cycle.number)) is not None
        ],
    )


def charts(store: Store, every: list[Cycle]) -> dict[str, str]:
    """The charts by name; an empty text for one without numbers."""
    gold: dict[str, Points] = {**gold_by_cycle(store)}
    measured = {
        name: sorted((c, y) for (c, n), y in store.measured(name).items() if not n) for name in ("drift", "drift level")
    }
    ratings: dict[str, list[tuple[float, ...]]] = {"live version": [], "predecessor": []}
    for (cycle, name), value in sorted(store.measured("rating v").items()):
        watched = (store.done(cycle, "watch") or {}).get("version")
        ratings["live version" if int(name) == watched else "predecessor"].append((cycle, value))
    return {
        "gold": line_chart(gold, "Gold score of the live version by skill and cycle", "mean gold score"),
        "drift": line_chart(
            {"distance": measured["drift"], "level without drift": measured["drift level"]},
            "Distance between what the live version was trained on and what users ask, by cycle",
            "energy distance",
            0.0,
        ),
        "ratings": line_chart(ratings, "Share of thumbs up by cycle", "share of thumbs up"),
    }


def _row(store: Store, settings: Settings, cycle: Cycle) -> dict[str, Any]:
    """What the table of cycles shows of one."""
    watched, label = cycle.notes.get("watch", {}), cycle.notes.get("label", {})
    return {
        "asked": store.one("SELECT count(*) FROM log WHERE cycle = ?", cycle.number),
        "drift": f"{watched['drift']:.3f}" if "drift" in watched else "",
        "above": watched.get("drift", 0) > watched.get("level", 0),
        "labels": f"{label['labelled']} of {label['pairs']}, {label['ties']} ties" if label else "",
        "share": f"{settings.users.share_of_differences(cycle.number):.0%}",
    }


def _gold_rows(store: Store, every: list[Cycle]) -> list[dict[str, Any]]:
    """The gold score of each skill, with its interval, of what was live at the end of each cycle that has one."""
    found: dict[int, dict[str, str]] = {}
    for skill, points in gold_by_cycle(store).items():
        for number, mean, low, high in points:
            found.setdefault(int(number), {})[skill] = f"{mean:.2f} [{low:.2f}, {high:.2f}]"
    live = {cycle.number: cycle.live for cycle in every}
    return [{"cycle": number, "live": live[number], "skills": skills} for number, skills in sorted(found.items())]


def _interval(estimate: float, low: float, high: float) -> str:
    return f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


def _state(store: Store, version: int, back: set[int]) -> str:
    passed = store.one("SELECT passed FROM verdicts WHERE version = ?", version)
    if registry.live(store).version == version:
        return "live"
    return "refused" if passed == 0 else "rolled back" if version in back else "retired"
