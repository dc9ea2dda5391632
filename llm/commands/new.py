"""`python -m llm new`: train a tokenizer on your own texts, and make a small untrained model for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from llm.data import RowError, read_rows
from llm.data.rows import first_of
from llm.models.architectures import Architecture, build_model, check_shape
from llm.models.writing import write_model
from llm.training.memory import check_new_model
from sims.core.spec import Spec, SpecError, setting, to_json
from sims.experiments.command import tell
from sims.experiments.folders import check_new, path
from sims.experiments.options import OptionParser, add_options, from_options

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"  # ids 0, 1, 2
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
EXAMPLES = """examples:
  python -m llm new --data pairs.jsonl --output base
  python -m llm sft --model base --data pairs.jsonl --data-kind prompt_completion --completion-column chosen
"""


@dataclass(frozen=True)
class NewModel(Spec, kind="new_model"):
    """The texts that a new tokenizer is trained on, and the size of the new model."""

    data: str = setting(help="texts: a .jsonl, .jsonl.gz or .parquet file, a folder of them, or a hub name")
    data_split: str | None = setting(None, "split to read, of a folder or a hub data set")
    data_config: str | None = setting(None, "configuration (subset) of a hub data set")
    text_columns: tuple[str, ...] = setting(
        ("prompt", "chosen", "rejected", "completion"), "columns that the tokenizer is trained on; a row may lack some"
    )
    vocab_size: int = setting(
        4096, "largest vocabulary: 256 bytes, 3 special tokens, and merges", at_least=len(_BYTES) + len((PAD, BOS, EOS))
    )
    architecture: Architecture = setting("pythia", "architecture of the transformer")
    hidden: int = setting(128, "width of the hidden states", at_least=1)
    layers: int = setting(4, "number of transformer blocks", at_least=1)
    heads: int = setting(4, "attention heads per block", at_least=1)
    max_positions: int = setting(512, "longest sequence that the model accepts, in tokens", at_least=2)
    seed: int = setting(0, "seed of the random weights", at_least=0)

    def check(self) -> None:
        check_shape(self.architecture, self.hidden, self.heads)


def texts(config: NewModel) -> Iterator[str]:
    """Every text in the columns `text_columns`; of a conversation, the content of each message.

    Rows that cannot be read are left out, and told: the commands that train on the data refuse them. Raises SpecError
    where no row has such a column.
    """
    found, rows, unreadable = False, 0, []
    for where, row in read_rows(config.data, config.data_split, config.data_config):
        rows += 1
        if not isinstance(row, dict):
            unreadable.append(f"{where}: {row if isinstance(row, RowError) else 'is no object of columns'}")
            continue
        for name in config.text_columns:
            value = row.get(name)
            messages = value if isinstance(value, list) else [{"content": value}]
            for message in messages:
                text = message.get("content") if isinstance(message, dict) else None
                if isinstance(text, str):
                    found = True
                    yield text.encode(errors="ignore").decode()  # a lone surrogate cannot be encoded
    if unreadable:
        tell(f"{config.data}: {len(unreadable)} of {rows} rows are left out: {first_of(unreadable, '; ')}")
    if not rows:
        raise SpecError("data", config.data, "must hold texts: there is no row")
    if not found:
        raise SpecError("text_columns", config.text_columns, f"must name a text column of {config.data}")


def train_tokenizer(lines: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, which can encode any text (Sennrich et al. 2016). It adds BOS before a text and no EOS after it.

    vocab_size: an upper bound; little text gives fewer merges.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS], initial_alphabet=_BYTES, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def create(config: NewModel, folder: Path) -> tuple[int, int]:
    """Write tokenizer and model to a new folder, atomically. Returns the numbers of tokens and of parameters."""
    tokenizer = train_tokenizer(texts(config), config.vocab_size)
    shape = (config.hidden, config.layers, config.heads, config.max_positions)
    model = build_model(config.architecture, len(tokenizer), *shape, seed=config.seed)
    write_model(folder, model, tokenizer, to_json(config))
    return len(tokenizer), sum(parameter.numel() for parameter in model.parameters())


def main(arguments: Sequence[str]) -> int:
    """Write the folder and print the sizes."""
    description: Any = (__doc__ or "").split("`: ")[1]
    parser = OptionParser("python -m llm new", description=description, epilog=EXAMPLES)
    parser.add_argument(
        "--output", required=True, type=path, metavar="DIR", help="folder for tokenizer and model; must not exist"
    )
    add_options(parser, NewModel, "texts and sizes")
    options: argparse.Namespace = parser.parse_strictly(arguments)
    config = from_options(options, NewModel)
    check_new("output", options.output)
    check_new_model(config, len(_BYTES))
    vocabulary, parameters = create(config, options.output)
    print(f"{options.output}: {vocabulary:,} tokens, {parameters:,} parameters, untrained")
    return 0
