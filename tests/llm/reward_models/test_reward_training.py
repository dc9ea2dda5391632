"""Reward models: where the score is read, the loss, what is reported, and that they learn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from llm.__main__ import main
from llm.commands.reward import LongerWins
from llm.embedded import EMBEDDED, language
from llm.models.settings import Scoring
from llm.reward_models.calibration import calibration, wilson
from llm.reward_models.fit import Fit, RewardTraining, fit
from llm.reward_models.model import RewardModel, load_reward_model, new_reward_model
from llm.reward_models.scoring import ImplicitReward, TextScorer, held_out, label_pairs, preference_batch, scores_of
from llm.training.pretrain import load
from sims.core.algorithms import find_algorithm
from sims.core.algorithms.reward_model import RewardModelLoss
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, Outputs
from sims.core.objectives.preferences import Labeller
from sims.core.spec import SpecError
from tests.llm.tiny_data import load as load_rows
from tests.llm.tiny_models import EOS, SHAPES, pad_left, pad_right, tiny_model, tiny_policy

PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10]]
RESPONSES = [[[4, 5, EOS], [6]], [[7, 3, 4, 5, EOS], [EOS]], [[11, 12], [3, EOS]]]  # some end in EOS, some are cut
shapes = pytest.mark.parametrize("shape", SHAPES)


def tiny_reward_model(shape: str, scoring: Scoring | None = None, **changes: int) -> RewardModel:
    """The tiny language model's backbone under a head, in float64."""
    backbone = tiny_model(shape, **changes)
    config = backbone.config
    config.num_labels = 1
    classifier = AutoModelForSequenceClassification.from_config(config).double()
    classifier.base_model.load_state_dict(backbone.base_model.state_dict())
    width = classifier.score.weight.shape[1]
    classifier.score.weight.data = torch.linspace(-1, 1, width, dtype=torch.float64).sin()[None] + 0.3
    return RewardModel(classifier, scoring)


def tiny_batch(value: int = 0, extra: int = 0) -> Batch:
    """The responses above, padded by `extra` more slots on either side than needed, with `value` in them."""
    prompts, prompt_mask = pad_left(PROMPTS, value, extra)
    responses, mask = pad_right([tokens for group in RESPONSES for tokens in group], value, extra)
    shape = (len(PROMPTS), 2, -1)
    return Batch(
        prompts=prompts,
        prompt_mask=prompt_mask,
        responses=responses.reshape(shape),
        mask=mask.reshape(shape),
        pairs=torch.tensor([[[0, 1]], [[0, 1]], [[1, 0]]]),
        pair_label=torch.tensor([[1.0], [1.0], [0.25]], dtype=torch.float64),
    )


def scores(model: RewardModel, batch: Batch) -> Tensor:
    return model.score(batch.prompts, batch.prompt_mask, batch.responses, batch.mask)


@shapes
def test_the_score_is_read_at_the_last_real_token(shape: str):
    """Against one row at a time without padding, through transformers' own logits of that token."""
    model = tiny_reward_model(shape)
    for prompt, group, found in zip(PROMPTS, RESPONSES, scores(model, tiny_batch()), strict=True):
        for response, score in zip(group, found, strict=True):
            ids = torch.tensor([prompt + response])
            with torch.no_grad():
                states = model.classifier.base_model(input_ids=ids).last_hidden_state
                expected = model.classifier.score(states)[0, -1, 0]
            torch.testing.assert_close(score, expected, rtol=1e-10, atol=1e-10)


@shapes
def test_padding_of_any_side_amount_or_id_changes_no_score(shape: str):
    model = tiny_reward_model(shape)
    expected = scores(model, tiny_batch())
    assert expected.std() > 0.1
    for value in (0, EOS, 5, 10**6):
        torch.testing.assert_close(scores(model, tiny_batch(value, extra=4)), expected, rtol=1e-10, atol=1e-10)
    rows = [prompt + response for prompt, group in zip(PROMPTS, RESPONSES, strict=True) for response in group]
    for pad in (pad_left, pad_right):
        for extra in (0, 5):
            found = model.score_rows(*pad(rows, EOS, extra))
            torch.testing.assert_close(found, expected.flatten(), rtol=1e-10, atol=1e-10)


@shapes
def test_gradient_ignores_padding_and_memory_settings(shape: str):
    """Gradient checkpointing and micro-batches are for memory alone."""

    def gradients(batch: Batch, scoring: Scoring | None = None) -> list[Tensor]:
        model = tiny_reward_model(shape, scoring)
        found = model(batch.prompts, batch.prompt_mask, batch.responses, batch.mask)
        weight = torch.arange(found.numel(), dtype=found.dtype).view_as(found)
        return list(torch.autograd.grad((found * weight).sum(), list(model.parameters())[1:]))

    expected = gradients(tiny_batch())
    for found in (gradients(tiny_batch(EOS, extra=3)), gradients(tiny_batch(), Scoring(gradient_checkpointing=True))):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    model = tiny_reward_model(shape, Scoring(score_batch_size=4))
    torch.testing.assert_close(scores(model, tiny_batch()), scores(tiny_reward_model(shape), tiny_batch()))


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2])
def test_the_loss_is_bradley_terry(micro_batch_size: int | None):
    """−log σ(d − m) by hand, labels smoothed, centred, over pairs that count; the third pair's label is ¼."""
    model, batch = tiny_reward_model("gpt2"), tiny_batch().replace(pair_weight=torch.tensor([[1.0], [0.0], [1.0]]))
    r, margin, smoothing, centring = scores(model, batch), 0.3, 0.1, 0.02
    p = [1 - smoothing, None, 0.25 * (1 - smoothing) + 0.75 * smoothing]

    def log_sigmoid(x: float) -> float:
        return -math.log(1 + math.exp(-x))

    expected = 0.0
    for row, first, second in ((0, 0, 1), (2, 1, 0)):
        d, total = float(r[row, first] - r[row, second]), float(r[row].sum())
        expected -= p[row] * log_sigmoid(d - margin) + (1 - p[row]) * log_sigmoid(-d - margin)
        expected += centring * total**2
    loss = RewardModelLoss(label_smoothing=smoothing, center_rewards_coefficient=centring)
    training = RewardTraining(batch_size=3, micro_batch_size=micro_batch_size)
    step = next(fit(model, batch, loss, training, margin=torch.full((3, 1), margin)))
    assert step.loss == pytest.approx(expected / 2, rel=1e-6)
    right = [1.0 if r[0, 0] > r[0, 1] else 0.0, 0.25 if r[2, 1] > r[2, 0] else 0.75]
    assert step.accuracy == pytest.approx(sum(right) / 2)


def test_calibration_by_hand():
    """Four pairs that count, σ(|d|) and how right: 0.65 and 1, 0.65 and 0, 0.95 and 0.8, 0.5 and ½."""
    d = torch.tensor([math.log(0.65 / 0.35), math.log(0.65 / 0.35), -math.log(19.0), 0.0, 3.0])
    label = torch.tensor([1.0, 0.0, 0.2, 1.0, 0.0])
    found = calibration(d, label, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]), bins=5)
    assert found.pairs == 4
    assert found.accuracy == pytest.approx((1 + 0 + 0.8 + 0.5) / 4)
    likely = [math.log(0.65), math.log(0.35), 0.2 * math.log(0.05) + 0.8 * math.log(0.95), math.log(0.5)]
    assert found.log_loss == pytest.approx(-sum(likely) / 4, rel=1e-6)
    assert [b.pairs for b in found.bins] == [1, 2, 0, 0, 1]
    assert [b.low for b in found.bins] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert [b.accuracy for b in found.bins if b.pairs] == pytest.approx([0.5, 0.5, 0.8])
    # gaps by bin: 0.5 − 0.5 once, 0.65 − 0.5 for two pairs, 0.95 − 0.8 once
    assert found.calibration_error == pytest.approx((0.0 + 2 * 0.15 + 0.15) / 4, rel=1e-5)
    with pytest.raises(ValueError, match="all weights are 0"):
        calibration(d, label, torch.zeros(5))


def test_accuracy_has_an_interval():
    """Wilson's bounds are where the share is 1.96 standard errors of the bound's own probability away."""
    for share, count in ((0.65, 268), (0.0, 4), (1.0, 10), (0.5, 1)):
        low, high = wilson(share, count)
        assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
        for bound in (low, high):
            if 0 < bound < 1:
                error = math.sqrt(bound * (1 - bound) / count)
                assert abs(share - bound) == pytest.approx(1.959964 * error, rel=1e-6, abs=1e-7)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)  # in the tables
    found = calibration(torch.tensor([1.0, 2.0, -1.0, 1.0]), torch.ones(4))
    assert (found.accuracy_low, found.accuracy_high) == wilson(0.75, 4)


def test_longer_wins_counts_tokens():
    responses, mask = pad_right([[3, EOS], [3, 4, 5, EOS], [3, 4, EOS], [3]])
    scores = LongerWins().score(torch.zeros(2, 1), None, responses.reshape(2, 2, -1), mask.reshape(2, 2, -1))
    assert scores.tolist() == [[2, 4], [3, 1]]


def test_calibrated_scores_have_little_calibration_error():
    """Labels drawn from the scores' own distribution: the error is sampling error, about 0.01 for 20,000 pairs. Scores
    that are twice too large are overconfident by 0.1."""
    generator = torch.Generator().manual_seed(0)
    d = 2 * torch.randn(20_000, generator=generator)
    label = (torch.rand(20_000, generator=generator) < d.sigmoid()).float()
    assert calibration(d, label).calibration_error < 0.02
    assert calibration(3 * d, label).calibration_error > 0.08


def test_implicit_reward_is_what_dpo_compares():
    policy, reference = tiny_policy("gpt_neox"), tiny_policy(tiny_model("gpt_neox", seed=1))
    batch = tiny_batch(EOS, extra=2)
    reward = ImplicitReward(policy, reference, beta=0.7).score(
        batch.prompts, batch.prompt_mask, batch.responses, batch.mask
    )
    with torch.no_grad():
        batch = batch.replace(logp_ref=reference.forward(batch).logp)
        outputs: Outputs = policy.forward(batch)
    dpo = find_algorithm("dpo")(beta=0.7)
    torch.testing.assert_close(reward, 0.7 * dpo.score(outputs, batch), rtol=1e-12, atol=1e-12)
    assert reward.abs().min() > 1e-3


def test_text_scorer_reads_text_without_padding():
    _, tokenizer = load("pythia")
    seen: list[tuple[str, str]] = []

    def judge(prompts: list[str], completions: list[str]) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [len(text.split()) for text in completions]

    texts = ["two plus three cats :", "some cats sleep .", "let us look . they run ."]
    prompt, *answers = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
    prompts, prompt_mask = pad_left([[tokenizer.bos_token_id, *prompt]], tokenizer.convert_tokens_to_ids("cats"), 3)
    eos = tokenizer.eos_token_id
    responses, mask = pad_right([[*ids, eos] for ids in answers], tokenizer.convert_tokens_to_ids("dogs"), 2)
    found = TextScorer(judge, tokenizer).score(prompts, prompt_mask, responses[None], mask[None])
    assert seen == [(texts[0], texts[1]), (texts[0], texts[2])]
    assert found.tolist() == [[4.0, 7.0]]
    with pytest.raises(ValueError, match="judge gave 1 scores: must be one for each of 2 responses"):
        TextScorer(lambda *_: [0.0], tokenizer).score(prompts, prompt_mask, responses[None], mask[None])


def length_pairs(count: int, seed: int, split: language.Split) -> Batch:
    """Two responses of the language to each prompt, the longer preferred, by 5 tokens or more."""
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < count:
        prompt = language.prompts(1, rng, split)[0]
        texts = sorted((language.sample_response(prompt, rng) for _ in range(2)), key=lambda text: len(text.split()))
        if 0 < len(texts[0].split()) < len(texts[1].split()) - 4:
            rows.append({"prompt": prompt, "chosen": texts[1], "rejected": texts[0]})
    tokenizer = load("pythia")[1]
    examples, _, _ = load_rows(rows, tokenizer, kind="preference")
    return preference_batch(examples, tokenizer.pad_token_id)


def test_gold_and_proxy_learn_a_preference_for_length(tmp_path: Path):
    """A gold model learns it from data; a proxy from the gold's labels of other data; both survive saving."""
    data, more, test = length_pairs(384, 0, "train"), length_pairs(384, 1, "train"), length_pairs(200, 2, "held_out")
    gold = new_reward_model("pythia", seed=0)
    before = held_out(gold, test)
    training = RewardTraining(epochs=2)
    steps = list(fit(gold, data, training=training))
    after = held_out(gold, test)
    assert len(steps) == training.updates(384)
    assert steps[-1].loss < 0.5 * steps[0].loss
    assert before.accuracy < 0.8 and after.accuracy > 0.9
    assert after.log_loss < 0.35 and after.calibration_error < 0.15

    proxy = new_reward_model("pythia", seed=1)
    labelled = label_pairs(more, scores_of(more, gold), Labeller(), Noise.single(0))
    assert torch.equal(labelled.pair_label, (labelled.rewards[:, :1] > labelled.rewards[:, 1:]).to(torch.float32))
    list(fit(proxy, labelled, training=training))
    assert held_out(proxy, label_pairs(test, scores_of(test, gold), Labeller(), Noise.single(0))).accuracy > 0.8

    folder = tmp_path / "gold"
    gold.save(folder, load("pythia")[1])
    assert (folder / "model.safetensors").is_file() and sorted(tmp_path.iterdir()) == [folder]
    again = load_reward_model(folder)
    assert torch.equal(scores(again, test), scores(gold, test))
    with pytest.raises(SpecError, match="is there already"):
        gold.save(folder, load("pythia")[1])


def test_one_seed_gives_one_model_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    data = length_pairs(64, 0, "train")
    models = [new_reward_model("pythia", seed=seed) for seed in (0, 0, 1)]
    for model in models:
        list(fit(model, data, training=RewardTraining(seed=4)))
    found = [scores(model, data) for model in models]
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2])
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_is_not_finite_stops_before_the_step():
    model = tiny_reward_model("gpt2")
    model.classifier.score.weight.data[0, 0] = math.nan
    kept = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="update 1: loss = nan"):
        next(fit(model, tiny_batch()))
    assert all(torch.equal(x, kept[name]) or "score" in name for name, x in model.state_dict().items())


def test_what_is_no_reward_model_is_refused():
    with pytest.raises(ValueError, match=r"classifier = GPT2LMHeadModel: must have a linear head `score`"):
        RewardModel(tiny_model("gpt2"))
    with pytest.raises(ValueError, match="has 33 tokens, but the reward model 32 positions"):
        tiny_reward_model("gpt2").score_rows(torch.ones(1, 33, dtype=torch.long), torch.ones(1, 33, dtype=torch.bool))
    with pytest.raises(ValueError, match="row 1: must have a token"):
        tiny_reward_model("gpt2").score_rows(torch.ones(2, 1, dtype=torch.long), torch.tensor([[True], [False]]))
    with pytest.raises(ValueError, match=r"'pythia': has no weights for score.weight: must be a reward model"):
        load_reward_model("pythia")
    examples, _, _ = load_rows([{"prompt": "a b"}], kind="prompt_only")
    with pytest.raises(ValueError, match="row 1: must be a preference"):
        preference_batch(examples, 0)
    with pytest.raises(ValueError, match=r"margin of shape \(3,\): must be \(3, 1\)"):
        next(fit(tiny_reward_model("gpt2"), tiny_batch(), margin=torch.zeros(3)))


def test_embedded_models_get_a_new_head():
    model = new_reward_model("mistral", seed=3)
    assert EMBEDDED["mistral"].is_dir()
    weight = model.classifier.score.weight
    assert weight.shape == (1, 64) and 0.5 < float(weight.detach().std()) * math.sqrt(65) < 1.5


def command(*arguments: str) -> int:
    return main(["reward", *arguments])


def test_the_command_saves_a_model_and_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A proxy learns from the labels of a gold model that learned from a file; the report says all settings."""
    data, gold, proxy = tmp_path / "pairs.jsonl", tmp_path / "gold", tmp_path / "proxy"
    row = {"prompt": "two plus three cats :", "chosen": "let us look .", "rejected": "they run ."}
    data.write_text("\n".join(json.dumps(row) for _ in range(20)))
    assert command("--data", str(data), "--held-out-share", "0.2", "--output", str(gold)) == 0
    assert command("--labels", str(gold), "--pairs", "16", "--label-smoothing", "0.1", "--output", str(proxy)) == 0
    report = json.loads((gold / "report.json").read_text())
    assert report["training_pairs"] == 16 and report["held_out"]["pairs"] == 4
    assert report["longer_wins"] == 1.0  # four words against two, in each pair
    assert report["reward_data"]["data"] == str(data)
    report = json.loads((proxy / "report.json").read_text())
    assert report["reward_data"]["labels"] == str(gold) and report["reward_model"]["label_smoothing"] == 0.1
    assert report["training_pairs"] == 16 and report["held_out"]["pairs"] == 4
    assert load_reward_model(proxy).classifier.config.num_labels == 1
    printed = capsys.readouterr().out
    assert "calibration_error" in printed and "95 % [" in printed and "longer wins" in printed


def test_the_command_hands_on_margins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Each pair goes into training beside its own row's margin, in whatever order rows were split."""
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    rows = [
        {"prompt": "x", "chosen": f"{word} cats .", "rejected": "they run .", "by": i / 2}
        for i, word in enumerate(words)
    ]
    data, given = tmp_path / "pairs.jsonl", []
    data.write_text("\n".join(json.dumps(row) for row in rows))

    class Kept(Fit):
        def __init__(self, model: RewardModel, batch: Batch, *rest: Any) -> None:
            given.append((batch, rest[2]))
            super().__init__(model, batch, *rest)

    monkeypatch.setattr("llm.commands.reward.Fit", Kept)
    options = ("--data", str(data), "--margin-column", "by", "--held-out-share", "0.25")
    assert command(*options, "--output", str(tmp_path / "out")) == 0
    ((batch, margins),) = given
    tokenizer = load("pythia")[1]
    first = [
        tokenizer.decode(row[0][mask[0]]).split()[0] for row, mask in zip(batch.responses, batch.mask, strict=True)
    ]
    assert len(first) == 6 and margins.flatten().tolist() == [words.index(word) / 2 for word in first]
    for wrong in ("much", 10**400, 1e300, None):
        data.write_text("\n".join(json.dumps(row | {"by": wrong}) for row in rows))
        assert command(*options, "--output", str(tmp_path / "other")) == 2
        said = capsys.readouterr().err
        assert "margin_column = 'by': must hold a number in each row, at most 1e30 in size; line" in said
    for at in range(len(rows)):  # trained on or held out
        data.write_text("\n".join(json.dumps(row | {"by": 1e300 if i == at else 1}) for i, row in enumerate(rows)))
        assert command(*options, "--output", str(tmp_path / "other")) == 2
        assert f"line {at + 1} has 1e+300" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "2"], "processes = 2: only 1 runs"),
        (["--labels", "data"], "labels = 'data': the language's pairs come unlabelled"),
        (["--labels", "implicit"], "implicit_policy = None: must be given with labels = implicit"),
        (["--implicit-policy", "pythia"], "implicit_policy = 'pythia': only means something with labels = implicit"),
        (["--labels", "pythia"], "labels = 'pythia': must be one of data, min_length, verifiable, implicit, judge, or"),
        (["--margin-column", "m"], "margin_column = 'm': only means something with labels = data"),
        (["--held-out-share", "0"], "held_out_share = 0.0: must be float > 0 and < 1"),
    ],
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert command("--output", str(tmp_path / "out"), *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
