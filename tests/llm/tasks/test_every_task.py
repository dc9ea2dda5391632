"""What holds for every task. A new one is found by its kind; what its defaults lack stands in `SETTINGS`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import figures.arms.audit_scoring  # noqa: F401  (importing them registers the kinds of committed records)
import sims.environments
import sims.policies  # noqa: F401
from llm.__main__ import USAGE, main
from llm.embedded.language import build_tokenizer
from llm.models.decoding import Decoding
from llm.models.spec import LanguageModelSpec
from llm.reward_models.model import new_reward_model
from llm.tasks import Completions, MinLength, Task, Verifiable, task_table
from llm.tasks.environment import TextEnvironment
from llm.training.run import Run
from sims.core.algorithms.contrastive import DPO
from sims.core.algorithms.policy_gradient import RLOO
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError, from_json, kinds_of, to_json
from sims.experiments.experiment import Experiment
from sims.experiments.record_file import RecordFile
from tests.llm.judge_server import serving
from tests.llm.tiny_data import CHAT_BPE, CHAT_ROW

ROOT = Path(__file__).parents[3]
TOKENIZER = build_tokenizer()
EOS, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
# Groups of two responses to a prompt: empty, ended, long, and without an end.
GROUPS = [["", "they sleep ."], ["answer two .", "let us look . the cats are red ."]]
SETTINGS: dict[str, dict[str, Any]] = {
    "function": {"reward_funcs": ("tests.llm.tasks.test_every_task:characters",)},
    "learned_reward": {"reward_model": "FOLDER"},
    "judge": {"judge_model": "m", "judge_url": "URL"},
}
TASKS = kinds_of(Task)
LANGUAGE_ONLY = ("proxy_reward", "verifiable_and_rated")  # their gold reward is known there alone


def characters(completions, **columns):
    return [float(len(text)) for text in completions]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "reward"
    new_reward_model("pythia", seed=1).save(folder, TOKENIZER)
    return str(folder)


@pytest.fixture(scope="module")
def judge_url() -> Iterator[str]:
    with serving() as server:
        yield server.url


@pytest.fixture(params=TASKS)
def task(request, reward_model, judge_url) -> Task:
    settings, made = SETTINGS.get(request.param, {}), {"FOLDER": reward_model, "URL": judge_url}
    found = {name: value if isinstance(value, tuple) else made.get(value, value) for name, value in settings.items()}
    try:
        return TASKS[request.param](**found, evaluation_prompts=2, recorded_prompts=4)
    except SpecError as error:
        pytest.fail(f"{request.param} cannot be made from its defaults: give `SETTINGS` what it needs ({error})")


def environment(task: Task, **settings: Any) -> TextEnvironment:
    return TextEnvironment(task, TOKENIZER, torch.device("cpu"), torch.float64, **settings)


def tokens_of(groups: list[list[str]], end: bool = True, width: int = 14) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts as padded token ids and masks, (B, K, width)."""
    rows = [[TOKENIZER.encode(text, add_special_tokens=False) + [EOS] * end for text in group] for group in groups]
    tokens = torch.tensor([[ids + [PAD] * (width - len(ids)) for ids in group] for group in rows])
    return tokens, torch.tensor([[[i < len(ids) for i in range(width)] for ids in group] for group in rows])


def completions_of(env: TextEnvironment, groups: list[list[str]] = GROUPS, end: bool = True) -> Completions:
    asked = env.prompts(len(groups), Noise.single(0))
    return env.completions(asked.examples, *tokens_of(groups, end))


def test_it_has_a_row_in_the_table(task):
    for name in ("description", "optimum", "needs"):
        words = getattr(type(task), name)
        assert words and "|" not in words and "\n" not in words, f"{task.kind}.{name} = {words!r}"
    assert f"| {task.kind} |" in task_table()
    assert "description" in vars(type(task)), f"{task.kind}: its description is that of the task it extends"
    for field in dataclasses.fields(task):
        assert field.metadata.get("help"), f"{task.kind}.{field.name} has no help: setting(default, help, limits)"


@pytest.mark.parametrize("end", [True, False], ids=["ended", "cut off"])
def test_the_reward_is_a_finite_number_for_each_response(task, end):
    """Also for a response without a token, which a policy whose first token is EOS gives."""
    groups = GROUPS if end else [["they sleep .", "answer two ."], ["they run .", "let us look ."]]
    env = environment(task)
    completions = completions_of(env, groups, end)
    rewards = task.reward()(completions)
    assert len(rewards) == len(completions) == 4, f"{len(rewards)} rewards of {len(completions)} responses"
    assert all(isinstance(r, (int, float)) and math.isfinite(r) for r in rewards), rewards
    again = env.score(env.prompts(2, Noise.single(0)).examples, *tokens_of(groups, end))
    assert all(part.shape == (2, 2) and bool(part.isfinite().all()) for part in again)


def test_the_reward_of_a_response_is_its_own(task):
    """Neither its place among others nor their number changes it."""
    reward, completions = task.reward(), completions_of(environment(task))

    def of(index: list[int]) -> list[float]:
        pick = {name: [getattr(completions, name)[i] for i in index] for name in ("prompts", "texts", "ids", "lengths")}
        return list(reward(Completions(**pick, columns={})))

    whole = of([0, 1, 2, 3])
    assert of([3, 2, 1, 0]) == pytest.approx(whole[::-1], abs=1e-5)
    assert [of([i])[0] for i in range(4)] == pytest.approx(whole, abs=1e-5)


def test_lengths_leave_out_the_end(task):
    env = environment(task)
    assert completions_of(env).lengths == [0, 3, 3, 9]
    assert completions_of(env, [["they sleep .", "answer two ."]], end=False).lengths == [3, 3]
    assert [ids[-1] == EOS for ids in completions_of(env).ids] == [True] * 4
    assert completions_of(env).texts[0] == "" and completions_of(env).texts[1] == "they sleep ."


def test_its_best_reward_is_not_exceeded(task):
    best = task.best_reward()
    assert isinstance(best, float) and not math.isinf(best)
    gold = task.gold() or task.reward()
    assert math.isnan(best) or max(gold(completions_of(environment(task)))) <= best


def test_json_gives_it_back(task):
    assert from_json(json.loads(json.dumps(to_json(task)))) == task


def test_recorded_responses_are_read_as_they_are_written(task):
    """Each is encoded with one end, and decoded to a text with the same tokens; the same for every run."""
    batch = environment(task, generations=2, pairing="drawn").recorded(4, Noise.single(0))
    assert batch.rewards.shape == (4, 2) and bool(batch.rewards.isfinite().all())
    for tokens, mask in zip(batch.responses.flatten(0, 1), batch.mask.flatten(0, 1), strict=True):
        ids = tokens[mask].tolist()
        assert ids[-1] == EOS and EOS not in ids[:-1]
        text = TOKENIZER.decode(ids, skip_special_tokens=True)
        assert TOKENIZER.encode(text, add_special_tokens=False) == ids[:-1]
    first, second = batch.rewards[:, 0], batch.rewards[:, 1]
    clear = (first != second).nonzero().flatten()
    assert torch.equal(batch.pair_label[clear, 0] == 1, (first > second)[clear])


def test_evaluations_have_its_metric(task):
    run = Run(_experiment(task))
    numbers = run.evaluate().numbers
    assert task.metric in numbers, f"{task.kind}.metric = {task.metric!r}: must be one of {', '.join(numbers)}"
    assert all(np.isfinite(value) for value in numbers.values())


def _experiment(task: Task, **changes: Any) -> Experiment:
    settings = {
        "name": "tiny",
        "environment": task,
        "policy": LanguageModelSpec(decoding=Decoding(max_new_tokens=4)),
        "algorithm": RLOO(),
        "schedule": Schedule(batch_size=2, num_generations=2),
        "updates": 1,
        "evaluations": 1,
        "runs": 1,
    }
    return Experiment(**settings | changes)


def test_experiments_that_it_cannot_serve_are_refused(task):
    recorded = Schedule(batch_size=2, num_generations=2, source="dataset")
    replay = recorded.replace(source="replay", replay_window=math.inf)
    with pytest.raises(SpecError, match="source = 'replay'"):
        _experiment(task, schedule=replay)
    with pytest.raises(SpecError, match="pool_policy = 'final'"):
        _experiment(task, schedule=recorded.replace(source="pool", pool_size=2, pool_policy="final"))
    with pytest.raises(SpecError, match="num_generations = 1"):
        _experiment(task, algorithm=DPO(), schedule=recorded.replace(num_generations=1))
    if task.kind in LANGUAGE_ONLY:
        with pytest.raises(SpecError, match=r"data = 'x\.jsonl': must be language"):
            task.replace(data="x.jsonl")
        return
    with pytest.raises(SpecError, match="data_kind = 'prompt_only'"):
        _experiment(task.replace(data="x.jsonl"), algorithm=DPO(), schedule=recorded)
    with pytest.raises(SpecError, match="data_kind = 'prompt_completion': must be preference"):
        file = task.replace(data="x.jsonl", data_kind="prompt_completion")
        _experiment(file, algorithm=DPO(), schedule=recorded)


@pytest.mark.parametrize("rewards", [[1.0], [[1.0]] * 4, [1.0] * 5], ids=["too few", "nested", "too many"])
def test_rewards_of_the_wrong_shape_name_the_task(task, rewards):
    env = environment(task)
    env._reward = lambda completions: rewards
    with pytest.raises(SpecError, match=f"task = '{task.kind}': its reward must give one number for each of 4"):
        env.score(env.prompts(2, Noise.single(0)).examples, *tokens_of(GROUPS))


class Careless(MinLength):
    """Without a kind, so that it is not one of the tasks."""


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (
            lambda self: lambda completions: [-1.0],
            r"must give one number for each of 4 responses, not shape \(1,\)",
        ),
        (lambda self: lambda completions: -1.0, "its reward must give one number for each of 4 responses, not -1.0"),
        (lambda self: lambda completions: ["1.0"] * 4, r"one number for each of 4 responses, not \['1.0', '1.0', "),
        (lambda self: lambda completions: [None] * 4, r"one number for each of 4 responses, not \[None, None, "),
        (lambda self: None, "Careless.reward = None: must take no argument, and return a function of completions"),
        (lambda self: [1.0], r"Careless.reward = \[1.0\]: must take no argument, and return a function of compl"),
        (
            lambda self, completions: [1.0],
            r"Careless.reward = '\(completions\)': must take no argument",
        ),
    ],
)
def test_a_reward_of_another_form_is_refused_in_a_line(monkeypatch, method, rule):
    monkeypatch.setattr(Careless, "reward", method)
    with pytest.raises(SpecError, match=rule):
        env = environment(Careless())
        env.score(env.prompts(2, Noise.single(0)).examples, *tokens_of(GROUPS))


def test_a_reward_that_is_not_a_number_is_named(monkeypatch):
    monkeypatch.setattr(Careless, "reward", lambda self: lambda completions: [0.0, math.nan, 0.0, 0.0])
    env = environment(Careless())
    with pytest.raises(FloatingPointError, match="reward of response 1 = nan: must be finite"):
        env.score(env.prompts(2, Noise.single(0)).examples, *tokens_of(GROUPS))


# All of them


def test_the_table_is_printed(capsys):
    assert main(["--tasks"]) == 0
    assert capsys.readouterr().out.strip() == task_table()
    assert "--tasks" in USAGE


def test_the_readme_shows_the_table_of_the_code():
    """On failure: put the output of `python -m llm --tasks` between the two comments of the README."""
    shown = (ROOT / "README.md").read_text().split("python -m llm --tasks -->\n")[1].split("\n<!-- end of tasks")[0]
    assert shown == task_table()


def test_committed_experiments_are_what_they_were():
    """Their JSON is their identity: a field more, less or renamed, or another default, and no record is found."""
    files = [RecordFile(path) for path in sorted((ROOT / "figures" / "records").glob("*lm*.npz"))]
    specs = [spec for file in files for spec in file.specs.values() if "algorithm" in spec]
    for written in specs:
        assert from_json(written).to_json() == written, written["name"]
    kinds = {spec["environment"]["kind"] for spec in specs}
    assert len(specs) >= 60 and kinds >= {"min_length", "mode_length", "skew_length"}


def test_conversations_are_rewarded_by_their_last_message(tmp_path):
    """What the template closes an answer with is no part of it."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(CHAT_ROW) + "\n")
    task = MinLength(data=str(file), data_kind="prompt_completion")
    env = TextEnvironment(task, CHAT_BPE, torch.device("cpu"))
    tokens = torch.tensor([[env.examples[0].completion_ids[0].tolist()]])
    assert env.completions(env.examples, tokens, torch.ones_like(tokens, dtype=torch.bool)).texts == ["a"]


@pytest.mark.parametrize(("row", "words"), [({}, "which has none"), ({"answer": None}, "line 1 has null")])
def test_a_missing_answer_is_told_before_any_work(tmp_path, row, words):
    """A null is no answer, and least of all the word None."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "two plus two cats :"} | row) + "\n")
    with pytest.raises(SpecError, match=f"answer_column = 'answer': must .*{words}"):
        environment(Verifiable(data=str(file)))
