"""Pairs for people: tasks for Label Studio's pairwise comparison, and the annotations that it exports.

Which response stands on the left is drawn for each pair. A pair that several people have labelled has the mean of their
answers as its label, where "neither is better" counts ½; one that was skipped stays open.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.training.checkpoint import write_text
from sims.core.spec import SpecError
from sims.experiments.foreign_text import parse_json

from .context import Context
from .embedding import plain
from .label import Answer, Pair, unanswered, write_answer

CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Header size="5" value="Which response is better? Click on it, or tick the box below them."/>
  <Pairwise name="better" toName="left,right"/>
  <View style="display: grid; grid-template-columns: 1fr 1fr; gap: 2em">
    <View style="border: 1px solid gray; padding: 1em"><Text name="left" value="$left"/></View>
    <View style="border: 1px solid gray; padding: 1em"><Text name="right" value="$right"/></View>
  </View>
  <Choices name="neither" toName="left"><Choice value="neither is better"/></Choices>
</View>
"""
TRIES = 1 << 30  # people may be asked again at any time


def export_tasks(context: Context, file: Path) -> str:
    """Write the cycle's open pairs as tasks, and the labelling configuration beside them."""
    tasks = [{"data": task(pair)} for pair, _ in unanswered(context, TRIES)]
    config = file.with_suffix(".xml")
    write_text(file, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    write_text(config, CONFIG)
    return f"{len(tasks)} pairs in {file}; their labelling configuration for Label Studio is {config}"


def task(pair: Pair) -> dict[str, str]:
    """What people see of a pair, and what it is."""
    left, right = (pair.second, pair.first) if swapped(pair.row) else (pair.first, pair.second)
    return {"row": pair.row, "prompt": plain(pair.prompt), "left": left, "right": right}


def swapped(row: str) -> bool:
    """Whether the second response of a pair stands on the left."""
    return bool(zlib.crc32(f"order {row}".encode()) & 1)


def import_annotations(context: Context, file: Path) -> str:
    """Read annotations as labels. Those of pairs that have one already are left out: a file can be read twice.

    SpecError for a file that is no export of Label Studio, and for texts that are not those of the pair.
    """
    waiting = {pair.row: (pair, tried) for pair, tried in unanswered(context, TRIES)}
    found: dict[str, Answer] = {}
    rows, unsaid = read_tasks(file), 0
    for at, each in enumerate(rows, 1):
        row, answer = read_task(each, f"task {at}", file)
        unsaid += answer is None and bool(each.get("annotations"))
        if row not in waiting or answer is None:
            continue
        shown, pair = each["data"], waiting[row][0]
        if any(shown.get(name) != text for name, text in task(pair).items()):
            raise SpecError("import", str(file), f"task {at}: its texts must be those of pair {row}")
        found[row] = answer
    with context.store.transaction():
        for row, answer in sorted(found.items()):
            write_answer(context, row, waiting[row][1], "people", answer)
    left = len(waiting) - len(found)
    empty = f"; {unsaid} tasks were skipped, or submitted without an answer" if unsaid else ""
    return f"{len(found)} labels from {len(rows)} tasks; {left} pairs are open{empty}"


def read_tasks(file: Path) -> list[dict[str, Any]]:
    """The tasks of a JSON export."""
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError("import", str(file), f"must be a JSON export of Label Studio: {error}") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise SpecError("import", str(file), "must be a JSON export of Label Studio: a list of tasks")
    return found


def read_task(each: Mapping[str, Any], where: str, file: Path) -> tuple[str, Answer | None]:
    """The pair that a task is about, and what people say; None where nobody has answered."""
    data = each.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("row"), str):
        rule = "must have data with the row that `align label --export` wrote, as in Label Studio's format JSON"
        raise SpecError("import", str(file), f"{where}: {rule}")
    row, votes = data["row"], []
    for annotation in each.get("annotations") or []:
        if isinstance(annotation, Mapping) and not annotation.get("was_cancelled"):
            votes += [] if (vote := vote_of(annotation.get("result") or [])) is None else [vote]
    if not votes:
        return row, None
    left = sum(votes) / len(votes)
    return row, Answer(1 - left if swapped(row) else left, f"left {left:g}, by {len(votes)}")


def vote_of(results: Sequence[Any]) -> float | None:
    """1 for left, 0 for right, ½ for neither; None for anything else."""
    vote = None
    for result in results:
        value = result.get("value") if isinstance(result, Mapping) else None
        if not isinstance(value, Mapping):
            continue
        if result.get("type") == "pairwise":
            vote = {"left": 1.0, "right": 0.0}.get(str(value.get("selected")), vote)
        elif result.get("type") == "choices" and value.get("choices") == ["neither is better"]:
            return 0.5
    return vote
