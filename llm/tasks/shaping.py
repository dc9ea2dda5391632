"""What is added to a task's reward for how long a response is and how it ends. The gold reward stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sims.core.spec import Spec, SpecError, setting


@dataclass(frozen=True)
class Shaping(Spec):
    """The settings of a task for lengths and ends. Training sees

        r − length_penalty·|y| + overlong_weight·`soft_overlong(|y|)` − missing_eos_penalty·[y was cut off],

    |y| in tokens, EOS included; evaluations show it as the reward, and r as gold. The last is TRL's in its online
    trainers (`OnlineDPOConfig`), after Stiennon et al. 2020; here a stop string is an end, too."""

    SHAPES: ClassVar[tuple[str, ...]] = ("length_penalty", "overlong_tokens", "missing_eos_penalty")  # 0: nothing

    length_penalty: float = setting(
        0.0, "subtracted from the reward for each token of a response; negative: longer is better", omit_default=True
    )
    overlong_tokens: int = setting(
        0,
        "last tokens before max_new_tokens over which a punishment falls from 0 to -1 (DAPO's soft overlong "
        "punishment); 0: none",
        at_least=0,
        omit_default=True,
    )
    overlong_weight: float = setting(1.0, "weight of that punishment", above=0, omit_default=True)
    missing_eos_penalty: float = setting(
        0.0,
        "subtracted from the reward of a response that was cut off at max_new_tokens, without EOS or a stop string",
        at_least=0,
        omit_default=True,
    )

    @property
    def is_shaped(self) -> bool:
        """Whether lengths or ends add anything."""
        return any(getattr(self, name) for name in self.SHAPES)

    def check(self) -> None:
        super().check()
        if self.overlong_weight != 1.0 and not self.overlong_tokens:
            raise SpecError("overlong_weight", self.overlong_weight, "only means something with overlong_tokens")

    def check_longest(self, max_new_tokens: int) -> None:
        """SpecError where the punishment would begin before a response does."""
        if self.overlong_tokens > max_new_tokens:
            rule = f"must be at most max_new_tokens = {max_new_tokens}"
            raise SpecError("overlong_tokens", self.overlong_tokens, rule)

    def shaped(self, rewards: Tensor, lengths: Tensor, cut: Tensor, max_new_tokens: int) -> Tensor:
        """Rewards with what their lengths and ends add: any shape, that of `lengths` and of `cut`, which says of each
        response whether it was cut off."""
        if self.length_penalty:
            rewards = rewards - self.length_penalty * lengths
        if self.overlong_tokens:
            rewards = rewards + self.overlong_weight * soft_overlong(lengths, max_new_tokens, self.overlong_tokens)
        if self.missing_eos_penalty:
            rewards = rewards - self.missing_eos_penalty * cut
        return rewards


def soft_overlong(lengths: Tensor, longest: int, over: int) -> Tensor:
    """0 up to `longest` − `over` tokens, from there falling linearly to −1 at `longest`, and −1 beyond. float64.

    Yu et al. 2025 (DAPO), equation 13; TRL's `get_soft_overlong_punishment(longest, over)`. It is a punishment of
    length alone: a response that ends by itself at `longest` gets −1 too.
    """
    return torch.clamp((longest - over - lengths.double()) / over, -1.0, 0.0)
