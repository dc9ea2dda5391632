"""Figures on language models: their arms at every scale, what they draw, and what they compute, by hand."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from figures import committed
from figures.__main__ import folder, main, parser
from figures.arms import language_model as lm
from figures.arms import matched
from figures.committed import Committed
from figures.drawing import jobs_of
from figures.figure import all_figures
from figures.gallery import lm_lengths, lm_likelihoods, toy_to_lm
from figures.lab import Lab
from llm.embedded.language import length_mass
from llm.training.memory import estimate, meta_model
from llm.training.presets import PRESETS
from sims.core.spec import SpecError, from_json
from sims.experiments.store import Record, Store
from tests.figures.synthetic import SyntheticLab, filled, skeleton

SHAPES = functools.lru_cache(meta_model)
WITH_ARMS = [name for name, figure in all_figures().items() if figure.arms is not None]
PARAMETERS = {"tiny": 109_056, "pythia-1.4b": 1_414_647_808, "mistral-7b": 7_409_504_256}


def record(**arrays: object) -> Record:
    """Two runs, three points, a score of 0 at the start and of 1 for a reward of 0."""
    base = {
        "updates": np.array([0, 4, 8]),
        "reference_reward": np.array([-20.0, -10.0]),
        "best_reward": np.zeros(2),
        "diverged_at": np.full(2, -1),
        "gold": np.array([[-20.0, -10.0, 0.0], [-10.0, -10.0, -10.0]]),
    }
    return Record({}, base | {name: np.asarray(x) for name, x in arrays.items()}, {})


# Scales


def test_there_are_figures_of_language_models() -> None:
    assert {"lm_lengths", "lm_likelihoods", "lm_batch_and_reuse"} <= set(WITH_ARMS)


@pytest.mark.parametrize("scale", lm.SCALES)
@pytest.mark.parametrize("name", WITH_ARMS)
def test_a_dry_run_says_what_each_arm_is_and_loads_nothing(
    name: str, scale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*args: object, **kwargs: object) -> None:
        raise AssertionError("a dry run loads nothing")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", loaded)
    monkeypatch.setattr("llm.training.run.execute", loaded)
    monkeypatch.setattr("llm.training.memory.meta_model", SHAPES)  # the same few models again and again
    assert (
        main([name, "--scale", scale, "--dry-run", "--results", str(tmp_path / "r"), "--out", str(tmp_path / "o")]) == 0
    )
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    arms = all_figures()[name].arms(scale)  # type: ignore[misc]
    assert printed.count("parameters, ") == printed.count("  peak") == len(arms)
    specs = [json.loads(part[: part.index("\n}") + 2]) for part in printed.split(" runs of\n")[1:]]
    assert [from_json(spec) for spec in specs] == list(arms.values())
    arm = next(iter(arms.values()))
    assert "\n".join(estimate(arm).lines()) in printed  # what `python -m llm train --dry-run` prints
    # Adapters of rank 64 are in mistral's count.
    assert estimate(arm).parameters == PARAMETERS[scale]


@pytest.mark.parametrize("scale", lm.SCALES[1:])
def test_large_arms_are_the_presets_settings(scale: str) -> None:
    arm, given = lm.arm("f", scale, "min", "dpo"), lm.preset(scale, "min")
    for part in ("environment", "policy", "algorithm", "schedule", "optimiser", "updates", "evaluations"):
        assert getattr(arm, part) == getattr(given, part), part
    assert lm.arm("f", scale, "min", "rloo").schedule.samples_per_batch == given.schedule.samples_per_batch
    assert lm.preset(scale, "mode").environment.kind == "mode_length"


@pytest.mark.parametrize("scale", lm.SCALES)
def test_skew_is_offline_on_recorded_pairs_that_are_cut_and_labelled_by_length(scale: str) -> None:
    arms = {name: arm for name, arm in lm_lengths.arms(scale).items() if name.startswith("skew/")}
    arms = {name: arm for name, arm in arms.items() if name.endswith("/off")}
    assert set(arms) == {"skew/dpo/off", "skew/pref_ft/off"}
    for arm in arms.values():
        task = arm.environment
        assert (task.kind, arm.schedule.source) == ("skew_length", "dataset")
        assert (task.cut_from, task.cut_to) == ((6, 9) if scale == "tiny" else (10, 22))  # type: ignore[attr-defined]
        if scale != "tiny":
            assert task.relabel and task.data_kind == "preference"  # type: ignore[attr-defined]
    if scale == "pythia-1.4b":
        assert arms["skew/dpo/off"].replace(name="x") == lm.preset(scale, "skew").replace(name="x")


def test_mistral_takes_its_presets_data_with_a_reward_of_length() -> None:
    ours, given = lm.preset("mistral-7b", "min").environment, PRESETS["mistral-7b-ultrafeedback"].environment
    assert ours.kind == "min_length" and ours.data == given.data == "HuggingFaceH4/ultrafeedback_binarized"


def test_the_scale_of_a_record_is_read_off_its_model() -> None:
    for scale in lm.SCALES:
        assert lm.scale_of(Record(lm.arm("f", scale, "min", "ppo").to_json(), {}, {})) == scale


def test_scales_and_dry_runs_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for line, message in (
        (["online_offline", "--scale", "pythia-1.4b"], "online_offline has no scale but tiny; these have: lm_batch"),
        (["lm_lengths", "--scale", "huge"], "must be one of tiny, pythia-1.4b, mistral-7b"),
        (["online_offline", "--dry-run"], "online_offline runs no language model"),
        (["--scale", "mistral-7b"], "has no scale but tiny"),  # all figures
    ):
        assert main(line) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_another_scale_or_device_is_drawn_in_a_folder_of_its_own_by_one_process() -> None:
    def parsed(*line: str) -> tuple[Path, int]:
        options = parser().parse_strictly(line)
        return folder(options), jobs_of(options)

    out, jobs = parsed("lm_lengths")
    assert jobs == 2 and parsed("lm_lengths", "--scale", "mistral-7b") == (out / "mistral-7b", 1)
    assert parsed("--scale", "mistral-7b", "--quick", "--jobs", "3") == (out.parent / "quick" / "mistral-7b", 3)
    assert parsed("--scale", "mistral-7b", "--out", "here")[0] == Path("here")
    assert parsed("--device", "cuda") == (out / "cuda", 1)


def test_what_cannot_be_loaded_is_an_error_in_a_line(tmp_path: Path, capsys, monkeypatch) -> None:
    def missing(*args: object) -> None:
        raise SpecError("model", "nobody/nothing", "cannot be loaded")

    monkeypatch.setattr("figures.drawing.run", missing)
    assert main(["lm_lengths", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: model = 'nobody/nothing': cannot be loaded\n"


def test_arms_of_stale_and_reused_batches() -> None:
    stale = lm.arm("f", "tiny", "min", "rloo", batches=4).schedule
    assert (stale.batch_size, stale.minibatch_size, stale.updates_per_batch) == (32, 8, 4)
    reused = lm.arm("f", "tiny", "min", "ppo", epochs=8).schedule
    assert (reused.batch_size, reused.minibatch_size, reused.updates_per_batch) == (8, None, 8)
    assert lm.arm("f", "tiny", "skew", "dpo", "off").schedule.source == "dataset"
    assert lm.arm("f", "tiny", "mode", "dpo", "off").schedule.sync_every_updates == float("inf")


# Committed records


@pytest.mark.parametrize("name", ["lm_lengths", "lm_likelihoods"])
def test_committed_records_are_drawn_without_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.training.run.execute", None)  # calling it would raise
    monkeypatch.setattr(Committed, "proven", lambda self, key, sources: True)  # twins have tests of their own
    lab = Lab(Store(tmp_path), kept_before=Committed(name))
    figure = all_figures()[name]
    records = figure.collect(lab)
    of_models = [r for r in records.values() if r.spec["policy"]["kind"] == "language_model"]
    assert of_models
    assert {r.source for r in of_models} == {"committed"}
    figure.draw(records)
    assert {row.setting for row in figure.verdicts(records)} == {"lm"}
    assert figure.caption(records)


def test_a_language_models_twin_is_short() -> None:
    twin = committed.shrink(lm.arm("f", "tiny", "min", "ppo", epochs=8).replace(updates=32))
    assert (twin.runs, twin.updates, twin.policy.decoding.max_new_tokens) == (2, 8, 16)  # type: ignore[attr-defined]
    assert twin.precision == "float64" and twin.optimiser.learning_rate == pytest.approx(3e-5)
    assert committed.shrink(lm.arm("f", "pythia-1.4b", "min", "ppo")).precision == "float32"


# By hand


def test_a_diverged_run_stays_where_it_was() -> None:
    found = lm.carried_on(np.array([[1.0, np.nan, np.nan], [1.0, 2.0, 3.0]]))
    assert found.tolist() == [[1, 1, 1], [1, 2, 3]]


def test_rank_correlation_by_hand() -> None:
    x = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 1, 5, np.nan], [4, 4, 4, 4]])
    y = np.array([[1.0, 2, 3, 9], [4, 3, 2, 1], [2, 1, 3, 4], [2, 7, 9, 1], [1, 2, 3, 4]])
    # One of six pairs the other way: (5 − 1)/6. Ties: two untied pairs of x, both as in y, and three of y: 2/√(2·3).
    assert toy_to_lm.kendall(x, y) == pytest.approx([1, -1, 4 / 6, 2 / np.sqrt(6), 0])
    # Drawn twice, an arm's pairs count twice, and with itself it makes none: pairs 12 and 13 of 12, 13, 23.
    twice = toy_to_lm.kendall(np.array([[1.0, 2, 3]]), np.array([[2.0, 1, 3]]), np.array([[2, 1, 1]]))
    assert twice == pytest.approx((-2 + 2 + 1) / 5)


def test_the_mean_over_tasks_is_of_tasks_resampled_with_algorithms_and_runs() -> None:
    """Without noise a task's τ moves with the algorithms alone, and the mean with the tasks too."""
    names = [f"{i}" for i in range(8)]
    toy = [{name: np.full((2, 4), float(i)) for i, name in enumerate(names)}] * 2  # two tunings
    model = [toy[0], {name: 8.0 - scores for name, scores in toy[0].items()}]
    same, turned, mean = toy_to_lm.correlations(toy, model)
    assert (same.low, same.high) == (1, 1) and (turned.low, turned.high) == (-1, -1)
    assert (mean.estimate, mean.low, mean.high, mean.runs) == (
        0,
        -1,
        1,
        64,
    )  # in a quarter of the draws one task is there twice


def test_arms_that_are_not_above_the_reference_are_ties_which_agree_with_nothing() -> None:
    """Four arms learn nothing on the model, by noise in the toy's order, and two do, in it: six of fifteen pairs are
    ties, and the nine others agree: 9/√(15·9)."""
    about_0 = np.array([[-0.3, 0.3, -0.3, 0.3]])
    toy = [{f"{i}": np.full((1, 4), 0.1 + i) for i in range(6)}]
    model = [{f"{i}": about_0 + 0.01 * i if i < 4 else np.full((1, 4), float(i)) for i in range(6)}]
    assert toy_to_lm.correlations(toy, model)[0].estimate == pytest.approx(9 / np.sqrt(15 * 9))
    worse = [{f"{i}": np.full((1, 4), i - 3.5) for i in range(6)}]  # below the reference, in the same order
    assert toy_to_lm.correlations(toy, worse)[0].estimate == pytest.approx(9 / np.sqrt(15 * 9))


def test_tasks_of_the_toys_have_the_overlap_of_the_language() -> None:
    for task, length in matched.LENGTHS.items():
        toy = matched.toy_of(task)
        if task == "skew":
            assert toy.best_mass == pytest.approx(length_mass(0), rel=1e-2)  # type: ignore[attr-defined]
        else:
            assert toy.overlap_mass() == pytest.approx(length_mass(length), rel=1e-2)  # type: ignore[attr-defined]
    seeds = [matched.arm("lm", task, f"dpo/{s}").seed for task in matched.LENGTHS for s in ("on", "off")]
    assert len(set(seeds)) == len(seeds)  # no two tasks or samplers have the same runs


def test_offline_arms_have_more_runs_as_tuned_on_seeds_of_their_own() -> None:
    records = {}
    for method in ("dpo/on", "dpo/off", "rwr/off"):
        spec = matched.arm("lm", "mode", method).to_json()
        records[f"lm/mode/{method}/0"] = Record(spec, {}, {"tuning": {"points": [{"learning_rate": 0.7}], "chosen": 0}})
    records["toy/mode/dpo/off/0"] = records["lm/mode/dpo/off/0"]
    found = matched.more_runs(SyntheticLab(), records)
    assert set(found) == {"lm/mode/dpo/off/0", "lm/mode/rwr/off/0"}
    before, after = (x["lm/mode/dpo/off/0"] for x in (records, found))
    same = {**before.spec, "optimiser": {**before.spec["optimiser"], "learning_rate": 0.7}, "runs": 20}
    assert after.spec == {**same, "seed": before.spec["seed"] + 100} and after.provenance == before.provenance
    assert after.spec["seed"] not in {matched.arm("lm", task, "dpo/off").seed for task in matched.LENGTHS}


def test_a_cell_whose_arms_ended_below_the_reference_is_tuned_by_more_runs_and_tested_on_fresh_seeds() -> None:
    asked: dict[str, int] = {}

    class Watching(SyntheticLab):
        def tuned_records(self, arms: Any, grids: Any, tuning_runs: int = 10, *more: Any, **settings: Any) -> Any:
            asked.update(dict.fromkeys(arms, tuning_runs))
            return super().tuned_records(arms, grids, tuning_runs, *more, **settings)

    found = matched.records(Watching(), "lm", "skew", ("dpo/on", "dpo/off"))
    assert asked == {"lm/skew/dpo/on/0": 1, "lm/skew/dpo/off/0": 10} and list(found) == list(asked)
    seed = matched.arm("lm", "skew", "dpo/off").seed
    assert matched.more_runs(Watching(), found)["lm/skew/dpo/off/0"].spec["seed"] == seed + 200
    asked.clear()
    assert list(matched.records(Watching(), "lm", "min", ("dpo/off",))) == list(asked) and set(asked.values()) == {1}


def test_rankings_take_the_models_offline_arms_from_more_runs_and_rows_say_how_many() -> None:
    records = {key: filled(r, {}, 1e-3) for key, r in skeleton(toy_to_lm.FIGURE).items() if "/min/" in key}
    seeds = {(k.split("/")[0], k.split("/")[3]): (r.spec["runs"], r.spec["seed"]) for k, r in records.items()}
    assert seeds == {
        ("toy", "on"): (50, 100),
        ("toy", "off"): (50, 101),
        ("lm", "on"): (5, 100),
        ("lm", "off"): (20, 201),
    }
    rows = {row.part: row for row in toy_to_lm.verdicts(records)}
    offline, on_policy = rows["offline, final score"], rows["on-policy, final score"]
    assert "50 runs per arm on toys and 20 on the model" in offline.note and offline.runs == 7 * 20
    assert "50 runs per arm on toys and 5 on the model. More runs of the model would not do" in on_policy.note
    assert "5 on-policy and 20 offline runs of " in toy_to_lm.caption(records)
    assert set(offline.spec_hashes) == {key for key in records if "/off/" in key}  # those of more_runs among them


def test_arms_that_learn_from_pairs_alone_are_what_skew_has_offline() -> None:
    assert {m for m in matched.methods_of("skew") if m.endswith("/off")} == {
        f"{name}/off" for name in ("dpo", "ipo", "kto", "simpo", "pref_ft")
    }


def test_on_skew_online_arms_are_those_of_min() -> None:
    records = dict.fromkeys((f"min/{method}" for method in lm_lengths.METHODS), record())
    records |= {"skew/dpo/off": record(), "skew/pref_ft/off": record()}
    found = lm_lengths.cells(records)
    assert set(found) == {"min", "skew"}
    assert found["skew"]["dpo/on"] == "min/dpo/on" and found["skew"]["dpo/off"] == "skew/dpo/off"


def test_changes_of_log_probs_are_from_the_reference_on() -> None:
    arms = record(
        first_logp_winner=[[-30.0, -31.0, -34.0], [-20.0, -20.0, np.nan]],
        first_logp_loser=[[-50.0, -60.0, -70.0], [-20.0, -25.0, np.nan]],
    )
    assert lm_likelihoods.change(arms, "chosen").tolist() == [[0, -1, -4], [0, 0, 0]]
    assert lm_likelihoods.margin(arms).tolist() == [[0, 9, 16], [0, 5, 5]]
