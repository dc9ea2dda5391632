"""The catalogue of claims: what it holds, what it refuses, and that figures agree with it."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from figures.__main__ import main
from figures.catalogue import NOT_TESTED, CatalogueError, catalogue, claim, row, table
from figures.figure import all_figures
from figures.gallery import (
    batch_size,
    beta_sweep,
    chosen_likelihood,
    gradient_variance,
    lm_batch_and_reuse,
    online_offline,
    reference_shift,
    sample_reuse,
    unseen_responses,
)

GOOD = """
[[claim]]
id = "C99"
text = "Something matters."
source = "somebody"
test = "try it"
refuted_if = "it does not"

[[claim.row]]
part = "here"
figure = "kl_dynamics"
settings = ["bandit"]
effect = "a − b at {mass}"
kind = "effect"
sign = -1
margin = 0.1
unit = "score"
history = [{ date = 2026-01-31, change = "first catalogued" }]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "claims.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = row("C99", "here", write(tmp_path, GOOD))
    assert (found.claim.text, found.claim.claimed, found.figure) == ("Something matters.", "< −0.1", "kl_dynamics")
    assert found.history[0].change == "first catalogued"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "C99"\n', "", "a [[claim]] without an id: id: is missing"),
        ('source = "somebody"\n', "", "C99: source: is missing: must have id, source, test, text"),
        ('test = "try it"', 'tset = "try it"', "C99: test: is missing"),
        ('refuted_if = "it does not"\n', "", "C99: must have either refuted_if or against"),
        ('unit = "score"\n', "", "C99, here: unit: is missing"),
        ("sign = -1\n", "", "C99, here: sign: is missing"),
        ("sign = -1", "sign = 2", "C99, here: sign = 2: must be +1 or -1"),
        ('kind = "effect"', 'kind = "none"', "C99, here: sign: is not a field"),  # of none there is no claimed side
        ('kind = "effect"', 'kind = "nothing"', "C99, here: kind = 'nothing': must be one of effect, none"),
        ("margin = 0.1", "margin = 0", "C99, here: margin = 0: must be a number above 0"),
        ("margin = 0.1", "margin = inf", "C99, here: margin = inf: must be a number above 0"),
        ("margin = 0.1", 'margin = "0.1"', "C99, here: margin = '0.1': must be a number above 0"),
        ('["bandit"]', '["bandits"]', "C99, here: settings: 'bandits': must be of bandit, mlp, token, lm"),
        ('["bandit"]', "[]", "C99, here: settings: None: must be of bandit"),
        ('{ date = 2026-01-31, change = "first catalogued" }', "", "C99, here: history: must have a line"),
        (", change =", ", what =", "C99, here, history: change: is missing"),
        ("\n[[claim.row]]", "\nrows = 1\n[[claim.row]]", "C99: rows: is not a field"),
        ("[[claim]]", "[claim", "claims.toml: is not TOML"),
        ("\n[[claim]]", GOOD + "\n[[claim]]", "C99: stands twice"),
        (
            "first catalogued",
            'x" }, { date = 2025-01-01, change = "y',
            "C99, here: history: must have the newest line last",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(CatalogueError) as error:
        catalogue(write(tmp_path, GOOD.replace(old, new, 1)))
    assert str(error.value).startswith(message) and "\n" not in str(error.value).strip()


def test_a_part_stands_once(tmp_path: Path) -> None:
    twice = GOOD + GOOD[GOOD.index("[[claim.row]]") :]
    with pytest.raises(CatalogueError, match="C99: part = 'here': stands twice"):
        catalogue(write(tmp_path, twice))


def test_a_look_up_that_finds_nothing_says_what_there_is() -> None:
    with pytest.raises(CatalogueError, match=r"claim = 'C100': must be in claims.toml; did you mean C10\?$"):
        claim("C100", "here")
    with pytest.raises(CatalogueError, match=r"C06: part = 'slop': must be .*: 'near and far'"):
        claim("C06", "slop")
    untested = next(entry.id for entry in catalogue().values() if not entry.rows)
    with pytest.raises(CatalogueError, match=rf"{untested}: part = 'here': must be .*: not tested yet"):
        claim(untested, "here")


def test_the_braces_of_an_effect_are_filled_and_nothing_else() -> None:
    found = claim("C49", "against offline DPO, rare", masses="0.001, 1e-06")
    assert found.effect.endswith("reference masses 0.001, 1e-06")
    with pytest.raises(CatalogueError, match="words given for none: must be for the braces in its effect: masses"):
        claim("C49", "against offline DPO, rare")
    with pytest.raises(CatalogueError, match="words given for mass: must be for the braces in its effect: none"):
        claim("C06", "near and far", mass="0.1")


def test_every_claim_is_there_once_and_in_order() -> None:
    numbered = [id for id in catalogue() if id[1:].isdigit()]
    assert numbered == [f"C{number:02}" for number in range(1, len(numbered) + 1)]
    assert {"toy→lm", "audit"} < set(catalogue())


def test_figures_and_catalogue_name_the_same_claims() -> None:
    """A figure names the ids that it tests; the catalogue names the figure of each row."""
    tested: dict[str, set[str]] = {name: set() for name in all_figures()}
    for entry in catalogue().values():
        for found in entry.rows:
            assert found.figure in tested, f"{entry.id}, {found.claim.part}: figure = {found.figure!r}"
            tested[found.figure].add(entry.id)
    assert tested == {name: set(figure.claims) for name, figure in all_figures().items()}


def test_what_an_effect_says_is_what_its_figure_runs() -> None:
    """The catalogue is words: where it gives a number of a figure, the figure has that number."""

    def says(id: str, part: str, *words: object) -> None:
        effect = row(id, part).claim.effect
        for word in words:
            assert str(word) in effect, f"{id}, {part}: {word} is not in {effect!r}"

    def listed(numbers: object) -> str:
        return ", ".join(f"{x:g}" for x in numbers)  # type: ignore[attr-defined]

    for tilt, coverage in itertools.product(unseen_responses.TILTS, unseen_responses.COVERAGES):
        cell = f"{tilt}, coverage {coverage:g}"
        says("C03", f"at one loss, reference: {cell}", cell)
        says("C03", f"at the end, reference: {cell}", cell, f"after {unseen_responses.UPDATES} updates")
    says("C06", "near and far", f"shift {reference_shift.FAR:g}", f"at {reference_shift.NEAR:g})")
    says("C07", "under shift", f"shift {reference_shift.FAR:g};")
    for name in online_offline.ALGORITHMS:
        unlikely, likely = online_offline.UNLIKELY, online_offline.LIKELY
        short = ", short runs" * (name in online_offline.SHORT)
        says("C25", f"{name}: overlap axis{short}", f"overlap {unlikely:g}", f"at {likely:g})", f"{name}: ")
        if short:
            says("C25", f"{name}: R1 against R2{short}", f"over {online_offline.SHORT_UPDATES} updates")
    says("C22", "network, many against few, third nat", chosen_likelihood.MANY, chosen_likelihood.FEW)
    says("C26", "R1, 2,048 samples", f"B = {batch_size.FRESH:g}", f"B = {batch_size.STALE:,.0f}")
    says("C29", "R1, equal samples", listed(sample_reuse.MODERATE))
    says("C30", "R1, equal samples", f"at {sample_reuse.MANY})")
    says("C30", "min length", f"at {lm_batch_and_reuse.PASSES[-1]})")
    for size in gradient_variance.TESTED:
        says("C50", f"RLOO against a perfect critic, K = {size}", f"groups of {size},")
    for end, beta in beta_sweep.ENDS.items():
        says(
            "C51",
            f"reinforcement, learned reward: too {end}, learning rate tuned for each β",
            f"at β = {beta:g};",
        )


def test_it_is_read_without_torch() -> None:
    code = (
        "import sys, figures.catalogue as c; c.catalogue(); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_the_table_has_every_claim_and_the_states_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    path.write_text(json.dumps([{"id": "C06", "part": "near and far", "setting": "mlp", "verdict": "opposite"}]))
    lines = table(path).splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(catalogue())
    slope = next(line for line in lines if "reference_shift" in line and "near and far" in line)
    assert slope.endswith("near and far [> 0.05 score] bandit: no verdict here, mlp: opposite")
    untested = next(entry.id for entry in catalogue().values() if not entry.rows)
    assert lines[lines.index(next(line for line in lines if line.startswith(untested))) + 1].strip() == NOT_TESTED


def test_the_command_prints_it_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--claims", "--out", str(tmp_path / "out")]) == 0
    assert "C89" in capsys.readouterr().out and not (tmp_path / "out").exists()
