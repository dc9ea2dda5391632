"""Rows and files that others write: each is read as what it says, or refused in one line that names it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.data.rows import BadRowsError
from tests.llm.tiny_data import BPE, CHAT, CHAT_BPE, WORDS, assistant, byte_level, load, user

ROW = '{"prompt": "a b", "completion": "c"}'
NAMES = CHAT.replace(
    "{{ message.content }}", "{% if 'name' in message %}{{ message.name }}: {% endif %}{{ message.content }}"
)
NAMED = byte_level(bos=True, chat_template=NAMES)
CALLS = "{{ message.content }}{% for call in message.tool_calls %}[{{ call.name }}]{% endfor %}"
CALLING = byte_level(bos=True, chat_template=CHAT.replace("{{ message.content }}", CALLS))
CALL = {**assistant("b"), "tool_calls": [{"name": "f"}]}


def turn(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": list(messages[:-1]), "completion": list(messages[-1:])}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ROW.encode("utf-16"), "line 1: broken_json: 'utf-8' codec can't decode byte 0xff"),
        (("\ufeff" + ROW).encode("utf-16-le"), "line 1: broken_json: 'utf-8' codec can't decode"),
        (ROW.replace("a", "ä").encode("latin-1"), "line 1: broken_json: 'utf-8' codec can't decode byte 0xe4"),
        (f"{ROW}\r{ROW}\r".encode(), "line 1: broken_json: Extra data"),
        (f"{ROW}\n".encode() + bytes(100), "line 2: broken_json: Expecting value"),
        (f"[{ROW}]".encode(), "line 1: wrong_type: a row is an object of columns, not list"),
        (ROW.replace('"a b"', "NaN").encode(), "prompt is a string or a list of messages, not float"),
        (f'{{"prompt": {"9" * 5000}}}'.encode(), "line 1: broken_json: Exceeds the limit"),
        (b"[" * 100_000, "line 1: broken_json: maximum recursion depth"),
        (b"\n \n\r\n", "rows.jsonl: is empty: it has no row"),
        (b"", "rows.jsonl: is empty: it has no row"),
    ],
)
def test_a_file_of_lines_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl") as raised:
        load(path, kind="prompt_completion")
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        ("\ufeff" + ROW).encode(),
        f"{ROW}\r\n\r\n".encode(),
        f"\x0c\n{ROW}".encode(),
        ROW.replace("}", ', "x": NaN, "y": 1e999, "z": ' + "9" * 4000 + "}").encode(),
        ROW.replace("a b", "a\\u0020b").encode(),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_file_of_lines_that_is_one(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    (example,), _, _ = load(path, kind="prompt_completion")
    assert example.prompt == "a b"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train-00000-of-00002.jsonl"], "must hold all of 2 shards"),
        (["train-00000-of-00002.jsonl", "train-00002-of-00002.jsonl"], "must hold all of 2 shards"),
        (["train-00000-of-00001.jsonl", "train-00000-of-00001-ab12.jsonl"], "must hold all of 1 shards"),
        (["train.jsonl", "train-00000-of-00001.jsonl"], "is there more than once"),
        (["train-00000-of-00001.jsonl", "train-00000-of-00002.jsonl"], "is there more than once"),
    ],
)
def test_shards_are_all_there_and_once(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / name).write_text(ROW)
    with pytest.raises(ValueError, match=rf"split='train'.*{said}"):
        load(tmp_path, kind="prompt_completion", split="train")


def test_parquet_with_a_column_twice_and_with_nulls_in_messages(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    columns = [arrow.array([x]) for x in "abc"]
    parquet.write_table(arrow.Table.from_arrays(columns, names=["prompt", "prompt", "completion"]), path)
    with pytest.raises(ValueError, match=r"has the column 'prompt' twice"):
        load(path, kind="prompt_completion")
    plain = turn(user("a"), assistant("b"), user("c"), assistant("d"))
    named = {**plain, "prompt": [*plain["prompt"][:2], {**user("c"), "name": "Z"}]}  # the others' names are null there
    parquet.write_table(arrow.Table.from_pylist([named, plain]), path)
    (first, second), _, _ = load(path, tokenizer=NAMED, kind="prompt_completion")
    assert "Z: c" in NAMED.decode(first.prompt_ids) and "None" not in NAMED.decode(first.prompt_ids)
    assert NAMED.decode(second.prompt_ids) == NAMED.decode(first.prompt_ids).replace("Z: ", "")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (turn(user("a"), CALL), "malformed: tool_calls of message 2 is not written by the chat template"),
        (turn(user("a"), CALL, {"role": "tool", "content": "1"}, assistant("b")), "tool_calls of message 2 is not"),
        (
            turn(user("a"), {**assistant("b"), "function_call": {"name": "f"}}),
            "function_call of message 2 is not",
        ),
        (
            turn(user("a"), {**assistant("b"), "reasoning_content": "hm"}),
            "reasoning_content of message 2 is",
        ),
        (
            turn(user("a"), {**assistant("b"), "weight": 0}, user("c"), assistant("d")),
            "weight = 0 of message 2: must",
        ),
        (turn(user("a"), assistant([{"type": "text", "text": "b"}])), "completion[0].content is list, not text"),
        (turn(user("a"), assistant(None)), "completion[0].content is NoneType, not text"),
        (turn([user("a")], assistant("b")), "prompt[0] is not a message with role and content"),
        (turn({"role": "x" * 100_000, "content": "a"}, assistant("b")), "characters)"),
        ({"prompt": [], "completion": [assistant("b")]}, "empty: prompt is blank"),
        ({"prompt": [user("a")], "completion": []}, "empty: completion is blank"),
        ({"prompt": "a \ud83d", "completion": "b"}, "prompt is not valid Unicode at character 2"),
        ({"prompt": b"a", "completion": "b"}, "prompt is a string or a list of messages, not bytes"),
        ({f"column {i}\n": "" for i in range(10_000)}, "missing_column: no 'prompt', only column 0 ,"),
        (["a", "b"], "a row is an object of columns, not list"),
        (None, "a row is an object of columns, not NoneType"),
    ],
)
def test_rows_that_say_what_would_be_lost(row: Any, said: str) -> None:
    with pytest.raises(BadRowsError) as raised:
        load([row], tokenizer=CHAT_BPE, kind="prompt_completion")
    assert said in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("row", "tokenizer", "text"),
    [
        (turn(user("a"), CALL), CALLING, "b[f]</s>"),
        (turn(user("a"), {**assistant("b"), "tool_calls": []}), CHAT_BPE, "b</s>"),
        (turn(user("a"), {**assistant("b"), "thinking": "x"}, user("c"), assistant("d")), CHAT_BPE, "d</s>"),
        (turn(user("a"), {**assistant("b"), "weight": 1}), CHAT_BPE, "b</s>"),
        ({"prompt": "👩‍👩‍👧", "completion": "🏳️‍🌈"}, BPE, "🏳️‍🌈</s>"),
        ({"prompt": "a\0", "completion": "b\0"}, BPE, "b\0</s>"),
    ],
)
def test_rows_that_are_read_as_they_are(row: Any, tokenizer: Any, text: str) -> None:
    (example,), _, _ = load([row], tokenizer=tokenizer, kind="prompt_completion")
    assert tokenizer.decode(example.completion_ids[0]) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0].content + 1 }}", "TypeError: can only concatenate str"),
        ("{% for i in range(10**12) %}x{% endfor %}", "OverflowError: Range too big"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages[9].content.x }}", "list object has no element 9"),
        ("{{ messages[0].name }}", "is not valid Unicode at character 0"),
    ],
)
def test_a_chat_template_that_fails(template: str, said: str) -> None:
    row = turn({**user("a"), "name": "\ud800"}, assistant("b"))
    with pytest.raises(BadRowsError, match=r"row 1: malformed: .*chat template") as raised:
        load([row], tokenizer=byte_level(chat_template=template), kind="prompt_completion")
    assert said in str(raised.value)


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("beside", [{1: "x", "b": 2}, {(1, 2): "x"}, LOOP, np.ones(3), b"x", float("nan")], ids=str)
def test_further_columns_may_hold_anything(beside: Any) -> None:
    (example,), _, _ = load([{"prompt": "a", "beside": beside, 7: 0}], tokenizer=WORDS, kind="prompt_only")
    assert example.digest() == example.digest() and json.dumps(example.prompt) == '"a"'
