"""Recorded pairs of a file, labelled again by the task's reward, and cut short: what is kept, what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from llm.data import Example, TextEncoder
from llm.data.recorded import cut_short, relabel
from llm.embedded.language import build_tokenizer
from llm.tasks import MinLength, ModeLength, SkewLength, Verifiable
from llm.tasks.environment import TextEnvironment, response_lengths
from llm.training.presets import PRESETS
from sims.core.numerics.noise import Noise
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError, from_json, to_json
from tests.llm.tiny_data import assistant, byte_level, user

TOKENIZER = build_tokenizer()
EOS = TOKENIZER.eos_token_id
PROMPT = "two plus two cats :"
WORDS = ["they", "sleep", ".", "let", "us", "look", ".", "the", "cats", "are", "red", "."]


def text(length: int) -> str:
    """So many tokens of the embedded language."""
    return " ".join((WORDS * 20)[:length])


def pairs_file(folder, *lengths: tuple[int, int], name: str = "pairs.jsonl") -> str:
    """Rows whose chosen and rejected responses have these lengths; equal ones differ in their words."""
    rows = [
        {
            "prompt": PROMPT,
            "chosen": text(a),
            "rejected": text(b) if a != b else " ".join([*text(b).split()[:-1], "two"]),
        }
        for a, b in lengths
    ]
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def environment(task) -> TextEnvironment:
    return TextEnvironment(task, TOKENIZER, torch.device("cpu"))


def recorded(task, rows: int, seed: int = 0) -> dict[tuple[int, int], float]:
    """(length of chosen, of rejected) → label of one epoch."""
    batch = environment(task).recorded(rows, Noise.single(seed))
    lengths = response_lengths(batch.responses, batch.mask, [EOS]).tolist()
    return {tuple(both): label for both, label in zip(lengths, batch.pair_label[:, 0].tolist(), strict=True)}


# Labels


def test_pairs_are_labelled_by_the_reward_and_not_by_the_row(tmp_path, capsys):
    data = {"data": pairs_file(tmp_path, (9, 3), (2, 7), (5, 5)), "data_kind": "preference"}
    assert recorded(MinLength(**data), 3) == {(9, 3): 1, (2, 7): 1, (5, 5): 1}
    assert capsys.readouterr().err == ""
    assert recorded(MinLength(**data, relabel=True), 2) == {(9, 3): 0, (2, 7): 1}
    said = f"{data['data']}: relabelled 2 of 3 pairs, 1 of them against the row's label; 1 ties dropped: line 3\n"
    assert capsys.readouterr().err == said
    assert recorded(ModeLength(mode=6, **data, relabel=True), 1) == {(2, 7): 0}  # 9 and 3, and 5 and 5, are as far
    assert (
        "relabelled 1 of 3 pairs, 1 of them against the row's label; 2 ties dropped: line 1, line 3"
        in capsys.readouterr().err
    )


def test_rewards_and_labels_of_a_batch_agree_in_every_epoch(tmp_path):
    lengths = [(a, b) for a in range(1, 9) for b in range(1, 9)]
    task = MinLength(data=pairs_file(tmp_path, *lengths), data_kind="preference", relabel=True)
    env, noise = environment(task), Noise.single(3)
    for _ in range(3):
        batch = env.recorded(56, noise)  # 64 less 8 ties
        assert torch.equal(batch.pair_label[:, 0], (batch.rewards[:, 0] > batch.rewards[:, 1]).float())
        assert torch.equal(batch.gold, batch.rewards) and batch.pairs.tolist() == [[[0, 1]]] * 56
    again = environment(task)
    again.load_state_dict(env.state_dict())
    assert torch.equal(again.recorded(8, Noise.single(3)).responses, env.recorded(8, noise).responses)


def test_ties_are_labelled_by_a_fair_coin_of_each_run(tmp_path, capsys):
    """120 coins: further than 33 from 60 with chance 4e-10."""
    lengths = [(n, n) for n in range(2, 42)]
    task = MinLength(data=pairs_file(tmp_path, *lengths), data_kind="preference", relabel=True, on_ties="coin")
    labels = [tuple(recorded(task, 40, seed)[both] for both in lengths) for seed in range(3)]
    assert {label for run in labels for label in run} == {0.0, 1.0} and len(set(labels)) == 3
    assert abs(sum(map(sum, labels)) - 60) <= 33
    assert labels[0] == tuple(recorded(task, 40)[both] for both in lengths)
    assert "40 of 40 pairs" in (said := capsys.readouterr().err) and "40 ties labelled by a coin: line 1," in said


def test_the_labellers_noise_is_on_these_labels_too(tmp_path):
    lengths = [(n, n + 1) for n in range(2, 42)]
    base = MinLength(data=pairs_file(tmp_path, *lengths), data_kind="preference", relabel=True)
    assert set(recorded(base, 40).values()) == {1.0}
    for noisy in (base.replace(label_temperature=50.0), base.replace(flip_rate=0.5)):
        wins = sum(recorded(noisy, 40).values())
        assert 1 <= wins <= 39  # all alike with chance 2e-12


def test_only_ties_leave_nothing():
    row = Example("line 7", PROMPT, np.array([5]), (np.array([6, EOS]), np.array([8, EOS])))

    def score(examples, responses, mask):
        return -mask.sum(-1).double(), mask.sum(-1).double()

    with pytest.raises(ValueError, match="pairs: none of 1 pairs is left: all have two equal rewards"):
        relabel([row], score, Labeller(), torch.zeros(1, 1, 2), "drop", 0, "pairs", [].append)


def test_many_rows_are_scored_a_part_at_a_time(tmp_path):
    asked = []

    def score(examples, responses, mask):
        asked.append(len(examples))
        return -mask.sum(-1).double(), mask.sum(-1).double()

    rows = [
        Example(f"line {n}", PROMPT, np.array([5]), (np.full(1 + n % 7, 6), np.full(1 + n % 5, 6))) for n in range(600)
    ]
    said: list[str] = []
    kept, label = relabel(rows, score, Labeller(), torch.zeros(600, 1, 2), "drop", 0, "rows", said.append)
    assert sum(asked) == 600 and max(asked) < 600
    assert [e.where for e in kept] == [f"line {n}" for n in range(600) if n % 7 != n % 5]
    assert label[:, 0].tolist() == [float(n % 7 < n % 5) for n in range(600) if n % 7 != n % 5]
    assert len(said) == 1


# Cutting


def test_responses_are_cut_to_lengths_drawn_evenly_and_ended():
    long, short = np.array([*range(3, 60), EOS], dtype=np.int32), np.array([4, 5, EOS], dtype=np.int32)
    unfinished = np.arange(3, 60, dtype=np.int32)  # truncated when it was read
    rows = [Example("", PROMPT, np.array([5]), (long, short)), Example("", PROMPT, np.array([5]), (unfinished, long))]
    said: list[str] = []
    found = cut_short(rows * 100, 10, 14, [EOS], np.random.default_rng(0), "rows", said.append)
    cut = [e.completion_ids[0] for e in found] + [e.completion_ids[1] for e in found[1::2]]
    assert {len(ids) - 1 for ids in cut} == set(range(10, 15))  # 300 draws miss one of 5 with chance 4e-29
    assert all(ids[-1] == EOS and ids.dtype == np.int32 for ids in cut)
    assert all(ids[:-1].tolist() == long[: len(ids) - 1].tolist() for ids in cut)
    assert all(e.completion_ids[1] is short for e in found[::2])
    assert said == ["rows: cut 300 of 400 recorded responses to 10 to 14 tokens; 100 were no longer"]
    assert rows[0].completion_ids[0] is long


def test_a_length_that_is_drawn_exactly_is_no_cut():
    ids = np.array([3, 4, 5, EOS])
    (row,) = cut_short(
        [Example("", PROMPT, np.array([5]), (ids,))], 3, 3, [EOS], np.random.default_rng(0), "", [].append
    )
    assert row.completion_ids[0] is ids


def test_skew_pairs_of_a_file_are_cut_and_labelled_by_what_is_left(tmp_path, capsys):
    """The same cuts in every run: they are the data."""
    data = pairs_file(tmp_path, *[(50, 40)] * 60, (4, 3))
    task = SkewLength(data=data, data_kind="preference", relabel=True, cut_from=6, cut_to=9, on_ties="coin")
    first, second = (environment(task).recorded(61, Noise.single(0)) for _ in range(2))
    assert torch.equal(first.responses, second.responses)
    other = environment(task).recorded(61, Noise.single(1))
    assert sorted(map(tuple, other.responses.flatten(1).tolist())) == sorted(
        map(tuple, first.responses.flatten(1).tolist())
    )
    lengths = response_lengths(first.responses, first.mask, [EOS])
    assert {tuple(row) for row in lengths.tolist() if max(row) < 6} == {(4, 3)}
    assert set(lengths[lengths > 4].tolist()) == {6, 7, 8, 9}
    clear = lengths[:, 0] != lengths[:, 1]
    assert torch.equal(first.pair_label[clear, 0], (lengths[clear, 0] < lengths[clear, 1]).float())
    said = capsys.readouterr().err
    assert f"{data}: cut 120 of 122 recorded responses to 6 to 9 tokens; 2 were no longer\n" in said
    batch = environment(task).prompts(3, Noise.single(0))
    assert batch.tokens.shape[0] == 3  # prompts of fresh samples are the rows' too


def test_the_large_preset_reads_alpacafarms_columns(tmp_path):
    """instruction, input, two outputs, and which of them a person preferred: of no consequence here."""
    row = {"instruction": "two plus two", "input": "cats :", "preference": 1, "raw_preference": 1}
    rows = [row | {"output_1": text(40), "output_2": text(50)}, row | {"output_1": text(8), "output_2": text(5)}]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = PRESETS["pythia-1.4b-skew-length"].environment
    here = {"data": str(file), "data_config": None, "data_split": None, "evaluation_split": None, "on_ties": "coin"}
    env = environment(task.replace(**here))
    batch = env.recorded(2, Noise.single(0))
    lengths = response_lengths(batch.responses, batch.mask, [EOS]).tolist()
    labels = {tuple(both): label for both, label in zip(lengths, batch.pair_label[:, 0].tolist(), strict=True)}
    assert labels.pop((8, 5)) == 0
    ((first, second),) = labels
    assert min(first, second) >= 10 and max(first, second) <= 22
    assert "two plus two\ncats :" in env.examples[0].prompt


def test_completions_to_imitate_are_cut_too(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"prompt": PROMPT, "completion": text(30)}) + "\n")
    task = SkewLength(data=str(file), data_kind="prompt_completion", cut_from=5, cut_to=5)
    batch = environment(task).recorded(1, Noise.single(0))
    assert response_lengths(batch.responses, batch.mask, [EOS]).tolist() == [[5]]
    assert batch.responses[0, 0].tolist() == [*TextEncoder(TOKENIZER).encode(text(5)), EOS]


# Settings


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (lambda: MinLength(relabel=True), "relabel = True: has no effect with data = language"),
        (lambda: MinLength(data="x.jsonl", relabel=True), "relabel = True: only means something with data_kind"),
        (lambda: MinLength(on_ties="coin"), "on_ties = 'coin': only means something with relabel"),
        (
            lambda: SkewLength(data="x.jsonl", data_kind="preference"),
            "relabel = False: must be true with skew_length",
        ),
        (lambda: SkewLength(data="x.jsonl", cut_from=30, cut_to=20), "cut_to = 20: must be at least cut_from = 30"),
        (lambda: SkewLength(cut_to=60), "cut_to = 60: must be from cut_from = 6 to 31"),
    ],
)
def test_settings_that_cannot_be(task, words):
    with pytest.raises(SpecError, match=words):
        task()


def test_responses_of_a_file_may_be_cut_to_any_length():
    assert SkewLength(data="x.jsonl", cut_from=100, cut_to=200).cut_to == 200


def test_a_task_that_relabels_nothing_is_what_it_was():
    plain = Verifiable(data="x.jsonl", data_kind="preference")
    assert not {"relabel", "on_ties"} & set(to_json(plain))
    changed = plain.replace(relabel=True, on_ties="coin")
    assert to_json(changed)["relabel"] is True and from_json(to_json(changed)) == changed


# Ends


def chat_tokenizer():
    """A conversation's turn is closed by an end marker and then by EOS."""
    turn = "{{ '<|' + message.role + '|>' + message.content + ('<|end|></s>' if message.role == 'assistant' else '') }}"
    template = (
        f"{{% for message in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
    )
    tokenizer = byte_level(chat_template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    return tokenizer


@pytest.mark.parametrize("kind", ["prompt_completion", "preference"])
def test_recorded_responses_are_cut_at_the_first_of_the_policys_ends(tmp_path, kind):
    """A policy stops at the marker: what a template writes behind it is never sampled, and not to be learned."""
    tokenizer = chat_tokenizer()
    answers = {"completion": "is"} if kind == "prompt_completion" else {"chosen": "is", "rejected": "sky"}
    row = {"prompt": [user("q")]} | {name: [assistant(text)] for name, text in answers.items()}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    marker = tokenizer.convert_tokens_to_ids("<|end|>")
    task = MinLength(data=str(file), data_kind=kind)
    for ends, last, length in (
        ((), [marker, tokenizer.eos_token_id], 1),
        ((tokenizer.eos_token_id, marker), [marker], 0),
    ):
        env = TextEnvironment(task, tokenizer, torch.device("cpu"), eos_token_ids=ends)
        batch = env.recorded(1, Noise.single(0))
        ids = batch.responses[0, 0][batch.mask[0, 0]].tolist()
        text = tokenizer.encode("is", add_special_tokens=False)
        assert ids == [*text, *last]
        assert -batch.rewards[0, 0].item() == len(text) + length  # without the policy's ends, the marker is a token


def test_what_follows_the_policys_end_names_the_row(tmp_path):
    tokenizer = chat_tokenizer()
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": [user("q")], "completion": [assistant("is<|end|>blue")]}) + "\n")
    task = MinLength(data=str(file), data_kind="prompt_completion")
    marker = tokenizer.convert_tokens_to_ids("<|end|>")
    with pytest.raises(ValueError, match="line 1: malformed: a completion goes on after its EOS token"):
        TextEnvironment(task, tokenizer, torch.device("cpu"), eos_token_ids=(tokenizer.eos_token_id, marker))
