"""Data for language models: formats, sources, and bad rows named, counted, refused or dropped."""

from __future__ import annotations

import gzip
import json
import os
import sys
import types

import pytest

from llm.data import BadRowsError, RowError, load_examples, parse_row, read_rows
from tests.llm.tiny_data import (
    ASK,
    BPE,
    CHAT_BPE,
    CHAT_ROW,
    PREFERENCE,
    WORDS,
    assistant,
    ids,
    load,
    user,
)

# Formats


def test_every_kind_plain():
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "source": "x"}
    preference = parse_row(row, "preference")
    assert (preference.prompt, preference.completions) == ("The sky is", (" blue.", " green."))
    assert preference.extra == {"source": "x"}
    only = parse_row({"prompt": "2 + 2?", "answer": "4", "level": 1}, "prompt_only")
    assert (only.prompt, only.completions, only.extra) == ("2 + 2?", (), {"answer": "4", "level": 1})
    completion = parse_row({"prompt": "The sky is", "completion": " blue."}, "prompt_completion")
    assert (completion.completions, completion.label) == ((" blue.",), None)
    unpaired = {"prompt": "The sky is", "completion": " green.", "label": False}
    assert parse_row(unpaired, "unpaired_preference").label is False


def test_columns_are_renamed_and_extras_stay():
    row = {"instruction": "Hi", "output_1": "a", "output_2": "b", "prompt": "another column"}
    names = {"prompt": "instruction", "chosen": "output_1", "rejected": "output_2"}
    parsed = parse_row(row, "preference", names)
    assert (parsed.prompt, parsed.completions) == ("Hi", ("a", "b"))
    parsed = parse_row(
        {"question": "q", "solution": "4", "id": 3}, "prompt_only", {"prompt": "question", "answer": "solution"}
    )
    assert (parsed.prompt, parsed.extra) == ("q", {"answer": "4", "id": 3})


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "rests"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", (" blue.", " green.")),  # TRL's documented example
        ("The sky is blue.", "The sky is brown.", "The sky is", (" blue.", " brown.")),  # TRL would split b|lue
        ("Q: x\n\nA: one", "Q: x\n\nA: two", "Q: x\n\nA:", (" one", " two")),
        ("Q: x\n\nA:one", "Q: x\n\nA:two", "Q: x\n\nA:", ("one", "two")),
        ("Say it. Sun", "Say it. Sunday", "Say it.", (" Sun", " Sunday")),
    ],
)
def test_implicit_prompt_is_the_common_beginning_in_whole_words(chosen, rejected, prompt, rests):
    row = parse_row({"chosen": chosen, "rejected": rejected}, "preference")
    assert (row.prompt, row.completions) == (prompt, rests)


def test_implicit_prompt_of_conversations():
    shared = [{"role": "system", "content": "Be brief."}, user("Colour of the sky?")]
    row = {"chosen": [*shared, assistant("Blue.")], "rejected": [*shared, assistant("Green.")]}
    expected = (shared, ([assistant("Blue.")], [assistant("Green.")]))
    parsed = parse_row(row, "preference")
    assert (parsed.prompt, parsed.completions) == expected
    # UltraFeedback repeats the first message as a plain prompt.
    parsed = parse_row({"prompt": "Colour of the sky?", **row}, "preference")
    assert (parsed.prompt, parsed.completions) == expected


BAD_ROWS = [
    ([1, 2], "preference", "wrong_type", "list"),
    ({"prompt": "p", "chosen": "a"}, "preference", "missing_column", "no 'rejected', only prompt, chosen"),
    ({"question": "p"}, "prompt_only", "missing_column", "no 'prompt'"),
    (PREFERENCE | {"chosen": 3}, "preference", "wrong_type", "chosen is a string or a list of messages, not int"),
    (PREFERENCE | {"prompt": None}, "preference", "wrong_type", "NoneType"),
    (PREFERENCE | {"chosen": "b"}, "preference", "identical", "same text"),
    (PREFERENCE | {"chosen": [assistant("a")]}, "preference", "wrong_type", "one of chosen and rejected"),
    (PREFERENCE | {"prompt": ASK}, "preference", "wrong_type", "one of prompt and chosen"),
    (PREFERENCE | {"prompt": " \n"}, "preference", "empty", "prompt"),
    (PREFERENCE | {"rejected": ""}, "preference", "empty", "rejected"),
    (PREFERENCE | {"rejected": "\ud800"}, "preference", "malformed", "Unicode"),
    ({"chosen": "yes", "rejected": "no"}, "preference", "empty", "common beginning"),
    ({"chosen": "Sure. It", "rejected": "Sure. It is"}, "preference", "empty", "chosen"),
    ({"prompt": "p", "completion": "a", "label": "yes"}, "unpaired_preference", "wrong_type", "label"),
    ({"prompt": "p", "completion": "a", "label": 1}, "unpaired_preference", "wrong_type", "label"),
    (CHAT_ROW | {"prompt": []}, "prompt_completion", "empty", "prompt"),
    (CHAT_ROW | {"prompt": [user(" ")]}, "prompt_completion", "empty", "prompt"),
    (CHAT_ROW | {"prompt": [*ASK, assistant("a")]}, "prompt_completion", "malformed", "ends with"),
    (CHAT_ROW | {"prompt": [{"role": "human", "content": "q"}, *ASK]}, "prompt_completion", "malformed", "'human'"),
    (CHAT_ROW | {"prompt": [{"from": "user"}]}, "prompt_completion", "wrong_type", "prompt[0]"),
    (
        CHAT_ROW | {"completion": [{"role": "assistant", "content": None}]},
        "prompt_completion",
        "wrong_type",
        "NoneType",
    ),
    (CHAT_ROW | {"completion": [assistant("")]}, "prompt_completion", "empty", "completion"),
    (CHAT_ROW | {"completion": [user("a")]}, "prompt_completion", "malformed", "messages of user"),
    (
        CHAT_ROW | {"completion": [assistant("a"), user("b")]},
        "prompt_completion",
        "malformed",
        "messages of assistant, user",
    ),
]


@pytest.mark.parametrize(("raw", "kind", "reason", "words"), BAD_ROWS)
def test_a_bad_row_says_why(raw, kind, reason, words):
    with pytest.raises(RowError) as caught:
        parse_row(raw, kind)
    assert caught.value.reason == reason
    assert words in caught.value.detail


def test_a_renamed_column_that_is_missing_says_both_names():
    with pytest.raises(RowError, match=r"no 'instruction' .wanted as 'prompt'., only prompt, chosen, rejected"):
        parse_row(PREFERENCE, "preference", {"prompt": "instruction"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "pairs"}, "kind='pairs'"),
        ({"kind": "preference", "columns": {"winner": "a"}}, "columns..winner.."),
        ({"kind": "preference", "on_bad_rows": "truncate"}, "on_bad_rows='truncate'"),
        ({"kind": "preference", "on_too_long": "skip"}, "on_too_long='skip'"),
        ({"kind": "preference", "max_prompt_length": 1}, "max_prompt_length=1 is too small: at least 2"),
        ({"kind": "preference", "max_completion_length": 0}, "max_completion_length=0"),
    ],
)
def test_wrong_options_are_refused_before_any_work(options, words):
    with pytest.raises(ValueError, match=words):
        load(iter(()), **options)


# Sources


def write_jsonl(path, rows):
    lines = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(lines)
    return path


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
def test_broken_json_names_file_and_line(tmp_path, name):
    path = write_jsonl(tmp_path / name, [*[PREFERENCE] * 15, "\n", '{"prompt": "p", \n', PREFERENCE])
    with pytest.raises(BadRowsError) as caught:
        load(path, kind="preference")
    assert str(path) in str(caught.value)
    assert "1 of 17 rows refused (broken_json 1): line 17: broken_json: " in str(caught.value)
    examples, report, _ = load(path, kind="preference", on_bad_rows="drop")
    assert (len(examples), report.kept, report.counts()) == (16, 16, {"broken_json": 1})
    assert examples[-1].where == "line 18"


def test_bytes_that_are_not_utf8_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "d.jsonl"
    good = json.dumps(PREFERENCE).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n" + b'{"prompt": "\xff"}\n' + b"9" * 5000 + b"\n" + good)
    _, report, _ = load(path, kind="preference", on_bad_rows="drop")
    assert [(row.where, row.reason) for row in report.dropped] == [("line 2", "broken_json"), ("line 3", "broken_json")]


def test_a_damaged_gzip_stream_is_refused_whatever_the_options(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl.gz", [PREFERENCE | {"n": i} for i in range(5000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"d.jsonl.gz line \d+: the gzip stream is damaged"):
        load(path, kind="preference", on_bad_rows="drop")


def test_a_folder_has_splits(tmp_path):
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", [{"prompt": "b"}, "{\n"])
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", [{"prompt": "a"}])
    write_jsonl(tmp_path / "test.jsonl.gz", [{"prompt": "c"}])
    located = list(read_rows(tmp_path, split="train"))
    assert [where for where, _ in located] == [
        "train-00000-of-00002.jsonl line 1",
        "train-00001-of-00002.jsonl line 1",
        "train-00001-of-00002.jsonl line 2",
    ]
    assert [row for _, row in read_rows(str(tmp_path), split="test")] == [{"prompt": "c"}]
    for split in (None, "tes", "validation"):
        with pytest.raises(ValueError, match=rf"split={split!r}: no such split in .* test.jsonl.gz, train-00000"):
            read_rows(tmp_path, split=split)
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "c"}])
    with pytest.raises(ValueError, match="split='test' is there more than once"):
        read_rows(tmp_path, split="test")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a pipe or a device, and must be a file or a folder"),  # and is not waited for
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device"),  # and is not read for ever
        (lambda path: path.symlink_to("none.jsonl"), "is a link to none.jsonl, which leads to no file"),
        (lambda path: path.symlink_to(path.name), "is a link to d.jsonl, which leads to no file"),
    ],
)
def test_what_is_no_file_is_said(make, words, tmp_path):
    make(tmp_path / "d.jsonl")
    with pytest.raises(FileNotFoundError, match=words):
        read_rows(tmp_path / "d.jsonl")


def test_a_source_that_is_not_there_or_not_data(tmp_path):
    path = write_jsonl(tmp_path / "d.jsonl", [PREFERENCE])
    with pytest.raises(ValueError, match=r"split='train': .* is one file"):
        read_rows(path, split="train")
    with pytest.raises(ValueError, match="config='main'"):
        read_rows(path, config="main")
    for missing in (tmp_path / "no.jsonl", "folder/no.jsonl.gz", "nowhere", "../a/b"):
        with pytest.raises(FileNotFoundError, match="is no file or folder, and no hub name"):
            read_rows(missing)
    (tmp_path / "d.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"d.csv: a data file ends in one of .jsonl"):
        read_rows(tmp_path / "d.csv")


def test_missing_extras_are_named(tmp_path, monkeypatch):
    for module in ("datasets", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "d.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=r"d.parquet: reading Parquet needs pyarrow: pip install pyarrow"):
        list(read_rows(tmp_path / "d.parquet"))
    with pytest.raises(ImportError, match=r"owner/name: not on disk.*pip install datasets"):
        read_rows("owner/name", split="train")


def test_a_hub_name_goes_through_datasets(monkeypatch):
    def load_dataset(path, name=None, *, split):
        if split != "train":
            raise ValueError(f"Unknown split {split!r}.\nMore words.")
        return [{"prompt": path}, {"prompt": name}]

    config = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset, config=config))
    rows = list(read_rows("owner/name", split="train", config="main"))
    assert rows == [("row 1", {"prompt": "owner/name"}), ("row 2", {"prompt": "main"})]
    with pytest.raises(ValueError, match="split=None: name the split of owner/name"):
        read_rows("owner/name")
    with pytest.raises(ValueError, match=r"owner/name .config=None, split='dev'.: Unknown split 'dev'\.$"):
        read_rows("owner/name", split="dev")


def test_a_data_set_that_is_a_script_is_read_from_the_hubs_export(tmp_path, monkeypatch):
    """The library itself reads the files; only where they are is put in its place."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "preference").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([{"a": n} for n in range(10)]), tmp_path / "preference/0000.parquet")
    load, asked = datasets.load_dataset, []

    def load_dataset(path, name=None, *, split, data_files=None):
        if data_files is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found pairs.py")
        asked.append((path, data_files))
        here = {key: str(tmp_path / key / "*.parquet") for key in data_files}
        return load(path, data_files=here, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    parts = [list(read_rows("owner/pairs", f"preference{part}", "human")) for part in ("[:70%]", "[70%:]", "")]
    assert [[row["a"] for _, row in part] for part in parts] == [[*range(7)], [7, 8, 9], [*range(10)]]
    place = "hf://datasets/owner/pairs@refs%2Fconvert%2Fparquet/human/preference/*.parquet"
    assert asked == [("parquet", {"preference": place})] * 3

    def fail(*args, **kwargs):
        raise RuntimeError("something else")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(RuntimeError, match="something else"):
        read_rows("owner/pairs", "train")


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [CHAT_ROW | {"label": True}, CHAT_ROW | {"label": False, "completion": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert list(read_rows(tmp_path / "train.parquet")) == [("row 1", rows[0]), ("row 2", rows[1])]
    examples, report, _ = load(tmp_path, CHAT_BPE, kind="unpaired_preference", split="train", on_bad_rows="drop")
    assert (len(examples), report.counts()) == (1, {"wrong_type": 1})


# Limits and the report


def test_limits_count_bos_and_eos():
    row = {"prompt": "a b c", "completion": "d e"}
    load([row], kind="prompt_completion", max_prompt_length=4, max_completion_length=3)
    with pytest.raises(BadRowsError, match=r"row 1: prompt_too_long: prompt has 4 tokens, max_prompt_length=3 *$"):
        load([row], kind="prompt_completion", max_prompt_length=3, on_bad_rows="drop")
    with pytest.raises(
        BadRowsError, match="row 1: completion_too_long: completion has 3 tokens, max_completion_length=2"
    ):
        load([row], kind="prompt_completion", max_completion_length=2)


def test_truncation_keeps_the_end_of_a_prompt_and_the_start_of_a_completion():
    row = {"prompt": "a b c d", "chosen": "e f g", "rejected": "h"}
    (example,), report, lines = load(
        [row], kind="preference", max_prompt_length=3, max_completion_length=2, on_too_long="truncate"
    )
    tokens = [WORDS.convert_ids_to_tokens(ids(part)) for part in (example.prompt_ids, *example.completion_ids)]
    assert tokens == [["<s>", "c", "d"], ["e", "f"], ["h", "</s>"]]
    assert (report.kept, report.counts()) == (1, {})
    assert report.truncations() == {"prompt_too_long": 1, "completion_too_long": 1}
    assert lines == [
        "rows in memory: truncated 1 of 1 rows, prompt_too_long: row 1",
        "rows in memory: truncated 1 of 1 rows, completion_too_long: row 1",
    ]


def test_truncation_without_a_bos_keeps_as_many_tokens_as_the_limit():
    (example,), _, _ = load(
        [{"prompt": "The sky is blue."}], BPE, kind="prompt_only", max_prompt_length=2, on_too_long="truncate"
    )
    assert ids(example.prompt_ids) == BPE.encode("The sky is blue.")[-2:]


@pytest.mark.parametrize(
    ("chosen", "rejected", "options", "after"),
    [
        ("c d e", "c d f", {"max_completion_length": 2, "on_too_long": "truncate"}, "truncation"),
        ("c d", "c  d", {}, "tokenisation"),
        ("c d", "c d </s>", {}, "tokenisation"),
    ],
)
def test_pairs_that_become_identical_are_bad_rows(chosen, rejected, options, after):
    rows = [{"prompt": "a", "chosen": chosen, "rejected": rejected}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(
        BadRowsError, match=f"row 1: identical: chosen and rejected are the same . tokens after {after}"
    ):
        load(rows, kind="preference", **options)
    examples, report, _ = load(rows, kind="preference", on_bad_rows="drop", **options)
    assert ([example.where for example in examples], report.counts()) == (["row 2"], {"identical": 1})


def test_a_completion_cut_where_another_ends_differs_by_its_eos():
    row = {"prompt": "a", "chosen": "c d e", "rejected": "c d"}
    (example,), _, _ = load([row], kind="preference", max_completion_length=3, on_too_long="truncate")
    assert WORDS.convert_ids_to_tokens(ids(example.completion_ids[0])) == ["c", "d", "e"]
    assert WORDS.convert_ids_to_tokens(ids(example.completion_ids[1])) == ["c", "d", "</s>"]


MIXED = [
    PREFERENCE,
    PREFERENCE | {"chosen": ""},
    PREFERENCE | {"prompt": "a b c d e f"},
    PREFERENCE | {"rejected": ""},
    {"prompt": "a"},
    PREFERENCE | {"prompt": ""},
    PREFERENCE | {"chosen": " "},
]


def test_refusing_lists_counts_and_the_first_few():
    with pytest.raises(BadRowsError) as caught:
        load(MIXED, kind="preference")
    message = str(caught.value)
    assert message.startswith("rows in memory: 5 of 7 rows refused (empty 4, missing_column 1): row 2: empty: chosen")
    assert message.endswith(
        "; row 4: empty: rejected is blank; row 5: missing_column: no 'chosen', only prompt; … "
        "[on_bad_rows='drop' would go on]"
    )
    assert "\n" not in message
    assert [row.where for row in caught.value.report.dropped] == ["row 2", "row 4", "row 5", "row 6", "row 7"]


def test_refusing_only_what_is_to_be_refused():
    with pytest.raises(BadRowsError, match=r"1 of 7 rows refused .prompt_too_long 1.: row 3: .*\[on_too_long="):
        load(MIXED, kind="preference", max_prompt_length=3, on_bad_rows="drop")
    with pytest.raises(BadRowsError, match=r"5 of 7 rows refused .empty 4, missing_column 1.: row 2"):
        load(MIXED, kind="preference", max_prompt_length=3, on_too_long="drop")


def test_dropping_counts_every_row_and_says_so_once_a_reason(capsys):
    options = {"kind": "preference", "max_prompt_length": 3, "on_bad_rows": "drop", "on_too_long": "drop"}
    examples, report = load_examples(MIXED, WORDS, **options)
    assert [example.where for example in examples] == ["row 1"]
    assert report.counts() == {"empty": 4, "prompt_too_long": 1, "missing_column": 1}
    assert report.rows == report.kept + len(report.dropped) == len(MIXED)
    assert capsys.readouterr().err.splitlines() == [
        "rows in memory: dropped 4 of 7 rows, empty: row 2, row 4, row 6, …",
        "rows in memory: dropped 1 of 7 rows, prompt_too_long: row 3",
        "rows in memory: dropped 1 of 7 rows, missing_column: row 5",
    ]


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="none of 1 rows is left"):
        load([{"prompt": ""}], kind="prompt_only", on_bad_rows="drop")
    with pytest.raises(ValueError, match="rows in memory: is empty: it has no row"):
        load([], kind="prompt_only")


def test_a_transform_may_choose_the_winner_and_name_a_bad_row():
    def by_preference(raw):
        if raw["preference"] not in (1, 2):
            raise RowError("malformed", f"preference is 1 or 2, not {raw['preference']}")
        first, second = raw["output_1"], raw["output_2"]
        best, worst = (first, second) if raw["preference"] == 1 else (second, first)
        return {"prompt": raw["instruction"], "chosen": best, "rejected": worst}

    rows = [{"instruction": "a", "output_1": "b", "output_2": "c", "preference": p} for p in (1, 2, 3)]
    rows.append({"instruction": "a"})
    examples, report, _ = load(rows, kind="preference", transform=by_preference, on_bad_rows="drop")
    firsts = [WORDS.decode(example.completion_ids[0]) for example in examples]
    assert (firsts, report.counts()) == (["b </s>", "c </s>"], {"malformed": 1, "missing_column": 1})
