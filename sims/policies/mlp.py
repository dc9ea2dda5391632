"""A small network from prompt to logits, one per run: stacked layers (R, in, out)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sims.core.loop.protocols import EnvironmentSpec, PolicySpec
from sims.core.numerics.networks import initial_layers, last_hidden
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError, setting
from sims.environments.enumerable import EnumerableSpec
from sims.environments.space import TokenSpace

from .categorical import CategoricalPolicy, fit_to


class MLPPolicy(CategoricalPolicy):
    """features: (R, X, D), constant; parameters: weight (R, in, out) and bias (R, 1, out) of each layer, then the
    critic's weight (R, 1, width) and bias (R, 1), if there is one.

    Every prompt's logits are computed once, however often it occurs in a batch.
    """

    def __init__(
        self, space: TokenSpace, features: Tensor, parameters: Sequence[Tensor], layers: int, normalise_first: bool
    ) -> None:
        super().__init__(space, parameters)
        self.features, self.layers, self.normalise_first = features, layers, normalise_first

    def hidden(self) -> Tensor:
        """(R, X, width): the last hidden layer."""
        return last_hidden(self.features, self._parameters[: 2 * self.layers], self.normalise_first)

    def logits(self) -> Tensor:
        last = 2 * (self.layers - 1)
        return (self.hidden() @ self._parameters[last] + self._parameters[last + 1]).unsqueeze(2)

    def value_table(self) -> Tensor:
        weight, bias = self._parameters[2 * self.layers :]
        # Multiply and sum: the last bits of a matmul of width 1 depend on the number of runs.
        return ((self.hidden() * weight).sum(-1) + bias).unsqueeze(2)


@dataclass(frozen=True)
class MLP(PolicySpec, kind="mlp"):
    """A ReLU network, first fitted to the data policy; the fit is the reference.

    Tajwar et al. use 100 uniform features, layers 50 (with LayerNorm), 256, 256, and 100 fitting steps:
    `MLP(hidden=(50, 256, 256), features="uniform", normalise_first=True)`.

    >>> sims.run(sims.RLOO(), sims.BanditR1(num_prompts=4), sims.MLP(hidden=(16,)), updates=20, runs=2)
    Result(rloo on bandit_r1: 2 runs of 20 updates, ...)
    """

    hidden: tuple[int, ...] = setting((64, 64), "widths of the hidden layers")
    features: Literal["one_hot", "uniform"] = setting(
        "one_hot", "input of the network: a prompt, one-hot, or as fixed random features from U(0, 1)"
    )
    feature_size: int = setting(100, "number of features (features = uniform)", at_least=1)
    normalise_first: bool = setting(False, "LayerNorm (without weights) after the first layer")
    fit_steps: int = setting(
        100,
        "Adam steps that fit the initial policy to the data policy, minimising KL(policy || data policy)",
        at_least=0,
    )
    fit_learning_rate: float = setting(1e-2, "learning rate of the fit to the data policy (adam)", above=0)

    def check(self) -> None:
        if not self.hidden or min(self.hidden) < 2:
            raise SpecError("hidden", self.hidden, "must name at least one layer, each of width at least 2")

    def check_environment(self, environment: EnvironmentSpec) -> None:
        if not isinstance(environment, EnumerableSpec) or environment.space.length > 1:
            raise SpecError(
                "policy", "mlp", "has one output layer: it needs an environment whose responses are single actions"
            )
        if not environment.full_support:
            raise SpecError(
                "policy", "mlp", "gives every response a positive probability: use table where one has none"
            )

    def build(self, environment: EnumerableSpec, noise: Noise, critic: bool, dtype: torch.dtype) -> MLPPolicy:
        runs, contexts = noise.lead[0], environment.num_prompts
        if self.features == "one_hot":
            features = torch.eye(contexts, dtype=dtype).expand(runs, contexts, contexts)
        else:
            # Uniforms are a view of a larger block, and a matrix product's rounding may depend on the memory layout.
            features = noise.uniforms("features", contexts, self.feature_size).to(dtype).contiguous()
        widths = [features.shape[-1], *self.hidden, environment.space.vocabulary]
        parameters = initial_layers(noise, widths, dtype)
        if critic:
            width = self.hidden[-1]
            parameters += [torch.zeros((runs, 1, width), dtype=dtype), torch.zeros((runs, 1), dtype=dtype)]
        policy = MLPPolicy(environment.space, features, parameters, len(widths) - 1, self.normalise_first)
        logp_data = torch.from_numpy(environment.checked_reference_logp(noise)).to(dtype)[..., 0, :]
        fit_to(logp_data, policy, parameters[: 2 * policy.layers], self.fit_steps, self.fit_learning_rate)
        return policy
