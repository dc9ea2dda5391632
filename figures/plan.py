"""Which arms are computed live within a budget, and which are drawn from the repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

SHARE = 0.01  # of the budget that one arm may cost which completes no row, and shows only that its figure's code runs


def choose_live(
    costs: Mapping[str, Mapping[str, float]], budget: float, rows: Mapping[str, Sequence[Set[str]]] | None = None
) -> set[str]:
    """The records to compute, of costs[figure][key] in core-seconds; those are of the machine that made the records,
    and not of this one.

    rows: the records behind each row of a figure, since a row is live only if all of its records are; all records of a
    figure that has none count as one row. Of every figure the cheapest record is taken if it costs at most SHARE of the
    budget; beside these, what makes the most rows live. What rows share is paid once: with x = 1 for a record and y = 1
    for a row that are live,

        max Σ_r y_r    such that    y_r ≤ x_k for each record k of row r,   Σ_k c_k·x_k ≤ budget

    which HiGHS solves; of two choices with as many rows it takes either.
    """
    cost = {key: seconds for records in costs.values() for key, seconds in records.items()}
    cheapest = {min(records, key=lambda k: (records[k], k)) for records in costs.values() if records}
    shown = {key for key in cheapest if cost[key] <= SHARE * budget}
    most = max(budget, sum(cost[key] for key in sorted(shown)))
    behind = [
        sorted(set(records) & cost.keys())
        for figure, all_records in costs.items()
        for records in (rows or {}).get(figure) or [all_records.keys()]
    ]
    keys = sorted({key for records in behind for key in records} | shown)
    if budget <= 0 or not keys:
        return set()
    place, seconds = {key: i for i, key in enumerate(keys)}, np.array([cost[key] for key in keys])
    pairs = np.array([(len(keys) + r, place[key]) for r, records in enumerate(behind) for key in records], int)
    pairs = pairs.reshape(-1, 2)
    # A line of the matrix for each pair, y_r − x_k ≤ 0; and the last for the budget.
    lines, every = np.arange(len(pairs)), np.arange(len(keys))
    at = np.stack([[*lines, *lines, *[len(pairs)] * len(keys)], [*pairs.T.ravel(), *every]])
    at = at.astype(np.int32)  # HiGHS as scipy 1.11 has it takes no wider ones
    values = np.concatenate([np.ones(len(pairs)), -np.ones(len(pairs)), seconds])
    matrix = coo_array((values, (at[0], at[1])), shape=(len(pairs) + 1, len(keys) + len(behind)))
    found = milp(
        np.repeat([0.0, -1.0], [len(keys), len(behind)]),
        integrality=np.repeat([0, 1], [len(keys), len(behind)]),  # an x may be a fraction, of a record of no live row
        bounds=Bounds([float(key in shown) for key in keys] + [0.0] * len(behind), 1.0),
        constraints=LinearConstraint(matrix.tocsr(), ub=np.append(np.zeros(len(pairs)), most)),
    )
    return shown.union(*(records for records, y in zip(behind, found.x[len(keys) :], strict=True) if y > 0.5))
