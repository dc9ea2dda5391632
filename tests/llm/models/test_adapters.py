"""LoRA adapters: which layers get them, and a run's adapters merged into a model that plain transformers loads."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llm.__main__ import main
from llm.embedded import EMBEDDED
from llm.models.loading import load_model
from llm.models.spec import LanguageModelSpec
from sims.core.spec import SpecError

CPU, TOKENS = torch.device("cpu"), torch.arange(8).unsqueeze(0)
RUN = "sft --lora-rank 2 --updates 1 --evaluations 1 --evaluation-prompts 2 --recorded-prompts 8 --batch-size 4"


def adapted(model: str, **settings) -> set[str]:
    """The last part of the names of the layers that get adapters; nothing else may be trained."""
    found = load_model(LanguageModelSpec(model=model, lora_rank=2, **settings), torch.float32, CPU)
    trained = [name for name, parameter in found.named_parameters() if parameter.requires_grad]
    assert all(".lora_" in name for name in trained)
    return {name.partition(".lora_")[0].rpartition(".")[2] for name in trained}


def test_adapters_are_put_where_they_are_named():
    every = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert adapted("mistral") == every  # not on the head
    assert adapted("mistral", lora_target_modules=("q_proj", "v_proj")) == {"q_proj", "v_proj"}
    assert adapted("pythia", lora_target_modules=("query_key_value",)) == {"query_key_value"}


def test_nothing_is_said_of_quantisation_where_nothing_is_quantised(tmp_path, monkeypatch, caplog):
    """peft imports bitsandbytes, which warns of kernels that it lacks on some processors."""

    def warning(function):
        def warned(*arguments, **options):
            logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward")
            return function(*arguments, **options)

        return warned

    monkeypatch.setattr(peft, "get_peft_model", warning(peft.get_peft_model))
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", warning(peft.PeftModel.from_pretrained))
    load_model(LanguageModelSpec(lora_rank=2), torch.float32, CPU).save_pretrained(tmp_path)
    held = json.loads((tmp_path / "adapter_config.json").read_text())
    assert held["base_model_name_or_path"] == str(EMBEDDED["pythia"])
    load_model(LanguageModelSpec(model=str(tmp_path)), torch.float32, CPU)
    assert not caplog.records
    logging.getLogger("bitsandbytes").warning("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]


def test_layers_that_are_not_there_are_refused_in_a_line():
    with pytest.raises(
        SpecError, match=r"lora_target_modules = \('q_proj',\): 'q_proj' is none of its linear layers: dense, "
    ):
        adapted("pythia", lora_target_modules=("q_proj",))
    with pytest.raises(SpecError, match="'qproj' is none of its linear layers: down_proj, gate_proj"):
        adapted("mistral", lora_target_modules=("q_proj", "qproj"))
    with pytest.raises(SpecError, match=r"lora_target_modules .*only means something with lora_rank"):
        LanguageModelSpec(lora_target_modules=("q_proj",))


def test_merged_adapters_are_a_whole_model_of_plain_transformers(tmp_path: Path, capsys):
    """Its log-probs are those of the base with adapters, W + (alpha / r)·B·A."""
    run, out = tmp_path / "run", tmp_path / "whole"
    options = f"{RUN} --model mistral --lora-target-modules q_proj,down_proj --learning-rate 0.1 --output {run}"
    assert main(options.split()) == 0
    assert main(f"export {run} --update 1 --output {out} --merge".split()) == 0
    tensors = load_file(run / "model" / "adapter_model.safetensors")  # of the same update
    expected = AutoModelForCausalLM.from_pretrained(EMBEDDED["mistral"])
    before, changed = expected(TOKENS).logits, 0
    for name, layer in expected.named_modules():
        a, b = (tensors.get(f"base_model.model.{name}.lora_{side}.weight") for side in "AB")
        if a is not None and b is not None:
            layer.weight.data += 16.0 / 2 * b @ a
            changed += 1
    assert changed == 2 * expected.config.num_hidden_layers
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert not (out / "adapter_config.json").exists()
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in expected.named_parameters()}
    torch.testing.assert_close(merged(TOKENS).logits, expected(TOKENS).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, expected(TOKENS).logits, atol=0.1)


def test_what_has_no_adapters_cannot_be_merged(tmp_path: Path, capsys):
    run = tmp_path / "run"
    assert main(f"{RUN.replace('--lora-rank 2 ', '')} --output {run}".split()) == 0
    assert main(f"export {run} --update 1 --output {tmp_path / 'whole'} --merge".split()) == 2
    assert "merge = True: the run has no adapters: lora_rank = none" in capsys.readouterr().err
    assert not (tmp_path / "whole").exists()
