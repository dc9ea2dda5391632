"""Chat templates and tokenizers that others wrote: what a row says reaches the tokens whole, the same on every day, and
what a policy wrote is rewarded as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from llm.data.rows import BadRowsError
from llm.data.tokenise import Limits, TextEncoder, encode_response
from llm.models.loading import load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.reward_models.scoring import TextScorer
from sims.core.spec import SpecError
from tests.llm.tiny_data import CHAT, CHAT_BPE, assistant, byte_level, ids, load, user

LOOP = "{% for message in messages %}"
SYSTEM = {"role": "system", "content": "be brief"}
TOOL = {"role": "tool", "content": "42"}


def only(condition: str) -> str:
    """The template, of the messages for which a condition holds."""
    return CHAT.replace(LOOP, LOOP.replace(" %}", f" if {condition} %}}"))


def of_contents(expression: str) -> str:
    return CHAT.replace("{{ message.content }}", f"{{{{ {expression} }}}}")


@pytest.mark.parametrize("kind", ["prompt_only", "prompt_completion"])
@pytest.mark.parametrize(
    ("template", "prompt", "said"),
    [
        (only("message.role != 'system'"), [SYSTEM, user("q")], "content of message 1, of role system,"),
        (only("message.role != 'tool'"), [user("q"), assistant("f"), TOOL], "content of message 3, of role tool,"),
        ("<|user|>{{ messages[-1].content }}", [user("p"), assistant("a"), user("q")], "content of message 1, of role"),
        ("<|user|>the same for all</s>", [user("q")], "content of message 1, of role user,"),
        (of_contents("message.content[:4]"), [user("a long question")], "content of message 1, of role user,"),
    ],
)
def test_a_message_that_the_template_does_not_write_is_refused(kind: Any, template: str, prompt: Any, said: str):
    rows = [{"prompt": prompt, "completion": [assistant("a")]}]
    with pytest.raises(BadRowsError, match=rf"row 1: malformed: .*{said}|otherwise once a response follows") as raised:
        load(rows, tokenizer=byte_level(chat_template=template), kind=kind)
    assert said in str(raised.value) or kind != "prompt_only"


@pytest.mark.parametrize(
    ("template", "content", "written"),
    [
        (of_contents("message.content | trim"), " q ", "q"),
        (of_contents("message.content | lower"), "Q", "q"),
        (of_contents("message.content.split('</think>')[-1]"), "hm</think>q", "q"),
        (only("message.content"), "q", "q"),
    ],
)
def test_a_template_may_write_a_message_in_its_own_way(template: str, content: str, written: str):
    tokenizer = byte_level(chat_template=template)
    (example,), _, _ = load([{"prompt": [{**SYSTEM, "content": ""}, user(content)]}], tokenizer, kind="prompt_only")
    assert tokenizer.decode(example.prompt_ids).endswith(f"<|user|>{written}</s>\n<|assistant|>")


def test_a_template_that_calls_itself_forever_names_the_row():
    template = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"
    with pytest.raises(BadRowsError, match=r"row 1: malformed: the chat template refuses .*RecursionError"):
        load([{"prompt": [user("q")]}], byte_level(chat_template=template), kind="prompt_only")


def test_a_template_that_asks_for_the_date_gets_the_same_on_every_day(monkeypatch: pytest.MonkeyPatch):
    """Else a run that goes on after midnight is refused, as one of other rows. A clock that moves must not be seen."""
    clock = "\n{% if strftime_now is defined %}{{ strftime_now('%d %b %Y, %A %H:%M') }}{% endif %}"

    class Today(chat_template_utils.datetime):  # type: ignore[name-defined, misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2031, 1, 5, 13, 45)

    monkeypatch.setattr(chat_template_utils, "datetime", Today)
    tokenizer = byte_level(chat_template=clock + CHAT)
    assert "05 Jan 2031" in tokenizer.apply_chat_template([user("q")], tokenize=False)
    (example,), _, _ = load([{"prompt": [user("q")]}], tokenizer, kind="prompt_only")
    text = tokenizer.decode(example.prompt_ids)
    assert text == "\n26 Jul 2024, Friday 00:00<s><|user|>q</s>\n<|assistant|>"


def word_piece(lowercase: bool = True) -> PreTrainedTokenizerFast:
    """BERT's kind, whose own `decode` takes the space before a mark away."""
    known = ["[PAD]", "[UNK]", "</s>", *"abdnot.,!'"]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>",
        clean_up_tokenization_spaces=True,
    )  # fmt: skip


def test_rewards_see_the_spaces_that_were_written():
    tokenizer = word_piece()
    encoder = TextEncoder(tokenizer)
    written = encoder.encode("a . b , a !")
    assert tokenizer.decode(written) == "a. b, a!" and encoder.decode(written) == "a . b , a !"
    scorer = TextScorer(lambda prompts, texts: [float(text == "a . b , a !") for text in texts], tokenizer)
    tokens = torch.tensor([[written]])
    assert scorer.score(tokens[0], None, tokens, torch.ones_like(tokens, dtype=torch.bool)).item() == 1


def in_small_letters() -> PreTrainedTokenizerFast:
    """A tokenizer that takes </S> for its end token."""
    tokenizer = byte_level(bos=True, chat_template=CHAT)
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    held["normalizer"] = {"type": "Lowercase"}
    held["added_tokens"] = [{**token, "normalized": True} for token in held["added_tokens"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(held)), eos_token="</s>", bos_token="<s>", chat_template=CHAT
    )


@pytest.mark.parametrize("prompt", ["a", [user("a")]], ids=["plain", "conversation"])
@pytest.mark.parametrize(
    ("tokenizer", "text", "kept"),
    [
        (CHAT_BPE, "<</s>/s>sky", "sky"),
        (CHAT_BPE, "<<</s>/s></s>/s>", ""),
        (in_small_letters(), "light</S> is", "light is"),
    ],
)
def test_a_response_that_writes_its_end_token_out_is_scored_without_it(
    prompt: Any, tokenizer: Any, text: str, kept: str
):
    """Such a response came up in the middle of a run, and ended it."""
    encoder = TextEncoder(tokenizer)
    found, plain = (encode_response(prompt, each, encoder, Limits()) for each in (text, kept))
    assert ids(found.completion_ids[0]) == ids(plain.completion_ids[0])
    assert ids(found.completion_ids[0]).count(encoder.eos) == 1


def test_what_a_tokenizer_puts_in_front_is_there_once_whatever_it_is():
    """GLM's kind puts two tokens before a text, neither of which is its BOS."""
    tokenizer = byte_level()
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    front = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("<|system|>", "<s>")]
    held["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*front, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("<s>", 0), ("<|system|>", 4))},
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(held)), eos_token="</s>")
    own = tokenizer.encode("The sky")
    assert own[:2] == [4, 0]
    texts = [times * "<|system|><s>" + "The sky" for times in range(3)]
    rows = [{"prompt": text} for text in texts]
    examples, _, _ = load(rows, tokenizer, kind="prompt_only")
    assert [ids(example.prompt_ids) for example in examples] == [own] * 3
    (cut,), _, _ = load(rows[:1], tokenizer, kind="prompt_only", max_prompt_length=3, on_too_long="truncate")
    assert ids(cut.prompt_ids) == [4, 0, own[-1]]
    examples, _, _ = load([{"text": text} for text in texts], tokenizer, kind="language_modeling")
    assert [(ids(text.prompt_ids), ids(text.completion_ids[0])) for text in examples] == [([4, 0], [*own[2:], 1])] * 3


def test_a_tokenizer_that_splits_words_at_random_or_has_no_end_is_refused(tmp_path: Path):
    random, endless = byte_level(), byte_level()
    random.backend_tokenizer.model.dropout = 0.5
    endless.eos_token = None
    for tokenizer, said in ((random, "dropout = 0.5: must be none"), (endless, "no EOS token: must have one")):
        tokenizer.save_pretrained(tmp_path)
        with pytest.raises(SpecError, match=f"^tokenizer = .*its tokenizer has {said}"):
            load_tokenizer(LanguageModelSpec(tokenizer=str(tmp_path)))
