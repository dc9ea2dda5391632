"""python -m llm align: keep a model aligned with what its users ask, cycle by cycle; each step alone, or all of them.

run        all steps, until --cycles cycles are done, and a page that shows them
log        serve and log a cycle's requests of simulated users; --from FILE: read a server's log instead
watch      drift of the requests, ratings of the live version; a rollback if users are less content
filter     decide which rows are labelled, and why: rules, a classifier of what labellers rejected in earlier cycles,
           uncertainty, chance; it says whether the classifier is on
label      label pairs; by people: --export FILE and --import FILE, for Label Studio, and --finish
update     train a candidate, if there are enough new pairs
gate       compare the candidate with the live version
promote    let the candidate go live if the gate passed it; the cycle ends
rollback   return to the version that the live one replaced
neighbours --prompt TEXT: the logged rows whose prompts are nearest to a text
status     the versions, and where the cycle stands
report     write the page
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llm.alignment import imported, label, loop, people
from llm.alignment.context import STEPS, Context, keep_settings, settings_of
from llm.alignment.harness import task_names
from llm.alignment.mirror import Mirror, mlflow_mirror
from llm.alignment.neighbours import neighbours
from llm.alignment.page import page
from llm.alignment.report import status
from llm.alignment.settings import Settings
from llm.alignment.store import FILE, Store, opened, read_only, remove_unused
from llm.training.checkpoint import CheckpointError, write_text
from llm.training.run import RunError
from llm.training.written_by import check_written_by
from sims.core.spec import SpecError
from sims.experiments.command import FAILED, failed, keeping
from sims.experiments.folders import check_folder, path
from sims.experiments.options import OptionParser, add_options, given, whole

PAGE, MODEL, COUNT = "report.html", "aligned", 10
READING = ("neighbours", "status", "report")
ACTIONS = ("run", *STEPS, "rollback", *READING)
EXAMPLES = """examples:
  python -m llm align run --cycles 5
  python -m llm align run --cycles 8 --labels judge --judge-url http://127.0.0.1:8000/v1 --judge-model judge
  python -m llm align log --store support --model base --from server.jsonl
  python -m llm align label --store support --export pairs.json
  python -m llm align gate --store support --gold-tasks tasks:capitals,sums
  python -m llm align neighbours --store support --prompt "two plus three cats :" --count 5
  python -m llm align rollback --version 3 --why "complaints about tone"
"""


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 for success. Raises SpecError for invalid options, and for a step that comes too early."""
    parser = OptionParser("python -m llm align", True, description=__doc__, epilog=EXAMPLES)
    parser.add_argument("action", choices=ACTIONS, metavar="STEP", help=", ".join(ACTIONS))
    parser.add_argument("--store", type=path, default=Path("loop"), metavar="DIR", help="the store (default loop)")
    parser.add_argument("--wait", action="store_true", help="wait while another process writes to the store")
    parser.add_argument("--cycles", type=whole, default=5, metavar="INT", help="run: cycles in all (default 5)")
    parser.add_argument("--from", type=path, metavar="FILE", help="log: JSON lines of an OpenAI-compatible server")
    parser.add_argument("--export", type=path, metavar="FILE", help="label: write open pairs for Label Studio")
    parser.add_argument("--import", type=path, metavar="FILE", help="label: read an export of Label Studio")
    parser.add_argument("--finish", action="store_true", help="label: leave open pairs unlabelled")
    parser.add_argument("--why", default="by hand", metavar="TEXT", help="rollback: the reason, which is recorded")
    parser.add_argument(
        "--version", type=whole, metavar="INT", help="rollback: the version to take back, so that twice is as once"
    )
    parser.add_argument(
        "--mlflow-uri", metavar="URI", help="mirror the versions to this MLflow server or sqlite:///FILE"
    )
    parser.add_argument(
        "--mlflow-model", metavar="NAME", help=f"the registered model there (default {MODEL}): one per store"
    )
    parser.add_argument(
        "--mlflow-artifacts", action="store_true", help="upload the folder of each version there, weights and tokenizer"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="neighbours: the text")
    parser.add_argument("--count", type=whole, metavar="INT", help=f"neighbours: how many rows (default {COUNT})")
    parser.add_argument("--output", type=path, metavar="FILE", help=f"the page (default {PAGE} in the store)")
    parts = [type(getattr(Settings(), name)) for name in Settings.names()]
    for part in parts:
        add_options(parser, part, part.kind.replace("_", " "))
    options = parser.parse_strictly(arguments)
    changes = {name: value for part in parts for name, value in given(options, part).items()}
    _check(options)
    task_names(changes.get("gold_tasks"))  # refused before any work, not when the gate comes to it
    mirror = None
    if options.mlflow_uri is not None:
        mirror = mlflow_mirror(options.mlflow_uri, options.mlflow_model or MODEL, options.mlflow_artifacts)
    torch.set_num_threads(1)
    if options.action in READING:
        with read_only(options.store) as store:
            return _show(store, options)
    check_folder("store", options.store)
    check_written_by("store", options.store, ["align"])
    new = not (options.store / FILE).exists()
    if new:
        Settings().changed(**changes)  # refused before anything is written
    kept = f"{options.store} is kept: the same command goes on from there"
    try:
        with keeping(kept), opened(options.store, options.wait) as store:
            keep_settings(store, (settings_of(store, store.cycle) or Settings()).changed(**changes))
            code = _act(store, options, mirror)
            _bring(mirror, store)
            return code
    except SpecError:
        if new:
            remove_unused(options.store)
        raise
    except (RunError, CheckpointError) as error:
        return failed(error, FAILED, f"; {kept}")


def _check(options: argparse.Namespace) -> None:
    if options.cycles < 1:
        raise SpecError("cycles", options.cycles, "must be int >= 1")
    if options.count is not None and options.count < 1:
        raise SpecError("count", options.count, "must be int >= 1")
    if options.action == "neighbours" and not (options.prompt or "").strip():
        raise SpecError("prompt", options.prompt, "must be given: the text whose neighbours are asked for")
    only = {"from": "log", "export": "label", "import": "label", "finish": "label", "version": "rollback"}
    only |= {"prompt": "neighbours", "count": "neighbours"}
    for name, action in only.items():
        if getattr(options, name) not in (None, False) and options.action != action:
            raise SpecError(name, _shown(getattr(options, name)), f"only means something with {action}")
    if options.mlflow_uri is not None and options.action in READING:
        raise SpecError("mlflow_uri", options.mlflow_uri, "only means something with run, a step, or rollback")
    for name in ("mlflow_model", "mlflow_artifacts"):
        if getattr(options, name) not in (None, False) and options.mlflow_uri is None:
            raise SpecError(name, getattr(options, name), "only means something with mlflow_uri")


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _bring(mirror: Mirror | None, store: Store) -> None:
    if mirror is not None and (line := mirror(store)):
        print(line, flush=True)


def _act(store: Store, options: argparse.Namespace, mirror: Mirror | None) -> int:
    if options.action == "run":

        def done(line: str) -> None:
            print(line, flush=True)
            _bring(mirror, store)  # at once: `watch` may have rolled back

        loop.run(store, options.cycles, done)
        return _show(store, options)
    context = loop.context_of(store)
    if options.action == "rollback":
        print(loop.rollback(context, options.why, options.version))
    elif options.action == "log" and getattr(options, "from") is not None:
        print(imported.import_log(context, getattr(options, "from")))
    elif options.action == "label" and context.settings.labelling.labels == "people":
        print(_by_people(context, options))
    else:
        print(f"cycle {context.cycle}  {options.action}: {loop.perform(context, options.action)}")
    return 0


def _by_people(context: Context, options: argparse.Namespace) -> str:
    """Write pairs for people, read what they say, or go on with the labels that there are."""
    context.require("label")
    if context.store.done(context.cycle, "label") is not None:
        return "done already"
    if context.store.done(context.cycle, "pairs") is None:
        label.make_pairs(context)
    said = []
    if getattr(options, "import") is not None:
        said.append(people.import_annotations(context, getattr(options, "import")))
    if options.export is not None:
        said.append(people.export_tasks(context, options.export))
    if options.finish or not label.unanswered(context, people.TRIES):
        said.append(label.finish(context))
    return "\n".join(said or ["pairs are open: --export FILE writes them, --import FILE reads what people say"])


def _show(store: Store, options: argparse.Namespace) -> int:
    if options.action == "neighbours":
        context = Context(store, settings_of(store, store.cycle) or Settings())
        print(neighbours(context, options.prompt, options.count or COUNT))
        return 0
    if options.action != "report":
        print(status(store))
    if options.action != "status":
        file: Path = options.output or options.store / PAGE
        write_text(file, page(store))
        print(file)
    return 0
