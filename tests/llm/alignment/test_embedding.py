"""A sentence encoder that the user names, and the rows that are nearest to a text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from llm.__main__ import main
from llm.alignment import loop
from llm.alignment.context import keep_settings
from llm.alignment.embedding import Encoder, plain
from llm.alignment.filter import choose
from llm.alignment.settings import Settings
from llm.alignment.store import Store, opened
from sims.core.spec import SpecError
from tests.llm.tiny_data import word_level

SMALL: dict[str, Any] = {"requests": 16, "share": 1.0, "budget": 10, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer, 16 positions and random weights, with its masked-language head and no pooler."""
    folder, tokenizer = tmp_path_factory.mktemp("encoder") / "bert", word_level()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **sizes)
        transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def begun(store: Store, **changes: Any) -> loop.Context:
    keep_settings(store, Settings().changed(**SMALL | changes))
    context = loop.context_of(store)
    loop.perform(context, "log")
    return context


def test_a_vector_is_the_mean_state_of_the_texts_tokens_whatever_stands_beside_it(bert: Path) -> None:
    encoder, texts = Encoder(str(bert)), ["a b c", "b", "", "a " * 40]
    prompts, responses = encoder.embed([(text, "c") for text in texts])
    assert prompts.shape == responses.shape == (4, 8) and (responses == responses[0]).all()
    model = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    for text, vector in zip(texts, prompts, strict=True):
        ids = encoder.tokenizer(text).input_ids[:16]  # as many as the model has positions
        wanted = model(torch.tensor([ids])).last_hidden_state[0].mean(0).detach().numpy() if ids else np.zeros(8)
        assert vector == pytest.approx(wanted, abs=1e-6)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert plain(turns) == "a\nb" and encoder.embed([])[0].shape == (0, 8)


def test_the_loop_embeds_by_the_encoder_and_keeps_to_it(bert: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "loop"
    with opened(folder) as store:
        keep_settings(store, Settings().changed(**SMALL, embedder=str(tmp_path / "none")))
        with pytest.raises(SpecError, match="embedder = "):
            loop.context_of(store)
        context = begun(store, embedder=str(bert))  # what cannot be read binds nobody
        assert {len(row["prompt"]) for row in store.all("SELECT prompt FROM vectors")} == {4 * 8}
        loop.perform(context, "watch")
        choose(context)
        for other in (None, "pythia"):
            with pytest.raises(SpecError, match=f"embedder = .*: must be {bert}, with which the store began"):
                keep_settings(store, Settings().changed(**SMALL, embedder=other))
    model = transformers.BertForMaskedLM.from_pretrained(bert)
    kept = (bert / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.weight += 1
    model.save_pretrained(bert)
    line = ["align", "neighbours", "--store", str(folder), "--prompt", "x"]
    assert main(line) == 2
    assert "has other weights than when the store began" in capsys.readouterr().err
    (bert / "model.safetensors").write_bytes(kept)
    assert main(line) == 0


def test_what_is_no_encoder_is_refused_in_a_line(bert: Path, tmp_path: Path) -> None:
    tokenizer = word_level()
    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2}
    t5 = transformers.T5Model(transformers.T5Config(vocab_size=len(tokenizer), **sizes))
    small = transformers.BertModel(transformers.BertConfig(**{**_sizes(bert), "vocab_size": 2}))
    for name, model, rule in (
        ("t5", t5, "is an encoder with a decoder"),
        ("small", small, "must be below its model's 2"),
    ):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(SpecError, match=rule):
            Encoder(str(tmp_path / name))
    (tmp_path / "small/model.safetensors").rename(tmp_path / "small/pytorch_model.bin")
    with pytest.raises(SpecError, match="a pickle, which may run code"):
        Encoder(str(tmp_path / "small"))


def _sizes(folder: Path) -> dict[str, Any]:
    return transformers.BertConfig.from_pretrained(folder).to_dict()


def test_neighbours_are_told_with_their_cosines_and_what_became_of_them(tmp_path: Path, capsys: Any) -> None:
    with opened(tmp_path) as store:
        context = begun(store)
        asked = str(store.one("SELECT prompt FROM log ORDER BY id")).strip('"')
        loop.perform(context, "watch")
        loop.perform(context, "filter")
        decision = store.one("SELECT decision FROM decisions ORDER BY row")
    assert main(["align", "neighbours", "--store", str(tmp_path), "--prompt", asked, "--count", "3"]) == 0
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["cosine", "row", "version", "decision"] and len(rest) == 2
    assert first.split()[:4] == ["1.000", "0001-000000", "v1", decision] and asked in first
    assert [line.split()[0] for line in rest] == sorted((line.split()[0] for line in rest), reverse=True)
    for wrong, rule in (
        (["--count", "3"], "prompt = None: must be given"),
        (["--prompt", "x", "--count", "0"], "count = 0: must be int >= 1"),
    ):
        assert main(["align", "neighbours", "--store", str(tmp_path), *wrong]) == 2
        assert rule in capsys.readouterr().err
