"""Proxy rewards: the exact fit, what it sees and does not, and the win rate of records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import sims
from sims import exact
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, to_json
from sims.environments.bradley_terry import fit_bradley_terry

SPECS = [sims.ProxyBandit(label_temperature=0.3, num_pairs=60), sims.ProxyTree(num_prompts=2, length_bias=0.4)]
NAMES = ["bandit", "tree"]


def problem(seed: int, pairs: int = 30, features: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(pairs, features)), random.choice([0.0, 0.5, 1.0], size=pairs)


def heavy_tailed() -> tuple[np.ndarray, np.ndarray]:
    """Six pairs on which whole Newton steps from 0 end nowhere."""
    random = np.random.default_rng(560)
    return random.standard_t(1, size=(6, 2)) * random.choice([1, 10, 100]), random.choice([0.0, 1.0], 6)


@pytest.mark.parametrize(("pairs", "l2"), [(problem(1), 0.3), (heavy_tailed(), 1e-3)], ids=["plain", "heavy tails"])
def test_the_fit_is_the_minimum(pairs: tuple[np.ndarray, np.ndarray], l2: float) -> None:
    """Where the gradient, by hand, is 0: of a strictly convex loss there is one such place."""
    d, p = pairs
    theta = fit_bradley_terry(d, p, l2)
    preferred = 1.0 / (1.0 + np.exp(-d @ theta))
    assert np.abs(d.T @ (preferred - p) + l2 * theta).max() < 1e-10 * np.abs(d).max()


def test_the_fit_agrees_with_scipy() -> None:
    d, p = problem(2)

    def loss(theta: np.ndarray) -> float:
        margin = d @ theta
        return float((p * np.logaddexp(0, -margin) + (1 - p) * np.logaddexp(0, margin)).sum() + 0.1 * theta @ theta)

    found = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(fit_bradley_terry(d, p, 0.2), found, rtol=0, atol=1e-6)


OVERSCORED = [*SPECS, sims.ProxyTree(proxy="table"), sims.ProxyFeatures(num_pairs=40), sims.RatedResponses()]


@pytest.mark.parametrize("spec", OVERSCORED, ids=lambda spec: f"{spec.kind}, {spec.proxy}")
def test_an_error_that_is_planted_is_in_the_score_of_the_response_of_least_gold_alone(spec: sims.ProxyTree) -> None:
    def tables(spec: sims.ProxyTree) -> dict[str, np.ndarray]:
        return dict(spec.tables(Noise([(5, 0), (5, 1)])))

    fitted, planted = tables(spec), tables(spec.replace(overscore=0.5))
    gold = np.broadcast_to(fitted["rewards"], fitted["scores"].shape)
    worst = gold.argmin(-1)[..., None]
    others = np.sort(planted["scores"], axis=-1)[..., -2:]
    assert (planted["scores"].argmax(-1) == worst[..., 0]).all()
    np.testing.assert_allclose(others[..., 1] - others[..., 0], 0.5, rtol=0, atol=1e-12)
    np.testing.assert_allclose(planted["scores"].mean(-1), 0.0, rtol=0, atol=1e-12)
    change = planted["scores"] - fitted["scores"]
    rest = np.arange(gold.shape[-1]) != worst
    for run_and_prompt in np.ndindex(change.shape[:-1]):  # one constant for all others
        np.testing.assert_allclose(np.ptp(change[run_and_prompt][rest[run_and_prompt]]), 0.0, rtol=0, atol=1e-12)
    same = fitted.keys() - {"scores"}
    assert same == planted.keys() - {"scores"} and all(np.array_equal(fitted[x], planted[x]) for x in same)


def test_without_a_reward_model_or_with_one_of_pairs_no_error_is_planted() -> None:
    with pytest.raises(SpecError, match=r"overscore = 0\.5: must be none where there is no reward model"):
        sims.ProxyTree(proxy="gold", overscore=0.5)
    with pytest.raises(SpecError, match=r"overscore = 0\.5: must be none where pairs are scored"):
        sims.ProxyFeatures(proxy_form="pairwise", overscore=0.5)
    assert sims.ProxyTree(overscore=0.5).without_reward_model == sims.ProxyTree(proxy="gold")
    assert "overscore" not in to_json(sims.ProxyTree())  # so that older records are found


def test_labels_of_every_pair_that_are_probabilities_give_gold_back() -> None:
    """Soft labels are fitted as probabilities: a table finds the gold rewards, up to a constant."""
    spec = sims.ProxyTree(proxy="table", label_temperature=0.5, proxy_l2=1e-12)
    gold = spec.rewards()[0]
    pairs = np.array([(i, j) for i in range(len(gold)) for j in range(i)])
    labels = exact.preference_matrix(gold, temperature=0.5)[pairs[:, 0], pairs[:, 1]]
    scores, _ = spec.fit(np.zeros(len(pairs), int), pairs, labels)
    np.testing.assert_allclose(scores[0], gold - gold.mean(), rtol=0, atol=1e-9)


def test_a_length_bias_of_the_labels_is_learned_to_its_size() -> None:
    """Where gold is the bag of words itself, each token is worth its weight and the bias."""
    spec = sims.ProxyTree(length_bias=0.7, label_temperature=0.5, proxy_l2=1e-12)
    features, worth = spec.features()[0], np.array([0.4, -0.3])
    liked = features @ worth + spec.length_bias * spec.lengths()
    pairs = np.array([(i, j) for i in range(len(liked)) for j in range(i)])
    labels = exact.preference_matrix(liked, temperature=0.5)[pairs[:, 0], pairs[:, 1]]
    scores, _ = spec.fit(np.zeros(len(pairs), int), pairs, labels)
    expected = features @ (worth + 0.7)
    np.testing.assert_allclose(scores[0], expected - expected.mean(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_pairs_are_draws_of_the_data_policy_labelled_by_gold(spec: sims.ProxyBandit | sims.ProxyTree) -> None:
    """Noiseless: the label is the sign of gold + bias·length. Covered: what stands in a pair, and nothing else."""
    spec = spec.replace(label_temperature=0.0)
    environment = spec.build(torch.float64, Noise.of(3, 2))
    data, lengths = environment.data, torch.from_numpy(spec.lengths())
    every = environment.space.code(environment.all_responses()[0])
    drawn = (environment.space.code(data.responses)[..., None] == every).long().argmax(-1)  # (R, D, 2)
    liked = environment.rewards[data.prompts[..., None], drawn] + spec.length_bias * lengths[drawn]
    assert torch.equal(data.pair_label[..., 0], (torch.sign(liked[..., 0] - liked[..., 1]) + 1) / 2)
    cells = torch.zeros_like(environment.covered)
    for run in range(2):
        cells[run, data.prompts[run][:, None].expand(-1, 2), drawn[run]] = True
    assert torch.equal(cells, environment.covered)


def test_so_many_responses_are_drawn_as_the_data_policy_says() -> None:
    """Mean gold of 2 × 20,000 draws, and how often the two of a pair are the same response, against what is exact, 5
    standard errors each: a false alarm in 10⁶."""
    spec = sims.ProxyTree(num_pairs=20_000)
    environment = spec.build(torch.float64, Noise.of(5, 1))
    expected = exact.expected_reward(np.log(spec.response_probabilities()[0]), spec.rewards()[0])
    gold = environment.data.rewards
    assert abs(float(gold.mean()) - expected) < 5 * float(gold.std()) / np.sqrt(gold.numel())
    assert abs(spec.response_probabilities().sum() - 1.0) < 1e-12
    same = float((spec.response_probabilities() ** 2).sum())
    responses = environment.data.responses
    found = float((responses[..., 0, :] == responses[..., 1, :]).all(-1).double().mean())
    assert abs(found - same) < 5 * np.sqrt(same * (1 - same) / spec.num_pairs)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_records_have_the_exact_win_rate(spec: sims.ProxyBandit | sims.ProxyTree) -> None:
    run = sims.run(sims.RLOO(), spec, runs=2, updates=20, learning_rate=0.2)
    arrays = run.record.arrays
    final, start = (exact.log_softmax(arrays[name].astype(float)) for name in ("logp_final", "logp_ref"))
    expected = exact.win_rate(final, start, arrays["rewards"].astype(float)).mean(-1)
    np.testing.assert_allclose(arrays["win_rate"][:, -1], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(arrays["win_rate"][:, 0], 0.5, rtol=0, atol=1e-6)
    if spec.space.eos:
        expected = exact.expected_reward(final, spec.lengths()).mean(-1)
        np.testing.assert_allclose(arrays["length"][:, -1], expected, rtol=0, atol=1e-5)
    assert run.optimum.label == "largest reward"  # of gold; the proxy's own optimum is not what a run is scored by


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(SpecError, match="num_features = 100: must be at most 99"):
        sims.ProxyBandit(num_features=100)
    with pytest.raises(SpecError, match="proxy = 'table': must be features"):
        sims.ProxyBandit(num_prompts=30, proxy="table")
