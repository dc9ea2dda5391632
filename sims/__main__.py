"""python -m sims: one experiment from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from . import policies  # noqa: F401  (importing registers them)
from .core.algorithms import Algorithm, algorithm_table, find_algorithm
from .core.loop.labelling import Labelling
from .core.loop.optimise import Optimiser
from .core.loop.protocols import PolicySpec
from .core.schedule import Schedule
from .core.spec import SpecError, find_kind, kinds_of
from .environments import ToyEnvironment
from .experiments.experiment import Experiment
from .experiments.measures import optima, scores
from .experiments.options import OptionParser, add_options, check_folder, from_options
from .experiments.runner import Progress, obtain
from .experiments.store import Record, Store
from .listings import environment_table, policy_table
from .statistics.intervals import mean_interval

EXAMPLES = """examples:
  python -m sims --algorithm dpo --beta 0.1 --environment bandit-r1 --sync-every-updates 10 --runs 20
  python -m sims --algorithm ppo --environment token-tree --num-prompts 3 --epochs 4 --plot ppo.png
  python -m sims --algorithm dpo --sync-every-updates inf      offline: fresh draws from the first policy for ever
  python -m sims --algorithm dpo --help                        every option of this algorithm
  python -m sims --algorithms                                  the table of algorithms; also --environments, --policies
"""
TABLES = {"algorithms": algorithm_table, "environments": environment_table, "policies": policy_table}
OURS = ("name", "environment", "policy", "algorithm", "schedule", "optimiser", "labelling")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 for options that cannot be."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        experiment, options = parse(arguments)
        check_folder("results", options.results)
        if options.plot is not None:
            check_picture(options.plot)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tables = {name: table for name, table in TABLES.items() if getattr(options, name)}
    if tables:
        print("\n\n".join(table() for table in tables.values()))
        return 0
    try:
        record = run(experiment, Store(options.results), options.force)
    except SpecError as error:  # of an environment or a policy whose numbers cannot be
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing that was finished is lost", file=sys.stderr)
        return 130
    print(closing_table(record, experiment))
    if options.plot is not None:
        plot(record, experiment, options.plot)
        print(f"\n{options.plot}")
    return 0


def check_picture(file: Path) -> None:
    """Refuse, with SpecError, a picture that could not be written when the run is over."""
    if file.suffix not in (".png", ".svg", ".pdf"):
        raise SpecError("plot", str(file), "must end in .png, .svg or .pdf")
    if not file.parent.is_dir():
        raise SpecError("plot", str(file), "must lie in a folder that is there")


def parse(arguments: Sequence[str]) -> tuple[Experiment, argparse.Namespace]:
    """The experiment that the options describe. The first pass finds the choices, the second their own options."""
    first = _choices(OptionParser("python -m sims", add_help=False)).parse_known_args(list(arguments))[0]
    algorithm = find_algorithm(first.algorithm.replace("-", "_"))
    environment = find_kind(first.environment.replace("-", "_"), ToyEnvironment, "environment")
    policy = find_kind(first.policy.replace("-", "_"), PolicySpec, "policy")
    parser = _choices(
        OptionParser("python -m sims", description="Run one experiment, all its runs at once.", epilog=EXAMPLES)
    )
    parts: list[tuple[type, str]] = [
        (algorithm, f"algorithm {algorithm.kind}"),
        (environment, f"environment {environment.kind}"),
        (policy, f"policy {policy.kind}"),
        (Schedule, "schedule"),
        (Optimiser, "optimiser"),
        (Labelling, "labelling"),
    ]
    for cls, title in parts:
        add_options(parser, cls, title)
    add_options(parser, Experiment, "experiment", skip=OURS)
    options = parser.parse_strictly(arguments)
    fixed = {
        "name": f"{algorithm.kind}-{environment.kind}",
        "algorithm": from_options(options, algorithm),
        "environment": from_options(options, environment),
        "policy": from_options(options, policy),
        "schedule": from_options(options, Schedule),
        "optimiser": from_options(options, Optimiser),
        "labelling": from_options(options, Labelling),
    }
    return from_options(options, Experiment, fixed), options


def _choices(parser: OptionParser) -> OptionParser:
    group = parser.add_argument_group("choices; each brings options of its own, which --help then shows")
    kinds = {"algorithm": Algorithm, "environment": ToyEnvironment, "policy": PolicySpec}
    defaults = {"algorithm": "rloo", "environment": "bandit-r1", "policy": "table"}
    for name, base in kinds.items():
        listed = ", ".join(kind.replace("_", "-") for kind in kinds_of(base))
        group.add_argument(
            f"--{name}", default=defaults[name], metavar="NAME", help=f"{listed} (default {defaults[name]})"
        )
    group = parser.add_argument_group("output")
    for name in TABLES:
        group.add_argument(f"--{name}", action="store_true", help=f"print the table of {name}, and run nothing")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw score and KL against samples")
    group.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where records are kept")
    group.add_argument("--force", action="store_true", help="run again what is on disk")
    return parser


def run(experiment: Experiment, store: Store, force: bool) -> Record:
    """The record, with a progress bar while it is made."""
    with tqdm(total=1, unit="update", bar_format="{desc} {percentage:3.0f}%|{bar:30}| {elapsed}<{remaining}") as bar:

        def show(progress: Progress) -> None:
            bar.set_description_str(f"{experiment.name} {'cached' if progress.cached else f'{experiment.runs} runs'}")
            bar.total, bar.n = max(progress.work, 1), progress.work_done if progress.work else 1
            bar.refresh()

        return obtain([experiment], store, force=force, progress=show)[0]


def closing_table(record: Record, experiment: Experiment) -> str:
    """Reward, score, KL and entropy at the end, with their intervals, beside the exact optimum."""
    arrays, best = record.arrays, optima(record, experiment)
    curves = {
        "reward": arrays["reward"],
        "score": scores(record),
        "KL(π‖π_ref)": arrays["kl_policy_ref"],
        "entropy": arrays["entropy"],
    }
    lines = [f"{'':14}{'start':>9}{'end':>9}{'95 % interval':>22}" + "".join(f"{column:>18}" for column in best)]
    for name, curve in curves.items():
        end = curve[:, -1].astype(float)
        interval = mean_interval(end) if experiment.runs > 1 else None
        span = f"[{interval.low:.4f}, {interval.high:.4f}]" if interval else "one run: none"
        targets = "".join(f"{values[name]:18.4f}" for values in best.values())
        lines.append(f"{name:14}{curve[:, 0].mean():9.4f}{end.mean():9.4f}{span:>22}{targets}")
    died = int((arrays["diverged_at"] >= 0).sum())
    done = f"{experiment.runs} runs, {experiment.updates} updates, {int(arrays['samples'][-1])} samples a run"
    lines.append(f"\n{done}, {died} diverged (score 0), record {record.hash}")
    return "\n".join(lines)


def plot(record: Record, experiment: Experiment, file: Path) -> None:
    """Score and KL against samples, mean and 95 % band over runs, with the largest reward drawn in."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from .statistics.intervals import band

    arrays = record.arrays
    pooled = experiment.schedule.source == "pool"  # drawn once: the count of samples stands still
    x, name = (arrays["updates"], "updates") if pooled else (arrays["samples"], "samples drawn")
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for panel, values, label in (
        (axes[0], scores(record), "score (0: reference, 1: largest reward)"),
        (axes[1], arrays["kl_policy_ref"], "KL(policy ‖ reference), nats"),
    ):
        if experiment.runs > 1:
            mean, low, high = band(values)
            panel.fill_between(x, low, high, alpha=0.2, linewidth=0)
        else:
            mean = values[0]
        panel.plot(x, mean)
        panel.set(xlabel=name, ylabel=label)
        panel.grid(alpha=0.25)
    axes[0].axhline(1, color="black", linestyle=":", linewidth=1)
    fig.suptitle(f"{experiment.algorithm.kind} on {experiment.environment.kind}, {experiment.runs} runs")
    fig.savefig(file)


if __name__ == "__main__":
    sys.exit(main())
