"""The transformer of the token bandit: its size, initialisation and fit to the data policy."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.loop.protocols import EnvironmentSpec, PolicySpec, Prompts, SampleRequest
from sims.core.numerics.noise import Generator, Noise
from sims.core.objectives.divergences import kl
from sims.core.spec import SpecError, setting
from sims.environments.enumerable import EnumerableSpec
from sims.environments.space import TokenSpace
from sims.environments.token_bandit import TokenBandit

from .causal import TransformerPolicy
from .stacked import check_fit


@dataclass(frozen=True)
class Transformer(PolicySpec, kind="transformer"):
    """minGPT's nano (95,000 parameters at 100 tokens), without dropout, first fitted to the data policy; the fit is the
    reference. It minimises KL(π‖π_data) by Adam, exactly at each token of one response sampled per step, as Tajwar et
    al. do.

    >>> small = sims.Transformer(num_layers=1, num_heads=1, hidden_size=8, fit_steps=5)
    >>> sims.run(sims.RLOO(), sims.TokenTree(), small, updates=5, runs=2)
    Result(rloo on token_tree: 2 runs of 5 updates, ...)
    """

    largest_stack: ClassVar[int] = 40  # runs: with more, memory grows and no time is saved
    magnifies_rounding: ClassVar[bool] = True

    num_layers: int = setting(3, "number of transformer blocks", at_least=1)
    num_heads: int = setting(3, "number of attention heads; must divide hidden_size", at_least=1)
    hidden_size: int = setting(48, "width of the residual stream (D)", at_least=2)
    fit_steps: int = setting(
        100,
        "Adam steps that fit the initial policy to the data policy, minimising KL(policy || data policy)",
        at_least=0,
    )
    fit_learning_rate: float = setting(1e-2, "learning rate of the fit to the data policy (adam)", above=0, at_most=10)
    fit_samples: int = setting(1, "responses sampled per step of the fit to the data policy", at_least=1)

    def check(self) -> None:
        if self.hidden_size % self.num_heads:
            raise SpecError("num_heads", self.num_heads, f"must divide hidden_size = {self.hidden_size}")

    def check_environment(self, environment: EnvironmentSpec) -> None:
        if not isinstance(environment, (EnumerableSpec, TokenBandit)):
            raise SpecError(
                "policy",
                self.kind,
                f"needs the data policy of an enumerable or token environment: not {environment.kind}",
            )
        if isinstance(environment, EnumerableSpec) and not environment.full_support:
            raise SpecError(
                "policy", self.kind, "gives every response a positive probability: use table where one has none"
            )

    def build(
        self, environment: EnumerableSpec | TokenBandit, noise: Noise, critic: bool, dtype: torch.dtype
    ) -> TransformerPolicy:
        # Runs of one seed have the same start in every arm: those that occur twice in a stack are fitted once.
        runs = tuple(dict.fromkeys(noise.runs))
        data = DataDistribution.of(environment, noise.from_start(runs))
        which = torch.tensor([runs.index(run) for run in noise.runs])
        parameters = [p[which] for p in fitted(Transformer(**self._sizes()), data, runs, noise.generator, dtype)]
        if critic:
            shapes = ((1, self.hidden_size), (1,))
            parameters += [torch.zeros((*noise.lead, *shape), dtype=dtype) for shape in shapes]
        return self.policy_class()(data.space, data.prompt_rows, parameters, self.num_heads)

    def policy_class(self) -> type[TransformerPolicy]:
        """What `build` makes."""
        return TransformerPolicy

    def _sizes(self) -> dict[str, Any]:
        """The settings that determine the initial parameters, whatever the class of the policy."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Transformer)}

    def initial(self, noise: Noise, data: DataDistribution, dtype: torch.dtype) -> list[Tensor]:
        """minGPT's initialisation: N(0, 0.02²), smaller for projections into the residual stream; norms 1 and 0, biases
        0."""
        width, back, space = self.hidden_size, 0.02 / math.sqrt(2 * self.num_layers), data.space
        norm = [((width, 1), 1.0, 0.0), ((width, 1), 0.0, 0.0)]
        block = [*norm, ((width, 3 * width), 0.0, 0.02), ((1, 3 * width), 0.0, 0.0)]
        block += [((width, width), 0.0, back), ((1, width), 0.0, 0.0)]
        block += [*norm, ((width, 4 * width), 0.0, 0.02), ((1, 4 * width), 0.0, 0.0)]
        block += [((4 * width, width), 0.0, back), ((1, width), 0.0, 0.0)]
        # One position more than is used: minGPT's block includes the last token.
        shapes = [((data.embedded, width), 0.0, 0.02), ((space.length + 1, width), 0.0, 0.02)]
        shapes += [*(block * self.num_layers), *norm, ((width, space.vocabulary), 0.0, 0.02)]
        parameters = []
        for shape, mean, spread in shapes:
            if spread:
                uniforms = noise.uniforms("initial weights", *shape).numpy()
                drawn = ndtri((uniforms + 2.0**-54).clip(max=1.0 - 2.0**-53))  # finite at both ends
                parameters.append(torch.from_numpy(spread * drawn).to(dtype))
            else:
                parameters.append(torch.full((*noise.lead, *shape), mean, dtype=dtype))
        return parameters


@dataclass(frozen=True)
class DataDistribution:
    """log π_data of every token after each prefix, and the prompts; equal if all numbers are equal.

    prompts: which row of the embedding each prompt is; embedded: how many rows there are. table: float64, (V,) for a
    distribution that is the same after every prefix, else (X, nodes, V), or (R, X, nodes, V) where runs differ.
    """

    space: TokenSpace
    prompts: tuple[int, ...]
    embedded: int
    digits: bytes
    table: Tensor = field(compare=False)

    @classmethod
    def of(cls, environment: EnumerableSpec | TokenBandit, noise: Noise) -> DataDistribution:
        """The data policy of an environment."""
        space, count = environment.space, environment.num_prompts
        if isinstance(environment, TokenBandit):  # its prompts are tokens, with the same embeddings as in responses
            table, rows, embedded = np.log(environment.data_policy()), environment.prompt_tokens(), space.vocabulary
        else:
            table, embedded = environment.checked_reference_logp(noise), space.vocabulary + count
            rows = np.arange(space.vocabulary, embedded)
        return cls(space, tuple(map(int, rows)), embedded, table.tobytes(), torch.from_numpy(table))

    @property
    def prompt_rows(self) -> Tensor:
        return torch.tensor(self.prompts)

    def along(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """After each prefix of responses (R, B, K, L): (R, B, K, L, V), or what broadcasts to it."""
        if self.table.dim() == 1:
            return self.table
        node = self.space.node_index(responses)
        row = prompts[..., None, None] * self.space.nodes + (torch.zeros_like(responses) if node is None else node)
        table = self.table.expand(responses.shape[0], *self.table.shape[-3:]).flatten(1, 2)
        index = row.flatten(1).unsqueeze(-1).expand(-1, -1, self.space.vocabulary)
        return table.gather(1, index).view(*responses.shape, self.space.vocabulary)


@functools.lru_cache(maxsize=4)  # the arms of a figure share their start, and a fit takes as long as a short run
def fitted(
    spec: Transformer,
    data: DataDistribution,
    runs: tuple[tuple[int, int], ...],
    generator: Generator,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """Parameters that minimise Σ_t KL(π‖π_data) after prefixes sampled from π, without gradient through the
    sampling."""
    noise = Noise(runs, generator)
    parameters = spec.initial(noise, data, dtype)
    policy = TransformerPolicy(data.space, data.prompt_rows, parameters, spec.num_heads)
    optimiser = PerRunOptimiser(parameters, noise.lead, Optimiser(learning_rate=spec.fit_learning_rate))
    for parameter in parameters:
        parameter.requires_grad_(True)
    for _ in range(spec.fit_steps):
        prompts = (noise.uniforms("fit prompts", spec.fit_samples) * len(data.prompts)).long()
        responses, mask, _ = policy.sample(SampleRequest(Prompts(prompts), 1, noise, "fit responses"))
        distance = kl(policy.token_log_probs(prompts, responses), data.along(prompts, responses).to(dtype))
        loss = torch.where(mask, distance, 0.0).sum() / spec.fit_samples
        check_fit(loss, spec.fit_learning_rate)
        gradients = torch.autograd.grad(loss, parameters)
        optimiser.step(gradients, optimiser.grad_norm(gradients))
    return tuple(p.detach() for p in parameters)
