"""Versions as policies: responses with their log-probs, and the hidden states of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.data import Example, Text, TextEncoder, TokenBatch, collate
from llm.models.decoding import Decoding
from llm.models.forward import hidden_states
from llm.models.loading import build_policy, load_tokenizer
from llm.models.policy import CausalLMPolicy
from llm.models.spec import LanguageModelSpec
from llm.training.evaluation import single_noise
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.spec import Spec, setting

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Serving(Spec, kind="serving"):
    """The first version, and how every version is sampled."""

    model: str = setting("pythia", "the first version: pythia, mistral, a folder, or a hub name")
    max_new_tokens: int = setting(33, "longest response in tokens, EOS included", at_least=1)
    temperature: float = setting(1.0, "divides the logits when users are served", above=0)
    top_p: float = setting(1.0, "nucleus sampling when users are served", above=0, at_most=1)
    seed: int = setting(0, "seed of everything that is random", at_least=0)
    embedder: str | None = setting(
        None,
        "what makes the vectors of texts: a sentence encoder (folder or hub name); none: the first version's hidden "
        "states",
        omit_default=True,
    )

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.max_new_tokens, self.temperature, self.top_p, 256)

    def spec(self, model: str | Path) -> LanguageModelSpec:
        return LanguageModelSpec(model=str(model), decoding=self.decoding)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A response. tokens: (L,) int32, EOS included; logp: (L,) float32, of each token under the distribution that drew
    it; finished: whether it ended by itself; entropy: nats per token, under the whole distribution."""

    text: str
    tokens: NDArray[np.int32]
    logp: NDArray[np.float32]
    finished: bool
    entropy: float


class Model:
    """A version that can be sampled, and that can embed texts."""

    def __init__(self, serving: Serving, model: str | Path, field: str = "model") -> None:
        spec = serving.spec(model)
        tokenizer = load_tokenizer(spec, field)
        self.serving = serving
        self.policy: CausalLMPolicy = build_policy(spec, tokenizer, False, torch.float32, torch.device("cpu"), field)
        self.encoder = TextEncoder(tokenizer, self.policy.eos_token_ids)

    def draw(self, prompts: Sequence[Text], use: str, cycle: int) -> list[Drawn]:
        """One response to each prompt. use: names the random numbers, which are the same for every version."""
        if not prompts:
            return []
        batch = self._encoded([(prompt, None) for prompt in prompts])
        request = SampleRequest(
            Prompts(batch.prompts, batch.prompt_mask), 1, single_noise(self.serving.seed, cycle), f"align {use}"
        )
        samples = self.policy.sample(request)
        with torch.no_grad():
            scored = self.policy.forward(
                Batch(batch.prompts, samples.responses, samples.mask, batch.prompt_mask), OutputRequest(entropy=True)
            )
        assert scored.entropy is not None
        found = []
        for tokens, mask, logp, entropy in zip(
            samples.responses[:, 0], samples.mask[:, 0], samples.logp[:, 0], scored.entropy[:, 0], strict=True
        ):
            ids = tokens[mask].tolist()
            found.append(
                Drawn(
                    self.encoder.content(ids),
                    np.array(ids, np.int32),
                    logp[mask].numpy().astype(np.float32),
                    bool(ids) and ids[-1] in self.encoder.ends,
                    float(entropy[mask].mean()),
                )
            )
        return found

    @torch.no_grad()
    def embed(self, texts: Sequence[tuple[Text, str]]) -> tuple[Vectors, Vectors]:
        """Mean hidden state of the prompt's tokens, and of the response's, which see the prompt: (N, H) both."""
        parts = [self._embed(texts[at : at + 256]) for at in range(0, len(texts), 256)]
        if not parts:
            return np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32)
        first, second = zip(*parts, strict=True)
        return np.concatenate(first), np.concatenate(second)

    def _embed(self, texts: Sequence[tuple[Text, str]]) -> tuple[Vectors, Vectors]:
        batch = self._encoded(list(texts))
        assert batch.responses is not None and batch.mask is not None
        tokens = torch.cat([batch.prompts, batch.responses[:, 0]], -1)
        there = torch.cat([batch.prompt_mask, batch.mask[:, 0]], -1)
        states = hidden_states(self.policy.language_model.backbone, tokens, there)
        width = batch.prompts.shape[1]
        return mean(states[:, :width], there[:, :width]), mean(states[:, width:], there[:, width:])

    def check(self, prompt: Text, response: str) -> None:
        """RowError for a response that cannot be one, because it goes on after an end token."""
        self._encoded([(prompt, response)])

    def _encoded(self, texts: Sequence[tuple[Text, str | None]]) -> TokenBatch:
        encoder, examples = self.encoder, []
        for prompt, response in texts:
            completions = () if response is None else (np.array(encoder.completion(response, True), np.int32),)
            ids = np.array(encoder.prompt(encoder.prompt_text(prompt)), np.int32)
            examples.append(Example("", prompt, ids, completions))
        return collate(examples, encoder.pad)


def mean(states: Tensor, there: Tensor) -> Vectors:
    """states (N, S, H) averaged over the slots that are there (N, S)."""
    weight = there.to(states.dtype).unsqueeze(-1)
    mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1)
    return mean.float().numpy()


def as_blob(vector: NDArray[np.generic]) -> bytes:
    return vector.tobytes()


def as_vectors(blobs: Sequence[bytes]) -> Vectors:
    """(N, H) float32 of N blobs."""
    return np.stack([np.frombuffer(blob, np.float32) for blob in blobs]) if blobs else np.zeros((0, 1), np.float32)
