"""A judge behind `transformers serve`, a server that a team may run: with tiny models that always say the same."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from llm.judges import Judge, JudgeSettings
from sims.core.spec import SpecError

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
PAIRS = (["p", "q"], ["a", "b"], ["c", "d"])


def model_that_says(said: str, folder: Path) -> Path:
    """A model of bytes whose next token is always the same, whatever it reads."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: i for i, letter in enumerate(letters)} | {"<end>": len(letters)}
    tokens = Tokenizer(models.BPE(ids, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokens.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    shape = {"n_positions": 2048, "n_embd": 8, "n_layer": 1, "n_head": 1, "bos_token_id": ids["<end>"]}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(ids), eos_token_id=ids["<end>"], **shape))
    with torch.no_grad():  # the last state is e_0, and e_0 is what says `said`
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.eye(8)[0])
        model.transformer.wte.weight[:, 0] = 0.0
        model.transformer.wte.weight[ids[said], 0] = 50.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a model; skipped where its libraries are missing."""
    for library in ("fastapi", "uvicorn"):
        pytest.importorskip(library, reason="needs what `pip install 'transformers[serving]'` brings")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    options = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", line, *options], stdout=log, stderr=log)
    try:
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.2)
        assert server.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def judge(folder: Path, url: str, **settings: float) -> Judge:
    return Judge(JudgeSettings(judge_model=str(folder), judge_url=url, judge_max_tokens=1, **settings))  # type: ignore[arg-type]


@pytest.mark.long
def test_replies_of_a_real_server_are_read_and_its_failures_told(tmp_path: Path) -> None:
    first = model_that_says("1", tmp_path / "first")
    with served(first) as url:
        found = list(judge(first, url).compare(*PAIRS))
        assert [one.label for one in found] == [0.5, 0.5]  # "1" in both orders: it likes the first place
        assert judge(first, url).score(["p"], ["a"]) == [0.1]
        with pytest.raises(SpecError, match=r"must answer for .*APITimeoutError"):
            judge(first, url, judge_timeout=0.001, judge_retries=0).score(["p"], ["a"])
    with pytest.raises(SpecError, match=r"must answer for .*APIConnectionError"):  # it is gone
        judge(first, url, judge_retries=0).score(["p"], ["a"])
    chatter = model_that_says("A", tmp_path / "chatter")
    with served(chatter) as url:
        found = list(judge(chatter, url).compare(*PAIRS))
        assert [one.label for one in found] == [None, None] and found[0].reason == "'A' / 'A'"
        with pytest.raises(SpecError, match="2 of 2 replies are none of those asked for"):
            judge(chatter, url).labels(*PAIRS)
