"""Folders of models without weights, which are drawn at random when they are loaded (`weights = random`): configuration
and tokenizer of the presets' shapes, or of tiny ones; and prompts for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from llm.models.shapes import SHAPES

LARGE = {"pythia-1.4b": "EleutherAI/pythia-1.4b", "mistral-7b": "mistralai/Mistral-7B-v0.1"}
_TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def random_folder(name: str, tiny: bool, folder: Path) -> Path:
    """A folder for `LanguageModelSpec(model=folder, weights="random")`, in the shape of `name`, a key of `LARGE`."""
    kind, sizes = SHAPES[LARGE[name]]
    if tiny:
        sizes = sizes | _TINY | ({"num_key_value_heads": 1} if "num_key_value_heads" in sizes else {})
    config = AutoConfig.for_model(kind, **sizes, pad_token_id=0, bos_token_id=0, eos_token_id=0)
    config.architectures = ["GPTNeoXForCausalLM" if kind == "gpt_neox" else "MistralForCausalLM"]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    vocabulary = {"<eos>": 0, "<unk>": 1} | {f"w{i}": i for i in range(2, config.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>", padding_side="left"
    ).save_pretrained(folder)
    return folder


def write_rows(file: Path, rows: int, prompt: int, response: int | None = None) -> Path:
    """Rows of prompts of so many tokens; with `response`, preference pairs of responses of so many."""

    def words(count: int, seed: int) -> str:
        return " ".join(f"w{2 + (seed * 7919 + 31 * i) % 250}" for i in range(count))

    def row(i: int) -> dict[str, Any]:
        found = {"prompt": words(prompt, i)}
        if response is not None:
            found |= {"chosen": words(response - 1, i + 5000), "rejected": words(response - 1, i + 9000)}
        return found

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row(i)) + "\n" for i in range(rows)))
    return file
