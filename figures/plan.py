"""Which arms are computed live within a budget, and which are drawn from the repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set


def choose_live(
    costs: Mapping[str, Mapping[str, float]], budget: float, rows: Mapping[str, Sequence[Set[str]]] | None = None
) -> set[str]:
    """The records to compute, of costs[figure][key] in core-seconds; those are of the machine that made the records,
    so the choice is the same everywhere.

    rows: the records behind each row of a figure, since a row is live only if all of its records are; all records of a
    figure that has none count as one row. Of every figure the cheapest record is taken, whatever the budget, unless it
    is 0; then whole rows, the cheapest first; then single records, the cheapest first. What is shared is paid once.
    """
    if budget <= 0:
        return set()
    cost = {key: seconds for records in costs.values() for key, seconds in records.items()}
    chosen = {min(records, key=lambda k: (records[k], k)) for records in costs.values() if records}
    paid = sum(cost[key] for key in chosen)

    def price(records: Set[str]) -> float:
        return sum(cost[key] for key in sorted(records - chosen))

    known = [
        set(records) & cost.keys()
        for figure, all_records in costs.items()
        for records in (rows or {}).get(figure) or [all_records.keys()]
    ]
    while known:
        cheapest = min(known, key=price)
        known.remove(cheapest)
        if paid + price(cheapest) <= budget:
            paid += price(cheapest)
            chosen |= cheapest
    for key in sorted(cost.keys() - chosen, key=lambda k: (cost[k], k)):
        if paid + cost[key] <= budget:
            paid += cost[key]
            chosen.add(key)
    return chosen
