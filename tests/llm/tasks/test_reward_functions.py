"""Reward functions of users: what is accepted, and the one line that each mistake ends in."""

from __future__ import annotations

import asyncio
import json
import os
import re

import numpy as np
import pytest
import torch

from llm.__main__ import main
from llm.tasks import Completions, RewardFunction
from llm.tasks.environment import TextEnvironment
from llm.tasks.function import numbers
from sims.core.numerics.noise import Noise
from sims.core.spec import SpecError
from tests.llm.tiny_data import CHAT_BPE, WORDS, assistant, user
from tests.llm.tiny_models import pad_right

HERE = "tests.llm.tasks.test_reward_functions"
TWO = Completions(["p", "q"], ["a", "b c"], [[4, 2], [5, 6, 2]], [1, 2], {"level": [1, 3]})


def counted(completions, level, **columns):
    return [len(text) * x for text, x in zip(completions, level, strict=True)]


async def awaited(completions, **columns):
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


def said_by_all(completions, **columns):
    """How many messages, and 100 for each letter of the last one."""
    return [len(messages) + 100 * len(messages[-1]["content"]) for messages in completions]


def returns_nothing(**columns):
    pass


def returns_a_scalar(**columns):
    return 1.0


def returns_a_string(**columns):
    return "1.0"


def returns_a_mapping(completions, **columns):
    return {index: 5.0 for index in range(len(completions))}  # its keys are numbers, and none of them a reward


def returns_a_set(**columns):
    return {1.0, 2.0}


def returns_bytes(**columns):
    return b"12"


def changes_what_it_is_given(completions, completion_ids, level, **columns):
    completions.clear()
    completion_ids[0].clear()
    level[0]["of"] = 9
    return [0.0, 0.0]


def moves(completions, **columns):
    os.chdir("/")
    torch.set_default_dtype(torch.float64)
    return [1.0] * len(completions)


def moves_and_raises(**columns):
    os.chdir("/")
    raise KeyError("grade")


def exits(**columns):
    raise SystemExit(0)


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError


def raises_what_cannot_be_read(**columns):
    raise Unreadable


def yields_forever(**columns):
    while True:
        yield 1.0


def yields_and_raises(**columns):
    yield 1.0
    raise KeyError("grade")


def returns_5000_digits(completions, **columns):
    return [10**5000] * len(completions)


def returns_strings(completions, **columns):
    return ["1.0"] * len(completions)


def returns_none_for_a_row(completions, **columns):
    return [0.5, None]


def returns_nan(completions, **columns):
    return [float("nan"), 0.5]


def returns_infinity(completions, **columns):
    return [0.5, float("-inf")]


def returns_beyond_floats(completions, **columns):
    return [0.5, 10**400]


def returns_beyond_float32(completions, **columns):
    return [1e300, 0.5]


def returns_lists(completions, **columns):
    return [[0.5], [0.5]]


def returns_too_few(completions, **columns):
    return [0.5]


def raises(completions, **columns):
    raise KeyError("grade")


async def raises_when_awaited(completions, **columns):
    raise KeyError("grade")


def yields(completions, **columns):
    return (len(text) for text in completions)


def exact(prompts, completions, completion_ids):
    return [0.0] * len(completions)


def wants_more(completions, solution, **columns):
    return [0.0] * len(completions)


def of_messages(completions, **columns):
    return [len(message["content"]) for (message,) in completions]


NUMBER = 3.0


def rewards(name: str) -> list[float]:
    return list(RewardFunction(reward_funcs=(f"{HERE}:{name}",)).reward()(TWO))


def test_what_is_accepted():
    assert rewards("counted") == [1, 9]
    assert rewards("awaited") == rewards("yields") == [1, 3]
    assert numbers("f", np.array([0.5, 2]), TWO) == numbers("f", torch.tensor([0.5, 2]), TWO) == [0.5, 2]
    assert numbers("f", [True, np.float32(0.25)], TWO) == [1, 0.25]


def test_several_functions_are_weighed_and_none_adds_nothing():
    names = tuple(f"{HERE}:{name}" for name in ("counted", "returns_none_for_a_row", "awaited"))
    assert RewardFunction(reward_funcs=names).reward()(TWO) == [1 + 0.5 + 1, 9 + 3]
    assert RewardFunction(reward_funcs=names, reward_weights=(1.0, -2.0, 0.5)).reward()(TWO) == [1 - 1 + 0.5, 9 + 1.5]
    for wrong, message in (((1.0,), "must be 3, one per function"), ((1.0, 2.0, float("nan")), "reward_weights")):
        with pytest.raises(SpecError, match=message):
            RewardFunction(reward_funcs=names, reward_weights=wrong)
    with pytest.raises(SpecError, match="must name a function"):
        RewardFunction()


def of_levels(completions, completion_ids, level, **columns):
    return [len(text) + len(ids) + x["of"] for text, ids, x in zip(completions, completion_ids, level, strict=True)]


def test_what_a_function_changes_in_its_arguments_is_its_own():
    given = Completions(["p", "q"], ["a", "b c"], [[4, 2], [5, 6, 2]], [1, 2], {"level": [{"of": 1}, {"of": 3}]})
    both = RewardFunction(reward_funcs=(f"{HERE}:changes_what_it_is_given", f"{HERE}:of_levels"))
    assert both.reward()(given) == [1 + 2 + 1, 3 + 3 + 3]
    assert given.columns["level"] == [{"of": 1}, {"of": 3}]


def test_the_folder_and_the_type_of_tensors_stay_what_they_are(tmp_path, monkeypatch):
    """A run's relative paths would else lead elsewhere, and its later tensors have more digits."""
    monkeypatch.chdir(tmp_path)
    assert rewards("moves") == [1.0, 1.0]
    with pytest.raises(SpecError):
        rewards("moves_and_raises")
    assert os.getcwd() == str(tmp_path) and torch.get_default_dtype() == torch.float32


def test_an_async_function_is_awaited_inside_a_running_loop():
    """As in Jupyter."""

    async def cell():
        return rewards("awaited")

    assert asyncio.run(cell()) == [1, 3]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("returns_nothing", "must return a list of 2 numbers, one per completion, not None"),
        ("returns_a_scalar", "must return a list of 2 numbers, one per completion, not 1.0"),
        ("returns_a_string", "must return a list of 2 numbers, one per completion, not '1.0'"),
        ("returns_a_mapping", "must return a list of 2 numbers, one per completion, not {0: 5.0, 1: 5.0}"),
        ("returns_a_set", "must return a list of 2 numbers, one per completion, not {1.0, 2.0}"),
        ("returns_bytes", "must return a list of 2 numbers, one per completion, not b'12'"),
        ("returns_strings", "must return finite numbers, not '1.0' for row 0, whose prompt is 'p'"),
        ("returns_none_for_a_row", "must return a number: None of every function for row 1, whose prompt is 'q'"),
        ("returns_nan", "must return finite numbers, not nan for row 0, whose prompt is 'p'"),
        ("returns_infinity", "must return finite numbers, not -inf for row 1, whose prompt is 'q'"),
        ("returns_beyond_floats", "must return finite numbers, not 1000000000"),
        ("returns_beyond_float32", "must return numbers of at most 1e30 in size, not 1e+300 for row 0"),
        ("returns_lists", r"must return finite numbers, not [0.5] for row 0"),
        ("returns_too_few", "must return a number for each of 2 completions, not 1"),
        ("raises", "must not raise; it raised KeyError: 'grade' (test_reward_functions.py, line "),
        ("exits", "must not raise; it raised SystemExit: 0 (test_reward_functions.py, line "),
        ("raises_what_cannot_be_read", "must not raise; it raised Unreadable: its message cannot be read (test_rew"),
        ("yields_forever", "must return a number for each of 2 completions, not 3"),
        ("yields_and_raises", "must not raise; it raised KeyError: 'grade' (test_reward_functions.py, line "),
        ("returns_5000_digits", "must return finite numbers, not a value of type int for row 0, whose prompt is 'p'"),
        ("raises_when_awaited", "must not raise; it raised KeyError: 'grade' (test_reward_functions.py, line "),
        ("NUMBER", "must be a function, not float"),
        ("absent", "cannot be imported: AttributeError"),
    ],
)
def test_mistakes_end_in_one_line(name, words):
    with pytest.raises(SpecError, match=re.escape(words)) as found:
        rewards(name)
    line = str(found.value)
    assert line.startswith(f"reward_funcs = '{HERE}:{name}': ") and "\n" not in line and len(line) < 250


def test_a_module_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_rewards.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="reward_funcs = 'broken_rewards:f': cannot be imported: SyntaxError"):
        RewardFunction(reward_funcs=("broken_rewards:f",)).reward()


# Told before any work


def environment(tmp_path, name: str, row: dict, tokenizer=WORDS, **settings) -> TextEnvironment:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    task = RewardFunction(reward_funcs=(f"{HERE}:{name}",), data=str(file), **settings)
    return TextEnvironment(task, tokenizer, torch.device("cpu"))


@pytest.mark.parametrize("column", ["completions", "prompts", "completion_ids"])
def test_columns_that_are_arguments_already(tmp_path, column):
    words = f"is given prompts, completions, completion_ids already: the data must have no column '{column}'"
    with pytest.raises(SpecError, match=words):
        environment(tmp_path, "counted", {"prompt": "a", "level": 1, column: "b"})


def test_arguments_that_do_not_fit_the_columns(tmp_path):
    environment(tmp_path, "exact", {"prompt": "a"})
    with pytest.raises(SpecError, match=r"the rest as \*\*columns: got an unexpected keyword argument 'level'"):
        environment(tmp_path, "exact", {"prompt": "a", "level": 1})
    with pytest.raises(SpecError, match="missing a required argument: 'solution'"):
        environment(tmp_path, "wants_more", {"prompt": "a", "level": 1})


def test_conversations_come_as_messages(tmp_path):
    env = environment(tmp_path, "of_messages", {"prompt": [user("q")]}, CHAT_BPE)
    ids = torch.tensor([[[*CHAT_BPE.encode("blue", add_special_tokens=False), CHAT_BPE.eos_token_id]]])
    assert env.score(env.examples, ids, torch.ones_like(ids, dtype=torch.bool))[0].tolist() == [[4.0]]


def test_several_turns_come_as_all_their_messages(tmp_path):
    """A recorded completion of several turns as the data have it; of fresh samples, and of one turn, one message."""
    talk = [assistant("blue"), user("why?"), assistant("air")]
    row = {"prompt": [user("q")], "chosen": talk, "rejected": [assistant("no")]}
    env = environment(tmp_path, "said_by_all", row, CHAT_BPE, data_kind="preference")
    (example,), eos = env.examples, CHAT_BPE.eos_token_id
    tokens, mask = pad_right([ids.tolist() for ids in example.completion_ids])
    mask[0, : len(example.chosen_by_policy[0])] &= torch.from_numpy(example.chosen_by_policy[0])
    assert env.score([example], tokens[None], mask[None])[0].tolist() == [[303, 201]]
    found = env.completions([example], tokens[None], mask[None])
    assert found.texts == ["blueair", "no"] and found.said() == [talk, "no"]
    assert found.ids[0].count(eos) == 2 and found.lengths[0] == len(found.ids[0]) - 2
    fresh = env.prompts(1, Noise([(0, 0)])).examples
    assert env.score(fresh, tokens[None], mask[None])[0].tolist() == [[701, 201]]


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    options = ["--preset", "tiny-min-length", "--reward-funcs", f"{HERE}:returns_nothing"]
    assert main(["train", "--output", str(tmp_path / "run"), *options]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and f"error: reward_funcs = '{HERE}:returns_nothing': must return a list of" in said[0]
