"""Stop strings: a response ends at the end of the first one, in sampling, training, evaluation and recorded data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import llm.models.sampling
from llm.commands.options import parse
from llm.data.stops import count_up_to_stop, up_to_stop
from llm.models.decoding import Decoding
from llm.models.loading import build_policy, load_tokenizer
from llm.models.spec import LanguageModelSpec
from llm.tasks import MinLength
from llm.tasks.environment import TextEnvironment
from llm.training.presets import PRESETS
from llm.training.run import Run
from sims.core.loop.protocols import Prompts, SampleRequest, Samples
from sims.core.numerics.noise import Noise
from sims.core.schedule import Schedule
from sims.core.spec import SpecError
from sims.experiments.options import OptionParser
from tests.llm.tiny_data import BPE, WORDS

SPEC = LanguageModelSpec(decoding=Decoding(max_new_tokens=24))
TOKENIZER = load_tokenizer(SPEC)
CPU = torch.device("cpu")


def drawn(*stops: str, seed: int = 0) -> Samples:
    spec = SPEC.replace(decoding=SPEC.decoding.replace(stop_strings=stops))
    policy = build_policy(spec, TOKENIZER, False, torch.float64, CPU)
    prompts = [TOKENIZER.encode(f"two plus two {animal} :") for animal in ("cats", "dogs")]
    return policy.sample(SampleRequest(Prompts(torch.tensor(prompts)), 4, Noise.single(seed)))


def texts(samples: Samples) -> list[str]:
    rows = zip(samples.responses.flatten(0, 1), samples.mask.flatten(0, 1), strict=True)
    return [TOKENIZER.decode(ids[chosen]) for ids, chosen in rows]


def test_the_text_and_the_tokens_that_are_kept():
    assert up_to_stop("a.b\n\nc.", ["\n\n", "c"]) == "a.b\n\n"
    assert up_to_stop("abcab", ["cab", "bc"]) == "abc"  # the one that is complete first
    assert up_to_stop("ab", ["c"]) is None and up_to_stop("ab", []) is None
    pieces = ["a", ".", "\n", "\nb", "c", "\n\n"]

    def decode(ids):
        return "".join(pieces[i] for i in ids)

    assert count_up_to_stop([0, 1, 2, 3, 4], decode, ["\n\n"]) == 4  # the token that completes it, whole
    assert count_up_to_stop([5], decode, ["\n\n"]) == 1
    assert count_up_to_stop([0, 1, 2], decode, ["\n\n"]) is None and count_up_to_stop([], decode, ["a"]) is None
    assert count_up_to_stop([0, 4, 5], decode, ["c", "\n", "a"]) == 1


@pytest.mark.parametrize("every", [1, 5, 100])
def test_a_draw_is_that_without_stop_strings_up_to_the_first(every, monkeypatch):
    """However often the host looks for them; log-probs and masks after it are 0 and False, tokens are padding."""
    whole = drawn()
    monkeypatch.setitem(llm.models.sampling.LOOK_EVERY, "cpu", every)
    found = drawn("the answer", " .")
    cuts = 0
    for text, short, i in zip(texts(whole), texts(found), range(8), strict=True):
        expected = up_to_stop(text, ["the answer", " ."])
        assert short == (text if expected is None else expected)
        kept = int(found.mask.flatten(0, 1)[i].sum())
        own = [x.flatten(0, 1)[i] for x in (*found, *whole)]
        assert torch.equal(own[0][:kept], own[3][:kept])
        torch.testing.assert_close(own[2][:kept], own[5][:kept], rtol=1e-10, atol=1e-10)
        assert bool((own[0][kept:] == TOKENIZER.pad_token_id).all()) and not bool(own[2][kept:].any())
        assert not bool(own[1][kept:].any())
        cuts += expected is not None
    assert cuts >= 4
    assert texts(drawn("never written")) == texts(whole)


def test_rows_that_have_stopped_are_not_drawn_further(monkeypatch):
    """The loop ends with the last row that goes on: no token is computed after that."""
    asked = []
    inner = llm.models.scoring.LanguageModel.next_logits
    monkeypatch.setattr(
        "llm.models.scoring.LanguageModel.next_logits", lambda *given: asked.append(len(given[1])) or inner(*given)
    )
    samples = drawn("the answer", " .")
    lengths = samples.mask.sum(-1).flatten()
    steps = int(lengths.max())  # before them, calls of the proof that a model is loaded with
    assert steps < 24 and asked[-steps:] == [int((lengths > t).sum()) for t in range(steps)]


def test_training_and_evaluation_see_what_is_kept():
    """Batches, rewards and evaluations end there; such a response has ended, and was not cut."""
    preset = PRESETS["tiny-min-length"]
    decoding = preset.policy.decoding.replace(stop_strings=(" .",))
    run = Run(
        preset.replace(
            policy=preset.policy.replace(decoding=decoding),
            environment=MinLength(evaluation_prompts=8),
            schedule=Schedule(batch_size=4, num_generations=2),
            updates=1,
            evaluations=1,
        )
    )
    batch = next(iter(run.train())).batch
    for tokens, mask, reward in zip(
        batch.responses.flatten(0, 1), batch.mask.flatten(0, 1), batch.rewards.flatten(), strict=True
    ):
        text = run.tokenizer.decode(tokens[mask])
        assert " ." not in text[:-2] and float(reward) == -int((tokens[mask] != run.tokenizer.eos_token_id).sum())
    assert bool(run.environment.ended(batch.responses, batch.mask).all())
    found = run.evaluate()
    assert found.numbers["finished"] == 1 and max(text.count(".") for text in found.completions) == 1
    assert min(len(text.split()) for text in found.completions) >= 1


def test_recorded_responses_end_there_too(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "completion": "b c d b c"}, {"prompt": "a", "completion": "d d"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = MinLength(data=str(file), data_kind="prompt_completion")
    env = TextEnvironment(task, WORDS, CPU, eos_token_ids=(2,), stop_strings=("c",))
    batch = env.recorded(2, Noise.single(0))
    kept = {
        WORDS.decode(ids[mask]): bool(x)
        for ids, mask, x in zip(
            batch.responses[:, 0], batch.mask[:, 0], env.ended(batch.responses, batch.mask)[:, 0], strict=True
        )
    }
    assert kept == {"b c": True, "d d </s>": True}
    cut = TextEnvironment(
        task.replace(max_completion_length=1, on_too_long="truncate"), WORDS, CPU, stop_strings=("c",)
    )
    batch = cut.recorded(2, Noise.single(0))
    assert not bool(cut.ended(batch.responses, batch.mask).any())


def test_a_special_token_can_be_a_stop_string():
    env = TextEnvironment(MinLength(), BPE, CPU, stop_strings=("<|user|>",))
    said = BPE.encode("The sky<|user|>", add_special_tokens=False)
    tokens = torch.tensor([[said, said[:-1] + said[:1]]])
    assert env.ended(tokens, torch.ones_like(tokens, dtype=torch.bool)).tolist() == [[True, False]]


def test_the_penalty_is_for_responses_that_were_cut():
    env = TextEnvironment(MinLength(missing_eos_penalty=0.5), BPE, CPU, stop_strings=("<|user|>",))
    said = BPE.encode("The sky<|user|>", add_special_tokens=False)
    tokens = torch.tensor([[said, said[:-1] + said[:1]]])
    rewards, gold = env.score(env.prompts(1, Noise.single(0)).examples, tokens, torch.ones_like(tokens) > 0)
    assert (gold - rewards).tolist() == [[0.0, 0.5]]


def test_as_options_each_is_given_by_itself(tmp_path: Path):
    """Commas and line breaks are text; the file of a run has them, too."""
    words = ["--stop-strings", "yes, and", "--stop-strings=\n\n"]
    experiment, _ = parse(OptionParser("x", True), words, "tiny-min-length")
    assert experiment.policy.decoding.stop_strings == ("yes, and", "\n\n")
    file = tmp_path / "run.yaml"
    file.write_text('stop_strings: ["yes, and", "\\n\\n"]\n')
    assert parse(OptionParser("x", True), ["--config", str(file)], "tiny-min-length")[0] == experiment
    file.write_text('stop_strings: "yes, and"\n')
    assert parse(OptionParser("x", True), ["--config", str(file)], "tiny-min-length")[
        0
    ].policy.decoding.stop_strings == ("yes, and",)
    with pytest.raises(SpecError, match=r"stop_strings = .*must be strings that are not empty"):
        Decoding(stop_strings=("a", ""))
