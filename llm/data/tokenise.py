"""Token ids of one row: what is trained on is encode(prompt) + completion ids, one BOS before, one EOS after.

A prompt and a completion are never encoded as one string, so no token spans the boundary and the prompt's ids are
those that a sampler is given. The price: where the joint text would have merged across the boundary, the ids differ
from those of the joint text, and a SentencePiece tokenizer begins the completion as it begins any text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm.data.chat_template import PROBE, ChatTemplate
from llm.data.formats import Conversation, Reason, Row, RowError, Text
from llm.data.stops import up_to_stop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnTooLong = Literal["refuse", "drop", "truncate"]


@dataclass(frozen=True)
class Limits:
    """max_prompt_length, max_completion_length: in tokens, BOS and EOS counted; None is no limit."""

    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    on_too_long: OnTooLong = "refuse"


@dataclass(frozen=True, eq=False)
class Example:
    """A row as token ids.

    where: the row's position in its source. prompt: as read, for reward functions; extra: further columns.
    prompt_ids: (P,) int32; completion_ids: K arrays (L_k,) int32, each with its EOS unless truncated. chosen_by_policy:
    K arrays (L_k,) bool, False on tokens within a completion of several turns that are not the assistant's; None: all
    are. turns: the K completions as read, where one of them has several turns; else None.
    """

    where: str
    prompt: Text
    prompt_ids: np.ndarray
    completion_ids: tuple[np.ndarray, ...]
    label: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    chosen_by_policy: tuple[np.ndarray, ...] | None = None
    turns: tuple[Conversation, ...] | None = None

    def digest(self) -> bytes:
        """16 bytes that identify what the row says: prompt, completions, label and further columns; not where it is.
        The prompt as tokens and as text, which reward functions read: one token may stand for many words."""
        found = hashlib.blake2b(digest_size=16)
        for ids in (self.prompt_ids, *self.completion_ids, *(self.chosen_by_policy or ())):
            found.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        beside = [self.label, dict(self.extra), self.prompt]
        try:
            said = json.dumps(beside, default=str, sort_keys=True)
        except (TypeError, ValueError):  # keys that are no text, or a list in itself, of rows that Python code gives
            said = repr(beside)
        found.update(said.encode(errors="replace"))
        return found.digest()


class TextEncoder:
    """A tokenizer with its special tokens made explicit.

    front: the tokens that the tokenizer itself puts before a text, BOS in most; none in some, whatever their bos_token
    is (GPT-2 and Pythia define one and do not use it). pad is eos where the tokenizer has no pad token: padding is
    known from masks, never from ids. ends: further tokens at which a policy stops, besides EOS (a generation config may
    name several). stop_strings: texts that end a response, too.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int] = (), stop_strings: Sequence[str] = ()
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer.eos_token is not set: without it no completion can end")
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.ends: tuple[int, ...] = tuple(dict.fromkeys((self.eos, *ends)))
        self.stop_strings = tuple(stop_strings)
        self._whole_text = whole_text(tokenizer)
        self.chat = ChatTemplate(tokenizer)
        whole, own = tokenizer.encode("a"), self.encode("a")
        count = next((at for at in range(len(whole)) if whole[at : at + len(own)] == own), 0)
        self.front: list[int] = list(dict.fromkeys(whole[:count]))

    def encode(self, text: str) -> list[int]:
        """Token ids with nothing added; verbose=False, because limits are checked here."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def prompt(self, text: str) -> list[int]:
        """Prompt ids: `front` exactly once in front, whether the text has it not at all or several times."""
        ids = self._behind_front(self.encode(text))
        if not ids:
            raise RowError("empty", "prompt has no tokens")
        return [*self.front, *ids]

    def whole_text(self, ids: list[int]) -> tuple[list[int], list[list[int]]]:
        """A text without a prompt as prompt and completion: `front`, or its first token, which nothing predicts."""
        ids, first = [*self.front, *self._behind_front(ids)], max(1, len(self.front))
        if len(ids) < first + 2:
            raise RowError("empty", "text has fewer than two tokens")
        return ids[:first], [ids[first:]]

    def _behind_front(self, ids: list[int]) -> list[int]:
        """Ids without `front` before them, however often it stands there."""
        step = len(self.front)
        while step and ids[:step] == self.front:
            ids = ids[step:]
        return ids

    def end_of_prompt(self, ids: list[int], most: int) -> list[int]:
        """The last `most` tokens of a prompt, `front` among them."""
        front = ids[: len(self.front)]
        return ids if len(ids) <= most else front + ids[len(ids) - most + len(front) :]

    def completion(self, text: str, may_be_empty: bool = False) -> list[int]:
        """Completion ids: exactly one end token, the last: the first that the text has, or EOS where it has none.

        What a chat template writes after it (a line break, or another end, in many) is cut: a sampler stops at its
        first end and never writes it. Any other text after the end is refused. A text with a stop string ends with it,
        without an end token.
        """
        kept = up_to_stop(text, self.stop_strings) if self.stop_strings else None
        ids = self.encode(text if kept is None else kept)
        if kept is not None and not any(token in self.ends for token in ids):
            return ids
        end = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
        if end == 0 and not may_be_empty:
            raise RowError("empty", "a completion has no tokens before its EOS")
        rest = [token for token in ids[end:] if token not in self.ends]
        if rest and self._whole_text(rest).strip():
            raise RowError("malformed", "a completion goes on after its EOS token")
        return [*ids[:end], *(ids[end : end + 1] or [self.eos])]

    def without_ends(self, text: str) -> str:
        """A text without what would be read as an end token: every time that it is written out, that which is left once
        one within it is gone, and that which the tokenizer takes for one (</S> where it lowers capitals)."""
        while set(ids := self.encode(text)) & set(self.ends):
            rest = text.replace(str(self.tokenizer.eos_token), "")
            rest = rest if rest != text else self._whole_text([token for token in ids if token not in self.ends])
            if len(rest) >= len(text):
                break
            text = rest
        return text

    def render(self, row: Row) -> tuple[str, list[str]]:
        """A conversation's prompt and completions as text, by the chat template.

        A completion is what the template adds to the rendered prompt, which must stay as it was.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError("the data are conversational and tokenizer.chat_template is not set")
        prompt = self.chat.render(row.prompt, add_generation_prompt=True)
        conversations: list[list[Any]] = [[*row.prompt, *completion] for completion in row.completions]
        whole = [self.chat.render(messages) for messages in conversations]
        if any(not text.startswith(prompt) for text in whole):
            raise RowError("malformed", "the chat template writes the prompt otherwise once a response follows")
        for messages, text in zip(conversations or [list(row.prompt)], whole or [prompt], strict=True):
            self.chat.check_all_is_written(messages, text, bool(conversations))
        return prompt, [text[len(prompt) :] for text in whole]

    def turns(self, prompt: Text, completion: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        """Ids of a completion of several messages, and which of them are the assistant's: its words and its ends.

        What others say, and what the template writes between messages, is read and not trained on.
        """
        before = self.chat.render(prompt, add_generation_prompt=True)
        ids: list[int] = []
        chosen: list[bool] = []
        for at, message in enumerate(completion):
            last, own = at == len(completion) - 1, message["role"] == "assistant"
            answers = not last and completion[at + 1]["role"] == "assistant"
            after = self.chat.render([*prompt, *completion[: at + 1]], add_generation_prompt=answers and not own)  # type: ignore[list-item]
            if not after.startswith(before):
                raise RowError("malformed", "the chat template writes earlier messages otherwise once others follow")
            said = self.encode(after[len(before) :])
            if own and last:
                said = self.completion(after[len(before) :])
            end = next((i for i, token in enumerate(said) if token in self.ends), len(said) - 1) if own else -1
            ids += said
            chosen += [i <= end for i in range(len(said))]
            before = after
        return ids, chosen

    def content(self, ids: Sequence[int], frame: tuple[str, str] = ("", ""), special: bool = False) -> str:
        """The text of a response, without its end token and what the template writes itself (`frame`).

        The inverse of `render` and `completion`: where `ids` are a message that went through the template, this is the
        message, even if the template adds an empty think block before it or a line break after it. special: whether
        the other special tokens within it, such as role marks that a policy wrote, are kept in letters, from which
        `encode` makes them again; else they are left out, as readers of text want it. frame: with the same `special`.
        """
        text = self._said(ids, special)
        opening, closing = frame
        # A response that was cut off lacks the template's closing: a line break at its end is the policy's.
        return text.removeprefix(opening).removesuffix(closing if ids and ids[-1] in self.ends else "")

    def prompt_text(self, prompt: Text) -> str:
        """A prompt as it is encoded: messages as the chat template writes them before an answer."""
        return prompt if isinstance(prompt, str) else self.chat.render(prompt, add_generation_prompt=True)

    def has_stop(self, ids: Sequence[int]) -> bool:
        """Whether the text of tokens has a stop string."""
        return bool(self.stop_strings) and up_to_stop(self._whole_text(ids), self.stop_strings) is not None

    def decode(self, ids: Sequence[int]) -> str:
        """Text, special tokens left out, and otherwise as it was written: no space before a mark is taken away."""
        return plain_text(self.tokenizer, ids)

    def _said(self, ids: Sequence[int], special: bool) -> str:
        """The text of tokens; special ones left out, or only the ends."""
        return self._whole_text([token for token in ids if token not in self.ends]) if special else self.decode(ids)

    def frame(self, prompt: Text, special: bool = False) -> tuple[str, str]:
        """What the chat template writes before and after a response to a prompt, as `content` has it."""
        if isinstance(prompt, str):
            return "", ""
        try:
            _, (written,) = self.render(Row(prompt, ([{"role": "assistant", "content": PROBE}],)))
            opening, found, closing = written.partition(PROBE)
            closing_ids = self.completion(closing, may_be_empty=True)
        except RowError:
            return "", ""  # a template that cannot be inverted: its data are refused, fresh responses left as they are
        return (self._said(self.encode(opening), special), self._said(closing_ids, special)) if found else ("", "")


def plain_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of tokens, special ones left out. Many a tokenizer's own `decode` also writes "a ." as "a.": what is
    rewarded would not be what was written."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def whole_text(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """The text of tokens, special ones included, as it is: what stop strings are looked for in."""
    return lambda ids: str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def check_limits(limits: Limits, encoder: TextEncoder) -> None:
    """Refuse limits that leave no room for a token."""
    least = {"max_prompt_length": 1 + len(encoder.front), "max_completion_length": 1}
    for name, low in least.items():
        value = getattr(limits, name)
        if value is not None and value < low:
            raise ValueError(f"{name}={value} is too small: at least {low}, or None for no limit")
    if limits.on_too_long not in ("refuse", "drop", "truncate"):
        raise ValueError(f"on_too_long={limits.on_too_long!r} is not one of refuse, drop, truncate")


def encode_row(where: str, row: Row, encoder: TextEncoder, limits: Limits) -> tuple[Example, list[RowError]]:
    """Ids of one row, and what had to be truncated to get them.

    A prompt is cut to its end (its BOS is kept), a completion to its start, which then has no EOS.
    Raises RowError: too long and not to be truncated; empty; or chosen and rejected the same tokens.
    """
    turns: tuple[Conversation, ...] | None = None
    if isinstance(row.prompt, str):
        prompt_text, completion_texts = row.prompt, [str(completion) for completion in row.completions]
    else:
        prompt_text, completion_texts = encoder.render(row)
    masks: list[list[bool]] | None = None
    if any(not isinstance(completion, str) and len(completion) > 1 for completion in row.completions):
        prompt = encoder.prompt(prompt_text)
        turns = row.completions  # type: ignore[assignment]
        pairs = [encoder.turns(row.prompt, completion) for completion in turns]  # type: ignore[union-attr]
        completions, masks = [ids for ids, _ in pairs], [mask for _, mask in pairs]
    elif row.prompt == "":  # a text alone
        prompt, completions = encoder.whole_text(encoder.completion(completion_texts[0]))
    else:
        prompt = encoder.prompt(prompt_text)
        completions = [encoder.completion(text) for text in completion_texts]
    cuts: list[RowError] = []

    most = limits.max_prompt_length
    if most is not None and len(prompt) > most:
        cuts.append(too_long("prompt_too_long", "prompt", len(prompt), most))
        prompt = encoder.end_of_prompt(prompt, most)
    most = limits.max_completion_length
    if most is not None:
        lengths = [len(completion) for completion in completions]
        if lengths and max(lengths) > most:
            cuts.append(too_long("completion_too_long", "completion", max(lengths), most))
        completions = [completion[:most] for completion in completions]
    if cuts and limits.on_too_long != "truncate":
        raise cuts[0]
    if len(completions) == 2 and completions[0] == completions[1]:
        after = "truncation" if cuts else "tokenisation"
        raise RowError("identical", f"chosen and rejected are the same {len(completions[0])} tokens after {after}")

    arrays = tuple(np.array(ids, dtype=np.int32) for ids in completions)
    chosen = None
    if masks is not None:
        chosen = tuple(np.array(mask[: len(ids)], dtype=bool) for mask, ids in zip(masks, completions, strict=True))
    prompt_ids = np.array(prompt, dtype=np.int32)
    return Example(where, row.prompt, prompt_ids, arrays, row.label, row.extra, chosen, turns), cuts


def encode_response(prompt: Text, said: Text, encoder: TextEncoder, limits: Limits, truncated: bool = False) -> Example:
    """A response to a prompt as token ids, those that `encode_row` makes of the same prompt and text in a row.

    Reward models tokenise responses with this, just as the rows of their training: through the chat template, the
    prompt truncated to `max_prompt_length` if `on_too_long` is truncate, EOS at the end. Unlike a row's, a response may
    be empty, and an EOS written out in it is dropped. truncated: the response was cut at `max_completion_length`, and
    so has no EOS, as a row that is truncated there has none. said: its text; or, where a row has several turns, their
    messages, which are truncated as that row is. RowError where the chat template refuses the conversation.
    """
    truncates = limits.on_too_long == "truncate"
    if not isinstance(said, str):
        return encode_row("", Row(prompt, (said,)), encoder, limits if truncates else Limits())[0]
    text, prompt_text = encoder.without_ends(said), prompt
    if not isinstance(prompt_text, str):
        prompt_text, (text,) = encoder.render(Row(prompt, ([{"role": "assistant", "content": text}],)))
    ids = np.array(encoder.completion(text, may_be_empty=True), dtype=np.int32)
    kept = encoder.prompt(prompt_text)
    if truncates and limits.max_prompt_length is not None:
        kept = encoder.end_of_prompt(kept, limits.max_prompt_length)
    if truncated:
        ids = ids[: limits.max_completion_length]
    return Example("", prompt, np.array(kept, dtype=np.int32), (ids,))


def too_long(reason: Reason, name: str, length: int, most: int) -> RowError:
    return RowError(reason, f"{name} has {length} tokens, max_{name}_length={most}")
