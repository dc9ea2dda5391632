"""One thing changed: what can be, what it does to an arm, and verdicts beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from figures.__main__ import main, parser
from figures.catalogue import row
from figures.claims import row_of
from figures.figure import Figure
from figures.lab import Lab
from figures.what_if import SENSITIVITY, Change, _chosen, apply, compare
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import BanditR1, BanditR2
from sims.experiments.computation import Computation
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.record_file import Record
from sims.experiments.store import Store
from sims.policies import Table
from sims.statistics.intervals import paired_effect

ARMS = {
    name: Experiment(f"what-if-{name}", environment(), Table(), algorithm, updates=4, evaluations=2, runs=12)
    for name, environment, algorithm in (("R1", BanditR1, DPO(beta=0.1)), ("R2", BanditR2, RLOO()))
}
CLAIM = row("C25", "rloo: R1 against R2").claim


def verdicts(records: Mapping[str, Record]) -> list:
    effect = paired_effect(*(final_scores(records[name]) for name in ARMS))
    return [row_of(CLAIM, "bandit", effect, "online_offline", [r.hash for r in records.values()], "n.")]


SMALL = Figure(
    name="online_offline",  # under which the catalogue has the row
    title="t",
    tags=(),
    claims=("C25",),
    collect=lambda lab: lab.records(ARMS),  # type: ignore[arg-type]
    draw=lambda r: None,  # type: ignore[arg-type,return-value]
    verdicts=verdicts,
    caption=lambda r: "",
)


@pytest.mark.parametrize(
    "text, message",
    [
        ("beta", "must be part.field=value"),
        ("algorithm.beta=", "must be part.field=value"),
        ("algorithm.bta=1", "did you mean beta"),
        ("algoritm.beta=1", "must name a part"),
        ("updates=many", "updates = 'many': must be int"),
        ("update=3", "did you mean updates"),
        ("algorithm.beta=x", "must multiply by a number"),
        ("schedule.sync_every_updates=often", "sync_every_updates = 'often'"),
    ],
)
def test_what_cannot_be_changed_is_refused_in_a_line(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpecError, match=message):
        Change.parse(text)
    assert main(["C25", "--set", text]) == 2
    assert message in capsys.readouterr().err


def changed(arm: Experiment, *texts: str) -> Experiment:
    return apply([Change.parse(text) for text in texts], arm)


def test_a_change_is_made_to_the_arms_that_have_the_setting() -> None:
    assert changed(ARMS["R1"], "algorithm.beta=0.3") == ARMS["R1"].replace(algorithm=DPO(beta=0.3))
    twice = changed(ARMS["R1"], "optimiser.learning_rate=x2")
    assert twice.optimiser.learning_rate == 2 * ARMS["R1"].optimiser.learning_rate
    assert changed(ARMS["R2"], "algorithm.label_smoothing=0.1") == ARMS["R2"]
    assert changed(ARMS["R1"], "schedule.sync_every_updates=inf").schedule.sync_every_updates == float("inf")


def test_changes_that_are_possible_only_together_are_made_in_any_order() -> None:
    captured = ARMS["R1"].replace(computation=Computation(device="cuda", capture=True))
    texts = ("computation.capture=true", "computation.device=cuda")
    assert changed(ARMS["R1"], *texts) == changed(ARMS["R1"], *reversed(texts)) == captured
    assert changed(captured, "computation.capture=false", "computation.device=cpu") == ARMS["R1"]
    assert changed(ARMS["R1"], "algorithm.beta=0.3", "algorithm.beta=x2").algorithm.beta == 0.6  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match=r"capture = 'yes': must be bool"):
        Change.parse("computation.capture=yes")


def test_updates_stay_whole_batches() -> None:
    reused = ARMS["R1"].replace(schedule=Schedule(batch_size=64, minibatch_size=16), updates=8)
    assert changed(reused, "updates=x0.6").updates == 8  # 4.8 becomes 5, of which 4 are a batch
    assert changed(ARMS["R1"].replace(updates=1, evaluations=1), "updates=x0.5").updates == 1


def test_every_change_of_the_stated_grid_can_be_made() -> None:
    every = {text: changed(ARMS["R1"], text) for text in SENSITIVITY}
    assert all(arm != ARMS["R1"] for arm in every.values()), every


def test_rows_of_a_named_claim() -> None:
    rows = [row_of(CLAIM, "bandit", paired_effect([1.0] * 12, [0.0] * 12), "f", [], "")]
    assert _chosen(rows, {"C25"}) == rows and _chosen(rows, {"C26"}) == []
    assert _chosen(rows, set()) == _chosen(rows, {"online_offline"}) == rows


def test_verdicts_beside_the_published_ones(tmp_path: Path) -> None:
    options = parser().parse_args(
        ["C25", "--results", str(tmp_path), "--set", "updates=x2", "--margin", "9", "--jobs", "1"]
    )
    lines = list(compare([SMALL], options))
    assert len(lines) == 3 and "published" in lines[1] and f"margin {CLAIM.margin:g}" in lines[1]
    assert "updates=x2" in lines[2] and "margin 9, 12 runs" in lines[2] and "too small" in lines[2]
    plain = {name: final_scores(record).mean() for name, record in Lab(Store(tmp_path)).records(ARMS).items()}
    assert f"{plain['R1'] - plain['R2']:+.3f}" in lines[1]
