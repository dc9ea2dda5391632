"""TRL's row kinds, plain or conversational, each turned into one `Row` or into a reason why not.

Differences from TRL, each because the mask must hold exactly what a policy chose:
1. of a conversational completion of several turns the assistant's alone are trained on; it begins and ends with one;
2. an implicit prompt never ends inside a word ("The sky is b|lue" against "b|rown" splits before the b), and two texts
   of which one begins the other are refused as empty, where TRL cuts one character early;
3. a prompt ends with a user's or a tool's message, never with a partial response;
4. of `messages` the assistant's turns are trained on, from the first on; of `text` everything after BOS, or after the
   first token where the tokenizer has no BOS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from sims.experiments.command import one_line, short

Kind = Literal["preference", "prompt_only", "prompt_completion", "unpaired_preference", "language_modeling"]
Message: TypeAlias = Mapping[str, Any]
Conversation: TypeAlias = Sequence[Message]
Text: TypeAlias = str | Conversation

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "prompt_only": ("prompt",),
    "prompt_completion": ("prompt", "completion"),
    "unpaired_preference": ("prompt", "completion", "label"),
    "language_modeling": ("messages", "text"),  # one of them
}
BESIDE = ("tools", "chat_template_kwargs", "images")  # columns of conversations that change TRL's prompts
ROLES = ("system", "developer", "user", "assistant", "tool")
Reason = Literal[
    "broken_json",
    "missing_column",
    "wrong_type",
    "malformed",
    "empty",
    "identical",
    "prompt_too_long",
    "completion_too_long",
]
LONGEST = 300  # characters of a detail
TOO_LONG: tuple[Reason, ...] = ("prompt_too_long", "completion_too_long")


class RowError(ValueError):
    """Why one row cannot be used: a reason, by which reports count, and a detail for the message, kept to a line."""

    def __init__(self, reason: Reason, detail: str) -> None:
        detail = one_line(detail)
        detail = detail if len(detail) <= LONGEST else short(detail)
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Row:
    """One row of any kind.

    prompt: "" for a `text`, which has none. completions: () for prompt_only, (completion,), or (chosen, rejected).
    label: True where an unpaired completion is desirable; None for other kinds.
    extra: every further column of a prompt_only or preference row, for reward functions; empty for other kinds.
    """

    prompt: Text
    completions: tuple[Text, ...] = ()
    label: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def beside(row: Mapping[str, Any]) -> list[str]:
    """The columns of a row that TRL gives to a chat template, or to a processor of images, beside the conversation."""
    return [name for name in BESIDE if row.get(name) not in (None, "", [], {})]


def check_all_reach_the_prompt(row: Mapping[str, Any]) -> None:
    """RowError for a conversation with something beside it."""
    for name in beside(row):
        way = "write what it says into a system message, or leave the column out"
        raise RowError("malformed", f"the column {name} does not reach the prompt: {way}")


def check_columns(kind: Kind, columns: Mapping[str, str]) -> None:
    """Refuse a kind that does not exist, and a renaming of a column that the kind does not have."""
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r} is not one of {', '.join(get_args(Kind))}")
    unknown = [name for name in columns if name not in COLUMNS[kind]]
    if unknown and kind != "prompt_only":
        valid = ", ".join(COLUMNS[kind])
        raise ValueError(f"columns[{unknown[0]!r}] is not a column of {kind} data, which has {valid}")


def parse_row(raw: Any, kind: Kind, columns: Mapping[str, str] | None = None) -> Row:
    """Check one row as read from a source.

    columns: our name -> the source's name, e.g. {"prompt": "instruction", "chosen": "output_1"}.
    Raises RowError with the reason where the row cannot be used.
    """
    if not isinstance(raw, Mapping):
        raise RowError("wrong_type", f"a row is an object of columns, not {type(raw).__name__}")
    columns = columns or {}
    for ours, theirs in columns.items():
        if theirs not in raw:
            raise RowError("missing_column", f"no {theirs!r} (wanted as {ours!r}), only {', '.join(map(str, raw))}")
    row = {name: value for name, value in raw.items() if name not in columns.values()}
    row.update({ours: raw[theirs] for ours, theirs in columns.items()})

    if kind == "language_modeling":
        return language_row(row)
    for name in COLUMNS[kind]:
        if name not in row and not (kind == "preference" and name == "prompt"):
            raise RowError("missing_column", f"no {name!r}, only {', '.join(map(str, row))}")
    texts = {name: check_text(name, row[name]) for name in COLUMNS[kind] if name in row and name != "label"}
    if not all(isinstance(text, str) for text in texts.values()):
        check_all_reach_the_prompt(row)
    extra = {name: value for name, value in row.items() if name not in texts}
    if kind == "preference":
        prompt, chosen, rejected = texts.get("prompt"), texts["chosen"], texts["rejected"]
        if chosen == rejected:
            raise RowError("identical", "chosen and rejected are the same text")
        # A plain prompt beside whole conversations (as in UltraFeedback) repeats their first message.
        if prompt is None or (isinstance(prompt, str) and not isinstance(chosen, str)):
            prompt, chosen, rejected = split_prompt(chosen, rejected)
        return checked_row(prompt, {"chosen": chosen, "rejected": rejected}, extra)
    if kind == "prompt_only":
        return checked_row(texts["prompt"], {}, extra=extra)
    checked = checked_row(texts["prompt"], {"completion": texts["completion"]})
    if kind == "prompt_completion":
        return checked
    if not isinstance(row["label"], bool):
        raise RowError("wrong_type", f"label is true or false, not {row['label']!r}")
    return replace(checked, label=row["label"])


def language_row(row: Mapping[str, Any]) -> Row:
    """A row of `messages`, whose prompt is what comes before the assistant's first, or of `text`."""
    if ("messages" in row) == ("text" in row):
        raise RowError("missing_column", f"one of 'messages' and 'text' must be there, not {', '.join(map(str, row))}")
    name = "messages" if "messages" in row else "text"
    value = check_text(name, row[name])
    if isinstance(value, str) != (name == "text"):
        expected = "a string" if name == "text" else "a list of messages"
        raise RowError("wrong_type", f"{name} is {expected}, not {type(value).__name__}")
    if isinstance(value, str):
        if not value.strip():
            raise RowError("empty", "text is blank")
        return Row("", (value,))
    check_all_reach_the_prompt(row)
    first = next((at for at, message in enumerate(value) if message["role"] == "assistant"), None)
    if first is None:
        raise RowError("malformed", "messages has no message of role 'assistant'")
    return checked_row(value[:first], {"messages": value[first:]})


def checked_row(prompt: Text, completions: Mapping[str, Text], extra: Mapping[str, Any] | None = None) -> Row:
    """A row of a prompt and completions, by their columns: all texts or all conversations, none blank (of a
    conversation, its last message), each with the turns that it must begin and end with."""
    for name, text in {"prompt": prompt, **completions}.items():
        if isinstance(text, str) != isinstance(prompt, str):
            raise RowError("wrong_type", f"one of prompt and {name} is plain text, the other a conversation")
        last = text if isinstance(text, str) else text[-1]["content"] if text else ""
        if not last.strip():
            raise RowError("empty", f"{name} is blank")
        if isinstance(text, str):
            continue
        roles = [str(message["role"]) for message in text]
        if name == "prompt" and roles[-1] not in ("user", "tool"):
            raise RowError("malformed", f"prompt ends with a message of role {roles[-1]!r}, not of user or tool")
        if name != "prompt" and (roles[0], roles[-1]) != ("assistant", "assistant"):
            rule = "must begin and end with an assistant's message"
            raise RowError("malformed", f"{name} {rule}, not messages of {', '.join(roles)}")
    return Row(prompt, tuple(completions.values()), extra=extra or {})


def split_prompt(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The common beginning of two responses, which is their prompt, and what follows it in each."""
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("wrong_type", "one of chosen and rejected is plain text, the other a conversation")
    plain = isinstance(chosen, str) and isinstance(rejected, str)
    cut = shared_words(chosen, rejected) if plain else shared_start(chosen, rejected)  # type: ignore[arg-type]
    if cut == 0:
        raise RowError("empty", "no prompt: chosen and rejected have no common beginning to take as one")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def shared_start(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Number of characters, or messages, with which both begin."""
    differ = (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differ, min(len(first), len(second)))


def shared_words(first: str, second: str) -> int:
    """Length of the common beginning of two texts, cut back to the end of a word, a last space left out."""
    cut = shared_start(first, second)
    while cut and first[cut - 1].isalnum() and (first[cut : cut + 1].isalnum() or second[cut : cut + 1].isalnum()):
        cut -= 1
    return cut - 1 if first[:cut].endswith(" ") else cut


def check_text(name: str, value: Any) -> Text:
    """A string, or a list of messages that each have a known role and a string as content; without fields that are
    null, as Parquet has them where another message has a value: a chat template would write None."""
    said = {name: value}
    if not isinstance(value, str):
        if not isinstance(value, list):
            raise RowError("wrong_type", f"{name} is a string or a list of messages, not {type(value).__name__}")
        for number, message in enumerate(value):
            if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
                raise RowError("wrong_type", f"{name}[{number}] is not a message with role and content")
            if message["role"] not in ROLES:
                known = ", ".join(ROLES)
                raise RowError("malformed", f"{name}[{number}] has role {message['role']!r}, not one of {known}")
            if not isinstance(message["content"], str):
                found = type(message["content"]).__name__
                raise RowError("wrong_type", f"{name}[{number}].content is {found}, not text")
        said = {f"{name}[{number}].content": message["content"] for number, message in enumerate(value)}
    for where, text in said.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON may hold half of a surrogate pair; no tokenizer can read it
            raise RowError("malformed", f"{where} is not valid Unicode at character {error.start}") from None
    if isinstance(value, str):
        return value
    return [{key: held for key, held in message.items() if held is not None} for message in value]
