"""A small network from the features of a response to its logit: what is learned of one response holds for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
from sims.core.numerics.networks import initial_layers
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, setting
from sims.environments.enumerable import EnumerableSpec
from sims.environments.space import TokenSpace

from .categorical import CategoricalPolicy, fit_to


class ResponseMLPPolicy(CategoricalPolicy):
    """features: (R, X, N, F) and, where the network is added to the data policy, its logp_ref: (R, X, N), constant.

    Parameters: weight (R, in, out) and bias (R, 1, out) of each hidden layer; the last weight (R, 1, width), and a last
    bias (R, 1, 1) where nothing is added; and the critic's value of each prompt (R, X, 1), if there is one.
    """

    def __init__(
        self, space: TokenSpace, features: Tensor, logp_ref: Tensor | None, parameters: Sequence[Tensor], layers: int
    ) -> None:
        super().__init__(space, parameters)
        self.features, self.logp_ref, self.layers = features, logp_ref, layers

    def logits(self) -> Tensor:
        x = self.features.flatten(1, 2)
        for i in range(self.layers):
            x = (x @ self._parameters[2 * i] + self._parameters[2 * i + 1]).relu()
        # Multiply and sum: the last bits of a matmul of width 1 depend on the number of runs.
        scores = (x * self._parameters[2 * self.layers]).sum(-1)
        if self.logp_ref is None:
            scores = scores + self._parameters[2 * self.layers + 1][..., 0]
        scores = scores.view(self.features.shape[:-1])
        return (scores if self.logp_ref is None else self.logp_ref + scores).unsqueeze(2)

    def value_table(self) -> Tensor:
        return self._parameters[-1]


@dataclass(frozen=True)
class ResponseMLP(PolicySpec, kind="response_mlp"):
    """A ReLU network that scores each response by its features: logit = log π_ref + f(φ(x, y)); f starts at 0.

    So training starts at the data policy exactly. With `fit_steps` the logit is f(φ(x, y)) alone, first fitted to the
    data policy, and the fit is the reference: what the features do not show of the data policy is lost. No hidden
    layer: f is linear. Its critic is a number per prompt.

    >>> sims.run(sims.RLOO(), sims.RatedResponses(), sims.ResponseMLP(hidden=(8,)), updates=20, runs=2)
    Result(rloo on rated_responses: 2 runs of 20 updates, ...)
    """

    hidden: tuple[int, ...] = setting((32,), "widths of the hidden layers; none: linear in the features")
    fit_steps: int | None = setting(
        None,
        "Adam steps that fit the network alone to the data policy, minimising KL(policy || data policy); none: it is "
        "added to the data policy's log-probs, and starts at 0",
        at_least=0,
        omit_default=True,
    )
    fit_learning_rate: float = setting(
        1e-2, "learning rate of the fit to the data policy (adam)", above=0, omit_default=True
    )

    def check(self) -> None:
        if min(self.hidden, default=2) < 2:
            raise SpecError("hidden", self.hidden, "must name widths of at least 2")
        if self.fit_steps is None and self.fit_learning_rate != 1e-2:
            raise SpecError("fit_learning_rate", self.fit_learning_rate, "only means something with fit_steps")

    def check_environment(self, environment: EnvironmentSpec) -> None:
        if not getattr(environment, "has_features", False) or environment.space.length > 1:  # type: ignore[attr-defined]
            rule = f"needs an environment of single actions with features: not {environment.kind}"
            raise SpecError("policy", "response_mlp", rule)
        if self.fit_steps is not None and not environment.full_support:  # type: ignore[attr-defined]
            rule = "must be none where the data policy never gives some response: a network gives each a probability"
            raise SpecError("fit_steps", self.fit_steps, rule)

    def build(self, environment: EnumerableSpec, noise: Noise, critic: bool, dtype: torch.dtype) -> ResponseMLPPolicy:
        shape = (*noise.lead, environment.num_prompts, environment.space.vocabulary)
        features = torch.from_numpy(environment.features(noise)).to(dtype)
        features = features.expand(*shape, features.shape[-1]).contiguous()
        logp_ref = torch.from_numpy(environment.checked_reference_logp(noise)).to(dtype)[..., 0, :].expand(shape)
        widths = [features.shape[-1], *self.hidden]
        if self.fit_steps is None:
            trained = [*initial_layers(noise, widths, dtype), torch.zeros((*noise.lead, 1, widths[-1]), dtype=dtype)]
        else:
            trained = initial_layers(noise, [*widths, 1], dtype)
            trained[-2] = trained[-2].mT.contiguous()  # the last weight
        parameters = [*trained, torch.zeros((*shape[:-1], 1), dtype=dtype)] if critic else trained
        added_to = logp_ref if self.fit_steps is None else None
        policy = ResponseMLPPolicy(environment.space, features, added_to, parameters, len(self.hidden))
        if self.fit_steps is not None:
            fit_to(logp_ref, policy, trained, self.fit_steps, self.fit_learning_rate)
        return policy
