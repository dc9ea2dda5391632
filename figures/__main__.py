"""python -m figures: run what is missing, draw, and test the claims."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sims.core.spec import SpecError, nearest
from sims.experiments.command import FAILED, failed, keeping, run_command, short
from sims.experiments.engines import ENGINES, check_engine
from sims.experiments.folders import check_folder, path
from sims.experiments.options import OptionParser, whole
from sims.experiments.record_file import DamagedRecord

from . import catalogue
from .entries import SCALES, Entry, choose, entries
from .freshness import is_fresh, stamps

EXAMPLES = """examples:
  python -m figures                     every figure; what would take long is drawn from committed records
  python -m figures --list              names, core-minutes, claims and tags
  python -m figures online_offline      one figure by its name; a tag or a claim (C25) takes all that have it
  python -m figures --quick             shrunken runs in seconds, to see the machinery; no verdicts
  python -m figures C25 --set algorithm.beta=0.3 --margin 0.1   one thing changed, beside what is published
  python -m figures C25 --sensitivity   in which share of a stated list of changes a verdict holds
  python -m figures --full              tune and compute everything, also what is committed (hours; can be stopped)
  python -m figures --full --engine submitit --jobs 50 --engine-option slurm_partition=cpu   on a Slurm cluster
  python -m figures phase_map --device cuda           one figure's runs on a GPU; what is committed is not read
  python -m figures lm --scale pythia-1.4b            the language models' figures on a GPU, with the presets' settings
  python -m figures lm --scale mistral-7b --dry-run   what that would run, and what memory it takes
"""
RESTORE = "; restore it from version control, or run with --full --keep"
KEPT = "finished records are kept in {}, and the same command goes on from there"
JOBS_PER_CORE = 8  # more processes only wait for each other, each in a quarter of a gigabyte


def parser() -> OptionParser:
    """The options."""
    command = OptionParser(
        "python -m figures",
        description="Draw figures from runs of the code in the tree, with a verdict on each claim.",
        epilog=EXAMPLES,
    )
    command.add_argument("figures", nargs="*", metavar="NAME", help="names, tags or claims of figures; none: all")
    command.add_argument("--list", action="store_true", help="list figures, their tags and claims, and run nothing")
    command.add_argument("--claims", action="store_true", help="print the catalogue of claims, and run nothing")
    command.add_argument("--quick", action="store_true", help="shrunken runs, in seconds; no verdicts follow from them")
    command.add_argument("--full", action="store_true", help="tune and compute everything, also what is committed")
    command.add_argument(
        "--budget",
        type=float,
        default=2.2,
        metavar="MINUTES",
        help="core-minutes, as on the machine that made the committed records, for computing again what is committed: "
        "an arm of each figure that has a cheap one, and as many whole rows as that buys (default: 2.2: half of them)",
    )
    command.add_argument(
        "--keep",
        action="store_true",
        help="write figures/records, to be committed: tested records, their shrunken twins, and tuned settings",
    )
    command.add_argument(
        "--set",
        action="append",
        metavar="PART.FIELD=VALUE",
        help="change one setting of every arm that has it, as tuned without it, and print the verdicts beside the "
        "published ones: algorithm.beta=0.3, updates=x2; may be given again; draws nothing",
    )
    command.add_argument("--margin", type=float, metavar="NUMBER", help="verdicts by another margin; draws nothing")
    command.add_argument(
        "--sensitivity",
        action="store_true",
        help="make each of a stated list of changes, and say in which share of them a verdict holds; draws nothing",
    )
    command.add_argument(
        "--again",
        type=float,
        metavar="MINUTES",
        help="test again every row that could be tested, on other seeds within so many core-minutes and with other "
        "rounding, and keep what comes out in figures/records/again.json, for the report to say; draws nothing",
    )
    command.add_argument(
        "--retune",
        action="store_true",
        help="with --again: tune every arm on other seeds as well, whatever that costs, and test rows on what they "
        "choose",
    )
    command.add_argument("--force", action="store_true", help="run again what is on disk")
    command.add_argument("--runs", type=whole, help="independent runs per arm, instead of each figure's own number")
    command.add_argument(
        "--scale",
        default=SCALES[0],
        metavar="NAME",
        help=f"of language models: {', '.join(SCALES)} (default: tiny)",
    )
    command.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where arms are run: cpu or cuda, a GPU (default: cpu). Committed records are a CPU's, so on a GPU all "
        "arms are run, with the committed settings; language models take a GPU by themselves where there is one",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print each language-model arm's spec, parameters and memory; run nothing",
    )
    command.add_argument(
        "--jobs", type=whole, help="stacks computed at a time: worker processes (default: 2; 1 where a GPU is shared)"
    )
    command.add_argument(
        "--engine",
        default="processes",
        metavar="NAME",
        help=f"where stacks are computed: {', '.join(ENGINES)} (default: processes, of this machine). ray and submitit "
        "are extras for an existing cluster; --jobs is then how many tasks are given out at a time",
    )
    command.add_argument(
        "--engine-option",
        type=engine_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine: address=auto (ray), cluster=slurm, timeout_min=240, slurm_partition=cpu "
        "(submitit); may be given again",
    )
    command.add_argument("--results", type=path, default=Path("results"), help="where records are kept")
    command.add_argument(
        "--out",
        type=path,
        default=None,
        help="where figures are drawn (default: figures/out; figures/quick with --quick or --runs; a folder "
        "there for a scale other than tiny or a device other than cpu)",
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: see `sims.experiments.command`."""
    return run_command(
        lambda: run(sys.argv[1:] if arguments is None else arguments), refused=(SpecError, catalogue.CatalogueError)
    )


def run(arguments: Sequence[str]) -> int:
    """Do what the options say; returns the exit status. SpecError for options that cannot be."""
    options = parser().parse_strictly(arguments)
    chosen = choose(options.figures)
    check(chosen, options)
    if options.list:
        return list_figures(chosen)
    if options.claims:
        print(catalogue.table(folder(options) / "claims.json"))
        return 0
    if options.dry_run:
        return dry_run(chosen, options)
    check_folder("results", options.results)
    if options.set or options.sensitivity or options.margin is not None:
        return what_if(chosen, options)
    if options.again is not None:
        return again(chosen, options)
    check_folder("out", folder(options))
    return draw(chosen, options, folder(options))


def list_figures(chosen: Sequence[Entry]) -> int:
    """Print what there is, and what its committed records took; returns the exit status."""
    from .recorded_costs import cost

    total, models, counted = 0.0, 0.0, set[str]()
    for entry in chosen:
        try:
            found, more = cost(entry.name), cost(entry.name, others=counted)
        except DamagedRecord as damage:
            return failed(damage, FAILED, RESTORE)
        if more:
            total, models = total + more.tested + more.tuning, models + more.models
        minutes = f"{found.tested:.1f} + {found.tuning:.1f} min" if found else ""
        print(f"{entry.name:24} {minutes:>14}  {', '.join(entry.claims):24} {', '.join(entry.tags):28} {entry.title}")
    print(f"\n{total:.1f} core-minutes with --full, from recorded seconds: of tested records + of tuning, estimated")
    print(f"{models / 60:.1f} core-hours of them by language models, {total - models:.1f} core-minutes by toys")
    return 0


def what_if(chosen: Sequence[Entry], options: argparse.Namespace) -> int:
    """Print verdicts with something changed; returns the exit status."""
    from .figure import load
    from .what_if import Change, compare

    for text in options.set or ():
        Change.parse(text)
    with keeping(KEPT.format(options.results)):
        for line in compare([load(entry) for entry in chosen], options):
            print(line)
    return 0


def again(chosen: Sequence[Entry], options: argparse.Namespace) -> int:
    """Test rows once more and keep what comes out; returns the exit status."""
    from .figure import load
    from .retest import retest

    with keeping(KEPT.format(options.results)):
        for line in retest([load(entry) for entry in chosen], options):
            print(line, flush=True)
    return 0


def draw(chosen: Sequence[Entry], options: argparse.Namespace, out: Path) -> int:
    """Draw what is not drawn yet; returns the exit status."""
    now = stamps(
        (options.quick, options.runs, options.scale, options.full, options.device),
        (options.budget, [entry.name for entry in chosen]),
    )
    again = options.force or options.keep
    due = [entry for entry in chosen if again or not is_fresh(entry.name, now, out)]
    if due:
        out.mkdir(parents=True, exist_ok=True)
        try:
            with keeping(KEPT.format(options.results)):
                # Not at the top: torch and matplotlib take seconds to load, and may have nothing to do.
                from .drawing import run
                from .figure import load

                done = run([load(entry) for entry in due], options, out, now)
        except DamagedRecord as damage:
            return failed(damage, FAILED, RESTORE)
        print(f"\n{'figure':28}{'after':>8} s")
        for entry, seconds in zip(due, done, strict=True):
            print(f"{entry.name:28}{seconds:8.1f}")
    if len(due) < len(chosen):
        print(f"{len(chosen) - len(due)} of {len(chosen)} figures were drawn before by this code; --force draws again")
    print(f"\n{out / 'report.html'}")
    return 0


def dry_run(chosen: Sequence[Entry], options: argparse.Namespace) -> int:
    """Print what figures of language models would run."""
    from sims.experiments.store import Store

    from .arms import language_model as lm
    from .figure import load
    from .lab import Lab

    lab = Lab(Store(options.results), quick=options.quick, runs=options.runs)
    for entry in chosen:
        figure = load(entry)
        assert figure.arms is not None
        print(f"\n# {figure.name} at {options.scale}", *lm.dry_run(lab.sized(figure.arms(options.scale))), sep="\n")
    return 0


def check(chosen: Sequence[Entry], options: argparse.Namespace) -> None:
    """Refuse, with SpecError, options that cannot be."""
    most_jobs = JOBS_PER_CORE * (os.cpu_count() or 1) if options.engine == "processes" else math.inf
    for name, least, most in (("runs", 2, math.inf), ("jobs", 1, most_jobs)):
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            limit = f" and <= {most}: {JOBS_PER_CORE} on each CPU" if value > most else ""
            raise SpecError(name, value, f"must be int >= {least}{limit}")
    if options.margin is not None and not 0 <= options.margin < math.inf:
        raise SpecError("margin", options.margin, "must be float >= 0")
    if (options.set or options.sensitivity) and (options.quick or options.keep):
        raise SpecError("set", options.set, "leave out --quick and --keep: changed arms are neither shown nor kept")
    if not options.budget >= 0:
        raise SpecError("budget", options.budget, "must be float >= 0")
    if options.keep and (options.quick or options.runs):
        raise SpecError("keep", True, "only full runs are kept: leave out --quick and --runs")
    if options.again is not None and not 0 <= options.again < math.inf:
        raise SpecError("again", options.again, "must be float >= 0")
    if options.again is not None and (options.quick or options.keep or options.runs):
        raise SpecError("again", options.again, "leave out --quick, --keep and --runs: published rows are tested again")
    if options.retune and options.again is None:
        raise SpecError("retune", True, "only with --again MINUTES: rows are tested again by another tuning")
    if options.scale not in SCALES:
        raise SpecError("scale", options.scale, f"must be one of {', '.join(SCALES)}{nearest(options.scale, SCALES)}")
    without = [entry.name for entry in chosen if not entry.has_scale]
    scaled = ", ".join(entry.name for entry in entries().values() if entry.has_scale)
    if without and options.scale != SCALES[0]:
        raise SpecError("scale", options.scale, f"{without[0]} has no scale but tiny; these have: {scaled}")
    if without and options.dry_run:
        raise SpecError("dry_run", True, f"{without[0]} runs no language model; these do: {scaled}")
    check_engine(options.engine, dict(options.engine_option))
    if options.device != "cpu":
        check_device(options)


def check_device(options: argparse.Namespace) -> None:
    """Refuse, with SpecError, a device that there is not, and what is compared with or kept as a CPU's numbers."""
    from sims.experiments.computation import Computation

    computation = Computation(device=options.device)
    if options.engine == "processes":  # other engines compute elsewhere
        computation.check_here()
    if options.set or options.sensitivity or options.margin is not None:
        rule = "leave it out beside --set, --margin and --sensitivity; --set computation.device=cuda changes it in arms"
        raise SpecError("device", options.device, rule)
    if options.keep or options.again is not None:
        raise SpecError("device", options.device, "leave it out beside --keep and --again: a CPU's records are kept")


def engine_option(text: str) -> tuple[str, str]:
    """NAME=VALUE, in two."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{short(repr(text))}: must be NAME=VALUE")
    return name, value


def folder(options: argparse.Namespace) -> Path:
    """Where to draw: what was run shorter than figures ask for, at another scale or elsewhere never replaces their
    verdicts."""
    if options.out is not None:
        return Path(options.out)
    folder = Path("figures") / ("quick" if options.quick or options.runs else "out")
    folder = folder if options.scale == SCALES[0] else folder / options.scale
    return folder if options.device == "cpu" else folder / options.device


if __name__ == "__main__":
    sys.exit(main())
