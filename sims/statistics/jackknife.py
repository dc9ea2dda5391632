"""The error of a statistic that is no mean of numbers per run, but a function of such means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def pseudo_values(statistic: Callable[[np.ndarray], float], values: np.ndarray) -> np.ndarray:
    """(runs,): R·θ − (R − 1)·θ₋ᵢ, θ the statistic of the mean over all R runs, θ₋ᵢ of that over all but run i.

    Their mean is θ without its bias of order 1/R, and their spread gives its error, for a statistic that is smooth in
    the means (Tukey 1958); of a jump, as of a median, it does not. Of the identity they are the values themselves.
    values: (runs, ...), what is averaged.
    """
    runs, total = len(values), values.sum(0)
    without = np.array([statistic((total - run) / (runs - 1)) for run in values])
    return np.asarray(runs * statistic(total / runs) - (runs - 1) * without)
