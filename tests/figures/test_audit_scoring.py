"""The released bug, reproduced on purpose: what is shifted, what is not, and that nobody can choose it by accident."""

import pickle

import pytest
import torch

from figures.arms.audit_scoring import ShiftedScoringTransformer
from figures.gallery.audit import ALGORITHMS, arm
from sims.__main__ import main
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.spec import SpecError
from sims.environments import TokenBanditR1, TokenBanditSmall
from sims.experiments.executor import execute
from sims.experiments.runner import sources_of
from sims.policies import Transformer, TransformerPolicy
from tests.processes import Fork

SIZES = {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "fit_steps": 3}
PLACE = TokenBanditR1(vocabulary=12, length=3, num_prompts=4, peak=4)


def built(cls: type[Transformer]) -> TransformerPolicy:
    return cls(**SIZES).build(PLACE, Noise.of(0, 2), False, torch.float64)


def test_each_token_is_scored_by_the_distribution_that_follows_it_and_the_prompt_too() -> None:
    right, shifted = (
        cls(**SIZES).build(PLACE, Noise.of(0, 2), False, torch.float64)
        for cls in (Transformer, ShiftedScoringTransformer)
    )
    prompts = torch.tensor([[0, 3], [1, 2]])
    samples = shifted.sample(SampleRequest(Prompts(prompts), 2, Noise.of(1, 2)))
    # One token more, whatever it is, has the right policy read the last one too.
    distributions = right.token_log_probs(prompts, torch.cat([samples.responses, samples.responses[..., :1]], dim=-1))
    read = torch.cat([right.prompt_rows[prompts][..., None, None].expand(2, 2, 2, 1), samples.responses], dim=-1)
    expected = distributions.gather(-1, read.unsqueeze(-1)).squeeze(-1).sum(-1)
    found = shifted.forward(Batch(prompts, samples.responses, samples.mask)).logp.sum(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not torch.isclose(found, samples.logp.sum(-1)).any()


def test_sampling_and_the_start_are_right() -> None:
    right, shifted = (
        cls(**SIZES).build(PLACE, Noise.of(0, 2), False, torch.float64)
        for cls in (Transformer, ShiftedScoringTransformer)
    )
    prompts = torch.tensor([[0, 3], [1, 2]])
    drawn = [p.sample(SampleRequest(Prompts(prompts), 2, Noise.of(1, 2))) for p in (right, shifted)]
    assert torch.equal(drawn[0].responses, drawn[1].responses)
    assert torch.equal(drawn[0].logp, drawn[1].logp)


def test_what_the_released_log_prob_does_not_give_is_refused() -> None:
    policy = ShiftedScoringTransformer(**SIZES).build(PLACE, Noise.of(0, 1), False, torch.float64)
    samples = policy.sample(SampleRequest(Prompts(torch.tensor([[0]])), 1, Noise.of(1, 1)))
    with pytest.raises(ValueError, match="log-probs alone"):
        policy.forward(Batch(torch.tensor([[0]]), samples.responses, samples.mask), OutputRequest(values=True))
    with pytest.raises(SpecError, match="for that alone"):
        ShiftedScoringTransformer(**SIZES).check_environment(TokenBanditSmall())


def test_the_command_line_does_not_know_it() -> None:
    found = Fork(main, ["--policy", "audit-shifted-transformer"])  # a process that has loaded no figure
    assert found.wait() == 2 and "must be one of" in found.printed()


def test_a_record_depends_on_its_source_and_on_that_of_what_it_extends() -> None:
    base, extended = (arm("R1", scoring, "ipo") for scoring in ("right", "released"))
    assert sources_of(base) != sources_of(extended)
    assert pickle.loads(pickle.dumps(extended)) == extended  # worker processes are sent it


def test_the_arms_of_the_audit_differ_as_they_say() -> None:
    small = {"num_prompts": 4, "vocabulary": 12, "length": 3, "peak": 4.0, "width": 2.0, "evaluation_samples": 8}
    finals = {}
    for scoring, cls in (("right", Transformer), ("released", ShiftedScoringTransformer)):
        for algorithm in ALGORITHMS:
            one = arm("R1", scoring, algorithm)
            assert isinstance(one.policy, cls)
            one = one.replace(
                environment=one.environment.replace(**small), policy=cls(**SIZES), updates=10, runs=2, evaluations=1
            )
            finals[scoring, algorithm] = execute([one])[0]["kl_policy_ref"][:, -1]
    assert len({float(x[0]) for x in finals.values()}) == 4
