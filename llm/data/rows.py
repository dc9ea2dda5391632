"""From a source to token ids; every unusable row is reported, and refused or dropped."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm.data.formats import BESIDE, TOO_LONG, Kind, Reason, RowError, beside, check_columns, parse_row
from llm.data.sources import read_rows
from llm.data.streamed import StreamedExamples
from llm.data.tokenise import Example, Limits, OnTooLong, TextEncoder, check_limits, encode_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED = 3  # rows named in a message; the report holds them all


@dataclass(frozen=True)
class BadRow:
    """One row's position in the source (line or row, from 1), the reason, and a detail."""

    where: str
    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {self.detail}"


@dataclass(frozen=True)
class RowReport:
    """What became of every row: rows = kept + len(dropped); truncated rows are among the kept."""

    source: str
    rows: int
    kept: int
    dropped: tuple[BadRow, ...] = ()
    truncated: tuple[BadRow, ...] = ()
    repeated: tuple[str, ...] = ()  # positions of kept rows that say what an earlier one says

    def counts(self) -> dict[Reason, int]:
        """Rows dropped for each reason."""
        return dict(Counter(row.reason for row in self.dropped))

    def truncations(self) -> dict[Reason, int]:
        """Rows truncated for each reason; one row may count under both."""
        return dict(Counter(row.reason for row in self.truncated))

    def lines(self) -> list[str]:
        """One line for each thing done and its reason, and one for rows that repeat."""
        found: dict[tuple[str, Reason], list[BadRow]] = {}
        for action, group in (("dropped", self.dropped), ("truncated", self.truncated)):
            for row in group:
                found.setdefault((action, row.reason), []).append(row)
        lines = [
            f"{self.source}: {action} {len(rows)} of {self.rows} rows, {reason}: {first_of(row.where for row in rows)}"
            for (action, reason), rows in found.items()
        ]
        if self.repeated:
            many = f"{len(self.repeated)} of {self.rows} rows repeat an earlier one, and count twice"
            lines.append(f"{self.source}: {many}: {first_of(self.repeated)}")
        return lines


class BadRowsError(ValueError):
    """Rows that may not be dropped; `report` counts them, and no others, as dropped."""

    def __init__(self, report: RowReport) -> None:
        counts = ", ".join(f"{reason} {number}" for reason, number in report.counts().items())
        long = set(report.counts()) & set(TOO_LONG)
        hints = ["on_bad_rows='drop'"] if set(report.counts()) - long else []
        hints += ["on_too_long='drop' or 'truncate'"] if long else []
        way_on = f" [{' and '.join(hints)} would go on]" if len(report.dropped) < report.rows else ""
        super().__init__(
            f"{report.source}: {len(report.dropped)} of {report.rows} rows refused ({counts}): "
            f"{first_of(map(str, report.dropped), '; ')}{way_on}"
        )
        self.report = report


def first_of(items: Iterable[str], separator: str = ", ") -> str:
    shown = list(items)
    return separator.join(shown[:NAMED]) + (f"{separator}…" if len(shown) > NAMED else "")


def transformed(raw: Any, transform: Callable[[Any], Any]) -> Any:
    try:
        return transform(raw)
    except KeyError as error:
        raise RowError("missing_column", f"transform looked for {error}") from error


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def load_examples(
    source: str | Path | Iterable[Mapping[str, Any]] | StreamedExamples,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: Kind,
    split: str | None = None,
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    transform: Callable[[Any], Any] | None = None,
    max_prompt_length: int | None = None,
    max_completion_length: int | None = None,
    on_bad_rows: Literal["refuse", "drop"] = "refuse",
    on_too_long: OnTooLong = "refuse",
    log: Callable[[str], None] = to_stderr,
    ends: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
) -> tuple[Sequence[Example], RowReport]:
    """Read, check and tokenise a whole data set.

    source, split, config: see `read_rows`; or a `StreamedExamples`, which is filled and returned.
    kind, columns: see `parse_row`.
    transform: applied to each row as read, before columns are renamed; for example where a column names the preferred
        response. It may raise RowError for an unusable row.
    max_prompt_length, max_completion_length: in tokens, BOS and EOS counted.
    on_bad_rows: "refuse" reads all rows, then raises BadRowsError; "drop" continues without the bad ones.
    on_too_long: likewise, or "truncate": prompts keep their end, completions their start, then without EOS.
    log: called with one line for each reason why rows were dropped or truncated.
    ends, stop_strings: further tokens, and strings, that end a completion, see `TextEncoder`.

    Returns the examples in their order and the report.
    Errors: BadRowsError; ValueError where nothing is left, an option is wrong, or a tokenizer has no chat template for
        conversations.
    """
    columns = columns or {}
    check_columns(kind, columns)
    if on_bad_rows not in ("refuse", "drop"):
        raise ValueError(f"on_bad_rows={on_bad_rows!r} is not one of refuse, drop")
    encoder = TextEncoder(tokenizer, ends, stop_strings)
    limits = Limits(max_prompt_length, max_completion_length, on_too_long)
    check_limits(limits, encoder)
    streamed = source if isinstance(source, StreamedExamples) else None
    if streamed is not None:
        source = streamed.path
    name = str(source) if isinstance(source, str | Path) else "rows in memory"

    beside_any, unread = set(BESIDE) - set(columns.values()), set[str]()

    def decoded(where: str, raw: Any) -> tuple[Example, list[RowError]]:
        if isinstance(raw, RowError):
            raise raw
        given = raw if transform is None else transformed(raw, transform)
        row = parse_row(given, kind, columns)
        if not beside_any.isdisjoint(given):  # of a conversation, parse_row has refused them
            unread.update(beside_any.intersection(beside(given)))
        return encode_row(where, row, encoder, limits)

    examples: list[Example] | StreamedExamples = []
    if streamed is not None:
        examples, streamed.decode = streamed, lambda where, raw: decoded(where, raw)[0]
    bad: list[BadRow] = []
    truncated: list[BadRow] = []
    repeated: list[str] = []
    seen: set[bytes] = set()
    located = read_rows(source, split, config) if streamed is None else streamed.rows()  # type: ignore[arg-type]
    for where, raw in located:
        try:
            example, cuts = decoded(where, raw)
        except RowError as error:
            bad.append(BadRow(where, error.reason, error.detail))
            continue
        examples.append(example)
        if (known := example.digest()) in seen:
            repeated.append(where)
        seen.add(known)
        truncated.extend(BadRow(where, cut.reason, cut.detail) for cut in cuts)

    rows = len(examples) + len(bad)
    refused = [row for row in bad if (on_too_long if row.reason in TOO_LONG else on_bad_rows) == "refuse"]
    if refused:
        raise BadRowsError(RowReport(name, rows, rows - len(refused), tuple(refused)))
    report = RowReport(name, rows, len(examples), tuple(bad), tuple(truncated), tuple(repeated))
    for line in report.lines():
        log(line)
    for column in sorted(unread):
        log(f"{name}: the column {column} does not reach the prompt, which is plain text and has no chat template")
    if not examples:
        raise ValueError(f"{name}: none of {rows} rows is left" if rows else f"{name}: is empty: it has no row")
    return examples, report
