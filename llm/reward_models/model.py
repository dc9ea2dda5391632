"""Reward models: a score for a response, learned from which of two was preferred (Bradley & Terry 1952).

    P(first ≻ second) = σ(r(x, y_1) − r(x, y_2))

A reward model is one `Scorer` among others: a function of the text, another reward model, or the policy itself can
stand in its place, to reward a policy or to label pairs for the next reward model. The *gold* model is the one that we
judge by, a *proxy* one that was trained on the gold's labels: what a policy gains under the proxy beyond what it gains
under the gold is over-optimisation (Gao et al. 2023).
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.utils import logging

from llm.data import Example, collate
from llm.distributed.spread import Ranks
from llm.embedded import find_folder
from llm.models.policy import CausalLMPolicy
from llm.models.scoring import Scoring, checkpoint_layers, checkpointed_layers, hidden_states
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.loop.labelling import implicit_reward
from sims.core.loop.optimise import Optimiser, PerRunOptimiser
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, pick
from sims.core.objectives.preferences import Labeller, Pairing, choose_pairs
from sims.core.objectives.reductions import pair_weights, shares
from sims.core.spec import Spec, SpecError, setting

from .calibration import HeldOut, calibration, ordered_rightly


class Scorer(Protocol):
    """Whatever can say how good responses are, up to a constant a prompt."""

    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K), without gradient. prompts, prompt_mask: (B, P); responses, mask: (B, K, L), as in `Batch`."""


class RewardModel(nn.Module):
    """A backbone of transformers and a linear head, read at the last token that is there.

    classifier: a sequence classifier of one label, head named `score` (GPT-NeoX, Mistral, GPT-2 and most others). Its
    own pooling is not used: it looks for the padding id, which may be the id of EOS. Always in evaluation mode.
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
        wide = torch.promote_types(core.score.weight.dtype, torch.float32)  # bfloat16 tells scores apart by 0.4 % only
        bias = None if core.score.bias is None else core.score.bias.to(wide)
        return F.linear(state.to(wide), core.score.weight.to(wide), bias).squeeze(-1)

    def forward(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K) scores with gradient; arguments as in `Scorer.score`.

        A masked slot inside a response is read, as in `CausalLMPolicy.forward`; those behind its last token are not.
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

        The folder appears whole: it is written beside its place and renamed. One that is there is not replaced.
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

    name: an embedded model (`pythia`, `mistral`), a folder, or a hub name; a reward model loses the head it has. The
    global generator is left alone. Errors: ValueError where other weights are missing.
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
    """A sequence classifier of one label, and its weights that were not found."""
    path = find_folder(name)
    local = path.is_dir()
    with _quiet(), torch.random.fork_rng(devices=[]):  # transformers draws what it does not find
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
    """No bars and reports of transformers: missing weights are told by errors here."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class ImplicitReward:
    """The policy as its own judge: r = β·(log π − log π_ref), what DPO's policy says of its own data.

    Rafailov et al. 2023; as the label of the next round: Chen et al. 2024 (DICE), and for the idea Yuan et al. 2024.
    Shorter and longer responses compare as sums, as in DPO. Only differences within a prompt mean anything.
    """

    policy: CausalLMPolicy
    reference: CausalLMPolicy
    beta: float

    @torch.no_grad()
    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K); see `Scorer`."""
        return implicit_reward(self.policy, self.reference, Batch(prompts, responses, mask, prompt_mask), self.beta)


@dataclass(frozen=True)
class TextScorer:
    """A judge of text. judge(prompts, completions) gives a number for each, special tokens left out of both."""

    judge: Callable[[list[str], list[str]], Sequence[float]]
    tokenizer: PreTrainedTokenizerBase

    def score(self, prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> Tensor:
        """(B, K); see `Scorer`. ValueError unless there is one number for each response."""
        asked = [self._text(x, m) for x, m in zip(prompts, _all_there(prompts, prompt_mask), strict=True)]
        answers = [self._text(x, m) for x, m in zip(responses.flatten(0, 1), mask.flatten(0, 1), strict=True)]
        generations = mask.shape[1]
        scores = self.judge([text for text in asked for _ in range(generations)], answers)
        if len(scores) != len(answers):
            raise ValueError(f"judge gave {len(scores)} scores: must be one for each of {len(answers)} responses")
        return torch.tensor(list(scores), dtype=torch.float64).unflatten(0, mask.shape[:2])

    def _text(self, tokens: Tensor, mask: Tensor) -> str:
        return str(self.tokenizer.decode(tokens[mask].tolist(), skip_special_tokens=True))


def preference_batch(examples: Sequence[Example], pad_id: int) -> Batch:
    """Preference rows as one batch, chosen first: B rows, K = 2, Q = 1. pad_id: `TextEncoder(tokenizer).pad`."""
    rows = collate(examples, pad_id)
    if rows.responses is None or rows.mask is None or rows.pairs is None:
        raise ValueError(f"{examples[0].where}: must be a preference, with a chosen and a rejected response")
    return Batch(
        prompts=rows.prompts,
        prompt_mask=rows.prompt_mask,
        responses=rows.responses,
        mask=rows.mask,
        pairs=rows.pairs,
        pair_label=rows.pair_label,
    )


def label_pairs(batch: Batch, scorer: Scorer, labeller: Labeller, noise: Noise, pairing: Pairing = "drawn") -> Batch:
    """The batch with `scorer` as its judge: its scores as rewards, and pairs that `labeller` labels by them.

    With a gold model as the scorer this makes the data of a proxy; with `ImplicitReward`, a policy's own labels.
    """
    scores = scorer.score(batch.prompts, batch.prompt_mask, batch.responses, batch.mask).cpu()
    pairs, weight = choose_pairs(scores, pairing, labeller.correct_above)
    label = labeller.label(*pick(scores, pairs), noise.uniforms("labels", *pairs.shape))
    return batch.replace(rewards=scores, pairs=pairs, pair_label=label, pair_weight=weight)


@dataclass(frozen=True)
class RewardTraining(Spec, kind="reward_training"):
    """How a reward model is fitted. One pass: a second one over-fits large models (Stiennon et al. 2020)."""

    batch_size: int = setting(32, "prompts an update, each with all its pairs", at_least=1)
    epochs: int = setting(1, "passes over the pairs", at_least=1)
    learning_rate: float = setting(1e-3, "constant step size of Adam; 1e-5 for models of billions", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay (AdamW)", at_least=0)
    max_grad_norm: float | None = setting(1.0, "largest gradient norm; none: no clipping", above=0)
    micro_batch_size: int | None = setting(None, "prompts that go through the model together; none: all", at_least=1)
    seed: int = setting(0, "of the order of the pairs, and of a new head", at_least=0)

    def optimiser(self) -> Optimiser:
        return Optimiser(
            learning_rate=self.learning_rate, weight_decay=self.weight_decay, max_grad_norm=self.max_grad_norm
        )

    def updates(self, prompts: int) -> int:
        """How many updates so many prompts give; the last of a pass may be smaller."""
        return self.epochs * math.ceil(prompts / self.batch_size)


@dataclass(frozen=True)
class FitStep:
    """One update: its number from 1, the loss and the share of pairs ordered rightly before it, the gradient's norm."""

    update: int
    loss: float
    accuracy: float
    grad_norm: float


def fit(
    model: RewardModel,
    batch: Batch,
    loss: RewardModelLoss | None = None,
    training: RewardTraining | None = None,
    margin: Tensor | None = None,
    ranks: Ranks | None = None,
) -> Iterator[FitStep]:
    """Train on the batch's pairs, in place, one step of the iterator an update.

    margin: (B, Q), how much better the winner was rated (Touvron et al. 2023). ranks: the processes that share each
    minibatch, all given the same arguments. Errors: ValueError for a batch without pairs; FloatingPointError, before
    the step, where loss or gradient is not finite.
    """
    loss, training, ranks = loss or RewardModelLoss(), training or RewardTraining(), ranks or Ranks()
    label = batch.need("pair_label")
    weight = pair_weights(batch.weight, batch.need("pairs"), batch.pair_weight)
    weight = torch.ones_like(label) if weight is None else weight
    margin = torch.zeros_like(label) if margin is None else margin
    if margin.shape != label.shape:
        raise ValueError(f"margin of shape {tuple(margin.shape)}: must be {tuple(label.shape)}, one a pair")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = PerRunOptimiser(parameters, (), training.optimiser())
    noise, update = Noise.single(training.seed), 0
    for _ in range(training.epochs):
        order = noise.uniforms("reward order", batch.size).argsort()
        for index in order.split(training.batch_size):
            update += 1
            part, share = batch.gather(index), shares(weight[index], label[index])
            gradients, numbers = _gradient(model, parameters, part, share, margin[index], loss, training, ranks)
            norm = optimiser.grad_norm(gradients)
            value, accuracy = numbers.tolist()
            if not math.isfinite(value + float(norm)):
                raise FloatingPointError(f"update {update}: loss = {value}, gradient norm = {float(norm)}")
            optimiser.step(gradients, norm)
            yield FitStep(update, value, accuracy, float(norm))


def _gradient(
    model: RewardModel,
    parameters: list[nn.Parameter],
    batch: Batch,
    share: Tensor,
    margin: Tensor,
    loss: RewardModelLoss,
    training: RewardTraining,
    ranks: Ranks,
) -> tuple[list[Tensor], Tensor]:
    """Gradients, and loss and accuracy (2,), summed over the minibatch by the pairs' shares of it (B, Q)."""
    gradients = [torch.zeros_like(p) for p in parameters]
    numbers = torch.zeros(2, dtype=torch.float64, device=model.device)
    start, length = ranks.span(batch.size)
    size = training.micro_batch_size or batch.size
    for at in range(start, start + length, size):
        rows = slice(at, min(at + size, start + length))
        part = batch.narrow(at, rows.stop - at)
        scores = model(part.prompts, part.prompt_mask, part.responses, part.mask)
        device = scores.device
        first, second = pick(scores, part.need("pairs").to(device))
        label, own_share = part.need("pair_label").to(device), share[rows].to(device)
        value = (own_share * loss.pair_losses(first, second, label, margin[rows].to(device))).sum()
        found = torch.autograd.grad(value, parameters)
        torch._foreach_add_(gradients, found)
        right = (own_share * ordered_rightly((first - second).detach(), label)).sum()
        numbers += torch.stack([value.detach(), right]).double()
    ranks.sum([*gradients, numbers])
    return gradients, numbers


def held_out(scorer: Scorer, batch: Batch, bins: int = 10) -> HeldOut:
    """Accuracy and calibration of a scorer's differences on the batch's labelled pairs."""
    scores = scorer.score(batch.prompts, batch.prompt_mask, batch.responses, batch.mask).cpu()
    first, second = pick(scores, batch.need("pairs").cpu())
    weight = pair_weights(batch.weight, batch.need("pairs"), batch.pair_weight)
    return calibration(first - second, batch.need("pair_label").cpu(), None if weight is None else weight.cpu(), bins)


def check_absent(folder: Path) -> None:
    """SpecError if something stands where a folder is to be written."""
    if folder.exists():
        raise SpecError("output", str(folder), "is there already: name another folder, or remove it")


def _all_there(prompts: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask


def _rows(prompts: Tensor, prompt_mask: Tensor | None, responses: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts and responses as rows (B·K, P + L), and which slots hold a token."""
    read = mask.flip(-1).cumsum(-1).flip(-1) > 0  # up to the last token that counts
    generations = mask.shape[1]
    text, there = (x.repeat_interleave(generations, 0) for x in (prompts, _all_there(prompts, prompt_mask)))
    return torch.cat([text, responses.flatten(0, 1)], -1), torch.cat([there, read.flatten(0, 1)], -1)
