"""LoRA adapters: which layers get them, and a run's adapters merged into a model that plain transformers loads."""

from __future__ import annotations

import builtins
import json
import logging
import shutil
import warnings
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llm.__main__ import main
from llm.embedded import EMBEDDED
from llm.models.adapters import weights_digest
from llm.models.loading import load_model, load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.models.writing import write_model
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

    imported = builtins.__import__

    def importing(name, *arguments, **options):
        if name == "peft":  # for the first time
            logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", importing)
    monkeypatch.setattr(peft, "get_peft_model", warning(peft.get_peft_model))
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", warning(peft.PeftModel.from_pretrained))
    load_model(LanguageModelSpec(lora_rank=2), torch.float32, CPU).save_pretrained(tmp_path)
    held = json.loads((tmp_path / "adapter_config.json").read_text())
    assert held["base_model_name_or_path"] == str(EMBEDDED["pythia"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # of `is_gradient_checkpointing`, which peft asks for
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


@pytest.mark.parametrize("then", ["removed", "trained on"])
def test_a_base_that_changes_under_a_run_is_still_the_one_that_its_adapters_name(then: str, tmp_path: Path):
    """While it trains. What is written names the weights that were read; who reads it is told of others."""
    base, out = Path(shutil.copytree(EMBEDDED["pythia"], tmp_path / "base")), tmp_path / "out"
    spec = LanguageModelSpec(model=str(base), lora_rank=2)
    read, tokenizer, model = weights_digest(base), load_tokenizer(spec), load_model(spec, torch.float32, CPU)
    kept = Path(shutil.copytree(base, tmp_path / "kept"))
    if then == "removed":
        shutil.rmtree(base)
    else:
        _train_on(base)
    write_model(out, model, tokenizer)
    assert json.loads((out / "base_weights.json").read_text()) == {"sha256": read}
    with pytest.raises(SpecError, match=r"^model = .*base_model_name_or_path = .*base"):
        load_model(LanguageModelSpec(model=str(out)), torch.float32, CPU)
    shutil.rmtree(base, ignore_errors=True)
    kept.rename(base)
    load_model(LanguageModelSpec(model=str(out)), torch.float32, CPU)


def _train_on(folder: Path) -> None:
    """Write other weights into it."""
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.final_layer_norm.bias"] += 0.1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "checksums.json").unlink(missing_ok=True)


def test_a_checkpoint_of_adapters_is_exported_over_their_own_base_alone(tmp_path: Path, capsys):
    base, run = Path(shutil.copytree(EMBEDDED["pythia"], tmp_path / "base")), tmp_path / "run"
    assert main(f"{RUN} --model {base} --output {run}".split()) == 0
    assert main(f"export {run} --update 1 --output {tmp_path / 'out'}".split()) == 0
    _train_on(base)
    for more in ([], ["--merge"]):
        capsys.readouterr()
        assert main([*f"export {run} --update 1 --output {tmp_path / 'other'}".split(), *more]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: model = ") and "has other weights than those that the run was started" in said
    assert not (tmp_path / "other").exists()


def test_a_model_whose_layers_take_none_is_told_to_name_others(monkeypatch):
    """As peft refuses Mamba's output projection, which a kernel reads that knows of no adapters."""

    def refusing(*_: object) -> None:
        raise ValueError("Module 'out_proj' is incompatible\nwith Mamba-based models")

    monkeypatch.setattr(peft, "get_peft_model", refusing)
    with pytest.raises(SpecError, match=r"^lora_target_modules = None: must name layers of pythia that") as raised:
        load_model(LanguageModelSpec(lora_rank=2), torch.float32, CPU)
    assert "\n" not in str(raised.value) and "'out_proj' is incompatible with Mamba" in str(raised.value)


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
