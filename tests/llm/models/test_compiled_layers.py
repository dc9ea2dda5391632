"""Layers that are compiled to score and train: the numbers of the layers as they are, one form for all layers and
lengths, and nothing of it where responses are drawn. All tests but the last trace them as torch.compile does, and run
what was traced as it stands, so that no machine code is made."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from llm.distributed.spread import check_sharding
from llm.models import layers
from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from llm.reward_models.model import new_reward_model
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch
from sims.core.spec import SpecError
from tests.llm.models.test_group_by_length import batch


class Traced:
    """A backend of torch.compile that counts what it is given, and runs it as it stands."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, _: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    """What was traced since the test began."""
    torch._dynamo.reset()
    backend = Traced()
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: plain(function, backend=backend))
    layers.compiled_layer.cache_clear()
    yield backend
    layers.compiled_layer.cache_clear()
    torch._dynamo.reset()


def policy(compiled: bool, checkpointing: bool = False, model: str = "pythia", **more: Any) -> CausalLMPolicy:
    scoring = Scoring(torch_compile=compiled, gradient_checkpointing=checkpointing)
    spec = LanguageModelSpec(model=model, critic="own", scoring=scoring, **more)
    made = build_policy(spec, load_tokenizer(spec), True, torch.float64, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # new adapters change nothing, and a new critic is 0
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return made


def scores_and_gradient(made: CausalLMPolicy, scored: Batch) -> list[Tensor]:
    outputs = made.forward(scored)
    gradient = torch.autograd.grad((outputs.logp**2).sum(), made.parameters(), allow_unused=True)
    with torch.no_grad():
        alone = made.forward(scored).logp
    return [outputs.logp.detach(), alone, *(x for x in gradient if x is not None)]


CASES: dict[str, dict[str, Any]] = {
    "pythia": {},
    "pythia, made again": {"checkpointing": True},
    "mistral": {"model": "mistral"},
    "mistral, adapters, made again": {"model": "mistral", "lora_rank": 2, "checkpointing": True},
}


@pytest.mark.parametrize("case", CASES)
def test_scores_and_gradient_are_those_of_the_layers_as_they_are(case: str, traced: Traced) -> None:
    plain, compiled = policy(False, **CASES[case]), policy(True, **CASES[case])
    scored = batch()
    expected, before = scores_and_gradient(plain, scored), traced.graphs
    found = scores_and_gradient(compiled, scored)
    assert traced.graphs > before
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_one_form_serves_all_layers_and_all_lengths(traced: Traced) -> None:
    made, scored = policy(True), batch()
    before, counts = traced.graphs, []
    for columns in (0, 1, 2, 3, 4):  # of the responses' padding
        shorter = scored.responses.shape[-1] - columns
        made.forward(Batch(scored.prompts, scored.responses[..., :shorter], scored.mask[..., :shorter]))
        counts.append(traced.graphs - before)
    assert made.model.config.num_hidden_layers > 1
    assert counts[0] == 1 and counts[-1] == counts[1] <= 2


def test_a_layer_made_again_keeps_less(traced: Traced) -> None:
    kept = []
    for checkpointing in (False, True):
        made, sizes = policy(True, checkpointing), []

        def note(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            made.forward(batch())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_responses_are_drawn_by_the_layers_as_they_are(traced: Traced) -> None:
    made, (prompts, mask) = policy(True), (batch().prompts, batch().prompt_mask)
    before = traced.graphs
    drawn = [p.sample(SampleRequest(Prompts(prompts, mask), 2, Noise.single(0))) for p in (made, policy(False))]
    assert torch.equal(drawn[0].responses, drawn[1].responses)
    assert traced.graphs == before


def test_layers_are_as_before_afterwards_and_after_an_error(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    made = policy(True, checkpointing=True)
    own = layers.checkpoint_layers(made.model)
    made.forward(batch())
    assert not any("forward" in vars(layer) for layer in own)
    with pytest.raises(KeyboardInterrupt), layers.computed_layers(made.model, made.scoring):
        assert all("forward" in vars(layer) for layer in own)
        raise KeyboardInterrupt
    assert not any("forward" in vars(layer) for layer in own)


def test_a_reward_model_is_compiled_too(traced: Traced) -> None:
    tokens, there = torch.tensor([[5, 7, 2, 9]]), torch.ones(1, 4, dtype=torch.bool)
    found = [
        new_reward_model("pythia", scoring=Scoring(torch_compile=on)).score_rows(tokens, there) for on in (False, True)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    assert traced.graphs > 0


def test_a_machine_without_a_compiler_is_refused_before_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: Any) -> Any:
        raise RuntimeError("g++: not found\nand much more")

    monkeypatch.setattr(torch, "compile", missing)
    monkeypatch.setattr("llm.models.loading.load_weights", lambda *_, **__: pytest.fail("weights were read"))
    rule = r"^torch_compile = True: needs a C\+\+ compiler .*: RuntimeError: g\+\+: not found$"
    with pytest.raises(SpecError, match=rule):
        policy(True)


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^torch_compile = True: must be false with base_precision = nf4"):
        LanguageModelSpec(lora_rank=2, base_precision="nf4", scoring=Scoring(torch_compile=True))
    with pytest.raises(SpecError, match=r"^sharding = 'full': must be none with torch_compile = True"):
        check_sharding("full", 2, LanguageModelSpec(scoring=Scoring(torch_compile=True)))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_machine_code_computes_the_same(checkpointing: bool) -> None:
    """Two lengths, so that the form for any length is made too. In float64 pythia computes in no other precision."""
    plain, compiled = policy(False, checkpointing), policy(True, checkpointing)
    whole = batch()
    for scored in (whole, Batch(whole.prompts, whole.responses[..., :3], whole.mask[..., :3], whole.prompt_mask)):
        for ours, theirs in zip(scores_and_gradient(compiled, scored), scores_and_gradient(plain, scored), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
