"""The families of losses: what a plain function takes, in the order in which it is called, and batches of it to try.

Arguments are positional, hyper-parameters follow by name. Log-probs are those of the tokens that were chosen; a mask is
bool, True for a response's own tokens, EOS included; what stands in masked slots means nothing. A function returns the
mean over the batch, one loss per row (or per response of a row), or a tuple whose first item is either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Draw = Callable[[int, int], int]  # an integer between two bounds, both included
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """axes: the axes of each argument, first those of a row; B prompts or pairs, K responses, N rows, L tokens.

    trained: what the loss is differentiated by. results: the axes that a result may have, none for a mean. like: some
    losses of the family.
    """

    name: str
    of: str
    axes: dict[str, str]
    trained: tuple[str, ...]
    results: tuple[str, ...]
    like: str

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(self.axes)

    @property
    def rows(self) -> tuple[str, ...]:
        """The arguments with an axis of rows, the first."""
        return tuple(name for name, axes in self.axes.items() if axes)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The arguments with an axis of tokens, the last."""
        return tuple(name for name, axes in self.axes.items() if axes.endswith("L"))

    @property
    def signature(self) -> str:
        return f"loss({', '.join(self.axes)}, **hyper_parameters)"


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "pair",
            "pairs of a chosen and a rejected response; log-probs are those of whole responses",
            {
                "policy_chosen_logps": "B",
                "policy_rejected_logps": "B",
                "reference_chosen_logps": "B",
                "reference_rejected_logps": "B",
            },
            ("policy_chosen_logps", "policy_rejected_logps"),
            ("", "B"),
            "DPO, IPO, SLiC, ORPO at length 1",
        ),
        Family(
            "unpaired",
            "single responses labelled desirable or not (bool); kl is the batch's estimate, a constant scalar",
            {"policy_logps": "N", "reference_logps": "N", "desirable": "N", "kl": ""},
            ("policy_logps",),
            ("", "N"),
            "KTO",
        ),
        Family(
            "group",
            "K responses to each prompt with a reward each; old_logps are those of the policy that drew them",
            {
                "policy_logps": "BKL",
                "old_logps": "BKL",
                "reference_logps": "BKL",
                "mask": "BKL",
                "rewards": "BK",
            },
            ("policy_logps",),
            ("", "B", "BK"),
            "RLOO, GRPO, Dr. GRPO, DAPO, GSPO, CISPO",
        ),
        Family(
            "token",
            "responses with an advantage for each token",
            {"policy_logps": "NL", "old_logps": "NL", "reference_logps": "NL", "advantages": "NL", "mask": "NL"},
            ("policy_logps",),
            ("", "N"),
            "the clipped surrogate, REINFORCE, estimators of a KL divergence",
        ),
        Family(
            "actor_critic",
            "responses with a reward for each token, and a critic's values now and when they were drawn",
            {
                "policy_logps": "NL",
                "old_logps": "NL",
                "values": "NL",
                "old_values": "NL",
                "rewards": "NL",
                "mask": "NL",
            },
            ("policy_logps", "values"),
            ("", "N"),
            "PPO with its value loss and advantages",
        ),
        Family(
            "likelihood",
            "responses to imitate",
            {"policy_logps": "NL", "mask": "NL"},
            ("policy_logps",),
            ("", "N"),
            "supervised fine-tuning",
        ),
    )
}


def draw_inputs(
    family: Family,
    draw: Draw,
    rows: tuple[int, int] = (1, 4),
    length: tuple[int, int] = (1, 3),
    group: tuple[int, int] = (2, 4),
    ragged: bool = False,
    full: bool = False,
    on_policy: bool = False,
) -> Inputs:
    """A batch in general position, of multiples of 1/16, so that float32 and float64 hold the same numbers.

    rows, length, group: least and largest sizes. ragged: the first response is shorter than the longest. full: no
    padding. on_policy: old_logps are policy_logps. The rewards of a group are not all equal.
    """
    if family.name == "group":
        rows = (rows[0], max(rows[0], min(rows[1], 2)))
    sizes = {"B": draw(*rows), "K": draw(*group), "L": draw(max(length[0], 2 if ragged else 1), length[1])}
    sizes["N"] = sizes["B"]

    def shape(name: str) -> tuple[int, ...]:
        return tuple(sizes[axis] for axis in family.axes[name])

    def numbers(name: str, low: int, high: int) -> Tensor:
        size = shape(name)
        count = torch.Size(size).numel()
        return torch.tensor([draw(low, high) / 16.0 for _ in range(count)], dtype=torch.float64).reshape(size)

    inputs: Inputs = {}
    for name in family.arguments:
        if family.name in ("pair", "unpaired") and name.endswith("logps"):
            inputs[name] = -numbers(name, 1, 160)
        elif name == "policy_logps":
            inputs[name] = -numbers(name, 16, 80)
        elif name == "old_logps":
            inputs[name] = inputs["policy_logps"] + (0.0 if on_policy else numbers(name, -6, 6))
        elif name == "reference_logps":
            inputs[name] = inputs["policy_logps"] + numbers(name, -16, 16)
        elif name == "desirable":
            inputs[name] = numbers(name, 0, 1) > 0
        elif name == "kl":
            inputs[name] = numbers(name, 0, 32)
        elif name == "mask":
            inputs[name] = _mask(shape(name), draw, ragged, full)
        elif name == "rewards":
            inputs[name] = 4.0 * numbers(name, -6, 6)  # now and then 0, or equal
        else:
            inputs[name] = numbers(name, -32, 32)
    if family.name == "group" and sizes["K"] > 1:
        rewards = inputs["rewards"]
        rewards[:, 0] += (rewards == rewards[:, :1]).all(-1)
    return inputs


def _mask(shape: tuple[int, ...], draw: Draw, ragged: bool, full: bool) -> Tensor:
    length = shape[-1]
    ends = [length if full else draw(1, length) for _ in range(torch.Size(shape[:-1]).numel())]
    if ragged:
        ends[0] = min(ends[0], length - 1)
    return torch.arange(length) < torch.tensor(ends).reshape(*shape[:-1], 1)


def take(family: Family, inputs: Inputs, index: Sequence[int]) -> Inputs:
    """Some of the rows, in this order."""
    return {name: x[list(index)] if name in family.rows else x for name, x in inputs.items()}


def over_tokens(family: Family, inputs: Inputs, change: Callable[[str, Tensor], Tensor]) -> Inputs:
    """`change(name, tensor)` on whatever has an entry per token."""
    return {name: change(name, x) if name in family.tokens else x for name, x in inputs.items()}


def in_masked_slots(family: Family, inputs: Inputs, value: float) -> Inputs:
    """The batch with another number wherever the mask is False."""
    hidden = ~inputs["mask"]
    return over_tokens(family, inputs, lambda name, x: x if name == "mask" else x.masked_fill(hidden, value))


def draw_order(draw: Draw, size: int) -> list[int]:
    """A permutation; the simplest leaves everything in its place."""
    rest = list(range(size))
    return [rest.pop(draw(0, len(rest) - 1)) for _ in range(size)]
