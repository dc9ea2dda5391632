"""SGD and Adam with one learning rate and ε per run, and gradient clipping per run.

`torch.optim` takes only scalars. With equal rates the results are the same (tests/core/loop/test_optimise.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sims.core.numerics.cache_blocks import pieces
from sims.core.spec import Spec, setting


@dataclass(frozen=True)
class Optimiser(Spec, kind="optimiser"):
    """Optimiser settings.

    >>> sims.Optimiser(learning_rate=0.1).method
    'adam'
    """

    method: Literal["adam", "sgd"] = setting("adam", "optimiser")
    learning_rate: float = setting(1e-2, "learning rate", above=0, per_run=True)
    adam_beta1: float = setting(0.9, "decay rate of the running mean of gradients (adam)", at_least=0, below=1)
    adam_beta2: float = setting(0.999, "decay rate of the running mean of squares (adam)", at_least=0, below=1)
    adam_epsilon: float = setting(1e-8, "constant added to the denominator (adam)", above=0, per_run=True)
    weight_decay: float = setting(0.0, "decoupled weight decay (AdamW)", at_least=0, per_run=True)
    max_grad_norm: float | None = setting(None, "clip each run's gradient to this norm; none: no clipping", above=0)


class PerRunOptimiser:
    """Steps parameters (R, ...) by gradients of the same shapes; R independent runs, or one run without that axis."""

    def __init__(self, parameters: Sequence[Tensor], lead: tuple[int, ...], spec: Optimiser) -> None:
        self.parameters, self.lead, self.spec = list(parameters), lead, spec
        self.steps = 0
        self.mean = [torch.zeros_like(p) for p in self.parameters] if spec.method == "adam" else []
        self.square = [torch.zeros_like(p) for p in self.parameters] if spec.method == "adam" else []

    def grad_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of each run's whole gradient, shape lead."""

        def square(gradient: Tensor) -> Tensor:
            parts = [gradient[runs].flatten(len(self.lead)).square().sum(-1) for runs in self._pieces(gradient)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        squares = [square(g) for g in gradients]
        return sum(squares[1:], start=squares[0]).sqrt()  # one by one: a stacked sum would change its last bits with R

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], norm: Tensor, alive: Tensor | None = None) -> None:
        """One update. norm: `grad_norm` of the gradients; alive: (lead) bool, runs where it is False stay as they
        are."""
        self.steps += 1
        scale = None
        if self.spec.max_grad_norm is not None:
            scale = (self.spec.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)  # 1e-6 as torch.nn.utils does
        for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            for runs in self._pieces(parameter):
                change = self._change(i, runs, gradient[runs], scale, alive)
                parameter[runs].sub_(change)

    def _pieces(self, x: Tensor) -> list[Any]:
        """Slices of x over runs that fit into the cache; all of x if there is one run."""
        return pieces(x) if self.lead else [...]

    def _change(self, i: int, runs: Any, gradient: Tensor, scale: Tensor | None, alive: Tensor | None) -> Tensor:
        """What is subtracted from some runs of the i-th parameter."""

        def of(value: float | Tensor) -> Tensor:
            return _like(value[runs] if isinstance(value, Tensor) else value, gradient)

        if scale is not None:
            gradient = gradient * of(scale)
        if alive is not None:
            gradient = torch.where(of(alive), gradient, 0.0)
        change = self._direction(i, runs, gradient, of(self.spec.adam_epsilon)) * of(self.spec.learning_rate)
        if isinstance(self.spec.weight_decay, Tensor) or self.spec.weight_decay > 0:
            change += of(self.spec.weight_decay) * of(self.spec.learning_rate) * self.parameters[i][runs]
        return change if alive is None else torch.where(of(alive), change, 0.0)

    def _direction(self, i: int, runs: Any, gradient: Tensor, epsilon: Tensor) -> Tensor:
        if self.spec.method == "sgd":
            return gradient
        beta1, beta2 = self.spec.adam_beta1, self.spec.adam_beta2
        mean = self.mean[i][runs].lerp_(gradient, 1.0 - beta1)
        square = self.square[i][runs].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        root = square.sqrt().div_((1.0 - beta2**self.steps) ** 0.5).add_(epsilon)
        return mean.div(root.mul_(1.0 - beta1**self.steps))


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    """One number per run, broadcastable against a parameter."""
    return (
        value.reshape(value.shape + (1,) * (x.dim() - value.dim()))
        if isinstance(value, Tensor)
        else x.new_tensor(value)
    )
