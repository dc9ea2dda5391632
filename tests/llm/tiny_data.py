"""Tokenizers of a few hundred tokens for tests of data, and a loader that keeps what it logs."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from llm.data import load_examples

CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level(bos: bool = False, **options) -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows whole words, so that "sky" + "light" would merge; there is no pad token.

    bos: with a BOS put before (and an EOS put after) each text, by the tokenizer itself.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The sky is blue.", "The skylight is green.", "skylight skylight"] * 20, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", additional_special_tokens=special[2:], **options
    )


def word_level() -> PreTrainedTokenizerFast:
    """One token a word: lengths can be counted by eye. It has a pad token, puts a BOS in front, ignores white space."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


BPE, BPE_BOS, WORDS = byte_level(), byte_level(bos=True), word_level()
CHAT_BPE = byte_level(bos=True, chat_template=CHAT)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def load(rows, tokenizer=WORDS, **options):
    lines: list[str] = []
    examples, report = load_examples(rows, tokenizer, log=lines.append, **options)
    return examples, report, lines


def ids(array: np.ndarray) -> list[int]:
    return array.tolist()


ASK = [user("q")]
PREFERENCE = {"prompt": "p", "chosen": "a", "rejected": "b"}
CHAT_ROW = {"prompt": ASK, "completion": [assistant("a")]}
