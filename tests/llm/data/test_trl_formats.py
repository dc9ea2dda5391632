"""TRL's further formats: unpaired labels, whole conversations, whole texts, completions of several turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llm.data import RowError, TextEncoder, collate, parse_row
from llm.tasks import MinLength
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.algorithms.contrastive import DPO, KTO
from sims.core.algorithms.likelihood import SFT
from sims.core.objectives.batch import Batch
from sims.core.spec import SpecError
from tests.llm.tiny_data import ASK, BPE, BPE_BOS, CHAT_BPE, PREFERENCE, assistant, ids, load, user
from tests.llm.tiny_models import tiny_model, tiny_policy

TURNS = [assistant("The sky"), user("is green"), assistant("blue.")]
TALK = [*ASK, *TURNS]


# What TRL's templates get beside the conversation


@pytest.mark.parametrize(
    "kind, row",
    [
        ("prompt_only", {"prompt": ASK}),
        ("prompt_completion", {"prompt": ASK, "completion": [assistant("blue.")]}),
        ("language_modeling", {"messages": TALK}),
        ("preference", {"chosen": TALK, "rejected": [*ASK, assistant("no")]}),
    ],
)
def test_what_would_not_reach_the_prompt_is_refused_by_name(kind: str, row: dict):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    for name, value in (("tools", tools), ("chat_template_kwargs", {"enable_thinking": False}), ("images", ["a.png"])):
        with pytest.raises(RowError, match=f"malformed: the column {name} does not reach the prompt"):
            parse_row(row | {name: value}, kind)
        assert parse_row(row | {name: None}, kind).prompt == parse_row(row | {name: type(value)()}, kind).prompt
    assert parse_row({"prompt": "Which tools?", "tools": ["hammer"]}, "prompt_only").extra["tools"] == ["hammer"]


def test_what_does_not_reach_a_plain_prompt_is_told_by_name():
    """TRL leaves it out without a word; a reward function still gets it as a column."""
    rows = [{"prompt": f"a {i}", "tools": ["hammer"], "images": [], "chat_template_kwargs": None} for i in range(3)]
    examples, _, said = load(rows, BPE, kind="prompt_only")
    told = "the column tools does not reach the prompt, which is plain text and has no chat template"
    assert said == [f"rows in memory: {told}"]
    assert [example.extra["tools"] for example in examples] == [["hammer"]] * 3
    texts = [{"text": row["prompt"], "images": ["a.png"]} for row in rows]
    assert load(texts, BPE, kind="language_modeling")[2] == [f"rows in memory: {told.replace('tools', 'images')}"]
    asked = [{"tools": row["prompt"]} for row in rows]  # a column of that name may hold the prompt
    assert load(asked, BPE, kind="prompt_only", columns={"prompt": "tools"})[2] == []


# Several turns


@pytest.mark.parametrize(
    "kind, row",
    [
        ("prompt_completion", {"prompt": ASK, "completion": TURNS}),
        ("language_modeling", {"messages": TALK}),
        ("unpaired_preference", {"prompt": ASK, "completion": TURNS, "label": True}),
        ("preference", {"chosen": TALK, "rejected": [*ASK, assistant("no")]}),
    ],
)
def test_of_several_turns_the_assistants_words_and_ends_alone_are_trained_on(kind: str, row: dict):
    (example,), _, _ = load([row], CHAT_BPE, kind=kind)
    encoder = TextEncoder(CHAT_BPE)
    whole = encoder.encode(encoder.chat.render(TALK))
    assert [*ids(example.prompt_ids), *ids(example.completion_ids[0])] == whole[:-1]  # without the template's last \n
    batch = collate([example], encoder.pad)
    assert batch.responses is not None and batch.mask is not None
    chosen = batch.responses[0, 0][batch.mask[0, 0]].tolist()
    assert encoder.tokenizer.decode(chosen) == "The sky</s>blue.</s>"
    if kind == "preference":
        assert encoder.tokenizer.decode(batch.responses[0, 1][batch.mask[0, 1]].tolist()) == "no</s>"


def test_a_truncated_completion_of_several_turns_keeps_its_mask():
    options = {"kind": "language_modeling", "max_completion_length": 4, "on_too_long": "truncate"}
    (example,), _, _ = load([{"messages": TALK}], CHAT_BPE, **options)
    assert (
        example.chosen_by_policy is not None and len(example.chosen_by_policy[0]) == len(example.completion_ids[0]) == 4
    )


@pytest.mark.parametrize(
    "row, detail",
    [
        ({"messages": ASK}, "messages has no message of role 'assistant'"),
        ({"messages": [assistant("a")]}, "prompt is blank"),
        (
            {"messages": [*TALK, user("?")]},
            "must begin and end with an assistant's message, not messages of assistant, u",
        ),
        ({"messages": "a"}, "messages is a list of messages, not str"),
        ({"text": TALK}, "text is a string, not list"),
        ({"text": " "}, "text is blank"),
        ({"text": "a", "messages": TALK}, "one of 'messages' and 'text' must be there"),
        ({"prompt": "a"}, "one of 'messages' and 'text' must be there, not prompt"),
        ({"text": None}, "text is a string or a list of messages, not NoneType"),
    ],
)
def test_a_row_of_language_modelling_that_cannot_be_used_says_why(row: dict, detail: str):
    with pytest.raises(RowError, match=detail):
        parse_row(row, "language_modeling")


def test_a_completion_that_begins_with_the_user_is_refused():
    with pytest.raises(RowError, match="completion must begin and end with an assistant's message"):
        parse_row({"prompt": ASK, "completion": TURNS[1:]}, "prompt_completion")


# Texts


@pytest.mark.parametrize("tokenizer", [BPE, BPE_BOS])
def test_a_text_is_trained_on_after_bos_or_after_its_first_token(tokenizer):
    encoder = TextEncoder(tokenizer)
    text = encoder.encode("The sky is blue.")
    (example,), _, _ = load([{"text": "The sky is blue."}], tokenizer, kind="language_modeling")
    expected = [*text, encoder.eos] if not encoder.front else [*encoder.front, *text, encoder.eos]
    assert (ids(example.prompt_ids), ids(example.completion_ids[0])) == (expected[:1], expected[1:])


# Labels of single responses

ROWS = [
    {"prompt": "one two", "completion": "three", "label": True},
    {"prompt": "two", "completion": "four five", "label": False},
    {"prompt": "three", "completion": "six", "label": True},
    {"prompt": "four one", "completion": "ten", "label": False},
]


def run_on(folder: Path, algorithm, kind: str, rows: list[dict], **schedule) -> Run:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = PRESETS["tiny-sft"]
    return Run(
        base.replace(
            environment=MinLength(data=str(path), data_kind=kind),
            algorithm=algorithm,
            schedule=base.schedule.replace(source="dataset", batch_size=4, **schedule),
            updates=10,
            evaluations=1,
        )
    )


def test_kto_trains_on_single_labelled_responses(tmp_path: Path):
    run = run_on(tmp_path, KTO(beta=0.1), "unpaired_preference", ROWS)
    updates = list(run.train())
    batch = updates[0].batch
    good = {tuple(ids(e.completion_ids[0])): e.label for e in run.environment.examples}
    assert batch.desirable is not None and batch.pairs is None and batch.responses.shape[:2] == (4, 1)
    for row, mask, label in zip(batch.responses[:, 0], batch.mask[:, 0], batch.desirable[:, 0], strict=True):
        assert good[tuple(row[mask].tolist())] == bool(label)
    assert float(updates[0].stats.loss) == pytest.approx(0.5)  # 1 − σ(0), as the policy is its reference
    change = (run.policy.forward(batch).logp - run.training.reference.policy.forward(batch).logp).sum(-1)
    sign = batch.desirable * 2 - 1
    assert (change * sign > 0).all()


@pytest.mark.parametrize("algorithm", [SFT(), DPO()])
def test_others_are_not_trained_on_responses_that_may_be_undesirable(algorithm, tmp_path: Path):
    with pytest.raises(
        SpecError, match=f"data_kind = 'unpaired_preference': must be another one with {algorithm.kind}"
    ):
        run_on(tmp_path, algorithm, "unpaired_preference", ROWS)


def test_sft_trains_on_texts(tmp_path: Path):
    run = run_on(
        tmp_path, SFT(), "language_modeling", [{"text": "one plus two is three"}] * 2 + [{"text": "four five"}]
    )
    losses = [float(update.stats.loss) for update in run.train()]
    assert losses[-1] < losses[0]


def test_the_loss_of_several_turns_is_that_of_the_assistants_tokens():
    (example,), _, _ = load([{"messages": TALK}], CHAT_BPE, kind="language_modeling")
    batch = collate([example], TextEncoder(CHAT_BPE).pad)
    assert batch.responses is not None and batch.mask is not None and example.chosen_by_policy is not None
    model = tiny_model("gpt_neox", vocabulary=len(CHAT_BPE), max_position_embeddings=64)
    logp = tiny_policy(model).forward(Batch(batch.prompts, batch.responses, batch.mask, batch.prompt_mask)).logp[0, 0]
    whole = torch.tensor([[*ids(example.prompt_ids), *ids(example.completion_ids[0])]])
    plain = model(whole).logits[0].log_softmax(-1)[:-1].gather(-1, whole[0, 1:].unsqueeze(-1)).squeeze(-1)
    plain = plain[len(example.prompt_ids) - 1 :]
    expected = plain * torch.from_numpy(example.chosen_by_policy[0])
    torch.testing.assert_close(logp, expected, rtol=1e-12, atol=1e-12)


def test_a_preference_of_one_turn_has_no_mask_of_its_own():
    (example,), _, _ = load([PREFERENCE], kind="preference")
    assert example.chosen_by_policy is None
