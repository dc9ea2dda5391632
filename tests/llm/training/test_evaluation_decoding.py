"""Evaluations at a temperature and top_p of their own; training does not notice."""

from __future__ import annotations

import torch

from llm.models.decoding import Decoding
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.schedule import Schedule


def run_of(**changes) -> Run:
    preset = PRESETS["tiny-min-length"]
    return Run(
        preset.replace(
            policy=preset.policy.replace(decoding=preset.policy.decoding.replace(max_new_tokens=12, **changes)),
            environment=preset.environment.replace(evaluation_prompts=6),
            schedule=Schedule(batch_size=4, num_generations=2),
            updates=1,
            evaluations=1,
        )
    )


def test_evaluations_have_their_own_temperature_and_leave_training_alone():
    own, plain = run_of(eval_temperature=0.5, eval_top_p=0.9), run_of()
    found, before = own.evaluate(), plain.evaluate()
    assert found.numbers == run_of(temperature=0.5, top_p=0.9).evaluate().numbers
    assert found.numbers["token_entropy"] < before.numbers["token_entropy"]
    assert own.policy.decoding.temperature == own.initial.decoding.temperature == 1.0
    batches = [next(iter(run.train())).batch for run in (own, plain)]
    assert torch.equal(batches[0].responses, batches[1].responses)
    assert torch.equal(batches[0].logp_sampler, batches[1].logp_sampler)


def test_a_tiny_top_p_is_greedy():
    first, second = run_of(eval_top_p=1e-9), run_of(eval_top_p=1e-9, eval_temperature=3.0)
    assert first.evaluate().completions == second.evaluate().completions


def test_what_is_not_given_is_that_of_training():
    decoding = Decoding(temperature=0.7, top_p=0.8, eval_top_p=0.5)
    assert decoding.for_evaluation() == Decoding(temperature=0.7, top_p=0.5)
