"""python -m sims: what it runs, and that what cannot be is one line on stderr, exit status 2, before anything runs."""

from pathlib import Path

import numpy as np
import pytest

from sims.__main__ import main
from sims.command_line import TABLES, parse
from sims.core.algorithms import algorithm_table, all_algorithms
from sims.core.spec import Spec, SpecError, kinds_of
from sims.environments import ToyEnvironment
from sims.experiments.measures import optima, target_beta
from sims.experiments.store import Store
from sims.listings import toy_policies
from tests.exits import exit_status

QUICK = ["--updates", "4", "--evaluations", "2", "--runs", "3", "--batch-size", "4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--algorithm dop", "algorithm = 'dop': must be one of"),
        ("--algorithm dop", "did you mean dpo?"),
        ("--algorithm dpo --bta 0.1", "--bta: no such option with these choices; did you mean --beta?"),
        ("--algorithm best-of-n --beta 0.1", "--beta: no such option"),
        ("--algorithm dpo --beta 0", "beta = 0.0: must be float > 0"),
        ("--algorithm dpo --beta -1", "beta = -1.0: must be float > 0"),
        ("--algorithm dpo --beta much", "beta = 'much': must be float > 0"),
        ("--algorithm dpo --num-generations 1", "num_generations = 1: must be at least 2"),
        ("--algorithm ipo --length-normalised maybe", "maybe"),
        ("--minibatch-size 7", "minibatch_size = 7: must divide batch_size = 64"),
        ("--sync-every-updates 3 --epochs 2", "sync_every_updates = 3.0: must fall on batch boundaries"),
        ("--runs 2.5", "runs = '2.5': must be int >= 1"),
        ("--updates", "expected one argument"),
        ("--environment bandit-r3", "environment = 'bandit_r3': must be one of"),
        ("--source dataset", "source = 'dataset': must be policy, pool or replay"),
        ("--learning-rate inf", "learning_rate = inf: must be finite: float > 0"),
        ("--algorithm sft --include-prompt", "include_prompt = True: must be false"),
        ("--algorithm awr --baseline group_mean --num-generations 1", "num_generations = 1: must be at least 2"),
        ("--algorithm raft --top per_prompt --num-generations 1", "num_generations = 1: must be at least 2"),
        ("--peak 1000", "peak = 1000.0: must be an action: at most 99"),
        ("--environment bandit-overlap --overlap 0.7 --spread 50", "overlap = 0.7: must be above"),
        ("--environment bandit-overlap --overlap 0.01 --spread 1e6", "overlap = 0.01: must be above"),
        ("--environment bandit-overlap --spread 1", "spread = 1.0: must be larger"),
        ("--environment contextual --reward-model-hidden 8", "only means something with reward_model"),
        ("--environment contextual --reward-model mlp --reward-model-hidden 0", "must name at least one layer"),
        (
            "--environment token-tree --policy transformer --fit-learning-rate 1e9",
            "fit_learning_rate = 1000000000.0: must be float > 0 and <= 10",
        ),
        ("--learning-rate 1e39", "learning_rate = 1e+39: must be at most 3.4e+38 in float32"),
        ("--algorithm dpo --beta 1e-39", "beta = 1e-39: must be 0, or at least 1.2e-38 in float32"),
        ("--algorithm rest --quantiles nan", "quantiles = (nan,): must be finite"),
        ("--runs 99999999999999999999", "must be int >= 1, and at most 9223372036854775807"),
        ("--runs 1000000000", "of memory, of which"),
        ("--batch-size 100000000000 --runs 1", "batch_size = 100000000000: needs at least"),
        ("--evaluations 1000000000 --updates 1000000000", "evaluations = 1000000000: needs at least"),
        (
            "--environment token-bandit-r1 --policy transformer --fit-samples 10000000000",
            "fit_samples = 10000000000: ne",
        ),
        ("--updates 1000000000000000000", "updates = 1000000000000000000: would take 634,196 years"),
        ("--source polcy", "source = 'polcy': must be one of policy, pool, replay, dataset; did you mean policy?"),
        ("--policy tabel", "did you mean table?"),
        ("--results=", "argument --results: '': must name a file or folder"),
        ("--environment token-tree --policy mlp", "it needs an environment whose responses are single actions"),
        ("--labels implicit --implicit-policy frozen", "implicit_after_updates = 0: must be at least 1"),
        ("--labels implicit --source pool --pool-size 64", "source = 'pool': must be policy"),
        ("--implicit-beta 0.5", "implicit_beta = 0.5: only means something when labels = implicit"),
        ("--plot picture.gif", "plot = 'picture.gif': must end in .png, .svg or .pdf"),
        ("--plot nowhere/picture.png", "must be in an existing folder"),
        (f"--results {__file__}", "must be a folder"),
    ],
)
def test_errors(options: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    elsewhere = [] if "--results" in options else ["--results", str(tmp_path / "results")]
    status = exit_status(main, [*elsewhere, *options.split()])
    printed = capsys.readouterr()
    assert status == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1 and printed.err.startswith("error: ")
    assert not (tmp_path / "results").exists()


def test_options_reach_the_experiment() -> None:
    line = "--algorithm dpo --beta 0.3 --environment bandit-overlap --overlap 1e-3 --policy mlp --hidden 8,16"
    experiment, _ = parse([*line.split(), "--sync-every-updates", "inf", "--learning-rate", "0.5", "--seed", "7"])
    assert experiment.algorithm == all_algorithms()["dpo"](beta=0.3)
    assert experiment.environment.overlap == 1e-3
    assert experiment.policy.hidden == (8, 16)
    assert experiment.schedule.sync_every_updates == float("inf")
    assert (experiment.optimiser.learning_rate, experiment.seed) == (0.5, 7)


@pytest.mark.parametrize("name", ["", "é", "a b", "../a"])
def test_a_name_that_the_store_could_not_take_is_refused_at_once(name: str) -> None:
    experiment, _ = parse(QUICK)
    with pytest.raises(SpecError, match="must be made of letters, digits, _ and -"):
        experiment.replace(name=name)


def test_a_run_prints_the_optimum_beside_it_and_is_cached(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = ["--algorithm", "dpo", "--environment", "token-tree", "--label-temperature", "0.2", *QUICK]
    line += ["--results", str(tmp_path)]
    assert main([*line, "--plot", str(tmp_path / "run.png")]) == 0
    first = capsys.readouterr().out
    for word in ("reward", "score", "KL", "entropy", "95 % interval", "largest reward", "π* at β = 0.02", "3 runs"):
        assert word in first
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    record = next(tmp_path.glob("*.npz"))
    written = record.stat().st_mtime_ns
    assert main(line) == 0
    assert capsys.readouterr().out in first
    for name in ("one.svg", "other.svg"):
        assert main([*line, "--plot", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert record.stat().st_mtime_ns == written
    assert main([*line, "--force"]) == 0
    assert not record.exists() and len(list(tmp_path.glob("*.npz"))) == 1  # a new record has taken its place


def test_a_policy_that_only_hears_itself_stays_where_it_is(tmp_path: Path) -> None:
    """Its labels are all ties until it has learned something from the environment's."""
    line = ["--algorithm", "dpo", "--labels", "implicit", "--results", str(tmp_path), *QUICK]
    for given, moves in (([], False), (["--implicit-after-updates", "2"], True)):
        assert main([*line, *given]) == 0
        experiment, _ = parse([*line, *given])
        reward = Store(tmp_path).load(experiment.name, experiment.to_json()).arrays["reward"]
        assert (abs(reward[:, -1] - reward[:, 0]).max() > 1e-6) == moves


def test_the_optimum_is_exact(tmp_path: Path) -> None:
    """By hand on the tree's rewards and reference: E under π_ref·e^{r/β}/Z."""
    line = ["--algorithm", "rloo", "--beta", "0.5", "--environment", "token-tree", *QUICK, "--precision", "float64"]
    main([*line, "--results", str(tmp_path)])
    experiment, _ = parse(line)
    record = Store(tmp_path).load(experiment.name, experiment.to_json())
    assert record is not None
    mass = np.exp(record.arrays["logp_ref"][0, 0] + record.arrays["rewards"][0] / 0.5)
    expected = (mass / mass.sum() * record.arrays["rewards"][0]).sum()
    assert optima(record, experiment)[-1].reward == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("line", "beta"),
    [
        ("--algorithm rloo --beta 0.2", 0.2),
        ("--algorithm rloo", None),
        ("--algorithm dpo --beta 0.2 --label-temperature 0.5", 0.1),
        ("--algorithm dpo --beta 0.2", None),  # noiseless labels: the loss has no minimum
        ("--algorithm dpo --label-temperature 0.5 --flip-rate 0.1", None),
        ("--algorithm ppo --beta 0.2 --kl-in loss --kl-estimator k3", None),
        ("--algorithm simpo", None),
        ("--algorithm ppo --beta 0.2", 0.2),
        ("--algorithm ppo --beta 0.2 --kl-estimator k3", None),  # in the reward, k3 has another gradient than the KL
        ("--algorithm ppo --beta 0.2 --gamma 0.9", None),
        ("--algorithm rloo --beta 0.2 --reference copy --reference-every-updates 5", None),  # it moves on
        ("--algorithm rloo --beta 0.2 --environment contextual --reward-model table", None),  # not the gold reward
        ("--algorithm dpo --label-temperature 0.5 --environment contextual --source dataset --batch-size 48", None),
        ("--algorithm dpo --label-temperature 0.5 --labels implicit", None),
    ],
)
def test_which_distribution_an_algorithm_aims_at(line: str, beta: float | None) -> None:
    assert target_beta(parse(line.split())[0]) == beta


def test_the_table_lists_every_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--algorithms"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == algorithm_table()
    assert all(f"| {name} |" in printed for name in all_algorithms())


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_shows_the_tables_of_the_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On failure: put the output of `python -m sims --{name}` between the two comments of the README."""
    assert main([f"--{name}"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == TABLES[name]()
    text = (Path(__file__).parents[2] / "README.md").read_text()
    shown = text.split(f"python -m sims --{name} -->\n")[1].split(f"\n<!-- end of {name}")[0]
    assert shown.strip() == printed, f"put the output of `python -m sims --{name}` into the README"


@pytest.mark.parametrize(("name", "kinds"), [("environments", kinds_of(ToyEnvironment)), ("policies", toy_policies())])
def test_a_table_has_a_row_of_whole_cells_for_each_kind(name: str, kinds: dict[str, type[Spec]]) -> None:
    header, _, *rows = TABLES[name]().splitlines()
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(kinds)
    assert all(row.count(" | ") == header.count(" | ") and "|  |" not in row for row in rows)


def test_every_option_of_every_algorithm_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in all_algorithms():
        with pytest.raises(SystemExit):
            main(["--algorithm", name, "--help"])
        text = capsys.readouterr().out
        assert all(f"--{field.replace('_', '-')}" in text for field in all_algorithms()[name].names())
