"""What is measured of a pool, counted pair by pair."""

import numpy as np
import pytest
import torch

from sims.core.algorithms import find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.environments import BanditR2, TokenTree
from sims.environments.toy import ToyEnvironment
from sims.experiments.executor import execute
from sims.experiments.experiment import Experiment
from sims.experiments.pool_evaluation import PoolEvaluation
from sims.policies import Table

NAMES = ("pool_logp_chosen", "pool_logp_rejected", "unpaired_mass_ref", "unpaired_mass_final")


@pytest.mark.parametrize("spec", [TokenTree(num_prompts=3, label_temperature=0.5), BanditR2(num_prompts=5)])
def test_it_is_the_mean_over_the_pairs_and_the_mass_of_all_other_responses(spec: ToyEnvironment) -> None:
    """At the start and after some updates; of the prompts of a pool of 4 some occur twice, and one of five in none."""
    noise = Noise.of(0, 2)
    schedule = Schedule(batch_size=4, source="pool", pool_size=4)
    environment, policy = spec.build(torch.float64, noise), Table().build(spec, noise, False, torch.float64)
    learner = Learner(policy, Optimiser(learning_rate=0.3), noise.lead)
    training = Training(policy, environment, find_algorithm("dpo")(), schedule, learner, noise)
    evaluation = PoolEvaluation(training, environment)
    assert all(torch.isnan(x).all() for x in evaluation.row().values())
    start = policy.all_log_probs().detach()
    updates = list(training.train(1))
    rows = [(start, evaluation.start(updates[0]))]
    list(training.train(4))
    rows.append((policy.all_log_probs().detach(), evaluation.row()))
    listed = [tuple(y) for y in spec.space.all_responses[0].tolist()]
    pool = training.collector.pool
    closing = evaluation.closing()
    for (logp, row), end in zip(rows, ("ref", "final"), strict=True):
        for run in range(2):
            chosen, rejected, paired = [], [], {}
            for b, prompt in enumerate(pool.prompts[run].tolist()):
                first, second = (listed.index(tuple(pool.responses[run, b, k].tolist())) for k in (0, 1))
                of_first, of_second = (float(logp[run, prompt, n]) for n in (first, second))
                label = float(pool.pair_label[run, b, 0])
                chosen.append(label * of_first + (1 - label) * of_second)
                rejected.append(label * of_second + (1 - label) * of_first)
                paired.setdefault(prompt, set()).update((first, second))
            outside = [
                sum(float(logp[run, prompt, n].exp()) for n in range(len(listed)) if n not in there)
                for prompt, there in paired.items()
            ]
            expected = (np.mean(chosen), np.mean(rejected), np.mean(outside))
            found = (row["pool_logp_chosen"][run], row["pool_logp_rejected"][run], closing[f"unpaired_mass_{end}"][run])
            assert [float(x) for x in found] == pytest.approx(expected, rel=1e-10)
    assert not torch.allclose(closing["unpaired_mass_ref"], closing["unpaired_mass_final"])


def test_records_of_a_pool_of_pairs_have_it_and_others_do_not() -> None:
    """Where every update has the whole pool, its log-probs are those of the update's pairs."""
    arm = Experiment("x", BanditR2(), Table(), find_algorithm("dpo")(), updates=4, evaluations=2, runs=2)
    pool = execute([arm.replace(schedule=Schedule(batch_size=8, source="pool", pool_size=8))])[0]
    assert all(np.isfinite(pool[name]).all() for name in NAMES)
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(pool[f"pool_logp_{side}"][:, 1:], pool[f"logp_{side}"][:, 1:], rtol=1e-5)
    assert not set(NAMES) & execute([arm])[0].keys()
    unpaired = arm.replace(algorithm=find_algorithm("rloo")(), schedule=Schedule(8, source="pool", pool_size=8))
    assert not set(NAMES) & execute([unpaired])[0].keys()
