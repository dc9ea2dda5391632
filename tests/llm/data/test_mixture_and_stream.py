"""Several data sets mixed by weight, and rows that stay on disk."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from llm.data.mixture import mix, parse_mixture
from llm.data.rows import BadRowsError
from llm.data.streamed import StreamedExamples
from llm.data.whole import digest
from llm.models.loading import load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.reward_models.data import RewardData, load_rows
from llm.tasks import MinLength
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.spec import SpecError
from tests.llm.tiny_data import ids, load

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def write(path: Path, count: int, start: int = 0) -> Path:
    rows = [
        {"prompt": f"{NUMBERS[i // 10]} {NUMBERS[i % 10]}", "chosen": "one", "rejected": "two three"}
        for i in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Mixtures


@pytest.mark.parametrize(
    "source, parts",
    [
        ("a.jsonl:3,b.jsonl:1", [("a.jsonl", 0.75), ("b.jsonl", 0.25)]),
        ("owner/name:0.5, folder:1.5", [("owner/name", 0.25), ("folder", 0.75)]),
        ("a.jsonl", [("a.jsonl", 1.0)]),
        ("a,b.jsonl", [("a,b.jsonl", 1.0)]),
        ("disk:7", [("disk:7", 1.0)]),
    ],
)
def test_a_mixture_is_names_with_weights(source: str, parts: list[tuple[str, float]]):
    assert parse_mixture(source) == parts


@pytest.mark.parametrize("source", ["a:0,b:1", "a:1,b:1e999", "a:1,b:1.2.3"])
def test_a_weight_that_is_none_is_refused(source: str):
    with pytest.raises(SpecError, match=r"data = .*weight .*: must be a number above 0"):
        parse_mixture(source)


@pytest.mark.parametrize("source", ["a:1,b:2,./a:3", "a:1e308,b:1e308", "a:1e-300,b:1e300"])
def test_a_data_set_that_is_there_twice_or_has_no_share_is_refused(source: str):
    with pytest.raises(SpecError, match=r"data = .*(names ./a twice|leave a data set no share)"):
        parse_mixture(source)


def test_shares_are_the_weights_and_no_row_is_there_twice(tmp_path: Path):
    first, second = write(tmp_path / "a.jsonl", 30), write(tmp_path / "b.jsonl", 40, start=50)
    task = MinLength(data=f"{first}:0.75,{second}:0.25", data_kind="preference")
    run = Run(PRESETS["tiny-min-length"].replace(environment=task, updates=2, evaluations=1))
    examples = run.environment.examples
    counts = Counter(example.where.split(" ")[0] for example in examples)
    assert counts == {str(first): 30, str(second): 10}
    assert len({example.where for example in examples}) == 40
    rows, held_out = load_rows(RewardData(data=task.data), load_tokenizer(LanguageModelSpec()), seed=0)
    assert len(rows) + len(held_out) == 40


def test_a_mixture_says_what_it_took():
    (first, _, _), (second, _, _) = (
        load([{"prompt": f"a {x}"} for x in letters], kind="prompt_only") for letters in ("bcdef", "gh")
    )
    lines: list[str] = []
    found = mix([("a", 0.5, first), ("b", 0.5, second)], lines.append)
    assert lines == [
        "a: 2 of 5 rows, a share of 0.5 of the mixture",
        "b: 2 of 2 rows, a share of 0.5 of the mixture",
    ]
    assert len(found) == 4 and mix([("a", 0.5, first), ("b", 0.5, second)], lines.append)[0].where == found[0].where


# Rows that stay on disk


def test_streamed_rows_are_those_of_memory(tmp_path: Path):
    path = write(tmp_path / "pairs.jsonl", 25)
    path.write_text(path.read_text().replace("\n", "\n\n", 3))  # blank lines count
    in_memory, _, _ = load(path, kind="preference")
    streamed, report, _ = load(StreamedExamples(path), kind="preference")
    assert isinstance(streamed, StreamedExamples) and report.kept == len(streamed) == 25
    assert digest(streamed) == digest(in_memory)
    assert [example.where for example in streamed] == [example.where for example in in_memory]
    assert ids(streamed[7].prompt_ids) == ids(in_memory[7].prompt_ids) and streamed[-1].where == in_memory[-1].where


def test_a_run_on_streamed_rows_is_the_run_on_rows_in_memory(tmp_path: Path):
    path = write(tmp_path / "pairs.jsonl", 25)
    base = PRESETS["tiny-sft"]
    losses = []
    for stream in (False, True):
        task = MinLength(data=str(path), data_kind="prompt_completion", completion_column="chosen", stream_data=stream)
        schedule = base.schedule.replace(source="dataset", batch_size=4)
        run = Run(base.replace(environment=task, schedule=schedule, updates=3, evaluations=1))
        losses.append([float(update.stats.loss) for update in run.train()])
    assert losses[0] == losses[1]


def test_streamed_rows_are_checked_whole_and_dropped_likewise(tmp_path: Path):
    path = write(tmp_path / "pairs.jsonl", 4)
    path.write_text(path.read_text() + '{"prompt": "one"}\n' + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(BadRowsError, match=r"1 of 6 rows refused .*line 5"):
        load(StreamedExamples(path), kind="preference")
    kept, report, _ = load(StreamedExamples(path), kind="preference", on_bad_rows="drop")
    assert [example.where for example in kept] == ["line 1", "line 2", "line 3", "line 4", "line 6"]
    assert "line 6" in report.repeated
    assert report.repeated == load(path, kind="preference", on_bad_rows="drop")[1].repeated


def test_a_file_that_changed_under_a_run_is_named(tmp_path: Path):
    path = write(tmp_path / "pairs.jsonl", 4)
    streamed, _, _ = load(StreamedExamples(path), kind="preference")
    path.write_text("x" * 400)
    with pytest.raises(ValueError, match=r"pairs\.jsonl line 2: was changed after it was checked"):
        streamed[1]


@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "pairs.parquet", "folder", "none.jsonl"])
def test_what_cannot_be_streamed_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"must be one \.jsonl file, not compressed"):
        StreamedExamples(tmp_path / name)


def test_streaming_is_refused_where_it_means_nothing():
    for settings in ({}, {"data": "a:1,b:2"}):
        with pytest.raises(SpecError, match="stream_data = True"):
            MinLength(stream_data=True, **settings)
