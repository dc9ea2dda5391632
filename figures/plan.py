"""Which arms are computed live within a budget, and which are drawn from the repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .committed import Committed


def plan(figures: Iterable[str], minutes: float, folder: Path | None = None) -> set[str]:
    """Keys of the committed records of some figures that are computed again within so many core-minutes.

    Costs are the core-seconds that each took when it was made, so the choice is the same on every machine.
    """
    return choose_live({figure: Committed(figure, folder).core_seconds() for figure in figures}, 60 * minutes)


def choose_live(costs: Mapping[str, Mapping[str, float]], budget: float) -> set[str]:
    """The records to compute, of costs[figure][key] in core-seconds.

    Of every figure the cheapest, whatever the budget, unless it is 0; then whole figures, the cheapest first; then
    single records of the others, the cheapest first. A record that several figures share is paid once.
    """
    if budget <= 0:
        return set()
    chosen: set[str] = set()
    paid: dict[str, float] = {}

    def price(records: Mapping[str, float]) -> float:
        return sum(cost for key, cost in records.items() if key not in chosen)

    for records in costs.values():
        if records:
            key = min(records, key=lambda k: (records[k], k))
            chosen.add(key)
            paid[key] = records[key]
    for records in sorted(costs.values(), key=price):
        if sum(paid.values()) + price(records) <= budget:
            chosen |= records.keys()
            paid |= records
    rest = sorted((cost, key) for records in costs.values() for key, cost in records.items() if key not in chosen)
    for cost, key in rest:
        if key not in chosen and sum(paid.values()) + cost <= budget:
            chosen.add(key)
            paid[key] = cost
    return chosen
