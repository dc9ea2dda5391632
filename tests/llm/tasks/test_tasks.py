"""Tasks: what a response is worth, in which order prompts come, and what recorded data are."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
import torch

from llm.embedded.language import all_prompts, build_tokenizer
from llm.reward_models.model import load_reward_model, new_reward_model
from llm.tasks import LearnedReward, MinLength, ModeLength, RewardFunction, SkewLength, Task, Verifiable
from llm.tasks.environment import TextEnvironment, response_lengths
from sims.core.algorithms import find_algorithm
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json, kinds_of, to_json

TOKENIZER = build_tokenizer()
EOS = TOKENIZER.eos_token_id
PAD = TOKENIZER.pad_token_id


def single(seed: int = 0) -> Noise:
    return Noise.single(seed)


def environment(task: Task, **settings) -> TextEnvironment:
    return TextEnvironment(task, TOKENIZER, torch.device("cpu"), **settings)


def responses_of(*groups: list[str], eos: bool = True, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts as padded token ids and masks, (B, K, width); with eos = False they were cut off."""
    ids = [[TOKENIZER.encode(t, add_special_tokens=False) + [EOS] * eos for t in group] for group in groups]
    tokens = torch.tensor([[row + [PAD] * (width - len(row)) for row in group] for group in ids])
    mask = torch.tensor([[[i < len(row) for i in range(width)] for row in group] for group in ids])
    return tokens, mask


def rewards(task: Task, *groups: list[str], eos: bool = True, **settings) -> list[list[float]]:
    env = environment(task, **settings)
    asked = env.prompts(len(groups), single())
    tokens, mask = responses_of(*groups, eos=eos)
    return env.label(asked, tokens, mask, None, single()).rewards.tolist()


# Rewards


@pytest.mark.parametrize("eos", [True, False])
def test_length_counts_tokens_before_eos(eos):
    texts = ["they sleep .", "answer two ."]
    assert rewards(MinLength(), texts, eos=eos) == [[-3, -3]]
    if eos:
        assert rewards(MinLength(), ["", "let us look ."]) == [[0, -4]]
    assert rewards(ModeLength(mode=4), ["they sleep .", "the cats are red ."], eos=eos) == [[-1, -1]]


def test_length_looks_at_the_mask_and_not_at_the_padding_id():
    tokens = torch.tensor([[5, EOS, EOS, EOS], [5, 6, 7, 8]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    assert response_lengths(tokens, mask, [EOS]).tolist() == [1, 4]
    assert response_lengths(tokens, mask, [EOS, 8]).tolist() == [1, 3]


def test_verifiable_reward_on_the_language():
    env = environment(Verifiable())
    asked = env.prompts(40, single())
    right = {prompt: f"answer {word} ." for prompt in all_prompts("train") for word in [_answer(prompt)]}
    tokens, mask = responses_of(*([right[e.prompt], "answer nothing ."] for e in asked.examples))
    assert env.label(asked, tokens, mask, None, single()).rewards.tolist() == [[1.0, 0.0]] * 40


def _answer(prompt: str) -> str:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    left, sign, right, *_ = prompt.split()
    return names[names.index(left) + (1 if sign == "plus" else -1) * names.index(right)]


def test_verifiable_reward_on_a_column(tmp_path):
    rows = [{"prompt": "two plus two cats :", "answer": "sum #### four"}]
    task = Verifiable(data=_jsonl(tmp_path, rows), answer_marker="answer")
    rows[0]["answer"] = "so the answer four"
    task = task.replace(data=_jsonl(tmp_path, rows))
    assert rewards(task, ["the answer four", "answer two"]) == [[1.0, 0.0]]
    with pytest.raises(SpecError, match=r"answer_column = 'solution'.*which has answer"):
        rewards(task.replace(answer_column="solution"), ["the answer four"])


def _jsonl(folder, rows) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trl_style(prompts, completions, completion_ids, level, **columns):
    """The number of completion tokens, EOS included, times a column."""
    assert len(prompts) == len(completions) == len(completion_ids) == len(level)
    assert not columns
    return [len(ids) * x for ids, x in zip(completion_ids, level, strict=True)]


def returns_too_few(prompts, **columns):
    return [0.0]


def test_a_function_in_trls_signature(tmp_path):
    rows = [{"prompt": "two plus two cats :", "level": 1}, {"prompt": "one plus two cats :", "level": 1}]
    task = RewardFunction(reward_funcs=("tests.llm.tasks.test_tasks:trl_style",), data=_jsonl(tmp_path, rows))
    assert rewards(task, ["", "they sleep ."], ["answer two .", ""]) == [[1.0, 4.0], [4.0, 1.0]]
    for name, words in (
        ("tests.llm.tasks.test_tasks:returns_too_few", "must return a number for each of 2 completions, not 1"),
        ("tests.llm.tasks.test_tasks:absent", "cannot be imported"),
        ("nothing_here", 'must be "module:function"'),
        ("my_rewards.right", 'must be "module:function"; did you mean my_rewards:right'),
    ):
        with pytest.raises(SpecError, match=words):
            rewards(task.replace(reward_funcs=(name,)), ["", ""])


def test_a_response_that_was_cut_off_is_charged_and_rewarded_as_it_is(tmp_path):
    """A reward model reads both as if they had ended; only what the learner sees of the one without EOS is less."""
    new_reward_model("pythia", seed=1).save(tmp_path / "judge", TOKENIZER)
    group = ["let us look .", "they run ."]
    plain = LearnedReward(reward_model=str(tmp_path / "judge"))
    charged = plain.replace(missing_eos_penalty=2.5)
    scores = rewards(plain, group)
    assert rewards(plain, group, eos=False) == rewards(charged, group) == scores
    assert scores[0][0] != scores[0][1]
    assert rewards(charged, group, eos=False) == [[pytest.approx(score - 2.5, abs=1e-6) for score in scores[0]]]
    env = environment(charged)
    gold = env.label(env.prompts(1, single()), *responses_of(group, eos=False), None, single()).gold
    assert gold.tolist() == scores
    assert env.has_gold and not environment(plain).has_gold


def test_a_reward_model_is_in_memory_once(tmp_path, monkeypatch):
    """Training and evaluation, reward and gold: all read the same weights; when nobody does, they go."""
    new_reward_model("pythia", seed=1).save(tmp_path / "judge", TOKENIZER)
    loaded = []

    def counted(*arguments, **settings):
        loaded.append(arguments)
        return load_reward_model(*arguments, **settings)

    monkeypatch.setattr("llm.reward_models.model.load_reward_model", counted)
    task = LearnedReward(reward_model=str(tmp_path / "judge"), missing_eos_penalty=1.0)
    both = [environment(task), environment(task, split="held_out")]
    assert len(loaded) == 1 and both
    del both
    gc.collect()
    environment(task)
    assert len(loaded) == 2


def test_a_reward_that_is_not_finite_stops_the_run():
    env = environment(MinLength())
    env._reward = lambda completions: [float("nan")] * len(completions)
    tokens, mask = responses_of(["", ""])
    with pytest.raises(FloatingPointError, match="reward of response 0 = nan"):
        env.label(env.prompts(1, single()), tokens, mask, None, single())


def test_labels_come_from_the_cores_labeller():
    env = environment(MinLength())
    asked = env.prompts(2, single())
    tokens, mask = responses_of(["", "they sleep ."], ["they sleep .", ""])
    found = env.label(asked, tokens, mask, "drawn", single())
    assert found.pair_label.tolist() == [[1.0], [0.0]]
    flipped = environment(MinLength(flip_rate=0.5))
    labels = [flipped.label(asked, tokens, mask, "drawn", single(seed)).pair_label[0, 0].item() for seed in range(64)]
    # A fair coin falls outside 12 … 52 of 64 with probability 1e-7.
    assert 12 <= sum(labels) <= 52


def test_every_task_is_a_spec_that_json_holds():
    made = {
        "function": {"reward_funcs": ("a:b",)},
        "learned_reward": {"reward_model": "x/y"},
        "judge": {"judge_model": "x"},
    }
    for kind, cls in kinds_of(Task).items():
        task = cls(**made.get(kind, {}))
        assert from_json(json.loads(json.dumps(to_json(task)))) == task


def test_the_overlap_of_a_length_reward_with_the_reference_is_known_on_the_language_only():
    assert MinLength().overlap() == {"reference near optimum": pytest.approx(1.0e-5, rel=0.05)}
    assert ModeLength().overlap()["reference near optimum"] > 0.9
    found = SkewLength().overlap()
    assert found["reference near optimum"] < 2e-5 and found["recorded near optimum"] == 0
    assert 0 < found["reference like recorded"] < 0.01  # off both
    assert MinLength(data="rows.jsonl").overlap() == SkewLength(data="rows.jsonl").overlap() == {}
    assert Verifiable().overlap() == {}


# Prompts


def test_prompts_come_once_an_epoch_in_a_new_order():
    env, noise = environment(MinLength()), single()
    count = len(env.examples)
    epochs = [[e.where for e in env.prompts(count, noise).examples] for _ in range(2)]
    assert len(set(epochs[0])) == count
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_the_place_in_the_data_is_a_number():
    env, noise = environment(MinLength()), single()
    count, size = len(env.examples), 100
    drawn = [[e.where for e in env.prompts(size, noise).examples] for _ in range(2 * count // size + 1)]
    again = environment(MinLength())
    again.load_state_dict({"prompts": 3 * size, "recorded": 0})
    rest = [[e.where for e in again.prompts(size, single()).examples] for _ in range(len(drawn) - 3)]
    assert rest == drawn[3:]
    other = environment(MinLength()).prompts(size, single(1))
    assert [e.where for e in other.examples] != drawn[0]


def test_held_out_prompts_are_others():
    train, held_out = environment(MinLength()), environment(MinLength(), split="held_out")
    assert not {e.prompt for e in train.examples} & {e.prompt for e in held_out.examples}


# Recorded data


def test_recorded_pairs_of_the_language_are_the_same_in_every_run_and_epoch():
    task = MinLength(recorded_prompts=50, label_temperature=5.0)
    env, noise = environment(task, pairing="drawn"), single()
    found = [env.recorded(50, noise) for _ in range(2)]
    rows = [sorted(zip(b.responses.tolist(), b.pair_label.tolist(), strict=True)) for b in found]
    assert rows[0] == rows[1]
    assert found[0].responses.tolist() != found[1].responses.tolist()
    lengths = response_lengths(found[0].responses, found[0].mask, [EOS])
    assert torch.equal(found[0].rewards, -lengths.float())


def test_skew_data_are_cut_and_end_in_eos():
    task = SkewLength(recorded_prompts=200, cut_from=10, cut_to=22)
    batch = environment(task).recorded(200, single())
    lengths = response_lengths(batch.responses, batch.mask, [EOS])
    assert set(lengths.flatten().tolist()) == set(range(10, 23))  # 400 draws miss one of 13 values with chance 2e-13
    assert torch.equal(batch.mask.sum(-1), lengths + 1)
    words = TOKENIZER.batch_decode(batch.responses[:, 0], skip_special_tokens=True)
    # Whole sentences end in a full stop; about one in five cuts falls on one by chance.
    assert np.mean([text.endswith(".") for text in words]) < 0.5


def test_preference_rows_of_a_file(tmp_path):
    rows = [
        {"prompt": "two plus two cats :", "chosen": "let us look .", "rejected": "they sleep ."},
        {"prompt": "one plus two cats :", "chosen": "answer two .", "rejected": "they sleep . answer two ."},
    ]
    task = MinLength(data=_jsonl(tmp_path, rows), data_kind="preference")
    batch = environment(task, pairing="drawn").recorded(2, single())
    assert batch.pair_label.tolist() == [[1.0], [1.0]]  # the row's own label, whatever the reward says
    assert batch.pairs.tolist() == [[[0, 1]], [[0, 1]]]
    assert sorted(batch.rewards.tolist()) == [[-4.0, -3.0], [-3.0, -6.0]]


def test_recorded_data_must_hold_what_the_algorithm_learns_from():
    recorded, dpo = Schedule(source="dataset"), find_algorithm("dpo")()
    file = MinLength(data="pairs.jsonl")
    with pytest.raises(SpecError, match="data_kind = 'prompt_only': must be preference or prompt_completion"):
        file.check_experiment(dpo, recorded)
    with pytest.raises(SpecError, match="data_kind = 'prompt_completion': must be preference: dpo"):
        file.replace(data_kind="prompt_completion").check_experiment(dpo, recorded)
    file.replace(data_kind="preference").check_experiment(dpo, recorded)
    with pytest.raises(SpecError, match="num_generations = 1: must be at least 2"):
        MinLength().check_experiment(dpo, recorded.replace(num_generations=1))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (lambda: MinLength(data_split="test"), "data_split = 'test': must be train, held_out, or the first few"),
        (lambda: MinLength(prompt_column="q"), "prompt_column = 'q': has no effect with data = language"),
        (lambda: MinLength(data="x.jsonl", chosen_column="a"), "chosen_column = 'a': only means something with"),
        (lambda: SkewLength(cut_from=9, cut_to=5), "cut_to = 5: must be from cut_from = 9"),
        (lambda: ModeLength(mode=-1), "mode = -1: must be int >= 0"),
    ],
)
def test_wrong_settings_are_named(task, words):
    with pytest.raises(SpecError, match=words):
        task()
