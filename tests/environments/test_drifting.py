"""Drifting users and preferences: what moves, when, and what the learner sees of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri

import sims
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from sims.experiments.measures import deployed_scores, scores

NOISE = Noise.of(5, 3)
SMALL = sims.Drifting(num_prompts=6, num_responses=5, gold_prompts=2, cycles=3, updates_per_cycle=4)


def test_scores_and_popularity_move_by_the_drift_and_the_gold_set_stays() -> None:
    """u' = √(1 − d²)·u + d·ξ, with the same ξ at every d: the step of d = 1 is ξ itself."""
    half, whole, none = (ndtri(SMALL.replace(preference_drift=d).gold_rewards(NOISE)) for d in (0.6, 1.0, 0.0))
    np.testing.assert_allclose(half[:, 1, :4], 0.8 * half[:, 0, :4] + 0.6 * whole[:, 1, :4], rtol=0, atol=1e-9)
    np.testing.assert_allclose(half[:, 2, :4], 0.8 * half[:, 1, :4] + 0.6 * whole[:, 2, :4], rtol=0, atol=1e-9)
    for scores_found in (half, whole, none):
        np.testing.assert_array_equal(scores_found[:, 3, 4:], scores_found[:, 0, 4:])
    np.testing.assert_array_equal(none[:, 3], none[:, 0])
    asked = SMALL.replace(gold_share=0.1, prompt_spread=1.0, prompt_drift=0.5).popularity(NOISE)
    np.testing.assert_allclose(asked.sum(-1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(asked[..., 4:], 0.05, rtol=0, atol=1e-12)
    assert np.abs(asked[:, 1] - asked[:, 0])[:, :4].min() > 0


def test_the_cycle_changes_after_its_updates_and_the_learner_sees_the_bias() -> None:
    spec = SMALL.replace(bias=0.3, bias_of="style", length_penalty=0.2)
    environment, gold = spec.build(torch.float64, NOISE), spec.gold_rewards(NOISE)
    length, style = (spec.attributes(NOISE)[:, k] for k in (0, 1))
    for updates, cycle in ((0, 0), (3, 0), (4, 1), (8, 2), (100, 3), (0, 0)):
        environment.advance(updates)
        np.testing.assert_array_equal(environment.all_rewards(), gold[:, cycle])
        seen = gold[:, cycle] + 0.3 * style - 0.2 * length
        np.testing.assert_allclose(environment.seen_rewards(), seen, rtol=0, atol=1e-12)
        prompts, responses = torch.full((3, 1), 2), torch.full((3, 1, 1, 1), 4)
        np.testing.assert_allclose(environment.reward(prompts, responses)[:, 0, 0], seen[:, 2, 4], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(environment.gold(prompts, responses)[:, 0, 0], gold[:, cycle, 2, 4])


def test_the_reference_has_the_skills_of_the_gold_set() -> None:
    spec = SMALL.replace(reference_noise=0.0)
    logits = spec.reference_logp(NOISE)[:, :, 0]
    u = ndtri(spec.gold_rewards(NOISE)[:, 0])
    np.testing.assert_allclose(np.diff(logits[:, :4], axis=-1), 0.5 * np.diff(u[:, :4], axis=-1), rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.diff(logits[:, 4:], axis=-1), 3.0 * np.diff(u[:, 4:], axis=-1), rtol=0, atol=1e-9)
    assert ndtr(0.0) == 0.5  # a reward is a rank


def test_runs_share_as_many_problems_as_are_asked_for() -> None:
    gold = SMALL.replace(problems=2).gold_rewards(NOISE)
    np.testing.assert_array_equal(gold[2], gold[0])
    assert np.abs(gold[1] - gold[0]).min() > 0


def test_records_have_what_drifts() -> None:
    """Scores are of the rewards and the users of the cycle that begins at an evaluation; what users get is the
    sampler's policy."""
    spec = SMALL.replace(prompt_spread=1.0, prompt_drift=0.5, gold_share=0.1, bias=0.3)
    settings = {"updates": 12, "runs": 3, "evaluations": 6, "sync_every_updates": 4, "seed": 5, "batch_size": 8}
    record = sims.run(sims.DPO(), spec, sims.Table(), learning_rate=0.1, precision="float64", **settings).record
    gold, asked = spec.gold_rewards(NOISE), spec.popularity(NOISE)
    logp = np.exp(record.arrays["logp_final"])
    now = (asked[:, 3] * (logp * gold[:, 3]).sum(-1)).sum(-1)
    np.testing.assert_allclose(record.arrays["gold"][:, -1], now, rtol=0, atol=1e-12)
    best = (asked[:, 1] * gold[:, 1].max(-1)).sum(-1)  # after 4 updates the second cycle has begun
    np.testing.assert_allclose(record.arrays["best_now"][:, 2], best, rtol=0, atol=1e-12)
    skills = (logp * gold[:, 3])[:, 4:].sum(-1).mean(-1)
    np.testing.assert_allclose(record.arrays["gold_set"][:, -1], skills, rtol=0, atol=1e-12)
    assert (record.arrays["deployed_gold"][:, 1] == record.arrays["reference_now"][:, 1]).all()
    assert (deployed_scores(record)[:, :2] == 0).all() and (scores(record)[:, 1] != 0).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"gold_prompts": 16}, "gold_prompts = 16: must be below"), ({"gold_share": 0.1}, "gold_share = 0.1: only means")],
)
def test_refuses(settings: dict[str, float], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        sims.Drifting(**settings)
