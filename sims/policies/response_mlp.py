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

from .categorical import CategoricalPolicy


class ResponseMLPPolicy(CategoricalPolicy):
    """features: (R, X, N, F) and logp_ref: (R, X, N), constant; parameters: weight (R, in, out) and bias (R, 1, out) of
    each hidden layer, the last weight (R, 1, width), and the critic's value of each prompt (R, X, 1), if there is one.
    """

    def __init__(
        self, space: TokenSpace, features: Tensor, logp_ref: Tensor, parameters: Sequence[Tensor], layers: int
    ) -> None:
        super().__init__(space, parameters)
        self.features, self.logp_ref, self.layers = features, logp_ref, layers

    def logits(self) -> Tensor:
        runs, prompts, responses, _ = self.features.shape
        x = self.features.flatten(1, 2)
        for i in range(self.layers):
            x = (x @ self._parameters[2 * i] + self._parameters[2 * i + 1]).relu()
        # Multiply and sum: the last bits of a matmul of width 1 depend on the number of runs.
        scores = (x * self._parameters[2 * self.layers]).sum(-1)
        return (self.logp_ref + scores.view(runs, prompts, responses)).unsqueeze(2)

    def value_table(self) -> Tensor:
        return self._parameters[2 * self.layers + 1]


@dataclass(frozen=True)
class ResponseMLP(PolicySpec, kind="response_mlp"):
    """A ReLU network that scores each response by its features: logit = log π_ref + f(φ(x, y)); f starts at 0.

    Training starts at the data policy exactly. No hidden layer: f is linear. Its critic is a number per prompt.

    >>> sims.run(sims.RLOO(), sims.RatedResponses(), sims.ResponseMLP(hidden=(8,)), updates=20, runs=2)
    Result(rloo on rated_responses: 2 runs of 20 updates, ...)
    """

    hidden: tuple[int, ...] = setting((32,), "widths of the hidden layers; none: linear in the features")

    def check(self) -> None:
        if min(self.hidden, default=2) < 2:
            raise SpecError("hidden", self.hidden, "must name widths of at least 2")

    def check_environment(self, environment: EnvironmentSpec) -> None:
        if not getattr(environment, "has_features", False) or environment.space.length > 1:  # type: ignore[attr-defined]
            rule = f"needs an environment of single actions with features: not {environment.kind}"
            raise SpecError("policy", "response_mlp", rule)

    def build(self, environment: EnumerableSpec, noise: Noise, critic: bool, dtype: torch.dtype) -> ResponseMLPPolicy:
        shape = (*noise.lead, environment.num_prompts, environment.space.vocabulary)
        features = torch.from_numpy(environment.features(noise)).to(dtype)
        features = features.expand(*shape, features.shape[-1]).contiguous()
        logp_ref = torch.from_numpy(environment.checked_reference_logp(noise)).to(dtype)[..., 0, :].expand(shape)
        widths = [features.shape[-1], *self.hidden]
        parameters = [*initial_layers(noise, widths, dtype), torch.zeros((*noise.lead, 1, widths[-1]), dtype=dtype)]
        if critic:
            parameters.append(torch.zeros((*shape[:-1], 1), dtype=dtype))
        return ResponseMLPPolicy(environment.space, features, logp_ref, parameters, len(self.hidden))
