"""Committed records: drawn as they are, proven by sources or twins, and marked when today's code disagrees."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from figures import committed
from figures import lab as room
from figures.committed import FOLDER, Committed, Kept, Tuned, Watched
from figures.figure import all_figures
from figures.lab import AGREEMENT, FINAL_RUNS, Lab, apply, compare, product, settings
from figures.short_tuning import Short
from sims.core.algorithms import find_algorithm
from sims.core.loop.labelling import Labelling
from sims.core.schedule import Schedule
from sims.environments import BanditR1, TokenBanditSmall, TokenTree
from sims.experiments import code_digest
from sims.experiments.code_digest import sources_digest
from sims.experiments.experiment import Experiment
from sims.experiments.measures import final_scores
from sims.experiments.record_file import DamagedRecord, Record
from sims.experiments.runner import find_or_run, sources_of
from sims.experiments.store import Store, record_key
from sims.policies import Table, Transformer
from tests.figures.synthetic import SyntheticLab

ARM = Experiment("arm", TokenTree(), Table(), find_algorithm("rloo")(), Schedule(batch_size=4), updates=20, runs=3)
KEY = record_key(ARM.name, ARM.to_json())
ARM_HASH = KEY.rpartition("-")[2]


def keep(folder: Path, arms: dict[str, Experiment], change: float = 0.0, twin_change: float = 0.0) -> dict[str, Record]:
    """Put arms into a figure's file, with numbers that were changed; returns what they were."""
    lab = Lab(Store(folder / "kept"), kept=Kept())
    records = lab.records(arms)
    assert lab.kept is not None
    for record in records.values():
        final_scores(record)  # what a figure would use
    for key, record in lab.kept.records.items():
        arrays = dict(record.arrays) | {"gold": record.arrays["gold"] + np.float32(change)}
        lab.kept.records[key] = Record(record.spec, arrays, record.provenance)
    for key, (name, twin) in lab.kept.twins.items():
        arrays = dict(twin.arrays) | {"gold": twin.arrays["gold"] + np.float32(twin_change)}
        lab.kept.twins[key] = (name, Record(twin.spec, arrays, twin.provenance))
    lab.kept.note_rows([[ARM_HASH], ["of another figure", ARM_HASH], []])
    lab.kept.write("figure", folder)
    return records


def drawn(folder: Path, store: str = "b", **options: object) -> tuple[Record, Lab]:
    lab = Lab(Store(folder / store), kept_before=Committed("figure", folder), **options)
    return lab.records({"x": ARM})["x"], lab


def names(folder: Path, store: str = "b") -> list[str]:
    return [spec["name"] for spec in Store(folder / store).specs().values()]


def other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "sources_of", lambda experiment: "other")
    monkeypatch.setattr("sims.experiments.runner.sources_of", lambda experiment: "other")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The modules that digests read from now on, to the last."""
    found: set[str] = set()
    whole = code_digest._read_source
    code_digest._digest.cache_clear()
    monkeypatch.setattr(code_digest, "_read_source", lambda file, *name: (found.add(name[0]), whole(file, *name))[1])
    yield found
    code_digest._digest.cache_clear()


def test_what_an_arm_runs_through_unproves_its_record_and_no_page_does(read: set[str]) -> None:
    sources_of(ARM)
    losses, loop, places = ("sims.core.losses.policy_gradient", "sims.core.loop.train", "sims.environments.token_tree")
    runner = {"sims.experiments.executor", "sims.experiments.record_loop", "sims.experiments.evaluation"}
    assert {losses, loop, places, "sims.policies.table", "sims.core.algorithms.policy_gradient", *runner} <= read
    assert not [name for name in read if name.startswith(("figures", "sims.statistics"))]


def test_what_is_computed_without_runs_is_unproven_by_its_mathematics_and_not_by_how_it_is_drawn(
    read: set[str],
) -> None:
    class Exact(SyntheticLab):
        def exact(self, name: str, spec: Any, compute: Any, modules: Sequence[str]) -> Record:
            read.clear()
            sources_digest(modules, packages=("sims", "llm", "figures"))
            found.setdefault((name.partition("-")[0], *modules), set(read))  # read once, though asked for several times
            return Record(spec, {}, {})

    found: dict[tuple[str, ...], set[str]] = {}
    for figure in all_figures().values():
        figure.collect(Exact())
    assert {name for name, *_ in found} == {
        "gradient_variance", "kl_dynamics", "prompt_mask", "reachable_policies"
    }  # fmt: skip
    for (name, *_), modules in found.items():
        assert not [module for module in modules if module.startswith("figures.report")], name
        assert f"figures.gallery.{name}" in modules, "its own computation"
        assert any(module.startswith(("sims.exact.", "sims.core.losses.")) for module in modules), name


def test_what_these_sources_made_is_drawn_and_nothing_is_run(tmp_path: Path) -> None:
    kept = keep(tmp_path, {"x": ARM})["x"]
    assert Committed("figure", tmp_path).rows == [{KEY}, {KEY}, set()]
    record, lab = drawn(tmp_path)
    assert record.source == "committed" and lab.where_from == {record.hash: "committed"} and names(tmp_path) == []
    assert sorted(record.arrays) == sorted(["gold", "reference_reward", "best_reward", "diverged_at", "updates"])
    for name in record.arrays:
        np.testing.assert_array_equal(record.arrays[name], kept.arrays[name], strict=True)
    assert {"commit", "machine", "seconds"} <= set(record.provenance)


@pytest.mark.parametrize("options", [{"full": True}, {"live": {KEY}}])
def test_full_and_live_compute_it_again_and_compare(tmp_path: Path, options: dict) -> None:
    keep(tmp_path, {"x": ARM})
    record, lab = drawn(tmp_path, **options)
    assert record.source == "live" and names(tmp_path) == ["arm"]
    (compared,) = lab.compared
    assert compared.same_bits and compared.agrees and compared.hash == record.hash


@pytest.mark.parametrize("live", [set(), {KEY}])
@pytest.mark.parametrize("source", ["live", "committed"])
def test_an_arm_with_the_bits_of_another_comes_from_where_that_does(tmp_path: Path, live: set, source: str) -> None:
    """Else a proof that two arms give one number would be of two processors' numbers, which differ in the last bits."""
    keep(tmp_path, {"x": ARM})
    lab = Lab(Store(tmp_path / "b"), kept_before=Committed("figure", tmp_path), live=live)
    other = Record({}, {}, {}, source)
    assert lab.records({"x": ARM}, {"x": other})["x"].source == source


def test_what_was_computed_here_before_is_live(tmp_path: Path) -> None:
    keep(tmp_path, {"x": ARM})
    find_or_run([ARM], Store(tmp_path / "b"))
    assert drawn(tmp_path)[0].source == "live"


def test_live_numbers_that_are_others_are_told(tmp_path: Path) -> None:
    keep(tmp_path, {"x": ARM}, change=-0.1)
    (compared,) = drawn(tmp_path, full=True)[1].compared
    assert not compared.same_bits and not compared.agrees and compared.difference > AGREEMENT


def test_agreement_is_of_mean_final_scores(tmp_path: Path) -> None:
    record = find_or_run([ARM], Store(tmp_path))[0]
    span = float(record.arrays["best_reward"][0] - record.arrays["reference_reward"][0])
    for shift, agrees in ((0.5 * AGREEMENT, True), (2 * AGREEMENT, False)):
        moved = Record(record.spec, dict(record.arrays) | {"gold": record.arrays["gold"] + shift * span}, {})
        found = compare("x", record, moved)
        assert (found.same_bits, found.agrees) == (False, agrees)
        assert found.difference == pytest.approx(shift, rel=1e-3)


def test_without_a_score_agreement_is_of_means_over_runs() -> None:
    """One of a hundred runs may end elsewhere on another processor; all of them may not. Both as probabilities."""
    spec, mass = {"runs": 100}, np.linspace(0.2, 0.6, 100, dtype=np.float32)
    before = Record(spec, {"logp_final": np.log(mass)[:, None], "length": 100 * mass, "rewards": np.zeros(3)}, {})

    def found(**changed: np.ndarray) -> tuple[bool, float]:
        compared = compare("x", Record(spec, {**before.arrays, **changed}, {}), before)
        assert not compared.same_bits
        return compared.agrees, compared.difference

    one, all_of_them = mass.copy(), mass + np.float32(2 * AGREEMENT)
    one[0] = 0.9
    assert found(logp_final=np.log(one)[:, None]) == (True, pytest.approx(0.007, rel=1e-4))
    assert found(logp_final=np.log(all_of_them)[:, None]) == (False, pytest.approx(2 * AGREEMENT, rel=1e-4))
    # 4 in lengths of 40 on average
    assert found(length=100 * all_of_them) == (False, pytest.approx(0.1, rel=1e-4))
    assert found(length=np.where(one > 0.8, np.nan, 100 * mass))[0] is False
    assert found(length=mass[:50])[0] is False


def test_under_other_sources_the_twin_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, {"x": ARM})
    other_sources(monkeypatch)
    assert drawn(tmp_path)[0].source == "committed" and names(tmp_path) == ["arm-quick"]
    monkeypatch.setattr("sims.experiments.executor.execute", None)  # it is in the store now: nothing is run again
    assert drawn(tmp_path)[0].source == "committed"


def test_sources_whose_twin_agreed_are_noted_when_it_is_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, {"x": ARM})
    other_sources(monkeypatch)
    lab = Lab(Store(tmp_path / "b"), kept_before=Committed("figure", tmp_path), kept=Kept())
    final_scores(lab.records({"x": ARM})["x"])
    assert lab.kept is not None
    lab.kept.write("figure", tmp_path)
    assert Committed("figure", tmp_path).proven(KEY, "other")
    assert drawn(tmp_path, "c")[0].source == "committed" and names(tmp_path, "c") == []


def test_a_twin_that_disagrees_makes_its_record_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path, {"x": ARM}, twin_change=0.01)
    other_sources(monkeypatch)
    record, lab = drawn(tmp_path)
    assert record.source == "stale" and lab.stale == [record.hash]


@pytest.mark.parametrize("other", [False, True])
def test_a_stale_record_that_is_kept_again_is_still_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bool
) -> None:
    """Under other sources, and under those that made it, whose numbers are another processor's."""
    keep(tmp_path, {"x": ARM}, twin_change=0.01)
    if other:
        other_sources(monkeypatch)
    for store in "bc":
        lab = Lab(Store(tmp_path / store), kept_before=Committed("figure", tmp_path), kept=Kept())
        final_scores(lab.records({"x": ARM})["x"])
        assert lab.kept is not None and lab.stale == [ARM_HASH]
        lab.kept.write("figure", tmp_path)
    assert not Committed("figure", tmp_path).agreed


@pytest.mark.parametrize(("change", "run", "source"), [(0.0, 2, "committed"), (0.01, 3, "stale")])
def test_of_arms_that_differ_in_numbers_one_twin_is_run_and_the_others_if_it_disagrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: float, run: int, source: str
) -> None:
    """Two seeds of one algorithm, and another algorithm."""
    arms = {"x": ARM, "y": ARM.replace(seed=5), "z": ARM.replace(algorithm=find_algorithm("dpo")())}
    keep(tmp_path, arms, twin_change=change)
    other_sources(monkeypatch)
    lab = Lab(Store(tmp_path / "b"), kept_before=Committed("figure", tmp_path))
    assert {record.source for record in lab.records(arms).values()} == {source}
    assert names(tmp_path) == ["arm-quick"] * run


def test_damage_is_named(tmp_path: Path) -> None:
    keep(tmp_path, {"x": ARM})
    file = tmp_path / "figure.npz"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DamagedRecord, match=r"figure\.npz"):
        Committed("figure", tmp_path)


def test_arrays_are_kept_if_they_are_used_or_asked_after(tmp_path: Path) -> None:
    used: set[str] = set()
    arrays = Watched({"a": np.ones(1), "b": np.ones(1), "c": np.ones(1)}, used)
    assert arrays["a"] == 1 and "b" in arrays and "d" not in arrays and len(arrays) == 3
    assert used == {"a", "b"}


GRIDS = {"x": product(learning_rate=(1e-4, 0.3)), "y": product(learning_rate=(0.01, 0.1))}


def tuned(
    folder: Path, store: str, grids: dict = GRIDS, keeping: bool = False, **options: object
) -> tuple[list[Tuned], int]:
    """How two arms were tuned, and how many tuning runs it took to know."""
    lab = Lab(Store(folder / store), kept_before=Committed("figure", folder), kept=Kept() if keeping else None)
    lab.full = bool(options.pop("full", False))
    records = lab.tuned_records({"x": ARM, "y": ARM.replace(seed=5)}, grids, tuning_runs=2, **options)
    for record in records.values():
        final_scores(record)
    if lab.kept is not None:
        lab.kept.write("figure", folder)
    return lab.tuned, names(folder, store).count("arm-tuning")


def test_what_is_kept_is_not_tuned_again(tmp_path: Path) -> None:
    kept, runs = tuned(tmp_path, "a", keeping=True)
    assert runs == 4 and len(kept[0].scores) == 2
    assert tuned(tmp_path, "b") == (kept, 0)  # the same grid and scores, for the report, without a run
    assert tuned(tmp_path, "c", full=True)[1] == 4
    others = {"x": product(learning_rate=(1e-4, 0.2)), "y": GRIDS["y"]}
    assert tuned(tmp_path, "d", others)[1] == 4


def test_finalists_are_kept_and_their_number_is_part_of_the_tuning(tmp_path: Path) -> None:
    kept, runs = tuned(tmp_path, "a", keeping=True, finalists=2)
    assert runs == 8 and len(kept[0].finals) == 2
    assert tuned(tmp_path, "b", finalists=2) == (kept, 0)
    assert tuned(tmp_path, "c")[1] == 4


def test_a_tuned_record_says_what_its_settings_scored_by_the_runs_that_decided(tmp_path: Path) -> None:
    """By those of the finalists, where there are some; nothing that shorter runs scored."""

    def how(**options: Any) -> tuple[Tuned, Mapping[str, Any]]:
        lab = Lab(Store(tmp_path))
        found = lab.tuned_records({"x": ARM}, {"x": GRIDS["x"]}, tuning_runs=2, **options)
        return lab.tuned[0], found["x"].provenance["tuning"]

    tuned, said = how()
    assert (said["mean"], said["runs"], said["among"], said["by"]) == (max(tuned.scores), 2, 2, "end")
    assert said["of"] == settings(apply(ARM, tuned.points[tuned.chosen]).replace(seed=9, runs=3).to_json())
    assert said["of"] != settings(apply(ARM, tuned.points[1 - tuned.chosen]).to_json())
    tuned, said = how(finalists=2)
    assert (said["mean"], said["runs"], said["among"]) == (dict(tuned.finals)[tuned.chosen], FINAL_RUNS, 2)
    as_long = Short(ARM.updates, ARM.evaluations, widen=0)
    assert how(short=as_long)[1]["runs"] == 2 and how(short=as_long)[1]["by"] == "run"
    assert "of" not in how(short=Short(ARM.updates // 2, ARM.updates // 2, widen=0))[1]


def test_a_score_that_is_none_comes_back(tmp_path: Path) -> None:
    entry = Tuned("x", [{"learning_rate": 0.1}] * 2, [-math.inf, 0.5], 2, 1, [(1, -math.inf)], 12)
    kept = Kept(tunings={"t": [entry]})
    kept.write("figure", tmp_path)
    assert Committed("figure", tmp_path).tuning("t") == [entry]
    assert Committed("figure", tmp_path).tuning("u") is None


def test_what_the_repository_holds_is_whole() -> None:
    """Every committed record is readable, is what its key says, and names its commit, machine and cost."""
    total = 0
    for path in FOLDER.glob("*.npz"):
        held = Committed(path.stem)
        assert held.file is not None
        for key, spec in held.file.specs.items():
            provenance = held.file.provenance(key)
            name = spec["name"] if "environment" in spec else key.rpartition("-")[0]
            assert record_key(name, spec) == key
            assert provenance["commit"] and provenance["machine"] and provenance["seconds"] >= 0
            for array in held.file.record(key).arrays.values():
                assert array.dtype.kind in "biufSU"
        total += path.stat().st_size
    assert total < 16_000_000  # rows where some runs are at a bound have 100


def test_twins_are_in_float64_and_slower_where_training_magnifies_rounding() -> None:
    deep = replace(ARM, environment=TokenBanditSmall(), policy=Transformer())
    twin = committed.shrink(deep)
    assert (twin.precision, twin.optimiser.learning_rate) == ("float64", deep.optimiser.learning_rate / 10)
    assert (committed.shrink(ARM).precision, committed.shrink(ARM).optimiser) == ("float64", ARM.optimiser)


# Of a response that nobody drew, whose gradient is zero but for rounding.
ROUNDED = {
    kind: ARM.replace(environment=BanditR1(), algorithm=find_algorithm(kind)(), updates=200) for kind in ("ipo", "rloo")
}
RUN_TWIN = """
import sys
from pathlib import Path
from sims.experiments.runner import find_or_run
from sims.experiments.store import Store
from figures import committed
from tests.figures.test_committed import ROUNDED

find_or_run([committed.shrink(arm) for arm in ROUNDED.values()], Store(Path(sys.argv[1])))
"""


def test_twins_agree_on_a_processor_with_plainer_instructions(tmp_path: Path) -> None:
    plain = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", RUN_TWIN, str(tmp_path / "plain")], env=plain, cwd=root, check=True)
    elsewhere = Store(tmp_path / "plain")
    for arm in map(committed.shrink, ROUNDED.values()):
        there = elsewhere.load(arm.name, arm.to_json())
        assert there is not None
        assert committed.agree(there, *find_or_run([arm], Store(tmp_path / "here")))


def test_in_a_twin_the_policy_labels_after_the_same_share_of_updates() -> None:
    arm = ARM.replace(
        algorithm=find_algorithm("dpo")(),
        updates=160,
        labelling=Labelling(labels="implicit", implicit_after_updates=40),
    )
    twin = committed.shrink(arm)
    assert (twin.updates, twin.labelling.implicit_after_updates) == (16, 4)
