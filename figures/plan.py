"""Which arms are computed live within a budget, and which are drawn from the repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

SHARE = 0.01  # of the budget that one arm may cost which completes no row, and shows only that its figure's code runs


def choose_live(
    costs: Mapping[str, Mapping[str, float]], budget: float, rows: Mapping[str, Sequence[Set[str]]] | None = None
) -> set[str]:
    """The records to compute, of costs[figure][key] in core-seconds; those are of the machine that made the records,
    so the choice is the same everywhere.

    rows: the records behind each row of a figure, since a row is live only if all of its records are; all records of a
    figure that has none count as one row. Of every figure the cheapest record is taken if it costs at most SHARE of the
    budget; then whole rows, those first that cost least for each row of their figure that they complete. What is shared
    is paid once.
    """
    if budget <= 0:
        return set()
    cost = {key: seconds for records in costs.values() for key, seconds in records.items()}
    cheapest = {min(records, key=lambda k: (records[k], k)) for records in costs.values() if records}
    chosen = {key for key in cheapest if cost[key] <= SHARE * budget}
    paid = sum(cost[key] for key in sorted(chosen))
    waiting = {
        figure: [set(records) & cost.keys() for records in (rows or {}).get(figure) or [all_records.keys()]]
        for figure, all_records in costs.items()
    }
    while True:
        waiting = {figure: [left for row in its if (left := row - chosen)] for figure, its in waiting.items()}
        offers = []
        for its in waiting.values():
            for row in its:
                price = sum(cost[key] for key in sorted(row))
                if paid + price <= budget:
                    offers.append((price / sum(other <= row for other in its), sorted(row), price))
        if not offers:
            return chosen
        _, cheapest_row, price = min(offers)
        chosen |= set(cheapest_row)
        paid += price
