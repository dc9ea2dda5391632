"""SGD and Adam with one learning rate and ε per run, and gradient clipping per run.

`torch.optim` takes only scalars. With equal rates the results are the same (tests/core/loop/test_optimise.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from sims.core.numerics.cache_blocks import pieces
from sims.core.objectives.batch import in_use, over
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


class _Block(NamedTuple):
    """Some runs of one parameter, few enough for its tensors to stay in the cache, with the settings of these runs."""

    runs: slice | None  # None: all of them
    parameter: Tensor
    mean: Tensor | None
    square: Tensor | None
    learning_rate: Tensor
    epsilon: Tensor
    weight_decay: Tensor | None
    work: Tensor | None  # memory for what a step computes; None: new memory for each result


class PerRunOptimiser:
    """Steps parameters (R, ...) by gradients of the same shapes; R independent runs, or one run without that axis.

    `spec` may be replaced between steps, as by a learning-rate schedule.
    """

    def __init__(self, parameters: Sequence[Tensor], lead: tuple[int, ...], spec: Optimiser) -> None:
        self.parameters, self.lead, self.spec = list(parameters), lead, spec
        self.steps = 0
        self.mean = [torch.zeros_like(p) for p in self.parameters] if spec.method == "adam" else []
        self.square = [torch.zeros_like(p) for p in self.parameters] if spec.method == "adam" else []
        # One kernel per update instead of a dozen passes over all weights. Not on the CPU, nor for runs side by side,
        # whose bits would depend on how many there are.
        self.fused = bool(self.mean) and not lead and all(p.is_cuda for p in self.parameters)
        self._count: Tensor | None = None  # steps, where a tensor counts them
        self._corrections: Tensor | None = None  # by this count
        self._multiplied = False  # whether they have the divisor's inverse
        self._cut_into_blocks()

    @torch.no_grad()
    def _cut_into_blocks(self) -> None:
        """Cut each parameter, and all that belongs to it, into blocks: once, and not at every step. On a GPU, and where
        steps are compiled, each is one block: there nothing is gained by it."""
        spec = self._spec_of_blocks = self.spec
        here = self.parameters[0].is_cpu and self._count is None
        self._least = _least_square(spec, self.parameters[0].dtype) if here and spec.method == "adam" else None
        self._blocks: list[list[_Block]] = []
        for i, parameter in enumerate(self.parameters):
            moments = (self.mean[i], self.square[i]) if spec.method == "adam" else (None, None)
            rates = (_per_run(spec.learning_rate, parameter), _per_run(spec.adam_epsilon, parameter))
            decay = _per_run(spec.weight_decay, parameter) if in_use(spec.weight_decay) else None
            runs = pieces(parameter) if self.lead and here else [slice(None)]
            # It stays in the cache from one block to the next. A single run has none: it may be a large model.
            work = torch.empty_like(parameter[runs[0]]) if here and self.lead else None
            whole = (parameter, *moments, *rates, decay, work)
            if len(runs) == 1:
                self._blocks.append([_Block(None, *whole)])
            else:
                parts = [[x if x is None or x.dim() == 0 else x[part] for x in whole[:-1]] for part in runs]
                works = [None if work is None else work[: len(parameter[part])] for part in runs]
                cut = zip(runs, parts, works, strict=True)
                self._blocks.append([_Block._make([part, *tensors, its]) for part, tensors, its in cut])

    def grad_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Euclidean norm of each run's whole gradient, shape lead."""
        squares: list[Tensor] = []
        for gradient, blocks in zip(gradients, self._blocks, strict=True):
            parts: list[Tensor] = []
            for block in blocks:
                part = gradient if block.runs is None else gradient[block.runs]
                parts.append(part.flatten(len(self.lead)).square().sum(-1))
            squares.append(parts[0] if len(parts) == 1 else torch.cat(parts))
        return sum(squares[1:], start=squares[0]).sqrt()  # one by one: a stacked sum would change its last bits with R

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], norm: Tensor, alive: Tensor | None = None) -> None:
        """One update. norm: `grad_norm` of the gradients; alive: (lead) bool, runs where it is False stay as they
        are."""
        if self.spec is not self._spec_of_blocks:
            self._cut_into_blocks()
        self.steps += 1
        clip, most = None, self.spec.max_grad_norm
        if most is not None:
            clip = (most / (norm + 1e-6)).clamp(max=1.0)  # 1e-6 as torch.nn.utils does
        if self.fused and alive is None:
            self._fused_step(gradients, clip)
            return
        beta1, beta2 = self.spec.adam_beta1, self.spec.adam_beta2
        divisor: float | Tensor = (1.0 - beta2**self.steps) ** 0.5
        factor: float | Tensor = 1.0 - beta1**self.steps
        if self._count is not None and self._corrections is not None:
            self._count += 1
            divisor, factor = self._corrections.index_select(0, self._count.view(1))[0].unbind()
        for gradient, blocks in zip(gradients, self._blocks, strict=True):
            for runs, parameter, mean, square, learning_rate, epsilon, weight_decay, work in blocks:
                change = gradient if runs is None else gradient[runs]
                if clip is not None:
                    change = change * over(clip if runs is None else clip[runs], change)
                going_on = None
                if alive is not None:
                    going_on = over(alive if runs is None else alive[runs], change)
                    change = torch.where(going_on, change, 0.0)
                if mean is not None and square is not None:
                    mean.lerp_(change, 1.0 - beta1)
                    square.mul_(beta2).addcmul_(change, change, value=1.0 - beta2)
                    above = square if self._least is None else torch.clamp_min(square, self._least, out=work)
                    root = torch.sqrt(above, out=work)
                    root = root.mul_(divisor) if self._multiplied else root.div_(divisor)
                    change = torch.div(mean, root.add_(epsilon).mul_(factor), out=work)
                change = torch.mul(change, learning_rate, out=work)
                if weight_decay is not None:
                    change += weight_decay * learning_rate * parameter
                parameter.sub_(change if going_on is None else torch.where(going_on, change, 0.0))

    def count_on_device(self, most: int) -> None:
        """From now on a tensor counts the steps, at most so many: for a step that is captured as a graph, in which a
        number of Python would stay what it was. The numbers are the same."""
        if self.spec.method == "adam":
            beta1, beta2, like = self.spec.adam_beta1, self.spec.adam_beta2, self.parameters[0]
            steps = range(most + 1)
            pairs = [((1.0 - beta2**step) ** 0.5 or 1.0, 1.0 - beta1**step) for step in steps]
            table = torch.tensor(pairs, dtype=like.dtype)
            # A GPU divides by a number as it multiplies by its inverse, and by a tensor as one divides.
            self._multiplied = not like.is_cpu
            if self._multiplied:
                table[:, 0] = 1.0 / table[:, 0]
            self._corrections = table.to(like.device)
            self._count = torch.tensor(self.steps, device=like.device)
            self._cut_into_blocks()

    def count_here(self) -> None:
        """`steps` alone counts again."""
        self._count = self._corrections = None
        self._multiplied = False
        self._cut_into_blocks()

    def _fused_step(self, gradients: Sequence[Tensor], clip: Tensor | None) -> None:
        """torch's AdamW, fused; its numbers are those of `step` up to rounding. Scales the gradients in place."""
        own: list[Tensor] = []
        taken: set[int] = set()
        for parameter, x in zip(self.parameters, gradients, strict=True):
            # The kernel reads memory in the parameter's order; and two gradients may be one tensor in memory.
            if x.stride() != parameter.stride() or x.data_ptr() in taken:
                x = torch.empty_like(parameter).copy_(x)
            own.append(x)
            taken.add(x.data_ptr())
        if clip is not None:
            torch._foreach_mul_(own, clip)
        done = [torch.full((), self.steps - 1, dtype=torch.float32, device=p.device) for p in self.parameters]
        spec = self.spec
        adamw(
            self.parameters,
            own,
            self.mean,
            self.square,
            [],
            done,
            fused=True,
            amsgrad=False,
            beta1=spec.adam_beta1,
            beta2=spec.adam_beta2,
            lr=spec.learning_rate,
            weight_decay=float(spec.weight_decay),
            eps=float(spec.adam_epsilon),
            maximize=False,
        )


def _least_square(spec: Optimiser, dtype: torch.dtype) -> float | None:
    """What a running mean of squares may be raised to before its root is taken: the smallest normal number.

    MKL takes twenty times as long for the root of 0, and fifty for one of a denormal number, as of any other; and 0 is
    common: of responses that nobody drew, of hidden units that are off. Both are lost beside ε, so no bit changes: ε +
    √least/√(1 − β₂), the largest that it can be, rounds to ε. None where ε is so small that it does not.
    """
    number = torch.finfo(dtype)
    largest = (number.tiny / (1.0 - spec.adam_beta2)) ** 0.5
    smallest_epsilon = float(torch.as_tensor(spec.adam_epsilon).min())
    return number.tiny if largest < smallest_epsilon * number.eps / 4 else None


def _per_run(value: float | Tensor, x: Tensor) -> Tensor:
    """One number per run, broadcastable against a parameter."""
    return over(value, x) if isinstance(value, Tensor) else x.new_tensor(value)
