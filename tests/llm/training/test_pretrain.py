"""The embedded language: its distribution, its task, its tokenizer, and the two checkpoints trained on it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from llm import embedded
from llm.embedded import EMBEDDED, language
from llm.models.architectures import build_model
from llm.training.pretrain import (
    PretrainConfig,
    check,
    length_probability,
    load,
    measure,
    pretrain,
    read_report,
    response_loss,
    sample_responses,
    save,
)
from llm.training.pretrain_fit import PretrainFit
from sims.core.spec import SpecError

PROMPT = "two plus three cats :"
TINY = PretrainConfig(hidden=16, layers=1, heads=2, steps=3, batch_size=4, held_out_documents=4, samples=4)


@pytest.fixture(scope="module")
def tokenizer():
    return language.build_tokenizer()


def documents(n: int, seed: int = 0) -> list[language.Document]:
    rng = np.random.default_rng(seed)
    return [language.sample_document(rng) for _ in range(n)]


# The task


@pytest.mark.parametrize(
    ("prompt", "response", "correct"),
    [
        (PROMPT, "the answer is five .", True),
        (PROMPT, "answer five .", True),
        (PROMPT, "they run . so the answer must be five . they eat .", True),
        (PROMPT, "the answer is six .", False),
        (PROMPT, "we see five red cats .", False),  # a number, but no answer
        (PROMPT, "the answer is four . the answer is five .", True),  # the last answer counts
        (PROMPT, "the answer is five . the answer is four .", False),
        (PROMPT, "the answer is four five .", False),  # the first number of the answer counts
        (PROMPT, "the answer is . we see five red cats .", False),  # the number must stand in the answer's sentence
        (PROMPT, "the answer is five", True),  # cut off after the number
        (PROMPT, "the answer is", False),
        (PROMPT, "", False),
        ("five minus two owls :", "answer three .", True),
        ("five minus two owls :", "answer seven .", False),
        ("three minus three owls :", "answer zero.", True),
        ("five plus five owls:", "answer ten .", True),
    ],
)
def test_is_correct_on_examples_worked_by_hand(prompt: str, response: str, correct: bool) -> None:
    assert language.is_correct(prompt, response) is correct


@pytest.mark.parametrize(
    "prompt", ["", "two plus three :", "two minus three cats :", "six plus one cats :", "two times two cats :"]
)
def test_a_text_that_is_no_prompt_is_refused_by_name(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"^prompt = .*: must read like"):
        language.is_correct(prompt, "answer five .")


def test_the_splits_share_no_prompt_and_every_sum_is_trained_on() -> None:
    train, held_out = language.all_prompts("train"), language.all_prompts("held_out")
    digits = len(language.DIGITS)
    # sums of two digits, and differences of a digit and one not above it
    assert len(train) + len(held_out) == (digits**2 + digits * (digits + 1) // 2) * len(language.NOUNS)
    assert len(set(train) | set(held_out)) == len(train) + len(held_out)
    assert 1 / 10 < len(held_out) / len(train) < 1 / 5
    sums = [{tuple(prompt.split()[:3]) for prompt in prompts} for prompts in (train, held_out)]
    assert sums[1] <= sums[0]
    with pytest.raises(ValueError, match=r"^split = 'test': must be one of train, held_out"):
        language.all_prompts("test")


# The distribution


def test_lengths_follow_the_exact_distribution() -> None:
    exact = language.length_distribution()
    lengths = np.arange(len(exact))
    assert exact.sum() == pytest.approx(1, abs=1e-12)
    possible = exact[exact > 0]
    assert len(possible) == len(exact) - 4  # not 0, 1, 2 and 4
    normal = np.exp(-((lengths - language.MODE) ** 2) / (2 * language.LENGTH_SD**2))[exact > 0]
    np.testing.assert_allclose(possible / possible.max(), normal, rtol=1e-12)
    n = 4000
    drawn = [len(document.response.split()) for document in documents(n)]
    cumulative = np.cumsum(np.bincount(drawn, minlength=len(exact))) / n
    # Dvoretzky-Kiefer-Wolfowitz: a gap above ε comes by chance at most 2·exp(-2nε²) = 1e-6 of the time
    assert np.abs(cumulative - np.cumsum(exact)).max() < math.sqrt(math.log(2 / 1e-6) / (2 * n))


def test_rightness_is_independent_of_length_and_place() -> None:
    drawn = documents(4000, seed=1)
    right = np.array([language.is_correct(*document) for document in drawn])
    length = np.array([len(document.response.split()) for document in drawn])
    place = np.array([document.response.split().index("answer") for document in drawn])
    bound = 4.9 / math.sqrt(len(drawn))  # 4.9 standard errors of a share of one half, or of no correlation: 1e-6 each
    assert abs(right.mean() - language.RIGHT_RATE) < bound / 2
    assert abs(np.corrcoef(right, length)[0, 1]) < bound
    assert abs(np.corrcoef(right, place)[0, 1]) < bound


def test_the_log_probs_of_all_short_responses_sum_to_their_length() -> None:
    def fillings(template: str) -> list[str]:
        slots = language.SLOTS | {"NOUN": ("cats",), "VALUE": language.NUMBERS}
        return [" ".join(words) for words in itertools.product(*(slots.get(w, (w,)) for w in template.split()))]

    answers = [text for template in language.ANSWERS for text in fillings(template)]
    chatter = [text for template in language.CHATTER for text in fillings(template) if len(text.split()) <= 5]
    every = answers + [" ".join(pair) for a in answers for c in chatter for pair in ((a, c), (c, a))]
    assert len(set(every)) == len(every)
    total = np.zeros(9)
    for response in every:
        if len(response.split()) <= 8:
            total[len(response.split())] += math.exp(language.response_log_prob(PROMPT, response))
    # up to 8 tokens there is at most one sentence of chatter beside the answer: 3 + 3 + 3 = 9
    np.testing.assert_allclose(total, language.length_distribution()[:9], rtol=1e-10)


def test_the_optimum_of_min_length_is_unlikely_and_that_of_mode_length_likely() -> None:
    assert language.length_mass(0) < 2e-5
    assert language.length_mass(language.MODE) > 0.9
    middle = [language.length_mass(mode) for mode in range(language.MODE + 1)]
    assert (np.diff(middle) > 0).all()  # the overlap is a setting of the task
    assert language.length_mass(40, 5) == 0.0 and language.length_mass(3, 0) == language.length_distribution()[3]


@pytest.mark.parametrize(
    "response",
    [
        "",
        ".",
        "they run .",  # no answer
        "answer five . answer five .",  # two
        "answer five",  # no end
        "answer five . they",
        "some dogs run . answer five .",  # not the prompt's animal
        "answer cats .",
        "they they . answer five .",
        " ".join(["they run ."] * 10 + ["answer five ."]),  # 33 tokens
    ],
)
def test_what_the_grammar_does_not_allow_has_no_probability(response: str) -> None:
    assert language.response_log_prob(PROMPT, response) == -math.inf


def test_sampled_documents_have_probability_and_one_seed_gives_one_result() -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    drawn = documents(50)
    assert drawn == documents(50) and drawn != documents(50, seed=1)
    assert all(language.response_log_prob(*document) > -math.inf for document in drawn)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])  # noqa: NPY002


# The tokenizer


def test_special_tokens_are_distinct_and_no_words(tokenizer) -> None:
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert sorted(special) == [0, 1, 2, 3]
    assert len(tokenizer) == len(language.vocabulary()) == len(set(language.vocabulary()))


def test_text_survives_the_round_trip(tokenizer) -> None:
    for document in documents(200):
        text = f"{document.prompt} {document.response}".strip()
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.unk_token_id not in ids and tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) == 1 + len(text.split())
    assert tokenizer("a zebra").input_ids[1:] == [tokenizer.unk_token_id] * 2


@pytest.mark.parametrize("between", ["", " "])
def test_a_response_never_merges_with_its_prompt(tokenizer, between: str) -> None:
    for prompt, response in [*documents(50), language.Document(PROMPT, ": . answer five .")]:
        front = tokenizer(prompt).input_ids
        assert len(front) == language.PROMPT_TOKENS
        back = tokenizer(response, add_special_tokens=False).input_ids
        assert tokenizer(prompt + between + response).input_ids == front + back
        assert tokenizer(prompt + between + response + language.EOS).input_ids == front + back + [
            tokenizer.eos_token_id
        ]


# The models


@pytest.mark.parametrize("architecture", ["pythia", "mistral", "gpt2"])
def test_build_model_is_a_function_of_its_seed(architecture: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (build_model(architecture, 70, 16, 1, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert (one.config.pad_token_id, one.config.bos_token_id, one.config.eos_token_id) == (0, 1, 2)
    dropouts = [module.p for module in one.modules() if isinstance(module, torch.nn.Dropout)]
    assert not any(dropouts) and not one.training
    ids = torch.randint(4, 70, (2, 128), generator=torch.Generator().manual_seed(0))
    one.train()
    assert torch.equal(one(ids).logits, one(ids).logits)  # no dropout in training mode either


def test_shapes_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"^architecture = 'llama': must be one of pythia, mistral, gpt2"):
        build_model("llama", 70)
    with pytest.raises(SpecError, match=r"^hidden = 60: must be a multiple of 8 × heads = 32"):
        PretrainConfig(hidden=60)
    with pytest.raises(SpecError, match=r"^max_positions = 38: must be int >= 39"):
        PretrainConfig(max_positions=38)


def test_pretraining_is_reproducible_bit_for_bit_and_saves_whole(tmp_path: Path) -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    (one, tokenizer, report), (two, _, again), (other, _, _) = (
        pretrain(config) for config in (TINY, TINY, TINY.replace(seed=1))
    )
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])  # noqa: NPY002
    states = [model.state_dict() for model in (one, two, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert report.held_out_loss == again.held_out_loss and report.sampled_lengths == again.sampled_lengths

    for _ in range(2):  # the second save replaces the first
        save(tmp_path / "model", one, tokenizer, report)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded, its_tokenizer = load(tmp_path / "model")
    assert all(torch.equal(states[0][name], weight) for name, weight in loaded.state_dict().items())
    assert its_tokenizer(PROMPT).input_ids == tokenizer(PROMPT).input_ids
    assert read_report(tmp_path / "model") == report
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # known to transformers 4 and 5 alike


def test_check_finds_a_rerun_equal_and_a_false_report_out(tmp_path: Path) -> None:
    model, tokenizer, report = pretrain(TINY)
    save(tmp_path / "model", model, tokenizer, report)
    assert all(row.rerun == row.committed for row in check(tmp_path / "model"))
    false = dataclasses.replace(report, held_out_loss=report.held_out_loss + 0.03)
    save(tmp_path / "model", model, tokenizer, false)
    assert [row.quantity for row in check(tmp_path / "model") if not row.holds] == ["held_out_loss"]


def test_length_probability_is_that_of_plain_samples(tokenizer) -> None:
    """Of a model that ends at any token with probability about 1/70, where plain samples suffice to see it."""
    model, generator = build_model("pythia", 70, 16, 1, 2), torch.Generator().manual_seed(0)
    prompts = [PROMPT] * 4000
    found = length_probability(model, tokenizer, prompts, generator)
    drawn = sample_responses(model, tokenizer, prompts, generator)
    lengths = np.array([len(ids) - 1 for ids in drawn if ids[-1] == tokenizer.eos_token_id])
    shares = np.bincount(lengths, minlength=len(found))[: len(found)] / len(prompts)
    # Two estimates with a standard error of √(p / 4000) at most each: 5 of them once in 10,000 times over all lengths.
    assert (np.abs(found - shares) < 5 * np.sqrt(2 * found / len(prompts)) + 1e-3).all()
    assert found.sum() == pytest.approx(shares.sum(), abs=0.05) and found.sum() > 0.1


def test_the_weight_of_ending_is_on_the_first_positions_alone(tokenizer) -> None:
    """Its part of the loss is −log P(ends, or goes on) at the positions 0 … 5, and nothing where a response is over."""
    model = build_model("pythia", 70, 16, 1, 2)
    texts = ("answer five .", "they run . so the answer must be ten .")
    documents = [language.Document(PROMPT, text) for text in texts]
    with torch.no_grad():
        one, three = (response_loss(model, tokenizer, documents, end_weight=w)[0] for w in (1.0, 3.0))
        expected = 0.0
        for document, goes_on, ends in zip(documents, (3, 6), (1, 0), strict=True):
            ids = tokenizer(f"{document.prompt} {document.response}", return_tensors="pt").input_ids
            end = model(ids).logits[0, language.PROMPT_TOKENS - 1 :].softmax(-1)[:, tokenizer.eos_token_id]
            expected += -(1 - end[:goes_on]).log().sum() - ends * end[goes_on].log()
    assert float(three - one) == pytest.approx(2 * float(expected), rel=1e-5)


def test_a_loss_or_gradient_that_is_not_finite_stops_training_before_weights_change() -> None:
    with pytest.raises(FloatingPointError, match=r"^update 2: loss = nan, .*: must be finite; lower learning_rate"):
        pretrain(TINY.replace(learning_rate=1e30))
    model = build_model("pythia", 70, 16, 1, 2)
    weight = next(model.parameters())

    def loss(rng: np.random.Generator) -> torch.Tensor:
        return (weight - weight.detach()).sum().sqrt()  # 0, with an infinite slope

    before = weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"^update 1: loss = 0, gradient norm = (nan|inf): must be finite"):
        next(PretrainFit(model, loss, np.random.default_rng(0), 5, 0.1, 0.0).train())
    assert torch.equal(weight, before)


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, report = build_model("pythia", 70, 16, 1, 2), language.build_tokenizer(), read_report("pythia")
    save(tmp_path / "model", model, tokenizer, report)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "model", build_model("pythia", 70, 16, 1, 2, seed=1), tokenizer, report)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_save_that_fails_between_the_renames_puts_the_old_model_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, report = build_model("pythia", 70, 16, 1, 2), language.build_tokenizer(), read_report("pythia")
    save(tmp_path / "model", model, tokenizer, report)
    rename, renamed = os.rename, []

    def failing(old: Path, new: Path) -> None:
        if new == tmp_path / "model" and not renamed:
            renamed.append(old)
            raise OSError("renaming failed")
        rename(old, new)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="renaming failed"):
        save(tmp_path / "model", model, tokenizer, report)
    load(tmp_path / "model")


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must hold a saved model, or be one of pythia, mistral"):
        load(tmp_path)


# The committed checkpoints


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_a_committed_checkpoint_is_what_its_report_says(name: str) -> None:
    model, tokenizer = load(name)
    report = read_report(name)
    assert tokenizer.get_vocab() == language.build_tokenizer().get_vocab()
    assert tokenizer(PROMPT).input_ids == language.build_tokenizer()(PROMPT).input_ids
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer)
    assert model.num_parameters() == report.parameters
    assert sum(path.stat().st_size for path in EMBEDDED[name].iterdir()) < 1_000_000
    config = PretrainConfig(**{key: value for key, value in report.config.items() if key != "kind"})
    assert config == PretrainConfig(architecture=name)  # made with the settings that the command has by default
    measured = measure(model, tokenizer, config)
    # same weights, documents and random numbers: only rounding on another processor can turn single draws
    assert measured["held_out_loss"] == pytest.approx(report.held_out_loss, abs=1e-4)
    assert measured["entropy"] == pytest.approx(report.entropy, abs=1e-9)
    for key in ("sampled_length_mean", "sampled_length_sd", "correct_rate", "grammatical_rate"):
        assert measured[key] == pytest.approx(getattr(report, key), rel=0.05), key
    np.testing.assert_allclose(measured["length_probability"], report.length_probability, rtol=0.2, atol=1e-6)


def test_the_table_of_the_embedded_models_is_what_their_reports_say() -> None:
    reports, exact = [read_report(name) for name in ("pythia", "mistral")], language.length_distribution()
    lengths = [exact, *(np.array(report.length_probability) for report in reports)]
    near = slice(language.MODE - 5, language.MODE + 6)
    columns = [
        ["0", *(f"{report.held_out_loss - report.entropy:.4f}" for report in reports)],
        [f"{p[:6].sum():.1e}" for p in lengths],
        [f"{p[near].sum():.3f}" for p in lengths],
        [f"{p[27:].sum():.1e}" for p in lengths],
        [f"{x:.3f}" for x in (language.RIGHT_RATE, *(report.correct_rate for report in reports))],
    ]
    table = [line.split("|")[2:-1] for line in (embedded.__doc__ or "").splitlines() if line.startswith("| ")][2:]
    assert [[cell.strip() for cell in line] for line in table] == columns


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_a_committed_checkpoint_has_the_geometry_of_the_language(name: str) -> None:
    """Lengths near the optimum of min length are as unlikely as in the language, within a factor of four, and those
    near the mode as likely."""
    exact, found = language.length_distribution(), np.array(read_report(name).length_probability)
    assert found.sum() == pytest.approx(1, abs=1e-3)
    assert exact[:6].sum() / 4 < found[:6].sum() < 4 * exact[:6].sum() < 1e-4
    near = slice(language.MODE - 5, language.MODE + 6)
    assert found[near].sum() == pytest.approx(exact[near].sum(), abs=0.03)


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_a_committed_checkpoint_has_learned_the_language(name: str) -> None:
    report = read_report(name)
    assert report.held_out_loss - report.entropy < 0.02
    assert report.sampled_length_mean == pytest.approx(report.data_length_mean, rel=0.1)
    assert report.sampled_length_sd == pytest.approx(report.data_length_sd, rel=0.1)
    assert report.grammatical_rate > 0.85
    assert report.correct_rate > 0.35  # a guess among eleven numbers is right in 0.09
