"""The transformer of the token bandit: how large it is, how it starts, and how it becomes a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from ..core.divergences import kl
from ..core.experiment import EnvironmentSpec, PolicySpec
from ..core.noise import Noise
from ..core.optimise import Optimiser, PerRunOptimiser
from ..core.spec import SpecError, setting
from ..environments.enumerable import EnumerableSpec
from ..environments.token_bandit import TokenBandit
from ..space import TokenSpace
from .causal import TransformerPolicy


@dataclass(frozen=True)
class Transformer(PolicySpec, kind="transformer"):
    """minGPT's nano (95,000 parameters at 100 tokens), without dropout, fitted to the data policy before it serves as
    reference: Adam on KL(π‖π_data), exact at each token, along one response of its own a step, as Tajwar et al. do."""

    largest_stack: ClassVar[int] = 40  # runs: beyond, memory goes to activations and no time is saved

    num_layers: int = setting(3, "blocks", at_least=1)
    num_heads: int = setting(3, "attention heads; must divide hidden_size", at_least=1)
    hidden_size: int = setting(48, "numbers a token (D)", at_least=2)
    fit_steps: int = setting(100, "Adam steps on KL(policy || data policy) that make the reference", at_least=0)
    fit_learning_rate: float = setting(1e-2, "step size of the fit", above=0)
    fit_samples: int = setting(1, "responses drawn a step of the fit", at_least=1)

    def check(self) -> None:
        if self.hidden_size % self.num_heads:
            raise SpecError("num_heads", self.num_heads, f"must divide hidden_size = {self.hidden_size}")

    def check_environment(self, environment: EnvironmentSpec) -> None:
        if not isinstance(environment, (EnumerableSpec, TokenBandit)):
            raise SpecError("policy", self.kind, f"knows no data policy of {environment.kind}")
        if isinstance(environment, EnumerableSpec) and not environment.full_support:
            raise SpecError("policy", self.kind, "gives every response some probability: use table where one has none")

    def build(
        self, environment: EnumerableSpec | TokenBandit, noise: Noise, critic: bool, dtype: torch.dtype
    ) -> TransformerPolicy:
        space = environment.space
        if isinstance(environment, TokenBandit):
            prompt_rows, embedded = torch.from_numpy(environment.prompt_tokens()), space.vocabulary
        else:
            prompt_rows = space.vocabulary + torch.arange(environment.num_prompts)
            embedded = space.vocabulary + environment.num_prompts
        parameters = self._initial(noise, space, embedded, dtype)
        if critic:
            runs = noise.lead[0]
            parameters += [torch.zeros((runs, 1, self.hidden_size), dtype=dtype), torch.zeros((runs, 1), dtype=dtype)]
        policy = self.policy_class()(space, prompt_rows, parameters, self.num_heads)
        self._fit(policy, environment, noise, parameters[:-2] if critic else parameters)
        return policy

    def policy_class(self) -> type[TransformerPolicy]:
        """What `build` makes."""
        return TransformerPolicy

    def _initial(self, noise: Noise, space: TokenSpace, embedded: int, dtype: torch.dtype) -> list[Tensor]:
        """minGPT's start: N(0, 0.02²), less on the way back to the residual stream; norms 1 and 0, biases 0."""
        width, back = self.hidden_size, 0.02 / math.sqrt(2 * self.num_layers)
        norm = [((width, 1), 1.0, 0.0), ((width, 1), 0.0, 0.0)]
        block = [*norm, ((width, 3 * width), 0.0, 0.02), ((1, 3 * width), 0.0, 0.0)]
        block += [((width, width), 0.0, back), ((1, width), 0.0, 0.0)]
        block += [*norm, ((width, 4 * width), 0.0, 0.02), ((1, 4 * width), 0.0, 0.0)]
        block += [((4 * width, width), 0.0, back), ((1, width), 0.0, 0.0)]
        # One position more than is read: minGPT's block holds the last token too.
        shapes = [((embedded, width), 0.0, 0.02), ((space.length + 1, width), 0.0, 0.02), *(block * self.num_layers)]
        shapes += [*norm, ((width, space.vocabulary), 0.0, 0.02)]
        parameters = []
        for shape, mean, spread in shapes:
            if spread:
                uniforms = noise.uniforms("initial weights", *shape).numpy()
                drawn = ndtri((uniforms + 2.0**-54).clip(max=1.0 - 2.0**-53))  # finite at both ends
                parameters.append(torch.from_numpy(spread * drawn).to(dtype))
            else:
                parameters.append(torch.full((*noise.lead, *shape), mean, dtype=dtype))
        return parameters

    def _fit(
        self,
        policy: TransformerPolicy,
        environment: EnumerableSpec | TokenBandit,
        noise: Noise,
        trained: Sequence[Tensor],
    ) -> None:
        """Minimise Σ_t KL(π‖π_data) after prefixes drawn from π, which carry no gradient."""
        data = _DataLaw(environment, noise, trained[0].dtype)
        optimiser = PerRunOptimiser(trained, noise.lead, Optimiser(learning_rate=self.fit_learning_rate))
        for parameter in trained:
            parameter.requires_grad_(True)
        for _ in range(self.fit_steps):
            prompts = (noise.uniforms("fit prompts", self.fit_samples) * environment.num_prompts).long()
            responses, mask, _ = policy.sample(prompts, 1, noise, "fit responses")
            distance = kl(policy.token_laws(prompts, responses), data(prompts, responses))
            loss = torch.where(mask, distance, 0.0).sum() / self.fit_samples
            gradients = torch.autograd.grad(loss, trained)
            optimiser.step(gradients, optimiser.grad_norm(gradients))
        for parameter in trained:
            parameter.requires_grad_(False)


class _DataLaw:
    """log π_data of every token after each prefix of responses: (R, B, K, L, V), or what broadcasts to it."""

    def __init__(self, environment: EnumerableSpec | TokenBandit, noise: Noise, dtype: torch.dtype) -> None:
        self.space = environment.space
        self.everywhere = isinstance(environment, TokenBandit)
        if isinstance(environment, TokenBandit):
            table = np.log(environment.data_policy())
        else:
            table = environment.reference_logp(noise)
        self.table = torch.from_numpy(table).to(dtype)

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        if self.everywhere:
            return self.table
        node = self.space.node_index(responses)
        row = prompts[..., None, None] * self.space.nodes + (torch.zeros_like(responses) if node is None else node)
        table = self.table.expand(responses.shape[0], *self.table.shape[-3:]).flatten(1, 2)
        index = row.flatten(1).unsqueeze(-1).expand(-1, -1, self.space.vocabulary)
        return table.gather(1, index).view(*responses.shape, self.space.vocabulary)
