"""What a policy and an environment must offer. A table, a network and a language model offer the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor

from .batch import Batch, Outputs
from .noise import Noise
from .preferences import Pairing


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that are text: tokens padded on the left, and a mask that is True on real ones, both (..., B, P).

    An environment may subclass it, to recognise its prompts when it judges responses to them.
    """

    tokens: Tensor
    mask: Tensor


class Samples(NamedTuple):
    """Drawn responses: tokens, mask and logp under the very law that drew them, all (..., B, K, L)."""

    responses: Tensor
    mask: Tensor
    logp: Tensor


class Policy(Protocol):
    """A distribution over responses, with parameters."""

    def sample(
        self,
        prompts: Tensor,
        num_generations: int,
        noise: Noise,
        stream: str = "responses",
        blend: tuple[Self, float | Tensor] | None = None,
        prompt_mask: Tensor | None = None,
    ) -> Samples:
        """Draw K responses a prompt, without gradient; with blend = (other, a) from ∝ π^{1−a}·π_other^a per token.

        prompts: (..., B) ids, or (..., B, P) tokens padded on the left, with prompt_mask of that shape (None: no
        padding).
        """

    def forward(
        self,
        prompts: Tensor,
        responses: Tensor,
        mask: Tensor,
        values: bool = False,
        entropy: bool = False,
        prompt_mask: Tensor | None = None,
        prompt_logp: bool = False,
    ) -> Outputs:
        """Log-probs (differentiable) of given responses; critic values, entropies and the prompts' own when asked."""

    def parameters(self) -> Sequence[Tensor]:
        """Trainable tensors; each has the runs axis first, if there is one."""

    def copy_from(self, other: Self) -> None:
        """Take over another policy's parameters."""

    def blend_from(self, other: Self, rate: float) -> None:
        """Move each parameter a share `rate` of the way to the other's: an exponential average."""

    def clone(self) -> Self:
        """An independent copy without gradient."""


def evaluate(
    policy: Policy, batch: Batch, values: bool = False, entropy: bool = False, prompt_logp: bool = False
) -> Outputs:
    """What a policy says of a batch's responses, and of its prompts when asked."""
    return policy.forward(batch.prompts, batch.responses, batch.mask, values, entropy, batch.prompt_mask, prompt_logp)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What an environment says of responses; see the fields of `Batch`."""

    rewards: Tensor
    gold: Tensor | None = None
    pairs: Tensor | None = None
    pair_label: Tensor | None = None
    pair_weight: Tensor | None = None
    desirable: Tensor | None = None


Asked = TypeVar("Asked", bound=Tensor | Prompts)


class Environment(Protocol[Asked]):
    """Prompts, and a judge of responses."""

    def prompts(self, batch_size: int, noise: Noise) -> Asked:
        """The next prompts: ids (..., B), or `Prompts`."""

    def judge(
        self,
        prompts: Asked,
        responses: Tensor,
        mask: Tensor,
        pairing: Pairing | None,
        noise: Noise,
        rewards: Tensor | None = None,
    ) -> Judgement:
        """Rewards, and labels for the pairs that `pairing` chooses. prompts: the very object that `prompts` gave.

        rewards: (..., B, K), another judge's verdict, which then stands in for the environment's own; gold never does.
        """

    def recorded(self, batch_size: int, noise: Noise) -> Batch:
        """The next recorded prompts with their responses, pairs and labels, for source = dataset."""


@runtime_checkable
class Enumerable(Protocol):
    """An environment whose responses can all be listed, which makes reward, KL and the optimum exact."""

    def all_prompts(self) -> Tensor:
        """(X,) prompt ids, each as likely as the others."""

    def all_responses(self) -> tuple[Tensor, Tensor]:
        """Every response and its mask: (N, L) both."""

    def all_rewards(self) -> Tensor:
        """(X, N) the gold reward of each."""
