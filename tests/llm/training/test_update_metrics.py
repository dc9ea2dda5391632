"""Metrics of an update: no pass of the model is made for them, and they are the update's own numbers."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llm.models.scoring import LanguageModel
from llm.tasks import MinLength
from llm.training.metrics import UpdateMetrics
from llm.training.presets import PRESETS
from llm.training.run import Run, RunDiverged
from sims.core.algorithms import find_algorithm
from sims.core.algorithms.contrastive import DPO
from sims.core.schedule import Schedule


def small_run(algorithm: str, micro_batch_size: int | None = None, **settings: Any) -> Run:
    base = PRESETS["tiny-min-length"]
    decoding = base.policy.decoding.replace(max_new_tokens=24)  # type: ignore[attr-defined]
    return Run(
        base.replace(
            policy=base.policy.replace(decoding=decoding, micro_batch_size=micro_batch_size),
            algorithm=find_algorithm(algorithm)(**settings),
            schedule=Schedule(batch_size=4, num_generations=2),
            optimiser=base.optimiser.replace(learning_rate=1e-2),
            updates=2,
            evaluations=1,
        )
    )


@pytest.mark.parametrize("algorithm", ["rloo", "dpo", "grpo", "ppo", "simpo"])
def test_an_update_makes_as_many_passes_with_metrics_as_without(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, forward = [0], LanguageModel.forward

    def counted(self: LanguageModel, *arguments: Any, **named: Any) -> Any:
        passes[0] += 1
        return forward(self, *arguments, **named)

    monkeypatch.setattr(LanguageModel, "forward", counted)
    counts = []
    for logged in (False, True):
        run = small_run(algorithm)
        metrics = UpdateMetrics(run) if logged else None
        for update in run.train():
            row = metrics.row(update) if metrics is not None else {}
        counts.append(passes[0])
        passes[0] = 0
    assert counts[0] == counts[1] > 0
    assert ("rewards/margins" in row) == (algorithm == "dpo") and ("logps/chosen" in row) == (algorithm in PAIRED)
    assert ("clip_ratio/region_mean" in row) == (algorithm in ("grpo", "ppo"))


PAIRED = ("dpo", "simpo")


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_the_numbers_are_those_of_the_policy_before_the_update(micro_batch_size: int | None) -> None:
    run = small_run("dpo", micro_batch_size, beta=0.5)
    metrics, updates = UpdateMetrics(run), run.train()
    metrics.row(next(updates))
    before = run.policy.clone()
    update = next(updates)
    row, batch = metrics.row(update), update.batch
    with torch.no_grad():
        logp, ref = (policy.forward(batch).logp.sum(-1) for policy in (before, run.initial))
    assert batch.pairs is not None and batch.pair_label is not None
    label = batch.pair_label[:, 0]  # 0.5 for a tie, whose loss is the mean of both ways
    chosen = label * logp[:, 0] + (1 - label) * logp[:, 1]
    between = 0.5 * (logp - ref) @ torch.tensor([1.0, -1.0])
    margin = between * (2 * label - 1)
    assert (batch.pairs == torch.tensor([0, 1])).all()
    assert row["logps/chosen"] == pytest.approx(float(chosen.mean()), rel=1e-5)
    assert row["rewards/margins"] == pytest.approx(float(margin.mean()), rel=1e-4, abs=1e-6) != 0
    assert row["rewards/accuracies"] == pytest.approx(float((margin.sign() + 1).double().mean() / 2))
    first, second = (-torch.nn.functional.logsigmoid(x) for x in (between, -between))
    assert row["loss"] == pytest.approx(float((label * first + (1 - label) * second).mean()), rel=1e-4)


def test_a_run_without_reference_logs_its_kl_when_asked() -> None:
    run = small_run("rloo")
    metrics = UpdateMetrics(run, with_kl=True)
    rows = [metrics.row(update) for update in run.train()]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5) and rows[1]["kl"] != rows[0]["kl"]


def test_recorded_pairs_are_rewarded_only_for_updates_that_are_logged(tmp_path: Path) -> None:
    """DPO does not need rewards, and a judge of language takes its time for each."""
    path, base = tmp_path / "rows.jsonl", PRESETS["tiny-sft"]
    path.write_text('{"prompt": "one two", "chosen": "three", "rejected": "four five"}\n')
    task, schedule = (
        MinLength(data=str(path), data_kind="preference"),
        base.schedule.replace(source="dataset", batch_size=1),
    )
    run = Run(base.replace(algorithm=DPO(), environment=task, schedule=schedule, updates=2, evaluations=1))
    metrics, asked, reward = UpdateMetrics(run), [], run.environment._reward
    run.environment._reward = lambda completions: asked.append(completions.texts) or reward(completions)
    first, second = run.train()
    assert first.batch.rewards is None and asked == []
    row = metrics.row(second)
    assert asked == [["three", "four five"]]
    assert (row["reward"], row["reward_std"]) == (-1.5, 0.5)  # of 1 and 2 words
    run.environment._reward = lambda completions: [math.nan, 0.0]
    with pytest.raises(RunDiverged, match=r"update 2: task = 'min_length': reward of response 0 = nan: must be finite"):
        metrics.row(second)


def test_processes_add_up_what_each_has_of_an_update() -> None:
    run = small_run("dpo", micro_batch_size=1)
    metrics, sums = UpdateMetrics(run), []
    update = next(run.train())
    parts = list(metrics.parts)
    run.ranks = SimpleNamespace(sum=lambda tensors: sums.append(tensors[0].clone()))  # type: ignore[assignment]
    for own in (parts, parts[:1], parts[1:], []):
        metrics.parts = list(own)
        metrics.row(update)
    whole, first, rest, none = sums
    assert torch.allclose(whole, first + rest, rtol=1e-6) and not none.any()
    assert (whole[:, 1] == 4).all()  # one pair per prompt
