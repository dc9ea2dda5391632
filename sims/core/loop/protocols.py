"""What a policy and an environment must offer. A table, a network and a language model offer the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, Outputs
from sims.core.objectives.preferences import Pairing
from sims.core.schedule import Schedule
from sims.core.spec import Spec, to_json


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that are text: tokens padded on the left, and a mask that is True on real ones, both (..., B, P).

    An environment may subclass it, to recognise its prompts when it labels responses to them.
    """

    tokens: Tensor
    mask: Tensor


class Samples(NamedTuple):
    """Drawn responses: tokens, mask and logp under the very distribution that drew them, all (..., B, K, L)."""

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
class Labels:
    """What an environment says of responses; see the fields of `Batch`."""

    rewards: Tensor
    gold: Tensor | None = None
    pairs: Tensor | None = None
    pair_label: Tensor | None = None
    pair_weight: Tensor | None = None
    desirable: Tensor | None = None


Asked = TypeVar("Asked", bound=Tensor | Prompts)


class Environment(Protocol[Asked]):
    """Prompts, and what responses to them are worth."""

    def prompts(self, batch_size: int, noise: Noise) -> Asked:
        """The next prompts: ids (..., B), or `Prompts`."""

    def label(
        self,
        prompts: Asked,
        responses: Tensor,
        mask: Tensor,
        pairing: Pairing | None,
        noise: Noise,
        rewards: Tensor | None = None,
    ) -> Labels:
        """Rewards, and labels for the pairs that `pairing` chooses. prompts: the very object that `prompts` gave.

        rewards: (..., B, K), somebody else's rewards, which then stand in for the environment's own; gold stays the
        environment's."""

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


@dataclass(frozen=True)
class EnvironmentSpec(Spec):
    """Settings of an environment. `executor` names the function that runs its experiments, as "module:function"; it
    takes experiments of one stack and a progress callback, and returns the arrays of each one's record. `text`: whether
    its prompts and responses are text, which only a language model can read."""

    executor: ClassVar[str] = ""
    text: ClassVar[bool] = False

    def check_experiment(self, algorithm: Algorithm, schedule: Schedule) -> None:
        """Refuse, with SpecError, what this environment cannot give to an algorithm or a schedule."""

    def stack_key(self) -> Any:
        """What environments have in common whose experiments can run as one stack, as JSON values."""
        return to_json(self)


@dataclass(frozen=True)
class PolicySpec(Spec):
    """Settings of a policy; `build` makes the reference policy of each run, from which training starts."""

    largest_stack: ClassVar[int] = 256  # runs trained together: beyond, the tensors of an update leave the cache
    magnifies_rounding: ClassVar[bool] = False  # whether ten updates can make float32's last bits the first

    def check_environment(self, environment: EnvironmentSpec) -> None:
        """Refuse, with SpecError, an environment that this policy cannot answer."""

    def build(self, environment: Any, noise: Noise, critic: bool, dtype: torch.dtype) -> Any:
        """One policy a run of `noise`, with a critic if asked for."""
        raise NotImplementedError
