"""What a counterexample is computed with: plain torch, printed beside it, so that it runs without this package."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Three responses of two tokens at most: EOS; another token, then EOS; another token twice.
TOKENS, MASK = [[0, 0], [1, 0], [1, 1]], [[True, False], [True, True], [True, True]]


def result_of(function: Callable[..., Any], inputs: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    """What the function returns for one batch: the first item of a tuple."""
    result = function(*inputs.values(), **options)
    return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]


def slope_of(loss: Callable[..., Tensor], inputs: dict[str, Tensor], name: str) -> Tensor:
    """The gradient of a batch's loss by one of its arguments."""
    x = inputs[name].clone().requires_grad_()
    value = loss({**inputs, name: x})
    if not value.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(value, x, allow_unused=True, materialize_grads=True)[0]


def narrow(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch in float32."""
    return {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}


def moves_the_generator(loss: Callable[..., Tensor], inputs: dict[str, Tensor]) -> bool:
    """Whether computing the loss takes random numbers from torch's global generator."""
    before = torch.get_rng_state()
    loss(inputs)
    return not torch.equal(before, torch.get_rng_state())


def changes_its_inputs(loss: Callable[..., Tensor], inputs: dict[str, Tensor]) -> bool:
    """Whether computing the loss writes into the tensors that it is given."""
    given = {name: x.clone() for name, x in inputs.items()}
    loss(given)
    return not all(torch.equal(given[name], x) for name, x in inputs.items())


def over_pairs(loss: Callable[..., Tensor], logits: Tensor, reference: Tensor, mu: Tensor, label: Tensor) -> Tensor:
    """Gradient by a table's logits (A,) of the mean loss over all pairs of actions drawn from mu (A,), the first of
    which is preferred with probability label (A, A)."""
    logits = logits.clone().requires_grad_()
    logp, logp_ref = logits.log_softmax(-1), reference.log_softmax(-1)
    total = torch.zeros(())
    for i, j in itertools.product(range(len(mu)), repeat=2):
        for chosen, rejected, chance in ((i, j, label[i, j]), (j, i, 1 - label[i, j])):
            inputs = {
                "policy_chosen_logps": logp[[chosen]],
                "policy_rejected_logps": logp[[rejected]],
                "reference_chosen_logps": logp_ref[[chosen]],
                "reference_rejected_logps": logp_ref[[rejected]],
            }
            total = total + mu[i] * mu[j] * chance * loss(inputs)
    return torch.autograd.grad(total, logits)[0]


def over_labels(
    loss: Callable[..., Tensor], logits: Tensor, reference: Tensor, mu: Tensor, label: Tensor, kl: Tensor
) -> Tensor:
    """The same over actions, each desirable with probability label (A,)."""
    logits = logits.clone().requires_grad_()
    logp, logp_ref = logits.log_softmax(-1), reference.log_softmax(-1)
    total = torch.zeros(())
    for action, good in itertools.product(range(len(mu)), (True, False)):
        inputs = {
            "policy_logps": logp[[action]],
            "reference_logps": logp_ref[[action]],
            "desirable": torch.tensor([good]),
            "kl": kl,
        }
        total = total + mu[action] * (label[action] if good else 1 - label[action]) * loss(inputs)
    return torch.autograd.grad(total, logits)[0]


def over_responses(
    loss: Callable[..., Tensor],
    logits: Tensor,
    old: Tensor,
    arguments: list[str],
    others: dict[str, Tensor],
    draws: int,
    group: bool,
) -> Tensor:
    """The same over all batches of `draws` of the three responses of TOKENS, drawn from the old policy.

    logits, old: (2, 2), a row for each position, so that a token owes nothing to the one before it. others: what the
    loss takes beside log-probs and mask, with an entry for each response. group: they answer one prompt together.
    """
    logits = logits.clone().requires_grad_()
    tokens, mask, position = torch.tensor(TOKENS), torch.tensor(MASK), torch.arange(2)
    logp = logits.log_softmax(-1)[position, tokens]
    logp_old = old.log_softmax(-1)[position, tokens]
    given = {"policy_logps": logp, "old_logps": logp_old, "mask": mask, **others}
    chance = (logp_old * mask).sum(-1).exp()
    total = torch.zeros(())
    for drawn in itertools.product(range(len(tokens)), repeat=draws):
        index = list(drawn)
        inputs = {name: given[name][index] for name in arguments}
        if group:
            inputs = {name: x.unsqueeze(0) for name, x in inputs.items()}
        total = total + chance[index].prod() * loss(inputs)
    return torch.autograd.grad(total, logits)[0]
