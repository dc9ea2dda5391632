"""Verdicts: what a claim says, how large its effect was, and what that does and does not show."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sims.experiments.whole import written_whole
from sims.statistics.gates import RUNS_AT_A_BOUND, Gate
from sims.statistics.intervals import Interval
from sims.statistics.verdicts import FALSE_DISCOVERIES, outcome, p_value, survive, theorem

from .catalogue import Claim, Setting
from .tables import read_tables

RULE = (
    "Supported: the 95 % interval of the effect lies wholly beyond the margin, on the claimed side; of a claim of no",
    "effect: wholly within the margins; of a claim of at most the margin, as that nothing is lost: wholly at or below",
    "it. Opposite: wholly beyond the margin on the other side; of none: wholly outside the margins. Too small: the",
    "interval's end on the claimed side is at or below the margin, and it is not opposite. Inconclusive: everything",
    "else, anything under 10 runs, and what comes out otherwise when run again (fragile). No test: a gate is closed,",
    "so that the effect could not have come out otherwise, or is not about the claim. Theorem: an identity or a",
    "proof, checked on random instances; it has no interval. Rows that are no test, and theorems, are no answers from",
    "data.",
)


@dataclass(frozen=True)
class Verdict:
    """One row of claims.json. verdict: its state (`sims.statistics.verdicts`); why: in a sentence. low, high: None for
    a theorem. note: a sentence on what it does not show, or on what would change it; claimed: where the claim puts its
    effect. gates: every one that was checked. p: of the boundary that the state turns on; survives: whether the row
    does at a false discovery rate of 5 % over all tested rows; None for both where nothing is tested."""

    id: str
    setting: Setting
    verdict: str
    effect: float
    low: float | None
    high: float | None
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
    why: str = ""
    gates: tuple[Gate, ...] = ()
    p: float | None = None
    survives: bool | None = None

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


def row_of(
    claim: Claim,
    setting: Setting,
    effect: Interval,
    figure: str,
    hashes: Sequence[str],
    note: str,
    gates: Sequence[Gate] = (),
) -> Verdict:
    """The row of a claim: what the rule of `sims.statistics.verdicts` says of its effect and its gates."""
    if claim.kind == "theorem":
        raise ValueError(f"{claim.id}, {claim.part}: is a theorem: must be checked by theorem_of, and has no interval")
    found = outcome(effect, claim.margin, claim.sign, claim.kind, gates)
    if _few_at_a_bound(effect, gates):
        note += (
            f" Some of the {effect.runs} runs are at a bound, where {RUNS_AT_A_BOUND} are asked for: the interval "
            "allows for runs that were not seen, and is as much wider."
        )
    p = None if found.state == "no test" else p_value(effect, claim.margin, claim.sign, claim.kind)
    return Verdict(
        **_named(claim, setting, figure, hashes, note),
        verdict=found.state,
        effect=effect.estimate,
        low=effect.low,
        high=effect.high,
        runs=effect.runs,
        why=found.why,
        gates=found.gates,
        p=p,
    )


def _few_at_a_bound(effect: Interval, gates: Sequence[Gate]) -> bool:
    """Whether an interval is a bounded one, of fewer runs than are asked for at a bound, and no gate says so."""
    asked = "runs at a bound" in {gate.name for gate in gates}
    return "Gaffke" in effect.method and effect.runs < RUNS_AT_A_BOUND and not asked


def theorem_of(
    claim: Claim, setting: Setting, errors: Sequence[float], figure: str, hashes: Sequence[str], note: str
) -> Verdict:
    """The row of an identity or a proof. errors: one for each random instance, at most the claim's margin."""
    worst = float(np.max(errors))  # NaN if one is
    found = theorem(worst, claim.margin, len(errors))
    row = _named(claim, setting, figure, hashes, note)
    return Verdict(**row, verdict=found.state, effect=worst, low=None, high=None, runs=len(errors), why=found.why)


def _named(claim: Claim, setting: Setting, figure: str, hashes: Sequence[str], note: str) -> dict[str, Any]:
    """What is known of a row before its effect."""
    return {
        "id": claim.id,
        "setting": setting,
        "margin": claim.margin,
        "spec_hashes": sorted(set(hashes)),
        "figure": figure,
        "command": f"python -m figures {figure}",
        "note": note,
        "claim": claim.text,
        "measure": claim.effect,
        "unit": claim.unit,
        "part": claim.part,
        "claimed": claim.claimed,
    }


def as_markdown(rows: Sequence[Verdict]) -> str:
    """claims.md: a table, then what each verdict means."""
    lines = [
        "# Claims",
        "",
        *RULE,
        "",
        "p is two-sided, of the boundary that the state turns on; * survives Benjamini and Hochberg's correction, at a",
        f"false discovery rate of {FALSE_DISCOVERIES:.0%} over all tested rows here.",
        "",
        "| claim | part | setting | verdict | effect | 95 % interval | p | claimed | runs | records | figure |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            row.id,
            row.part,
            row.setting,
            f"**{row.verdict}**",
            f"{row.effect:+.3g}" if row.low is None else f"{row.effect:+.3f}",
            "–" if row.low is None else f"{row.low:+.3f} … {row.high:+.3f}",
            _said(row),
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
            *([f"**Why.** {row.why}"] if row.why else []),
            f"**What it does not show.** {row.note}",
            f"`{row.command}` · records {', '.join(row.spec_hashes[:8])}{' …' if len(row.spec_hashes) > 8 else ''}",
        ]
        for line in said:
            lines += ["", _plain(line)]
    return "\n".join(lines) + "\n"


def _said(row: Verdict) -> str:
    """p, with a star where the row survives the correction for many rows; – where nothing was tested."""
    return "–" if row.p is None else f"{row.p:.2g}{'*' if row.survives else ''}"


def _plain(text: str) -> str:
    """In one line, and without what Markdown takes for a tag; "< −0.1" is none."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.split()))


def write_claims(rows: Sequence[Verdict], folder: Path) -> None:
    """claims.json and claims.md, merged with the rows that other figures wrote before.

    Those keep fields that this version does not know, so that an older one takes nothing from a newer one's rows. All
    tested rows that are then there are one family for the correction for many rows.
    """
    path = folder / "claims.json"
    renewed = {row.figure for row in rows}
    needed = [field.name for field in fields(Verdict) if field.default is MISSING]
    old = read_tables(path, needed)
    merged = sorted(
        [row for row in old if row["figure"] not in renewed] + [asdict(row) for row in rows],
        key=lambda row: (row["id"], row["setting"], row["figure"], row["part"]),
    )
    tested = [row for row in merged if row.get("p") is not None]
    for row, survives in zip(tested, survive([row["p"] for row in tested]), strict=True):
        row["survives"] = bool(survives)
    write_text(path, json.dumps(merged, indent=1) + "\n")
    known = {field.name for field in fields(Verdict)}
    write_text(
        folder / "claims.md",
        as_markdown([Verdict(**{name: row[name] for name in row.keys() & known}) for row in merged]),
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with written_whole(path) as new:
        new.write_text(text, encoding="utf-8")
