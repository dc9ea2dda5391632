"""Which causal architectures of transformers work: each built tiny, proven as at loading, then compared with
`generate` and with a plain forward pass. `python -m tests.llm.model_matrix` writes the table of docs/models.md."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llm.models.decoding import Decoding
from llm.models.gate import check_config, loading
from llm.models.policy import CausalLMPolicy
from llm.models.proof import prove, tolerance
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.spec import SpecError
from tests.llm.architectures import EOS, PAD, build, tiny_config
from tests.llm.tiny_models import pad_left

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
PROMPTS = [[5, 3, 8, 4, 17, 9], [7], [6, 59, 21]]
LENGTH, GROUP = 6, 2
# Those of text that cannot be made tiny from their configuration's own sizes, and need a library or sizes of their own.
_NOT_TINY = (
    *("blt", "cohere_compass_text", "dbrx", "dots1", "dots3_note_text", "gemma3n_text", "gemma4_text"),
    *("gemma4_unified_text", "inkling2_loop_text", "inkling2_text", "longcat_flash", "musicgen", "musicgen_melody"),
    *("prophetnet", "qwen4_exp_text", "rembert", "reformer", "roc_bert", "xlnet", "xlstm", "xmod", "zamba"),
)
# Compositions whose configuration does not say so, or cannot be made without a library.
_COMPOSITE = ("dots3_note", "gemma3n", "gemma4_assistant", "gemma4_unified_assistant", "git", "qwen4_exp")
NAMES = tuple(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in (*_NOT_TINY, *_COMPOSITE))


@dataclass(frozen=True)
class Outcome:
    """refused: why an architecture is refused when it is loaded, or None for one that works."""

    name: str
    class_name: str
    refused: str | None


def policy_of(name: str, temperature: float = 1.0) -> CausalLMPolicy:
    """A tiny policy of an architecture. SpecError where it is refused."""
    with loading("model", name, "must be a model that can be sampled and scored"):
        check_config("model", name, tiny_config(name))
        decoding = Decoding(max_new_tokens=LENGTH, temperature=temperature)
        policy = CausalLMPolicy(build(name), (EOS,), PAD, decoding)
    prove(policy.language_model, "model", name)
    return policy


def outcome(name: str) -> Outcome:
    """Whether an architecture works or is refused. AssertionError for one that is accepted and does not work."""
    class_name = str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name])
    try:
        policy = policy_of(name)
    except SpecError as error:
        assert "\n" not in str(error), f"{name}: {error}"
        return Outcome(name, class_name, error.valid.rsplit(f"{class_name}: ", 1)[-1])
    check_draws(policy)
    check_greedy(policy_of(name, temperature=1e-4))
    return Outcome(name, class_name, None)


@torch.no_grad()
def plain_logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    tokens = torch.tensor([ids])
    return model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0].double()


def check_draws(policy: CausalLMPolicy, seed: int = 0) -> None:
    """Tokens are those that the uniforms select, and log-probs of sampler and scorer are those of a plain forward pass,
    to 1e-5."""
    prompts, mask = pad_left(PROMPTS)
    samples = policy.sample(SampleRequest(Prompts(prompts, mask), GROUP, Noise.single(seed)))
    batch = Batch(prompts, samples.responses, samples.mask, mask)
    scored = policy.forward(batch, OutputRequest(prompt_logp=True))
    uniforms = Noise.single(seed).uniforms("responses", len(PROMPTS), GROUP, LENGTH)
    assert scored.prompt_logp is not None
    for i, prompt in enumerate(PROMPTS):
        for k in range(GROUP):
            row = samples.responses[i, k][samples.mask[i, k]].tolist()
            logits = plain_logits(policy.model, prompt + row)
            near = tolerance(torch.float32, float(logits.abs().max()))
            logp = logits.log_softmax(-1)
            expected = torch.stack([logp[len(prompt) - 1 + t, token] for t, token in enumerate(row)])
            for found in (samples.logp, scored.logp):
                torch.testing.assert_close(found[i, k, : len(row)].double(), expected, rtol=0, atol=near)
            own = torch.stack([logp[t, token] for t, token in enumerate(prompt[1:])]) if prompt[1:] else torch.zeros(0)
            start = prompts.shape[1] - len(prompt) + 1
            torch.testing.assert_close(scored.prompt_logp[i, start:].double(), own.double(), rtol=0, atol=near)
            for t, token in enumerate(row):
                below = logp[len(prompt) - 1 + t, :token].exp().sum()
                above = below + logp[len(prompt) - 1 + t, token].exp()
                assert below - near <= uniforms[i, k, t] <= above + near, f"token {t} of response {i}, {k}"


def check_greedy(policy: CausalLMPolicy) -> None:
    """The likeliest tokens, drawn at a temperature near 0, are those of `generate`, up to the first two that are tied
    (30 nats apart at that temperature)."""
    prompts, mask = pad_left(PROMPTS)
    samples = policy.sample(SampleRequest(Prompts(prompts, mask), 1, Noise.single(0)))
    for i, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt])
        settings = {"do_sample": False, "max_new_tokens": LENGTH, "eos_token_id": EOS, "pad_token_id": PAD}
        whole = policy.model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)[0]  # type: ignore[operator]
        ours, theirs = samples.responses[i, 0][samples.mask[i, 0]].tolist(), whole[len(prompt) :].tolist()
        if ours == theirs:
            continue
        at = next(t for t, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
        logits = plain_logits(policy.model, prompt + ours[:at])[-1]
        gap = abs(float(logits[ours[at]] - logits[theirs[at]]))
        assert gap < 30 * policy.decoding.temperature, f"prompt {i}: {ours}, not {theirs}"


def table(outcomes: list[Outcome]) -> str:
    """The page docs/models.md."""
    works = [found for found in outcomes if found.refused is None]
    lines = [
        "# Architectures",
        "",
        "Which causal architectures of transformers can be trained here. Each was built tiny from its configuration",
        "class, with random weights, and loaded as `llm` loads any model. One that works draws the tokens that",
        "`generate` draws and that given uniforms select; its log-probs, sampled from a cache and scored in padded",
        "batches, are those of a plain forward pass to 1e-5 in float32. Any other is refused when it is loaded, for",
        "the reason given. The same proof is made of the weights that you load.",
        "",
        f"Made with transformers {transformers.__version__}: {len(works)} of {len(outcomes)} work. "
        "`make test-all` makes it again.",
        "",
        "| model type | class | works |",
        "| --- | --- | --- |",
    ]
    for found in outcomes:
        lines.append(f"| {found.name} | {found.class_name} | {'✓' if found.refused is None else found.refused} |")
    return "\n".join(
        [*lines, "", "Not tried, as their configuration classes build nothing tiny:", ", ".join(_NOT_TINY) + ".", ""]
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    found = []
    for name in sys.argv[1:] or NAMES:
        try:
            found.append(outcome(name))
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:400]}", file=sys.stderr)
    if sys.argv[1:]:
        print(*found, sep="\n")
    else:
        DOCS.write_text(table(found))
