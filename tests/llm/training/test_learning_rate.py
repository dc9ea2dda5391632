"""Warm-up and decay: transformers' own numbers, used in each update, and the same after a run was stopped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import get_scheduler

from llm.commands.options import parse
from llm.models.decoding import Decoding
from llm.models.spec import LanguageModelSpec
from llm.tasks import MinLength
from llm.training.learning_rate import ScheduledOptimiser
from llm.training.metrics import UpdateMetrics
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.loop.optimise import Optimiser
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json, to_json
from sims.experiments.options import OptionParser

EXPERIMENT = PRESETS["tiny-min-length"].replace(
    policy=LanguageModelSpec(decoding=Decoding(max_new_tokens=10)),
    environment=MinLength(evaluation_prompts=4),
    schedule=Schedule(batch_size=4, num_generations=2),
    optimiser=ScheduledOptimiser(learning_rate=0.01, method="sgd", lr_scheduler_type="linear", warmup_steps=2),
    updates=6,
    evaluations=2,
)
RATES = [0.0, 0.005, 0.01, 0.0075, 0.005, 0.0025]


@pytest.mark.parametrize(
    ("kind", "warmup"),
    [("constant", 0), *((kind, n) for kind in ("constant_with_warmup", "linear", "cosine") for n in (0, 3, 10))],
)
def test_rates_are_those_of_transformers(kind: str, warmup: int):
    updates = 10
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = get_scheduler(kind, theirs, warmup, updates)
    ours = ScheduledOptimiser(learning_rate=0.5, lr_scheduler_type=kind, warmup_steps=warmup)  # type: ignore[arg-type]
    for done in range(updates):
        assert 0.5 * ours.factor(done, updates) == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-15)
        theirs.step()
        scheduler.step()


def test_warmup_below_one_is_a_share_of_the_updates():
    share, count = (ScheduledOptimiser(lr_scheduler_type="linear", warmup_steps=steps) for steps in (0.25, 3))
    assert [share.factor(done, 10) for done in range(10)] == [count.factor(done, 10) for done in range(10)]
    with pytest.raises(SpecError, match="warmup_steps"):
        ScheduledOptimiser(lr_scheduler_type="linear", warmup_steps=2.5)
    with pytest.raises(SpecError, match="warmup_steps"):
        ScheduledOptimiser(warmup_steps=3)


def test_a_constant_rate_leaves_the_spec_as_it_was():
    plain, _ = parse(OptionParser("t"), ["--learning-rate", "0.5"], "tiny-min-length")
    assert type(plain.optimiser) is Optimiser and plain.optimiser.learning_rate == 0.5
    decayed, _ = parse(OptionParser("t"), ["--lr-scheduler-type", "cosine"], "tiny-min-length")
    assert isinstance(decayed.optimiser, ScheduledOptimiser)
    assert decayed.optimiser.max_grad_norm == plain.optimiser.max_grad_norm
    assert from_json(to_json(decayed)) == decayed


def weights(run: Run) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in run.policy.parameters()])


def test_each_update_is_made_at_its_rate():
    run = Run(EXPERIMENT)
    before, logged, metrics = weights(run), [], UpdateMetrics(run)
    for update, rate in zip(run.train(), RATES, strict=True):
        after = weights(run)
        moved = float((after - before).norm())
        assert moved == pytest.approx(rate * float(update.stats.grad_norm), rel=1e-3)
        logged.append(metrics.row(update)["learning_rate"])
        before = after
    assert logged == pytest.approx(RATES)


def test_a_resumed_run_goes_on_along_the_curve():
    adam = EXPERIMENT.replace(optimiser=EXPERIMENT.optimiser.replace(method="adam"))
    whole, part, resumed = Run(adam), Run(adam), Run(adam)
    list(whole.train())
    updates = part.train()
    for _ in range(3):
        next(updates)
    resumed.training.load_state_dict(*part.training.state_dict())
    list(resumed.train())
    assert torch.equal(weights(resumed), weights(whole))
