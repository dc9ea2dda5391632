"""How many gradients of all parameters an update holds at once."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from sims.core.algorithms import find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.objectives.batch import Batch
from tests.llm.tiny_models import tiny_model, tiny_policy


def test_micro_batches_add_their_gradients_up_in_place() -> None:
    model = tiny_model("gpt_neox", dtype=torch.float32, hidden_size=128, num_hidden_layers=4, intermediate_size=512)
    policy = tiny_policy(model)
    tokens = torch.tensor([[[5, 7, 2], [4, 2, 2]]] * 4)
    batch = Batch(torch.full((4, 1), 3), tokens, torch.ones_like(tokens, dtype=torch.bool), rewards=torch.ones(4, 2))
    algorithm = find_algorithm("sft")()
    targets = algorithm.at_update(batch, {}, None)
    found, peaks = [], []
    for size in (None, 1):
        learner = Learner(policy, Optimiser(), (), size)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            gradients, _ = learner.gradient(algorithm, batch, targets)
        # Not `profiled.events()`, where what an operation allocates is the operation's, and only frees are left.
        assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
        memory = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
        live, peak = 0, 0
        for event in sorted(memory, key=lambda e: e.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
        found.append(gradients)
        peaks.append(peak / sum(p.numel() * p.element_size() for p in policy.parameters()))
    assert 1 < peaks[1] < 1.5  # a second gradient of all parameters makes it 2
    assert all(p.grad is None for p in policy.parameters())
    for whole, summed in zip(*found, strict=True):
        torch.testing.assert_close(summed, whole, atol=1e-5, rtol=1e-4)
