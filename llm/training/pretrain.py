"""Pretraining of the two embedded models, transformers of the shapes of Pythia and Mistral, on
`llm.embedded.language`.

It takes one to two minutes each on one core. The loss is on the response and its EOS only, as in supervised
fine-tuning: prompts belong to the environment, not to the policy. Two parts of the loss have larger weights in
training, which does not change the optimal model: the number in an answer, which is one token in 17 and the hardest to
predict; and whether a response ends at one of its first positions. One response in 100,000 has at most five tokens, so
that an unweighted loss hardly sees that probability, on which the length rewards depend.

New documents are drawn for every update from the training prompts, so none is used twice; everything reported is
measured on the held-out prompts. One seed gives the same weights bit for bit on one machine with the same number of
threads, and elsewhere the same loss and length distribution up to rounding (`check`). Global random generators are
not used.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from llm.embedded import EMBEDDED, find_folder, language
from llm.models.architectures import Architecture, build_model, check_shape
from llm.models.forward import cache_keyword
from llm.models.gate import check_written
from llm.models.writing import REPORT, write_model
from sims.core.spec import Spec, setting, to_json

from .pretrain_fit import PretrainFit

_PROMPT, _LONGEST = language.PROMPT_TOKENS, language.MAX_RESPONSE_TOKENS
_STREAMS = {"training": 0, "held_out": 1, "sampling": 2}  # one stream of random numbers for each use
_EARLY = 5  # a response is early if it has at most so many tokens


@dataclass(frozen=True)
class PretrainConfig(Spec, kind="pretrain"):
    """Everything that the weights and their report depend on."""

    architecture: Architecture = setting("pythia", "architecture of the transformer")
    hidden: int = setting(64, "width of the hidden states", at_least=1)
    layers: int = setting(2, "number of transformer blocks", at_least=1)
    heads: int = setting(4, "attention heads per block", at_least=1)
    max_positions: int = setting(128, "longest sequence in tokens", at_least=_PROMPT + _LONGEST + 1)
    steps: int = setting(2000, "updates of AdamW", at_least=1)
    batch_size: int = setting(32, "documents per update", at_least=1)
    learning_rate: float = setting(
        4e-3, "peak rate; linear warm-up over 5 % of the updates, then cosine decay to 0", above=0
    )
    answer_weight: float = setting(10.0, "weight of the number in an answer, in the training loss", above=0)
    end_weight: float = setting(
        1000.0, f"weight of ending or not at response positions 0 … {_EARLY}, in the training loss", at_least=1
    )
    weight_decay: float = setting(0.01, "decoupled weight decay (AdamW)", at_least=0)
    seed: int = setting(0, "seed of the initial weights, documents and samples", at_least=0)
    held_out_documents: int = setting(1024, "documents on held-out prompts, for the reported loss", at_least=1)
    samples: int = setting(2048, "responses sampled, for the reported lengths and answers", at_least=2)

    def check(self) -> None:
        check_shape(self.architecture, self.hidden, self.heads)


@dataclass(frozen=True)
class Report:
    """Configuration and measurements of a model. Losses in nats per token, EOS included; lengths without EOS.

    `entropy` is the loss of the language's own distribution on the same held-out documents: a model is below it by
    chance only. `sampled_lengths[n]` is how many samples had n tokens; those that never ended count as the
    longest. `length_probability[n]` is the model's probability of n tokens, of each n the language has, averaged over
    as many prompts (`length_probability`)."""

    config: dict[str, Any]
    parameters: int
    held_out_loss: float
    entropy: float
    data_length_mean: float
    data_length_sd: float
    sampled_length_mean: float
    sampled_length_sd: float
    sampled_lengths: list[int]
    length_probability: list[float]
    unfinished_rate: float
    grammatical_rate: float
    data_correct_rate: float
    correct_rate: float
    cpu_seconds: float
    threads: int
    versions: dict[str, str]
    commit: str | None


class Comparison(NamedTuple):
    """One reported number beside that of a rerun."""

    quantity: str
    committed: float
    rerun: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return abs(self.committed - self.rerun) <= self.tolerance


class Pretraining(PretrainFit):
    """Training from scratch, in progress. `model` is in evaluation mode: there is no dropout."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.commit, self.tokenizer = config, _commit(), language.build_tokenizer()
        tokenizer = self.tokenizer
        model = build_model(
            config.architecture,
            len(tokenizer),
            config.hidden,
            config.layers,
            config.heads,
            config.max_positions,
            seed=config.seed,
            pad=tokenizer.pad_token_id,
            bos=tokenizer.bos_token_id,
            eos=tokenizer.eos_token_id,
        )

        def loss(rng: np.random.Generator) -> Tensor:
            documents = [language.sample_document(rng) for _ in range(config.batch_size)]
            total, tokens = response_loss(model, tokenizer, documents, config.answer_weight, config.end_weight)
            return total / tokens

        stream = _stream(config, "training")
        super().__init__(model, loss, stream, config.steps, config.learning_rate, config.weight_decay)
        self.held_out_documents = held_out_documents(config, _stream(config, "held_out"))

    def evaluate(self) -> dict[str, float]:
        """The held-out loss now, nats per token."""
        return {"eval_loss": held_out_loss(self.model, self.tokenizer, self.held_out_documents)[0]}

    def report(self) -> Report:
        """What is measured of the weights now."""
        return Report(
            config=to_json(self.config),
            parameters=self.model.num_parameters(),
            **measure(self.model, self.tokenizer, self.config),
            cpu_seconds=round(self.cpu_seconds, 1),
            threads=torch.get_num_threads(),
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
            commit=self.commit,
        )


def pretrain(config: PretrainConfig, progress: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Report]:
    """Train from scratch: the model in evaluation mode, its tokenizer, and what was measured.

    progress: show a bar on standard error. Raises FloatingPointError, naming the step, when the loss is not finite.
    """
    fit = Pretraining(config)
    with tqdm(total=fit.total, desc=f"pretrain {config.architecture}", disable=not progress) as bar:
        for update in fit.train():
            bar.set_postfix(loss=f"{update.loss:.3f}", refresh=False)
            bar.update()
    return fit.model, fit.tokenizer, fit.report()


def response_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[language.Document],
    answer_weight: float = 1.0,
    end_weight: float = 1.0,
) -> tuple[Tensor, int]:
    """Summed −log p(response, EOS | prompt) of the documents in nats, a scalar, and the number of tokens in the sum.

    answer_weight: weight of the numbers in answers. end_weight: −log p of a token is that of ending there or not, plus
    that of the token given that the response goes on; the former has this weight at the first positions. Padding is on
    the right, where causal attention does not reach it; no target is the padding token.
    """
    texts = [f"{document.prompt} {document.response} {language.EOS}" for document in documents]
    ids = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").input_ids
    before, targets = ids[:, _PROMPT - 1 : -1], ids[:, _PROMPT:]
    pad = tokenizer.pad_token_id
    logits = model(ids).logits[:, _PROMPT - 1 : -1]
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=pad, reduction="none")
    lead, numbers = (tokenizer.convert_tokens_to_ids(list(w)) for w in (language.ANSWER_LEADS, language.NUMBERS))
    given = torch.isin(before, torch.tensor(lead)) & torch.isin(targets, torch.tensor(numbers))
    weight = torch.where(given, answer_weight, 1.0)
    total = (loss.view_as(targets) * weight).sum()
    if end_weight != 1.0:
        early, eos = slice(0, _EARLY + 1), tokenizer.eos_token_id
        log_end, log_on = _log_end(logits[:, early], eos)
        ending = torch.where(targets[:, early] == eos, log_end, log_on)
        total = total - (end_weight - 1.0) * ending[targets[:, early] != pad].sum()
    return total, int((targets != pad).sum())


@torch.no_grad()
def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> dict[str, Any]:
    """The measured fields of a `Report`, on held-out prompts, a function of the weights and `config.seed`."""
    rng = _stream(config, "held_out")
    documents = held_out_documents(config, rng)
    loss, tokens = held_out_loss(model, tokenizer, documents)

    prompts = language.prompts(config.samples, rng, "held_out")
    generator = torch.Generator().manual_seed(int(_stream(config, "sampling").integers(2**62)))
    responses = sample_responses(model, tokenizer, prompts, generator)
    sampled = np.array([len(ids) - (ids[-1] == tokenizer.eos_token_id) for ids in responses])
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    answered = list(zip(prompts, texts, strict=True))
    in_data = np.array([len(document.response.split()) for document in documents])
    return {
        "held_out_loss": loss,
        "entropy": -sum(language.response_log_prob(*document) for document in documents) / tokens,
        "data_length_mean": float(in_data.mean()),
        "data_length_sd": float(in_data.std()),
        "sampled_length_mean": float(sampled.mean()),
        "sampled_length_sd": float(sampled.std()),
        "sampled_lengths": np.bincount(sampled, minlength=_LONGEST + 1).tolist(),
        "length_probability": length_probability(model, tokenizer, prompts, generator).tolist(),
        "unfinished_rate": float(np.mean([ids[-1] != tokenizer.eos_token_id for ids in responses])),
        "grammatical_rate": float(np.mean([language.response_log_prob(*pair) > -math.inf for pair in answered])),
        "data_correct_rate": float(np.mean([language.is_correct(*document) for document in documents])),
        "correct_rate": float(np.mean([language.is_correct(*pair) for pair in answered])),
    }


@torch.no_grad()
def sample_responses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str], generator: torch.Generator
) -> list[list[int]]:
    """One response to each prompt at temperature 1, as token ids: up to and with EOS, or the longest length + 1.

    For prompts of one length only, as the language has.
    """
    eos = tokenizer.eos_token_id
    drawn: list[Tensor] = []
    for _, ids in _steps(model, tokenizer, prompts, generator):
        drawn.append(ids)
        if (torch.cat(drawn, -1) == eos).any(-1).all():
            break
    rows = torch.cat(drawn, -1).tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@torch.no_grad()
def length_probability(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str], generator: torch.Generator
) -> np.ndarray:
    """The model's probability of each length 0 … MAX_RESPONSE_TOKENS, averaged over the prompts: (33,).

    Responses are drawn from the model with EOS forbidden. With h_t the probability that the model gives EOS after t
    tokens of such a draw, the mean of h_n Π_{t<n} (1 − h_t) is the probability of n tokens, without bias. It shows
    probabilities that are far below 1 / the number of prompts, which the counts of plain samples do not.
    """
    going, found = torch.ones(len(prompts), dtype=torch.float64), []
    for logits, _ in _steps(model, tokenizer, prompts, generator, endless=True):
        log_end, log_on = _log_end(logits.double(), tokenizer.eos_token_id)
        found.append(float((going * log_end.exp()).mean()))
        going = going * log_on.exp()
    return np.array(found)


def _steps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    generator: torch.Generator,
    endless: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (N, V) and tokens drawn from them (N, 1), to the longest length + 1. endless: EOS is not drawn."""
    ids = tokenizer(prompts, return_tensors="pt").input_ids
    cache = DynamicCache(config=model.config)
    for _ in range(_LONGEST + 1):
        logits = model(ids, use_cache=True, **{cache_keyword(model): cache}).logits[:, -1]
        probs = logits.softmax(-1)
        if endless:
            probs[:, tokenizer.eos_token_id] = 0.0
        ids = torch.multinomial(probs, 1, generator=generator)
        yield logits, ids


def _log_end(logits: Tensor, eos: int) -> tuple[Tensor, Tensor]:
    """log of the probability that a response ends here, and that it goes on: (...) each. logits: (..., V)."""
    every = logits.logsumexp(-1)
    others = torch.cat([logits[..., :eos], logits[..., eos + 1 :]], -1).logsumexp(-1)
    return logits[..., eos] - every, others - every


def save(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    report: Report,
    beside: Sequence[Path] = (),
) -> None:
    """`write_model` with the report."""
    write_model(folder, model, tokenizer, dataclasses.asdict(report), beside)


def load(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A saved model in evaluation mode and its tokenizer, without network access.

    folder: a path, or the name of an embedded model (`pythia`, `mistral`).
    """
    path = _existing(folder)
    check_written("folder", path)
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)  # fast: `save` wrote no other kind
    return model.eval(), tokenizer


def read_report(folder: str | Path) -> Report:
    """The report saved with a model; `folder` as in `load`."""
    return Report(**json.loads((_existing(folder) / REPORT).read_text()))


def check(folder: str | Path, progress: bool = False) -> list[Comparison]:
    """Train again from the saved configuration and compare loss, answers and length distribution with the report.

    The tolerances allow for other processors and thread counts, whose rounding differs and adds up; on the same machine
    the differences are 0. The distributions of lengths are compared too, by the largest gap between the two cumulative
    distributions (Kolmogorov–Smirnov): two sets of 2,048 draws from one distribution exceed 0.07 once in 10,000 times,
    and the rest of the 0.1 allowed is for rounding."""
    old = read_report(folder)
    settings = {name: value for name, value in old.config.items() if name != "kind"}
    _, _, new = pretrain(PretrainConfig(**settings), progress)
    tolerances = {
        "held_out_loss": 0.02,
        "sampled_length_mean": 0.1 * old.data_length_mean,
        "sampled_length_sd": 0.1 * old.data_length_sd,
        "grammatical_rate": 0.05,
        "correct_rate": 0.1,
    }
    rows = [Comparison(name, getattr(old, name), getattr(new, name), limit) for name, limit in tolerances.items()]
    cumulative = [np.cumsum(report.sampled_lengths) / sum(report.sampled_lengths) for report in (old, new)]
    gap = float(np.abs(cumulative[0] - cumulative[1]).max())
    return [*rows, Comparison("sampled_lengths_ks", 0.0, gap, 0.1)]


def held_out_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, documents: list[language.Document]
) -> tuple[float, int]:
    """Mean −log p of a token of the responses in nats, EOS included, and the number of tokens."""
    with torch.no_grad():
        parts = [response_loss(model, tokenizer, documents[i : i + 256]) for i in range(0, len(documents), 256)]
    tokens = sum(count for _, count in parts)
    return float(sum(loss for loss, _ in parts)) / tokens, tokens


def held_out_documents(config: PretrainConfig, rng: np.random.Generator) -> list[language.Document]:
    return [language.sample_document(rng, "held_out") for _ in range(config.held_out_documents)]


def _stream(config: PretrainConfig, use: str) -> np.random.Generator:
    return np.random.default_rng([config.seed, _STREAMS[use]])


def _existing(folder: str | Path) -> Path:
    path = find_folder(folder)
    if not (path / REPORT).is_file():
        raise FileNotFoundError(
            f"folder = {str(folder)!r}: must hold a saved model, or be one of {', '.join(EMBEDDED)}"
        )
    return path


def _commit() -> str | None:
    """The git commit of the code that trains, marked if that code has changed since; None without git."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parents[1]
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git(
            "status",
            "--porcelain",
            "--",
            "embedded/language.py",
            "models/architectures.py",
            "training/pretrain.py",
            "training/pretrain_fit.py",
        )
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
