"""Prompts made of a row's columns: which templates are refused before any work, and what null columns become."""

from __future__ import annotations

import pytest

from llm.data import BadRowsError, prompt_from, template_columns
from llm.reward_models.data import RewardData
from llm.tasks import MinLength
from sims.core.spec import SpecError
from tests.llm.tiny_data import BPE, load

ALPACA = "{instruction}\n{input}"


def prompts(rows, template, **options):
    examples, report, _ = load(rows, BPE, kind="prompt_only", transform=prompt_from(template), **options)
    return [example.prompt for example in examples], report


def test_a_null_column_is_no_text():
    rows = [{"instruction": "is it blue", "input": None}, {"instruction": "is it", "input": "green"}]
    assert prompts(rows, ALPACA)[0] == ["is it blue\n", "is it\ngreen"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": None, "input": None}, "row 1: empty: prompt_template has no text: instruction, input null"),
        ({"instruction": ["a"], "input": ""}, "row 1: wrong_type: instruction is list: a template takes text and num"),
        ({"instruction": "a"}, "row 1: missing_column: transform looked for 'input'"),
        (["a"], "row 1: wrong_type: a row is an object of columns, not list"),
    ],
)
def test_a_row_without_text_for_it_is_named(row, words):
    with pytest.raises(BadRowsError, match=words):
        prompts([row], ALPACA)
    good = {"instruction": "a", "input": "b"}
    assert prompts([row, good], ALPACA, on_bad_rows="drop")[0] == ["a\nb"]


def test_a_number_that_does_not_fit_its_format_is_named():
    assert prompts([{"x": 1.25}], "{x:.1f} {{x}}")[0] == ["1.2 {x}"]
    with pytest.raises(BadRowsError, match="row 1: wrong_type: prompt_template: Unknown format code 'f'"):
        prompts([{"x": "a"}], "{x:.1f}")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{prompt.text}", r"\{prompt.text\} is no column's name"),
        ("{prompt[0]}", r"\{prompt\[0\]\} is no column's name"),
        ("{}", r"\{\} is no column's name"),
        ("{0}", r"\{0\} is no column's name"),
        ("{prompt:>999999999}", r"widths in \{prompt:>999999999\} must be below 1000"),
        ("{prompt:{width}}", "must be below 1000"),
        ("{prompt", "expected '}' before end of string"),
        ("no column", "else each row has the same prompt"),
        ("", "else each row has the same prompt"),
    ],
)
def test_templates_that_cannot_be_are_refused_before_any_work(template, words):
    for spec in (MinLength, RewardData):
        with pytest.raises(SpecError, match=f"^prompt_template = .*must name columns in braces.*{words}") as found:
            spec(data="no such file.jsonl", prompt_template=template)
        assert "\n" not in str(found.value)


def test_columns_are_named_once_in_their_order():
    assert template_columns("{b} {{c}} {a!r} {b:>9}") == ("b", "a")
