"""What the benchmark `beside_jax` times side by side has one gradient, given the same draws."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.bandit_steps import second_gradient
from tests.benchmarks.beside_jax import CASES, PYTORCH, Case, jax_library, prompt_row

RUN = 1


def stacked(case: Case) -> tuple[list[torch.Tensor], tuple[list[torch.Tensor], ...], torch.Tensor, torch.Tensor]:
    """The gradient of a run in a stack of two; its parameters and its reference's; its prompts and its responses."""
    training = case.training(2, torch.float64)
    batch, gradients, _ = second_gradient(training)
    weights = tuple([p[RUN].detach() for p in of.parameters()] for of in (training.policy, training.reference.policy))
    responses = batch.responses[RUN].flatten(0, 1)
    return [g[RUN] for g in gradients], weights, torch.full((len(responses), 1), prompt_row(training)), responses


@pytest.mark.parametrize("name", CASES)
def test_the_plain_loop_has_the_stacked_gradient(name: str) -> None:
    case = CASES[name]
    expected, (parameters, reference), first, responses = stacked(case)
    parameters = [p.clone().requires_grad_(True) for p in parameters]
    loss = case.loss_of(PYTORCH, parameters, reference, first, responses, case.rewards().double())
    for mine, theirs in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8)  # the rewards are float32


@pytest.mark.parametrize("name", CASES)
def test_jax_has_the_stacked_gradient(name: str) -> None:
    jax = pytest.importorskip("jax", reason="JAX is an extra of the benchmark alone: pip install '.[jax]'")
    case = CASES[name]
    expected, weights, first, responses = stacked(case)
    parameters, reference = ([jax.numpy.asarray(p.float().numpy()) for p in several] for several in weights)
    fixed = [jax.numpy.asarray(x.numpy()) for x in (first, responses, case.rewards())]
    found = jax.grad(lambda p: case.loss_of(jax_library(), p, reference, *fixed))(parameters)
    for mine, theirs in zip(found, expected, strict=True):
        scale = float(theirs.abs().max())
        assert abs(torch.tensor(mine.tolist()).double() - theirs).max() <= 1e-4 * scale + 1e-8  # float32
