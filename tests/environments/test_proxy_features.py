"""Problems drawn per run: each run its own gold, a reward model of two forms and any capacity, and what classifies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sims
from sims import exact
from sims.core.loop.protocols import Prompts
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from sims.environments.proxy import accuracy
from sims.experiments.executor import execute
from sims.experiments.experiment import Experiment

SPEC = sims.ProxyFeatures(num_prompts=2, num_responses=6, num_pairs=40, label_temperature=0.5)
PAIRWISE = SPEC.replace(proxy_form="pairwise", num_features=5)


def test_each_run_has_a_problem_of_its_own_and_the_same_one_each_time() -> None:
    """Gold of mean 0 and standard deviation 1; the same whatever the reward model is."""
    environment = SPEC.build(torch.float64, Noise.of(1, 3))
    gold = environment.all_rewards()
    assert gold.shape == (3, 2, 6) and len({run.numpy().tobytes() for run in gold}) == 3
    torch.testing.assert_close(gold.mean((-2, -1)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(gold.square().mean((-2, -1)), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    for other in (PAIRWISE, SPEC.replace(num_features=3), SPEC.replace(proxy="gold")):
        assert torch.equal(other.build(torch.float64, Noise.of(1, 3)).all_rewards(), gold)


def test_the_reference_leans_one_way() -> None:
    """Its logits are the share of one direction of the numbers, times the spread."""
    logp = SPEC.replace(reference_spread=2.0).reference_logp(Noise.of(2, 1))[0, :, 0]
    inputs = SPEC.features(Noise.of(2, 1))[0].reshape(12, -1)
    design = np.concatenate([inputs, np.repeat(np.eye(2), 6, axis=0)], axis=1)  # and a constant per prompt
    weights, residual, *_ = np.linalg.lstsq(design, logp.ravel(), rcond=None)
    assert residual.sum() < 1e-20
    assert np.linalg.norm(weights[:6]) == pytest.approx(2.0)


def test_a_pairwise_proxy_does_not_see_the_order_and_labels_by_its_margins() -> None:
    """Margins turn their sign with the order; a scalar reward is their mean over the reference; fresh pairs are
    labelled by the margin itself, also where no score orders them so."""
    spec = PAIRWISE.replace(fresh_labels="noiseless")
    noise = Noise.of(3, 4)
    environment = spec.build(torch.float64, noise)
    margins = environment.margins.view(4, 2, 6, 6)
    assert torch.equal(margins, -margins.transpose(-1, -2))
    reference = torch.from_numpy(spec.response_probabilities(noise))
    score = (margins * reference.unsqueeze(-2)).sum(-1)
    expected = score - score.mean(-1, keepdim=True)
    torch.testing.assert_close(environment.seen_rewards(), expected, rtol=0, atol=1e-12)
    prompts = Prompts(torch.tensor([[0, 1]]).expand(4, -1))
    responses = torch.arange(6).view(1, 1, 6, 1).expand(4, 2, 6, 1)
    said = environment.label(prompts, responses, torch.ones_like(responses, dtype=torch.bool), "all", noise)
    first, second = said.pairs[0, 0].T
    assert torch.equal(said.pair_label, (torch.sign(margins[..., first, second]) + 1) / 2)
    by_score = (torch.sign(expected[..., first] - expected[..., second]) + 1) / 2
    assert not torch.equal(said.pair_label, by_score)  # else the test could not tell


def test_a_pairwise_fit_of_many_pairs_orders_them_as_gold() -> None:
    spec = PAIRWISE.replace(num_pairs=4000, num_features=60, label_temperature=0.0, proxy_l2=1e-3)
    learned = spec.build(torch.float64, Noise.of(4, 2)).learned
    assert learned is not None and (learned.accuracy > 0.98).all()


def test_units_stay_as_capacity_grows() -> None:
    """The first of more units are those of fewer: capacity is compared on one reward model that grows."""
    noise = Noise.of(5, 2)
    few, many = (SPEC.replace(num_features=k).problem(noise).features for k in (3, 8))
    assert np.array_equal(few, many[..., : few.shape[-1]])


def test_fresh_labels_may_lack_the_noise_of_the_recorded_ones() -> None:
    spec = SPEC.replace(label_temperature=5.0, fresh_labels="noiseless")
    environment = spec.build(torch.float64, Noise.of(6, 2))
    noisy = SPEC.replace(label_temperature=5.0).build(torch.float64, Noise.of(6, 2))
    assert torch.equal(environment.data.pair_label, noisy.data.pair_label)
    assert (environment.labeller.label_temperature, noisy.labeller.label_temperature) == (0.0, 5.0)


def test_without_a_reward_model_the_learner_sees_gold() -> None:
    spec = SPEC.replace(proxy="gold")
    environment = spec.build(torch.float64, Noise.of(7, 2))
    assert not spec.has_proxy and torch.equal(environment.seen_rewards(), environment.all_rewards())
    assert environment.recorded(5, Noise.of(7, 2)).size == 5
    assert SPEC.without_reward_model == spec
    with pytest.raises(SpecError, match="proxy_form = 'pairwise': only means something when proxy = features"):
        PAIRWISE.replace(proxy="gold")


def experiment(spec: sims.ProxyFeatures, **settings: object) -> Experiment:
    policy = sims.ResponseMLP(hidden=(8,), fit_steps=300)
    return Experiment("e", spec, policy, sims.DPO(), sims.Schedule(batch_size=8), **settings)  # type: ignore[arg-type]


def test_a_network_that_sees_responses_starts_at_the_reference_and_learns() -> None:
    """Bit for bit what each run is alone; its gold reward is in the record, and is what its score refers to."""
    many = execute([experiment(SPEC, updates=20, evaluations=2, runs=3, seed=8)])[0]
    (few,) = execute([experiment(SPEC, updates=20, evaluations=2, runs=2, seed=8)])
    for name in few:
        first = many[name][:2] if len(many[name]) == 3 and name not in ("updates", "samples", "staleness") else None
        assert first is None or np.array_equal(first, few[name], equal_nan=True), name
    noise = Noise.of(8, 3)
    assert many["rewards"].shape == (3, 2, 6)
    np.testing.assert_allclose(many["rewards"], SPEC.build(torch.float64, noise).all_rewards(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.exp(many["logp_ref"]), SPEC.response_probabilities(noise), rtol=0, atol=0.03)
    np.testing.assert_allclose(many["best_reward"], many["rewards"].max(-1).mean(-1), rtol=0, atol=1e-6)
    assert (many["reward"][:, -1] > many["reward"][:, 0]).all()


def test_a_policy_that_sees_responses_needs_their_numbers_and_fits_only_if_it_is_to() -> None:
    with pytest.raises(SpecError, match="policy = 'response_mlp': needs an environment of single actions"):
        Experiment("e", sims.BanditR1(), sims.ResponseMLP(), sims.DPO())
    with pytest.raises(SpecError, match=r"fit_learning_rate = 0\.1: only means something with fit_steps"):
        sims.ResponseMLP(fit_learning_rate=0.1)


def test_accuracy_is_of_pairs_of_two_draws() -> None:
    """Against the sum written out, ties of the scores ½, and pairs equal by gold left out."""
    random = np.random.default_rng(9)
    scores, gold = random.normal(size=5).round(0), np.array([0.0, 1.0, 1.0, 2.0, 3.0])
    p = random.dirichlet(np.ones(5))
    right = total = 0.0
    for i in range(5):
        for j in range(5):
            if gold[i] != gold[j]:
                agrees = 0.5 if scores[i] == scores[j] else float((scores[i] > scores[j]) == (gold[i] > gold[j]))
                right, total = right + p[i] * p[j] * agrees, total + p[i] * p[j]
    order = torch.sign(torch.from_numpy(gold)[:, None] - torch.from_numpy(gold))[None]
    found = accuracy(torch.from_numpy(scores)[None, None], order, torch.from_numpy(p)[None, None])
    assert float(found) == pytest.approx(right / total, abs=1e-12)


def test_records_say_how_policy_and_proxy_classify() -> None:
    (arrays,) = execute([experiment(SPEC, updates=10, evaluations=1, runs=2, seed=10)])
    order = np.sign(arrays["rewards"][..., :, None] - arrays["rewards"][..., None, :]).astype(float)
    implicit = arrays["logp_final"].astype(float) - arrays["logp_ref"]
    for scores, name in ((implicit, "policy"), (arrays["learned_rewards"], "proxy")):
        for drawn, suffix in ((arrays["logp_ref"], ""), (arrays["logp_final"], "_on_policy")):
            tensors = (torch.from_numpy(x).double() for x in (scores, order, np.exp(drawn.astype(float))))
            expected = accuracy(*tensors)
            np.testing.assert_allclose(arrays[f"{name}_accuracy{suffix}"][:, -1], expected, rtol=0, atol=1e-5)
    assert (arrays["policy_accuracy"][:, 0] == 0.5).all()  # every pair is a tie at the start


def test_a_tree_may_be_drawn_per_run() -> None:
    spec = sims.ProxyTree(table_seed=None)
    noise = Noise.of(11, 3)
    environment = spec.build(torch.float64, noise)
    assert (
        environment.all_rewards().shape == (3, 1, 15) and len({x.numpy().tobytes() for x in environment.rewards}) == 3
    )
    np.testing.assert_allclose(spec.response_probabilities(noise).sum(-1), 1.0, rtol=0, atol=1e-12)
    policy = sims.Table().build(spec, noise, False, torch.float64)
    expected = exact.expected_reward(np.log(spec.response_probabilities(noise)), environment.rewards.numpy())
    found = (policy.all_log_probs().exp() * environment.rewards).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
