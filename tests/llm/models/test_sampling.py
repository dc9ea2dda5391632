"""Sampling from a language model: the distribution, the mask, EOS, the cache and the noise. Properties 30, 34, 48, 49
and 52."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from llm.models import sampling
from llm.models.decoding import Decoding
from llm.models.policy import CausalLMPolicy
from llm.models.sampling import truncate
from sims.core.loop.protocols import Prompts, SampleRequest, Samples
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.spec import SpecError
from tests.llm.tiny_models import (
    EOS,
    PAD,
    SHAPES,
    VOCABULARY,
    pad_left,
    plain_distributions,
    tiny_model,
    tiny_policy,
)

PROMPTS = [[5, 3, 8, 4], [7], [6, 9], [10, 10, 3]]
LENGTH, GROUP = 8, 5


def draw(policy: CausalLMPolicy, prompts: list[list[int]] = PROMPTS, seed: int = 0, **options) -> Samples:
    tokens, mask = pad_left(prompts, **options)
    return policy.sample(SampleRequest(Prompts(tokens, mask), GROUP, Noise.single(seed)))


def check_draws(samples: Samples, distributions_of: Callable[[list[int], list[int]], Tensor], seed: int = 0) -> None:
    """Tokens and log-probs against distributions (len(response), V) made without cache or padding, and the same
    uniforms.

    Exact; a uniform falls within rounding of the boundary between two tokens with probability below 1e-10.
    """
    uniforms = Noise.single(seed).uniforms("responses", len(PROMPTS), GROUP, LENGTH).flatten(0, 1).numpy()
    for i, row in enumerate(rows(samples)):
        distributions = distributions_of(PROMPTS[i // GROUP], row).detach()
        cdf = distributions.exp().cumsum(-1).numpy()
        assert row == [int(np.searchsorted(c / c[-1], u, side="right")) for c, u in zip(cdf, uniforms[i], strict=False)]
        expected = distributions.gather(-1, torch.tensor(row).unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(samples.logp.flatten(0, 1)[i, : len(row)], expected, rtol=1e-12, atol=1e-12)


def rows(samples: Samples) -> list[list[int]]:
    """Responses without what is masked."""
    return [
        tokens[mask].tolist()
        for tokens, mask in zip(samples.responses.flatten(0, 1), samples.mask.flatten(0, 1), strict=True)
    ]


# The distribution


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_are_those_of_a_model_without_cache_or_padding(shape: str, temperature: float):
    policy = tiny_policy(shape, temperature=temperature)
    check_draws(draw(policy), lambda prompt, row: plain_distributions(policy.model, prompt, row, temperature))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_on_policy_ratio_is_1(shape: str, temperature: float):
    policy = tiny_policy(shape, temperature=temperature)
    samples = draw(policy)
    tokens, mask = pad_left(PROMPTS)
    logp = policy.forward(Batch(tokens, samples.responses, samples.mask, prompt_mask=mask)).logp
    torch.testing.assert_close(logp, samples.logp, rtol=1e-12, atol=1e-12)


def test_the_on_policy_ratio_is_1_in_float32_and_with_a_sliding_window():
    for model, tolerance in (
        (tiny_model("gpt_neox", dtype=torch.float32), 1e-5),
        (tiny_model("mistral", sliding_window=3), 1e-12),
    ):
        policy = tiny_policy(model)
        samples = draw(policy)
        tokens, mask = pad_left(PROMPTS)
        logp = policy.forward(Batch(tokens, samples.responses, samples.mask, prompt_mask=mask)).logp
        torch.testing.assert_close(logp, samples.logp, rtol=tolerance, atol=tolerance)


def test_truncation_keeps_the_fewest_likeliest_tokens():
    distribution = torch.tensor([[0.05, 0.5, 0.15, 0.3], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)
    for top_p, kept in ((0.4, [1]), (0.6, [1, 3]), (0.9, [1, 2, 3]), (0.99, [0, 1, 2, 3])):
        expected = torch.zeros(4, dtype=torch.float64)
        expected[kept] = distribution[0, kept] / distribution[0, kept].sum()
        torch.testing.assert_close(truncate(distribution.log(), top_p).exp()[0], expected, rtol=1e-12, atol=1e-15)
    assert truncate(distribution.log(), 1e-6).exp()[1].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert truncate(distribution.log(), 1.0).equal(distribution.log())


def test_log_probs_are_under_the_truncated_distribution_and_scores_under_the_whole():
    policy, whole = tiny_policy(top_p=0.7), tiny_policy()
    samples, (tokens, mask) = draw(policy), pad_left(PROMPTS)
    check_draws(samples, lambda prompt, row: truncate(plain_distributions(policy.model, prompt, row, 1.0), 0.7))
    given = (tokens, samples.responses, samples.mask)
    scores = policy.forward(Batch(*given, prompt_mask=mask)).logp
    assert torch.equal(scores, whole.forward(Batch(*given, prompt_mask=mask)).logp)
    assert (scores[samples.mask] < samples.logp[samples.mask] + 1e-12).all() and (scores < samples.logp - 0.1).any()


@pytest.mark.parametrize("share", [0.3, torch.tensor(0.3, dtype=torch.float64)])
def test_a_blend_draws_from_the_weighted_product_of_two_policies(share: float | Tensor):
    policy, other = tiny_policy(temperature=0.8), tiny_policy(tiny_model("gpt_neox", seed=5), temperature=0.8)

    def distributions(prompt: list[int], row: list[int]) -> Tensor:
        first, second = (plain_distributions(p.model, prompt, row, 0.8) for p in (policy, other))
        return (0.7 * first + 0.3 * second).log_softmax(-1)

    tokens, mask = pad_left(PROMPTS)
    check_draws(
        policy.sample(SampleRequest(Prompts(tokens, mask), GROUP, Noise.single(0), blend=(other, share))), distributions
    )


# Mask, EOS, length


@pytest.mark.parametrize("pad", [PAD, EOS])
def test_the_mask_counts_eos_and_nothing_behind_it(pad: int):
    samples = draw(tiny_policy(pad_token_id=pad))
    assert samples.responses.shape == samples.mask.shape == samples.logp.shape == (len(PROMPTS), GROUP, LENGTH)
    for tokens, mask, logp in zip(*(x.flatten(0, 1) for x in samples), strict=True):
        length = int(mask.sum())
        assert mask[:length].all() and (tokens[: length - 1] != EOS).all()
        assert length == LENGTH or tokens[length - 1] == EOS
        assert (tokens[length:] == pad).all() and (logp[length:] == 0).all() and (logp[:length] < 0).all()
    lengths = samples.mask.sum(-1)
    assert lengths.min() < LENGTH == lengths.max()


def test_any_of_several_tokens_ends_a_response():
    policy = tiny_policy(eos_token_ids=(EOS, 7, 9))
    ends = [row[-1] for row in rows(draw(policy)) if len(row) < LENGTH]
    assert set(ends) <= {EOS, 7, 9} and len(set(ends)) > 1
    assert not any(token in (EOS, 7, 9) for row in rows(draw(policy)) for token in row[:-1])


def test_rows_that_have_ended_cost_nothing():
    policy = tiny_policy(eos_token_ids=range(11), max_new_tokens=20)
    sizes: list[int] = []
    policy.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    lengths = draw(policy).mask.sum(-1).flatten()
    assert sizes == [int((lengths > t).sum()) for t in range(int(lengths.max()))]
    assert len(sizes) < 20


@pytest.mark.parametrize("every", [3, 16])
def test_the_host_looks_at_the_device_seldom_and_the_draws_stay(every: int, monkeypatch: pytest.MonkeyPatch):
    """As on a GPU, where each look waits for it. Exact in tokens, as rounding depends on the rows of a batch."""
    policy = tiny_policy(eos_token_ids=range(3), max_new_tokens=20)
    expected, looks, look = draw(policy), [0], sampling._look

    def counted(*arguments: Tensor) -> Tensor:
        looks[0] += 1
        return look(*arguments)

    monkeypatch.setattr(sampling, "LOOK_EVERY", {"cpu": every})
    monkeypatch.setattr(sampling, "_look", counted)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        found = draw(policy)
    assert torch.equal(found.responses, expected.responses) and torch.equal(found.mask, expected.mask)
    torch.testing.assert_close(found.logp, expected.logp, rtol=1e-12, atol=1e-12)
    longest = int(found.mask.sum(-1).max())
    assert looks[0] == min(-(-longest // every), -(-20 // every)) and longest > every / 2
    names = [event.name for event in profiler.events()]
    waits = sum(names.count(name) for name in ("aten::_local_scalar_dense", "aten::nonzero"))
    assert waits <= min(20, looks[0] * every) + 10  # one per token is transformers' own: is the mask all True?


# Noise


def test_a_row_does_not_depend_on_what_is_drawn_beside_it():
    """Exact in tokens; rounding differs, and matters with probability below 1e-10."""
    whole = rows(draw(tiny_policy()))
    for size in (1, 3, 7):
        assert rows(draw(tiny_policy(sample_batch_size=size))) == whole
    assert rows(draw(tiny_policy(), PROMPTS[:2])) == whole[: 2 * GROUP]
    assert rows(draw(tiny_policy(), value=12, extra=9)) == whole


def test_one_seed_gives_one_result_and_global_generators_stay():
    policy, state, numpy_state = tiny_policy(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second, other = draw(policy), draw(policy), draw(policy, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.responses, other.responses)
    assert torch.equal(torch.get_rng_state(), state) and np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002


def test_sampling_makes_no_graph_and_draws_what_a_clone_draws():
    policy = tiny_policy("gpt2")
    samples = draw(policy)
    assert not samples.logp.requires_grad
    assert torch.equal(samples.responses, draw(policy.clone()).responses)


# What is refused


def test_logits_that_are_not_finite_are_an_error():
    for value in (torch.nan, torch.inf):
        policy = tiny_policy()
        policy.language_model.head.weight.data[4] = value
        with pytest.raises(FloatingPointError, match="logits of response token 0 are nan, not finite"):
            draw(policy)


def test_noise_of_several_runs_is_an_error():
    with pytest.raises(ValueError, match=r"noise: of 3 runs.*Noise\.single"):
        tiny_policy().sample(SampleRequest(Prompts(torch.tensor([[5]])), 2, Noise.of(0, 3)))


def test_a_response_that_might_not_fit_is_refused_before_it_is_drawn():
    with pytest.raises(
        ValueError, match="prompt 0: has 4 tokens, and its response up to 30, but the model has 32 positions"
    ):
        draw(tiny_policy(max_new_tokens=30))
    assert draw(tiny_policy(max_new_tokens=29)).mask.shape[-1] == 29


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.0), ("top_p", 0.0), ("top_p", 1.5), ("max_new_tokens", 0)]
)
def test_settings_out_of_range_are_named(name: str, value: float):
    with pytest.raises(SpecError, match=name):
        Decoding(**{name: value})


def test_every_token_can_be_drawn():
    """400 draws of one token; the rarest has 2.5 %, so that the chance of missing any is below 13·e^{-10} < 1e-3."""
    policy = tiny_policy(max_new_tokens=1, temperature=8.0)
    assert float(plain_distributions(policy.model, [7], [0], 8.0).detach().exp().min()) > 0.025
    samples = policy.sample(SampleRequest(Prompts(torch.tensor([[7]])), 400, Noise.single(0)))
    assert set(samples.responses.flatten().tolist()) == set(range(VOCABULARY))
