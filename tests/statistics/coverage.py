"""How often 95 % intervals hold the truth where many runs sit at a bound: `python -m tests.statistics.coverage` says.

A score lies within [0, 1]. A run is at 1 with some probability, and else drawn from one of REST. `Student and
bootstrap-t` is `statistics.mean_interval`, `Gaffke` is `bounded.bounded_interval`. The standard error of a coverage c
in E experiments is √(c(1 − c)/E): 0.0049 at c = .95 in the 2,000 of the table.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sims.statistics.bootstrap import mean_bounds
from sims.statistics.bounded import bounded_bounds
from sims.statistics.intervals import LEVEL, RESAMPLES

RUNS = (10, 20, 50, 100)
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
AT_ONCE = 200  # experiments, which bounds the memory

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
# Where a run is that is not at 1: its mean, and how it is drawn.
REST: dict[str, tuple[float, Draw]] = {
    "uniform": (0.5, lambda rng, shape: rng.uniform(size=shape)),
    "near the bound": (0.8, lambda rng, shape: rng.beta(8.0, 2.0, shape)),
    "far from it": (0.1, lambda rng, shape: rng.beta(1.0, 9.0, shape)),
    "at the other bound": (0.0, lambda rng, shape: np.zeros(shape)),
}
Bounds = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
METHODS: dict[str, Bounds] = {
    "Student and bootstrap-t": lambda x: mean_bounds(x, LEVEL, RESAMPLES, 0),
    "Gaffke": lambda x: bounded_bounds(x, 0.0, 1.0, LEVEL),
}


def drawn(share: float, rest: str, runs: int, experiments: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """Scores (runs, experiments), and the mean that they are drawn with."""
    rng = np.random.default_rng((seed, runs, round(1000 * share), list(REST).index(rest)))
    mean, draw = REST[rest]
    at_bound = rng.uniform(size=(runs, experiments)) < share
    return np.where(at_bound, 1.0, draw(rng, (runs, experiments))), share + (1.0 - share) * mean


def coverage(method: str, share: float, rest: str, runs: int, experiments: int, seed: int = 0) -> tuple[float, float]:
    """Share of experiments whose interval holds the truth, and the mean width of an interval."""
    scores, truth = drawn(share, rest, runs, experiments, seed)
    held, width = 0, 0.0
    for start in range(0, experiments, AT_ONCE):
        _, low, high = METHODS[method](scores[:, start : start + AT_ONCE])
        # To rounding: runs that are all equal give both ends there.
        held += int(((low <= truth + 1e-12) & (truth <= high + 1e-12)).sum())
        width += float((high - low).sum())
    return held / experiments, width / experiments


def supports_nothing(method: str, runs: int, experiments: int, margin: float = 0.05) -> float:
    """How often "no difference beyond the margin" is supported of two arms that truly differ by 1.25 margins.

    The first arm is always at 1, the second falls to 0 with probability 1.25 margins: the paired difference is the
    chance of that. Of an honest 95 % interval, at most 0.025.
    """
    rng = np.random.default_rng((7, runs))
    fallen = (rng.uniform(size=(runs, experiments)) < 1.25 * margin).astype(float)
    if method == "Gaffke":  # of differences of two scores, which lie within ±1
        _, low, high = bounded_bounds(fallen, -1.0, 1.0, LEVEL)
    else:
        _, low, high = METHODS[method](fallen)
    return float(((low >= -margin) & (high <= margin)).mean())


def main(experiments: int = 2000) -> None:
    for runs in RUNS:
        print(f"\n{runs} runs; coverage and mean width of {', '.join(METHODS)}")
        for rest in REST:
            for share in SHARES:
                cells = [coverage(method, share, rest, runs, experiments) for method in METHODS]
                told = "   ".join(f"{c:.3f} {w:.3f}" for c, w in cells)
                print(f"  {share:4.0%} at 1, else {rest:20} {told}")
        none = "   ".join(f"{supports_nothing(method, runs, experiments):.3f}" for method in METHODS)
        print(f"  no effect supported at 1.25 margins: {none}")


if __name__ == "__main__":
    main()
