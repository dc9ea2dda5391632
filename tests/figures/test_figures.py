"""Figures: they draw, they say what they drew, and they give verdicts by the rule."""

import contextlib
import html
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image
from scipy.optimize import LinearConstraint, milp

from figures import committed, drawing, plan
from figures.__main__ import main, parser
from figures.arms import language_model
from figures.catalogue import Claim
from figures.claims import Verdict, as_markdown, row_of, theorem_of, write_claims
from figures.committed import Committed, Tuned, shrink
from figures.drawing import in_a_line, run, where_from
from figures.entries import choose, entries
from figures.figure import Records, all_figures
from figures.freshness import FILES, is_fresh, write_sums
from figures.lab import FINAL_RUNS, FINAL_SEED, MEASURES, TUNING_SEED, Compared, Lab, product
from figures.plan import choose_live
from figures.report import page as report
from figures.report.style import COLOURS, colour
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments import TokenBandit, TokenTree
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores, kl_of_best_response, scores
from sims.experiments.store import Record, Store
from sims.policies import Table, Transformer
from sims.statistics.gates import Gate
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


def test_tuning_runs_never_test_and_budgets_are_equal(tmp_path: Path) -> None:
    lab = Lab(Store(tmp_path))
    grids = {"a": product(learning_rate=(1e-4, 0.3)), "b": product(learning_rate=(0.01, 0.1))}
    found = lab.tuned_records({"a": arm(), "b": arm(seed=5)}, grids, tuning_runs=2)
    assert [found[name].spec["seed"] for name in "ab"] == [0, 5]
    seeds = {spec["seed"] for spec in Store(tmp_path).specs().values() if spec["name"] == "arm-tuning"}
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

    monkeypatch.setitem(MEASURES, "end", told)
    lab, grid = Lab(Store(tmp_path)), product(learning_rate=tuple(first))
    found = lab.tuned_records({"a": arm()}, {"a": grid}, tuning_runs=2, finalists=2)["a"]
    assert lab.tuned == [Tuned("a", grid, [0.75, 0.5, -math.inf, 0.25], 2, 1, [(0, 0.5), (1, 0.625)], FINAL_RUNS)]
    assert (found.spec["optimiser"]["learning_rate"], found.spec["seed"], found.spec["runs"]) == (0.2, 0, arm().runs)
    specs = [spec for spec in Store(tmp_path).specs().values() if spec["name"] == "arm-tuning"]
    assert sorted((s["seed"], s["runs"]) for s in specs) == [(TUNING_SEED, 2)] * 4 + [(FINAL_SEED, FINAL_RUNS)] * 2


def test_of_settings_as_good_as_the_best_the_first_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plateau from 0.2 on, of which the largest rate is the luckiest; without a tolerance it is taken."""
    means = {0.1: 0.5, 0.2: 0.7265625, 0.3: 0.71875, 0.4: 0.75}  # exact as floats

    def told(record: Record) -> np.ndarray:
        return np.full(record.spec["runs"], means[record.spec["optimiser"]["learning_rate"]])

    monkeypatch.setitem(MEASURES, "end", told)
    grid = product(learning_rate=tuple(means))
    for tolerance, chosen in ((0.0, 0.4), (0.0234375, 0.2), (0.02, 0.4), (0.25, 0.1)):
        lab = Lab(Store(tmp_path))
        found = lab.tuned_records({"a": arm()}, {"a": grid}, tuning_runs=2, tolerance=tolerance)["a"]
        assert found.spec["optimiser"]["learning_rate"] == chosen
    with pytest.raises(ValueError, match="tolerance"):
        lab.tuned_records({"a": arm()}, {"a": grid}, tuning_runs=2, finalists=2, tolerance=0.1)


def quickly(*more: str, results: Path) -> object:
    return parser().parse_strictly(["--quick", "--jobs", "1", "--results", str(results), *more])


def test_figures_are_collected_together_and_each_is_drawn_when_it_has_its_own(tmp_path: Path) -> None:
    """The first is drawn while the second still asks; both ask before anything is run."""
    drawn, asked = threading.Event(), threading.Barrier(2)

    def draw(records: Records) -> MatplotlibFigure:
        drawn.set()
        return MatplotlibFigure()

    def collect_first(lab: Lab) -> Records:
        asked.wait()
        return lab.records({"x": arm()})

    def collect_second(lab: Lab) -> Records:
        asked.wait()
        drawn.wait()  # a test that hangs here has failed
        return lab.records({"x": arm(), "y": arm(seed=1)})

    some = all_figures()["kl_dynamics"]
    first = replace(some, collect=collect_first, draw=draw, caption=lambda records: "first")
    second = replace(first, name="second", collect=collect_second)
    assert len(run([first, second], quickly(results=tmp_path / "r"), tmp_path)) == 2
    assert (tmp_path / "kl_dynamics.png").exists() and (tmp_path / "second.png").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_report_is_written_once_for_figures_that_are_ready_together(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last one fails: what was drawn before it is in the report, and done."""
    pages, drawn, written = [], [], []

    class Known(drawing._Page):
        def __init__(self, out: Path) -> None:
            super().__init__(out)
            pages.append(self)

    def draw(records: Records) -> MatplotlibFigure:
        while not drawn and len(pages[0].ready) < 2:  # a test that hangs here has failed
            time.sleep(0.01)
        drawn.append(MatplotlibFigure())
        if fails and len(drawn) == 3:
            raise ZeroDivisionError
        return drawn[-1]

    monkeypatch.setattr(drawing, "_Page", Known)
    monkeypatch.setattr(drawing.report, "write", written.append)
    some = replace(all_figures()["kl_dynamics"], collect=lambda lab: {}, draw=draw, caption=lambda records: "")
    with pytest.raises(SpecError) if fails else contextlib.nullcontext():
        run([replace(some, name=name) for name in "abc"], quickly(results=tmp_path / "r"), tmp_path)
    assert len(list(tmp_path.glob("*.sha256"))) == (2 if fails else 3)
    assert written == [tmp_path]


def test_pages_on_the_way_take_a_twentieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pages that take a second each, one every twenty; the last is written at the end, whenever that is."""
    clock, written = [0.0], []

    def write(out: Path) -> None:
        written.append(clock[0])
        clock[0] += 1.0

    done: list[str] = []
    monkeypatch.setattr(drawing, "write_sums", lambda name, out: done.append(name))
    monkeypatch.setattr(drawing.report, "write", write)
    monkeypatch.setattr(drawing.time, "perf_counter", lambda: clock[0])
    page = drawing._Page(tmp_path)
    for _ in range(50):
        page.show("f")
        clock[0] += 1.0
    assert written == [0.0, 20.0, 40.0]
    page.write()
    assert len(written) == 4 and done == ["f"] * 50


def test_a_drawing_that_fails_is_told(tmp_path: Path) -> None:
    def draw(records: Records) -> MatplotlibFigure:
        raise ZeroDivisionError

    broken = replace(all_figures()["kl_dynamics"], collect=lambda lab: {}, draw=draw)
    with pytest.raises(SpecError, match=r"must return a figure of matplotlib; raised at test_figures\.py"):
        run([broken], quickly(results=tmp_path / "r"), tmp_path)


def test_quick_tells_that_verdicts_cannot_be_given(tmp_path: Path) -> None:
    def verdicts(records: Records) -> list[Verdict]:
        raise ZeroDivisionError

    broken = replace(all_figures()["kl_dynamics"], collect=lambda lab: {}, draw=lambda records: MatplotlibFigure())
    with pytest.raises(SpecError, match=r"kl_dynamics.verdicts = ZeroDivisionError\(\): must return a list of rows"):
        run([replace(broken, caption=str, verdicts=verdicts)], quickly(results=tmp_path / "r"), tmp_path)


def test_pictures_that_somebody_removed_meanwhile_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is written after that shows nothing of them."""
    drawn = replace(all_figures()["kl_dynamics"], collect=lambda lab: {}, draw=lambda records: MatplotlibFigure())
    drawn, write = replace(drawn, claims=(), caption=str, verdicts=lambda records: []), drawing._Page.write

    def removed(page: drawing._Page) -> None:
        write(page)
        for file in tmp_path.glob("kl_dynamics.*"):
            file.unlink()

    run([drawn], quickly(results=tmp_path / "r"), tmp_path)
    monkeypatch.setattr(drawing._Page, "write", removed)
    with pytest.raises(FileNotFoundError, match="was removed while figures were drawn"):
        run([drawn], quickly(results=tmp_path / "r"), tmp_path)


def test_what_was_drawn_by_this_code_is_not_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "reachable_policies"  # the cheapest
    line = [name, "--quick", "--jobs", "1", "--results", str(tmp_path / "r"), "--out", str(tmp_path / "o")]
    picture = tmp_path / "o" / f"{name}.png"
    assert main(line) == 0
    written = picture.stat().st_mtime_ns
    capsys.readouterr()
    assert main(line) == 0
    assert picture.stat().st_mtime_ns == written and "1 of 1 figures were drawn before" in capsys.readouterr().out
    picture.unlink()
    assert main(line) == 0 and picture.exists()
    data = tmp_path / "o" / f"{name}.json"
    said = json.loads(data.read_text())
    for change in ({"code": "another"}, {"settings": "others"}):
        data.write_text(json.dumps(said | {"stamps": said["stamps"] | change}))
        write_sums(name, tmp_path / "o")
        written = picture.stat().st_mtime_ns
        assert main(line) == 0
        assert picture.stat().st_mtime_ns > written


def test_a_flipped_bit_in_what_was_drawn_is_told_and_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict among them; what all verdicts together say of one, and another figure's, may change."""
    stamps = {"code": "c"}
    for suffix in FILES:
        (tmp_path / f"f{suffix}").write_text(json.dumps({"stamps": stamps, "where_from": {}}))
    (tmp_path / "report.html").touch()
    claims, mine = tmp_path / "claims.json", {"figure": "f", "effect": 0.5, "survives": True}
    claims.write_text(json.dumps([mine]))
    write_sums("f", tmp_path)
    assert is_fresh("f", stamps, tmp_path)
    claims.write_text(json.dumps([{"figure": "e", "effect": 1}, mine | {"survives": False}]))
    assert is_fresh("f", stamps, tmp_path) and capsys.readouterr().err == ""
    claims.write_text(json.dumps([mine | {"effect": 0.7}]))
    assert not is_fresh("f", stamps, tmp_path)
    assert f"claims.json in {tmp_path}: not what was written there; f is drawn again" in capsys.readouterr().err
    claims.write_text(json.dumps([mine]))
    for suffix in (".png", ".svg", ".webp"):
        file = tmp_path / f"f{suffix}"
        held = file.read_bytes()
        file.write_bytes(bytes([held[0] ^ 1]) + held[1:])
        assert not is_fresh("f", stamps, tmp_path) and f"f{suffix} in" in capsys.readouterr().err
        file.write_bytes(held)
    (tmp_path / "f.json").write_text(json.dumps({"stamps": stamps, "where_from": {}, "caption": "x"}))
    assert not is_fresh("f", stamps, tmp_path) and "f.json in" in capsys.readouterr().err


def test_the_entries_say_what_the_figures_say() -> None:
    found = entries()
    for name, figure in all_figures().items():
        entry = found[name]
        assert (entry.title, entry.tags, entry.claims) == (figure.title, figure.tags, figure.claims)
        assert entry.has_scale == (figure.arms is not None)
    assert [entry.name for entry in choose(["C50"])] == ["gradient_variance"]


def test_listing_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys; from figures.__main__ import main; main(['--list']); print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "online_offline" in said
    assert not [heavy for heavy in ("torch", "matplotlib", "scipy", "transformers") if f"'{heavy}'" in said]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--device gpu", "device = 'gpu': must be one of cpu, cuda"),
        pytest.param(
            "--device cuda",
            "device = 'cuda': there is no GPU here: must be cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ("--device cuda --set updates=x2 --engine submitit", "--set computation.device=cuda changes it in arms"),
        ("--device cuda --keep --engine submitit", "leave it out beside --keep and --again"),
    ],
)
def test_a_device_that_cannot_be_is_refused(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["online_offline", *line.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_arms_are_tuned_and_tested_on_the_device_but_language_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(self: Lab, arms: Sequence[Experiment]) -> None:
        devices.append([a.computation.device for a in arms])
        raise InterruptedError

    monkeypatch.setattr(Lab, "_find_or_run", note)
    devices: list[list[str]] = []
    lab, point = Lab(Store(tmp_path), device="cuda"), {"learning_rate": 0.1}
    for ask in (
        lambda: lab.records({"a": arm(), "lm": language_model.arm("f", "tiny", "min", "dpo")}),
        lambda: lab.tuned_records({"a": arm()}, {"a": [point]}),
    ):
        with pytest.raises(InterruptedError):
            ask()
    assert devices == [["cuda", "cpu"], ["cuda"]]


def test_the_budget_buys_as_many_whole_rows_as_it_can() -> None:
    costs = {
        "cheap": {"a": 1.0, "b": 2.0},
        "dear": {"c": 10.0, "d": 50.0, "e": 11.0},
        "shares": {"a": 1.0, "f": 30.0},
        "empty": {},
    }
    assert choose_live(costs, 0) == set()
    assert choose_live(costs, 13) == {"a", "b"}  # and not c, which alone is no row of "dear"
    assert choose_live(costs, 33) == {"a", "b", "f"}  # 1 + 2 + 30: "shares" has paid for a
    assert choose_live(costs, 1e9) == set("abcdef")
    rows = {"dear": [{"c"}, {"c", "d"}, {"c", "e", "not there"}], "shares": [{"a", "f"}]}
    assert choose_live(costs, 24, rows) == {"a", "b", "c", "e"}  # 3 + 10 + 11: c, and then c and e, are rows
    assert choose_live(costs, 62, rows) == {"a", "b", "c", "e", "f"}  # of d and f, f completes a row for less
    alike = {"one": {"a": 4.0}, "two": {"b": 6.0}}
    assert choose_live(alike, 6, {"two": [{"b"}, {"b"}]}) == {"b"}  # 3 for each of its rows
    # Nine buy the two cheapest rows; or what three share, and what each has alone.
    sharing = {"alone": {"p": 4.0, "q": 5.0}, "sharing": {"s": 6.0, "x": 1.0, "y": 1.0, "z": 1.0}}
    rows = {"alone": [{"p"}, {"q"}], "sharing": [{"s", "x"}, {"s", "y"}, {"s", "z"}]}
    assert choose_live(sharing, 9, rows) == {"s", "x", "y", "z"}


def test_the_budget_is_bought_by_the_oldest_scipy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS of scipy 1.11 refuses indices of 64 bits, in which numpy counts."""
    kinds: list[str] = []

    def solve(*arguments: object, constraints: LinearConstraint, **more: object) -> object:
        kinds.extend(str(x.dtype) for x in (constraints.A.indices, constraints.A.indptr))
        return milp(*arguments, constraints=constraints, **more)

    monkeypatch.setattr(plan, "milp", solve)
    assert choose_live({"one": {"a": 4.0}}, 6) == {"a"}
    assert kinds == ["int32", "int32"]
    assert choose_live({"f": {"a": 1.0}}, 200, {"f": [set()]}) == {"a"}


def test_the_budget_buys_an_arm_of_a_figure_whose_rows_it_cannot_where_that_is_a_hundredth_of_it() -> None:
    costs = {"dear": {"a": 1.0, "b": 500.0}}
    assert choose_live(costs, 99) == set()
    assert choose_live(costs, 100) == {"a"}


def test_a_row_says_what_its_records_are(tmp_path: Path) -> None:
    claim = Claim("C99", "part", "Something matters.", "a − b", margin=0.1)
    lab = Lab(Store(tmp_path))
    lab.where_from = {"l": "live", "c": "committed", "s": "stale"}
    lab.compared = [Compared("a", "l", True, 0.0, True), Compared("b", "m", False, 1.0, False)]
    for hashes, computed, agrees in (("l", "live", True), ("lc", "committed", True), ("cs", "stale", None)):
        row = where_from(row_of(claim, "bandit", mean_interval(np.linspace(0.4, 0.6, 20)), "f", hashes, "n."), lab)
        assert (row.computed, row.agrees) == (computed, agrees)
    assert where_from(replace(row, spec_hashes=["l", "m"]), lab).agrees is False


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
    assert {name: row["verdict"] for name, row in found.items()} == {"f": "too small", "g": "supported"}
    assert all(row["survives"] and row["p"] < 0.001 for row in found.values())
    columns = {"id", "setting", "verdict", "effect", "low", "high", "margin", "runs", "spec_hashes", "figure"}
    assert columns | {"command", "note"} <= set(found["f"])
    assert "| C99 | part | bandit | **too small** |" in (tmp_path / "claims.md").read_text()
    assert as_markdown(rows).count("## C99") == 2
    assert not list(tmp_path.glob(".*"))


def test_the_default_budget_computes_half_of_the_rows() -> None:
    """Or a reader is told so by the README, --help and the report, and it is not so: raise the default of --budget."""
    committed = {name: Committed(name) for name in entries()}
    rows = {name: found.rows for name, found in committed.items()}
    costs = {name: found.core_seconds() for name, found in committed.items()}
    live = choose_live(costs, 60 * parser().parse_strictly([]).budget, rows)
    every = [row for its in rows.values() for row in its]
    assert 2 * sum(row <= live for row in every) >= len(every)


def test_the_correction_is_for_all_tested_rows_and_no_others(tmp_path: Path) -> None:
    """p = .04 survives beside p = .03 (both ranks at most k/2 · .05), and not beside four rows that show nothing."""
    claim = Claim("C99", "part", "Something matters.", "a − b", margin=0.1)
    row = row_of(claim, "bandit", mean_interval(np.linspace(0.4, 0.6, 20)), "f", ["h"], "n.")
    some = [replace(row, part=name, p=p) for name, p in (("a", 0.03), ("b", 0.04))]
    closed = replace(row, part="closed", verdict="no test", p=None)

    def written(rows: list[Verdict]) -> dict[str, object]:
        write_claims(rows, tmp_path)
        return {r["part"]: r["survives"] for r in json.loads((tmp_path / "claims.json").read_text())}

    assert written([*some, closed, closed]) == {"a": True, "b": True, "closed": None}
    found = written([*some, *(replace(row, part=name, p=0.9) for name in "cdef")])
    assert found == dict.fromkeys("abcdef", False)


def test_a_closed_gate_is_written_with_its_reason_and_never_as_an_answer(tmp_path: Path) -> None:
    claim = Claim("C99", "part", "Something matters.", "a − b", margin=0.1)
    closed = Gate("room", False, "both arms are at the ceiling")
    row = row_of(claim, "bandit", mean_interval(np.linspace(0.4, 0.6, 20)), "f", ["h"], "n.", gates=[closed])
    assert (row.verdict, row.p, row.why) == ("no test", None, "room: both arms are at the ceiling")
    write_claims([row], tmp_path)
    (found,) = json.loads((tmp_path / "claims.json").read_text())
    assert found["gates"] == [{"name": "room", "open": False, "why": "both arms are at the ceiling"}]
    report.write(tmp_path)
    assert "Gate closed: room." in (tmp_path / "report.html").read_text()


def test_a_theorem_has_no_interval_and_no_p(tmp_path: Path) -> None:
    claim = Claim("C99", "part", "It holds.", "its error", margin=1e-6, kind="theorem")
    row = theorem_of(claim, "bandit", [1e-12, 1e-9], "f", ["h"], "n.")
    assert (row.verdict, row.effect, row.low, row.high, row.p) == ("theorem", 1e-9, None, None, None)
    disproved = theorem_of(claim, "bandit", [0.0, 1e-5], "f", ["h"], "n.")
    assert disproved.verdict == "opposite"
    assert "opposite: does not hold: an error of 1e-05" in in_a_line(disproved)  # without an interval, too
    with pytest.raises(ValueError, match="is a theorem"):
        row_of(claim, "bandit", mean_interval(np.zeros(20)), "f", ["h"], "n.")
    write_claims([row], tmp_path)
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "largest error" in page and "nan" not in page.split("<script>")[0].lower().replace("finance", "")


@pytest.mark.parametrize(
    ("changes", "claimed"),
    [({}, "> 0.1"), ({"sign": -1}, "< −0.1"), ({"kind": "none"}, "within ±0.1"), ({"kind": "at most"}, "≤ 0.1")],
)
def test_a_table_says_where_a_claim_puts_its_effect(changes: dict[str, object], claimed: str, tmp_path: Path) -> None:
    """+0.05 within a margin of 0.1 is too small for a claim of an effect, and supports one of none or of at most it."""
    claim = Claim("C99", "part", "Something matters.", "a − b", margin=0.1, **changes)
    row = row_of(claim, "bandit", mean_interval(np.linspace(0.04, 0.06, 20)), "f", ["h"], "n.")
    assert row.verdict == ("too small" if claim.kind == "effect" else "supported")
    write_claims([row], tmp_path)
    report.write(tmp_path)
    assert f"| {claimed} score |" in (tmp_path / "claims.md").read_text()
    assert f">{html.escape(claimed)} score<" in (tmp_path / "report.html").read_text()


LARGEST = 80_000  # bytes of a picture: of twice as many as there are, the report has room


def of_one_batch(arm: Experiment) -> Experiment:
    """Smaller than what --quick runs: two runs of a batch, evaluated before and after, of a small policy and a reward
    model that are hardly fitted to their data, and a few tokens and samples."""
    arm = shrink(arm)
    few = {"reward_model_steps": 2} if getattr(arm.environment, "reward_model", "none") != "none" else {}
    few |= {"evaluation_samples": 4} if isinstance(arm.environment, TokenBandit) else {}
    arm = arm.replace(environment=arm.environment.replace(**few))
    if isinstance(arm.policy, Transformer):
        arm = arm.replace(policy=arm.policy.replace(num_layers=1, num_heads=1, hidden_size=4))
    if getattr(arm.policy, "fit_steps", None) is not None:
        arm = arm.replace(policy=arm.policy.replace(fit_steps=2))
    if arm.environment.executor.startswith("llm."):
        # Words to avoid come late: where no response of the reference has one, scores are 0 / 0.
        tokens, prompts = (12, 8) if arm.environment.kind == "forbidden_words" else (4, 2)  # type: ignore[attr-defined]
        decoding = arm.policy.decoding.replace(max_new_tokens=tokens)  # type: ignore[attr-defined]
        environment = arm.environment.replace(evaluation_prompts=prompts, recorded_prompts=32)  # type: ignore[attr-defined]
        arm = arm.replace(environment=environment, policy=arm.policy.replace(decoding=decoding))
    updates = arm.schedule.updates_per_batch
    if arm.labelling.implicit_after_updates:  # one batch that the environment labels, and one that the policy does
        arm = arm.replace(labelling=arm.labelling.replace(implicit_after_updates=1))
        updates = max(2, updates)
    return arm.replace(updates=updates, evaluations=1, runs=2)


@pytest.mark.parametrize("shrunken", [of_one_batch, pytest.param(shrink, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", all_figures())
def test_every_figure_runs_quick_and_draws(
    name: str, shrunken: Callable[[Experiment], Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committed, "shrink", shrunken)
    assert main([name, "--quick", "--jobs", "1", "--results", str(tmp_path / "r"), "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / f"{name}.json").read_text())
    assert data["spec_hashes"] or name == "check_matrix"  # which is of no runs
    with Image.open(tmp_path / f"{name}.png") as image:
        assert all(h in image.text["Description"] for h in data["spec_hashes"])
    svg = (tmp_path / f"{name}.svg").read_text()
    assert all(h in svg for h in data["spec_hashes"])
    page = (tmp_path / "report.html").read_text()
    assert "data:image/webp;base64," in page and "://" not in page  # base64 has no colon
    size = (tmp_path / f"{name}.webp").stat().st_size
    assert size <= LARGEST, f"{name}.webp has {size} bytes: draw less in one picture, or the report exceeds 3 MB"
    assert not (tmp_path / "claims.json").exists()  # four runs test nothing


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
        (["--budget", "-1"], "budget = -1.0: must be float >= 0"),
        (["--budget", "nan"], "budget = nan: must be float >= 0"),
    ):
        assert main(line) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        main(["--quik"])
    assert stop.value.code == 2 and "did you mean --quick?" in capsys.readouterr().err


def test_listing_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "online_offline" in listed and re.search(r"\n\d+\.\d core-minutes with --full", listed)
    assert re.search(r"\n\d+\.\d core-hours of them by language models, \d+\.\d core-minutes by toys\n", listed)


def test_an_algorithm_has_one_colour_and_no_two_share_it() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert colour("dpo") == COLOURS["dpo"]
    assert colour("no_colour_yet") == colour("no_colour_yet") not in COLOURS.values()


def test_final_scores_are_the_last_point() -> None:
    assert final_scores(record([[0.6, 0.8]])) == pytest.approx([0.5])
