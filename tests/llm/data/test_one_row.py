"""Where a row of a preference file goes: from its line to tokens, and from its tokens to the step that it causes."""

from __future__ import annotations

import json
from pathlib import Path

import llm.data
from llm.data import TextEncoder
from llm.tasks import MinLength
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.algorithms.contrastive import DPO
from tests.entered import entered, listed
from tests.llm.tiny_data import BPE

# Of our own, that a row enters when it is read, and in an update, to the end of the step. More is more to read.
FUNCTIONS, FILES = 47, 21
ROWS = [{"prompt": f"{a} two", "chosen": "three", "rejected": "four five"} for a in ("one", "four", "six")]


def task(path: Path, rows: list[dict[str, str]]) -> MinLength:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return MinLength(data=str(path), data_kind="preference")


def test_a_preference_row_enters_few_functions_of_few_files_from_its_line_to_the_step(tmp_path: Path) -> None:
    encoder = TextEncoder(BPE)
    several = [task(tmp_path / f"{n}.jsonl", ROWS[:n]) for n in (1, 2)]
    once, twice = (entered(lambda task=task: task.load(encoder, None)) for task in several)
    reading = {where for where, calls in twice.items() if calls > once[where]}  # what a further row enters

    base = PRESETS["tiny-sft"]
    run = Run(
        base.replace(
            algorithm=DPO(),
            environment=task(tmp_path / "rows.jsonl", ROWS),
            schedule=base.schedule.replace(source="dataset", batch_size=1),
            updates=3,
            evaluations=1,
        )
    )
    updates = run.training.train(3)
    next(updates)  # what is done once has been done by then
    updating = set(entered(lambda: next(updates)))

    functions, files = reading | updating, {path for path, _ in reading | updating}
    entered_in = f"{len(functions)} functions of {len(files)} files:\n{listed([*sorted(reading), *sorted(updating)])}"
    assert len(functions) <= FUNCTIONS and len(files) <= FILES, entered_in
    left_out = [path for path in files if path.rpartition("/")[2] not in (llm.data.__doc__ or "")]
    assert not left_out, "the walk of a row in llm/data/__init__.py names each file"
