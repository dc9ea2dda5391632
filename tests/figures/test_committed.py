"""Committed records: drawn as they are, rerun through their twins, and marked when today's code disagrees."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from figures import committed
from figures.lab import Lab, Tuned, product
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule
from sims.environments import TokenBanditSmall, TokenTree
from sims.experiments.experiment import Experiment
from sims.experiments.runner import obtain
from sims.experiments.store import DamagedRecord, Record, Store
from sims.policies import Table, Transformer

ARM = Experiment("arm", TokenTree(), Table(), find_algorithm("rloo")(), Schedule(batch_size=4), updates=20, runs=3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """figures/records, for the length of a test."""
    for function in (committed.load, committed.keep, committed.load_tuning, committed.keep_tuning):
        monkeypatch.setattr(function, "__defaults__", (tmp_path / "records",))
    return tmp_path / "records"


def test_a_kept_record_is_drawn_and_not_computed(folder: Path, tmp_path: Path) -> None:
    kept = Lab(Store(tmp_path / "a"), keep=True).records({"x": ARM})["x"]
    lab = Lab(Store(tmp_path / "b"))
    drawn = lab.records({"x": ARM})["x"]
    assert np.array_equal(kept.arrays["reward"], drawn.arrays["reward"])
    assert [p.name.split("-")[1] for p in (tmp_path / "b").glob("arm*")] == ["quick"]  # only the twin was run
    assert lab.stale == []
    assert {"commit", "machine", "seconds"} <= set(drawn.provenance)


def test_full_computes_it_again(folder: Path, tmp_path: Path) -> None:
    Lab(Store(tmp_path / "a"), keep=True).records({"x": ARM})
    Lab(Store(tmp_path / "b"), full=True).records({"x": ARM})
    assert sorted(p.name.split("-")[1] for p in (tmp_path / "b").glob("arm*")) != ["quick"]


def test_a_live_arm_is_run_though_it_is_committed(folder: Path, tmp_path: Path) -> None:
    arms = {"x": ARM.replace(seed=3), "y": ARM}
    records = dict(zip(arms, obtain(list(arms.values()), Store(tmp_path / "a")), strict=True))
    for name, twin in zip(
        arms, obtain([committed.shrink(a) for a in arms.values()], Store(tmp_path / "a")), strict=True
    ):
        lower = records[name].arrays | {"gold": records[name].arrays["gold"] - 0.1}
        committed.keep(arms[name], Record(records[name].spec, lower, records[name].provenance), twin)
    lab = Lab(Store(tmp_path / "b"), live=("y",))
    drawn = lab.records(arms)
    change = {name: drawn[name].arrays["gold"] - records[name].arrays["gold"] for name in arms}
    assert list(drawn) == ["x", "y"] and np.allclose(change["x"], -0.1) and not change["y"].any()
    (again,) = lab.again
    assert again.arm == "y" and again.now - again.committed > 0.01
    assert lab.stale == []


def test_a_twin_that_disagrees_marks_its_record(folder: Path, tmp_path: Path) -> None:
    record, twin = obtain([ARM, committed.shrink(ARM)], Store(tmp_path / "a"))
    other = Record(twin.spec, twin.arrays | {"reward": twin.arrays["reward"] + 0.01}, twin.provenance)
    committed.keep(ARM, record, other)
    lab = Lab(Store(tmp_path / "b"))
    lab.records({"x": ARM})
    assert lab.stale == [record.hash]


def test_a_damaged_committed_record_is_named(folder: Path, tmp_path: Path) -> None:
    Lab(Store(tmp_path / "a"), keep=True).records({"x": ARM})
    file = next(folder.glob("arm-*/record.npz"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DamagedRecord, match=r"record\.npz"):
        Lab(Store(tmp_path / "b")).records({"x": ARM})


GRIDS = {"x": product(learning_rate=(1e-4, 0.3)), "y": product(learning_rate=(0.01, 0.1))}


def tuned(store: Path, grids: dict = GRIDS, **options: bool) -> tuple[list[Tuned], int]:
    """How two arms were tuned, and how many tuning runs it took to know."""
    lab = Lab(Store(store), **options)
    lab.tuned_records({"x": ARM, "y": ARM.replace(seed=5)}, grids, tuning_runs=2)
    return lab.tuned, len(list(store.glob("arm-tuning-*")))


def test_what_is_kept_is_not_tuned_again(folder: Path, tmp_path: Path) -> None:
    kept, runs = tuned(tmp_path / "a", keep=True)
    assert runs == 4 and len(kept[0].scores) == 2
    assert tuned(tmp_path / "b") == (kept, 0)  # the same grid and scores, for the report, without a run
    assert tuned(tmp_path / "c", full=True)[1] == 4
    others = {"x": product(learning_rate=(1e-4, 0.2)), "y": GRIDS["y"]}
    assert tuned(tmp_path / "d", others)[1] == 4


def test_finalists_are_kept_and_their_number_is_part_of_the_tuning(folder: Path, tmp_path: Path) -> None:
    def chosen(store: str, **options: int) -> tuple[list[Tuned], int]:
        lab = Lab(Store(tmp_path / store), keep=store == "a")
        lab.tuned_records({"x": ARM}, {"x": GRIDS["x"]}, tuning_runs=2, **options)
        return lab.tuned, len(list((tmp_path / store).glob("arm-tuning-*")))

    kept, runs = chosen("a", finalists=2)
    assert runs == 4 and len(kept[0].finals) == 2
    assert chosen("b", finalists=2) == (kept, 0)
    assert chosen("c")[1] == 2


def test_tuning_is_read_only_where_every_chosen_record_is_kept(folder: Path, tmp_path: Path) -> None:
    tuned(tmp_path / "a", keep=True)
    shutil.rmtree(next(folder.glob("arm-*")))
    assert tuned(tmp_path / "b")[1] == 4


def test_a_damaged_tuning_is_named(folder: Path, tmp_path: Path) -> None:
    tuned(tmp_path / "a", keep=True)
    file = next(folder.glob("tuning-*.json"))
    whole = file.read_text()
    for broken in (whole[:-5], whole.replace('"y"', '"z"')):
        file.write_text(broken)
        with pytest.raises(DamagedRecord, match="tuning-"):
            tuned(tmp_path / "b")


def test_what_the_repository_holds_is_whole() -> None:
    """Every committed record is readable, is what its folder says, and names its commit, machine and cost."""
    for path in committed.FOLDER.glob("*/provenance.json"):
        provenance = json.loads(path.read_text())
        assert provenance["commit"] and provenance["machine"] and provenance["seconds"] >= 0
        assert path.parent.stat().st_size < 2_000_000


def test_twins_of_what_magnifies_rounding_are_in_float64() -> None:
    deep = ARM.replace(environment=TokenBanditSmall(), policy=Transformer())
    twin = committed.shrink(deep)
    assert (twin.precision, twin.optimiser.learning_rate) == ("float64", deep.optimiser.learning_rate / 10)
    assert (committed.shrink(ARM).precision, committed.shrink(ARM).optimiser) == ("float32", ARM.optimiser)
