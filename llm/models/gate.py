"""What every model folder passes when it is loaded, as a policy, a reference or a reward model.

Before: its files lie inside the folder, can be read, and hold no pickle. After: every layer of the model has weights,
every weight is a number, and tokenizer, end tokens and embedding fit. Each error is a SpecError that names the setting,
the folder, the file or tensor, and what would be valid. What the weights compute is proven by `llm.models.proof`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from llm.embedded import EMBEDDED
from sims.core.spec import SpecError
from sims.experiments.command import short
from sims.experiments.foreign_text import parse_json
from sims.experiments.whole import CHECKSUMS, changed

from .decoding import Decoding
from .tensor_file import tensor_file

GENERATION = "generation_config.json"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SAMPLING = (  # settings of a generation config that change what is drawn
    *("do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("num_beams", "penalty_alpha", "guidance_scale", "sequence_bias", "bad_words_ids", "watermarking_config"),
    *("repetition_penalty", "no_repeat_ngram_size", "exponential_decay_length_penalty", "min_length"),
    *("min_new_tokens", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    "stop_strings",
)
_MOST_LAYERS = 10_000
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def check_folder(field: str, folder: Path) -> None:
    """SpecError for a local folder whose configuration or weights are not there, damaged or outside of it."""
    if (folder / ADAPTER).is_file():
        read_json(field, folder, ADAPTER)
        _check_tensors(field, folder, ADAPTER_WEIGHTS)
        return
    read_json(field, folder, CONFIG)
    if (folder / GENERATION).is_file():  # one that cannot be read, transformers takes for none: its ends would be lost
        read_json(field, folder, GENERATION)
    if not (folder / INDEX).is_file():
        _check_tensors(field, folder, WEIGHTS)
        return
    index = read_json(field, folder, INDEX)
    if not isinstance(index.get("metadata"), dict):  # transformers asks for it, and says KeyError
        raise SpecError(field, str(folder), f'{INDEX}: metadata must be an object, as in "metadata": {{}}')
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise SpecError(field, str(folder), f"{INDEX}: weight_map must be an object of tensor and file names")
    files = sorted(set(placed.values()))
    if (folder / WEIGHTS).is_file() and WEIGHTS not in files:  # transformers would take it, and it may be an older one
        rule = f"has {WEIGHTS} and {INDEX}, which names other files: must have the weights once: remove one of the two"
        raise SpecError(field, str(folder), rule)
    for file in files:
        if Path(file).name != file:
            raise SpecError(field, str(folder), f"{INDEX} names {file!r}: must be files of this folder")
        held = _check_tensors(field, folder, file)
        for tensor in (name for name, where in placed.items() if where == file and name not in held):
            raise SpecError(field, str(folder), f"{file} has no tensor {tensor!r}, which {INDEX} says it must have")
        for tensor in (name for name in held if placed.get(name, file) != file):  # the last file read would be taken
            raise SpecError(field, str(folder), f"{file} has {tensor!r} too, which {INDEX} says is in {placed[tensor]}")


def check_written(field: str, folder: Path) -> None:
    """SpecError for weights that are not those that one of our commands wrote there; a line about other files."""
    try:
        found = changed(folder) if (folder / CHECKSUMS).exists() else []
    except (OSError, ValueError) as error:
        _say(f"{folder}: {CHECKSUMS} cannot be read, so nothing is compared with it: {error}")
        return
    for name in found:
        rule = f"{name} is not what was written there (its checksum differs)"
        if name.endswith(".safetensors") and (folder / name).exists():
            much = f"damaged: {rule}: if it was changed on purpose, delete {CHECKSUMS} there"
            raise SpecError(field, str(folder), much)
        _say(f"{folder}: {rule}, and is taken as it is")


def read_json(field: str, folder: Path, file: str) -> dict[str, Any]:
    """A JSON object from a folder. SpecError where there is none."""
    try:
        found = parse_json((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        rule = f"has no {file}: must be {', '.join(EMBEDDED)}, a folder with a model, or a hub name"
        raise SpecError(field, str(folder), rule) from None
    except (OSError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise SpecError(field, str(folder), f"{file} cannot be read: {first}: must be a JSON object") from error
    if not isinstance(found, dict):
        raise SpecError(field, str(folder), f"{file} is of type {type(found).__name__}: must be a JSON object")
    return found


def _check_tensors(field: str, folder: Path, file: str) -> set[str]:
    """The names of the tensors in a file of safetensors. SpecError for weights that are no floating-point numbers."""
    if not (folder / file).is_file():
        pickled = next((path.name for path in sorted(folder.glob("*.bin"))), None)
        instead = "" if pickled is None else f", only {pickled}, a pickle, which may run code when it is read"
        raise SpecError(field, str(folder), f"has no {file}{instead}: must hold weights as safetensors")
    try:
        with tensor_file(folder / file) as path, safe_open(path, framework="pt") as opened:
            kinds = {name: str(opened.get_slice(name).get_dtype()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise SpecError(field, str(folder), f"{file} is damaged: {first}: must be a file of safetensors") from error
    for name, kind in kinds.items():  # masks and positions of some architectures are of other types, and no weights
        if name.endswith(".weight") and not kind.startswith(("F", "BF")):
            raise SpecError(field, str(folder), f"{file}: {name} is of type {kind}: must be of floating-point numbers")
    return set(kinds)


def check_sizes(field: str, folder: Path) -> None:
    """SpecError for a size in a folder's configuration that is none; versions of transformers say so differently."""
    held = read_json(field, folder, CONFIG)
    for name in _SIZES:
        value, least = held.get(name), 0 if name == "num_hidden_layers" else 1
        if isinstance(value, str | bool) or (isinstance(value, int) and value < least):
            raise SpecError(field, str(folder), f"{CONFIG}: {name} = {json.dumps(value)}: must be int >= {least}")
        if (
            name == "num_hidden_layers" and isinstance(value, int) and value > _MOST_LAYERS
        ):  # built before it is refused
            rule = f"must be at most {_MOST_LAYERS:,}"
            raise SpecError(field, str(folder), f"{CONFIG}: {name} = {json.dumps(value)}: {rule}")


def check_config(field: str, name: str, config: PretrainedConfig) -> None:
    """SpecError for a configuration of several parts, or without a vocabulary."""
    if config.get_text_config() is not config:
        kind = config.model_type
        raise SpecError(field, name, f"is a composite of several models ({kind}): must be a text model alone")
    if config.is_encoder_decoder:
        raise SpecError(field, name, f"is an encoder with a decoder ({config.model_type}): must be a decoder alone")
    if not isinstance(vocabulary := getattr(config, "vocab_size", None), int) or vocabulary < 1:
        raise SpecError(field, name, f"{CONFIG}: vocab_size = {vocabulary}: must be int >= 1")


def check_loaded(
    field: str,
    name: str,
    model: nn.Module,
    info: Mapping[str, Iterable[Any]],
    may_lack: Iterable[str] = (),
    may_have: Iterable[str] = (),
) -> None:
    """SpecError for layers without weights, weights without layers, and weights that are not numbers.

    info: what transformers tells of its loading. may_lack, may_have: names of tensors that a model is allowed to lack,
    and beginnings of those it may have.
    """
    missing = sorted(set(map(str, info["missing_keys"])) - set(may_lack))
    if missing:
        raise SpecError(field, name, f"has no weights for {_some(missing)}: must have those of all layers of {CONFIG}")
    left = sorted(key for key in map(str, info["unexpected_keys"]) if not key.startswith(tuple(may_have)))
    if left:
        raise SpecError(field, name, f"has weights of no layer, {_some(left)}: must have those of {CONFIG} alone")
    shapes = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys", ()))
    if shapes:
        raise SpecError(field, name, f"has weights of another shape than {CONFIG} says: {_some(shapes)}")
    check_finite(field, name, model)


def check_finite(field: str, name: str, model: nn.Module) -> None:
    """SpecError for the first weight that is not a number."""
    for tensor, weight in model.named_parameters():
        if not weight.is_meta and not bool(torch.isfinite(weight).all()):
            count = int((~torch.isfinite(weight)).sum())
            raise SpecError(field, name, f"{tensor}: {count} of {weight.numel()} weights are NaN or infinite")


def check_tokenizer(field: str, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """SpecError for a tokenizer without EOS, and for one that draws how it splits a word (BPE with dropout)."""
    if tokenizer.eos_token_id is None:
        raise SpecError(field, name, "its tokenizer has no EOS token: must have one, or no response ends")
    dropout = getattr(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), "dropout", None)
    if dropout:
        rule = "must be none, or one text has other tokens each time"
        raise SpecError(field, name, f"its tokenizer has dropout = {dropout:g}: {rule}")


def check_tokens(field: str, name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """SpecError for a tokenizer whose ids the embedding lacks, and for end tokens that are no token.

    An embedding may be larger than its tokenizer: many are, for speed.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    most = max(tokenizer.get_vocab().values(), default=-1)
    if most >= rows:
        rule = f"must be below the {rows} rows of the model's embedding"
        raise SpecError(field, name, f"its tokenizer has the token id {most}: {rule}")
    check_tokenizer(field, name, tokenizer)
    for where in ("generation_config", "config"):
        settings = getattr(model, where, None)
        for token in _TOKENS:
            value = getattr(settings, token, None)
            for one in value if isinstance(value, list | tuple) else [] if value is None else [value]:
                # Some configurations have −1 where they mean none.
                if isinstance(one, bool) or not isinstance(one, int) or not -1 <= one < rows:
                    raise SpecError(field, name, f"{where}.json: {token} = {value}: must be token ids below {rows}")


def _some(names: list[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def keep_savable(model: Any, name: str) -> None:
    """Replace a generation config that transformers would refuse to save after training by its tokens, and say so."""
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            settings.save_pretrained(scratch)
        except ValueError as error:
            model.generation_config = GenerationConfig(**{token: getattr(settings, token, None) for token in _TOKENS})
            first = " ".join(str(error).split())[:200]
            _say(f"{name}: generation_config.json is saved without its settings of sampling, as it is invalid: {first}")


def say_unused(model: Any, name: str, decoding: Decoding) -> None:
    """Name the settings of sampling in a generation config: they are never applied, only its end tokens are."""
    held = getattr(model, "generation_config", None)
    asked = (
        {} if held is None else {key: value for key in _SAMPLING if (value := held.to_diff_dict().get(key)) is not None}
    )
    unlike = {key: value for key, value in asked.items() if getattr(decoding, key, None) != value}
    if unlike and unlike != {"do_sample": True}:
        listed = ", ".join(f"{key} = {value}" for key, value in unlike.items())
        drawn = f"temperature = {decoding.temperature} and top_p = {decoding.top_p}"
        _say(f"{name}: generation_config.json asks for {listed}, not applied: responses are drawn at {drawn}")


def _say(line: str) -> None:
    """Print on standard error, of the first process only."""
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(line, file=sys.stderr)


@contextmanager
def loading(field: str, name: str, rule: str = "") -> Iterator[None]:
    """Turns whatever transformers raises while it loads a model into a SpecError of one line, and keeps it quiet.

    rule: what would be valid.
    """
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rule = rule or f"must be {', '.join(EMBEDDED)}, a folder with a model, or a hub name"
    try:
        yield
    except (SpecError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of transformers, safetensors, the hub's client, or a configuration's own code
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        kind = "" if isinstance(error, OSError | ValueError) and lines else f"{type(error).__name__}: "
        said = " ".join(lines).replace(name, short(name))  # the hub's client repeats a name of any length
        raise SpecError(field, name, f"{rule}: {kind}{said[:400]}") from error
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
