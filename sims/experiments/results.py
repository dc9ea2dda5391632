"""The result of an experiment: arrays with named axes, scores, the exact optimum, a table and a plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sims.statistics.intervals import mean_interval

from .measures import Optimum
from .record_arrays import RecordArrays
from .record_schema import ESTIMATORS, SCHEMA, unit_of
from .summary import Summary, summarise

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Result(RecordArrays):
    """An experiment and its record. Each array of the record is an attribute: `result.reward`, `result.kl_policy_ref`.

    Their axes, in `axes`, are run, evaluation (the start, then evenly spread over the updates), prompt and response.
    `updates` and `samples` are the counts at each evaluation; `logp_ref` and `logp_final` are log-probs at the start
    and at the end, where responses can be listed.

    >>> result = sims.run(sims.RLOO(), sims.BanditR2(), updates=100, runs=4, evaluations=2)
    >>> result.reward.shape, result.axes["reward"]
    ((4, 3), ('run', 'evaluation'))
    >>> result.updates
    array([  0,  50, 100])
    >>> result.rewards.shape, result.axes["rewards"]
    ((1, 100), ('prompt', 'response'))
    >>> result.kl
    Traceback (most recent call last):
    AttributeError: no array kl in this record; did you mean kl_policy_ref?
    """

    @property
    def optimum(self) -> Optimum | None:
        """The exact optimum of the experiment's objective: π_ref·e^{r/β}/Z if it has a KL penalty of known β, else the
        largest reward; None where that is not known. It has label, reward, score, kl_policy_ref, entropy and logp.

        >>> sims.run(sims.DPO(), sims.BanditR1(), updates=10, runs=2).optimum.reward
        1.0
        """
        return self.optima[-1] if self.optima else None

    def table(self) -> Summary:
        """Start, end and 95 % interval over runs of each measurement, and the exact optimum. Print it, or display it in
        Jupyter.

        >>> print(sims.run(sims.RLOO(), sims.BanditR1(), updates=100, runs=20).table())
                             start      end      95 % interval   largest reward
        reward              0.0390   0.0...   [0.0..., 0.0...]           1.0000
        score               0.0000   0.0...   [0.0..., 0.0...]           1.0000
        KL(π‖π_ref), nats   0.0000   0.0...   [0.0..., 0.0...]           6.1602
        entropy, nats       4.1173   4.3...   [4.3..., 4.3...]           0.0000
        <BLANKLINE>
        20 runs, 100 updates, 12800 samples per run, 0 diverged (score 0), record ...
        """
        return summarise(self)

    def plot(self, *names: str, figure: Figure | None = None, label: str | None = None) -> Figure:
        """Curves over samples: mean over runs and its 95 % band, and the optimum as a line. Returns the figure.

        names: arrays with axes (run, evaluation), one panel each; default: score and kl_policy_ref. figure: one that
        `plot` returned, to draw another result into; label: in its legend (default: the algorithm).

        >>> online, offline = (
        ...     sims.run(sims.DPO(), sims.BanditR1(), updates=40, runs=4, sync_every_updates=sync) for sync in (1, 40)
        ... )
        >>> figure = online.plot(label="online")
        >>> figure = offline.plot(figure=figure, label="offline")
        >>> [panel.get_ylabel() for panel in figure.axes]
        ['score (0: reference, 1: largest reward)', 'KL(policy ‖ reference), nats']
        """
        from .curves import draw  # which loads matplotlib

        return draw(self, names or ("score" if self.optima else "reward", "kl_policy_ref"), figure, label)

    def to_xarray(self) -> xarray.Dataset:
        """All arrays as an `xarray.Dataset` with named dimensions, units and definitions; for those that can be
        estimated, how they were (`ESTIMATORS`); and the experiment's JSON. Needs xarray: pip install xarray."""
        try:
            import xarray
        except ImportError as error:
            raise ImportError("to_xarray needs the package xarray: pip install xarray") from error
        axes, estimators = self.axes, self.experiment.environment.estimators
        variables = {}
        for name, array in self.arrays.items():
            notes = {"units": unit_of(name), "estimator": ESTIMATORS.get(estimators.get(name, ""), "")}
            notes["long_name"] = SCHEMA[name].meaning if name in SCHEMA else ""
            variables[name] = (axes[name], array, {key: note for key, note in notes.items() if note})
        attributes = {"experiment": json.dumps(self.record.spec), "hash": self.record.hash}
        return xarray.Dataset(variables, attrs=attributes).set_coords(["updates", "samples"])

    def __repr__(self) -> str:
        experiment = self.experiment
        name = "score" if self.optima else "reward"
        end = self.arrays[name][:, -1].astype(float)
        final = f"{end.mean():.2f}"
        if len(end) > 1 and np.isfinite(end).all():
            interval = mean_interval(end)
            final += f" [{interval.low:.2f}, {interval.high:.2f}]"
        what = f"{experiment.algorithm.kind} on {experiment.environment.kind}"
        size = f"{experiment.runs} run{'s' if experiment.runs > 1 else ''} of {experiment.updates} updates"
        died = f", {self.diverged} diverged" if self.diverged else ""
        return f"Result({what}: {size}, final {name} {final}{died})"
