"""A sentence encoder that the user names, in place of the hidden states of version 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from llm.data import Text
from llm.models.forward import max_positions
from llm.models.gate import check_folder, check_loaded, check_written, loading
from llm.models.loading import CHECKED, from_here, locate
from sims.core.spec import SpecError

from .generation import Vectors, mean

FIELD, AT_ONCE = "embedder", 64


class Embedder(Protocol):
    """Makes vectors of texts."""

    def embed(self, texts: Sequence[tuple[Text, str]]) -> tuple[Vectors, Vectors]:
        """Of N prompts and of their responses: (N, H) both."""


class Encoder:
    """An encoder of transformers; a text's vector is the mean of its tokens' last hidden states.

    Prompt and response are read alone, and cut at the longest text that the model reads. Read from safetensors, without
    code of the model's own. Wrong for encoders that were trained for another pooling, such as their first token's.
    """

    def __init__(self, name: str) -> None:
        source, local = locate(name, FIELD)
        if local:
            check_folder(FIELD, Path(source))
            check_written(FIELD, Path(source))
        with loading(FIELD, name, "must be an encoder that transformers can read"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, **from_here(local))
            loaded: Any = AutoModel.from_pretrained(source, dtype=torch.float32, **from_here(local), **CHECKED)
        self.model, info = loaded
        if self.model.config.is_encoder_decoder:
            raise SpecError(FIELD, name, "is an encoder with a decoder: must be an encoder alone")
        # A pooler may be lacking and a head may be too many, as neither is used.
        poolers = [key for key in map(str, info["missing_keys"]) if key.startswith("pooler.")]
        check_loaded(FIELD, name, self.model, info, poolers, ("",))
        rows, most = len(self.model.get_input_embeddings().weight), max(self.tokenizer.get_vocab().values())
        if most >= rows:
            raise SpecError(FIELD, name, f"its tokenizer has the token id {most}: must be below its model's {rows}")
        self.longest = min(self.tokenizer.model_max_length, max_positions(self.model.config) or 1 << 20)
        self.model.eval()

    def embed(self, texts: Sequence[tuple[Text, str]]) -> tuple[Vectors, Vectors]:
        return self._embed([plain(prompt) for prompt, _ in texts]), self._embed([response for _, response in texts])

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> Vectors:
        found = [np.zeros((0, self.model.config.hidden_size), np.float32)]
        for at in range(0, len(texts), AT_ONCE):
            some = texts[at : at + AT_ONCE]
            ids = [self.tokenizer(text, truncation=True, max_length=self.longest).input_ids for text in some]
            tokens = torch.zeros(len(ids), max(1, *map(len, ids)), dtype=torch.long)
            there = torch.zeros(tokens.shape, dtype=torch.bool)
            for row, held in enumerate(ids):
                tokens[row, : len(held)], there[row, : len(held)] = torch.tensor(held, dtype=torch.long), True
            found.append(mean(self.model(input_ids=tokens, attention_mask=there.long()).last_hidden_state, there))
        return np.concatenate(found)


def plain(text: Text) -> str:
    """A conversation as the text of its turns."""
    return text if isinstance(text, str) else "\n".join(str(turn["content"]) for turn in text)
