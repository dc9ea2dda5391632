"""Figures: they draw, they say what they drew, and they judge by the rule."""

import html
import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from figures.__main__ import main, parser, run
from figures.catalogue import Claim
from figures.claims import as_markdown, row_of, write_claims
from figures.committed import Tuned
from figures.figure import Records, all_figures
from figures.lab import FINAL_RUNS, FINAL_SEED, TUNING_SEED, Lab, product
from figures.report import page as report
from figures.report.style import COLOURS, colour
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import TokenTree
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, kl_of_best_response, scores
from sims.experiments.store import Record, Store
from sims.policies import Table
from sims.statistics.intervals import mean_interval


def arm(**changes: object) -> Experiment:
    chosen = Experiment("arm", TokenTree(), Table(), find_algorithm("rloo")(), Schedule(batch_size=4))
    return chosen.replace(updates=10, evaluations=2, runs=3, **changes)


def record(reward: list[list[float]], **arrays: object) -> Record:
    """Two responses with rewards 0.2 and 1, reference (0.5, 0.5)."""
    runs = len(reward)
    base = {
        "reward": np.full((runs, len(reward[0])), np.nan),  # what the learner saw: no score looks at it
        "gold": np.array(reward),
        "reference_reward": np.full(runs, 0.6),
        "best_reward": np.full(runs, 1.0),
        "rewards": np.array([[0.2, 1.0]]),
        "logp_ref": np.log(np.full((runs, 1, 2), 0.5)),
        "diverged_at": np.full(runs, -1),
        "updates": np.arange(len(reward[0])),
    }
    return Record({}, base | {name: np.asarray(x) for name, x in arrays.items()}, {})


def test_scores_by_hand() -> None:
    found = scores(record([[0.6, 0.8, 1.0], [0.6, 0.4, 0.6]]))
    assert found == pytest.approx(np.array([[0.0, 0.5, 1.0], [0.0, -0.5, 0.0]]))  # (r − 0.6) / (1 − 0.6)


def test_a_diverged_run_scores_0_from_then_on() -> None:
    found = scores(record([[0.6, 0.8, 1.0]], diverged_at=[2]))
    assert found == pytest.approx(np.array([[0.0, 0.5, 0.0]]))


def test_the_kl_of_the_best_response_by_hand() -> None:
    assert kl_of_best_response(record([[0.6]])) == pytest.approx(math.log(2))  # −log 0.5


def test_tuning_runs_never_judge_and_budgets_are_equal(tmp_path: Path) -> None:
    lab = Lab(Store(tmp_path))
    grids = {"a": product(learning_rate=(1e-4, 0.3)), "b": product(learning_rate=(0.01, 0.1))}
    found = lab.tuned_records({"a": arm(), "b": arm(seed=5)}, grids, tuning_runs=2)
    assert [found[name].spec["seed"] for name in "ab"] == [0, 5]
    seeds = {json.loads(p.read_text())["seed"] for p in tmp_path.glob("arm-tuning-*/spec.json")}
    assert seeds == {TUNING_SEED}
    tuned = {t.arm: t for t in lab.tuned}
    assert len(tuned["a"].scores) == 2 and tuned["a"].chosen == int(np.argmax(tuned["a"].scores))
    chosen = found["a"].spec["optimiser"]["learning_rate"]
    assert chosen == tuned["a"].points[tuned["a"].chosen]["learning_rate"] == 0.3
    with pytest.raises(ValueError, match="unequal size"):
        lab.tuned_records({"a": arm(), "b": arm()}, grids | {"b": product(learning_rate=(0.1,))})


def test_finalists_are_run_again_on_another_seed_and_decide_alone(tmp_path: Path, monkeypatch) -> None:
    """Of four rates the first round's luckiest is the second best of the last."""
    first, last = {0.1: 0.75, 0.2: 0.5, 0.3: float("nan"), 0.4: 0.25}, {0.1: 0.5, 0.2: 0.625}

    def told(record: Record) -> np.ndarray:
        rate, seed = record.spec["optimiser"]["learning_rate"], record.spec["seed"]
        return np.full(record.spec["runs"], (first if seed == TUNING_SEED else last)[rate])

    monkeypatch.setattr("figures.lab.final_scores", told)
    lab, grid = Lab(Store(tmp_path)), product(learning_rate=tuple(first))
    found = lab.tuned_records({"a": arm()}, {"a": grid}, tuning_runs=2, finalists=2)["a"]
    assert lab.tuned == [Tuned("a", grid, [0.75, 0.5, -math.inf, 0.25], 2, 1, [(0, 0.5), (1, 0.625)], FINAL_RUNS)]
    assert (found.spec["optimiser"]["learning_rate"], found.spec["seed"], found.spec["runs"]) == (0.2, 0, arm().runs)
    specs = [json.loads(path.read_text()) for path in tmp_path.glob("arm-tuning-*/spec.json")]
    assert sorted((s["seed"], s["runs"]) for s in specs) == [(TUNING_SEED, 2)] * 4 + [(FINAL_SEED, FINAL_RUNS)] * 2


def test_a_figure_is_drawn_while_the_next_is_computed(tmp_path: Path) -> None:
    computing, waited = threading.Event(), []

    def draw(records: Records) -> MatplotlibFigure:
        waited.append(computing.wait(3600))  # one after the other, it would wait in vain
        return MatplotlibFigure()

    def collect(lab: Lab) -> Records:
        computing.set()
        return {}

    some = all_figures()["kl_dynamics"]
    first = replace(some, collect=lambda lab: {}, draw=draw, caption=lambda records: "first")
    second = replace(first, name="second", collect=collect)
    assert len(run([first, second], parser().parse_strictly(["--quick"]), tmp_path)) == 2
    assert waited == [True, True]
    assert (tmp_path / "kl_dynamics.png").exists() and (tmp_path / "second.png").exists()


def test_a_drawing_that_fails_is_told(tmp_path: Path) -> None:
    def draw(records: Records) -> MatplotlibFigure:
        raise ZeroDivisionError

    broken = replace(all_figures()["kl_dynamics"], collect=lambda lab: {}, draw=draw)
    with pytest.raises(ZeroDivisionError):
        run([broken], parser().parse_strictly(["--quick"]), tmp_path)


def test_quick_runs_are_other_records(tmp_path: Path) -> None:
    found = Lab(Store(tmp_path), quick=True).records({"a": arm()})["a"]
    assert (found.spec["runs"], found.spec["updates"], found.spec["name"]) == (4, 1, "arm-quick")
    assert Lab(Store(tmp_path), runs=2).records({"a": arm()})["a"].spec["runs"] == 2


def test_claims_are_merged_by_figure_and_written_whole(tmp_path: Path) -> None:
    claim = Claim("C99", "part", "Something matters.", "a − b", margin=0.1)
    rows = [row_of(claim, "bandit", mean_interval(np.linspace(0.4, 0.6, 20)), name, ["h"], "n.") for name in ("f", "g")]
    write_claims(rows, tmp_path)
    write_claims([row_of(claim, "bandit", mean_interval(np.linspace(-0.01, 0.01, 20)), "f", ["h"], "n.")], tmp_path)
    found = {row["figure"]: row for row in json.loads((tmp_path / "claims.json").read_text())}
    assert {name: row["verdict"] for name, row in found.items()} == {"f": "refuted", "g": "supported"}
    columns = {"id", "setting", "verdict", "effect", "low", "high", "margin", "runs", "spec_hashes", "figure"}
    assert columns | {"command", "note"} <= set(found["f"])
    assert "| C99 | part | bandit | **refuted** |" in (tmp_path / "claims.md").read_text()
    assert as_markdown(rows).count("## C99") == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "claimed"), [({}, "> 0.1"), ({"sign": -1}, "< −0.1"), ({"kind": "none"}, "within ±0.1")]
)
def test_a_table_says_where_a_claim_puts_its_effect(changes: dict[str, object], claimed: str, tmp_path: Path) -> None:
    """+0.05 within a margin of 0.1 refutes a claim of an effect, and supports a claim of none."""
    claim = Claim("C99", "part", "Something matters.", "a − b", margin=0.1, **changes)
    row = row_of(claim, "bandit", mean_interval(np.linspace(0.04, 0.06, 20)), "f", ["h"], "n.")
    assert row.verdict == ("supported" if claim.kind == "none" else "refuted")
    write_claims([row], tmp_path)
    report.write(tmp_path)
    assert f"| {claimed} score |" in (tmp_path / "claims.md").read_text()
    assert f">{html.escape(claimed)} score<" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", all_figures())
def test_every_figure_runs_quick_and_draws(name: str, tmp_path: Path) -> None:
    assert main([name, "--quick", "--jobs", "1", "--results", str(tmp_path / "r"), "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / f"{name}.json").read_text())
    assert data["spec_hashes"]
    with Image.open(tmp_path / f"{name}.png") as image:
        assert all(h in image.text["Description"] for h in data["spec_hashes"])
    svg = (tmp_path / f"{name}.svg").read_text()
    assert data["spec_hashes"][0] in svg
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page and "<script" not in page and "://" not in page  # base64 has no colon
    assert not (tmp_path / "claims.json").exists()  # four runs judge nothing


def test_the_report_reads_what_lies_there(tmp_path: Path) -> None:
    report.write(tmp_path)
    assert "No verdicts" in (tmp_path / "report.html").read_text()


def test_unknown_figures_and_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for line, message in (
        (["no_such_figure"], "must be one of"),
        (["onlin_offline"], "did you mean online_offline?"),
        (["--out", __file__], "must be a folder"),
        (["--results", f"{__file__}/below"], "must be a folder"),
        (["--jobs", "0"], "jobs = 0: must be int >= 1"),
        (["--runs", "1"], "runs = 1: must be int >= 2"),
        (["--quick", "--keep"], "only full runs are kept"),
    ):
        assert main(line) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        main(["--quik"])
    assert stop.value.code == 2 and "did you mean --quick?" in capsys.readouterr().err


def test_listing_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "online_offline" in capsys.readouterr().out


def test_an_algorithm_has_one_colour_and_no_two_share_it() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert colour("dpo") == COLOURS["dpo"]
    assert colour("no_colour_yet") == colour("no_colour_yet") not in COLOURS.values()


def test_final_scores_are_the_last_point() -> None:
    assert final_scores(record([[0.6, 0.8]])) == pytest.approx([0.5])
