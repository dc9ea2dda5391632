"""A tokenizer's chat template, which may be anybody's: a conversation as text, or a `RowError` that says why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from llm.data.formats import RowError, check_text
from sims.experiments.command import raised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CALLS, THOUGHTS = ("tool_calls", "function_call"), ("reasoning_content", "thinking")  # of a message, beside its content
PROBE = "PROBE"  # stands for a content, to find what a chat template makes of one
# What a template that asks for the date is told on every day, or the same rows would have other tokens tomorrow: the
# date that Llama 3.1's own template has where there is no clock. By the codes of strftime.
_DAY = {"a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "d": "26", "e": "26", "-d": "26", "m": "07", "-m": "7"}
_DAY |= {"y": "24", "Y": "2024", "j": "208", "H": "00", "I": "12", "M": "00", "S": "00", "p": "AM"}
_CLOCK = "strftime_now"
_STOPPED = "{{ format" + "".join(f" | replace('%{code}', '{said}')" for code, said in _DAY.items()) + " }}"
# The empty expression keeps a line break that the template begins with, which jinja would cut after a block.
_STOPPED_CLOCK = f"{{% macro {_CLOCK}(format) %}}{_STOPPED}{{% endmacro %}}{{{{ '' }}}}"
_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ChatTemplate:
    """The chat template of a tokenizer, which need not have one until a conversation is rendered."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._without_place: dict[tuple[Any, ...], tuple[int, ...]] = {}

    def render(self, messages: Any, add_generation_prompt: bool = False) -> str:
        """A conversation as text. RowError where the template fails, and for what it writes that is no text."""
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                chat_template=self._template(),
            )
        except _FAILURES as error:
            said = error if isinstance(error, TemplateError) else raised(error)
            raise RowError("malformed", f"the chat template refuses the conversation: {said}") from error
        return str(check_text("what the chat template writes", str(rendered)))

    def _template(self) -> str:
        template: str = self.tokenizer.get_chat_template()
        return _STOPPED_CLOCK + template if _CLOCK in template else template

    def check_all_is_written(self, messages: Sequence[Mapping[str, Any]], text: str, answered: bool) -> None:
        """RowError for what a message says, if the text would be the same without it. Thoughts of earlier turns are
        left out by many templates, on purpose. answered: whether the last is the response."""
        missing = self._contents_without_place(messages, answered)
        for at, message in enumerate(messages):
            last = answered and at == len(messages) - 1
            if at in missing and message["content"].strip():
                said = (
                    f"the content of message {at + 1}, of role {message['role']}, is not written by the chat template"
                )
                raise RowError("malformed", said)
            for name in (*CALLS, *(THOUGHTS if last else ())):
                if not message.get(name):
                    continue
                without = {key: held for key, held in message.items() if key != name}
                rest = [*messages[:at], without, *messages[at + 1 :]]
                if self.render(rest, add_generation_prompt=not answered) == text:
                    raise RowError("malformed", f"{name} of message {at + 1} is not written by the chat template")
            if message.get("weight", 1) != 1:
                said = f"weight = {message['weight']!r} of message {at + 1}: must be 1, or left out"
                raise RowError("malformed", said)

    def _contents_without_place(self, messages: Sequence[Mapping[str, Any]], answered: bool) -> tuple[int, ...]:
        """The messages whose content could be another and the text the same: a system prompt, in templates without a
        place for one. Tried once for each form of conversation, with contents that say nothing."""
        forms = [(str(message["role"]), *sorted(str(key) for key in message if message[key])) for message in messages]
        form = (answered, *forms)
        if form not in self._without_place:
            plain = [{**message, "content": PROBE} for message in messages]
            others = [[*plain[:at], {**one, "content": 2 * PROBE}, *plain[at + 1 :]] for at, one in enumerate(plain)]
            try:
                text, *found = (self.render(each, add_generation_prompt=not answered) for each in (plain, *others))
            except RowError:  # a template that reads contents, as JSON maybe: it has read those of the row
                return ()
            self._without_place[form] = tuple(at for at, other in enumerate(found) if other == text)
        return self._without_place[form]
