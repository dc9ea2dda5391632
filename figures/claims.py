"""Verdicts: what a claim says, how large its effect was, and what that does and does not show."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sims.statistics.intervals import Interval, verdict

from .catalogue import Claim, Setting

RULE = (
    "Supported: the 95 % interval of the effect lies wholly where the claim puts it, beyond its margin on one side, or",
    "within the margins if the claim is that there is no effect. Refuted, of an effect: wholly on the other side of 0,",
    "or wholly within the margins; of none: wholly outside them. Else inconclusive; and always so under 10 runs.",
)


@dataclass(frozen=True)
class Verdict:
    """One row of claims.json. note: a sentence on what it does not show, or on what would change it; claimed: where the
    claim puts its effect."""

    id: str
    setting: Setting
    verdict: str
    effect: float
    low: float
    high: float
    margin: float
    runs: int
    spec_hashes: list[str]
    figure: str
    command: str
    note: str
    claim: str
    measure: str
    unit: str
    part: str
    claimed: str = ""  # a row that an older version wrote has its margin alone
    computed: str = "live"  # or "committed", or "stale": what its records are (`figures.drawing.where_from`)
    agrees: bool | None = None  # whether live records agree with committed ones; None where there is nothing to compare

    @property
    def records(self) -> str:
        """What its records are, and whether those computed here agree with what is committed."""
        if self.agrees is None:
            return self.computed
        return f"{self.computed}, {'agree' if self.agrees else 'disagree'}"

    @property
    def wanted(self) -> str:
        """What its interval is held against, with the unit."""
        return f"{self.claimed or format(self.margin, 'g')} {self.unit}"


def row_of(claim: Claim, setting: Setting, effect: Interval, figure: str, hashes: Sequence[str], note: str) -> Verdict:
    """The row of a claim: what the rule of `sims.statistics.intervals.verdict` says of its effect."""
    return Verdict(
        id=claim.id,
        setting=setting,
        verdict=verdict(effect, claim.margin, claim.sign, claim.kind, effect.runs),
        effect=effect.estimate,
        low=effect.low,
        high=effect.high,
        margin=claim.margin,
        runs=effect.runs,
        spec_hashes=sorted(set(hashes)),
        figure=figure,
        command=f"python -m figures {figure}",
        note=note,
        claim=claim.text,
        measure=claim.effect,
        unit=claim.unit,
        part=claim.part,
        claimed=claim.claimed,
    )


def as_markdown(rows: Sequence[Verdict]) -> str:
    """claims.md: a table, then what each verdict means."""
    lines = [
        "# Claims",
        "",
        *RULE,
        "",
        "| claim | part | setting | verdict | effect | 95 % interval | claimed | runs | records | figure |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            row.id,
            row.part,
            row.setting,
            f"**{row.verdict}**",
            f"{row.effect:+.3f}",
            f"{row.low:+.3f} … {row.high:+.3f}",
        ]
        cells = [
            _plain(cell).replace("|", "\\|") for cell in [*cells, row.wanted, str(row.runs), row.records, row.figure]
        ]
        lines.append("| " + " | ".join(cells) + " |")
    for row in rows:
        said = [
            f"## {row.id} ({row.setting}, {row.part}): {row.verdict}",
            f"**Claim.** {row.claim}",
            f"**Effect.** {row.measure}",
            f"**What it does not show.** {row.note}",
            f"`{row.command}` · records {', '.join(row.spec_hashes[:8])}{' …' if len(row.spec_hashes) > 8 else ''}",
        ]
        for line in said:
            lines += ["", _plain(line)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """In one line, and without what Markdown takes for a tag; "< −0.1" is none."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.split()))


def write_claims(rows: Sequence[Verdict], folder: Path) -> None:
    """claims.json and claims.md, merged with the rows that other figures wrote before.

    Those keep fields that this version does not know, so that an older one takes nothing from a newer one's rows.
    """
    path = folder / "claims.json"
    renewed = {row.figure for row in rows}
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    merged = sorted(
        [row for row in old if row["figure"] not in renewed] + [asdict(row) for row in rows],
        key=lambda row: (row["id"], row["setting"], row["figure"], row["part"]),
    )
    write_text(path, json.dumps(merged, indent=1) + "\n")
    known = {field.name for field in fields(Verdict)}
    write_text(
        folder / "claims.md",
        as_markdown([Verdict(**{name: row[name] for name in row.keys() & known}) for row in merged]),
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
