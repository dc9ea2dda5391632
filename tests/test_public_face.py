"""`import sims` as a user meets it: light, typed, complete, the same numbers as the command line, errors that teach."""

import ast
import inspect
import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import matplotlib
import numpy as np
import pytest
import torch

import llm
import sims
from sims.__main__ import main
from sims.api import run_experiment
from sims.core.loop.deployment import Deployment
from sims.core.loop.labelling import Labelling
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, kinds_of
from sims.environments import ToyEnvironment
from sims.experiments.computation import Computation
from sims.experiments.curves import save
from sims.experiments.experiment import Experiment
from sims.experiments.record_file import RecordFile
from sims.experiments.results import Result
from sims.experiments.store import Record
from sims.settings import Settings

ROOT = Path(__file__).parents[1]
QUICK = {"updates": 4, "runs": 3, "batch_size": 4}


@pytest.fixture(autouse=True)
def no_window() -> None:
    matplotlib.use("Agg")


def quick(**changes: object) -> Result:
    return sims.run(sims.DPO(beta=0.1), sims.BanditR1(), **QUICK | changes)


# What there is.


@pytest.mark.parametrize("package", ["sims", "llm"])
def test_importing_a_package_loads_no_library(package: str) -> None:
    code = f"import sys, {package}; print({{'numpy', 'torch', 'transformers', 'matplotlib'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_experiment_on_a_language_model_is_named_and_read_without_transformers() -> None:
    """Figures look up committed records by it, and most compute none of them."""
    code = """
import sys
from llm.training.presets import PRESETS
from sims.core.spec import from_json
from sims.experiments.curves import save
from sims.experiments.experiment import Experiment
from sims.experiments.runner import sources_of
for preset in PRESETS.values():
    assert from_json(preset.to_json(), Experiment) == preset and sources_of(preset)
print("transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("package", [sims, llm])
def test_every_listed_name_is_there(package: types.ModuleType) -> None:
    assert len(package.__all__) == len(set(package.__all__)) > 10
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("base", [sims.Algorithm, ToyEnvironment, PolicySpec])
def test_every_kind_of_the_package_has_its_public_name(base: type) -> None:
    """On failure: list the newcomer in sims/__init__.pyi."""
    classes = {cls for cls in kinds_of(base).values() if cls.__module__.startswith("sims.")}
    missing = {cls.__name__ for cls in classes} - set(sims.__all__)
    assert not missing
    assert all(getattr(sims, cls.__name__) is cls for cls in classes)


def test_every_pure_loss_is_among_the_losses() -> None:
    """Each public function of a file of sims/core/losses."""
    defined = {
        node.name
        for file in (ROOT / "sims/core/losses").glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert defined == set(sims.losses.__all__)


@pytest.mark.parametrize("name", ["Dpo", "BanditR3", "dpo"])
def test_an_unknown_name_is_told_its_neighbour(name: str) -> None:
    near = {"Dpo": "DPO", "BanditR3": "BanditR", "dpo": "DPO"}[name]
    with pytest.raises(AttributeError, match=f"sims has no {name}; did you mean {near}"):
        getattr(sims, name)


# How it is called.


def test_it_is_the_run_of_the_command_line(tmp_path: Path) -> None:
    """In memory, from the folder, and as python -m sims left it: one record, bit for bit, with one identity."""
    line = "--algorithm dpo --beta 0.1 --environment bandit-r1 --updates 4 --evaluations 4 --runs 3 --batch-size 4"
    assert main([*line.split(), "--results", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.npz")
    written = file.stat().st_mtime_ns
    kept, fresh = quick(results=tmp_path), quick()
    assert file.stat().st_mtime_ns == written
    assert kept.record.hash == fresh.record.hash and RecordFile(file).keys.keys() == {
        f"dpo-bandit_r1-{kept.record.hash}"
    }
    assert kept.record.arrays.keys() == fresh.record.arrays.keys()
    for name, array in kept.record.arrays.items():
        np.testing.assert_array_equal(array, fresh.record.arrays[name])


def test_settings_reach_their_part() -> None:
    result = quick(learning_rate=0.3, sync_every_updates=2, seed=7, precision="float64", schedule=Schedule(epochs=2))
    experiment = result.experiment
    assert (experiment.optimiser.learning_rate, experiment.seed, experiment.precision) == (0.3, 7, "float64")
    assert experiment.schedule == Schedule(epochs=2, batch_size=4, sync_every_updates=2)
    assert result.updates.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lerning_rate": 0.1}, "lerning_rate = 0.1: no such setting; did you mean learning_rate?"),
        ({"zzz": 1}, "zzz = 1: no such setting: must be one of "),
        ({"beta": 0.1}, r"beta = 0.1: belongs to dpo: DPO\(beta=...\)"),
        ({"peak": 3}, r"peak = 3: belongs to bandit_r1: BanditR1\(peak=...\)"),
        ({"algorithm": sims.DPO}, r"algorithm = 'DPO': must be an instance: DPO\(\)"),
        ({"algorithm": "dpo"}, r"algorithm = 'dpo': must be an instance of Algorithm, such as sims.DPO\(\)"),
        ({"environment": sims.DPO()}, r"environment = DPO\(.*must be an instance of EnvironmentSpec"),
        ({"policy": sims.MLP}, r"policy = 'MLP': must be an instance: MLP\(\)"),
        ({"schedule": {}}, r"schedule = {}: must be an instance of Schedule"),
        ({"updates": 0}, "updates = 0: must be int >= 1"),
        ({"batch_size": 2.5}, "batch_size = 2.5: must be int >= 1"),
        ({"results": __file__}, "results = .*: must be a folder"),
    ],
)
def test_errors(changes: dict[str, object], message: str) -> None:
    given = {"algorithm": sims.DPO(), "environment": sims.BanditR1(), **QUICK} | changes
    with pytest.raises(SpecError, match=message) as error:
        sims.run(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run_first(algorithm=sims.DPO(beta=torch.ones(2))), r"^beta = \[1.0, 1.0\]: must be one number"),
        (
            lambda: run_first(learning_rate=torch.tensor([2.0, 1.0])),
            r"^learning_rate = \[2.0, 1.0\]: must be one",
        ),
        (lambda: run_first(results=""), r"^results = '': must name a folder"),
        (lambda: run_first(results=5), r"^results = 5: must name a folder"),
        (lambda: sims.run_experiments([5], "results"), r"^experiments = 5: must be a list of sims.Experiment"),
        (lambda: sims.run_experiments([], "results", jobs="2"), r"^jobs = '2': must be int >= 1"),
        (lambda: run_first(updates=1, runs=1).plot(figure=5), r"^figure = 5: must be a figure that `plot` returned"),
    ],
)
def test_what_python_gives_and_no_option_can(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        call()


def run_first(**changes: object) -> sims.Result:
    return sims.run(**{"algorithm": sims.DPO(), "environment": sims.BanditR1()} | changes)


def test_settings_by_name_are_the_fields_of_the_specs() -> None:
    """On failure: bring `Settings`, or the defaults of `sims.run`, back into step."""
    hints = {
        name: hint
        for part in (Schedule, Optimiser, Labelling, Deployment, Computation)
        for name, hint in part.hints().items()
        if name != "kind"
    }
    lesser = {name: Experiment.hints()[name] for name in ("name", "evaluations", "precision")}
    assert get_type_hints(Settings) == hints | lesser
    parameters = inspect.signature(sims.run).parameters
    defaults = {field.name: field.default for field in Experiment.__dataclass_fields__.values()}
    for name in ("updates", "runs", "seed", "schedule", "optimiser"):
        assert parameters[name].default == defaults[name]


def test_an_algorithm_without_source_runs_in_memory_and_is_not_kept(tmp_path: Path) -> None:
    """As one from a notebook's cell."""
    scope = {"__name__": "__main__", "sims": sims, "dataclass": dataclass}
    exec("@dataclass(frozen=True)\nclass Mine(sims.DPO, kind='of_a_cell'):\n    '''Mine.'''\n", scope)
    try:
        assert sims.run(scope["Mine"](), sims.BanditR1(), **QUICK).score.shape == (3, 5)
        with pytest.raises(
            SpecError, match=r"results = .*: must be left out: a record cannot be kept without the source"
        ):
            sims.run(scope["Mine"](), sims.BanditR1(), **QUICK, results=tmp_path)
    finally:
        from sims.core import spec

        del spec._KINDS["of_a_cell"]


def test_the_bar_ends_full(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path):  # in memory, run and kept, read
        quick(progress=True, results=folder)
        assert "dpo-bandit_r1 3 runs 100%" in capsys.readouterr().err
    quick()
    assert capsys.readouterr().err == ""


# What comes back.


@pytest.mark.parametrize("environment", [sims.BanditR1(num_prompts=2), sims.TokenTree(), sims.Contextual()])
def test_axes_are_the_shapes(environment: sims.EnumerableSpec) -> None:
    result = sims.run(sims.DPO(), environment, **QUICK)
    prompts, responses = result.rewards.shape
    sizes = {"run": 3, "evaluation": 5, "prompt": prompts, "response": responses}
    assert result.axes.keys() == {"score", *result.record.arrays}
    for name, array in result.arrays.items():
        assert array.shape == tuple(sizes[axis] for axis in result.axes[name]), name


def test_every_array_is_an_attribute() -> None:
    result = quick()
    for name, array in result.record.arrays.items():
        assert getattr(result, name) is array and name in dir(result)
    with pytest.raises(AttributeError, match=r"no array kl in this record; did you mean kl_policy_ref?"):
        result.kl  # noqa: B018
    with pytest.raises(AttributeError, match="no array temperature in this record; it has best_mass_final, "):
        result.temperature  # noqa: B018


def test_the_optimum_is_that_of_the_objective() -> None:
    """π_ref·e^{r/β}/Z by hand, and no policy of the run beats it in E[r] − β·KL."""
    result = sims.run(sims.RLOO(beta=0.3), sims.TokenTree(), **QUICK, precision="float64")
    mass = np.exp(result.logp_ref + result.rewards / 0.3)
    expected = mass / mass.sum(-1, keepdims=True)
    assert result.optimum is not None and result.optimum.label == "π* at β = 0.3"
    np.testing.assert_allclose(np.exp(result.optimum.logp), expected, atol=1e-12)
    value = result.optimum.reward - 0.3 * result.optimum.kl_policy_ref
    assert (result.gold - 0.3 * result.kl_policy_ref < value).all()
    assert [optimum.label for optimum in result.optima] == ["largest reward", "π* at β = 0.3"]
    assert quick().optimum.label == "largest reward" and quick().optimum.reward == 1.0


def test_the_table_is_text_and_html() -> None:
    table = quick().table()
    text, shown = str(table), table._repr_html_()
    assert text == repr(table)
    lines = text.splitlines()
    assert len({len(line) for line in lines[: 1 + len(table.rows)]}) == 1  # columns
    for cell in (*table.header, *(cell for row in table.rows for cell in row)):
        assert cell in text and cell in shown
    assert lines[-1].startswith("3 runs, 4 updates, 32 samples per run, 0 diverged (score 0), record ")
    assert "one run: none" in str(quick(runs=1).table())


def record_of(result: Result, **arrays: np.ndarray) -> Result:
    return Result(result.experiment, Record(result.record.spec, result.record.arrays | arrays, {}))


def test_runs_without_a_number_are_left_out_of_the_table_and_stop_the_curve() -> None:
    """As those of a language model that diverged: one of two runs has no reward from the third evaluation on."""
    reward = np.array([[0.0, 1.0, np.nan], [0.0, 2.0, 3.0]])
    result = record_of(quick(runs=2, evaluations=2), reward=reward)
    assert result.table().rows[0][:4] == ("reward", "0.0000", "3.0000", "one run: none")
    (panel,) = result.plot("reward").axes
    np.testing.assert_array_equal(panel.get_lines()[0].get_ydata(), [0.0, 1.5])


def test_an_unknown_optimum_is_none_and_the_reward_takes_its_place() -> None:
    result = quick()
    arrays = {name: x for name, x in result.record.arrays.items() if name != "logp_ref"}
    unknown = Result(result.experiment, Record(result.record.spec, arrays | {"best_reward": np.full(3, np.nan)}, {}))
    assert unknown.optima == [] and unknown.optimum is None
    assert "final reward" in repr(unknown)
    assert unknown.plot().axes[0].get_ylabel() == "reward"
    assert "score" not in [row[0] for row in unknown.table().rows]


def test_the_plot_shows_means_bands_and_optima() -> None:
    result = quick(evaluations=2)
    figure = result.plot(label="online")
    score, kl = figure.axes
    (curve, best), (other,) = score.get_lines(), kl.get_lines()
    np.testing.assert_array_equal(curve.get_xdata(), result.samples)
    np.testing.assert_allclose(curve.get_ydata(), result.score.mean(0))
    np.testing.assert_allclose(other.get_ydata(), result.kl_policy_ref.mean(0))
    assert best.get_label() == "largest reward" and set(best.get_ydata()) == {1.0}
    assert len(score.collections) == 1  # the band
    assert score.get_xlabel() == "samples drawn" and kl.get_ylabel() == "KL(policy ‖ reference), nats"
    assert result.plot(figure=figure, label="again") is figure
    assert [text.get_text() for text in score.get_legend().get_texts()] == ["online", "largest reward", "again"]
    assert quick(source="pool", pool_size=8).plot("gold").axes[0].get_xlabel() == "updates"
    assert not quick(runs=1).plot().axes[0].collections
    with pytest.raises(SpecError, match="names = 'rewards': must be among the arrays over runs and evaluations: score"):
        result.plot("rewards")
    with pytest.raises(SpecError, match="must have 1 panels, one for each of score"):
        result.plot("score", figure=figure)


def test_a_label_is_drawn_as_it_stands(tmp_path: Path) -> None:
    """matplotlib hides one that begins with `_`, and stops at mathematics that it cannot read; β is drawn."""
    result, figure = quick(), None
    labels = ("_first", r"$\frac$", "$$", "5 $", "last", r"$\beta$", "_nolegend_")
    for label in labels:
        figure = result.plot("score", figure=figure, label=label)
    assert figure is not None
    (panel,) = figure.axes
    panel.axvline(10)  # the user's own, without a name
    result.plot("score", figure=figure, label="_again")
    texts = panel.get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["_first", "largest reward", *labels[1:-1], "_again"]
    assert [text.get_parse_math() for text in texts] == [True, True, False, False, False, True, True, True]
    for ending in ("png", "svg"):
        save(figure, tmp_path / f"figure.{ending}")
    assert all(f">{label}<" in (tmp_path / "figure.svg").read_text() for label in (*labels[:5], "_again"))
    for label in ("a\0", "half \ud800"):
        with pytest.raises(SpecError, match="must be text, without control characters and halves of characters"):
            result.plot(label=label)


def test_to_xarray_keeps_arrays_axes_and_spec() -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is an extra")
    result = quick()
    found = result.to_xarray()
    assert isinstance(found, xarray.Dataset) and dict(found.sizes) == {
        "run": 3, "evaluation": 5, "prompt": 1, "response": 100,
    }  # fmt: skip
    for name, array in result.arrays.items():
        np.testing.assert_array_equal(found[name].values, array)
    assert found["kl_policy_ref"].attrs["units"] == "nats"
    assert json.loads(found.attrs["experiment"]) == result.experiment.to_json()


def test_without_xarray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match="pip install xarray"):
        quick().to_xarray()


def test_it_is_frozen_and_says_what_it_is() -> None:
    result = quick()
    assert repr(result).startswith("Result(dpo on bandit_r1: 3 runs of 4 updates, final score ")
    with pytest.raises(AttributeError):
        result.record = None
    assert run_experiment(result.experiment).experiment == result.experiment
