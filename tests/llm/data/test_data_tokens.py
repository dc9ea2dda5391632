"""Tokens and padding: properties 38 (empty or identical), 39 (BOS and EOS) and 40 (the prompt boundary)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data import BadRowsError, Example, TextEncoder, collate
from tests.llm.tiny_data import (
    BPE,
    BPE_BOS,
    CHAT,
    CHAT_BPE,
    CHAT_ROW,
    WORDS,
    assistant,
    byte_level,
    ids,
    load,
    user,
    word_level,
)

# Tokens


def test_nothing_merges_across_the_boundary():
    row = {"prompt": "The sky", "chosen": "light is blue.", "rejected": " is green."}
    (example,), _, _ = load([row], BPE, kind="preference")
    prompt, chosen = ids(example.prompt_ids), ids(example.completion_ids[0])
    together = BPE.encode("The skylight is blue.")
    assert together[: len(prompt)] != prompt  # the joint text does merge
    assert prompt == BPE.encode("The sky")
    assert chosen == [*BPE.encode("light is blue."), BPE.eos_token_id]
    assert BPE.decode(prompt + chosen) == "The skylight is blue.</s>"


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: text.strip())


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT)
def test_prompt_and_completion_are_encoded_on_their_own_and_read_back(prompt, completion):
    (example,), _, _ = load([{"prompt": prompt, "completion": completion}], BPE_BOS, kind="prompt_completion")
    prompt_ids, completion_ids = ids(example.prompt_ids), ids(example.completion_ids[0])
    bos, eos = BPE_BOS.bos_token_id, BPE_BOS.eos_token_id
    assert prompt_ids == [bos, *BPE_BOS.encode(prompt, add_special_tokens=False)]
    assert completion_ids == [*BPE_BOS.encode(completion, add_special_tokens=False), eos]
    assert (
        BPE_BOS.decode(prompt_ids[1:] + completion_ids[:-1], clean_up_tokenization_spaces=False) == prompt + completion
    )


@pytest.mark.parametrize("prompt", ["a b", "<s> a b", "<s> <s> a b"])
@pytest.mark.parametrize("completion", ["c d", "c d </s>", "c d </s> </s>"])
def test_one_bos_one_eos(prompt, completion):
    (example,), _, _ = load([{"prompt": prompt, "completion": completion}], kind="prompt_completion")
    assert WORDS.convert_ids_to_tokens(ids(example.prompt_ids)) == ["<s>", "a", "b"]
    assert WORDS.convert_ids_to_tokens(ids(example.completion_ids[0])) == ["c", "d", "</s>"]


def test_a_tokenizer_that_names_a_bos_and_uses_none_gets_none():
    assert BPE.bos_token is not None
    (example,), _, _ = load([{"prompt": "The sky"}], BPE, kind="prompt_only")
    assert BPE.bos_token_id not in ids(example.prompt_ids)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "completion": "b </s> c"}, "malformed"),
        ({"prompt": "a", "completion": "</s>"}, "empty"),
        ({"prompt": "<s>", "completion": "b"}, "empty"),
    ],
)
def test_rows_that_turn_out_bad_as_tokens(row, reason):
    with pytest.raises(BadRowsError, match=f"row 1: {reason}"):
        load([row], kind="prompt_completion")


def test_an_eos_token_is_needed():
    tokenizer = word_level()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"tokenizer.eos_token is not set"):
        TextEncoder(tokenizer)


def test_pad_is_eos_where_there_is_no_pad_token():
    assert (TextEncoder(BPE).pad, TextEncoder(WORDS).pad) == (BPE.eos_token_id, WORDS.pad_token_id)


def test_conversations_go_through_the_chat_template():
    row = {"prompt": [user("The sky")], "chosen": [assistant("light")], "rejected": [assistant(" is")]}
    (example,), _, _ = load([row], CHAT_BPE, kind="preference")
    prompt, (chosen, rejected) = ids(example.prompt_ids), map(ids, example.completion_ids)
    # One BOS although the template writes one and the tokenizer would add another; the last line break is cut.
    assert CHAT_BPE.decode(prompt) == "<s><|user|>The sky</s>\n<|assistant|>"
    assert (CHAT_BPE.decode(chosen), CHAT_BPE.decode(rejected)) == ("light</s>", " is</s>")
    assert (prompt.count(CHAT_BPE.bos_token_id), chosen.count(CHAT_BPE.eos_token_id)) == (1, 1)
    assert example.prompt == [user("The sky")]
    # Stripped of its BOS, the template still gives one.
    bare = byte_level(bos=True, chat_template=CHAT.removeprefix("{{ bos_token }}"))
    (example,), _, _ = load([{"prompt": [user("The sky")]}], bare, kind="prompt_only")
    assert ids(example.prompt_ids) == prompt


def test_conversations_without_a_chat_template_are_an_error_whatever_the_options():
    with pytest.raises(ValueError, match=r"conversational and tokenizer.chat_template is not set"):
        load([CHAT_ROW], BPE, kind="prompt_completion", on_bad_rows="drop")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages | length }}{{ messages[-1].content }}", "otherwise once a response follows"),
        ("{{ raise_exception('roles must alternate') }}", "refuses the conversation: roles must alternate"),
    ],
)
def test_a_template_that_does_not_fit_names_the_row(template, words):
    with pytest.raises(BadRowsError, match=f"row 1: malformed: the chat template .*{words}"):
        load([CHAT_ROW], byte_level(chat_template=template), kind="prompt_completion")


# Padding


def test_preferences_collate_to_the_axes_of_the_core():
    rows = [{"prompt": "a", "chosen": "b c", "rejected": "d"}, {"prompt": "a b c", "chosen": "e", "rejected": "f"}]
    examples, _, _ = load(rows, kind="preference")
    batch = collate(examples, TextEncoder(WORDS).pad)
    a, b, c, d, e, f = range(4, 10)
    assert batch.prompts.tolist() == [[0, 0, 1, a], [1, a, b, c]]
    assert batch.prompt_mask.tolist() == [[False, False, True, True], [True] * 4]
    assert batch.responses.tolist() == [[[b, c, 2], [d, 2, 0]], [[e, 2, 0], [f, 2, 0]]]
    assert batch.mask.sum(-1).tolist() == [[3, 2], [2, 2]]
    assert batch.pairs.tolist() == [[[0, 1]], [[0, 1]]]
    assert batch.pair_label.tolist() == [[1.0], [1.0]]
    assert batch.desirable is None
    assert (batch.prompts.dtype, batch.responses.dtype, batch.pairs.dtype) == (torch.int64,) * 3
    assert (batch.prompt_mask.dtype, batch.mask.dtype) == (torch.bool,) * 2


def test_other_kinds_collate():
    rows = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "c d", "label": False}]
    examples, _, _ = load(rows, kind="unpaired_preference")
    batch = collate(examples, 0)
    assert (batch.responses.shape, batch.desirable.tolist(), batch.pairs) == ((2, 1, 3), [[1.0], [0.0]], None)
    examples, _, _ = load(rows, kind="prompt_completion")
    batch = collate(examples, 0)
    assert (batch.mask.shape, batch.desirable, batch.pair_label) == ((2, 1, 3), None, None)
    only, _, _ = load(rows, kind="prompt_only")
    batch = collate(only, 0)
    assert (batch.prompts.shape, batch.responses, batch.mask) == ((2, 2), None, None)
    assert [example.extra["label"] for example in batch.examples] == [True, False]
    with pytest.raises(ValueError, match="row 1 is of another kind than row 1"):
        collate([examples[0], only[0]], 0)
    with pytest.raises(ValueError, match="examples is empty"):
        collate([], 0)


IDS = st.lists(st.integers(0, 5), min_size=1, max_size=9)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2).flatmap(lambda k: st.lists(st.tuples(IDS, st.lists(IDS, min_size=k, max_size=k)), min_size=1)))
def test_padding_gives_back_every_id_and_is_no_longer_than_needed(rows):
    eos = pad = 3  # also a token of the texts: only masks tell padding
    examples = [
        Example(str(i), "p", np.array(prompt, np.int32), tuple(np.array([*c, eos], np.int32) for c in completions))
        for i, (prompt, completions) in enumerate(rows)
    ]
    batch = collate(examples, pad)
    assert batch.prompts.shape == (len(rows), max(len(prompt) for prompt, _ in rows))
    assert batch.responses.shape[-1] == 1 + max(len(c) for _, completions in rows for c in completions)
    for i, (prompt, completions) in enumerate(rows):
        assert batch.prompts[i][batch.prompt_mask[i]].tolist() == prompt
        assert batch.prompt_mask[i, -len(prompt) :].all()
        for k, completion in enumerate(completions):
            assert batch.responses[i, k][batch.mask[i, k]].tolist() == [*completion, eos]
            assert batch.mask[i, k, : len(completion) + 1].all()
    assert (batch.prompts[~batch.prompt_mask] == pad).all() and (batch.responses[~batch.mask] == pad).all()
