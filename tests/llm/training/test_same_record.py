"""What simulations and language models both record is one number: the same loop, and the same definitions.

A table of token probabilities stands behind both, as in `test_same_code`; whatever differs is a bug.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llm.training.evaluation import evaluate
from sims.core.algorithms import find_algorithm
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Samples
from sims.core.loop.train import Training
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.environments.space import EOS
from sims.experiments.evaluation import ExactEvaluation, PairEvaluation
from sims.experiments.experiment import Experiment
from sims.experiments.record_loop import Recorder
from sims.policies import Table, TablePolicy
from tests.llm.training.test_same_code import TREE, TableLM, TextEnvironment, as_tokens, policies

SAMPLES = 64  # a token's probabilities are multiples of 1/4, so that a response's are of 1/4³


@pytest.mark.parametrize("kind", ["dpo", "rloo"])
def test_the_same_run_gives_the_same_numbers(kind: str) -> None:
    """Labels are drawn and flipped; two updates of a batch, a stale sampler; in float64."""
    place = TREE.replace(label_temperature=0.5, flip_rate=0.1)
    schedule = Schedule(batch_size=4, num_generations=2, minibatch_size=2, sync_every_updates=4)
    parts = (place, Table(), find_algorithm(kind)(), schedule, Optimiser(learning_rate=0.1))
    arm = Experiment("x", *parts, updates=6, evaluations=3)
    environment = place.build(torch.float64, Noise.of(0, 1))
    table, model = policies(torch.Generator().manual_seed(0))
    trainings = (
        Training(table, environment, arm.algorithm, schedule, Learner(table, arm.optimiser, (1,)), Noise.of(0, 1)),
        Training(
            model,
            TextEnvironment(environment),
            arm.algorithm,
            schedule,
            Learner(model, arm.optimiser, (), micro_batch_size=1),
            Noise.single(0),
        ),
    )
    found = []
    for training in trainings:
        recorder = Recorder(training, arm, [PairEvaluation(training)])
        recorder.run(training.train(6))
        found.append(recorder.arrays())
    mine, theirs = found
    assert mine.keys() == theirs.keys()
    assert ("logp_chosen" in mine) == (kind == "dpo")
    for name in ("updates", "samples", "staleness"):
        assert mine[name].tolist() == theirs[name].tolist(), name
    for name in mine.keys() - {"updates", "samples", "staleness"}:
        np.testing.assert_allclose(theirs[name], mine[name][0], rtol=1e-10, atol=1e-10, err_msg=name)


def quarters(generator: torch.Generator) -> Tensor:
    """Log-probs of each token after each prefix of each prompt, (X, nodes, 3): ½, ¼, ¼ in any order."""
    logp = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    shape = TREE.reference_logp().shape
    order = torch.rand(shape, generator=generator).argsort(-1)
    return logp[order]


class InProportion:
    """A language model whose samples are every response, as often as is its share of SAMPLES."""

    def __init__(self, model: TableLM, shares: Tensor) -> None:
        self.model, self.shares = model, shares

    def sample(self, prompts: Any, *_: Any) -> Samples:
        responses, mask = TREE.space.all_responses
        chosen = torch.cat([torch.arange(len(share)).repeat_interleave(share) for share in self.shares])
        return Samples(responses[chosen].unsqueeze(1), mask[chosen].unsqueeze(1), torch.zeros(len(chosen), 1, 3))

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        return self.model.forward(*arguments, **settings)


def test_what_a_language_model_measures_of_its_samples_is_the_exact_expectation() -> None:
    """Every response is drawn in exact proportion to its probability, so that means over samples are sums over all:
    reward, KL and entropy of both halves are equal to 1e-10."""
    generator = torch.Generator().manual_seed(0)
    logits, logits_ref = quarters(generator), quarters(generator)
    table, reference = (TablePolicy(TREE.space, x[None].clone()) for x in (logits, logits_ref))
    environment = TREE.build(torch.float64, Noise.of(0, 1))
    exactly = ExactEvaluation(SimpleNamespace(policy=reference), environment)  # type: ignore[arg-type]
    exactly.policy = table
    row = exactly.row()

    shares = table.all_log_probs()[0].exp() * SAMPLES
    counts = shares.round().long()
    torch.testing.assert_close(counts.double(), shares, rtol=0, atol=1e-12)
    ids = torch.arange(TREE.num_prompts).repeat_interleave(SAMPLES)
    prompts = as_tokens(ids)
    rewards = environment.all_rewards()
    chosen = torch.cat([torch.arange(len(count)).repeat_interleave(count) for count in counts])
    given = rewards[ids, chosen].unsqueeze(1)
    stub = SimpleNamespace(
        prompts=lambda *_: SimpleNamespace(tokens=prompts.tokens, mask=prompts.mask, examples=()),
        score=lambda *_: (given, given),
        completions=lambda *_: SimpleNamespace(prompts=["?"] * len(ids), texts=["!"] * len(ids)),
        task=SimpleNamespace(measure=lambda _: {}),
        eos_token_ids=(EOS,),
        ended=lambda responses, mask: ((responses == EOS) & mask).any(-1),
        has_gold=False,
    )
    models = [TableLM(x, torch.zeros(x.shape[:-1], dtype=torch.float64)) for x in (logits, logits_ref)]
    found = evaluate(InProportion(models[0], counts), models[1], stub, len(ids)).numbers  # type: ignore[arg-type]
    for name, value in row.items():
        assert found[name] == pytest.approx(float(value), rel=1e-10, abs=1e-10), name
    assert found["kl_policy_ref"] > 0.1 and found["entropy"] > 1.2 * found["token_entropy"]
    responses, mask = environment.all_responses()
    drawn = table.all_log_probs()[0].exp().mean(0)
    by_hand = {
        "finished": ((responses == EOS) & mask).any(-1),
        "length": (mask & (responses != EOS)).sum(-1),
    }
    for name, values in by_hand.items():
        assert found[name] == pytest.approx(float((drawn * values).sum()), rel=1e-10), name
    assert found["token_entropy"] == pytest.approx(found["entropy"] / float((drawn * mask.sum(-1)).sum()), rel=1e-10)
