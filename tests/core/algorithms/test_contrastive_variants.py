"""What sets each contrastive algorithm apart, by values derived in sight; exact minimisers; numerics at the edges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sims.core.algorithms import Algorithm, PairAlgorithm, all_algorithms
from sims.core.algorithms.contrastive import DPO, IPO, KTO, ConservativeDPO, DPOWithNLL, GroupDPO, RobustDPO, SLiC
from sims.core.algorithms.online_contrastive import XPO, NashMD
from sims.core.algorithms.reference_free import CPO, ORPO, SimPO
from sims.core.loop.collect import mismatch
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training
from sims.core.losses.contrastive import (
    conservative_dpo_loss,
    dpo_loss,
    hinge_loss,
    kto_loss,
    log1mexp,
    log_odds,
    nash_md_loss,
    robust_dpo_loss,
)
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, Outputs
from sims.core.objectives.preferences import choose_pairs, count_pairs
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments.enumerable import EnumerableEnvironment, Labeller
from sims.environments.space import TokenSpace
from sims.exact import kl_policy_ref, log_softmax
from sims.experiments.experiment import stack_specs
from sims.policies import TablePolicy
from tests.core.enumeration import Problem, enumerate_batches, make_problem

NUMBERED = [
    kind for kind, cls in all_algorithms().items() if issubclass(cls, (PairAlgorithm, KTO)) and cls().per_run_fields()
]


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def batch_of(logp: list[list[list[float]]], logp_ref: list[list[list[float]]] | None = None, **fields: Tensor) -> Batch:
    """Prompts of responses of token log-probs, ragged; the first of a pair is preferred. Holds no logp itself."""
    padded, mask = pad(logp)
    return Batch(
        prompts=torch.arange(len(logp)),
        responses=torch.zeros_like(mask, dtype=torch.int64),
        mask=mask,
        rewards=torch.zeros_like(padded[..., 0]),
        logp_ref=torch.zeros_like(padded) if logp_ref is None else pad(logp_ref)[0],
        **{"pairs": torch.tensor([0, 1]).expand(len(logp), 1, 2), "pair_label": torch.ones(len(logp), 1).double()}
        | fields,
    )


def pad(logp: list[list[list[float]]]) -> tuple[Tensor, Tensor]:
    """(B, K, L) values, NaN behind the end, and the mask."""
    longest = max(len(tokens) for group in logp for tokens in group)
    values = [[tokens + [math.nan] * (longest - len(tokens)) for tokens in group] for group in logp]
    padded = torch.tensor(values, dtype=torch.float64)
    return padded, ~torch.isnan(padded)


def loss_of(algorithm: Algorithm, batch: Batch, logp: Tensor, probe_logp: Tensor | None = None) -> Tensor:
    return algorithm.loss(Outputs(logp=logp), batch, algorithm.at_update(batch, {}, probe_logp)).sum(-1)


def one_pair(algorithm: Algorithm, chosen: list[float], rejected: list[float]) -> float:
    """Loss of a single pair, given token log-probs; the reference's are 0, so that ρ = ℓ."""
    logp = [[chosen, rejected]]
    return loss_of(algorithm, batch_of(logp), pad(logp)[0]).item()


# --- the DPO family: z = βh


def test_dpo_by_hand() -> None:
    # h = −1 − (−3) = 2, β = ½: z = 1
    assert one_pair(DPO(beta=0.5), [-1.0], [-1.0, -2.0]) == pytest.approx(math.log(1 + math.exp(-1)))
    # a token: −1 − (−1.5) = ½
    normalised = DPO(beta=0.5, length_normalised=True)
    assert one_pair(normalised, [-1.0], [-1.0, -2.0]) == pytest.approx(math.log(1 + math.exp(-0.25)))


def test_ipo_by_hand() -> None:
    # h = 2 and ½; the target 1/(2β) is 1 at β = ½
    assert one_pair(IPO(beta=0.5), [-1.0], [-1.0, -2.0]) == pytest.approx((2.0 - 1.0) ** 2)
    assert one_pair(IPO(beta=0.5, length_normalised=True), [-1.0], [-1.0, -2.0]) == pytest.approx((0.5 - 1.0) ** 2)


def test_conservative_dpo_stops_at_the_log_odds_of_its_labels() -> None:
    beta, wrong = 0.5, 0.2
    margin = tensor(math.log(0.8 / 0.2) / beta).requires_grad_()
    (slope,) = torch.autograd.grad(conservative_dpo_loss(margin, beta, wrong).sum(), margin)
    assert abs(slope.item()) < 1e-15
    assert one_pair(ConservativeDPO(beta=0.5, label_smoothing=0.2), [-1.0], [-3.0]) == pytest.approx(
        0.8 * math.log(1 + math.exp(-1)) + 0.2 * math.log(1 + math.exp(1))  # z = 1
    )


def test_robust_dpo_is_unbiased_under_flips_and_has_no_lower_bound() -> None:
    margin, beta, wrong = tensor(-3.0, 0.0, 0.7, 5.0), 0.5, 0.2
    right, flipped = robust_dpo_loss(margin, beta, wrong), robust_dpo_loss(-margin, beta, wrong)
    torch.testing.assert_close(0.8 * right + 0.2 * flipped, dpo_loss(margin, beta))
    torch.testing.assert_close(robust_dpo_loss(tensor(200.0), beta, wrong), tensor(-0.2 * 100.0 / 0.6))  # −εz/(1 − 2ε)
    assert one_pair(RobustDPO(beta=0.5, label_smoothing=0.2), [-1.0], [-3.0]) == pytest.approx(
        (0.8 * math.log(1 + math.exp(-1)) - 0.2 * math.log(1 + math.exp(1))) / 0.6
    )


def test_without_smoothing_both_are_dpo() -> None:
    margin = tensor(-3.0, 0.0, 0.7, 5.0)
    assert torch.equal(conservative_dpo_loss(margin, 0.5, 0.0), dpo_loss(margin, 0.5))
    assert torch.equal(robust_dpo_loss(margin, 0.5, 0.0), dpo_loss(margin, 0.5))


def test_hinge_teaches_nothing_beyond_its_margin() -> None:
    margin = tensor(-1.0, 1.0, 2.1, 50.0).requires_grad_()  # 1/β = 2
    loss = hinge_loss(margin, 0.5)
    assert loss.tolist() == [1.5, 0.5, 0.0, 0.0]
    assert torch.autograd.grad(loss.sum(), margin)[0].tolist() == [-0.5, -0.5, 0.0, 0.0]
    assert one_pair(SLiC(beta=0.5), [-1.0], [-2.0]) == 0.5


def test_group_dpo_is_the_mean_over_correct_against_incorrect() -> None:
    """Groups of one kind are as if they had not been drawn."""
    rewards = torch.tensor([[1.0, 0.0, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0], [0.0, -1.0, 0.0, 0.0]])
    logp = torch.tensor([[-1.0, -2.0, -4.0, -3.0], [-1.0, -9.0, -2.0, -5.0], [-7.0, -1.0, -2.0, -8.0]]).double()
    pairs, weight = choose_pairs(rewards, GroupDPO().pairing)
    first, second = rewards.gather(-1, pairs[..., 0]), rewards.gather(-1, pairs[..., 1])
    batch = Batch(
        prompts=torch.arange(3),
        responses=torch.zeros(3, 4, 1, dtype=torch.int64),
        mask=torch.ones(3, 4, 1, dtype=torch.bool),
        rewards=rewards,
        logp_ref=torch.zeros(3, 4, 1).double(),
        pairs=pairs,
        pair_weight=weight.double(),
        pair_label=(first > second).double(),
    )
    loss = loss_of(GroupDPO(beta=1.0), batch, logp.unsqueeze(-1))
    # correct 0 and 2 against incorrect 1 and 3: h = −1 + 2, −1 + 3, −4 + 2, −4 + 3
    by_hand = sum(math.log(1 + math.exp(-h)) for h in (1, 2, -2, -1)) / 4
    assert loss.item() == pytest.approx(by_hand)
    assert loss_of(GroupDPO(beta=1.0), batch.narrow(0, 1), logp[:1].unsqueeze(-1)).item() == pytest.approx(by_hand)
    with pytest.raises(SpecError, match="pairing"):
        GroupDPO(pairing="all")


# --- with a likelihood term


@pytest.mark.parametrize(
    ("reduction", "likelihood"),
    [
        ("sequence_mean", (1.0 / 1 + 6.0 / 3) / 2),
        ("token_mean", (1.0 + 6.0) / (1 + 3)),
        ("sequence_sum", (1.0 + 6.0) / 2),
    ],
)
@pytest.mark.parametrize("cls", [DPOWithNLL, CPO])
def test_likelihood_of_the_chosen(cls: type[DPOWithNLL] | type[CPO], reduction: str, likelihood: float) -> None:
    """Two prompts whose chosen responses have ℓ = −1 over 1 token and −6 over 3."""
    logp = [[[-1.0], [-1.0, -2.0]], [[-1.0, -2.0, -3.0], [-4.0]]]
    batch, values = batch_of(logp), pad(logp)[0]
    loss = loss_of(cls(beta=0.5, alpha=0.7, nll_reduction=reduction), batch, values)
    pairs = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2  # z = ½(−1 + 3), ½(−6 + 4)
    assert loss.item() == pytest.approx(pairs + 0.7 * likelihood)


@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean", "sequence_sum"])
def test_a_soft_label_splits_the_likelihood(reduction: str) -> None:
    """p = ¾: ¾ of the pair with the first chosen and ¼ with the second; a pair of weight 0 is as if deleted."""
    logp = [[[-1.0], [-1.0, -2.0]], [[-5.0, -2.0, -3.0], [-4.0]]]
    batch, values = batch_of(logp), pad(logp)[0]
    algorithm = CPO(beta=0.5, alpha=1.0, nll_reduction=reduction)
    soft = batch.replace(pair_label=tensor(0.75, 0.3)[:, None], pair_weight=tensor(1.0, 0.0)[:, None])
    pair = 0.75 * math.log(1 + math.exp(-1)) + 0.25 * math.log(1 + math.exp(1))
    likelihood = {
        "sequence_mean": 0.75 * 1 + 0.25 * 3 / 2,
        "token_mean": (0.75 * 1 + 0.25 * 3) / (0.75 * 1 + 0.25 * 2),
        "sequence_sum": 0.75 * 1 + 0.25 * 3,
    }
    assert loss_of(algorithm, soft, values).item() == pytest.approx(pair + likelihood[reduction])


def test_the_likelihood_term_keeps_the_chosen_from_falling() -> None:
    """At h = 0: ∂L/∂ℓ_w = −β/2 − α/|y_w|, ∂L/∂ℓ_l = β/2; without it the two only mirror each other."""
    logp = [[[-1.0, -1.0], [-2.0]]]
    values = pad(logp)[0].requires_grad_()
    batch = batch_of(logp)
    (gradient,) = torch.autograd.grad(loss_of(DPOWithNLL(beta=0.1, alpha=0.6), batch, values), values)
    assert gradient[0, :, 0].tolist() == pytest.approx([-0.05 - 0.3, 0.05])
    (plain,) = torch.autograd.grad(loss_of(DPO(beta=0.1), batch, values), values)
    assert plain[0, :, 0].tolist() == pytest.approx([-0.05, 0.05])


def test_a_reduction_without_a_term_is_refused() -> None:
    with pytest.raises(SpecError, match="nll_reduction = 'token_mean': has no effect with alpha = 0"):
        CPO(alpha=0.0, nll_reduction="token_mean")
    with pytest.raises(SpecError, match=r"alpha = 0\.0: must be float > 0"):
        DPOWithNLL(alpha=0.0)


# --- without a reference


def test_simpo_by_hand() -> None:
    """ℓ̄ = −1 against −2, β = 2, γ = ½: z = 2·1 − ½. γ is not divided by β, nor multiplied with it."""
    simpo = SimPO(beta=2.0, gamma=0.5)
    assert one_pair(simpo, [-1.0, -1.0, -1.0], [-2.0]) == pytest.approx(math.log(1 + math.exp(-1.5)))
    # ℓ = −3 against −2: by its sum the chosen response is behind, as CPO sees it
    assert one_pair(CPO(beta=2.0, alpha=0.0), [-1.0, -1.0, -1.0], [-2.0]) == pytest.approx(math.log(1 + math.exp(2.0)))


@pytest.mark.parametrize("cls", [CPO, SimPO, ORPO])
def test_reference_free_means_no_reference(cls: type[PairAlgorithm]) -> None:
    assert not cls().needs_reference
    logp = [[[-1.0], [-1.0, -2.0]]]
    batch = batch_of(logp)
    with_reference = loss_of(cls(), batch, pad(logp)[0])
    assert torch.equal(loss_of(cls(), batch.replace(logp_ref=None), pad(logp)[0]), with_reference)


def test_orpo_by_hand() -> None:
    """p = ½ against ¼ a token: odds 1 against ⅓, so that σ(log 3) = ¾."""
    half, quarter = math.log(0.5), math.log(0.25)
    loss = one_pair(ORPO(beta=0.1), [half, half], [quarter])
    assert loss == pytest.approx(math.log(2.0) + 0.1 * math.log(4 / 3))


@pytest.mark.parametrize("exponent", range(-30, 2))
def test_log_odds_in_float32(exponent: int) -> None:
    """As p → 1, and as p → 0, float32 agrees with float64 to its own precision, and so does the gradient 1/(1 − p)."""
    x = torch.tensor([-(10.0**exponent) * 1.2345678], dtype=torch.float32).requires_grad_()
    exact = x.detach().double().requires_grad_()
    torch.testing.assert_close(log_odds(x).double(), log_odds(exact), rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(log_odds(x).sum(), x)
    torch.testing.assert_close(slope.double(), 1.0 / -torch.expm1(exact.detach()), rtol=1e-6, atol=0.0)


def test_plain_log1p_would_cancel() -> None:
    """What the branch is for: 1 − e^x has no digits left in float32 at x = −1e-8, and log(1 − e^x) is log(1e-8)."""
    x = torch.tensor([-1e-8])
    assert torch.isinf(torch.log1p(-torch.exp(x)))
    assert log1mexp(x).item() == pytest.approx(math.log(1e-8), rel=1e-6)
    # and the other way round: −expm1(x) rounds to 1 at x = −20, where log(1 − e^x) ≈ −e^x
    assert log1mexp(torch.tensor([-20.0])).item() == pytest.approx(-math.exp(-20.0), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certainty_is_finite(dtype: torch.dtype) -> None:
    """A probability rounded to 1, or a response of which nothing is there: a loss, and no gradient from it."""
    logp = torch.zeros(1, 2, 1, dtype=dtype).requires_grad_()
    batch = batch_of([[[0.0], [0.0]]], pair_label=torch.tensor([[0.5]], dtype=dtype))
    for mask in (batch.mask, torch.zeros_like(batch.mask)):
        loss = loss_of(ORPO(), batch.replace(mask=mask), logp)
        (gradient,) = torch.autograd.grad(loss, logp)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


# --- KTO


def test_kto_by_hand() -> None:
    """At ρ = z: λ/2 either way. β(ρ − z) = log 3: 1 − σ = ¼ for a good response, ¾ for a bad one."""
    beta, weights = 0.5, (1.0, 2.0)
    ratio = tensor(1.0, 1.0, 1.0 + 2 * math.log(3.0), 1.0 + 2 * math.log(3.0))
    good = tensor(1.0, 0.0, 1.0, 0.0)
    assert kto_loss(ratio, tensor(1.0), good, beta, weights).tolist() == pytest.approx([0.5, 1.0, 0.25, 1.5])


@pytest.mark.parametrize("size", range(2, 9))
def test_mismatch_is_a_derangement(size: int) -> None:
    """No prompt keeps its responses, and every response is used once, whatever the batch's size."""
    responses = torch.arange(size).reshape(size, 1, 1).expand(size, 3, 1)
    batch = Batch(prompts=torch.arange(size), responses=responses, mask=torch.ones(size, 3, 1, dtype=torch.bool))
    probes = mismatch(batch)
    assert torch.equal(probes.prompts, batch.prompts)
    owner = probes.responses[:, 0, 0]
    assert (owner != batch.prompts).all()
    assert sorted(owner.tolist()) == list(range(size))


def test_kto_anchor_is_one_clamped_number_without_gradient() -> None:
    """z = max(0, mean ρ) over the probes that are there, the same for all; a batch of one prompt is refused."""
    logp = [[[-1.0], [-1.0, -2.0]], [[-1.0, -2.0, -3.0], [-4.0]]]
    values, _ = pad(logp)
    batch = batch_of(logp)
    probes = mismatch(batch).replace(logp_ref=torch.full_like(values, -3.0))
    probe_logp = values.roll(-1, 0).requires_grad_()
    batch = batch.replace(probes=probes, desirable=tensor(1.0, 0.0).expand(2, 2))
    anchor = KTO().at_update(batch, {}, probe_logp)["anchor"]
    # ρ = ℓ + 3 per token: −1 + 3, −3 + 6, −6 + 9, −4 + 3
    assert anchor.tolist() == [[1.75, 1.75], [1.75, 1.75]]
    with torch.no_grad():
        deleted = batch.replace(probes=probes.replace(weight=tensor(0.0, 1.0).expand(2, 2)))
        assert KTO().at_update(deleted, {}, probe_logp)["anchor"][0, 0].item() == (3.0 - 1.0) / 2
        assert KTO().at_update(batch, {}, probe_logp - 5.0)["anchor"].max() == 0.0


# --- pairs from two distributions


def trained(algorithm: Algorithm, generations: int) -> tuple[Training, Problem]:
    """A run on a tree whose policy has already left its reference."""
    problem = make_problem(TokenSpace(3, 3, eos=True), prompts=2, seed=7)
    environment = EnumerableEnvironment(problem.space, torch.from_numpy(problem.rewards), Labeller())
    policy = TablePolicy(problem.space, torch.from_numpy(problem.reference)[None].clone())
    schedule = Schedule(batch_size=6, num_generations=generations)
    learner = Learner(policy, Optimiser(), (1,))
    training = Training(policy, environment, algorithm, schedule, learner, Noise.of(3, 1))
    with torch.no_grad():
        policy.parameters()[0].copy_(torch.from_numpy(problem.policy)[None])
    return training, problem


@pytest.mark.parametrize(
    ("algorithm", "share"), [(XPO(), 1.0), (NashMD(mixture_coef=0.3), 0.3), (NashMD(mixture_coef=0.0), 0.0)]
)
@pytest.mark.parametrize("generations", [2, 6])
def test_second_half_is_drawn_from_the_other_distribution(algorithm: Algorithm, share: float, generations: int) -> None:
    """The distribution recorded with each response: π for the first half, ∝ π^{1−a}·π_ref^a token by token for the
    second."""
    training, problem = trained(algorithm, generations)
    batch = training.collector.next_batch(0)
    half = generations // 2
    assert batch.need("pairs")[0, 0].tolist() == [[i, i + half] for i in range(half)]
    blend = (1.0 - share) * log_softmax(problem.policy) + share * log_softmax(problem.reference)
    prompt, code = batch.prompts[0].numpy()[:, None], problem.space.code(batch.responses[0]).numpy()
    every = problem.space.code(problem.space.all_responses[0]).numpy()
    index = np.searchsorted(every, code)
    for slots, logits in ((slice(0, half), problem.policy), (slice(half, None), blend)):
        expected = problem.token_logp(logits)[prompt, index[:, slots]]
        found = torch.where(batch.mask, batch.need("logp_sampler"), 0.0)[0, :, slots]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_halves_need_an_even_number() -> None:
    with pytest.raises(SpecError, match="num_generations = 3: must be even: pairing = halves"):
        count_pairs(3, "halves")


def test_xpo_is_the_papers_formula_on_the_table() -> None:
    """Σ_{y,ỹ} π(y)·π_ref(ỹ)·(−E log σ(β(ρ_w − ρ_l)) + α·log π(ỹ)), in NumPy; ỹ is pushed down even when it wins."""
    problem = make_problem(TokenSpace(4), prompts=1, seed=11).on_policy()
    algorithm = XPO(beta=0.5, alpha=0.3)
    every = enumerate_batches(problem, algorithm, 2)
    losses, _ = every.losses_and_gradients()
    logp, logp_ref = problem.logp(problem.policy)[0], problem.logp(problem.reference)[0]
    margin = 0.5 * ((logp - logp_ref)[:, None] - (logp - logp_ref))
    preferred = problem.label[0]
    sigmoid_loss = preferred * np.log1p(np.exp(-margin)) + (1.0 - preferred) * np.log1p(np.exp(margin))
    joint = np.exp(logp)[:, None] * np.exp(logp_ref)
    expected = (joint * (sigmoid_loss + 0.3 * logp)).sum()
    assert every.probability @ losses == pytest.approx(expected, abs=1e-12)


def test_nash_md_by_hand() -> None:
    # −(¾ − ½)·(−2) + ½·½·0.6²
    assert nash_md_loss(tensor(-2.0), tensor(0.6), tensor(0.75), 0.5).item() == pytest.approx(0.5 + 0.09)


def test_nash_md_is_the_papers_gradient_on_the_table() -> None:
    """E_{y~π, y′~mixture}[∇log π(y)·(P(y ≻ y′) − ½ − β log(π(y)/π_ref(y)))], ∇log π(y) = onehot(y) − π, in NumPy."""
    problem = make_problem(TokenSpace(4), prompts=1, seed=12).on_policy()
    every = enumerate_batches(problem, NashMD(beta=0.4, mixture_coef=0.3), 2)
    logp, logp_ref = problem.logp(problem.policy)[0], problem.logp(problem.reference)[0]
    mixture = np.exp(0.7 * logp + 0.3 * logp_ref)
    mixture /= mixture.sum()
    advantage = problem.label[0] @ mixture - 0.5 - 0.4 * (logp - logp_ref)
    probability = np.exp(logp)
    ascent = sum(
        p * a * (np.eye(4)[y] - probability) for y, (p, a) in enumerate(zip(probability, advantage, strict=True))
    )
    np.testing.assert_allclose(every.expected_gradient()[0, 0], -ascent, atol=1e-12)


def test_nash_md_descends_the_sequence_kl() -> None:
    """Where no response is preferred, what is left is β·∇KL(π‖π_ref) of whole responses, on a tree of 15; the form
    that weighs each token's ∇log π_t with its own log-ratio alone points elsewhere."""
    problem = make_problem(TokenSpace(3, 3, eos=True), prompts=1, seed=13).on_policy()
    problem = replace(problem, label=np.full_like(problem.label, 0.5))
    found = enumerate_batches(problem, NashMD(beta=0.4), 2).expected_gradient()
    logp, logp_ref = problem.logp(problem.policy), problem.logp(problem.reference)
    exact = problem.gradient(np.exp(logp) * (logp - logp_ref))  # ∇ Σ π log(π/π_ref) = Σ π ρ ∇log π
    np.testing.assert_allclose(found, 0.4 * exact, atol=1e-12)
    step = 1e-6 * exact  # the weights above really are the gradient: a small step along it changes the KL by |exact|²
    change = kl_policy_ref(problem.logp(problem.policy + step), logp_ref) - kl_policy_ref(logp, logp_ref)
    assert change.sum() == pytest.approx(1e-6 * (exact**2).sum(), rel=1e-4)
    per_token = problem.token_logp(problem.policy) - problem.token_logp(problem.reference)
    truncated = problem.gradient(np.exp(logp)[..., None] * per_token)
    assert np.abs(truncated - exact).max() > 0.05


def test_self_play_rests_at_the_nash_equilibrium() -> None:
    """π ∝ π_ref·e^{P(y ≻ π)/β}: no gradient at a = 0; with a mixture as opponent it moves."""
    problem, beta = make_problem(TokenSpace(4), prompts=1, seed=14), 1.0
    logp_ref = log_softmax(problem.reference)[0, 0]
    logp = logp_ref
    for _ in range(200):
        logp = log_softmax(logp_ref + problem.label[0] @ np.exp(logp) / beta)
    problem = replace(problem, policy=logp[None, None]).on_policy()
    rest = enumerate_batches(problem, NashMD(beta=beta, mixture_coef=0.0), 2).expected_gradient()
    np.testing.assert_allclose(rest, 0.0, atol=1e-12)
    mixed = enumerate_batches(problem, NashMD(beta=beta, mixture_coef=0.9), 2).expected_gradient()
    assert np.abs(mixed).max() > 1e-3


# --- all of them


@pytest.mark.parametrize("kind", NUMBERED)
def test_numbers_per_run(kind: str) -> None:
    """Two arms in one stack of three runs: each run is what it is alone, bit for bit, and the numbers matter."""
    cls = all_algorithms()[kind]
    shape = (3, 4, 4, 4)  # R, and B = K = L
    generator = torch.Generator().manual_seed(0)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator)

    mask = torch.arange(4) < torch.randint(1, 5, (*shape[:3], 1), generator=generator)
    pairs, weight = choose_pairs(uniform(*shape[:3]), "all")
    batch = Batch(
        prompts=torch.zeros(shape[:2], dtype=torch.int64),
        responses=torch.zeros(shape, dtype=torch.int64),
        mask=mask,
        rewards=uniform(*shape[:3]),
        logp_ref=-uniform(*shape),
        pairs=pairs,
        pair_weight=weight,
        pair_label=uniform(*pairs.shape[:-1]),
        desirable=uniform(*shape[:3]),
    )
    batch = batch.replace(probes=mismatch(batch).replace(logp_ref=-uniform(*shape)))
    logp, probe_logp = -uniform(*shape).masked_fill(~mask, torch.nan), -0.1 * uniform(*shape)
    first = cls()
    second = cls(**{name: 0.8 * getattr(first, name) for name in first.per_run_fields()})
    together = loss_of(stack_specs([first, second], [1, 2], torch.float32), batch, logp, probe_logp)
    assert together.shape == (3,)
    assert torch.isfinite(together).all()
    for run, arm in enumerate([first, second, second]):
        alone, own = stack_specs([arm], [1], torch.float32), slice(run, run + 1)
        part = batch.over_prompts(lambda x, axis, own=own: x[own])
        assert torch.equal(loss_of(alone, part, logp[own], probe_logp[own])[0], together[run])
    assert together[0] != loss_of(stack_specs([second], [3], torch.float32), batch, logp, probe_logp)[0]
