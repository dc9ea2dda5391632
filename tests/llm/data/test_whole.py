"""Data sets are checked whole, by row, before the first update."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llm.data import read_rows
from llm.data.rows import BadRowsError
from llm.data.whole import check_lengths, digest, repeated
from llm.models.loading import load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.reward_models.model import new_reward_model
from llm.tasks import LearnedReward, MinLength
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.spec import SpecError
from tests.llm.tiny_data import PREFERENCE, load

PAIRS = [
    {"prompt": "one two", "chosen": "three", "rejected": "four"},
    {"prompt": "one", "chosen": "three four", "rejected": "five"},
]

WORDS = [PREFERENCE | {"prompt": "a b"}, PREFERENCE | {"prompt": "a"}]  # in those of the tokenizer of `load`


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_on(data: Path, **settings: object) -> Run:
    task = MinLength(data=str(data), data_kind="preference", **settings)
    return Run(PRESETS["tiny-min-length"].replace(environment=task, updates=2, evaluations=1))


# Lines and files


@pytest.mark.parametrize(
    "line, detail",
    [
        (b'{"prompt": "a", "chosen": "b", "rejected": "c", "chosen": "d"}', "the key 'chosen' is there twice"),
        (b'{"prompt": "a", "chosen": {"role": "user", "role": "tool"}, "rejected": "c"}', "'role' is there twice"),
        (b'{"prompt": "a", "chosen": "b\xff", "rejected": "c"}', "utf-8"),
        (b'{"prompt": "a", "chosen": null, "rejected": "c"}', "chosen is a string or a list of messages, not NoneType"),
        (b'{"prompt": "a", "chosen": 3, "rejected": "c"}', "chosen is a string or a list of messages, not int"),
        (b'{"prompt": "a", "chosen": " ", "rejected": "c"}', "chosen is blank"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "b"}', "are the same text"),
        (b"[1, 2]", "a row is an object of columns, not list"),
        (b"{}", "no 'chosen'"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_what_is_wrong(line: bytes, detail: str, tmp_path: Path):
    path = write(tmp_path / "pairs.jsonl", WORDS)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(BadRowsError, match=f"1 of 3 rows refused .*line 3: .*{detail}"):
        load(path, kind="preference")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path):
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row for _, row in read_rows(path)] == PAIRS


@pytest.mark.parametrize("suffix", ["jsonl.gz", "parquet"])
def test_a_truncated_file_is_named(suffix: str, tmp_path: Path):
    path = tmp_path / f"pairs.{suffix}"
    if suffix == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(PAIRS), path)
    else:
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in PAIRS).encode()))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{path} (line|row) \d+: the .* damaged") as error:
        load(path, kind="preference")
    assert "\n" not in str(error.value)


# Rows that repeat


def test_rows_that_repeat_are_counted_and_named():
    _, report, lines = load([PREFERENCE, PREFERENCE | {"note": 1}, PREFERENCE], kind="preference")
    assert report.repeated == ("row 3",)
    assert lines == ["rows in memory: 1 of 3 rows repeat an earlier one, and count twice: row 3"]


def test_evaluation_prompts_that_are_trained_on_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "train.jsonl", PAIRS)
    write(tmp_path / "test.jsonl", [PAIRS[0], {"prompt": "five", "chosen": "six", "rejected": "ten"}])
    run_on(tmp_path, data_split="train", evaluation_split="test")
    assert "1 of 2 evaluation prompts are trained on\n" in capsys.readouterr().err


# Lengths


def test_rows_longer_than_the_model_are_refused_before_the_first_update(tmp_path: Path):
    rows = [
        *PAIRS,
        {"prompt": "one two", "chosen": "three " * 200, "rejected": "four"},
        PAIRS[1] | {"prompt": "five " * 120},
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(SpecError) as error:
        run_on(path)
    message = str(error.value)
    assert str(path) in message and "2 of 4 rows have more tokens" in message and "128 positions" in message
    assert "line 3 (" in message and "line 4 (" in message and "max_prompt_length" in message and "\n" not in message


def test_a_row_that_just_fits_is_kept():
    examples, _, _ = load([PREFERENCE], kind="preference")
    longest = len(examples[0].prompt_ids) + max(map(len, examples[0].completion_ids))
    check_lengths("rows", examples, longest - 1, "shorten")  # the last token is not read
    check_lengths("rows", examples, longest, "shorten", unread=0)
    for settings in ({"positions": longest - 2}, {"positions": longest - 1, "unread": 0}):
        with pytest.raises(SpecError, match="1 of 1 rows have more tokens"):
            check_lengths("rows", examples, remedy="shorten", **settings)


def test_a_prompt_longer_than_the_reward_model_is_refused_before_the_first_update(tmp_path: Path):
    new_reward_model("pythia").save(tmp_path / "judge", load_tokenizer(LanguageModelSpec()))
    config = json.loads((tmp_path / "judge" / "config.json").read_text())
    (tmp_path / "judge" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}))
    task = LearnedReward(
        data=str(write(tmp_path / "rows.jsonl", [{"prompt": "one two"}, {"prompt": "five " * 20}])),
        reward_model=str(tmp_path / "judge"),
    )
    experiment = PRESETS["tiny-min-length"].replace(environment=task, updates=2, evaluations=1)
    with pytest.raises(SpecError, match=r"reward_model = .*has 16 positions, and the prompt of line 2 with an EOS \d+"):
        Run(experiment)


# Another data set on resume


def test_other_rows_are_refused_on_resume(tmp_path: Path):
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    state = run_on(path).state_dict()
    run_on(path).load_state_dict(*state)
    for rows in ([*PAIRS, PAIRS[0] | {"chosen": "six"}], PAIRS[::-1], [PAIRS[0] | {"note": "n"}, PAIRS[1]]):
        write(path, rows)
        with pytest.raises(SpecError, match="has other rows than those that the run was started with"):
            run_on(path).load_state_dict(*state)


def test_a_digest_knows_rows_and_their_order():
    first, second = (load([row], kind="preference")[0] for row in WORDS)
    assert digest([*first, *second]) != digest([*second, *first]) and digest(first) == digest(first)
    assert repeated([*first, *second], first) == 1


def test_a_digest_knows_words_that_are_one_token():
    """Reward functions read the prompt, of which a tokenizer of few words may say "<unk>" alone."""
    one, other = (load([{"prompt": prompt}], kind="prompt_only")[0] for prompt in ("3 + 4", "4 + 5"))
    assert (one[0].prompt_ids == other[0].prompt_ids).all() and digest(one) != digest(other)
