"""What is logged of an update, and of the first batch's pairs, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import sims
from llm.tasks import ModeLength
from llm.training.evaluation import _winners_and_losers
from llm.training.metrics import UpdateMetrics
from sims.core.objectives.batch import Batch, Outputs

EOS = 0


def tensor(*values: Any) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# One prompt with a response of two tokens and EOS, and one of three that was cut.
BATCH = Batch(
    prompts=torch.tensor([[9]]),
    responses=torch.tensor([[[5, 6, EOS], [7, 7, 7]]]),
    mask=torch.ones(1, 2, 3, dtype=torch.bool),
    rewards=tensor(1.0, 4.0),
    gold=tensor(0.0, 2.0),
    logp_sampler=tensor([-1.0, -2.0, -0.5], [-1.0, -1.0, -1.0]),
    logp_ref=tensor([-2.0, -2.0, -0.5], [-1.0, -1.0, -4.0]),
)
LOGP = tensor([-0.9, -2.0, -0.5], [-1.0, -1.5, -1.0])  # of the policy: log-ratios 0.1 and −0.5 of two of the tokens


def logged(
    algorithm: sims.Algorithm, batch: Batch = BATCH, advantages: Tensor | None = None, parts: Sequence[Batch] = ()
) -> dict[str, float]:
    environment = SimpleNamespace(
        eos_token_ids=(EOS,), has_gold=True, ended=lambda responses, mask: (responses == EOS).any(-1)
    )
    learner = SimpleNamespace(optimiser=SimpleNamespace(spec=SimpleNamespace(learning_rate=0.1)))
    training = SimpleNamespace(learner=learner, collector=SimpleNamespace(sampler=None))
    experiment = SimpleNamespace(algorithm=algorithm)
    ranks = SimpleNamespace(sum=lambda tensors: None)
    run: Any = SimpleNamespace(environment=environment, training=training, experiment=experiment, ranks=ranks)
    metrics = UpdateMetrics(run)
    targets = {} if advantages is None else {"advantages": advantages}
    metrics.parts = [(part, LOGP.expand(part.mask.shape), targets) for part in parts or [batch]]
    stats = SimpleNamespace(loss=torch.tensor(0.5), grad_norm=torch.tensor(2.0))
    update: Any = SimpleNamespace(batch=batch, stats=stats, number=3, samples=8, staleness=1)
    return metrics.row(update)


def test_of_a_batch() -> None:
    found = logged(sims.RLOO())
    expected = {
        "update": 3,
        "samples": 8,
        "staleness": 1,
        "loss": 0.5,
        "grad_norm": 2.0,
        "learning_rate": 0.1,
        "reward": 2.5,
        "reward_std": 1.5,
        "gold": 1.0,
        "completions/mean_length": 2.5,
        "completions/min_length": 2,
        "completions/max_length": 3,
        "completions/clipped_ratio": 0.5,
        "entropy": (3.5 + 3.0) / 6,
        "kl": (1.0 + 3.0) / 2,
    }
    assert found == pytest.approx(expected)


def test_of_a_batch_with_a_response_that_ends_early() -> None:
    """Behind its end stand numbers that nobody has computed: they are in no mean."""
    mask = torch.tensor([[[True, True, True], [True, True, False]]])
    spoilt = BATCH.need("logp_sampler").masked_fill(~mask, -50.0)
    found = logged(sims.RLOO(), replace(BATCH, mask=mask, logp_sampler=spoilt))
    assert found["kl"] == pytest.approx((1.0 + 0.0) / 2)
    assert found["entropy"] == pytest.approx((3.5 + 2.0) / 5)
    assert found["completions/mean_length"] == 2 and found["completions/max_length"] == 2


@pytest.mark.parametrize(
    ("algorithm", "share", "turned"),
    [
        (sims.GRPO(), 1 / 6, 0),  # e^−.5 = .61 is below .8, e^.1 = 1.11 within 1.2
        (sims.GRPO(epsilon_high=0.05), 2 / 6, 0),
        (sims.PPO(), 1 / 6, 0),
        (sims.RLOO(epsilon=0.2), 3 / 6, 0),  # the second response's ratio is e^−.5, for each of its tokens
        (sims.RLOO(epsilon=0.05), 1.0, 0),
        (sims.GSPO(), 1.0, 0),  # e^{.1/3} and e^{−.5/3}: both are out of 1 ± .0004
        (sims.CISPO(epsilon=0.2, epsilon_high=0.05), 2 / 6, 2 / 6),  # clips weights, whatever the advantages are
    ],
)
def test_what_is_clipped_is_what_the_loss_clips(algorithm: sims.Algorithm, share: float, turned: float) -> None:
    """A ratio above the range with a positive advantage, below it with a negative one, as in TRL; turned round, the
    loss leads back into the range and nothing is clipped."""
    advantages = tensor(1.0, -1.0)
    if isinstance(algorithm, sims.PPO):
        advantages = advantages.unsqueeze(-1).expand(1, 2, 3)
    for sign, expected in ((1, share), (-1, turned), (0, turned)):
        found = logged(algorithm, advantages=sign * advantages)["clip_ratio/region_mean"]
        assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "algorithm", [sims.GRPO(beta=0.0, epsilon_high=0.05), sims.GSPO(), sims.RLOO(epsilon=0.2), sims.RLOO(epsilon=0.05)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_clipped_has_no_gradient(algorithm: Any, sign: int) -> None:
    """By the loss itself: the tokens whose log-prob it does not depend on."""
    logp, targets = LOGP.clone().requires_grad_(), {"advantages": sign * tensor(1.0, -1.0)}
    outputs = Outputs(logp=logp)
    algorithm.loss(outputs, BATCH, algorithm.at_update(BATCH, targets, None)).sum().backward()
    assert logp.grad is not None
    found = logged(algorithm, advantages=targets["advantages"])["clip_ratio/region_mean"]
    assert found == pytest.approx(float((logp.grad == 0).double().mean()))


def pairs(weight: list[float] | None) -> Batch:
    """0 over 1, of which 1 is preferred, and a tie of 1 and 0."""
    weights = None if weight is None else tensor(*weight)
    return replace(BATCH, pairs=torch.tensor([[[0, 1], [1, 0]]]), pair_label=tensor(0.0, 0.5), pair_weight=weights)


@pytest.mark.parametrize(("weight", "tie"), [(None, 0.5), ([1, 0], 0.0), ([0.25, 0.75], 0.75), ([0, 1], 1.0)])
def test_of_pairs(weight: list[float] | None, tie: float) -> None:
    """ℓ is −3.4 and −3.5 of the two, −3.5 and −7 under the reference but for the last token: ρ is 1.1 and 2.5. tie: the
    share of the tie, which has half of each response, no margin, and half an accuracy."""
    found, one = logged(sims.DPO(beta=2.0), pairs(weight)), 1 - tie
    assert found["logps/chosen"] == pytest.approx(-3.5 * one - 3.45 * tie)
    assert found["logps/rejected"] == pytest.approx(-3.4 * one - 3.45 * tie)
    assert found["rewards/chosen"] == pytest.approx(2 * (2.5 * one + 1.8 * tie))
    assert found["rewards/rejected"] == pytest.approx(2 * (1.1 * one + 1.8 * tie))
    assert found["rewards/margins"] == pytest.approx(2 * 1.4 * one)
    assert found["rewards/accuracies"] == pytest.approx(one + tie / 2)


def test_pairs_weigh_as_in_the_loss() -> None:
    """0 over 1 with weight 1, where 1 is preferred; 1 over 0 with weight 3, where 0 is."""
    given = replace(BATCH, pairs=torch.tensor([[[0, 1], [1, 0]]]), pair_label=tensor(0.0, 0.0))
    for weight, share in ((None, 1 / 2), ([1.0, 0.0], 1.0), ([0.0, 2.0], 0.0), ([1.0, 3.0], 1 / 4)):
        found = logged(sims.DPO(beta=2.0), replace(given, pair_weight=None if weight is None else tensor(*weight)))
        assert found["logps/chosen"] == pytest.approx(-3.5 * share - 3.4 * (1 - share))
        assert found["rewards/chosen"] == pytest.approx(2 * (2.5 * share + 1.1 * (1 - share)))
        assert found["rewards/margins"] == pytest.approx(2 * 1.4 * (2 * share - 1))
        assert found["rewards/accuracies"] == pytest.approx(share)


def test_prompts_with_few_pairs_weigh_as_in_the_loss() -> None:
    """A prompt with one pair weighs as much as one with two, and one without any is in no mean; in whatever parts they
    come. ρ is 1.1 and 2.5, so that a margin is ±2·1.4."""
    three = BATCH.replace(
        **{name: torch.cat([BATCH.need(name)] * 3) for name in ("prompts", "responses", "mask", "logp_ref")},
        rewards=None,
        gold=None,
        logp_sampler=None,
        pairs=torch.tensor([[[0, 1], [1, 0]]] * 3),
        pair_label=torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64),
        pair_weight=torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64),
    )
    algorithm = sims.DPO(beta=2.0)
    share = algorithm.at_update(three, {}, None)["share"]
    for cuts in ((3,), (1, 1, 1), (2, 1)):
        rows = [sum(cuts[:i]) for i in range(len(cuts))]
        found = logged(algorithm, three, parts=[three.narrow(row, n) for row, n in zip(rows, cuts, strict=True)])
        assert found["rewards/margins"] == pytest.approx(2 * 1.4 * (1.0 / 2 - 1.0 / 2))
        assert found["rewards/accuracies"] == pytest.approx(1 / 2)
        right = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
        assert found["rewards/accuracies"] == pytest.approx(float((share * right).sum()))


def test_first_pairs_weigh_as_in_the_loss() -> None:
    """0 over 1 with weight 1, where 1 is preferred; 0 over 1 again with weight 3, where 0 is."""
    given = replace(BATCH, pairs=torch.tensor([[[0, 1], [0, 1]]]), pair_label=tensor(0.0, 1.0))
    for weight, winner in ((None, -3.45), ([1.0, 0.0], -3.5), ([1.0, 3.0], -3.425)):
        weighed = replace(given, pair_weight=None if weight is None else tensor(*weight))
        found = _winners_and_losers(LOGP, weighed)
        assert float(found["first_logp_winner"]) == pytest.approx(winner)
        assert float(found["first_logp_loser"]) == pytest.approx(-6.9 - winner)


def test_distance_is_that_of_lengths_to_the_mode() -> None:
    completions: Any = SimpleNamespace(lengths=[1, 3, 5, 4])
    assert ModeLength(mode=3).measure(completions) == {"distance": [2, 0, 2, 1]}
