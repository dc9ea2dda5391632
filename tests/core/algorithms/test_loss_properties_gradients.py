"""What must hold of the gradients of algorithms that score their samples: sign, scale, level, and where the KL pulls.

Rows are those of `tests/BUGS.md`. Runs on a new algorithm without being told, but for the invariances that are a claim
of one algorithm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from sims.core.algorithms import Algorithm, Targets, all_algorithms, find_algorithm
from sims.core.algorithms.clipped import GSPO
from sims.core.algorithms.filtering import RejectionSampling
from sims.core.algorithms.policy_gradient import Reinforce
from sims.core.algorithms.reward_weighted import AWR
from sims.core.objectives.batch import lengths, masked
from sims.core.objectives.divergences import kl_policy_ref
from sims.core.objectives.reductions import shares
from sims.environments.space import TokenSpace
from tests.core.drawn_batches import (
    KINDS,
    Case,
    Shape,
    Style,
    aim,
    algorithms,
    all_same,
    cases,
    differentiate,
    examples,
    found,
    later_state,
    make_case,
    same,
)
from tests.core.enumeration import enumerate_batches, make_problem

ALGORITHMS = all_algorithms()
SMALL = make_case(Shape((), 2, 4, 3), Style(0, "ragged", "real", 1.0, False, "none", "none", False, torch.float64))


def first_targets(algorithm: Algorithm) -> Targets:
    return aim(algorithm, SMALL.batch, later_state(algorithm, SMALL))


SCORED = [kind for kind in KINDS if "advantages" in first_targets(ALGORITHMS[kind]())]


def by_advantages(algorithm: Algorithm, case: Case, targets: Targets, factor: float) -> Tensor:
    """What the advantages, times a factor, add to the gradient by log-probs: whatever KL there is, they do not."""
    scaled, none = (targets | {"advantages": f * targets["advantages"]} for f in (factor, 0.0))
    return differentiate(algorithm, case, scaled).logp - differentiate(algorithm, case, none).logp


def by_token(x: Tensor, mask: Tensor) -> Tensor:
    """(..., B, K) or (..., B, K, L), as the latter."""
    return (x if x.dim() == mask.dim() else x.unsqueeze(-1)).expand(mask.shape)


@pytest.mark.parametrize("kind", SCORED)
@examples(20)
@given(data=st.data())
def test_row_23_at_ratio_1_the_gradient_is_reinforce_s(kind: str, data: st.DataObject) -> None:
    """−share·A for each token, where the share is the reduction's: no clip, weight or level changes it."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(on_policy=(True,), log_probs=(1.0, 10.0)))
    batch = case.batch
    targets = algorithm.at_update(batch, aim(algorithm, batch, later_state(algorithm, case)), None)
    share, advantages = (by_token(targets[name], batch.mask) for name in ("share", "advantages"))
    same(by_advantages(algorithm, case, targets, 1.0), -masked(share * advantages, batch.mask))


@pytest.mark.parametrize("kind", SCORED)
@examples(10)
@given(data=st.data())
def test_row_29_flipping_advantages_flips_the_unclipped_gradient(kind: str, data: st.DataObject) -> None:
    """Log-ratios of 1e-4 at most are within every clip range."""
    algorithm, case = data.draw(algorithms(kind)), data.draw(cases(log_probs=(1e-4,), rewards=("real",)))
    batch = case.batch
    targets = algorithm.at_update(batch, aim(algorithm, batch, later_state(algorithm, case)), None)
    plain = by_advantages(algorithm, case, targets, 1.0)
    same(by_advantages(algorithm, case, targets, -1.0), -plain)
    share, advantages = (by_token(targets[name], batch.mask) for name in ("share", "advantages"))
    assert ((plain != 0) == (batch.mask & (share != 0) & (advantages != 0))).all()


@examples(40)
@given(case=cases(rewards=("real", "tied"), log_probs=(1.0, 10.0)), wide=st.booleans())
def test_row_24_gspo_is_a_surrogate_of_whole_responses(case: Case, wide: bool) -> None:
    """Σ share·−min(sA, clip(s)A), s = e^{(ℓ−ℓ_old)/|y|}, one term a response: value and gradient."""
    algorithm = GSPO(epsilon=0.2, epsilon_high=0.3) if wide else GSPO()
    batch = case.batch
    advantages = algorithm.targets(batch, {})[0]["advantages"]
    logp = case.logp.clone().requires_grad_()
    log_ratio = masked(logp - batch.need("logp_sampler"), batch.mask).sum(-1) / lengths(batch.mask).clamp(min=1)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - algorithm.epsilon, 1.0 + (algorithm.epsilon_high or algorithm.epsilon))
    surrogate = -torch.minimum(ratio * advantages, clipped * advantages)
    loss = (shares(batch.weight, surrogate) * surrogate).sum(-1)
    got = found(algorithm, case)
    same(got.loss, loss.detach())
    same(got.logp, torch.autograd.grad(loss.sum(), logp)[0])


# --- a shift of the rewards

EACH_PROMPT: list[Algorithm] = [
    *(find_algorithm(kind)() for kind in ("rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "best_of_n", "superhf")),
    find_algorithm("best_of_n_negative")(negatives="sum_of_rest"),
    RejectionSampling(),
    AWR(baseline="group_mean"),
]
WHOLE_BATCH: list[Algorithm] = [
    *(find_algorithm(kind)() for kind in ("raft", "rest")),
    RejectionSampling(top="over_all_prompts"),
    find_algorithm("grpo")(scale_rewards="batch"),
]
NONE: list[Algorithm] = [*(find_algorithm(kind)() for kind in ("rwr", "awr", "ppo")), Reinforce(baseline="none")]
PAIRED = [cls() for cls in ALGORITHMS.values() if cls().label_pairing is not None]


def shifted(case: Case, shift: Tensor) -> Case:
    return replace(case, batch=case.batch.replace(rewards=case.batch.need("rewards") + shift))


@pytest.mark.parametrize("algorithm", EACH_PROMPT + WHOLE_BATCH + NONE, ids=lambda a: a.kind)
@examples(10)
@given(data=st.data())
def test_a_shift_of_the_rewards(algorithm: Algorithm, data: st.DataObject) -> None:
    """Cancels within a prompt, or only if all prompts share it, or not at all. Rewards are quarters: ties stay ties."""
    case = data.draw(cases(rewards=("tied",), log_probs=(1.0, 10.0), weight=("none", "0 or 1")))
    state = later_state(algorithm, case)
    each = 1.0 + torch.arange(case.shape.prompts, dtype=case.logp.dtype).unsqueeze(-1)
    expected = found(algorithm, case, state)
    if algorithm in EACH_PROMPT:
        all_same(found(algorithm, shifted(case, each), state), expected)
    elif algorithm in WHOLE_BATCH:
        all_same(found(algorithm, shifted(case, torch.tensor(2.0)), state), expected)
    else:
        assume(case.batch.weight is None or bool((case.batch.weight > 0).any()))
        moved = found(algorithm, shifted(case, torch.tensor(2.0)), state)
        assert not torch.equal(moved.logp, expected.logp)


@pytest.mark.parametrize("algorithm", PAIRED, ids=lambda a: a.kind)
def test_algorithms_on_pairs_see_labels_and_no_rewards(algorithm: Algorithm) -> None:
    blind = replace(SMALL, batch=SMALL.batch.replace(rewards=torch.full_like(SMALL.batch.need("rewards"), torch.nan)))
    all_same(found(algorithm, blind), found(algorithm, SMALL), 0.0)


# --- where a KL pulls

# A beta that may be 0 weighs a pull to the reference; one that may not is a temperature.
PENALISED = [kind for kind, cls in ALGORITHMS.items() if "beta" in cls.names() and cls(beta=2.0).needs_reference]
PENALISED = [k for k in PENALISED if ALGORITHMS[k].__dataclass_fields__["beta"].metadata.get("at_least") == 0]
ELSEWHERE = {"ppo": {"kl_in": "loss", "kl_estimator": "k3"}}


@pytest.mark.parametrize(
    "algorithm",
    [ALGORITHMS[kind](beta=1e3) for kind in PENALISED]
    + [ALGORITHMS[kind](beta=1e3, **changes) for kind, changes in ELSEWHERE.items()],
    ids=lambda a: a.kind,
)
@pytest.mark.parametrize("length", [1, 3])
def test_row_6_a_large_beta_moves_the_policy_to_its_reference(algorithm: Algorithm, length: int) -> None:
    """Exactly: a small step against the expected gradient, on the policy's own samples, lowers KL(π‖π_ref)."""
    space = TokenSpace(3, length, eos=True) if length > 1 else TokenSpace(4)
    problem = make_problem(space, prompts=1, seed=7).on_policy()
    gradient = enumerate_batches(problem, algorithm, 2).expected_gradient()
    assert np.abs(gradient).max() > 1e-3

    def distance(logits: np.ndarray) -> float:
        logp, logp_ref = (torch.from_numpy(problem.logp(x)) for x in (logits, problem.reference))
        return float(kl_policy_ref(logp, logp_ref).sum())

    step = 1e-3 * gradient / np.linalg.norm(gradient)
    assert distance(problem.policy - step) < distance(problem.policy) < distance(problem.policy + step)
