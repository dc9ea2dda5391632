"""Copies of a policy: half the memory under autocast, none of the device where only evaluations ask; the same
numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llm.models.aside import Aside
from llm.models.policy import CausalLMPolicy
from llm.training.memory import estimate
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.algorithms import find_algorithm
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.schedule import Schedule
from tests.llm.tiny_models import SHAPES, pad_left, tiny_model, tiny_policy

PROMPTS = Prompts(*pad_left([[3, 4, 5, 6], [7], [8, 9]]))
RESPONSES = torch.tensor([[[5, 7, 2]], [[4, 2, 0]], [[6, 6, 6]]])
BATCH = Batch(PROMPTS.tokens, RESPONSES, RESPONSES != 0, PROMPTS.mask)


def numbers(policy: CausalLMPolicy | Aside) -> list[Tensor]:
    with torch.no_grad():
        return [policy.forward(BATCH).logp, *policy.sample(SampleRequest(PROMPTS, 2, Noise.single(0)))]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_holds_matrices_as_they_are_computed_with(shape: str) -> None:
    policy = tiny_policy(tiny_model(shape, dtype=torch.float32), precision="bfloat16")
    copied = policy.clone()
    assert all(x.equal(y) for x, y in zip(numbers(policy), numbers(copied), strict=True))  # the very bits
    kinds = {name: p.dtype for name, p in copied.named_parameters().items()}
    assert sum(kind == torch.bfloat16 for kind in kinds.values()) > len(kinds) / 3
    assert kinds[next(name for name in kinds if "emb" in name or "wte" in name)] == torch.float32
    assert all(p.dtype == torch.float32 for p in policy.parameters())
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(1.01)
    copied.copy_from(policy)
    assert all(x.equal(y) for x, y in zip(numbers(policy), numbers(copied), strict=True))
    policy.copies_are_averaged = True
    assert all(p.dtype == torch.float32 for p in policy.clone().parameters())


def test_a_copy_aside_has_the_numbers_of_one_in_memory() -> None:
    policy = tiny_policy(tiny_model("mistral", dtype=torch.float32))
    kept, waiting = policy.clone(), Aside(policy)
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(1.1)
    moved = numbers(policy)
    assert all(x.equal(y) for x, y in zip(numbers(kept), numbers(waiting), strict=True))
    assert all(x.equal(y) for x, y in zip(numbers(policy), moved, strict=True))  # its own weights are back
    assert not numbers(kept)[0].equal(moved[0])


@pytest.mark.parametrize("kind", ["sft", "cpo", "simpo", "orpo", "dpo"])
def test_who_needs_no_reference_holds_none(kind: str) -> None:
    preset = PRESETS["tiny-skew-length"]
    experiment = preset.replace(
        algorithm=find_algorithm(kind)(),
        environment=preset.environment.replace(evaluation_prompts=4, recorded_prompts=8),  # type: ignore[attr-defined]
        schedule=Schedule(batch_size=4, num_generations=2, source="dataset"),
        updates=1,
        evaluations=1,
    )
    run, held = Run(experiment), estimate(experiment).held["reference, sampler"]
    needed = kind == "dpo"
    assert isinstance(run.initial, Aside) != needed and (held > 0) == needed
    first = run.policy.clone()
    next(run.train())
    assert run.evaluate().numbers["kl_policy_ref"] != 0.0
    ours, theirs = (list(x.parameters()) for x in (run.initial, first))
    assert all(x.equal(y) for x, y in zip(ours, theirs, strict=True))


def test_the_estimate_counts_copies_as_they_are_held() -> None:
    preset = PRESETS["tiny-min-length"]
    policy = preset.policy.replace(scoring=preset.policy.scoring.replace(precision="bfloat16"))  # type: ignore[attr-defined]
    experiment = preset.replace(policy=policy, algorithm=find_algorithm("dpo")())
    copies = Run(experiment).initial.parameters()
    held = sum(p.numel() * p.element_size() for p in copies)
    assert estimate(experiment).held["reference, sampler"] == held
    averaged = experiment.replace(schedule=experiment.schedule.replace(reference="ema", reference_rate=0.1))
    assert estimate(averaged).held["reference, sampler"] > 3 * held
