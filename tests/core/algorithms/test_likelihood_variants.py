"""What sets each likelihood algorithm apart from its parent, in numbers derived by hand; ReST and RAFT as schedules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.algorithms.best_of_n import BestOfN, SuperHF
from sims.core.algorithms.filtering import RAFT, RejectionSampling, ReST, best_share
from sims.core.algorithms.likelihood import SFT, LikelihoodAlgorithm, PrefFT
from sims.core.algorithms.reward_weighted import AWR, RWR
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, Outputs
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.environments.space import TokenSpace
from sims.environments.token_tree import TokenTree
from sims.exact import log_softmax, population_weights
from sims.policies import Table
from tests.core.enumeration import enumerate_batches, make_problem


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ragged(*counts: list[int]) -> Tensor:
    """Masks (B, K, 4) of responses of these lengths."""
    return torch.arange(4) < torch.tensor(counts).unsqueeze(-1)


def make_batch(mask: Tensor, rewards: Tensor | None = None, **fields: Any) -> Batch:
    """A batch of masks (B, K, L) and rewards (B, K), to prompts of three tokens."""
    prompts = torch.zeros((*mask.shape[:-2], 3), dtype=torch.int64)
    return Batch(prompts, torch.zeros(mask.shape, dtype=torch.int64), mask, rewards=rewards, **fields)


def aimed(algorithm: Algorithm, batch: Batch, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The targets of the whole batch as one minibatch."""
    if state is None:
        state = algorithm.initial_state(batch.lead, torch.float64, torch.device("cpu"))
    return algorithm.at_update(batch, algorithm.targets(batch, state)[0], None)


def run(algorithm: Algorithm, batch: Batch, logp: Tensor, **outputs: Tensor) -> tuple[float, Tensor]:
    """The loss of one minibatch and its gradient by the log-probs (B, K, L)."""
    leaf = logp.detach().clone().requires_grad_()
    loss = algorithm.loss(Outputs(leaf, **outputs), batch, aimed(algorithm, batch)).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.item(), gradient


class TestSFT:
    MASK = ragged([1, 3], [2, 4])
    LOGP = -tensor([[1, 9, 9, 9], [1, 2, 3, 9]], [[2, 2, 9, 9], [1, 1, 1, 1]]).double()

    def test_the_three_reductions_by_hand(self) -> None:
        """Responses sum to 1, 6, 4, 4 over 1, 3, 2, 4 tokens. Demonstrations need no rewards."""
        batch = make_batch(self.MASK)
        found = [run(SFT(reduction=r), batch, self.LOGP)[0] for r in ("sequence_sum", "sequence_mean", "token_mean")]
        assert found == pytest.approx([15 / 4, (1 + 2 + 2 + 1) / 4, 15 / 10])

    @pytest.mark.parametrize("reduction", ["sequence_sum", "sequence_mean", "token_mean"])
    @pytest.mark.parametrize("include_prompt", [False, True])
    def test_absent_responses_are_deleted_and_masked_slots_not_read(self, reduction: Any, include_prompt: bool) -> None:
        algorithm = SFT(reduction=reduction, include_prompt=include_prompt)
        prompts = {"prompt_logp": -tensor([9, 1, 2], [9, 3, 4]).double()}
        batch = make_batch(self.MASK, weight=tensor([1.0, 1.0], [0.0, 0.0]))
        loss, gradient = run(algorithm, batch, self.LOGP.masked_fill(~self.MASK, math.nan), **prompts)
        alone, kept = run(algorithm, make_batch(self.MASK[:1]), self.LOGP[:1], prompt_logp=prompts["prompt_logp"][:1])
        assert loss == pytest.approx(alone)
        torch.testing.assert_close(gradient[:1], kept)
        assert (gradient[1] == 0.0).all()

    def test_the_prompt_is_imitated_once_a_response_but_for_its_first_token(self) -> None:
        """Padding on the left: one prompt of two tokens, one of three, whose first cannot be predicted."""
        prompt_logp = tensor([math.nan, math.nan, -3.0], [math.nan, -1.0, -2.0]).requires_grad_()
        prompt_mask = torch.tensor([[False, True, True], [True, True, True]])
        batch = make_batch(self.MASK, prompt_mask=prompt_mask)
        found = {r: SFT(reduction=r, include_prompt=True) for r in ("sequence_sum", "sequence_mean", "token_mean")}
        losses = {r: run(a, batch, self.LOGP, prompt_logp=prompt_logp)[0] for r, a in found.items()}
        assert losses["sequence_sum"] == pytest.approx((15 + 2 * 3 + 2 * 3) / 4)
        # Tokens: 1 + 1, 1 + 3, 2 + 2, 2 + 4; sums: 3 + 1, 3 + 6, 3 + 4, 3 + 4.
        assert losses["sequence_mean"] == pytest.approx((4 / 2 + 9 / 4 + 7 / 4 + 7 / 6) / 4)
        assert losses["token_mean"] == pytest.approx(27 / 16)
        loss = found["token_mean"].loss(Outputs(self.LOGP, prompt_logp=prompt_logp), batch,
                                        aimed(found["token_mean"], batch)).sum()  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, prompt_logp)
        torch.testing.assert_close(gradient, -tensor([0, 0, 2], [0, 2, 2]) / 16)

    def test_says_what_is_missing(self) -> None:
        with pytest.raises(ValueError, match="include_prompt = True: must be False for a policy that gives no prompt"):
            run(SFT(include_prompt=True), make_batch(self.MASK), self.LOGP)
        numbered = make_batch(self.MASK).replace(prompts=torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match="include_prompt = True: must be False here, where prompts are numbers"):
            run(SFT(include_prompt=True), numbered, self.LOGP)

    def test_rewards_do_not_matter(self) -> None:
        good, bad = (make_batch(self.MASK, tensor([a, b], [b, a])) for a, b in ((0.0, 1.0), (5.0, -3.0)))
        assert run(SFT(), good, self.LOGP)[0] == run(SFT(), bad, self.LOGP)[0]


class TestPrefFT:
    def test_imitates_the_preferred_and_lets_the_other_be(self) -> None:
        mask = ragged([1, 3])
        pairs = {"pairs": torch.tensor([[[0, 1]]]), "pair_label": tensor([0.0])}
        loss, gradient = run(PrefFT(), make_batch(mask, **pairs), -torch.ones(mask.shape, dtype=torch.float64))
        assert loss == 3.0
        torch.testing.assert_close(gradient, -tensor([[0, 0, 0, 0], [1, 1, 1, 0]]).double())
        unsure = pairs | {"pair_label": tensor([0.75])}
        loss, _ = run(PrefFT(), make_batch(mask, **unsure), -torch.ones(mask.shape, dtype=torch.float64))
        assert loss == 0.75 * 1 + 0.25 * 3

    def test_is_best_of_2_when_labels_follow_rewards(self) -> None:
        problem = make_problem(TokenSpace(3), prompts=2, seed=1)
        margin = problem.rewards[:, :, None] - problem.rewards[:, None, :]
        problem.label[:] = (np.sign(margin) + 1) / 2
        found, expected = (enumerate_batches(problem, a, 2).expected_gradient() for a in (PrefFT(), BestOfN()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)

    def test_wants_no_reference(self) -> None:
        assert not PrefFT().needs_reference and not PrefFT.negative_gradient


class TestBestShare:
    SCORES = tensor([5.0, 1.0, 3.0, 2.0], [0.5, 0.1, 0.4, 4.0])
    THERE = torch.ones(2, 4, dtype=torch.bool)

    def chosen(self, keep: Any, top: Any, there: Tensor | None = None, scores: Tensor | None = None) -> list[list[int]]:
        kept = best_share(self.SCORES if scores is None else scores, self.THERE if there is None else there, keep, top)
        return [row.nonzero().flatten().tolist() for row in kept]

    @pytest.mark.parametrize(
        ("keep", "of_each", "of_all"),
        [
            (0.1, [[0], [3]], [[0], []]),
            (0.25, [[0], [3]], [[0], [3]]),
            (0.3, [[0, 2], [0, 3]], [[0, 2], [3]]),  # ⌈1.2⌉ = 2 of 4, ⌈2.4⌉ = 3 of 8
            (0.5, [[0, 2], [0, 3]], [[0, 2, 3], [3]]),
            (1.0, [[0, 1, 2, 3]] * 2, [[0, 1, 2, 3]] * 2),
        ],
    )
    def test_by_hand(self, keep: float, of_each: list[list[int]], of_all: list[list[int]]) -> None:
        assert self.chosen(keep, "per_prompt") == of_each
        assert self.chosen(keep, "over_all_prompts") == of_all

    def test_ties_with_the_last_are_kept(self) -> None:
        scores = tensor([1.0, 2.0, 2.0, 0.0], [2.0, 0.0, 0.0, 0.0])
        assert self.chosen(0.25, "per_prompt", scores=scores) == [[1, 2], [0]]
        assert self.chosen(0.125, "over_all_prompts", scores=scores) == [[1, 2], [0]]

    def test_the_absent_neither_count_nor_are_kept(self) -> None:
        scores = self.SCORES.clone()
        scores[0, 0] = math.nan
        there = ~scores.isnan()
        there[1] = False
        assert self.chosen(1 / 3, "per_prompt", there, scores) == [[2], []]
        assert self.chosen(2 / 3, "over_all_prompts", there, scores) == [[2, 3], []]

    def test_a_share_that_floating_point_misses_by_a_hair(self) -> None:
        assert math.ceil(0.07 * 100) == 8
        kept = best_share(torch.arange(100.0)[None], torch.ones(1, 100, dtype=torch.bool), 0.07, "per_prompt")
        assert kept.sum() == 7

    def test_one_share_a_run(self) -> None:
        scores, there = self.SCORES.expand(2, 2, 4), self.THERE.expand(2, 2, 4)
        for top in ("per_prompt", "over_all_prompts"):
            both = best_share(scores, there, tensor(0.25, 0.5), top)
            for r, keep in enumerate((0.25, 0.5)):
                assert torch.equal(both[r], best_share(self.SCORES, self.THERE, keep, top))


class TestRejectionSampling:
    REWARDS = tensor([5.0, 4.0], [0.0, 3.0])

    def test_one_of_k_is_best_of_n(self) -> None:
        problem = make_problem(TokenSpace(4), prompts=1, seed=2)
        found, expected = (
            enumerate_batches(problem, a, 4).expected_gradient() for a in (RejectionSampling(keep=0.25), BestOfN())
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)

    def test_over_all_prompts_is_one_flat_mean(self) -> None:
        """Three of four are kept: two of the easy prompt, each with a third."""
        batch = make_batch(ragged([1, 1], [1, 1]), self.REWARDS)
        share = aimed(RejectionSampling(keep=0.75, top="over_all_prompts"), batch)["share"]
        torch.testing.assert_close(share, tensor([1.0, 1.0], [0.0, 1.0]) / 3)
        share = aimed(RejectionSampling(keep=0.5), batch)["share"]
        torch.testing.assert_close(share, tensor([1.0, 0.0], [0.0, 1.0]) / 2)

    def test_a_minibatch_without_any_kept_has_no_loss(self) -> None:
        batch = make_batch(ragged([1, 1], [1, 1]), self.REWARDS)
        algorithm = RejectionSampling(keep=0.25, top="over_all_prompts")
        targets, _ = algorithm.targets(batch, {})
        second = algorithm.at_update(batch.narrow(1, 1), {name: x[1:] for name, x in targets.items()}, None)
        assert second["share"].tolist() == [[0.0, 0.0]]

    @pytest.mark.parametrize("algorithm", [RejectionSampling(), RAFT(top="per_prompt")], ids=lambda a: a.kind)
    def test_one_response_has_no_best(self, algorithm: Algorithm) -> None:
        batch = make_batch(ragged([1], [1]), tensor([1.0], [2.0]))
        with pytest.raises(ValueError, match="num_generations = 1: must be at least 2 with top = per_prompt"):
            algorithm.targets(batch, {})


class TestRAFT:
    def test_keeps_a_fifth_of_the_whole_batch(self) -> None:
        rewards = torch.arange(10.0).double().reshape(2, 5)
        share = aimed(RAFT(), make_batch(torch.ones(2, 5, 1, dtype=torch.bool), rewards))["share"]
        torch.testing.assert_close(share, tensor([0.0] * 5, [0.0, 0.0, 0.0, 0.5, 0.5]))

    def test_ranks_by_the_penalised_reward(self) -> None:
        """Rewards 1, 2, 0, and log-ratios of 1, 3, 0 over 1, 3 and 2 tokens: 1 − β, 2 − 3β, 0."""
        mask = ragged([1, 3, 2])
        logp_ref = -tensor([[2, 9, 9, 9], [2, 2, 2, 9], [1, 1, 9, 9]]).double()
        batch = make_batch(
            mask,
            tensor([1.0, 2.0, 0.0]),
            logp_ref=logp_ref.masked_fill(~mask, math.nan),
            logp_sampler=torch.where(mask, -1.0, math.nan).double(),
        )
        for beta, best in ((0.0, 1), (0.4, 1), (0.6, 0), (1.5, 2)):
            share = aimed(RAFT(beta=beta), batch)["share"]
            assert share.argmax().item() == best and share.sum() == 1.0
            assert RAFT(beta=beta).needs_reference == (beta > 0)


class TestReST:
    REWARDS = torch.arange(10.0).double().reshape(2, 5)

    def test_the_set_shrinks_from_pass_to_pass(self) -> None:
        batch = make_batch(torch.ones(2, 5, 1, dtype=torch.bool), self.REWARDS)
        algorithm = ReST(quantiles=(0.0, 0.5, 0.75))
        targets, _ = algorithm.targets(batch, {})
        counts = [int(targets["weight"].sum())]
        for epoch in range(5):
            targets = algorithm.at_epoch(batch, targets, epoch)
            counts.append(int(targets["weight"].sum()))
        assert counts == [10, 10, 5, 3, 3, 3]  # ⌈10⌉, ⌈5⌉, ⌈2.5⌉, and the last goes on
        torch.testing.assert_close(algorithm.at_update(batch, targets, None)["share"][1], tensor(0, 0, 1, 1, 1) / 3)

    def test_thresholds_are_a_run_s_own(self) -> None:
        both = torch.stack([self.REWARDS, 100 - self.REWARDS])
        weight = ReST(quantiles=(0.9,)).targets(make_batch(torch.ones(2, 2, 5, 1).bool(), both), {})[0]["weight"]
        assert weight.nonzero().tolist() == [[0, 1, 4], [1, 0, 0]]

    @pytest.mark.parametrize("quantiles", [(), (0.5, 0.5), (0.5, 0.2), (-0.1,), (0.5, 1.0)])
    def test_refuses_thresholds_that_do_not_rise(self, quantiles: tuple[float, ...]) -> None:
        with pytest.raises(SpecError, match=r"quantiles = .*each above the last"):
            ReST(quantiles=quantiles)


class Watched:
    """Records which responses count in each update, by wrapping `at_update`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: type[LikelihoodAlgorithm]) -> None:
        self.thresholds: list[Tensor] = []
        self.counts: list[Tensor] = []
        original = cls.at_update

        def watch(algorithm: Any, batch: Batch, targets: Any, probe_logp: Any) -> Any:
            counted = targets["weight"] > 0
            self.thresholds.append(batch.need("rewards").masked_fill(~counted, torch.inf).amin((-2, -1)))
            self.counts.append(counted.sum((-2, -1)))
            return original(algorithm, batch, targets, probe_logp)

        monkeypatch.setattr(cls, "at_update", watch)


def train_on_the_tree(
    algorithm: Algorithm, epochs: int, batches: int, runs: int = 4
) -> tuple[Training, Tensor, Tensor]:
    """Train tables on the tree of 15 responses; returns expected rewards before and after, (runs,) each."""
    spec, noise = TokenTree(num_prompts=2), Noise.of(seed=0, runs=runs)
    environment = spec.build(torch.float64, noise)
    policy = Table().build(spec, noise, critic=False, dtype=torch.float64)
    learner = Learner(policy, Optimiser(learning_rate=0.05), noise.lead)
    schedule = Schedule(batch_size=16, num_generations=4, epochs=epochs)
    training = Training(policy, environment, algorithm, schedule, learner, noise)

    def value() -> Tensor:
        return (policy.all_log_probs().detach().exp() * environment.all_rewards()).sum(-1).mean(-1)

    before = value()
    for _ in training.train(batches * epochs):
        pass
    return training, before, value()


class TestSchedules:
    def test_rest_grows_once_and_improves_on_less_and_better(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = Watched(monkeypatch, ReST)
        training, before, after = train_on_the_tree(ReST(quantiles=(0.0, 0.5, 0.9)), epochs=4, batches=10)
        assert training.collector.samples == 10 * 16 * 4  # one grow step for every four improve steps
        thresholds, counts = (
            torch.stack(seen.thresholds).unflatten(0, (10, 4)),
            torch.stack(seen.counts).unflatten(0, (10, 4)),
        )
        assert (thresholds.diff(dim=1)[:, :2] > 0).all() and (thresholds.diff(dim=1)[:, 2] == 0).all()
        assert (counts[:, 0] == 64).all()  # the next grow step starts with everything again
        assert (counts.diff(dim=1)[:, :2] < 0).all() and (counts.diff(dim=1)[:, 2] == 0).all()
        assert (counts[:, 1] >= 32).all() and (counts[:, 2] >= 7).all()  # ⌈6.4⌉, and ties
        assert (after > before + 0.05).all()

    def test_raft_draws_anew_and_keeps_its_choice_for_all_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = Watched(monkeypatch, RAFT)
        training, before, after = train_on_the_tree(RAFT(), epochs=3, batches=20)
        assert training.collector.fresh and training.collector.samples == 20 * 16 * 4
        thresholds, counts = (torch.stack(x).unflatten(0, (20, 3)) for x in (seen.thresholds, seen.counts))
        assert (thresholds == thresholds[:, :1]).all() and (counts == counts[:, :1]).all()
        assert (counts >= 13).all()  # ⌈.2 · 64⌉, and ties
        # The policy that draws has learned: the bar is higher in the end.
        assert (thresholds[-5:].mean((0, 1)) > thresholds[:5].mean((0, 1))).all()
        assert (after > before + 0.05).all()


class TestSuperHF:
    MASK = ragged([2, 3])
    LOGP = -tensor([[1, 1, 9, 9], [1, 1, 1, 9]]).double()

    def batch(self, gap: float) -> Batch:
        logp_ref = (self.LOGP - gap).masked_fill(~self.MASK, math.nan)
        return make_batch(self.MASK, tensor([1.0, 0.0]), logp_ref=logp_ref)

    def test_pays_only_on_the_best(self) -> None:
        loss, gradient = run(SuperHF(beta=0.3), self.batch(0.5), self.LOGP)
        assert loss == pytest.approx(2 + 0.3 * 2 * (math.exp(-0.5) - 0.5))
        pull = -1 + 0.3 * (1 - math.exp(-0.5))
        torch.testing.assert_close(gradient, tensor([[pull, pull, 0, 0], [0, 0, 0, 0]]))

    def test_at_the_reference_it_is_best_of_n(self) -> None:
        for algorithm, gap in ((SuperHF(beta=5.0), 0.0), (SuperHF(beta=0.0), 0.5)):
            leashed, free = run(algorithm, self.batch(gap), self.LOGP), run(BestOfN(), self.batch(gap), self.LOGP)
            assert leashed[0] == pytest.approx(free[0])
            torch.testing.assert_close(leashed[1], free[1])

    def test_the_leash_holds_below_the_reference_too(self) -> None:
        """k3 pulls a token up that the policy has made rarer than the reference, e^{−ρ} − 1 strong."""
        _, gradient = run(SuperHF(beta=1.0), self.batch(-2.0), self.LOGP)
        assert gradient[0, 0, 0].item() == pytest.approx(-1 + (1 - math.exp(2.0)))

    def test_wants_a_reference_only_with_beta(self) -> None:
        assert SuperHF().needs_reference and not SuperHF(beta=0.0).needs_reference
        assert SuperHF(beta=tensor(0.0, 0.1)).needs_reference


class TestAWR:
    MASK = torch.ones(2, 2, 1, dtype=torch.bool)
    REWARDS = tensor([0.0, 1.0], [3.0, 7.0])

    def scale(self, algorithm: Algorithm, rewards: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        state = state or algorithm.initial_state((), torch.float64, torch.device("cpu"))
        return algorithm.targets(make_batch(self.MASK, rewards), state)[0]["scale"]

    def test_by_hand(self) -> None:
        found = self.scale(AWR(beta=2.0, baseline="group_mean", weight_clip=2.0), self.REWARDS)
        torch.testing.assert_close(found, tensor([math.exp(-0.25), math.exp(0.25)], [math.exp(-1.0), 2.0]))

    def test_a_shift_of_all_rewards_matters_to_rwr_alone(self) -> None:
        shifted = self.REWARDS + 100
        group = AWR(baseline="group_mean")
        torch.testing.assert_close(self.scale(group, shifted), self.scale(group, self.REWARDS))
        assert (self.scale(RWR(), shifted) == 20.0).all()  # all clipped: nothing is left of the ranking
        for rewards in (self.REWARDS, shifted):
            _, state = AWR().targets(make_batch(self.MASK, rewards), AWR().initial_state((), torch.float64, None))
            assert state["reward_count"] == 4 and state["reward_mean"] == rewards.mean()
            torch.testing.assert_close(
                self.scale(AWR(beta=3.0), rewards, state), torch.exp((self.REWARDS - 11 / 4) / 3).clamp(max=20)
            )

    def test_the_first_batch_of_a_running_mean_is_rwr_s(self) -> None:
        torch.testing.assert_close(self.scale(AWR(beta=5.0), self.REWARDS), self.scale(RWR(beta=5.0), self.REWARDS))

    def test_the_minimiser(self) -> None:
        """Weighted likelihood is least where the policy is the weights, normalised: μ·e^{r/β}/Z at β or β·K/(K−1)."""
        problem = make_problem(TokenSpace(4), prompts=1, seed=2)
        logp = problem.logp(problem.sampler)
        for generations in (2, 4):
            for algorithm, beta in (
                (RWR(beta=0.8), 0.8),
                (AWR(beta=0.8), 0.8),
                (AWR(beta=0.8, baseline="group_mean"), 0.8 * generations / (generations - 1)),
            ):
                every = enumerate_batches(problem, algorithm, generations)
                weights = -population_weights(algorithm, every.population())
                expected = log_softmax(logp + problem.rewards / beta)
                np.testing.assert_allclose(np.log(weights / weights.sum()), expected, rtol=0, atol=1e-12)

    def test_absent_responses_are_deleted(self) -> None:
        rewards = tensor([0.0, math.nan, 1.0])
        mask = torch.ones(1, 3, 1, dtype=torch.bool)
        logp = -tensor([[1.0], [2.0], [3.0]])
        weight = tensor([1.0, 0.0, 1.0])
        for algorithm in (AWR(), AWR(baseline="group_mean"), RWR(), BestOfN(), RejectionSampling(), RAFT(), ReST()):
            found, _ = run(algorithm, make_batch(mask, rewards, weight=weight), logp)
            alone, _ = run(algorithm, make_batch(mask[:, :2], rewards[:, ::2]), logp[:, ::2])
            assert found == pytest.approx(alone), algorithm.kind

    def test_a_group_of_one_has_no_mean_but_itself(self) -> None:
        batch = make_batch(self.MASK[:, :1], self.REWARDS[:, :1])
        with pytest.raises(ValueError, match="num_generations = 1: must be at least 2 with baseline = group_mean"):
            AWR(baseline="group_mean").check_schedule(Schedule(num_generations=1))
        AWR(baseline="group_mean").check_schedule(Schedule(num_generations=2))
        AWR().targets(batch, AWR().initial_state((), torch.float64, torch.device("cpu")))


PER_RUN = [
    (AWR(), {"beta": (0.5, 2.0), "weight_clip": (0.4, 20.0)}),
    (RWR(), {"beta": (0.5, 2.0), "weight_clip": (0.4, 20.0)}),
    (RejectionSampling(), {"keep": (0.5, 1.0)}),
    (RAFT(), {"keep": (0.3, 0.6), "beta": (0.2, 2.0)}),
    (SuperHF(), {"beta": (0.2, 2.0)}),
]


@pytest.mark.parametrize(("algorithm", "numbers"), PER_RUN, ids=lambda a: a.kind if isinstance(a, Algorithm) else "")
def test_numbers_that_are_one_a_run(algorithm: Algorithm, numbers: dict[str, tuple[float, float]]) -> None:
    """Two runs in one tensor, each with its own numbers, give the losses and gradients of two runs by themselves."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.stack([ragged([1, 3], [2, 4]), ragged([4, 2], [1, 1])])
    noise = torch.randn(3, *mask.shape, generator=generator, dtype=torch.float64)
    rewards = torch.randn(mask.shape[:-1], generator=generator, dtype=torch.float64)
    batch = make_batch(mask, rewards, logp_ref=noise[1] - 1, logp_sampler=noise[0] - 1)
    stacked = algorithm.replace(**{name: tensor(*pair) for name, pair in numbers.items()})
    loss, gradient = run(stacked, batch, noise[2])
    parts = []
    for r in range(2):
        alone = algorithm.replace(**{name: pair[r] for name, pair in numbers.items()})
        one = batch.over_prompts(lambda x, axis, r=r: x[r])
        parts.append(run(alone, one, noise[2, r]))
    assert loss == pytest.approx(sum(part for part, _ in parts))
    torch.testing.assert_close(gradient, torch.stack([part for _, part in parts]))
    for name in numbers:  # each number counts
        fewer = algorithm.replace(**{other: tensor(*pair) for other, pair in numbers.items() if other != name})
        assert not torch.equal(run(fewer, batch, noise[2])[1], gradient)
