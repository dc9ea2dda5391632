"""A prompt made of a row's columns: 'Question: {question}\nHint: {hint}', as str.format does with plain fields."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from llm.data.formats import RowError
from sims.core.spec import SpecError

_WIDTHS = re.compile(r"\d{4}")  # a width of 999999999 would fill the memory


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template names. SpecError for one that names none, or uses more than a column's value.

    {column} and {column:spec} are valid, with widths below 1,000; {{ and }} stand for braces. Attributes, indices,
    numbered fields and fields within a spec are not: the content of a row must not control the formatting.
    """
    rule = "must name columns in braces, as in 'Question: {question} Answer:'"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SpecError("prompt_template", template, f"{rule}; {error}") from error
    columns = []
    for _, name, spec, _ in parts:
        if name is None:
            continue
        if not name or name.isdigit() or "." in name or "[" in name:
            raise SpecError("prompt_template", template, f"{rule}; {{{name}}} is no column's name")
        if "{" in (spec or "") or _WIDTHS.search(spec or ""):
            raise SpecError("prompt_template", template, f"{rule}; widths in {{{name}:{spec}}} must be below 1000")
        columns.append(name)
    if not columns:
        raise SpecError("prompt_template", template, f"{rule}; else each row has the same prompt")
    return tuple(dict.fromkeys(columns))


def prompt_from(template: str | None) -> Callable[[Any], Any] | None:
    """A `transform` that makes the prompt of a row's columns; None where there is no template.

    A column that is null (AlpacaFarm's `input`, in some copies) is an empty text; a row whose columns are all null,
    or hold what is neither text nor a number, is a bad row.
    """
    if template is None:
        return None
    columns = template_columns(template)

    def transform(row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row  # `parse_row` reports it
        values = {name: row[name] for name in columns}
        if all(value is None for value in values.values()):
            raise RowError("empty", f"prompt_template has no text: {', '.join(columns)} null")
        for name, value in values.items():
            if value is not None and not isinstance(value, str | int | float):
                raise RowError("wrong_type", f"{name} is {type(value).__name__}: a template takes text and numbers")
        try:
            prompt = template.format(**{name: "" if value is None else value for name, value in values.items()})
        except ValueError as error:
            raise RowError("wrong_type", f"prompt_template: {error}") from error
        return {**row, "prompt": prompt}

    return transform
