"""Every algorithm's loss on one pair of responses, derived by hand, and the direction in which it moves them.

The exact gradients of `test_every_algorithm` compare a loss with an oracle that the same author may have written, with
the same sign turned. Here is what neither can get wrong: a number that anybody can recompute, and that what is better
becomes likelier. A new algorithm needs an entry in `BY_HAND`; its direction is tested without being told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.algorithms.clipped import GRPO
from sims.core.algorithms.contrastive import DPO
from sims.core.objectives.batch import Batch, Outputs
from tests.core.algorithms.test_every_algorithm import ALGORITHMS, CASES

NAN = math.nan


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: float) -> float:
    """log(1 + e^x) = −log σ(−x)"""
    return math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def k3(x: float) -> float:
    return math.exp(-x) - 1.0 + x


def log_odds(logp: float) -> float:
    return logp - math.log(1.0 - math.exp(logp))


# One prompt, two responses a and b, of one and two tokens.
#
#                      a              b                     whole: a    b
#   log-prob           −1             −1, −2                ℓ     −1    −3
#   of the reference   −1.5           −1, −1                ℓ_ref −1.5  −2
#   log-ratio ρ        0.5            0, −1                 ρ     0.5   −1      margin h = ρ_a − ρ_b = 1.5
#   ratio w to sampler 1.5            1, 0.5
#   old value          0.5            0.25, 0.75
#   value now          0.5            0, 1
#   reward             1              0                     the pair (a, b) is labelled: a is preferred
#
# Mismatched responses, for KTO's anchor z: log-ratios 0.4 and 0, of mean 0.2.
MASK = torch.tensor([[[True, False], [True, True]]])
LOGP = tensor([[-1.0, NAN], [-1.0, -2.0]])
LOGP_REF = tensor([[-1.5, NAN], [-1.0, -1.0]])
RATIO = tensor([[1.5, NAN], [1.0, 0.5]])
VALUES = tensor([[0.5, NAN], [0.0, 1.0]])
BATCH = Batch(
    prompts=torch.zeros(1, dtype=torch.int64),
    responses=torch.zeros(1, 2, 2, dtype=torch.int64),
    mask=MASK,
    rewards=tensor([1.0, 0.0]),
    pairs=torch.tensor([[[0, 1]]]),
    pair_label=tensor([1.0]),
    logp_sampler=LOGP - RATIO.log(),
    logp_ref=LOGP_REF,
    values=tensor([[0.5, NAN], [0.25, 0.75]]),
    probes=Batch(
        prompts=torch.zeros(1, dtype=torch.int64),
        responses=torch.zeros(1, 2, 2, dtype=torch.int64),
        mask=MASK,
        logp_ref=tensor([[-1.0, NAN], [-1.0, -1.0]]),
    ),
)
PROBE_LOGP = tensor([[-0.6, NAN], [-1.2, -0.8]])

# Advantages of a group of two, by the sample standard deviation √½ (ddof 1): (1 − ½)/(√½ + 0.0001) and its negative.
A = 0.5 / (math.sqrt(0.5) + 1e-4)
# Generalised advantages at λ = 0.95. b, backwards: δ_2 = 0 − 0.75, δ_1 = 0.75 − 0.25; a: 1 − 0.5.
B_1 = 0.5 + 0.95 * -0.75
RETURN_B_1 = B_1 + 0.25
# β = 0.04; tokens are averaged within their response.
OF_GRPO = (-1.2 * A + 0.04 * k3(0.5)) / 2 + (A + 0.8 * A + 0.04 * (k3(0.0) + k3(-1.0))) / 4


@dataclass(frozen=True)
class ByHand:
    """expected: the loss of `BATCH` under the algorithm with these settings."""

    expected: float
    settings: dict[str, Any]

    def __init__(self, expected: float, **settings: Any) -> None:
        object.__setattr__(self, "expected", expected)
        object.__setattr__(self, "settings", settings)


# A response counts one half, a token of it one half too or what is said. Numbers are the defaults' unless given.
BY_HAND: dict[str, list[ByHand]] = {
    # −½(A_a·ℓ_a + A_b·ℓ_b); nothing came before, so that the baseline is 0: A = r.
    "reinforce": [ByHand(-(1 * -1 + 0 * -3) / 2)],
    # A = r − the other's.
    "rloo": [ByHand(-(1 * -1 + -1 * -3) / 2)],
    "ppo": [
        ByHand(
            (
                -1.2 * 0.5  # a: w = 1.5 is clipped to 1.2
                + 0.5 * (0.5 - 1.0) ** 2 / 2  # half of half the squared error of the value; the return is 1
                + (-B_1 + 0.8 * 0.75)  # b: w = 1, then 0.5, which a bad token may not gain by: 0.8
                + 0.5 * ((0.0 - RETURN_B_1) ** 2 + (1.0 - 0.0) ** 2) / 2
            )
            / 2
        )
    ],
    "grpo": [ByHand(OF_GRPO)],
    # A = ±½; tokens are summed.
    "dr_grpo": [ByHand((-1.2 * 0.5 + 0.5 + 0.8 * 0.5) / 2)],
    # One mean over three tokens, clipped at 1.28 above.
    "dapo": [ByHand((-1.28 * A + A + 0.8 * A) / 3)],
    # One ratio per response, 1.5 and √(1·0.5), clipped at 1.0004 and 0.9997.
    "gspo": [ByHand((-1.0004 * A + 0.9997 * A) / 2)],
    # −w·A·log π, one mean over three tokens; 5 bounds w above.
    "cispo": [ByHand((-1.5 * A * -1 + 1 * A * -1 + 0.5 * A * -2) / 3)],
    # z = βh = 0.15
    "dpo": [ByHand(softplus(-0.15)), ByHand(softplus(-0.1 * (0.5 - -1 / 2)), length_normalised=True)],
    "cdpo": [ByHand(0.9 * softplus(-0.15) + 0.1 * softplus(0.15))],
    "robust_dpo": [ByHand((0.9 * softplus(-0.15) - 0.1 * softplus(0.15)) / 0.8)],
    "slic": [ByHand(1 - 0.15), ByHand(0.0, beta=0.7)],  # 0.7·1.5 is beyond 1
    "group_dpo": [ByHand(softplus(-0.15))],
    "ipo": [ByHand((1.5 - 1 / 0.2) ** 2)],
    "dpo_nll": [ByHand(softplus(-0.15) + 1 / 1)],  # −ℓ_a/|a|
    # z = 0.2: good a at ρ = 0.5, bad b at ρ = −1
    "kto": [ByHand(((1 - sigmoid(0.1 * (0.5 - 0.2))) + (1 - sigmoid(0.1 * (0.2 - -1)))) / 2)],
    "sft": [ByHand((1 + 3) / 2)],
    "pref_ft": [ByHand(1.0)],
    "best_of_n": [ByHand(1.0)],
    "best_of_n_negative": [ByHand(1 + 0.05 * -3), ByHand(-0.5 + 0.05 * -1, form="log_ratio")],
    "superhf": [ByHand(1 + 0.35 * k3(0.5))],
    "rejection_sampling": [ByHand(1.0), ByHand((1 + 3) / 2, keep=1.0)],  # ⌈0.25·2⌉ = 1 is kept
    "raft": [ByHand(1.0)],  # ⌈0.2·2⌉ = 1
    "rest": [ByHand(1.0), ByHand((1 + 3) / 2, quantiles=(0.0,))],  # the upper half is one
    # Weights e^{r/β}
    "rwr": [ByHand((math.e * 1 + 1 * 3) / 2), ByHand((2.0 * 1 + 1 * 3) / 2, weight_clip=2.0)],
    "awr": [
        ByHand((math.e * 1 + 1 * 3) / 2),  # nothing came before: baseline 0
        ByHand((math.exp(0.5) * 1 + math.exp(-0.5) * 3) / 2, baseline="group_mean"),
    ],
    "xpo": [ByHand(softplus(-0.15) + 0.2 * -3, alpha=0.2)],  # b is the reference's
    "nash_md": [ByHand(-(1 - 0.5) * -1 + 0.1 * 0.5**2 / 2)],
    "cpo": [ByHand(softplus(-0.1 * (-1 - -3)) + 1 / 1)],
    "simpo": [ByHand(softplus(-(2 * (-1 - -1.5) - 1)))],  # means per token −1 and −1.5
    "mixture": [
        ByHand(softplus(-0.15) + 1.0),
        ByHand(0.5 * softplus(-0.15) + 2 * OF_GRPO, losses=(DPO(), GRPO()), loss_weights=(0.5, 2.0)),
    ],
    "orpo": [ByHand(1 / 1 + 0.1 * softplus(-(log_odds(-1) - log_odds(-1.5))))],
}  # fmt: skip


def loss_of(
    algorithm: Algorithm, batch: Batch, logp: Tensor, values: Tensor | None = None, probe_logp: Tensor | None = None
) -> Tensor:
    """Each prompt's loss of a first batch, taken as one minibatch."""
    state = algorithm.initial_state(batch.lead, torch.float64, torch.device("cpu"))
    targets = algorithm.at_epoch(batch, algorithm.targets(batch, state)[0], 0)
    targets = algorithm.at_update(batch, targets, probe_logp if algorithm.needs_probes else None)
    return algorithm.loss(Outputs(logp, values), batch, targets)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_loss_is_the_value_derived_by_hand(kind: str) -> None:
    """To 1e-12; NaN stands behind the end of a. Without rewards, if it says that it needs none."""
    assert BY_HAND.get(kind), (
        f"{kind} has no value derived by hand: add to BY_HAND the loss of BATCH, as a formula of the numbers above it"
    )
    for value in BY_HAND[kind]:
        algorithm = ALGORITHMS[kind](**value.settings)
        batch = BATCH if algorithm.needs_rewards else BATCH.replace(rewards=None)
        found = loss_of(algorithm, batch, LOGP, VALUES, PROBE_LOGP)
        assert found.shape == (1,), f"{kind}: a loss has one number per prompt, not the shape {tuple(found.shape)}"
        assert found.item() == pytest.approx(value.expected, rel=1e-12, abs=1e-12), f"{algorithm}"


def directions(algorithm: Algorithm, preferred: int) -> Tensor:
    """∂L/∂ℓ of each response, (B, K), where policy, sampler and reference are one and all tokens are alike: margin 0.

    Two prompts of two responses; in each the `preferred` one earned more and won the pair. Rewards are of both signs,
    and four different numbers.
    """
    logp = torch.full((2, 2, 2), -1.0, dtype=torch.float64)
    batch = Batch(
        prompts=torch.zeros(2, dtype=torch.int64),
        responses=torch.zeros(2, 2, 2, dtype=torch.int64),
        mask=torch.ones(2, 2, 2, dtype=torch.bool),
        rewards=tensor([1.0, -1.0], [0.8, -0.7]),
        pairs=torch.tensor([[[0, 1]], [[0, 1]]]),
        pair_label=tensor([1.0], [1.0]),
        logp_sampler=logp,
        logp_ref=logp,
        values=torch.zeros_like(logp),
        probes=Batch(torch.zeros(2), torch.zeros(2, 2, 2), torch.ones(2, 2, 2, dtype=torch.bool), logp_ref=logp),
    )
    if preferred == 1:
        batch = batch.replace(rewards=batch.need("rewards").flip(-1), pair_label=1.0 - batch.need("pair_label"))
    leaf = logp.clone().requires_grad_()
    loss = loss_of(algorithm, batch, leaf, torch.zeros_like(logp), logp).sum()
    return torch.autograd.grad(loss, leaf)[0].sum(-1)


@pytest.mark.parametrize("algorithm", CASES)
def test_what_is_better_becomes_likelier(algorithm: Algorithm) -> None:
    """Along "the better response up, the worse one down" no prompt's loss rises, and their sum falls. A loss that looks
    at neither rewards nor labels imitates: it falls as any response becomes likelier."""
    first, second = (directions(algorithm, preferred) for preferred in (0, 1))
    if torch.equal(first, second):
        assert (first < 0).all(), f"{algorithm} makes responses less likely, and looks at neither rewards nor labels"
        return
    for name, slope in (("first", first[:, 0] - first[:, 1]), ("second", second[:, 1] - second[:, 0])):
        assert (slope <= 1e-12).all() and slope.sum() < 0, (
            f"{algorithm} makes the better response less likely where the {name} is better: slopes {slope.tolist()}; "
            f"is a sign turned?"
        )


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_says_whether_it_pushes_down(kind: str) -> None:
    """`negative_gradient`, which the table of algorithms shows."""
    algorithm = ALGORITHMS[kind]()
    pushed = any(bool((directions(algorithm, preferred) > 1e-12).any()) for preferred in (0, 1))
    assert pushed == algorithm.negative_gradient, f"{kind}: negative_gradient must be {pushed}"
