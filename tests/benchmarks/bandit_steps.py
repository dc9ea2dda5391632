"""One gradient step of the paper's bandits with its diagnostics, stacked, beside a plain loop: core-seconds per step.

10 prompts × 10 responses per step, fresh from the policy; then reward, entropy and KL of the policy that it leaves. On
the 1-D bandit these are exact; on the token bandit rewards are means over 100 fresh responses, entropy and KL exact
per-token distributions along them. The loop goes state by state and sample by sample, each through the network alone,
as the code released with Tajwar et al. does: a token is drawn by reading its whole prefix again, each of a prompt's 45
pairs scores its two responses, under the policy and under the reference, and reward, entropy and KL each draw 100
responses of their own, where the stacked step draws 100 for all three. ipo is the contrastive step of that paper;
best_of_n scores one response a prompt, so that little but sampling is left to be slow. float32, one thread, processor
time of the whole process; a stacked step is that of one run among R.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sims.core.algorithms import Algorithm, find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.schedule import Schedule
from sims.environments import BanditR1, TokenBanditR1
from sims.environments.bandit import bump
from sims.experiments.evaluation import Evaluation
from sims.experiments.executor import evaluation_of
from sims.policies import MLP, MLPPolicy, Transformer, TransformerPolicy
from sims.policies.causal import PER_BLOCK

PROMPTS, RESPONSES, RATE = 10, 10, 1e-3
ENVIRONMENTS = {
    "1-D bandit, mlp": (
        BanditR1(num_prompts=PROMPTS),
        MLP(hidden=(50, 256, 256), features="uniform", normalise_first=True, fit_steps=5),
    ),
    "token bandit, transformer": (TokenBanditR1(evaluation_samples=PROMPTS * RESPONSES), Transformer(fit_steps=5)),
}
ALGORITHMS: dict[str, Algorithm] = {
    "ipo": find_algorithm("ipo")(beta=0.05, pairing="all"),
    "best_of_n": find_algorithm("best_of_n")(),
}


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of the library with the weights of one run: weight (in, out), bias (1, out)."""
    layer = nn.Linear(*weight.shape, bias=bias is not None, dtype=weight.dtype)
    layer.weight.data.copy_(weight.detach().T)
    if bias is not None:
        layer.bias.data.copy_(bias.detach()[0])
    return layer


class PlainPolicy(nn.Module):
    """One run's policy, one sequence at a time. A subclass gives `distributions`."""

    length: int

    def distributions(self, prompt: int, tokens: Sequence[int]) -> Tensor:
        """Log-probs of the next token after each prefix of tokens, the empty one first: (len(tokens) + 1, V)."""
        raise NotImplementedError

    def log_prob(self, prompt: int, response: Sequence[int]) -> Tensor:
        distributions = self.distributions(prompt, response[:-1])
        return sum(
            (distributions[t, token] for t, token in enumerate(response[1:], 1)), start=distributions[0, response[0]]
        )

    @torch.no_grad()
    def sample(self, prompt: int) -> list[int]:
        tokens: list[int] = []
        for _ in range(self.length):
            tokens.append(int(torch.multinomial(self.distributions(prompt, tokens)[-1].exp(), 1)))
        return tokens


class PlainMLP(PlainPolicy):
    """The 1-D bandit's network: 100 features, 50 (LayerNorm), 256, 256, 100."""

    length = 1

    def __init__(self, policy: MLPPolicy, run: int) -> None:
        super().__init__()
        self.features = policy.features[run]
        weights = [p[run] for p in policy.parameters()]
        first, *others = [linear(*weights[i : i + 2]) for i in range(0, len(weights), 2)]
        norm = nn.LayerNorm(first.out_features, elementwise_affine=False)
        layers = [first, norm, *itertools.chain.from_iterable((nn.ReLU(), layer) for layer in others)]
        self.network = nn.Sequential(*layers)

    def distributions(self, prompt: int, tokens: Sequence[int]) -> Tensor:
        return functional.log_softmax(self.network(self.features[prompt]), -1).unsqueeze(0)


class PlainBlock(nn.Module):
    """minGPT's block."""

    def __init__(self, weights: Sequence[Tensor], heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(len(weights[0]), dtype=weights[0].dtype) for _ in range(2))
        for norm, scale, shift in zip(self.norms, weights[0::6], weights[1::6], strict=True):
            norm.weight.data.copy_(scale.detach()[:, 0])
            norm.bias.data.copy_(shift.detach()[:, 0])
        self.joint, self.project = linear(*weights[2:4]), linear(*weights[4:6])
        self.inner, self.outer = linear(*weights[8:10]), linear(*weights[10:12])

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.joint(self.norms[0](x)).split(width, dim=2)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.outer(functional.gelu(self.inner(self.norms[1](x)), approximate="tanh"))


class PlainGPT(PlainPolicy):
    """minGPT for one sequence."""

    def __init__(self, policy: TransformerPolicy, run: int) -> None:
        super().__init__()
        weights = [p[run] for p in policy.parameters()]
        tail = 2 + PER_BLOCK * policy.blocks
        self.length, self.prompt_rows = policy.space.length, policy.prompt_rows
        self.tokens, self.positions = (nn.Parameter(w.detach().clone()) for w in weights[:2])
        starts = range(2, tail, PER_BLOCK)
        self.blocks = nn.Sequential(*(PlainBlock(weights[i : i + PER_BLOCK], policy.heads) for i in starts))
        self.norm = nn.LayerNorm(self.tokens.shape[1], dtype=self.tokens.dtype)
        self.norm.weight.data.copy_(weights[tail].detach()[:, 0])
        self.norm.bias.data.copy_(weights[tail + 1].detach()[:, 0])
        self.head = linear(weights[tail + 2], None)

    def distributions(self, prompt: int, tokens: Sequence[int]) -> Tensor:
        rows = torch.tensor([[int(self.prompt_rows[prompt]), *tokens]])
        x = functional.embedding(rows, self.tokens) + self.positions[: rows.shape[1]]
        return functional.log_softmax(self.head(self.norm(self.blocks(x))), -1)[0]


Responses = list[list[list[int]]]


def ipo_loss(
    policy: PlainPolicy, reference: PlainPolicy, prompts: list[int], responses: Responses, rewards: list[list[float]]
) -> Tensor:
    """Mean over all pairs of a prompt's responses of (h − 10)², one pair after the other."""
    loss, count = torch.zeros(()), 0
    for prompt, drawn, earned in zip(prompts, responses, rewards, strict=True):
        for i, j in itertools.combinations(range(len(drawn)), 2):
            won, lost = (drawn[i], drawn[j]) if earned[i] > earned[j] else (drawn[j], drawn[i])
            margin = policy.log_prob(prompt, won) - policy.log_prob(prompt, lost)
            with torch.no_grad():
                margin_ref = reference.log_prob(prompt, won) - reference.log_prob(prompt, lost)
            if earned[i] == earned[j]:  # no winner: half a loss each way round
                loss = loss + ((margin - margin_ref).square() + 100.0)
            else:
                loss = loss + (margin - margin_ref - 10.0).square()
            count += 1
    return loss / count


def best_of_n_loss(
    policy: PlainPolicy, reference: PlainPolicy, prompts: list[int], responses: Responses, rewards: list[list[float]]
) -> Tensor:
    """−log π of each prompt's best response, the mean over prompts."""
    loss = torch.zeros(())
    for prompt, drawn, earned in zip(prompts, responses, rewards, strict=True):
        loss = loss - policy.log_prob(prompt, drawn[int(np.argmax(earned))])
    return loss / len(prompts)


LOSSES = {"ipo": ipo_loss, "best_of_n": best_of_n_loss}


@torch.no_grad()
def mean_over_states(
    policy: PlainPolicy, prompts: list[int], value: Callable[[int, list[int]], Tensor], draws: int = RESPONSES
) -> float:
    """Mean over prompts of `value(prompt, response)`; of single actions, whose distribution is all there is, once a
    prompt."""
    total, draws = 0.0, 1 if policy.length == 1 else draws
    for prompt in prompts:
        for _ in range(draws):
            total += float(value(prompt, policy.sample(prompt) if policy.length > 1 else [0]))
    return total / (len(prompts) * draws)


def diagnostics(policy: PlainPolicy, reference: PlainPolicy, prompts: list[int], of_token: Tensor) -> dict[str, float]:
    """Reward, entropy and KL one after the other, each along responses of its own."""

    def reward(prompt: int, response: list[int]) -> Tensor:
        exact = policy.length == 1
        return (policy.distributions(prompt, [])[0].exp() * of_token).sum() if exact else of_token[response].mean()

    def entropy(prompt: int, response: list[int]) -> Tensor:
        distribution = policy.distributions(prompt, response[:-1])
        return -(distribution.exp() * distribution).sum()

    def kl_policy_ref(prompt: int, response: list[int]) -> Tensor:
        distribution, distribution_ref = (p.distributions(prompt, response[:-1]) for p in (policy, reference))
        return (distribution.exp() * (distribution - distribution_ref)).sum()

    return {f.__name__: mean_over_states(policy, prompts, f) for f in (reward, entropy, kl_policy_ref)}


def loop_step(
    policy: PlainPolicy, reference: PlainPolicy, optimiser: torch.optim.Optimizer, algorithm: str, of_token: Tensor
) -> dict[str, float]:
    """Draw, label, update, evaluate: all one at a time."""
    prompts = list(range(PROMPTS))
    responses = [[policy.sample(prompt) for _ in range(RESPONSES)] for prompt in prompts]
    rewards = [[float(of_token[response].mean()) for response in drawn] for drawn in responses]
    optimiser.zero_grad()
    LOSSES[algorithm](policy, reference, prompts, responses, rewards).backward()
    optimiser.step()
    return diagnostics(policy, reference, prompts, of_token)


def plain(policy: MLPPolicy | TransformerPolicy, run: int) -> PlainPolicy:
    """One run of a stacked policy as a module."""
    return PlainGPT(policy, run) if isinstance(policy, TransformerPolicy) else PlainMLP(policy, run)


def training(where: str, algorithm: str, runs: int, dtype: torch.dtype = torch.float32) -> tuple[Training, Evaluation]:
    """The same of all runs, stacked, as `sims.experiments.executor` has it."""
    spec, policy_spec = ENVIRONMENTS[where]
    noise = Noise.of(0, runs)
    policy = policy_spec.build(spec, noise, False, dtype)
    schedule = Schedule(batch_size=PROMPTS, num_generations=RESPONSES)
    learner = Learner(policy, Optimiser(learning_rate=RATE), noise.lead)
    environment = spec.build(dtype, noise)
    stacked = Training(policy, environment, ALGORITHMS[algorithm], schedule, learner, noise)
    return stacked, evaluation_of(stacked, environment, spec)


def second_gradient(training: Training) -> tuple[Batch, list[Tensor], Tensor]:
    """The batch, the gradient of each parameter and the loss of the second update, where policy and reference
    differ."""
    for _ in training.train(1):
        pass
    batch = training.collector.next_batch(1)
    targets, _ = training.algorithm.targets(batch, training.state)
    targets = training.algorithm.at_update(batch, targets, None)
    return batch, *training.learner.gradient(training.algorithm, batch, targets)


def loop_seconds(where: str, algorithm: str, steps: int) -> float:
    """Core-seconds of one step of the loop, the first one left out."""
    environment, spec = ENVIRONMENTS[where]
    stacked = spec.build(environment, Noise.of(0, 1), False, torch.float32)
    policy, reference = plain(stacked, 0), plain(stacked, 0)
    optimiser = torch.optim.Adam(policy.parameters(), lr=RATE)
    of_token = torch.from_numpy(bump(100, environment.peak, environment.width)).float()
    loop_step(policy, reference, optimiser, algorithm, of_token)
    start = time.process_time()
    for _ in range(steps):
        loop_step(policy, reference, optimiser, algorithm, of_token)
    return (time.process_time() - start) / steps


def stacked_seconds(where: str, algorithm: str, runs: int, steps: int) -> float:
    """Core-seconds of one step of one run among `runs`, the first one left out."""
    stacked, evaluation = training(where, algorithm, runs)
    for update, _ in enumerate(stacked.train(1 + steps)):
        evaluation.row()
        if update == 0:
            start = time.process_time()
    return (time.process_time() - start) / (steps * runs)


def main() -> None:
    """Print core-seconds per step, and the ratio."""
    print(f"{'':26}{'algorithm':>12}{'loop':>12}{'R = 1':>12}{'R = 20':>12}{'R = 20: loop /':>16}")
    for where, algorithm in itertools.product(ENVIRONMENTS, ALGORITHMS):
        torch.set_num_threads(1)
        loop = loop_seconds(where, algorithm, steps=3)
        single, stacked = (stacked_seconds(where, algorithm, runs, steps=10) for runs in (1, 20))
        numbers = f"{loop:12.4f}{single:12.5f}{stacked:12.5f}{loop / stacked:16.0f}"
        print(f"{where:26}{algorithm:>12}{numbers}", flush=True)
