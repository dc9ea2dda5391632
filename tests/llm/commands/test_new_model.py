"""A tokenizer trained on one's own texts, and an untrained model behind it: `python -m llm new`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llm.__main__ import main
from llm.commands.new import NewModel, create, texts, train_tokenizer
from llm.data import TextEncoder
from llm.models.loading import load_model, load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.reward_models.data import RewardData, load_rows
from sims.core.spec import SpecError

PAIRS = [
    {"prompt": f"Name {i} colours.", "chosen": f"Blue, green and {i} more.", "rejected": "No."} for i in range(2, 12)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


def small(data: Path, **changes: object) -> NewModel:
    return NewModel(**{"data": str(data), "vocab_size": 300, "hidden": 16, "layers": 1, "heads": 2} | changes)  # type: ignore[arg-type]


def test_tokenizer_writes_any_text(data: Path):
    tokenizer = train_tokenizer(texts(small(data)), 300)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<bos>", "<eos>"]) == [0, 1, 2]
    assert len(tokenizer) <= 300
    for text in ("Blue, green", "\n\nhéllo ∃x 🦜\t"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids[1:]) == text
    words = tokenizer("Name 3 colours.", add_special_tokens=False)["input_ids"]
    assert len(words) < len("Name 3 colours.") / 2  # it has learned from these texts
    assert TextEncoder(tokenizer).prompt("Name") == tokenizer("Name")["input_ids"]


def test_texts_are_those_of_the_columns_and_of_messages(tmp_path: Path, capsys):
    path = tmp_path / "rows.jsonl"
    chat = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}
    rows = ['{"prompt": "p", "chosen": "c", "other": "o"}', "not json", json.dumps(chat), '{"prompt": 3}']
    path.write_text("\n".join(rows) + "\n")
    assert list(texts(small(path))) == ["p", "c", "q", "a"]
    assert "rows.jsonl: 1 of 4 rows are left out: line 2: broken_json: Expecting value" in capsys.readouterr().err
    assert list(texts(small(path, text_columns=("other",)))) == ["o"]
    with pytest.raises(SpecError, match="text_columns"):
        list(texts(small(path, text_columns=("absent",))))
    path.write_text("")
    with pytest.raises(SpecError, match=r"data = .*must hold texts: there is no row"):
        list(texts(small(path)))


@pytest.mark.parametrize("architecture", ["pythia", "mistral", "gpt2"])
def test_one_seed_makes_one_model(data: Path, tmp_path: Path, architecture: str):
    sizes = {create(small(data, architecture=architecture), tmp_path / name) for name in ("a", "b")}
    assert len(sizes) == 1
    specs = [LanguageModelSpec(model=str(tmp_path / name)) for name in ("a", "b")]
    assert load_tokenizer(specs[0]).get_vocab() == load_tokenizer(specs[1]).get_vocab()
    first, second = (load_model(spec, torch.float32, torch.device("cpu")).state_dict() for spec in specs)
    assert first.keys() == second.keys() and all(torch.equal(x, second[name]) for name, x in first.items())


def test_new_model_learns_from_the_texts_that_its_tokenizer_read(data: Path, tmp_path: Path, capsys):
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    sizes = ["--vocab-size", "300", "--hidden", "16", "--layers", "1", "--heads", "2"]
    assert main(["new", "--data", str(data), "--output", str(base), *sizes]) == 0
    assert "untrained" in capsys.readouterr().out
    source = ["--data", str(data), "--data-kind", "prompt_completion", "--completion-column", "chosen"]
    short = ["--batch-size", "10", "--updates", "30", "--evaluations", "1", "--learning-rate", "0.01"]
    sampling = ["--max-new-tokens", "12", "--evaluation-prompts", "8"]
    assert main(["sft", "--model", str(base), *source, *short, *sampling, "--output", str(tuned)]) == 0
    losses = [json.loads(line).get("loss") for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    known = [loss for loss in losses if loss is not None]
    assert known[-1] < 0.5 * known[0]


def test_a_folder_that_is_there_is_left_alone(data: Path, tmp_path: Path, capsys):
    assert main(["new", "--data", str(data), "--output", str(tmp_path)]) == 2
    assert "output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_shape_that_cannot_be_is_refused(data: Path, tmp_path: Path, capsys):
    assert main(["new", "--data", str(data), "--output", str(tmp_path / "m"), "--hidden", "20"]) == 2
    assert "hidden" in capsys.readouterr().err


def test_a_reward_model_reads_prompts_through_the_template(data: Path, tmp_path: Path):
    create(small(data), tmp_path / "base")
    tokenizer = load_tokenizer(LanguageModelSpec(model=str(tmp_path / "base")))
    pairs = RewardData(model=str(tmp_path / "base"), data=str(data), prompt_template="Q: {prompt}\n\n")
    train, held_out = load_rows(pairs, tokenizer, seed=0)
    read = [tokenizer.decode(row.prompt_ids[1:]) for row in train + held_out]
    assert sorted(read) == sorted(f"Q: {row['prompt']}\n\n" for row in PAIRS)
    with pytest.raises(SpecError, match="prompt_template"):
        RewardData(prompt_template="{prompt}")
