"""Decoding with a cache of fixed size: the tokens of the growing one, and nothing that waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from llm.models import sampling
from llm.models.policy import CausalLMPolicy
from llm.models.steps import StaticSteps, check_static
from sims.core.loop.protocols import Prompts, SampleRequest, Samples
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from tests.llm.tiny_models import SHAPES, pad_left, tiny_model, tiny_policy

PROMPTS = Prompts(*pad_left([[3, 4, 5, 6], [7], [8, 9], [4, 4, 10]]))


def drawn(policy: CausalLMPolicy, blend: Any = None) -> Samples:
    return policy.sample(SampleRequest(PROMPTS, 3, Noise.single(0), blend=blend))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_caches_draw_the_same(shape: str, attention: str) -> None:
    # Eager attention has a softmax in float32, for which the mask of float64 is too small a number.
    exact = attention == "sdpa"
    model = tiny_model(shape, dtype=torch.float64 if exact else torch.float32)
    model.set_attn_implementation(attention)
    close = {"atol": 1e-10 if exact else 1e-4, "rtol": 0}
    both = [tiny_policy(model, cache_implementation=cache) for cache in ("dynamic", "static")]
    grown, fixed = (drawn(policy) for policy in both)
    assert grown.responses.equal(fixed.responses) and grown.mask.equal(fixed.mask)
    assert len(set(grown.mask.sum(-1).flatten().tolist())) > 1  # rows end at different times
    torch.testing.assert_close(grown.logp, fixed.logp, **close)
    mixed = [drawn(first, (second, 0.3)).logp for first, second in (both, both[::-1])]
    torch.testing.assert_close(*mixed, **close)


def test_a_model_that_cannot_is_refused_in_a_line() -> None:
    sizes = {"vocab_size": 13, "hidden_size": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    configs = BloomConfig(**sizes, n_layer=1, n_head=2), MambaConfig(**sizes, num_hidden_layers=1, state_size=4)
    for config in configs:
        policy = tiny_policy(AutoModelForCausalLM.from_config(config))
        with pytest.raises(SpecError, match="cache_implementation = 'static': must be dynamic for"):
            check_static(policy.language_model, None)
    windowed = tiny_policy(tiny_model("mistral", sliding_window=8))
    check_static(windowed.language_model, 8)
    with pytest.raises(SpecError, match="or prompt and response within its window of 8 tokens"):
        check_static(windowed.language_model, 9)


def calls(policy: CausalLMPolicy, names: tuple[str, ...]) -> Callable[[int], int]:
    """How often a draw of so many tokens calls operations of these names."""

    def count(length: int) -> int:
        policy.decoding = policy.decoding.replace(max_new_tokens=length)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            drawn(policy)
        return sum(e.count for e in profiled.key_averages() if e.key in names)

    return count


@pytest.mark.parametrize("cache, most", [("static", 0), ("dynamic", 1)])
def test_what_would_wait_for_a_device(cache: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each of these calls stops the host until the device has computed. The host looks every 16 tokens; in
    between, transformers looks once a token at the mask of a growing cache."""
    monkeypatch.setattr(sampling, "LOOK_EVERY", {})
    model = tiny_model("gpt_neox")
    with torch.no_grad():
        model.get_output_embeddings().weight[2] = -9.0  # EOS is not drawn
    policy = tiny_policy(model, cache_implementation=cache)
    waits = calls(policy, ("aten::_local_scalar_dense", "aten::nonzero"))
    assert (waits(13) - waits(5)) <= most * 8


def test_nothing_of_a_step_moves_in_memory() -> None:
    """What a CUDA graph needs: it replays addresses."""
    policy = tiny_policy()
    mask = PROMPTS.mask
    assert mask is not None
    steps = StaticSteps(policy.language_model, PROMPTS.tokens, mask, 4)
    with torch.no_grad():
        steps.first()
        held = [steps.token, steps.slot, steps.position, steps.attended, *(x.keys for x in steps.cache.layers)]
        before = [x.data_ptr() for x in held]
        for _ in range(3):
            steps.next(torch.full((4,), 5))
    now = [steps.token, steps.slot, steps.position, steps.attended, *(x.keys for x in steps.cache.layers)]
    assert [x.data_ptr() for x in now] == before and int(steps.slot) == PROMPTS.tokens.shape[1] + 3
