"""Experiments from Python in one call: `run` builds an `Experiment`, and `run_experiment` returns its `Result`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from tqdm import tqdm

from .core.algorithms import Algorithm
from .core.loop.deployment import Deployment
from .core.loop.labelling import Labelling
from .core.loop.optimise import Optimiser
from .core.loop.protocols import EnvironmentSpec, PolicySpec
from .core.schedule import Schedule
from .core.spec import SpecError
from .experiments.computation import Computation
from .experiments.engines import check_engine
from .experiments.experiment import PARTS, Experiment
from .experiments.folders import check_folder
from .experiments.memory import check_size
from .experiments.results import Result
from .experiments.runner import Progress, compute, find_or_run, sources_of
from .experiments.store import Record, Store
from .policies import Table
from .settings import Settings, changed

_TABLE, _SCHEDULE, _OPTIMISER = Table(), Schedule(), Optimiser()


def run(
    algorithm: Algorithm,
    environment: EnvironmentSpec,
    policy: PolicySpec = _TABLE,
    *,
    updates: int = 1000,
    runs: int = 20,
    seed: int = 0,
    schedule: Schedule = _SCHEDULE,
    optimiser: Optimiser = _OPTIMISER,
    results: str | Path | None = None,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> Result:
    """Train `runs` independent policies by an algorithm on an environment, and evaluate them along the way.

    schedule, optimiser: settings of collection and optimiser; their fields can also be given by name: learning_rate,
    batch_size, sync_every_updates and so on (`Settings` lists them). results: a folder of records; an existing record
    is read instead of run, and `python -m sims` finds it under the same name. Without it nothing is written. progress:
    whether to show a progress bar. Raises SpecError, one line, for invalid settings.

    >>> online = sims.run(sims.DPO(beta=0.1), sims.BanditR1(), updates=100, runs=4, learning_rate=0.1)
    >>> offline = sims.run(
    ...     sims.DPO(beta=0.1), sims.BanditR1(), updates=100, runs=4, learning_rate=0.1, sync_every_updates=np.inf
    ... )
    >>> bool((online.score[:, -1] > offline.score[:, -1]).all())
    True
    >>> sims.run(sims.DPO(), sims.BanditR1(), lerning_rate=0.1)
    Traceback (most recent call last):
    sims.core.spec.SpecError: lerning_rate = 0.1: no such setting; did you mean learning_rate?
    """
    whole = {"algorithm": algorithm, "environment": environment, "policy": policy}
    for field, part in {**whole, "schedule": schedule, "optimiser": optimiser}.items():
        _check_part(field, part)
    parts = changed(
        {
            "schedule": schedule,
            "optimiser": optimiser,
            "labelling": Labelling(),
            "deployment": Deployment(),
            "computation": Computation(),
        },
        settings,
        ("name", "evaluations", "precision"),
        (algorithm, environment, policy),
    )
    numbers = {"updates": updates, "runs": runs, "seed": seed}
    defaults: dict[str, Any] = {"name": f"{algorithm.kind}-{environment.kind}"}
    if isinstance(updates, int) and 0 < updates < 20:
        defaults["evaluations"] = updates
    return run_experiment(Experiment(**defaults | whole | numbers | parts), results, progress=progress)


_EXAMPLES = {"algorithm": "DPO", "environment": "BanditR1", "policy": "Table"}


def _check_part(field: str, part: Any) -> None:
    """Raise SpecError for a part of the wrong class."""
    base = PARTS[field]
    if isinstance(part, type) and issubclass(part, base):
        raise SpecError(field, part.__name__, f"must be an instance: {part.__name__}()")
    if not isinstance(part, base):
        example = _EXAMPLES.get(field, base.__name__)
        raise SpecError(field, part, f"must be an instance of {base.__name__}, such as sims.{example}()")


def run_experiments(
    experiments: Sequence[Experiment],
    results: str | Path,
    *,
    jobs: int = 1,
    engine: str = "processes",
    engine_options: Mapping[str, str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> list[Result]:
    """The results of many experiments, such as a sweep, in their order: those that can are trained as one stack.

    results: a folder for their records; existing records are read instead of run, so that what was interrupted goes on.
    jobs: stacks at a time. engine: where they are computed: processes of this machine, or `ray` or `submitit` (extras),
    with options of their own, as text (`sims.experiments.engines`). In a script, processes need the guard
    `if __name__ == "__main__":`. Raises SpecError for a folder, an engine or an option that cannot be.

    >>> base = sims.Experiment("sweep", sims.BanditR1(), sims.Table(), sims.RLOO(), updates=20, runs=4)
    >>> sweep = [base.replace(optimiser=sims.Optimiser(learning_rate=rate)) for rate in (0.01, 0.1, 1.0)]
    >>> [result.score.shape for result in sims.run_experiments(sweep, "results")]
    [(4, 21), (4, 21), (4, 21)]
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise SpecError("jobs", jobs, "must be int >= 1")
    experiments = [experiments] if isinstance(experiments, Experiment) else list(experiments)
    check_engine(engine, engine_options or {})
    folder = _checked_folder(experiments, results)
    with _bar(f"{len(experiments)} experiments", 1000, progress) as show:

        def report(state: Progress) -> None:
            show(round(1000 * state.work_done / state.work) if state.work else 1000)

        records = find_or_run(experiments, Store(folder), jobs, force, report, engine, engine_options)
        return [Result(*pair) for pair in zip(experiments, records, strict=True)]


def run_experiment(
    experiment: Experiment, results: str | Path | None = None, *, force: bool = False, progress: bool = False
) -> Result:
    """The result of an experiment. results: a folder for its record; an existing record is read instead of run.

    force: run it even if there is a record. Raises SpecError if the folder cannot be created, if the experiment needs
    more memory than there is, or if a class is defined in a notebook cell: without its source file a record could not
    be checked against the current code.

    >>> experiment = sims.Experiment("mine", sims.BanditR2(), sims.Table(), sims.RLOO(), updates=20, runs=4)
    >>> sims.run_experiment(experiment).experiment == experiment
    True
    """
    check_size(experiment)
    total = experiment.runs * experiment.updates
    with _bar(f"{experiment.name} {experiment.runs} run{'s' if experiment.runs > 1 else ''}", total, progress) as show:
        if results is None:
            arrays = compute([experiment], lambda updates: show(experiment.runs * updates))[0]
            show(total)
            return Result(experiment, Record(experiment.to_json(), arrays, provenance={}))
        folder = _checked_folder([experiment], results)

        def report(state: Progress) -> None:
            show(round(total * state.work_done / state.work) if state.work else total)

        return Result(experiment, find_or_run([experiment], Store(folder), force=force, progress=report)[0])


def _checked_folder(experiments: Sequence[Experiment], results: str | Path) -> Path:
    """A folder that can hold the records of experiments, else SpecError."""
    if not isinstance(results, str | Path) or results == "":
        raise SpecError("results", results, "must name a folder")
    check_folder("results", Path(results))
    for experiment in experiments:
        if not isinstance(experiment, Experiment):
            raise SpecError("experiments", experiment, "must be a list of sims.Experiment")
        try:
            sources_of(experiment)
        except (OSError, TypeError) as error:
            rule = f"must be left out: a record cannot be kept without the source that made it ({error})"
            raise SpecError("results", str(results), rule) from error
    return Path(results)


@contextmanager
def _bar(label: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over run-updates."""
    form = "{desc} {percentage:3.0f}%|{bar:30}| {elapsed}<{remaining}"
    with tqdm(total=total, desc=label, bar_format=form, disable=not shown) as bar:

        def show(done: int) -> None:
            bar.n = done
            bar.refresh()

        yield show
