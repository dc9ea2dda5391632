"""Microseconds of processor time per run and update: here, as it is and captured, in a plain loop over runs, and in
JAX, jitted and vmapped.

One update: draw two responses to each prompt from the policy, reward and label them, add the reference's log-probs
(DPO), differentiate the loss, and take a step of Adam. Bandit R1, 100 actions, 50 prompts; for the transformer, one
block of width 16, a token bandit of 4 tokens out of 16, 16 prompts. float32, one thread.

`loop` is one run in plain PyTorch, as in a script: R runs take R times as long. JAX runs the same functions, vmapped
over runs and jitted, with many updates in one `lax.scan`, so that no Python runs between two of them. Captured, an
update here is one call of compiled code (`capture=True`). Compilation is not counted for either, and the transformer
was not captured; for it both draw a token by reading its whole prefix again, where the stacked policy here keeps keys
and values. That the three have one gradient, given the same draws, is tested by
`tests/experiments/test_beside_jax.py`. Without JAX (`pip install '.[jax]'`) its columns are left out.
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from sims.core.algorithms import Algorithm, find_algorithm
from sims.core.loop.captured import WARM, train_captured
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import PolicySpec
from sims.core.loop.train import Training
from sims.core.numerics.noise import Generator, Noise
from sims.core.schedule import Schedule
from sims.environments import BanditR1, TokenBanditR1
from sims.experiments.computation import move
from sims.policies import MLP, Table, Transformer
from sims.policies.causal import PER_BLOCK

RUNS = (1, 32, 256, 1024)
RATE, BETA, HEADS = 0.01, 0.1, 2
SECONDS = 1.0  # of each measurement, at the least
Array = Any  # of PyTorch or of JAX
Logits = Callable[[Any, Sequence[Array], Array], Array]


# One run, as one would write it. Every function takes the library first, PyTorch's or JAX's names of the same things.

PYTORCH = SimpleNamespace(
    log_softmax=torch.log_softmax,
    softmax=torch.softmax,
    logsigmoid=torch.nn.functional.logsigmoid,
    tanh=torch.tanh,
    where=torch.where,
    tril=torch.tril,
    ones=torch.ones,
    cat=torch.cat,
    at=lambda x, index: x.gather(-1, index[..., None])[..., 0],
)


def jax_library() -> SimpleNamespace:
    """The same names in JAX."""
    from jax import nn
    from jax import numpy as jnp

    return SimpleNamespace(
        log_softmax=nn.log_softmax,
        softmax=nn.softmax,
        logsigmoid=nn.log_sigmoid,
        tanh=jnp.tanh,
        where=jnp.where,
        tril=jnp.tril,
        ones=jnp.ones,
        cat=jnp.concatenate,
        at=lambda x, index: jnp.take_along_axis(x, index[..., None], -1)[..., 0],
    )


def table(lib: Any, parameters: Sequence[Array], tokens: Array) -> Array:
    """Logits of the next token after each prefix: (1 or N, T, V).

    parameters: of one run, in the stacked policy's order; tokens: (N, T), the prompt first.
    """
    return parameters[0].reshape(1, 1, -1)


def mlp(lib: Any, parameters: Sequence[Array], tokens: Array) -> Array:
    """`table`, from a ReLU network whose input is the one prompt's feature, 1."""
    x = parameters[0] + parameters[1]
    for weight, bias in zip(parameters[2::2], parameters[3::2], strict=True):
        x = lib.where(x > 0, x, 0.0) @ weight + bias
    return x[None]


def transformer(lib: Any, parameters: Sequence[Array], tokens: Array) -> Array:
    """`table`, from minGPT."""
    x = parameters[0][tokens] + parameters[1][: tokens.shape[1]]
    for start in range(2, len(parameters) - 3, PER_BLOCK):
        block = parameters[start : start + PER_BLOCK]
        x = x + attention(lib, normed(x, *block[:2]) @ block[2] + block[3]) @ block[4] + block[5]
        x = x + gelu(lib, normed(x, *block[6:8]) @ block[8] + block[9]) @ block[10] + block[11]
    return normed(x, *parameters[-3:-1]) @ parameters[-1]


def normed(x: Array, scale: Array, shift: Array) -> Array:
    """LayerNorm. scale, shift: (D, 1)."""
    x = x - x.mean(-1)[..., None]
    return x / ((x * x).mean(-1)[..., None] + 1e-5) ** 0.5 * scale[:, 0] + shift[:, 0]


def gelu(lib: Any, x: Array) -> Array:
    return 0.5 * x * (1.0 + lib.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def attention(lib: Any, joint: Array) -> Array:
    """Causal attention. joint: (N, T, 3D)."""
    sequences, length, width = joint.shape
    parts = joint.reshape(sequences, length, 3, HEADS, width // 3 // HEADS)
    q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    mixed = lib.softmax(lib.where(lib.tril(lib.ones((length, length))) > 0, scores, -math.inf), -1) @ v
    return mixed.swapaxes(1, 2).reshape(sequences, length, width // 3)


def draw(lib: Any, logits: Logits, parameters: Sequence[Array], first: Array, uniforms: Array) -> Array:
    """Responses (N, L) by inverting the distribution function. first: (N, 1), the prompt; uniforms: (N, L)."""
    tokens = first
    for t in range(uniforms.shape[1]):
        mass = lib.softmax(logits(lib, parameters, tokens)[:, -1], -1).cumsum(-1)
        tokens = lib.cat([tokens, (mass <= uniforms[:, t, None] * mass[:, -1:]).sum(-1)[:, None]], -1)
    return tokens[:, 1:]


def log_probs(lib: Any, logits: Logits, parameters: Sequence[Array], first: Array, responses: Array) -> Array:
    """log π of responses (N, L): (N,)."""
    found = lib.log_softmax(logits(lib, parameters, lib.cat([first, responses[:, :-1]], -1)), -1)
    if found.shape[0] == 1:  # the same distribution for all
        return found[0, 0][responses[:, 0]]
    return lib.at(found, responses).sum(-1)


def policy_gradient(lib: Any, logp: Array, logp_ref: Array, rewards: Array) -> Array:
    """REINFORCE with leave-one-out baseline, K = 2. All (B, K)."""
    return -((2.0 * rewards - rewards.sum(-1)[:, None]) * logp).mean()  # one's own less the other's


def dpo(lib: Any, logp: Array, logp_ref: Array, rewards: Array) -> Array:
    """DPO; of equal rewards, each response is preferred by half."""
    ratio = logp - logp_ref
    margin = BETA * (ratio[:, 0] - ratio[:, 1])
    gap = rewards[:, 0] - rewards[:, 1]
    first = lib.where(gap > 0, 1.0, lib.where(gap < 0, 0.0, 0.5))
    return -(first * lib.logsigmoid(margin) + (1.0 - first) * lib.logsigmoid(-margin)).mean()


@dataclass(frozen=True)
class Case:
    """What is measured: here an algorithm on an environment with a policy, and the same as functions of one run."""

    algorithm: Algorithm
    environment: Any
    policy: PolicySpec
    prompts: int
    logits: Logits
    loss: Callable[[Any, Array, Array, Array], Array]

    def training(
        self, runs: int, dtype: torch.dtype = torch.float32, generator: Generator = "pcg64", device: str = "cpu"
    ) -> Training:
        """All runs, stacked."""
        noise = Noise.of(0, runs, generator)
        policy = move(self.policy.build(self.environment, noise, False, dtype), device)
        environment = move(self.environment.build(dtype, noise), device)
        learner = Learner(policy, Optimiser(learning_rate=RATE), noise.lead)
        schedule = Schedule(batch_size=self.prompts, num_generations=2)
        return Training(policy, environment, self.algorithm, schedule, learner, noise.to(device))

    def loss_of(
        self,
        lib: Any,
        parameters: Sequence[Array],
        reference: Sequence[Array],
        first: Array,
        drawn: Array,
        tokens: Array,
    ) -> Array:
        """The loss of responses (N, L), of which two in a row are to one prompt. tokens: (V,), the reward of each."""
        logp, logp_ref = (
            log_probs(lib, self.logits, p, first, drawn).reshape(-1, 2) if p is not None else None
            for p in (parameters, reference if self.loss is dpo else None)
        )
        return self.loss(lib, logp, logp_ref, tokens[drawn].mean(-1).reshape(-1, 2))

    def rewards(self) -> torch.Tensor:
        """(V,), the reward of each token."""
        actions = torch.arange(self.environment.space.vocabulary)
        return torch.exp(-(((actions - self.environment.peak) / self.environment.width) ** 2)).float()


TOKENS = TokenBanditR1(num_prompts=1, vocabulary=16, length=4, peak=11.0, width=2.0)
RLOO, DPO = find_algorithm("rloo")(), find_algorithm("dpo")(beta=BETA)
CASES = {
    "table, policy gradient": Case(RLOO, BanditR1(), Table(), 50, table, policy_gradient),
    "table, dpo": Case(DPO, BanditR1(), Table(), 50, table, dpo),
    "mlp, policy gradient": Case(RLOO, BanditR1(), MLP(hidden=(64, 64), fit_steps=1), 50, mlp, policy_gradient),
    "transformer, policy gradient": Case(
        RLOO, TOKENS, Transformer(num_layers=1, num_heads=HEADS, hidden_size=16, fit_steps=1), 16, transformer,
        policy_gradient,
    ),
}  # fmt: skip


def prompt_row(training: Training) -> int:
    """The prompt, as a row of the transformer's embedding; others do not read it."""
    return int(getattr(training.policy, "prompt_rows", [0])[0])


# Time


def per_update(work: Callable[[], int], clock: Callable[[], float] = time.process_time) -> float:
    """Processor time of the whole process per update, over calls of at least SECONDS, of which the first is left out.

    work: returns how many updates it made. clock: another measure of time, in seconds.
    """
    work()
    start, updates = clock(), 0
    while clock() - start < SECONDS:
        updates += work()
    return (clock() - start) / updates


def stacked(case: Case, runs: int) -> float:
    """Seconds per run and update, here."""
    updates = case.training(runs).train(10**9)
    return per_update(lambda: next(updates) is not None) / runs


def captured(case: Case, runs: int) -> float:
    """Seconds per run and update, here, by updates that are captured."""
    torch._dynamo.reset()
    updates = train_captured(case.training(runs), 10**6)
    for _ in range(2 * WARM):
        next(updates)
    return per_update(lambda: next(updates) is not None) / runs


def loop(case: Case) -> float:
    """Seconds per update of one run in plain PyTorch."""
    training = case.training(1)
    parameters, reference = ([p[0].detach().clone() for p in training.policy.parameters()] for _ in range(2))
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser, rewards = torch.optim.Adam(parameters, lr=RATE), case.rewards()
    shape = (2 * case.prompts, case.environment.space.length)
    first = torch.full((shape[0], 1), prompt_row(training))

    def update() -> int:
        with torch.no_grad():
            drawn = draw(PYTORCH, case.logits, parameters, first, torch.rand(shape))
        optimiser.zero_grad()
        case.loss_of(PYTORCH, parameters, reference, first, drawn, rewards).backward()
        optimiser.step()
        return 1

    return per_update(update)


def in_jax(case: Case, runs: int, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds per run and update in JAX, on its default device."""
    import jax
    from jax import numpy as jnp

    lib, training = jax_library(), case.training(runs)
    parameters = [jnp.asarray(p.detach().numpy()) for p in training.policy.parameters()]
    rewards = jnp.asarray(case.rewards().numpy())
    shape = (2 * case.prompts, case.environment.space.length)
    first = jnp.full((shape[0], 1), prompt_row(training))

    def update(parameters, reference, mean, square, step, key):  # type: ignore[no-untyped-def]
        drawn = draw(lib, case.logits, parameters, first, jax.random.uniform(key, shape))
        gradients = jax.grad(lambda p: case.loss_of(lib, p, reference, first, drawn, rewards))(parameters)
        mean = [0.9 * m + 0.1 * g for m, g in zip(mean, gradients, strict=True)]
        square = [0.999 * s + 0.001 * g * g for s, g in zip(square, gradients, strict=True)]
        at, root = RATE / (1.0 - 0.9**step), (1.0 - 0.999**step) ** 0.5
        moved = zip(parameters, mean, square, strict=True)
        return [p - at * m / (s**0.5 / root + 1e-8) for p, m, s in moved], mean, square

    every = jax.vmap(update, in_axes=(0, 0, 0, 0, None, 0))
    chunk = max(1, 512 // runs)

    @jax.jit
    def several(state, reference, key, done):  # type: ignore[no-untyped-def]
        def one(state, step):  # type: ignore[no-untyped-def]
            keys = jax.random.split(jax.random.fold_in(key, step), runs)
            return every(state[0], reference, state[1], state[2], step, keys), None

        return jax.lax.scan(one, state, done + 1.0 + jnp.arange(chunk))[0]

    zeros = [jnp.zeros_like(p) for p in parameters]
    held: dict[str, Any] = {"state": (parameters, zeros, zeros), "done": 0.0}

    def work() -> int:
        held["state"] = jax.block_until_ready(several(held["state"], parameters, jax.random.key(0), held["done"]))
        held["done"] += chunk
        return chunk

    return per_update(work, clock) / runs


def main() -> None:
    """Print microseconds per run and update."""
    torch.set_num_threads(1)
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with_jax = importlib.util.find_spec("jax") is not None
    if not with_jax:
        print("without JAX, which is not installed: pip install '.[jax]'\n")
    print(f"{'':30}{'loop':>9}" + "".join(f"{f'R = {runs}':>22}" for runs in RUNS))
    for name, case in CASES.items():
        print(f"{name:30}{1e6 * loop(case):9.0f}", end="", flush=True)
        for runs in RUNS:
            ways = [stacked, *([captured] if case.logits is not transformer else []), *([in_jax] if with_jax else [])]
            print(f"{' | '.join(f'{1e6 * way(case, runs):.3g}' for way in ways):>22}", end="", flush=True)
        print()
    print("\nhere | captured" + " | in JAX" * with_jax)
