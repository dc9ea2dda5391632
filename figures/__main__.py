"""python -m figures: run what is missing, draw, and judge the claims."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
from filelock import FileLock
from tqdm import tqdm

from sims.core.spec import SpecError
from sims.experiments.options import OptionParser, check_folder
from sims.experiments.runner import Progress
from sims.experiments.store import DamagedRecord, Store

from . import catalogue
from .arms import language_model as lm
from .claims import write_claims
from .figure import Figure, Records, all_figures
from .lab import Lab
from .report import page as report

EXAMPLES = """examples:
  python -m figures                     every figure; what was run before is read, not run again
  python -m figures --list              names, tags and claims
  python -m figures online_offline      one figure by its name; a tag takes all that have it
  python -m figures --quick             shrunken runs in seconds, to see the machinery; judges nothing
  python -m figures --full              compute even what is committed as a record (hours)
  python -m figures lm --scale pythia-1.4b            the language models' figures on a GPU, with the presets' settings
  python -m figures lm --scale mistral-7b --dry-run   what that would run, and what memory it takes
"""


def parser() -> OptionParser:
    """The options."""
    command = OptionParser(
        "python -m figures",
        description="Draw figures from runs of the code in the tree, with a verdict on each claim.",
        epilog=EXAMPLES,
    )
    command.add_argument("figures", nargs="*", metavar="NAME_OR_TAG", help="which figures; none: all")
    command.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    command.add_argument("--claims", action="store_true", help="print the catalogue of claims, and run nothing")
    command.add_argument("--quick", action="store_true", help="shrunken runs, in seconds; no verdicts follow from them")
    command.add_argument("--full", action="store_true", help="compute even what is committed as a record")
    command.add_argument(
        "--keep", action="store_true", help="put the judged records into figures/records, to commit them"
    )
    command.add_argument("--force", action="store_true", help="run again what is on disk")
    command.add_argument("--runs", type=int, help="independent runs an arm, instead of each figure's own number")
    command.add_argument(
        "--scale",
        default=lm.SCALES[0],
        metavar="NAME",
        help=f"of language models: {', '.join(lm.SCALES)} (default: tiny)",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print each language-model arm's spec, parameters and memory; run nothing",
    )
    command.add_argument("--jobs", type=int, help="worker processes (default: 2, and 1 where a GPU is shared)")
    command.add_argument("--results", type=Path, default=Path("results"), help="where records are kept")
    command.add_argument(
        "--out",
        type=Path,
        default=None,
        help="where figures are drawn (default: figures/out; figures/quick with --quick or --runs; a folder "
        "there for a scale other than tiny)",
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 drawn, 2 for options that cannot be."""
    options = parser().parse_strictly(sys.argv[1:] if arguments is None else arguments)
    try:
        chosen = choose(options.figures)
        for name, least in (("runs", 2), ("jobs", 1)):
            value = getattr(options, name)
            if value is not None and value < least:
                raise SpecError(name, value, f"must be int >= {least}")
        if options.keep and (options.quick or options.runs):
            raise SpecError("keep", True, "only full runs are kept: leave out --quick and --runs")
        check_scale(chosen, options)
        out = folder(options)
        check_folder("results", options.results)
        check_folder("out", out)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.list:
        for figure in chosen:
            print(f"{figure.name:24} {', '.join(figure.claims):24} {', '.join(figure.tags):28} {figure.title}")
        return 0
    if options.claims:
        print(catalogue.table(out / "claims.json"))
        return 0
    if options.dry_run:
        lab = lab_of(options)
        for figure in chosen:
            assert figure.arms is not None
            print(f"\n# {figure.name} at {options.scale}", *lm.dry_run(lab.sized(figure.arms(options.scale))), sep="\n")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    try:
        done = run(chosen, options, out)
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept, and the next call goes on from there", file=sys.stderr)
        return 130
    except SpecError as error:  # a model or data set that is not there shows when it is loaded
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DamagedRecord as damage:
        print(f"error: {damage}; restore it from version control, or run with --full", file=sys.stderr)
        return 1
    print(f"\n{'figure':28}{'seconds':>8}")
    for figure, seconds in zip(chosen, done, strict=True):
        print(f"{figure.name:28}{seconds:8.1f}")
    print(f"\n{out / 'report.html'}")
    return 0


def choose(wanted: Sequence[str]) -> list[Figure]:
    """Figures by name or tag; SpecError if nothing has that name."""
    figures = all_figures()
    tags = sorted({tag for figure in figures.values() for tag in figure.tags})
    for name in wanted:
        if name not in figures and name not in tags:
            near = difflib.get_close_matches(name, [*figures, *tags], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise SpecError("figure", name, f"must be one of {', '.join(figures)}, or a tag: {', '.join(tags)}{hint}")
    return [f for f in figures.values() if not wanted or f.name in wanted or set(f.tags) & set(wanted)]


def check_scale(chosen: Sequence[Figure], options: argparse.Namespace) -> None:
    """Refuse, with SpecError, a scale or a dry run of figures that have none, or a scale that there is not."""
    if options.scale not in lm.SCALES:
        raise SpecError("scale", options.scale, f"must be one of {', '.join(lm.SCALES)}")
    without = [figure.name for figure in chosen if figure.arms is None]
    scaled = ", ".join(figure.name for figure in all_figures().values() if figure.arms is not None)
    if without and options.scale != lm.SCALES[0]:
        raise SpecError("scale", options.scale, f"{without[0]} has no scale but tiny; these have: {scaled}")
    if without and options.dry_run:
        raise SpecError("dry_run", True, f"{without[0]} runs no language model; these do: {scaled}")


def folder(options: argparse.Namespace) -> Path:
    """Where to draw: what was run shorter than figures ask for, or at another scale, never replaces their verdicts."""
    if options.out is not None:
        return Path(options.out)
    place = Path("figures") / ("quick" if options.quick or options.runs else "out")
    return place if options.scale == lm.SCALES[0] else place / options.scale


def lab_of(options: argparse.Namespace, show: Callable[[Progress], None] = lambda progress: None) -> Lab:
    """Where a figure gets its records, by the options."""
    o = options
    jobs = o.jobs or (2 if o.scale == lm.SCALES[0] else 1)
    return Lab(Store(o.results), jobs, o.quick, o.full, o.force, o.runs, o.keep, show, o.scale)


def run(chosen: Sequence[Figure], options: argparse.Namespace, out: Path) -> list[float]:
    """Collect, draw, judge and write figures, each drawn while the next is computed; returns the seconds of each."""
    with ThreadPoolExecutor(1) as artist:
        drawn = []
        try:
            for figure in chosen:
                start = time.perf_counter()
                lab, records = collect(figure, options)
                computed = time.perf_counter() - start
                drawn.append((computed, artist.submit(finish, figure, lab, records, out)))
                for _, drawing in drawn:
                    if drawing.done():
                        drawing.result()  # one that failed ends the rest
            return [computed + drawing.result() for computed, drawing in drawn]
        except BaseException:
            artist.shutdown(cancel_futures=True)
            raise


def collect(figure: Figure, options: argparse.Namespace) -> tuple[Lab, Records]:
    """A figure's records, under a progress bar, and the lab that gave them."""
    with tqdm(
        total=1,
        bar_format="{desc:60.60} {percentage:3.0f}%|{bar:24}| {elapsed}<{remaining}",
        leave=False,
        mininterval=0.1 if sys.stderr.isatty() else 10,
    ) as bar:
        bar.set_description_str(f"{figure.name}: computing")

        def show(progress: Progress) -> None:
            if progress.work != bar.total:  # another set of runs: time left is that of the new one
                bar.reset(max(progress.work, 1))
            cached = f"{progress.cached} of {progress.asked} cached"
            bar.set_description_str(f"{figure.name}: {cached}; {progress.running or 'reading'}", refresh=False)
            # update() draws ten times a second at most; a log, which keeps every line, gets one in ten seconds.
            bar.update(progress.work_done - bar.n)

        lab = lab_of(options, show)
        lab.live = figure.live
        return lab, figure.collect(lab)


def finish(figure: Figure, lab: Lab, records: Records, out: Path) -> float:
    """Draw, judge and write one figure; returns its seconds."""
    start = time.perf_counter()
    fig = figure.draw(records)
    with FileLock(out / ".lock"):  # another call may be writing its own figures here
        report.save_figure(figure, fig, figure.caption(records), lab, out)
        rows = [] if lab.quick else figure.verdicts(records)
        if rows:
            write_claims(rows, out)
        report.write(out)
    plt.close(fig)
    said = []
    for row in rows:
        interval = f"{row.effect:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        said.append(f"{row.id} ({row.setting}, {row.part}) {row.verdict}: {interval}, {row.runs} runs")
    for again in lab.again:
        said.append(f"{figure.name}: {again.arm} was run again: {again.now:+.3f}, {again.committed:+.3f} in its record")
    for stale in sorted(set(lab.stale)):
        said.append(f"{figure.name}: committed record {stale} is stale: its twin disagrees; --full computes it again")
    if said:
        tqdm.write("\n".join(said))  # above the bar of the figure that is being computed
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
