"""Reward models: a score for a response, learned from which of two was preferred (Bradley & Terry 1952).

P(first ≻ second) = σ(r(x, y_1) − r(x, y_2))
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.utils import logging

from llm.embedded import find_folder
from llm.models.scoring import Scoring, checkpoint_layers, checkpointed_layers, hidden_states
from sims.core.spec import SpecError


class RewardModel(nn.Module):
    """A backbone of transformers and a linear head on the hidden state of the last real token.

    classifier: a sequence classifier of one label, head named `score` (GPT-NeoX, Mistral, GPT-2 and most others). Its
    own pooling is not used: it searches for the padding id, which may be the id of EOS. Always in evaluation mode.
    """

    def __init__(self, classifier: nn.Module, scoring: Scoring | None = None) -> None:
        super().__init__()
        name, head = type(classifier).__name__, getattr(classifier, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            raise ValueError(f"classifier = {name}: must have a linear head `score` of one output")
        self.classifier, self.scoring = classifier, scoring or Scoring()
        if self.scoring.gradient_checkpointing and not checkpoint_layers(classifier):
            raise ValueError(f"gradient_checkpointing = True: {name} has no layers that transformers can checkpoint")
        self.eval()

    @property
    def device(self) -> torch.device:
        return next(self.classifier.parameters()).device

    def score_rows(self, tokens: Tensor, attention: Tensor) -> Tensor:
        """Score of each row at its last real token: (N,), float32 at least, differentiable.

        tokens: (N, S); attention: (N, S) bool, False on padding, which may stand on any side and hold any id.
        """
        core: Any = self.classifier
        tokens, attention = tokens.to(self.device).masked_fill(~attention.to(self.device), 0), attention.to(self.device)
        used = attention.any(0).nonzero()
        if not bool(attention.any(-1).all()):
            raise ValueError(f"row {int((~attention.any(-1)).nonzero()[0])}: must have a token to be scored at")
        span = slice(int(used[0]), int(used[-1]) + 1)
        tokens, attention = tokens[:, span], attention[:, span]
        most, longest = getattr(core.config, "max_position_embeddings", None), int(attention.sum(-1).max())
        if most is not None and longest > most:
            raise ValueError(f"a prompt with its response has {longest} tokens, but the reward model {most} positions")
        if self.training:
            self.eval()
        bfloat16 = self.scoring.precision == "bfloat16"
        with (
            torch.autocast(tokens.device.type, torch.bfloat16, enabled=bfloat16),
            checkpointed_layers(core.base_model, self.scoring.gradient_checkpointing and torch.is_grad_enabled()),
        ):
            states = hidden_states(core.base_model, tokens, attention)
        last = attention.shape[1] - 1 - attention.flip(-1).int().argmax(-1)
        state = states[torch.arange(len(states), device=states.device), last]
        wide = torch.promote_types(core.score.weight.dtype, torch.float32)  # bfloat16 resolves 0.4 % only
        bias = None if core.score.bias is None else core.score.bias.to(wide)
        return F.linear(state.to(wide), core.score.weight.to(wide), bias).squeeze(-1)

    def forward(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K) scores with gradient; arguments as in `Scorer.score`.

        A masked slot inside a response is read, as in `CausalLMPolicy.forward`; those after its last token are not.
        """
        return self.score_rows(*_rows(prompts, prompt_mask, responses, mask)).unflatten(0, mask.shape[:2])

    @torch.no_grad()
    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K) scores, `score_batch_size` responses at a time."""
        rows = _rows(prompts, prompt_mask, responses, mask)
        size = self.scoring.score_batch_size
        parts = [self.score_rows(*part) for part in zip(*(x.split(size) for x in rows), strict=True)]
        return torch.cat(parts).unflatten(0, mask.shape[:2])

    def save(
        self, folder: str | Path, tokenizer: PreTrainedTokenizerBase, report: Mapping[str, Any] | None = None
    ) -> None:
        """Weights (safetensors), configuration and tokenizer, in the format of transformers; `report` as report.json.

        Atomic: the folder is written under a temporary name and renamed. An existing one is not replaced.
        """
        folder = Path(folder)
        check_absent(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            new = Path(scratch) / "new"
            with _quiet():
                self.classifier.save_pretrained(new)  # type: ignore[operator]
            tokenizer.save_pretrained(new)
            if report is not None:
                (new / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
            os.rename(new, folder)


def load_reward_model(
    name: str | Path, scoring: Scoring | None = None, dtype: torch.dtype = torch.float32
) -> RewardModel:
    """A reward model from a folder or the hub. ValueError where its head, or other weights, are missing."""
    classifier, missing = _classifier(name, dtype)
    if missing:
        raise ValueError(f"{name}: has no weights for {missing[0]}: must be a reward model, with a head `score`")
    return RewardModel(classifier, scoring)


def new_reward_model(
    name: str | Path, seed: int = 0, scoring: Scoring | None = None, dtype: torch.dtype = torch.float32
) -> RewardModel:
    """A language model with a new head, drawn from N(0, 1/(H + 1)) by `seed` (Stiennon et al. 2020).

    name: an embedded model (`pythia`, `mistral`), a folder, or a hub name; the head of a reward model is replaced.
    The global generator is not used. Errors: ValueError where other weights are missing.
    """
    classifier, missing = _classifier(name, dtype)
    if set(missing) - {"score.weight"}:
        raise ValueError(f"{name}: has no weights for {missing[0]}: must be a causal language model")
    model, weight = RewardModel(classifier, scoring), classifier.score.weight
    draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        weight.copy_(draw / math.sqrt(weight.shape[1] + 1))
    return model


def _classifier(name: str | Path, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """A sequence classifier of one label, and the names of its weights that were not found."""
    path = find_folder(name)
    local = path.is_dir()
    with _quiet(), torch.random.fork_rng(devices=[]):  # transformers draws missing weights at random
        classifier, info = AutoModelForSequenceClassification.from_pretrained(
            path if local else str(name),
            num_labels=1,
            dtype=dtype,
            local_files_only=local,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    return classifier, sorted(info["missing_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and reports of transformers: missing weights raise errors here."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def check_absent(folder: Path) -> None:
    """SpecError if the folder that is to be written exists."""
    if folder.exists():
        raise SpecError("output", str(folder), "is there already: name another folder, or remove it")


def full_mask(prompts: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, or for None one that is True everywhere: no padding."""
    return torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask


def _rows(prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts and responses as rows (B·K, P + L), and which slots hold a token."""
    read = mask.flip(-1).cumsum(-1).flip(-1) > 0  # up to the last token that counts
    generations = mask.shape[1]
    text, there = (x.repeat_interleave(generations, 0) for x in (prompts, full_mask(prompts, prompt_mask)))
    return torch.cat([text, responses.flatten(0, 1)], -1), torch.cat([there, read.flatten(0, 1)], -1)
