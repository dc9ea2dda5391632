"""The arrays of a record by name, their axes, scores and the exact optima: what tables and curves are made of."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from .experiment import Experiment
from .measures import Optimum, optima, scores
from .record_file import Record
from .record_schema import SCHEMA


@dataclass(frozen=True, eq=False, repr=False)
class RecordArrays:
    """An experiment and its record, each of whose arrays is an attribute. `sims.Result` adds a table and a plot."""

    experiment: Experiment
    record: Record

    @property
    def score(self) -> np.ndarray:
        """(runs, evaluations): 0 is the reference, 1 the largest reward (`sims.experiments.measures.scores`); 0 once a
        run has diverged. NaN where the largest reward is not known."""
        return scores(self.record)

    @property
    def optima(self) -> list[Optimum]:
        """The largest reward, where it is known; then the optimum under the KL penalty, if any.

        >>> result = sims.run(sims.RLOO(beta=0.1), sims.BanditR1(), updates=10, runs=2)
        >>> [optimum.label for optimum in result.optima]
        ['largest reward', 'π* at β = 0.1']
        """
        return optima(self.record, self.experiment)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of the record, and the score, by name."""
        return {"score": self.score, **self.record.arrays}

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The names of the axes of each array."""
        found = {name: SCHEMA[name].named(array.ndim) for name, array in self.record.arrays.items()}
        return {"score": ("run", "evaluation"), **found}

    @property
    def diverged(self) -> int:
        """How many runs have diverged."""
        return int((self.record.arrays["diverged_at"] >= 0).sum())

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_"):
            raise AttributeError(name)
        arrays = self.record.arrays
        if name not in arrays:
            near = difflib.get_close_matches(name, arrays, n=1) or [x for x in arrays if x.startswith(name)]
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(arrays))}"
            raise AttributeError(f"no array {name} in this record; {hint}", name=name, obj=self)
        return arrays[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.record.arrays})
