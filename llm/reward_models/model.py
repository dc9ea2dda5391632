"""Reward models: a score for a response, learned from which of two was preferred (Bradley & Terry 1952).

P(first ≻ second) = σ(r(x, y_1) − r(x, y_2))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from llm.models.adapters import base_of
from llm.models.forward import hidden_states, max_positions
from llm.models.gate import check_folder, check_loaded, check_written, keep_savable, loading
from llm.models.layers import check_layers, computed_layers
from llm.models.loading import CHECKED, from_here, load_config, load_weights, locate
from llm.models.proof import tolerance
from llm.models.settings import Scoring
from llm.models.spec import LanguageModelSpec
from llm.models.writing import write_model
from sims.core.objectives.batch import up_to_last
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
        check_layers(classifier, self.scoring)
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
        most, longest = max_positions(core.config), int(attention.sum(-1).max())
        if most is not None and longest > most:
            raise ValueError(f"a prompt with its response has {longest} tokens, but the reward model {most} positions")
        if self.training:
            self.eval()
        bfloat16 = self.scoring.precision == "bfloat16"
        with (
            torch.autocast(tokens.device.type, torch.bfloat16, enabled=bfloat16),
            computed_layers(core.base_model, self.scoring),
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
        self,
        folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        report: Mapping[str, Any] | None = None,
        beside: Sequence[Path] = (),
    ) -> None:
        """`write_model`, into a folder that is not there yet."""
        folder = Path(folder)
        check_absent(folder)
        write_model(folder, self.classifier, tokenizer, report, beside)


def load_reward_model(
    name: str | Path, scoring: Scoring | None = None, dtype: torch.dtype = torch.float32, field: str = "reward_model"
) -> RewardModel:
    """A reward model from a folder or the hub, through the gate of `llm.models.gate`, its scores proven.

    SpecError naming `field` for one that has no head, lacks other weights, or does not score as it computes.
    """
    classifier = _classifier(field, name, dtype, new_head=False)
    with loading(field, str(name), "must be a reward model"):
        model = RewardModel(classifier, scoring)
        prove_scores(model)
    return model


def new_reward_model(
    name: str | Path,
    seed: int = 0,
    scoring: Scoring | None = None,
    dtype: torch.dtype = torch.float32,
    field: str = "model",
) -> RewardModel:
    """A language model with a new head, drawn from N(0, 1/(H + 1)) by `seed` (Stiennon et al. 2020).

    name: an embedded model (`pythia`, `mistral`), a folder, or a hub name; the head of a reward model is replaced, and
    adapters in the folder are merged. The global generator is not used. SpecError naming `field` as in
    `load_reward_model`.
    """
    classifier = _classifier(field, name, dtype, new_head=True)
    with loading(field, str(name), "must be a model that can become a reward model"):
        model, weight = RewardModel(classifier, scoring), classifier.score.weight
        draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            weight.copy_(draw / math.sqrt(weight.shape[1] + 1))
        prove_scores(model)
    return model


def _classifier(field: str, name: str | Path, dtype: torch.dtype, new_head: bool) -> Any:
    """A sequence classifier of one label. new_head: whether its head is to be replaced, and may be missing."""
    source, local = locate(str(name), field)
    path, spec = Path(source), LanguageModelSpec(model=str(name))
    if local:
        check_folder(field, path)
    config = load_config(spec, field)
    if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        rule = f"is a {config.model_type}, of which transformers has no classifier: must be of another architecture"
        raise SpecError(field, str(name), rule)
    labels = getattr(config, "num_labels", 1)
    named = any("SequenceClassification" in kind for kind in config.architectures or ())
    if named and labels != 1:
        raise SpecError(field, str(name), f"has {labels} labels: must have 1, the score")
    config.num_labels = 1
    if new_head and local and base_of(field, path) is not None:
        backbone = load_weights(spec, dtype, field).base_model  # type: ignore[union-attr]
        with loading(field, str(name)), torch.random.fork_rng(devices=[]):
            classifier = AutoModelForSequenceClassification.from_config(config, dtype=dtype, trust_remote_code=False)
            classifier.base_model.load_state_dict(backbone.state_dict())  # type: ignore[union-attr, operator]
        return classifier
    with loading(field, str(name)), torch.random.fork_rng(devices=[]):  # missing weights are drawn, then refused
        classifier, info = AutoModelForSequenceClassification.from_pretrained(
            path if local else str(name),
            config=config,
            dtype=dtype,
            **from_here(local),
            **CHECKED,
        )
    if not new_head and "score.weight" in map(str, info["missing_keys"]):
        raise SpecError(
            field, str(name), "has no weights for score.weight: must be a reward model, with a head `score`"
        )
    heads = ("lm_head.", "embed_out.", "output.", "score.") if new_head else ()
    check_loaded(field, str(name), classifier, info, ["score.weight"] if new_head else [], heads)
    if local:
        check_written(field, path)
    keep_savable(classifier, str(name))
    return classifier


@torch.no_grad()
def prove_scores(model: RewardModel) -> None:
    """ValueError where padding on the left changes a score beyond rounding."""
    weight = model.classifier.score.weight  # type: ignore[union-attr]
    if weight.is_meta:
        return
    vocabulary = model.classifier.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    rows = [[(7 * i * i + 5 * i + 3) % vocabulary for i in range(length)] for length in (5, 2)]
    model = RewardModel(model.classifier, model.scoring.replace(torch_compile=False))  # nothing is compiled to look
    alone = [float(model.score_rows(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))) for row in rows]
    padded = torch.tensor([rows[0], [0, 0, 0, *rows[1]]])
    together = model.score_rows(padded, torch.arange(5) >= torch.tensor([[0], [3]])).tolist()
    largest = max(map(abs, alone))
    if not math.isfinite(largest):
        raise ValueError(f"its score of a short text is {largest}: must be a number")
    stored = torch.bfloat16 if model.scoring.precision == "bfloat16" else weight.dtype
    difference = max(abs(a - b) for a, b in zip(alone, together, strict=True))
    if not difference <= (allowed := tolerance(stored, largest)):  # type: ignore[arg-type]
        raise ValueError(f"padding changes its score by {difference:.2g}, above {allowed:.1g}")


def check_absent(folder: Path) -> None:
    """SpecError if the folder that is to be written exists."""
    if folder.exists():
        raise SpecError("output", str(folder), "is there already: name another folder, or remove it")


def full_mask(prompts: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, or for None one that is True everywhere: no padding."""
    return torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask


def _rows(prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts and responses as rows (B·K, P + L), and which slots hold a token."""
    read = up_to_last(mask)
    generations = mask.shape[1]
    text, there = (x.repeat_interleave(generations, 0) for x in (prompts, full_mask(prompts, prompt_mask)))
    return torch.cat([text, responses.flatten(0, 1)], -1), torch.cat([there, read.flatten(0, 1)], -1)
