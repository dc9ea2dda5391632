"""The plain loop that the benchmark times does what the stacked step does: the same loss and the same gradient."""

import pytest
import torch
from torch import Tensor

from sims.policies import TransformerPolicy
from sims.policies.causal import PER_BLOCK
from tests.benchmarks.bandit_steps import (
    ALGORITHMS,
    ENVIRONMENTS,
    LOSSES,
    PlainPolicy,
    diagnostics,
    plain,
    second_gradient,
    training,
)


def gradients(network: PlainPolicy, stacked: object) -> list[Tensor]:
    """The loop's gradients, shaped and ordered as the stacked policy's parameters of one run are."""
    if not isinstance(stacked, TransformerPolicy):
        return [p.grad.T if p.dim() == 2 else p.grad.unsqueeze(0) for p in network.parameters()]
    found = [network.tokens.grad, network.positions.grad]
    for block in network.blocks:
        for norm, layers in zip(block.norms, ((block.joint, block.project), (block.inner, block.outer)), strict=True):
            found += [norm.weight.grad.unsqueeze(-1), norm.bias.grad.unsqueeze(-1)]
            found += [x for layer in layers for x in (layer.weight.grad.T, layer.bias.grad.unsqueeze(0))]
    found += [network.norm.weight.grad.unsqueeze(-1), network.norm.bias.grad.unsqueeze(-1), network.head.weight.grad.T]
    assert len(found) == 2 + PER_BLOCK * stacked.blocks + 3
    return found


@pytest.mark.parametrize("where", ENVIRONMENTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_loop_and_stacked_step_have_one_loss_and_one_gradient(where: str, algorithm: str) -> None:
    stacked, _ = training(where, algorithm, 2, torch.float64)
    batch, expected, loss = second_gradient(stacked)
    run = 1
    network, reference = (plain(p, run) for p in (stacked.policy, stacked.reference.policy))
    prompts, responses, rewards = (x[run].tolist() for x in (batch.prompts, batch.responses, batch.need("rewards")))
    found = LOSSES[algorithm](network, reference, prompts, responses, rewards)
    found.backward()
    assert found.item() == pytest.approx(loss[run].item(), rel=1e-5)
    for mine, theirs in zip(gradients(network, stacked.policy), expected, strict=True):
        torch.testing.assert_close(mine, theirs[run], rtol=1e-5, atol=1e-8)


def test_their_exact_diagnostics_agree() -> None:
    stacked, evaluation = training("1-D bandit, mlp", "ipo", 2, torch.float64)
    for _ in stacked.train(2):
        pass
    row = evaluation.row()
    networks = [plain(p, 1) for p in (stacked.policy, stacked.reference.policy)]
    rewards = evaluation.environment.all_rewards()[0]
    for name, value in diagnostics(*networks, list(range(10)), rewards).items():
        assert value == pytest.approx(row[name][1].item(), rel=1e-5), name
