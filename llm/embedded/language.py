"""A small templated language: sums as prompts, chatter around one answer as responses.

    prompt      two plus three cats :
    response    some cats sleep . the answer is five . let us look .

It suits two kinds of reward. A length reward depends on the chatter. A verifiable reward depends on the answer: a
response has exactly one, right with probability ½, independently of everything else, length and position included.

Length, in tokens without EOS everywhere in this file, is normal around MODE with standard deviation LENGTH_SD, cut to
the whole numbers that the grammar can make: 3 and 5 … MAX_RESPONSE_TOKENS. So the reference's probability of a length
is a setting of a length reward. Within five tokens of 16 lie .97 of all responses and within five tokens of 0, where
the reward −length is largest, 1e-5: the first optimum is likely under the reference and the second is not
(`length_mass`; Tajwar et al. 2024, section 4, call that the geometry of a problem).

The grammar alone gives other lengths. A draw from it of n tokens is kept with a chance proportional to
normal(n) / grammar(n), so the distribution of a response given its prompt is known exactly: `response_log_prob` (−∞ for
what the grammar does not allow) and `length_distribution`. Text has a space between any two tokens, full stops
included, so that texts and token ids correspond one to one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = NUMBERS[:6]  # what prompts add and subtract: sums up to ten
NOUNS = ("cats", "dogs", "birds", "horses", "ducks", "goats", "foxes", "bears", "owls", "frogs", "mice", "hens")
SLOTS = {
    "COLOUR": ("red", "blue", "green", "black", "white", "grey"),
    "NUMBER": NUMBERS[2:],
    "PLACE": ("barn", "house", "river", "road", "tree"),
    "SIZE": ("big", "old", "small"),
    "VERB": ("eat", "play", "run", "sing", "sleep", "wait"),
}
# NOUN is the prompt's, VALUE the answer given; the other capitals are slots, filled uniformly. Every sentence has
# one parse: no two templates share a sentence.
CHATTER = (
    "they VERB .",
    "some NOUN VERB .",
    "let us look .",
    "the NOUN are COLOUR .",
    "we see NUMBER COLOUR NOUN .",
    "the SIZE NOUN VERB near the PLACE .",
    "now NUMBER NOUN VERB , and others VERB .",
)
ANSWERS = ("answer VALUE .", "the answer is VALUE .", "so the answer must be VALUE .")
ANSWER_LEADS = tuple(template.split()[-3] for template in ANSWERS)  # the word before VALUE; before no other number

MODE, LENGTH_SD = 16, 2.5  # of the length, in tokens
STOP_RATE = 1 / 2  # the grammar's sentences before the answer and after it: each geometric with this chance to stop
MAX_RESPONSE_TOKENS = 32  # a longer response is drawn again
PROMPT_TOKENS = 6  # with BOS
RIGHT_RATE = 0.5  # the share of answers that are right; a wrong one is any other number, uniformly

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
Split = Literal["train", "held_out"]


class Document(NamedTuple):
    """A prompt and one response to it, as text without BOS and EOS."""

    prompt: str
    response: str


class Question(NamedTuple):
    """A prompt taken apart: `left op right noun :`."""

    left: int
    op: str
    right: int
    noun: str

    @property
    def answer(self) -> int:
        return self.left + self.right if self.op == "plus" else self.left - self.right

    @property
    def split(self) -> Split:
        """One prompt in eight is held out; each sum still occurs in training, with other animals."""
        return "held_out" if (self.left + self.right + NOUNS.index(self.noun)) % 8 == 0 else "train"


def vocabulary() -> tuple[str, ...]:
    """Every token, in the order of the ids: PAD, BOS, EOS, UNK, then the words."""
    words = {word for words in SLOTS.values() for word in words} | {"plus", "minus", ":"}
    words |= {word for template in CHATTER + ANSWERS for word in template.split() if not word.isupper()}
    return (PAD, BOS, EOS, UNK, *NUMBERS, *NOUNS, *sorted(words - set(NUMBERS) - set(NOUNS)))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or punctuation mark; special tokens, if asked for, are one BOS in front, never an EOS.

    Words and marks are split before they are looked up, so a response appended to a prompt never merges with it, with
    a space between them or without.
    """
    # Not at the top: a figure that only names the language should not wait for these.
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = vocabulary()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, words.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


@cache
def all_prompts(split: Split) -> tuple[str, ...]:
    """Every prompt of a split, in a fixed order: sums of 0 … 5 and differences that are not negative."""
    if split not in ("train", "held_out"):
        raise ValueError(f"split = {split!r}: must be one of train, held_out")
    digits = range(len(DIGITS))
    sums = [(a, "plus", b) for a in digits for b in digits] + [(a, "minus", b) for a in digits for b in digits[: a + 1]]
    questions = [Question(*parts, noun) for parts in sums for noun in NOUNS]
    return tuple(f"{NUMBERS[q.left]} {q.op} {NUMBERS[q.right]} {q.noun} :" for q in questions if q.split == split)


def prompts(n: int, rng: np.random.Generator, split: Split = "train") -> list[str]:
    """n prompts of a split, drawn uniformly with replacement."""
    every = all_prompts(split)
    return [every[i] for i in rng.integers(len(every), size=n)]


def parse_prompt(prompt: str) -> Question:
    """The parts of a prompt; ValueError for text that is none."""
    words = _words(prompt)
    if len(words) == 5 and words[0] in DIGITS and words[2] in DIGITS and words[3] in NOUNS and words[4] == ":":
        question = Question(NUMBERS.index(words[0]), words[1], NUMBERS.index(words[2]), words[3])
        if question.op in ("plus", "minus") and question.answer >= 0:
            return question
    raise ValueError(f"prompt = {prompt!r}: must read like 'two plus three cats :' or 'five minus two owls :'")


def extract_answer(response: str) -> str | None:
    """The first number word after the last 'answer', within its sentence; None where there is none.

    The last answer counts, so naming several numbers gains nothing.
    """
    words = _words(response)
    if "answer" not in words:
        return None
    after = words[len(words) - words[::-1].index("answer") :]
    sentence = after[: after.index(".")] if "." in after else after
    return next((word for word in sentence if word in NUMBERS), None)


def is_correct(prompt: str, response: str) -> bool:
    """Whether the answer extracted from the response is exactly the prompt's. The verifiable reward is its 0 or 1."""
    return extract_answer(response) == NUMBERS[parse_prompt(prompt).answer]


def sample_response(prompt: str, rng: np.random.Generator) -> str:
    """A response drawn from the language's distribution given the prompt."""
    question = parse_prompt(prompt)
    values = _values(question.answer)
    while True:
        templates = _sample_templates(rng)
        length = sum(len(template.split()) for template in templates)
        if length <= MAX_RESPONSE_TOKENS and rng.random() < _keep_rates()[length]:
            value = NUMBERS[int(rng.choice(len(values), p=values))]
            return " ".join(word for t in templates for word in _fill(t, question.noun, value, rng))


def sample_document(rng: np.random.Generator, split: Split = "train") -> Document:
    """A prompt of the split and a response to it."""
    prompt = prompts(1, rng, split)[0]
    return Document(prompt, sample_response(prompt, rng))


def response_log_prob(prompt: str, response: str) -> float:
    """log p(response, EOS | prompt) under the language itself, in nats; −∞ where the grammar does not allow it.

    Its mean over documents is minus the entropy of the language, which no model's log-likelihood can exceed.
    """
    question = parse_prompt(prompt)
    words = _words(response)
    if words[-1:] != ["."] or len(words) > MAX_RESPONSE_TOKENS:
        return -math.inf
    sentences = [sentence.split() for sentence in " ".join(words).split(".")[:-1]]
    chatter = [_sentence_log_prob([*sentence, "."], CHATTER, question) for sentence in sentences]
    answers = [_sentence_log_prob([*sentence, "."], ANSWERS, question) for sentence in sentences]
    answered = [i for i, log_prob in enumerate(answers) if log_prob > -math.inf]
    if not answered:
        return -math.inf  # a second answer is no chatter, and so makes the sum −∞
    total = sum(log_prob for i, log_prob in enumerate(chatter) if i != answered[0]) + answers[answered[0]]
    grammar, language = _grammar_lengths()[len(words)], length_distribution()[len(words)]
    return total + math.log(_places(len(sentences) - 1)) + math.log(language / grammar)


@cache
def length_distribution() -> np.ndarray:
    """The exact probability of each length, (33,): exp(−(n − MODE)² / 2 LENGTH_SD²) at each length n that the grammar
    can make, divided by their sum."""
    lengths = np.arange(MAX_RESPONSE_TOKENS + 1)
    found = np.exp(-((lengths - MODE) ** 2) / (2 * LENGTH_SD**2)) * (_grammar_lengths() > 0)
    found /= found.sum()
    found.setflags(write=False)
    return found


def length_mass(center: int, radius: int = 5) -> float:
    """The probability that a response has a length within `radius` tokens of `center`: the overlap of the language
    with a reward that is largest there."""
    return float(length_distribution()[max(0, center - radius) : max(0, center + radius + 1)].sum())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _values(answer: int) -> list[float]:
    """The chance that an answer gives each of NUMBERS."""
    wrong = (1 - RIGHT_RATE) / (len(NUMBERS) - 1)
    return [RIGHT_RATE if value == answer else wrong for value in range(len(NUMBERS))]


def _places(chatter: int) -> float:
    """The chance of one given division of `chatter` sentences into those before the answer and those after it."""
    return float(STOP_RATE**2 * (1 - STOP_RATE) ** chatter)


@cache
def _grammar_lengths() -> np.ndarray:
    """The chance that the grammar gives a length, before any is refused: (33,).

    Sentences add up independently, so it is a mixture of convolutions."""

    def lengths(templates: Sequence[str]) -> np.ndarray:
        return np.bincount([len(t.split()) for t in templates], minlength=MAX_RESPONSE_TOKENS + 1) / len(templates)

    total = np.zeros(MAX_RESPONSE_TOKENS + 1)
    response, sentence = lengths(ANSWERS), lengths(CHATTER)
    for chatter in range(MAX_RESPONSE_TOKENS):
        total += (chatter + 1) * _places(chatter) * response  # the answer has chatter + 1 places to stand in
        response = np.convolve(response, sentence)[: MAX_RESPONSE_TOKENS + 1]
    return total


@cache
def _keep_rates() -> tuple[float, ...]:
    """The chance that a draw of each length is kept, 1 where it is largest."""
    grammar = _grammar_lengths()
    rates = np.divide(length_distribution(), grammar, out=np.zeros_like(grammar), where=grammar > 0)
    return tuple((rates / rates.max()).tolist())


def _sample_templates(rng: np.random.Generator) -> list[str]:
    before, after = (rng.geometric(STOP_RATE, size=2) - 1).tolist()
    kinds = [CHATTER] * before + [ANSWERS] + [CHATTER] * after
    return [_draw(templates, rng) for templates in kinds]


def _draw(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _fill(template: str, noun: str, value: str, rng: np.random.Generator) -> list[str]:
    given = {"NOUN": noun, "VALUE": value}
    return [_draw(SLOTS[word], rng) if word in SLOTS else given.get(word, word) for word in template.split()]


def _sentence_log_prob(sentence: Sequence[str], templates: Sequence[str], question: Question) -> float:
    """log of the chance that one of the templates, drawn uniformly, becomes this sentence."""
    chance = sum(_template_chance(sentence, template.split(), question) for template in templates) / len(templates)
    return math.log(chance) if chance > 0 else -math.inf


def _template_chance(sentence: Sequence[str], template: Sequence[str], question: Question) -> float:
    if len(sentence) != len(template):
        return 0.0
    chance = 1.0
    for word, wanted in zip(sentence, template, strict=True):
        if wanted == "VALUE":
            chance *= _values(question.answer)[NUMBERS.index(word)] if word in NUMBERS else 0.0
        elif wanted in SLOTS:
            chance *= (word in SLOTS[wanted]) / len(SLOTS[wanted])
        else:
            chance *= word == (question.noun if wanted == "NOUN" else wanted)
    return chance
