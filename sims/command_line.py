"""The options of `python -m sims`, and what it does with them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import policies  # noqa: F401  (importing registers them)
from .api import run_experiment
from .core.algorithms import Algorithm, algorithm_table, find_algorithm
from .core.loop.deployment import Deployment
from .core.loop.labelling import Labelling
from .core.loop.optimise import Optimiser
from .core.loop.protocols import PolicySpec
from .core.schedule import Schedule
from .core.spec import find_kind, kinds_of
from .environments import ToyEnvironment
from .experiments.command import keeping
from .experiments.computation import Computation
from .experiments.experiment import Experiment
from .experiments.folders import check_file, check_folder, path
from .experiments.options import OptionParser, add_options, from_options, kind_name
from .listings import environment_table, policy_table

EXAMPLES = """examples:
  python -m sims --algorithm dpo --beta 0.1 --environment bandit-r1 --sync-every-updates 10 --runs 20
  python -m sims --algorithm ppo --environment token-tree --num-prompts 3 --epochs 4 --plot ppo.png
  python -m sims --algorithm dpo --sync-every-updates inf      offline: all samples from the initial policy
  python -m sims --algorithm dpo --help                        every option of this algorithm
  python -m sims check my_module:my_loss --claim dpo --beta 0.1   your own loss; see python -m sims check --help
  python -m sims --algorithms                                  the table of algorithms; also --environments, --policies
"""
TABLES = {"algorithms": algorithm_table, "environments": environment_table, "policies": policy_table}
OURS = ("name", "environment", "policy", "algorithm", "schedule", "optimiser", "labelling", "deployment", "computation")


def run(arguments: Sequence[str]) -> int:
    """Run what the options say, or print a table; returns the exit status. SpecError for options that cannot be."""
    experiment, options = parse(arguments)
    tables = {name: table for name, table in TABLES.items() if getattr(options, name)}
    if tables:
        print("\n\n".join(table() for table in tables.values()))
        return 0
    check_folder("results", options.results)
    if options.plot is not None:
        check_file("plot", options.plot, (".png", ".svg", ".pdf"))
    with keeping(f"this experiment was not finished; those that were are kept in {options.results}"):
        result = run_experiment(experiment, options.results, force=options.force, progress=True)
    print(result.table())
    if options.plot is not None:
        import matplotlib

        matplotlib.use("Agg")  # no window
        from sims.experiments.curves import save

        save(result.plot(), options.plot)
        print(f"\n{options.plot}")
    return 0


def parse(arguments: Sequence[str]) -> tuple[Experiment, argparse.Namespace]:
    """The experiment that the options describe. A first pass reads the choices, a second the options of each."""
    first = _choices(OptionParser("python -m sims", add_help=False)).parse_known_args(list(arguments))[0]
    algorithm = find_algorithm(kind_name(first.algorithm))
    environment = find_kind(kind_name(first.environment), ToyEnvironment, "environment")
    policy = find_kind(kind_name(first.policy), PolicySpec, "policy")
    parser = _choices(
        OptionParser(
            "python -m sims", description="Run one experiment: all its independent runs at once.", epilog=EXAMPLES
        )
    )
    parts: list[tuple[type, str]] = [
        (algorithm, f"algorithm {algorithm.kind}"),
        (environment, f"environment {environment.kind}"),
        (policy, f"policy {policy.kind}"),
        (Schedule, "schedule"),
        (Optimiser, "optimiser"),
        (Labelling, "labelling"),
        (Deployment, "deployment"),
        (Computation, "computation"),
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
        "deployment": from_options(options, Deployment),
        "computation": from_options(options, Computation),
    }
    return from_options(options, Experiment, fixed), options


def _choices(parser: OptionParser) -> OptionParser:
    group = parser.add_argument_group(
        "choices; each adds options of its own, listed by --help together with the choice"
    )
    kinds = {"algorithm": Algorithm, "environment": ToyEnvironment, "policy": PolicySpec}
    defaults = {"algorithm": "rloo", "environment": "bandit-r1", "policy": "table"}
    for name, base in kinds.items():
        listed = ", ".join(kind.replace("_", "-") for kind in kinds_of(base))
        group.add_argument(
            f"--{name}", default=defaults[name], metavar="NAME", help=f"{listed} (default {defaults[name]})"
        )
    group = parser.add_argument_group("output")
    for name in TABLES:
        group.add_argument(f"--{name}", action="store_true", help=f"print the table of {name} and exit")
    group.add_argument(
        "--plot", type=path, metavar="FILE", help="save a plot of score and KL over samples: .png, .svg or .pdf"
    )
    group.add_argument(
        "--results", type=path, default=Path("results"), metavar="DIR", help="folder of records (default results)"
    )
    group.add_argument("--force", action="store_true", help="run again even if there is a record")
    return parser
