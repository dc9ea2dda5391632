"""Does copying the reference keep responses long on the language model? (C36) Rows and picture of
`figures.gallery.lm_sync_period`, at two β: by the smaller a reference may be too weak to move anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from figures.catalogue import claim
from figures.claims import Verdict, row_of
from figures.figure import Records
from figures.report.style import bound, points
from sims.statistics.gates import Gate, placebo, positive_control
from sims.statistics.intervals import mean_interval

from .collapsing import first_copy, lost_since, measured, preventable

BETAS = {"": 0.1, "strong/": 1.0}  # DPO's, by what stands before the names of its arms
LENGTH = {
    beta: claim("C36", f"DPO, forbidden words, s = 5{'' if beta == 0.1 else f', β = {beta:g}'}")
    for beta in BETAS.values()
}
MARGIN = LENGTH[0.1].margin


def words(kind: str) -> tuple[str, str]:
    """The arms with a fixed and with a copied reference. kind: "" or "strong/"."""
    start = kind or "more/"
    return f"{start}semi", f"{start}copied"


def coin(kind: str) -> tuple[str, str]:
    """The same by labels that say nothing."""
    return f"{kind}coin/semi", f"{kind}coin/copied"


def silent(records: Records, kind: str, period: float) -> tuple[int, Gate]:
    """The last evaluation at which copying the reference makes no difference by labels that say nothing, and the gate
    there; if none, the last one of all. Until the first copy, after `period` updates, both arms are one."""
    fixed, copied = (records[name] for name in coin(kind))
    last = len(fixed.arrays["updates"]) - 1
    gates = {
        at: placebo(mean_interval(measured(copied, "length", at) - measured(fixed, "length", at)), MARGIN)
        for at in range(last, min(first_copy(fixed.arrays["updates"], period), last - 1), -1)
    }
    at = next((at for at, gate in gates.items() if gate.open), last)
    return at, gates[at]


def holds(records: Records, at: int) -> Gate:
    """Whether a reference moves lengths at all in these updates: a fixed one at ten times the β against that at β."""
    weak, strong = (measured(records[words(kind)[0]], "length", at) for kind in BETAS)
    low, high = BETAS.values()
    found = positive_control(mean_interval(strong - weak), MARGIN, only_above=True)
    return replace(
        found, name="sensitivity", why=f"tokens more with β = {high:g} than {low:g}, fixed reference: {found.why}"
    )


def length_rows(records: Records, figure: str, period: float, settings: str) -> list[Verdict]:
    """C36 at each β. settings: a sentence that ends the notes."""
    rows = []
    for kind, beta in BETAS.items():
        fixed, copied = (records[name] for name in words(kind))
        at, quiet = silent(records, kind, period)
        since = lost_since(fixed, period, at)
        end = mean_interval(measured(copied, "length") - measured(fixed, "length"))
        note = (
            f"Tested after {int(fixed.arrays['updates'][at])} updates, the last evaluation at which the placebo is "
            "silent: labels that are flipped with probability ½ and say nothing of length. Of up to 13 tokens .45 of "
            f"the reference's responses are right, of 19 or more .08. Since the first copy, when the arms part, a "
            f"fixed reference loses {since.estimate:+.1f} tokens: what is not lost, copying cannot prevent. "
            "The gate of sensitivity is to β: it shows that the reference moves lengths, not that a copy of it would. "
            f"At the end, after {int(fixed.arrays['updates'][-1])} updates, where the placebo is not silent, "
            f"{end.estimate:+.2f} [{end.low:+.2f}, {end.high:+.2f}]. {settings}"
        )
        effect = mean_interval(measured(copied, "length", at) - measured(fixed, "length", at))
        gates, hashes = [preventable(fixed, period, at, MARGIN), holds(records, at), quiet], [copied.hash, fixed.hash]
        rows.append(row_of(LENGTH[beta], "lm", effect, figure, hashes, note, gates))
    return rows


def draw_lengths(axes: Axes, records: Records, period: float) -> None:
    """Tokens with a fixed and with a copied reference, by β and by labels."""
    ticks = []
    for i, (kind, beta) in enumerate(BETAS.items()):
        at, _ = silent(records, kind, period)
        for filled, names in ((True, words(kind)), (False, coin(kind))):
            found = [measured(records[name], "length", at) for name in names]
            points(axes, 2 * i + np.arange(2) + (0.08 if filled else -0.08), found, "dpo", filled)
        after = int(records[words(kind)[0]].arrays["updates"][at])
        ticks += [f"β = {beta:g}\nfixed", f"β = {beta:g}, copied\n({after} updates)"]
    bound(axes, float(records["more/semi"].arrays["length"][:, 0].mean()), "at the start", x=0.5)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(title="reference; filled: forbidden words, open: labels of a coin", ylabel="tokens before EOS")
    axes.set_xlim(-0.5, len(ticks) - 0.5)
