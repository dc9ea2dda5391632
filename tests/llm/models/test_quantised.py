"""A base in NF4 under adapters: its numbers by the definition, its gradient, its copies, and what is written of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from llm.__main__ import main
from llm.distributed.spread import check_sharding
from llm.embedded import EMBEDDED
from llm.models.decoding import VLLMDecoding
from llm.models.loading import build_policy, load_tokenizer
from llm.models.quantised import BLOCK, NF4Linear, quantise
from llm.models.spec import LanguageModelSpec
from llm.models.vllm_sampler import check_sampler
from llm.training.memory import estimate
from llm.training.presets import PRESETS
from sims.core.spec import SpecError

CPU, TOKENS = torch.device("cpu"), torch.arange(8).unsqueeze(0)
QUANTISED = LanguageModelSpec(model="mistral", base_precision="nf4", lora_rank=2)
# Quantiles of a normal distribution that share its area, 0 among them, scaled to [−1, 1] (QLoRA, appendix E).
NF4 = torch.tensor(
    [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0]  # noqa: RUF005
    + [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
)

pytest.importorskip("bitsandbytes", reason="bases are quantised by bitsandbytes, which is not installed")


def by_definition(weight: Tensor) -> Tensor:
    """The nearest of 16 values times the largest of its block of 64."""
    flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).unflatten(0, (-1, BLOCK))
    largest = flat.abs().amax(-1, keepdim=True)
    nearest = (flat / largest).unsqueeze(-1).sub(NF4).abs().argmin(-1)
    return (NF4[nearest] * largest).flatten()[: weight.numel()].view(weight.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_output_and_gradient_are_those_of_the_definition(transposed: bool, dtype: torch.dtype):
    """30 x 21 weights: the last block is not full. In float64 the product is exact to its own digits."""
    torch.manual_seed(0)
    plain = Conv1D(30, 21) if transposed else nn.Linear(21, 30)
    plain.bias.data.normal_()
    layer = NF4Linear.of(plain, CPU)
    weight = by_definition(plain.weight.t() if transposed else plain.weight).to(dtype)
    torch.testing.assert_close(layer.weights(dtype), weight, rtol=1e-6, atol=0)
    weight = layer.weights(dtype)
    assert layer.weight.numel() == 315 and layer.largest.numel() == 10  # 630 / 2, 630 / 64
    x, y = torch.randn(2, 3, 21, dtype=dtype, requires_grad=True), torch.randn(2, 3, 30, dtype=dtype)
    found, expected = layer(x), x @ weight.t() + plain.bias
    torch.testing.assert_close(found, expected.to(dtype))
    ours, theirs = (torch.autograd.grad(out, x, y.to(out.dtype))[0] for out in (found, expected))
    torch.testing.assert_close(ours, theirs)


def policy_of(spec: LanguageModelSpec):
    return build_policy(spec, load_tokenizer(spec), False, torch.float32, CPU)


def test_all_linear_layers_but_the_head_are_quantised_once_for_all_copies():
    policy = policy_of(QUANTISED)  # proven at load: drawn as it is scored
    modules = policy.language_model.named_modules()
    quantised = {name.removesuffix(".base_layer") for name, x in modules if isinstance(x, NF4Linear)}
    assert quantised == {name.partition(".lora_")[0] for name in policy.named_parameters()}
    assert type(policy.language_model.head) is nn.Linear
    twin = policy.clone()
    ours, theirs = (dict(x.model.named_parameters()) for x in (policy, twin))
    for name, p in ours.items():
        assert (p.data_ptr() == theirs[name].data_ptr()) != (".lora_" in name)


def test_a_merged_model_computes_what_was_trained(tmp_path: Path, capsys):
    """Not what the unquantised base would with these adapters, which differs by far more."""
    run, out, apart = tmp_path / "run", tmp_path / "whole", tmp_path / "apart"
    command = "sft --model mistral --base-precision nf4 --lora-rank 2 --updates 2 --evaluations 1 --learning-rate 0.1"
    sizes = "--evaluation-prompts 2 --recorded-prompts 8 --batch-size 4"
    assert main(f"{command} {sizes} --output {run}".split()) == 0
    assert main(f"export {run} --output {out} --merge".split()) == 0
    assert main(f"export {run} --output {apart}".split()) == 0
    merged = AutoModelForCausalLM.from_pretrained(out)(TOKENS).logits
    base, other = (AutoModelForCausalLM.from_pretrained(EMBEDDED["mistral"]) for _ in range(2))
    trained = PeftModel.from_pretrained(quantise(base, CPU), apart)(TOKENS).logits
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-4)
    assert (merged - PeftModel.from_pretrained(other, apart)(TOKENS).logits).abs().max() > 0.1


def test_what_cannot_be_quantised_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SpecError, match="base_precision = 'nf4': only means something with lora_rank"):
        LanguageModelSpec(base_precision="nf4")
    with pytest.raises(SpecError, match="sharding = 'full': must be none with base_precision = nf4"):
        check_sharding("full", 2, LanguageModelSpec(lora_rank=2, base_precision="nf4"))
    experiment = PRESETS["tiny-min-length"].replace(policy=QUANTISED.replace(decoding=VLLMDecoding()))
    with pytest.raises(SpecError, match="base_precision = 'nf4': must be as_run or bfloat16 with use_vllm"):
        check_sampler(experiment)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SpecError, match="base_precision = 'nf4': needs the library bitsandbytes: pip install"):
        policy_of(QUANTISED)


def test_the_estimate_counts_what_is_held():
    experiment = PRESETS["tiny-min-length"].replace(policy=QUANTISED)
    found, model = estimate(experiment), policy_of(QUANTISED).model
    assert found.held["weights"] == sum(p.numel() * p.element_size() for p in model.parameters())
    whole = estimate(experiment.replace(policy=QUANTISED.replace(base_precision="as_run")))
    assert (found.parameters, found.trained) == (whole.parameters, whole.trained)
    linear = sum(x.in_features * x.out_features for x in model.modules() if isinstance(x, NF4Linear))
    assert whole.held["weights"] - found.held["weights"] == linear * (32 - 4.5) / 8  # bits
