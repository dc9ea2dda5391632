"""Held-out numbers of recorded responses: by hand on a few rows; and whole prompts are held out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from llm.__main__ import main
from llm.training.folder import turned
from llm.training.held_out import RecordedEvaluation
from llm.training.loggers import read_json_lines
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.algorithms import find_algorithm
from sims.core.schedule import Schedule

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "slept"]
ROWS = [
    {"prompt": f"{WORDS[i % 5]} {WORDS[(i + 1) % 5]} ", "chosen": WORDS[i % 9], "rejected": f"{WORDS[i % 7]} sat on"}
    for i in range(30)
]


def data(folder: Path) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def run_on(path: str, algorithm: str, **changes: object) -> Run:
    base = PRESETS["tiny-min-length"]
    kept = {"data": path, "data_kind": "preference", "held_out_share": 0.4}
    return Run(
        base.replace(
            environment=base.environment.replace(**kept | changes),
            algorithm=find_algorithm(algorithm)(),
            schedule=Schedule(batch_size=4, num_generations=2, source="dataset"),
            updates=3,
            evaluations=1,
        )
    )


def test_whole_prompts_are_held_out(tmp_path: Path) -> None:
    run = run_on(data(tmp_path), "dpo")
    trained, held_out = ({e.prompt for e in x.examples} for x in (run.environment, run.evaluation_environment))
    assert not trained & held_out and len(trained) + len(held_out) == 5
    assert len(run.environment.examples) + len(run.evaluation_environment.examples) == 30
    assert 6 <= len(run.evaluation_environment.examples) <= 12


def test_what_became_of_rows_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both parts are of the same file; another split is another one."""
    path, cut = data(tmp_path), {"max_completion_length": 3, "on_too_long": "truncate"}
    run_on(path, "dpo", **cut)
    said = [line for line in capsys.readouterr().err.splitlines() if "truncated" in line]
    assert len(said) == 1 and said[0].startswith(f"{path}: truncated ")
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(Path(path).read_text())
    Path(path).unlink()
    run_on(str(tmp_path), "dpo", **cut, held_out_share=0, data_split="train", evaluation_split="test")
    assert sum("truncated" in line for line in capsys.readouterr().err.splitlines()) == 2


def test_numbers_are_those_of_each_row_on_its_own(tmp_path: Path) -> None:
    run = run_on(data(tmp_path), "dpo")
    evaluation = RecordedEvaluation(run)
    start = {name: float(x) for name, x in evaluation.row().items()}
    assert start["rewards/accuracies"] == 0.5 and start["rewards/margins"] == 0  # the reference itself: all are ties
    for _ in run.train():
        pass
    row = {name: float(x) for name, x in evaluation.row().items()}
    batch = run.evaluation_environment.recorded(len(run.evaluation_environment.examples), run.noise)
    nats, tokens, margins = 0.0, 0, []
    for i in range(batch.size):
        part = batch.narrow(i, 1)
        with torch.no_grad():
            logp, ref = run.policy.forward(part).logp[0], run.initial.forward(part).logp[0]
        mask, beta = part.mask[0], run.experiment.algorithm.beta
        whole, ratio = (logp * mask).sum(-1), ((logp - ref) * mask).sum(-1)
        nats, tokens = nats - float(whole[0]), tokens + int(mask[0].sum())
        margins.append(beta * float(ratio[0] - ratio[1]))
    assert row["nll"] == pytest.approx(nats / tokens, rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert row["rewards/margins"] == pytest.approx(sum(margins) / len(margins), rel=1e-4, abs=1e-6)
    assert row["rewards/accuracies"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))
    assert row["nll"] != start["nll"]


@pytest.mark.parametrize("weight", [None, [0.0, 2.0, 1.0]])
def test_ties_and_weights_count_as_in_the_loss(tmp_path: Path, weight: list[float] | None) -> None:
    """The second of a pair wins, a tie has half of each, the first wins; by share, and of shares by their sum."""
    run = run_on(data(tmp_path), "dpo")
    for _ in run.train():
        pass
    evaluation = RecordedEvaluation(run)
    assert evaluation.batch is not None
    batch, label = evaluation.batch.narrow(0, 3), torch.tensor([[0.0], [0.5], [1.0]])
    given = None if weight is None else torch.tensor(weight).unsqueeze(-1)
    evaluation.batch = batch.replace(pair_label=label, pair_weight=given)
    with torch.no_grad():
        logp, ref = ((model.forward(batch).logp * batch.mask).sum(-1) for model in (run.policy, run.initial))
    (a, b), (m, n) = logp.double().T, batch.mask.sum(-1).double().T
    share = [1 / 3] * 3 if weight is None else [0.0, 1 / 2, 1 / 2]  # a prompt counts once, whatever its pair weighs
    nats = share[0] * b[0] + share[1] * (a[1] + b[1]) / 2 + share[2] * a[2]
    tokens = share[0] * n[0] + share[1] * (m[1] + n[1]) / 2 + share[2] * m[2]
    between = [float(x) for x in ((logp - ref)[:, 0] - (logp - ref)[:, 1]) * run.experiment.algorithm.beta]
    row = {name: float(x) for name, x in evaluation.row().items()}
    assert row["nll"] == pytest.approx(float(-nats / tokens), rel=1e-5)
    assert row["rewards/margins"] == pytest.approx(share[2] * between[2] - share[0] * between[0], rel=1e-4)
    right = share[0] * (between[0] < 0) + share[1] / 2 + share[2] * (between[2] > 0)
    assert row["rewards/accuracies"] == pytest.approx(right)


def test_nothing_is_claimed_where_nothing_is_held_out(tmp_path: Path) -> None:
    assert RecordedEvaluation(run_on(data(tmp_path), "dpo", held_out_share=0.0)).row() == {}
    assert RecordedEvaluation(Run(PRESETS["tiny-min-length"])).row() == {}


def test_sft_logs_its_held_out_loss_and_keeps_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["sft", "--output", str(tmp_path / "run"), "--data", data(tmp_path), "--data-kind", "preference"]
    line += ["--held-out-share", "0.4", "--batch-size", "4", "--updates", "8", "--evaluations", "4"]
    line += ["--evaluation-prompts", "8", "--max-new-tokens", "4", "--learning-rate", "0.03"]
    assert main([*line, "--metric-for-best-model", "eval_nll"]) == 0
    rows = [row for row in read_json_lines(tmp_path / "run" / "metrics.jsonl") if "eval_nll" in row]
    assert [row["update"] for row in rows] == [0, 2, 4, 6, 8]
    assert all(row["eval_perplexity"] == pytest.approx(math.exp(row["eval_nll"])) for row in rows)
    best = min(rows, key=lambda row: row["eval_nll"])["update"]
    assert best in (0, 8) or (tmp_path / "run" / f"checkpoint-{best:08d}").is_dir()
    assert "eval_nll" not in capsys.readouterr().out or best != 8


def test_a_turn_is_told_with_what_keeps_the_best() -> None:
    rows = [{"update": u, "eval_nll": x} for u, x in ((0, 3.0), (5, 2.0), (10, 2.5))]
    assert len(turned(rows)) == 1 and "eval_nll was best at update 5 (2.000; at the end 2.500)" in turned(rows)[0]
    assert turned(rows[:2]) == turned([{"update": 0, "eval_reward": 1.0}]) == []
    assert (
        "accuracies was best at update 1"
        in turned([{"update": u, "eval_rewards/accuracies": x} for u, x in ((0, 0.5), (1, 0.9), (2, 0.6))])[0]
    )


def test_a_share_that_means_nothing_is_refused() -> None:
    task = PRESETS["tiny-min-length"].environment
    for changes in ({"held_out_share": 0.1}, {"data": "x.jsonl", "held_out_share": 0.1, "evaluation_split": "test"}):
        with pytest.raises(ValueError, match="held_out_share"):
            task.replace(**changes)
