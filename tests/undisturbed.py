"""Commands that write, read and go on, and what an undisturbed one leaves, byte for byte but for clocks."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sims.experiments.store import Store
from tests.disturbed import MAIN, run
from tests.launched import PROCESSES

CLOCKS = ("tokens_per_second", "seconds", "cpu_seconds", "computed", "at")  # fields that differ between equal runs
UNSURE = "costs.json"  # predictions of seconds; also a half-written one, which the next that are made remove
TINY = "--max-new-tokens 6 --batch-size 4 --num-generations 2 --evaluation-prompts 2 --updates 3 --evaluations 3"
# With longer responses some end: their lengths differ, and there is a gradient.
LONGER = TINY.replace("tokens 6", "tokens 20")


@dataclass(frozen=True)
class Case:
    """A command. go_on: what a user types after a stop; None, the same. before: commands that make what it reads.
    output: the folder that must not be there yet, of commands that refuse one. writes: the folders that it writes.
    workers: what becomes of it where one of them dies: "replaced", it goes on; "needed", all end; None: it has none.
    says: whether what it says is its result."""

    name: str
    line: str
    go_on: str | None = None
    before: tuple[str, ...] = ()
    output: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    writes: tuple[str, ...] = ("out",)
    workers: Literal["replaced", "needed"] | None = None
    says: bool = False


TEXTS = {"texts.jsonl": '{"prompt": "a cat", "chosen": "sat on the mat", "rejected": "no"}\n' * 4}
TRAIN = f"llm train {LONGER} --output out"
OFFLINE = f"llm train --preset tiny-preference {TINY} --recorded-prompts 8 --output out"
BEST = "--metric-for-best-model eval_reward --no-greater-is-better --load-best-model-at-end --save-total-limit 1"
SFT = f"llm sft {TINY.replace('generations 2', 'generations 1')} --recorded-prompts 8 {BEST} --output out"
REWARD = "llm reward --pairs 16 --batch-size 8 --epochs 2 --labels min_length --save-every 1 --output out"
TWO = {line: line.replace("llm ", "two ") + " --processes 2" for line in (TRAIN, SFT, REWARD)}
SHAPE = "--hidden 16 --layers 1 --heads 2"
PRETRAIN = (
    f"llm pretrain --steps 3 {SHAPE} --batch-size 4 --held-out-documents 8 --samples 4 --save-every 1 --output out"
)
ALIGN = (
    "llm align run --cycles 2 --store out --requests 12 --share 1 --budget 8 --trigger 2 --epochs 1 --save-every 1 "
    "--batch-size 4 --gate-prompts 8 --gold-prompts 8 --max-new-tokens 20 --least-win-rate 0 --skill-margin 2 "
    "--entropy-alarm 1 --length-alarm 9"
)
NEW = f"llm new --data texts.jsonl {SHAPE}"
OWN = (
    f"llm sft --model base --data texts.jsonl --data-kind prompt_completion --completion-column chosen "
    f"{TINY.replace('generations 2', 'generations 1')} --output out"
)
LABELLED = "llm train --task learned-reward --reward-model scores"
SAMPLE = "llm sample --prompt cat --max-new-tokens 4"
CASES = [
    Case("train", TRAIN, TRAIN + " --resume"),
    Case("offline", OFFLINE, OFFLINE + " --resume"),
    Case("sft", SFT, SFT + " --resume"),
    Case("train-two", TWO[TRAIN], TWO[TRAIN] + " --resume", workers="needed"),
    Case("sft-two", TWO[SFT], TWO[SFT] + " --resume", workers="needed"),
    Case("reward-two", TWO[REWARD], TWO[REWARD] + " --resume", output="out", workers="needed"),
    Case("own-data", OWN, OWN + " --resume", before=(f"{NEW} --output base",), files=TEXTS),
    Case(
        "by-reward",
        f"{LABELLED} {TINY} --output out",
        f"{LABELLED} {TINY} --output out --resume",
        before=(REWARD.replace("--output out", "--output scores"),),
    ),
    Case("reward", REWARD, REWARD + " --resume", output="out"),
    Case("pretrain", PRETRAIN, PRETRAIN + " --resume", output="out"),
    Case("new", f"{NEW} --output out", output="out", files=TEXTS),
    Case(
        "export",
        "llm export run --update 3 --output out",
        before=(f"llm train {TINY} --output run",),
        output="out",
    ),
    Case(
        "merge",
        "llm export run --update 3 --merge --output out",
        before=(f"llm train {TINY} --lora-rank 2 --lora-alpha 4 --output run",),
        output="out",
    ),
    Case("align", ALIGN),
    Case(
        "evaluate",
        f"llm evaluate --model base --against base {TINY.partition(' --updates')[0]}",
        before=(f"{NEW} --output base",),
        files=TEXTS,
        writes=(),
        says=True,
    ),
    Case("sample", SAMPLE + " --model base", before=(f"{NEW} --output base",), files=TEXTS, writes=(), says=True),
    Case(
        "adapters",
        SAMPLE + " --model run/model",
        before=(f"llm train {TINY} --lora-rank 2 --lora-alpha 4 --output run",),
        writes=(),
        says=True,
    ),
    Case("status", "llm align status --store out", before=(ALIGN,), writes=(), says=True),
    Case("sims", "sims --algorithm dpo --updates 20 --runs 4 --results out"),
    Case("sims-plot", "sims --algorithm rloo --updates 10 --evaluations 5 --runs 2 --results out --plot plot.svg"),
    Case("sweep", "sweep out", workers="replaced"),
    Case(
        "figures",
        "figures chosen_likelihood --quick --jobs 2 --results out --out pictures",
        writes=("out", "pictures"),
        workers="replaced",
    ),
    Case(  # claims.json, the report
        "figures-rows",
        "figures reachable_policies --jobs 1 --results out --out pictures",
        writes=("out", "pictures"),
    ),
]


def prepared(case: Case, folder: Path) -> Path:
    """A new folder with what the command reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return shutil.copytree(given(case, folder), folder / "work")


def given(case: Case, folder: Path) -> Path:
    """What the command reads, made once, beside the folder."""
    made = folder.with_name(f"{case.name}.given")
    if not made.exists():
        made.mkdir(parents=True)
        for name, text in case.files.items():
            (made / name).write_text(text)
        for line in case.before:
            status, said, _ = run(line, made)
            assert status == 0, said
    return made


def content(folder: Path, without: str = "") -> dict[str, Any]:
    """All that is in a folder but one file: files as bytes, JSON without clocks, records as arrays."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.endswith(UNSURE) or name == without:
            continue
        if path.suffix in (".json", ".jsonl") and path.is_file() and "checkpoint-" not in name:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            if (
                path.name == "checksums.json"
            ):  # of files that may hold clocks; that they fit is checked by who reads them
                found[name] = sorted(json.loads(lines[0]))
            else:
                found[name] = [_without_clocks(json.loads(line)) for line in lines]
        elif path.suffix == ".sqlite":
            found[name] = rows_of(path.parent)
        elif path.suffix in (".npz", ".lock", ".keys") or path.parent.name == ".claims":
            continue  # records are compared below; what was not finished is removed later
        elif path.is_file():
            found[name] = path.read_bytes()
    if any((folder / "out").glob("*.npz")):
        store = Store(folder / "out")
        for key in store.specs():
            record = store.load_key(key)
            assert record is not None
            found[key] = {name: x.tobytes() for name, x in record.arrays.items()}
    return found


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of the store of `llm align` in a folder, by table, without clocks, in the order of their contents."""
    found = {}
    with closing(sqlite3.connect(folder / "store.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'sums'"  # of rows with clocks
        for (table,) in connection.execute(tables).fetchall():
            rows = [_without_clocks(dict(row)) for row in connection.execute(f"SELECT * FROM {table}")]
            found[table] = sorted(rows, key=repr)
    return found


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_clocks(x) for name, x in value.items() if name not in CLOCKS and name != "provenance"}
    return [_without_clocks(x) for x in value] if isinstance(value, list) else value


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Names of files that differ; nothing where all are equal."""
    names = sorted(set(found) | set(expected))
    return ", ".join(name for name in names if found.get(name) != expected.get(name))


def go_on(case: Case, work: Path) -> str:
    """Let a command that was stopped go on, undisturbed; what is wrong with how it ends, or nothing."""
    beside = work / f"{case.output}.unfinished"
    if case.output is not None and (work / case.output).exists() and not beside.exists():
        return ""  # it was finished
    status, said, _ = run(next_of(case, work), work)
    return "" if status == 0 else f"exit status {status}: {said[-500:]}"


def next_of(case: Case, work: Path) -> str:
    """What is typed after a stop."""
    there = (work / "out.unfinished/spec.json", work / "out")
    if case.name in ("reward", "reward-two", "pretrain") and not any(path.exists() for path in there):
        return case.line
    return case.go_on or case.line


def refused_well(status: int, said: str, case: Case | None = None) -> str:
    """What is wrong with how a command ended that could not write: nothing for 0, or a line with status 1 or 2, of each
    process that it is of."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    most = PROCESSES if case is not None and case.workers == "needed" else 1
    if "Traceback" in said or status not in (0, 1, 2) or (status and not 1 <= len(lines) <= most):
        return f"exit status {status}: {said[-700:]}"
    return ""


def undisturbed(case: Case, folder: Path) -> tuple[dict[str, Any], float, int]:
    """What a command writes, how long it takes, and how many changes of files it makes. Loads its libraries."""
    # Two processes are forks of this one, and would load them each for itself.
    program, *words = next((one for one, two in TWO.items() if two == case.line), case.line).split()
    with (
        contextlib.chdir(prepared(case, folder)),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        try:
            status: Any = MAIN[program](words)
        except SystemExit as stop:
            status = stop.code
        assert status == 0, f"{case.name}: {said.getvalue()}"
    work, started = prepared(case, folder), time.perf_counter()
    status, said, moments = run(case.line, work)
    assert status == 0, f"{case.name}: {said}"
    return content(work) | {"said": said if case.says else ""}, time.perf_counter() - started, moments
