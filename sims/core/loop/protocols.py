"""Interfaces of policies and environments, the same for tables, networks and language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from sims.core.algorithms import Algorithm
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import LOG_PROBS, Batch, OutputRequest, Outputs
from sims.core.objectives.preferences import Pairing
from sims.core.schedule import Schedule
from sims.core.spec import Spec, to_json, undefined


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts: ids (..., B); or text, tokens (..., B, P) padded on the left, with a mask that is True on real ones.

    An environment may subclass it to carry data that it needs to label the responses.
    """

    tokens: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """What a policy is asked to draw: K = num_generations responses to each prompt, from the uniforms of a stream of
    `noise`. blend = (other, a): from ∝ π^{1−a}·π_other^a at each token."""

    prompts: Prompts
    num_generations: int
    noise: Noise
    stream: str = "responses"
    blend: tuple[Any, float | Tensor] | None = None


class Samples(NamedTuple):
    """Drawn responses: tokens, mask and logp under the distribution that drew them, all (..., B, K, L)."""

    responses: Tensor
    mask: Tensor
    logp: Tensor


class Policy(Protocol):
    """A distribution over responses, with parameters."""

    def sample(self, request: SampleRequest) -> Samples:
        """Draw responses, without gradient."""

    def forward(self, batch: Batch, request: OutputRequest = LOG_PROBS) -> Outputs:
        """Log-probs of a batch's responses, differentiable; and what else is requested."""

    def parameters(self) -> Sequence[Tensor]:
        """Trainable tensors; each has the runs axis first, if there is one."""

    def copy_from(self, other: Self) -> None:
        """Copy another policy's parameters."""

    def blend_from(self, other: Self, rate: float) -> None:
        """θ ← (1 − rate)·θ + rate·θ_other for each parameter: an exponential moving average."""

    def clone(self) -> Self:
        """An independent copy without gradient."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Rewards and labels of responses; see the fields of `Batch`."""

    rewards: Tensor
    gold: Tensor | None = None
    pairs: Tensor | None = None
    pair_label: Tensor | None = None
    pair_weight: Tensor | None = None
    desirable: Tensor | None = None


P = TypeVar("P", bound=Prompts)


class Environment(Protocol[P]):
    """Prompts, and the rewards and labels of responses to them."""

    def prompts(self, batch_size: int, noise: Noise) -> P:
        """The next B prompts."""

    def label(
        self,
        prompts: P,
        responses: Tensor,
        mask: Tensor,
        pairing: Pairing | None,
        noise: Noise,
        rewards: Tensor | None = None,
    ) -> Labels:
        """Rewards, and labels for the pairs that `pairing` chooses. prompts: the object that `prompts` returned.

        rewards: (..., B, K), used instead of the environment's own, if given; gold is always the environment's."""

    def recorded(self, batch_size: int, noise: Noise) -> Batch:
        """The next recorded prompts with their responses, pairs and labels, for source = dataset."""


@runtime_checkable
class Enumerable(Protocol):
    """An environment whose responses can all be enumerated: reward, KL and optimum are exact."""

    def all_prompts(self) -> Tensor:
        """(X,) prompt ids, each as likely as the others."""

    def all_responses(self) -> tuple[Tensor, Tensor]:
        """Every response and its mask: (N, L) both."""

    def all_rewards(self) -> Tensor:
        """(X, N) the gold reward of each."""


@dataclass(frozen=True)
class EnvironmentSpec(Spec):
    """Settings of an environment. `executor` names the function that runs its experiments, as "module:function"; it
    takes the experiments of one stack and a progress callback, and returns the arrays of each one's record. `text`:
    whether prompts and responses are text, for language models. `estimators`: how records have what can be estimated,
    by the array's name (`sims.experiments.record_schema.ESTIMATORS`)."""

    executor: ClassVar[str] = ""
    text: ClassVar[bool] = False
    estimators: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def check_experiment(self, algorithm: Algorithm, schedule: Schedule) -> None:
        """Raise SpecError for an algorithm or a schedule that this environment does not support."""

    def stack_key(self) -> Any:
        """A key, as JSON values: experiments whose environments have equal keys can run as one stack."""
        return to_json(self)


@dataclass(frozen=True)
class PolicySpec(Spec):
    """Settings of a policy; `build` makes the reference policy of each run, from which training starts."""

    largest_stack: ClassVar[int] = 256  # runs trained together: with more, an update's tensors exceed the cache
    magnifies_rounding: ClassVar[bool] = False  # whether float32 rounding errors grow to order 1 within ten updates

    def check_environment(self, environment: EnvironmentSpec) -> None:
        """Raise SpecError for an environment that this policy does not support."""

    def build(self, environment: Any, noise: Noise, critic: bool, dtype: torch.dtype) -> Any:
        """One policy per run of `noise`, with a critic if requested."""
        raise undefined(self, "build", "a policy for each run of the noise, at the reference")
