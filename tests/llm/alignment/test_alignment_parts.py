"""The parts of the loop that need no model: users, drift, uncertainty, rules, comparisons, files."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from llm.alignment import users
from llm.alignment.chart import BOTTOM, HEIGHT, ROW, TOP, WIDTH, line_chart, round_ticks
from llm.alignment.drift import drift, energy_distance
from llm.alignment.filter import flag, repetition
from llm.alignment.gate import controlled_win_rate, skill_change, win_rate
from llm.alignment.gold import gold_items, read_gold_set
from llm.alignment.imported import LineError, read_line
from llm.alignment.label import Pair
from llm.alignment.labellers import Simulated
from llm.alignment.people import read_task, swapped, task
from llm.alignment.settings import Filtering, Gating, LabelSource, Settings
from llm.alignment.uncertainty import PRECISION, fit
from llm.alignment.update import preference_row
from llm.alignment.users import Users
from llm.data import Text, parse_row
from sims.core.spec import SpecError
from sims.statistics import paired_effect

RNG = np.random.default_rng


def test_gold_counts_the_answer_and_the_tokens_beyond_sixteen() -> None:
    prompt, right = "two plus three cats :", "the answer is five ."  # 5 tokens
    assert users.gold(prompt, right) == 1.0
    assert users.gold(prompt, "the answer is six .") == 0.0
    filler = " they run ."  # 3 tokens
    assert users.gold(prompt, right + 4 * filler) == pytest.approx(1 - 0.02 * (5 + 12 - 16))
    assert users.gold(prompt, 40 * filler) == pytest.approx(users.LOWEST)


def test_requests_drift_from_sums_to_differences_and_no_gold_prompt_is_asked() -> None:
    spec = Users(requests=4000)
    shares = [spec.share_of_differences(cycle) for cycle in range(1, 9)]
    assert shares == sorted(shares) and 0.1 <= shares[0] < 0.15 and 0.75 < shares[-1] <= 0.8
    asked = spec.asked(4, RNG(0))
    # 4 standard errors of a share: a false alarm in 16,000 seeds.
    assert np.mean([" minus " in prompt for prompt in asked]) == pytest.approx(shares[3], abs=4 * 0.5 / math.sqrt(4000))
    gold = {prompt for skill in users.SKILLS for prompt in users.gold_prompts(skill)}
    assert gold and not gold & set(asked)


def test_the_energy_distance_is_that_of_its_definition_and_zero_without_drift() -> None:
    x, y = RNG(0).normal(size=(5, 3)), RNG(1).normal(size=(7, 3)) + 1
    points = np.concatenate([x, y])
    between = np.linalg.norm(points[:, None] - points[None], axis=-1)
    own = [np.mean([np.linalg.norm(a - b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    cross = np.mean([np.linalg.norm(a - b) for a in x for b in y])
    assert energy_distance(between, 5) == pytest.approx(2 * cross - sum(own), abs=1e-12)
    same, level = drift(RNG(2).normal(size=(200, 3)), RNG(3).normal(size=(200, 3)), RNG(4))
    moved, _ = drift(RNG(2).normal(size=(200, 3)), RNG(3).normal(size=(200, 3)) + 0.5, RNG(4))
    assert same < 2 * level < moved  # one seed: nothing is left to chance


def test_the_posterior_is_at_its_mode_and_surest_where_labels_were() -> None:
    responses = RNG(0).normal(size=(50, 2))
    first, second = RNG(1).normal(size=(2, 40, 2)) * np.array([3.0, 0.01])  # pairs differ along the first axis
    labels = (first[:, 0] > second[:, 0]).astype(float)
    found = fit(*(x.astype(np.float32) for x in (responses, first, second)), labels)
    d = (first.astype(np.float32).astype(float) - second.astype(np.float32)) / found.scale
    gradient = d.T @ (1 / (1 + np.exp(-d @ found.weight)) - labels) + PRECISION * found.weight
    assert np.abs(gradient).max() < 1e-8 and found.weight[0] > 1
    along, across = found.uncertainty((found.centre + np.diag(found.scale)).astype(np.float32))
    assert along < 0.8 * across and across == pytest.approx(1.0, abs=0.01)  # what the prior says
    empty = np.zeros((0, 2), np.float32)
    assert fit(responses.astype(np.float32), empty, empty, np.zeros(0)).covariance == pytest.approx(np.eye(2))


def test_rules_flag_short_long_and_repetitive_responses() -> None:
    settings = Filtering(shortest=3, longest=8, repetition=0.4)
    assert repetition(["a", "b", "c", "a", "b", "c"]) == 0.25
    assert flag("a b", settings) == "short: 2 words, fewer than 3"
    assert flag("a b c d e f g h i", settings) == "long: 9 words, more than 8"
    assert "repetitive: 67%" in str(flag("a a a a a", settings))
    assert flag("a b c d", settings) is None


def test_simulated_labels_are_functions_of_the_pair_with_the_biases_asked_for() -> None:
    pair = Pair("r1", "two plus three cats :", "the answer is five .", "the answer is six . they run . they run .")
    quiet = {"label_temperature": 0.0, "flip_rate": 0.0}

    def label(pair: Pair, **spec: object) -> float | None:
        return next(iter(Simulated(LabelSource(**quiet | spec), 0).answers([pair]))).label  # type: ignore[arg-type]

    assert label(pair) == 1.0
    assert label(pair, length_bias=1.0) == 0.0  # 5 words against 11
    assert label(pair, wrong_key=True) == 0.0
    assert label(Pair("r", pair.prompt, pair.first, "so the answer must be five .")) == 0.5
    noisy = Simulated(LabelSource(), 0)
    assert [a.label for a in noisy.answers([pair] * 3)] == [next(iter(noisy.answers([pair]))).label] * 3


def test_a_win_rate_that_length_explains_is_no_win_at_equal_length() -> None:
    rng = RNG(0)
    longer = rng.integers(-8, 9, 400).astype(float)
    by_length = (rng.random(400) < 1 / (1 + np.exp(-longer))).astype(float)
    won = np.where(longer > -3, by_length, 0.0)
    longer += 3  # the candidate is longer on average, and wins for that alone
    assert win_rate(won, 0.5).value > 0.5 and not controlled_win_rate(won, longer, 0.5).passed
    better = (rng.random(400) < 0.65).astype(float)
    found = controlled_win_rate(better, longer - longer.mean(), 0.5)
    assert found.passed and found.value == pytest.approx(better.mean(), abs=0.02)
    assert controlled_win_rate(np.full(400, 0.5), longer, 0.5).value == pytest.approx(0.5)


def test_a_skill_changes_by_no_more_than_scores_can() -> None:
    """One of twelve prompts is scored differently, and a few by next to nothing: the bootstrap-t runs out."""
    live, most = np.full(12, 0.0), users.HIGHEST - users.LOWEST
    differs = np.where(np.arange(12) == 0, 1.0, np.where(np.arange(12) % 5 == 1, 0.02, 0.0))
    for sign in (1, -1):
        wide, found = paired_effect(sign * differs, live), skill_change("sums", sign * differs, live, 0.1)
        assert max(-wide.low, wide.high) > most
        assert (found.low, found.high) == (max(wide.low, -most), min(wide.high, most)) and found.passed
    fallen = skill_change("sums", live - np.linspace(0.05, 0.06, 12), live, 0.1)
    assert not fallen.passed and fallen.high is not None and fallen.high < 0  # by less than the margin, surely


def test_a_gold_set_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    file.write_text('{"prompt": "6*7?", "skill": "sums", "answer": "42"}\n\n')
    ((prompt, score),) = read_gold_set(file)["sums"]
    assert (prompt, score("It is 42."), score("It is 421.")) == ("6*7?", 1.0, 0.0)
    with pytest.raises(SpecError, match="guarded = 'manners': must be all, or skills of the gold set: sums"):
        gold_items(Gating(gold_set=str(file), guarded="manners"), simulated=False)
    assert gold_items(Gating(), simulated=False) == {}
    file.write_text('{"prompt": "6\u2028*7?", "skill": "sums", "answer": "42"}', encoding="utf-8")
    assert len(read_gold_set(file)["sums"]) == 1  # a line separator of Unicode ends no line
    file.write_text('{"prompt": "6*7?"}')
    with pytest.raises(SpecError, match="line 1 must be an object with prompt, skill and answer"):
        read_gold_set(file)


CHAT = {
    "request": {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.7, "model": "v1"},
    "response": {
        "id": "chatcmpl-1",
        "model": "v1",
        "choices": [
            {
                "message": {"role": "assistant", "content": "hello"},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "hello", "logprob": -0.5}]},
            }
        ],
    },
}


def test_lines_of_servers_are_read_in_every_form() -> None:
    row = read_line(json.dumps(CHAT))
    assert (row["id"], row["model"], row["response"], row["finished"]) == ("chatcmpl-1", "v1", "hello", 1)
    assert row["prompt"] == CHAT["request"]["messages"] and row["sampling"] == {"temperature": 0.7}
    assert np.frombuffer(row["logp"], np.float32).tolist() == [-0.5]
    batch = {
        "custom_id": "7",
        "request": {"body": CHAT["request"]},
        "response": {"status_code": 200, "body": dict(CHAT["response"])},
    }
    assert read_line(json.dumps(batch))["id"] == "chatcmpl-1"  # another batch may have a custom_id 7 too
    del batch["response"]["body"]["id"]
    assert read_line(json.dumps(batch))["id"] == "7"
    plain = {"prompt": "a", "choices": [{"text": "b", "finish_reason": "length"}]}
    assert read_line(json.dumps(plain))["finished"] == 0
    assert read_line(json.dumps(plain))["id"] == read_line(json.dumps(plain))["id"]  # a digest


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is no JSON"),
        ("[1]", "must be an object"),
        ('{"prompt": 3, "choices": []}', "must have messages, or a prompt"),
        ('{"prompt": "a"}', "must have choices"),
        ('{"prompt": "a", "choices": [{"message": {"content": null}}]}', "must have a response of text"),
        ('{"prompt": "a", "response": {"status_code": 500, "body": {}}}', "is an error of the server: status 500"),
        ('{"prompt": "a", "response": "x"}', "response must be an object"),
        ('{"prompt": [{"role": "user"}], "choices": [1]}', "must have messages, or a prompt"),
    ],
)
def test_lines_that_are_none_say_why(line: str, why: str) -> None:
    with pytest.raises(LineError, match=why):
        read_line(line)


def annotated(pair: Pair, *annotations: dict) -> dict:
    return {"id": 1, "data": task(pair), "annotations": list(annotations)}


def better(side: str) -> dict:
    return {
        "result": [{"type": "pairwise", "from_name": "better", "value": {"selected": side}}],
        "was_cancelled": False,
    }


NEITHER = {"result": [{"type": "choices", "value": {"choices": ["neither is better"]}}]}


def test_what_people_say_is_turned_back_into_the_order_of_the_pair() -> None:
    rows = [next(f"r{i}" for i in range(99) if swapped(f"r{i}") is side) for side in (False, True)]
    for row, first in zip(rows, (1.0, 0.0), strict=True):
        pair = Pair(row, "p", "one", "two")
        assert task(pair)["left"] == ("one" if first else "two")

        def label(*annotations: dict, pair: Pair = pair) -> float | None:
            answer = read_task(annotated(pair, *annotations), "", Path())[1]
            return None if answer is None else answer.label

        assert label(better("left")) == first and label(better("right")) == 1 - first
        assert label(NEITHER) == 0.5 and label(better("left"), better("left"), better("right")) == pytest.approx(
            abs(first - 1 / 3)
        )
        assert label() is None and label(better("left") | {"was_cancelled": True}) is None
        assert label(better("sideways")) is None and label({"result": []}) is None
        both = {"result": better("left")["result"] + NEITHER["result"]}
        assert label(both) == 0.5  # a box that was ticked after a click


def test_an_export_without_data_is_told_which_format_is_read() -> None:
    flat = {"row": "r", "left": "one", "right": "two", "better": [{"selected": "left"}]}  # JSON-MIN
    with pytest.raises(SpecError, match=r"task 1: must have data .* Label Studio's format JSON"):
        read_task(flat, "task 1", Path("export.json"))


@pytest.mark.parametrize("prompt", ["hi", [{"role": "user", "content": "hi"}]])
def test_a_labelled_pair_is_a_row_that_training_reads(prompt: Text) -> None:
    row = {"row": "r", "prompt": json.dumps(prompt), "first": "one", "second": "two", "label": 0.0}
    read = parse_row(preference_row(row), "preference")
    texts = [text if isinstance(text, str) else text[0]["content"] for text in read.completions]
    assert read.prompt == prompt and texts == ["two", "one"]


def test_settings_are_changed_by_name_and_checked() -> None:
    assert Settings().changed(beta=0.5, share=1.0).updating.beta == 0.5
    with pytest.raises(SpecError, match="algorithm = 'ppo': must learn from pairs"):
        Settings().changed(algorithm="ppo")
    with pytest.raises(SpecError, match="label_model = None: must be given"):
        Settings().changed(labels="reward_model")
    with pytest.raises(SpecError, match="judge_model = None: must be given with gate_labels = judge"):
        Settings().changed(gate_labels="judge")
    with pytest.raises(SpecError, match="is no setting of the loop"):
        Settings().changed(colour="red")
    assert Settings().changed(algorithm="simpo").updating.made().kind == "simpo"


def test_a_chart_names_its_series_apart() -> None:
    svg = line_chart({"a & b": [(1, 0.5), (2, 0.5)], "c": [(1, 0.4), (2, 0.5)]}, "title", "unit")
    assert "a &amp; b" in svg and svg.count("<circle") == 4
    many = line_chart({f"a name of some length {i}": [(1, 0.5)] for i in range(4)}, "title", "unit")
    for found in (svg, many):
        names = re.findall(r'class="name s\d" x="([\d.]+)" y="([\d.]+)"', found)
        places = [(float(x), float(y)) for x, y in names]
        assert len(set(places)) == len(places) == (2 if found is svg else 4) and max(x for x, _ in places) < WIDTH
    assert line_chart({"empty": []}, "", "") == ""
    svg = line_chart({"a": [(1, 0.5, 0.2, 0.9)]}, "title", "unit")
    interval = svg.split('<line class="s0"')[1]
    top, bottom = (float(interval.split(f'y{i}="')[1].split('"')[0]) for i in (2, 1))
    assert ROW + TOP < top < bottom < ROW + HEIGHT - BOTTOM and "a, cycle 1: 0.500 [0.200, 0.900]" in svg


@pytest.mark.parametrize(
    ("ends", "said"),
    [((0.27, 0.94), "0.4 0.6 0.8"), ((-0.013, 0.11), "0.00 0.05 0.10"), ((41, 77), "50 60 70")],
)
def test_ticks_are_round_and_told_apart(ends: tuple[float, float], said: str) -> None:
    ticks, digits = round_ticks(*ends)
    assert " ".join(f"{y:.{digits}f}" for y in ticks) == said
