"""A reward model reads the tokens that it was trained on, whatever its chat template writes around an answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from llm.data import Limits, Row, TextEncoder, encode_response, encode_row, load_examples
from llm.reward_models.model import load_reward_model, new_reward_model
from llm.reward_models.scoring import preference_batch
from llm.tasks import Completions, LearnedReward
from llm.tasks.environment import TextEnvironment
from tests.llm.tiny_data import CHAT, WORDS, assistant, byte_level, user
from tests.llm.tiny_models import pad_right, tiny_model


def _turns(assistant_turn: str, start: str = "<|assistant|>") -> str:
    return (
        "{% for message in messages %}{% if message.role == 'assistant' %}"
        + start
        + assistant_turn
        + "{% else %}<|user|>{{ message.content }}{% endif %}{% endfor %}"
        + f"{{% if add_generation_prompt %}}{start}{{% endif %}}"
    )


TEMPLATES = {
    "EOS, then a line break": CHAT,
    "end marker, then a line break": _turns("{{ message.content }}<|end|>\n"),
    "end marker in letters, then a line break": _turns("{{ message.content }}[END]\n"),
    "empty think block": _turns("[think]\n\n[/think]\n\n{{ message.content }}<|end|>\n"),
    "empty think block, EOS": _turns("[think]\n\n[/think]\n\n{{ message.content }}</s>"),
    "end marker, then EOS": _turns("{{ message.content }}<|end|></s>\n"),
    "EOS twice": _turns("{{ message.content }}</s></s>"),
    "a line break alone": _turns("{{ message.content }}\n", "A: "),
    "no end": _turns("{{ message.content }}"),
    "trimmed": _turns("{{ message.content | trim }}<|end|>\n"),
}
TEXTS = st.text("The sky is blue.\n", min_size=1, max_size=12).filter(lambda text: text.strip() == text)


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_level(bos=True, chat_template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    return tokenizer


@pytest.fixture(scope="module", params=TEMPLATES)
def made(request, tmp_path_factory) -> tuple[PreTrainedTokenizerFast, str]:
    """A tokenizer with a template, and a reward model that has it."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), tokenizer_of(TEMPLATES[request.param])
    model = tiny_model("gpt_neox", dtype=torch.float32, vocabulary=len(tokenizer), max_position_embeddings=128)
    model.save_pretrained(folder / "base")
    new_reward_model(folder / "base", seed=1).save(folder / "reward", tokenizer)
    return tokenizer, str(folder / "reward")


def training_scores(rows: list[dict], tokenizer, model: str, **limits) -> torch.Tensor:
    """What `python -m llm reward` computes of the rows: (B, 2)."""
    examples, _ = load_examples(rows, tokenizer, kind="preference", log=[].append, **limits)
    batch = preference_batch(examples, TextEncoder(tokenizer).pad)
    return load_reward_model(model).score(batch.prompts, batch.prompt_mask, batch.responses, batch.mask)


def written(folder: Path, rows: list[dict]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def rows_of(*triples: tuple[str, str, str]) -> list[dict]:
    return [
        {"prompt": [user(prompt)], "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}
        for prompt, chosen, rejected in triples
    ]


ROWS = rows_of(("The sky?", "It is blue.", "The sky"), ("is the skylight green", "green", "Blue. The sky is blue."))


@pytest.mark.parametrize("ends", ["EOS", "the marker too"])
def test_the_score_in_training_is_the_reward(made, tmp_path, ends):
    """Of recorded responses, through tokens of the policy, and of the texts themselves; order and value."""
    tokenizer, model = made
    expected = training_scores(ROWS, tokenizer, model)
    task = LearnedReward(data=written(tmp_path, ROWS), data_kind="preference", reward_model=model)
    stops = [tokenizer.eos_token_id] + [tokenizer.convert_tokens_to_ids("<|end|>")] * (ends != "EOS")
    torch.testing.assert_close(rewards_of_rows(task, tokenizer, stops), expected, rtol=0, atol=1e-5)

    texts = [row[name][0]["content"] for row in ROWS for name in ("chosen", "rejected")]
    prompts = [row["prompt"] for row in ROWS for _ in range(2)]
    found = task.reward()(Completions(prompts, texts, [[0]] * 4, [1] * 4, {}))
    torch.testing.assert_close(torch.tensor(found).view(2, 2), expected, rtol=0, atol=1e-5)


SPECIAL = rows_of(
    ("The sky?", "It <s>is<|user|> blue.", "The <|assistant|>sky"), ("green", "<s>green", "Blue <|user|>")
)


def rewards_of_rows(task: LearnedReward, tokenizer, ends: list[int]) -> torch.Tensor:
    """The task's rewards of the recorded responses, as a policy with these ends has them: (B, 2)."""
    env = TextEnvironment(task, tokenizer, torch.device("cpu"), eos_token_ids=ends)
    scores = []
    for example in env.examples:
        tokens, mask = pad_right([ids.tolist() for ids in example.completion_ids])
        scores.append(env.score([example], tokens[None], mask[None])[0])
    return torch.cat(scores)


@pytest.mark.parametrize("marker", [False, True])
def test_special_tokens_within_a_response_are_scored_as_in_training(made, tmp_path, marker):
    """Role marks and a BOS that a policy writes: tokens of its response to a reward model, and left out of the texts
    that functions and judges read."""
    tokenizer, model = made
    expected = training_scores(SPECIAL, tokenizer, model)
    task = LearnedReward(data=written(tmp_path, SPECIAL), data_kind="preference", reward_model=model)
    ends = [tokenizer.eos_token_id, *[tokenizer.convert_tokens_to_ids("<|end|>")] * marker]
    torch.testing.assert_close(rewards_of_rows(task, tokenizer, ends), expected, rtol=0, atol=1e-5)

    env = TextEnvironment(task, tokenizer, torch.device("cpu"), eos_token_ids=ends)
    tokens, mask = pad_right([ids.tolist() for ids in env.examples[0].completion_ids])
    found = env.completions(env.examples[:1], tokens[None], mask[None])
    assert list(found.texts) == ["It is blue.", "The sky"]
    assert found.written is not None and list(found.written()) == ["It <s>is<|user|> blue.", "The <|assistant|>sky"]


TALK = [assistant("It is"), user("blue or is it green?"), assistant("The sky.")]
SEVERAL = [
    {"prompt": [user("The sky?")], "chosen": TALK, "rejected": [assistant("blue")]},
    {"prompt": [user("green")], "chosen": [assistant("is")], "rejected": [*TALK[:2], assistant("is")]},
]


@pytest.mark.parametrize("limit", [None, 24])
def test_several_turns_are_scored_as_in_training(made, tmp_path, limit):
    """Not as the assistant's words one after the other: the user's are read, and the template between them."""
    tokenizer, model = made
    limits = {} if limit is None else {"max_completion_length": limit, "on_too_long": "truncate"}
    expected = training_scores(SEVERAL, tokenizer, model, **limits)
    task = LearnedReward(data=written(tmp_path, SEVERAL), data_kind="preference", reward_model=model, **limits)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")]
    torch.testing.assert_close(rewards_of_rows(task, tokenizer, ends), expected, rtol=0, atol=1e-5)


def test_an_unknown_word_is_scored_as_in_training(tmp_path):
    """What a tokenizer does not know is a token of the row, UNK, and one of the policy's: it is not left out."""
    tiny_model("gpt_neox", dtype=torch.float32, vocabulary=len(WORDS)).save_pretrained(tmp_path / "base")
    new_reward_model(tmp_path / "base", seed=1).save(tmp_path / "reward", WORDS)
    rows = [{"prompt": "a", "chosen": "b zebra c", "rejected": "b c"}, {"prompt": "b", "chosen": "d", "rejected": "x"}]
    model = str(tmp_path / "reward")
    task = LearnedReward(data=written(tmp_path, rows), data_kind="preference", reward_model=model)
    expected = training_scores(rows, WORDS, model)
    torch.testing.assert_close(rewards_of_rows(task, WORDS, []), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("more", [2, 3])
def test_responses_cut_at_the_limit_of_the_rows_have_no_eos_as_the_rows_have_none(made, tmp_path, more):
    tokenizer, model = made
    encoder = TextEncoder(tokenizer)
    written_by_the_template = len(encoder.encode(encoder.frame([user("a")], special=True)[0]))
    limits = {"max_completion_length": written_by_the_template + more, "on_too_long": "truncate"}
    expected = training_scores(ROWS, tokenizer, model, **limits)
    task = LearnedReward(data=written(tmp_path, ROWS), data_kind="preference", reward_model=model, **limits)
    torch.testing.assert_close(rewards_of_rows(task, tokenizer, []), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("made", ["EOS, then a line break"], indirect=True)
def test_a_reward_model_is_where_the_policy_is(made, tmp_path, monkeypatch):
    """`--device cpu` on a machine with a GPU: nothing is put on it."""
    tokenizer, model = made
    task = LearnedReward(data=written(tmp_path, ROWS), data_kind="preference", reward_model=model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    env = TextEnvironment(task, tokenizer, torch.device("cpu"))
    assert env.score(env.examples[:1], torch.tensor([[[5], [6]]]), torch.ones(1, 2, 1, dtype=torch.bool))[0].shape == (
        1,
        2,
    )


@pytest.mark.parametrize("most", [3, 5])
def test_long_prompts_are_cut_as_the_policys_are(made, tmp_path, most):
    tokenizer, model = made
    limits = {"max_prompt_length": most, "on_too_long": "truncate"}
    expected = training_scores(ROWS, tokenizer, model, **limits)
    assert not torch.allclose(expected, training_scores(ROWS, tokenizer, model), atol=1e-4)
    task = LearnedReward(data=written(tmp_path, ROWS), data_kind="preference", reward_model=model, **limits)
    texts = [row[name][0]["content"] for row in ROWS for name in ("chosen", "rejected")]
    prompts = [row["prompt"] for row in ROWS for _ in range(2)]
    found = task.reward()(Completions(prompts, texts, [[0]] * 4, [1] * 4, {}))
    torch.testing.assert_close(torch.tensor(found).view(2, 2), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=TEXTS, answer=TEXTS, marker=st.booleans())
def test_a_response_is_read_as_its_row(template, asked, answer, marker):
    """The tokens of any answer: of a row, and of the text that its tokens stand for to a policy."""
    tokenizer = TOKENIZERS[template]
    row = Row([user(asked)], ([assistant(answer)],))
    encoder = TextEncoder(tokenizer)
    policy = TextEncoder(tokenizer, [tokenizer.convert_tokens_to_ids("<|end|>")] * marker)
    expected, _ = encode_row("", row, encoder, Limits())
    drawn, _ = encode_row("", row, policy, Limits())
    text = policy.content(drawn.completion_ids[0].tolist(), policy.frame(row.prompt))
    found = encode_response(row.prompt, text, encoder, Limits())
    np.testing.assert_array_equal(found.prompt_ids, expected.prompt_ids)
    np.testing.assert_array_equal(found.completion_ids[0], expected.completion_ids[0])


@given(asked=TEXTS, answer=TEXTS)
@settings(max_examples=40, deadline=None)
def test_a_plain_response_is_read_as_its_row(asked, answer):
    encoder = TextEncoder(TOKENIZERS["no end"])
    expected, _ = encode_row("", Row(asked, (answer,)), encoder, Limits())
    found = encode_response(asked, encoder.content(expected.completion_ids[0].tolist()), encoder, Limits())
    np.testing.assert_array_equal(found.completion_ids[0], expected.completion_ids[0])


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_empty_response_and_one_with_an_end_in_it_are_read(template):
    encoder = TextEncoder(TOKENIZERS[template])
    empty = encode_response([user("a")], "", encoder, Limits()).completion_ids[0].tolist()
    ended = encode_response([user("a")], "</s>", encoder, Limits()).completion_ids[0].tolist()
    assert ended == empty and empty[-1] == encoder.eos
    within = encode_response([user("a")], "b </s>lue", encoder, Limits()).completion_ids[0].tolist()
    assert within == encode_response([user("a")], "b lue", encoder, Limits()).completion_ids[0].tolist()


def test_what_a_policy_ended_with_a_line_break_of_its_own_keeps_it():
    """Cut off, or ended by the marker: the template's line break behind it is not there to be taken away."""
    tokenizer = TOKENIZERS["end marker, then a line break"]
    marker = tokenizer.convert_tokens_to_ids("<|end|>")
    policy = TextEncoder(tokenizer, [marker])
    frame = policy.frame([user("a")])
    assert policy.content([*policy.encode("blue\n"), marker], frame) == "blue\n"
    assert policy.content(policy.encode("blue\n"), frame) == "blue\n"


TOKENIZERS = {name: tokenizer_of(template) for name, template in TEMPLATES.items()}
