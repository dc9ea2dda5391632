"""Gold skills that are tasks of lm-evaluation-harness: what needs no library, and the library where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llm.__main__ import main
from llm.alignment import gate, loop
from llm.alignment.context import keep_settings
from llm.alignment.gold import gold_items
from llm.alignment.harness import FIELD, check_local, item_scores, named, task_names, task_scores, tasks_in
from llm.alignment.settings import Gating, Settings
from llm.alignment.store import opened
from llm.embedded import EMBEDDED
from sims.core.spec import SpecError

ROWS = [
    {"question": "two plus three cats :", "choices": ["five .", "zzzz qqqq xxxx ."], "right": 0},
    {"question": "two plus two cats :", "choices": ["four .", "zzzz qqqq xxxx ."], "right": 1},
]


def folder_of(tmp_path: Path, **changes: Any) -> Path:
    """A folder with the task `sums`, which includes what all tasks share, and a group that is no task."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    asked = {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "right"}
    task = {"include": "shared.yml", "task": "sums", "doc_to_choice": "choices", **asked, **changes}
    folder = tmp_path / "tasks"
    folder.mkdir(exist_ok=True)
    (folder / "shared.yml").write_text(yaml.safe_dump(shared))
    (folder / "sums.yaml").write_text(yaml.safe_dump(task))
    (folder / "group.yaml").write_text("group: all\ntask: [sums]\n")
    return folder


def refused(name: str, task: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as error:
        check_local(name, task)
    return str(error.value)


def test_a_folder_and_its_tasks(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, process_docs="here")
    file = folder / "sums.yaml"
    file.write_text(file.read_text().replace("process_docs: here", "process_docs: !function nowhere.process"))
    assert named("a:b/tasks:one, two") == (Path("a:b/tasks"), ["one", "two"])
    for wrong in ("tasks", "tasks:", ":one", "tasks:one,", "tasks:one,one"):
        with pytest.raises(SpecError, match="must be FOLDER:TASK,TASK"):
            named(wrong)
    found = tasks_in(folder)  # what a !function names is not imported
    assert list(found) == ["sums"] and found["sums"]["test_split"] == "test"
    with pytest.raises(SpecError, match="must be a folder of YAML files"):
        tasks_in(tmp_path / "elsewhere")
    file.write_text("task: [")
    with pytest.raises(SpecError, match=r"sums\.yaml'?: cannot be read: while parsing"):
        tasks_in(folder)


def test_data_that_would_be_downloaded_are_refused(tmp_path: Path) -> None:
    task = tasks_in(folder_of(tmp_path))["sums"]
    check_local("sums", task)
    assert "must be one of json, csv" in refused("arc", task | {"dataset_path": "allenai/ai2_arc"})
    assert "must be one of json, csv" in refused("own", task | {"class": "own.Task"})
    assert "must have data_files" in refused("sums", task | {"dataset_kwargs": None})
    files = {"test": [str(tmp_path / "rows.jsonl"), "https://example.org/rows.jsonl"]}
    assert "nothing is downloaded" in refused("sums", task | {"dataset_kwargs": {"data_files": files}})
    assert "is not there" in refused("sums", task | {"dataset_kwargs": {"data_files": "*.no"}})


def test_each_item_has_its_score() -> None:
    rows = [{"doc_id": i, "filter": f, "acc": i == 1, "acc_norm": 1} for f in ("none", "last") for i in (2, 0, 1)]
    assert item_scores("sums", rows).tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(SpecError, match="at least 2 items, for an interval: it has 1"):
        item_scores("sums", rows[:1])
    with pytest.raises(SpecError, match="metric_list must have acc or exact_match"):
        item_scores("sums", [{"doc_id": i, "filter": "none", "bleu": 3.0} for i in range(2)])
    with pytest.raises(SpecError, match="its exact_match must be between 0 and 1"):
        item_scores("sums", [{"doc_id": i, "filter": "none", "exact_match": 2 * i} for i in range(2)])


def test_what_cannot_be_is_one_line_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path)
    monkeypatch.setattr("llm.alignment.harness.find_spec", lambda name: None)
    store = tmp_path / "loop"
    assert main(["align", "run", "--store", str(store), "--gold-tasks", f"{folder}:sums"]) == 2
    assert "needs the library: pip install 'lm-eval[hf]'" in capsys.readouterr().err and not store.exists()
    monkeypatch.setattr("llm.alignment.harness.find_spec", lambda name: object())
    with pytest.raises(SpecError, match=f"{FIELD} = 'all': must be a task of .*: sums"):
        task_names(f"{folder}:all")
    assert task_names(f"{folder}:sums") == ["sums"] and task_names(None) == []
    gating = Gating(gold_tasks=f"{folder}:sums", guarded="sums")
    assert gold_items(gating, simulated=False) == {}  # a task is a skill, and may be guarded
    with pytest.raises(SpecError, match="must be all, or skills of the gold set: sums"):
        gold_items(gating.replace(guarded="manners"), simulated=False)
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"prompt": "6*7?", "skill": "sums", "answer": "42"}\n')
    with pytest.raises(SpecError, match="must have another name than the skills of the gold set"):
        gold_items(gating.replace(gold_set=str(gold)), simulated=False)


def test_the_library_scores_a_model_and_the_gate_checks_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is an extra: pip install '.[lm-eval]'")
    tasks = f"{folder_of(tmp_path)}:sums"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    assert task_scores(tasks, EMBEDDED["pythia"], 8)["sums"].tolist() == [1.0, 0.0]  # of the second, the wrong is right
    broken = f"{folder_of(tmp_path, doc_to_target='{{nowhere.at.all}}')}:sums"
    with pytest.raises(SpecError, match="lm-evaluation-harness cannot run it: UndefinedError: 'nowhere' is undefined"):
        task_scores(broken, EMBEDDED["pythia"], 8)
    folder_of(tmp_path)
    with opened(tmp_path / "loop") as store:
        small = {"gold_tasks": tasks, "gold_prompts": 8, "gate_prompts": 8, "guarded": "sums"}
        keep_settings(store, Settings().changed(**small))
        context = loop.context_of(store)
        live = gate.registry.live(store)
        scores = gate.gold_scores(context, live)
        assert scores["sums"][0].tolist() == scores["sums"][1].tolist() == [1.0, 0.0]
        worse = scores | {"sums": (np.zeros(2), np.zeros(2))}
        same, lost = (
            {check.name: check for check in gate.checked(context, live, live, mine, scores)}["gold, sums"]
            for mine in (scores, worse)
        )
    assert same.passed and same.value == 0.0
    assert not lost.passed and lost.value == -0.5
