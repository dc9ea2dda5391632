"""Scoring by a language model: padding, positions, EOS, chunks, critic, copies. Properties 30-36 and 48-51."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from llm.models.forward import chunked_log_probs
from llm.models.policy import CausalLMPolicy
from llm.models.scoring import Critic
from sims.core.algorithms.likelihood import SFT
from sims.core.loop.learner import Learner
from sims.core.loop.optimise import Optimiser
from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.objectives.batch import Batch, OutputRequest
from tests.llm.tiny_models import (
    EOS,
    POSITIONS,
    SHAPES,
    VOCABULARY,
    pad_left,
    pad_right,
    plain_distributions,
    plain_log_probs,
    tiny_model,
    tiny_policy,
)

PROMPTS = [[5, 3, 8, 4], [7], [6, 9]]
RESPONSES = [[4, 4, EOS], [EOS], [3, 7, 8, 9, 10], [12, 3, EOS], [5], [11, 6, 5, EOS]]  # two per prompt
NONSENSE = 10**6  # a token id that no vocabulary has: it must not be looked up


def tensors(prompt_pad: int = 0, response_pad: int = 0, extra: int = 0) -> dict[str, Tensor]:
    """Prompts (3, P) and responses (3, 2, L) as arguments of `forward`."""
    prompts, prompt_mask = pad_left(PROMPTS, prompt_pad, extra)
    responses, mask = pad_right(RESPONSES, response_pad, extra)
    rows = {"responses": responses.unflatten(0, (3, 2)), "mask": mask.unflatten(0, (3, 2))}
    return {"prompts": prompts, "prompt_mask": prompt_mask, **rows}


def gradient(policy: CausalLMPolicy, batch: dict[str, Tensor], **options: bool) -> list[Tensor]:
    """Gradient of a sum in which every number of the outputs has a weight of its own."""
    outputs = policy.forward(Batch(**batch), OutputRequest(**options))
    fields = [x for x in (outputs.logp, outputs.values, outputs.entropy) if x is not None]
    width = int(batch["mask"].sum(-1).max())
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, width)))
    loss = sum((x[..., :width] * weights).sum() for x in fields)
    found = torch.autograd.grad(loss, policy.parameters(), allow_unused=True, materialize_grads=True)
    return list(found)


def same(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Padding, positions, EOS


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_each_row_alone(shape: str, temperature: float):
    policy = tiny_policy(shape, temperature=temperature)
    logp = policy.forward(Batch(**tensors())).logp.flatten(0, 1)
    for i, response in enumerate(RESPONSES):
        expected = plain_log_probs(policy.model, PROMPTS[i // 2], response, temperature)
        torch.testing.assert_close(logp[i, : len(response)], expected, rtol=1e-12, atol=1e-12)
        assert (logp[i, len(response) :] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_changes_neither_log_probs_nor_gradient(shape: str):
    policy, plain, padded = tiny_policy(shape), tensors(), tensors(NONSENSE, NONSENSE, extra=4)
    logp = policy.forward(Batch(**padded)).logp
    torch.testing.assert_close(logp[..., :5], policy.forward(Batch(**plain)).logp, rtol=1e-12, atol=1e-12)
    assert (logp[..., 5:] == 0).all()
    same(gradient(policy, padded), gradient(policy, plain))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_each_row_alone(shape: str):
    policy = tiny_policy(shape)
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 2, 5))).flatten(0, 1)
    loss = sum(
        (plain_log_probs(policy.model, PROMPTS[i // 2], response) * weights[i, : len(response)]).sum()
        for i, response in enumerate(RESPONSES)
    )
    same(gradient(policy, tensors()), list(torch.autograd.grad(loss, policy.parameters())))


@pytest.mark.parametrize("shape", SHAPES)
def test_positions_count_real_tokens(shape: str):
    policy, seen = tiny_policy(shape), {}
    policy.model.base_model.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    policy.forward(Batch(**tensors()))
    width = len(PROMPTS[0]) + 5 - 1  # the last token of a response is nobody's prefix
    for i in range(6):
        padding, real = len(PROMPTS[0]) - len(PROMPTS[i // 2]), len(PROMPTS[i // 2]) + len(RESPONSES[i]) - 1
        expected = [0] * padding + list(range(real)) + [real - 1] * width
        assert seen["position_ids"][i].tolist() == expected[:width]


def test_no_mask_means_no_padding_whatever_the_tokens_are():
    policy, batch = tiny_policy(pad_token_id=3), tensors()
    only = {"prompts": torch.tensor([[3, 0, 3]]), "responses": batch["responses"][:1], "mask": batch["mask"][:1]}
    expected = plain_log_probs(policy.model, [3, 0, 3], RESPONSES[0])
    torch.testing.assert_close(policy.forward(Batch(**only)).logp[0, 0, :3], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pad", [EOS, 0])
def test_eos_is_supervised_whatever_the_pad_token_is(pad: int):
    policy = tiny_policy(pad_token_id=pad)
    logp = policy.forward(Batch(**tensors(response_pad=pad))).logp[0, 1]
    expected = plain_log_probs(policy.model, PROMPTS[0], [EOS])
    torch.testing.assert_close(logp[:1], expected, rtol=1e-12, atol=1e-12)
    assert logp[0] < 0 and (logp[1:] == 0).all()


def test_a_masked_slot_inside_a_response_is_read_but_not_scored():
    policy, batch = tiny_policy(), tensors()
    whole = policy.forward(Batch(**batch)).logp
    hole = batch["mask"].clone()
    hole[1, 0, 2] = False
    logp = policy.forward(Batch(**batch | {"mask": hole})).logp
    assert logp[1, 0, 2] == 0
    torch.testing.assert_close(logp[hole], whole[hole], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_broken_pad_embedding_and_empty_responses_leave_everything_finite(shape: str):
    policy, batch = tiny_policy(shape), tensors(prompt_pad=1, response_pad=1, extra=2)
    clean = policy.forward(Batch(**batch), OutputRequest(entropy=True))
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[1] = torch.nan
        if shape == "gpt2":  # its head is the same matrix
            policy.model.lm_head.weight = nn.Parameter(policy.model.lm_head.weight.nan_to_num(0.3))
    batch["mask"][2] = False  # both responses to one prompt are gone
    outputs = policy.forward(Batch(**batch), OutputRequest(entropy=True))
    if shape != "gpt2":
        torch.testing.assert_close(outputs.logp[:2], clean.logp[:2], rtol=1e-12, atol=1e-12)
    assert outputs.logp[2].eq(0).all() and outputs.entropy[2].eq(0).all()
    loss = outputs.logp.sum() + outputs.entropy.sum()
    found = torch.autograd.grad(loss, policy.parameters(), allow_unused=True, materialize_grads=True)
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in found)
    batch["mask"][:] = False
    assert policy.forward(Batch(**batch)).logp.eq(0).all()


def test_entropy_lies_between_0_and_log_vocabulary_and_is_that_of_the_distribution():
    policy = tiny_policy(temperature=0.8)
    entropy = policy.forward(Batch(**tensors()), OutputRequest(entropy=True)).entropy
    assert (entropy >= 0).all() and (entropy <= math.log(VOCABULARY)).all()
    distribution = plain_distributions(policy.model, PROMPTS[1], RESPONSES[2], 0.8)
    torch.testing.assert_close(entropy[1, 0], -(distribution.exp() * distribution).sum(-1), rtol=1e-12, atol=1e-12)


# Chunks and precision


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_chunks_change_nothing(rows: int):
    model = tiny_model("mistral")
    whole, parts = tiny_policy(model), tiny_policy(model, logits_at_a_time=rows * VOCABULARY, score_batch_size=2)
    for batch in (tensors(), tensors(extra=3)):
        first, second = (
            whole.forward(Batch(**batch), OutputRequest(entropy=True)),
            parts.forward(Batch(**batch), OutputRequest(entropy=True)),
        )
        same([first.logp, first.entropy], [second.logp, second.entropy])
        same(gradient(whole, batch, entropy=True), gradient(parts, batch, entropy=True))
        with torch.no_grad():
            same(
                [first.logp, first.entropy],
                [(out := parts.forward(Batch(**batch), OutputRequest(entropy=True))).logp, out.entropy],
            )


class LargestLogits(TorchDispatchMode):
    """Watches for the largest tensor over a vocabulary, in numbers of rows."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and x.dim() > 0 and x.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, x.numel() // self.vocabulary)
        return result


@pytest.mark.parametrize(("chunk", "expected"), [(20, 20), (10**6, 96)])
def test_no_more_logits_than_a_chunk_exist_at_a_time(chunk: int, expected: int):
    """Three prompts, 4 responses, 8 tokens make 96 rows of logits; the backward pass counts too."""
    vocabulary = 997
    policy = tiny_policy(tiny_model("gpt_neox", vocabulary=vocabulary), logits_at_a_time=chunk * vocabulary)
    responses = torch.arange(96).view(3, 4, 8)
    batch = {
        "prompts": torch.full((3, 4), 5),
        "responses": responses,
        "mask": torch.ones_like(responses, dtype=torch.bool),
    }
    kept: list[tuple[int, ...]] = []
    with LargestLogits(vocabulary) as largest:
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
            logp = policy.forward(Batch(**batch)).logp
        torch.autograd.grad(logp.sum(), policy.parameters())
    assert largest.rows == expected
    assert any(vocabulary in shape for shape in kept) == (chunk > 96)  # chunks are not kept for the gradient either


def test_log_softmax_is_in_float32_at_least():
    """Probabilities of all 13 next tokens sum to 1 to float32's precision, though logits in bfloat16 have 3 digits."""
    policy = tiny_policy(tiny_model("mistral", dtype=torch.bfloat16))
    batch = {"prompts": torch.tensor([[5, 3, 8]]), "responses": torch.arange(VOCABULARY).view(1, -1, 1)}
    logp = policy.forward(Batch(**batch, mask=torch.ones_like(batch["responses"], dtype=torch.bool))).logp
    assert logp.dtype == torch.float32
    assert abs(float(logp.detach().double().exp().sum()) - 1) < 1e-6


def test_bfloat16_is_an_option_of_computing_too():
    model = tiny_model("gpt_neox", dtype=torch.float32)
    exact, rough = (
        tiny_policy(model).forward(Batch(**tensors())).logp,
        tiny_policy(model, precision="bfloat16").forward(Batch(**tensors())).logp,
    )
    assert rough.dtype == torch.float32
    assert 1e-4 < float((exact - rough).detach().abs().max()) < 0.5


def test_gradient_checkpointing_computes_layers_twice_and_changes_nothing():
    plain, saving = tiny_policy("mistral"), tiny_policy("mistral", gradient_checkpointing=True)
    calls = []
    for policy in (plain, saving):
        counts: list[int] = []
        policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=counts: seen.append(1))
        calls.append((gradient(policy, tensors()), counts))
    same(calls[0][0], calls[1][0])
    assert (len(calls[0][1]), len(calls[1][1])) == (1, 2)
    draws = [
        policy.sample(SampleRequest(Prompts(tensors()["prompts"]), 3, Noise.single(0))) for policy in (plain, saving)
    ]
    assert torch.equal(draws[0].responses, draws[1].responses)


@pytest.mark.parametrize(
    ("shape", "names"),
    [("gpt2", ("attn_pdrop", "embd_pdrop", "resid_pdrop")), ("gpt_neox", ("attention_dropout", "hidden_dropout"))],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_in_the_configuration_has_no_effect(shape: str, names: tuple[str, ...], checkpointing: bool):
    plain = tiny_policy(shape)
    policy = tiny_policy(tiny_model(shape, **dict.fromkeys(names, 0.5)), gradient_checkpointing=checkpointing)
    policy.model.train()
    same([policy.forward(Batch(**tensors())).logp], [plain.forward(Batch(**tensors())).logp])
    same(gradient(policy, tensors()), gradient(plain, tensors()))
    policy.model.train()
    draws = [
        p.sample(SampleRequest(Prompts(tensors()["prompts"], tensors()["prompt_mask"]), 3, Noise.single(0)))
        for p in (policy, plain)
    ]
    assert torch.equal(draws[0].responses, draws[1].responses)


def test_scoring_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    policy = tiny_policy("gpt2", gradient_checkpointing=True, logits_at_a_time=3 * VOCABULARY, critic="own")
    gradient(policy, tensors(), values=True)
    policy.clone()
    assert torch.equal(torch.get_rng_state(), state)


# Critic


@pytest.mark.parametrize("critic", ["shared", "own"])
def test_values_are_read_where_the_logits_are(critic: str):
    policy = tiny_policy("gpt2", critic=critic)
    assert policy.forward(Batch(**tensors()), OutputRequest(values=True)).values.eq(0).all()
    with torch.no_grad():
        policy.language_model.critic.weight.copy_(torch.linspace(-1, 1, 16, dtype=torch.float64))
        policy.language_model.critic.bias.fill_(0.5)
    values = policy.forward(Batch(**tensors()), OutputRequest(values=True)).values
    ids = torch.tensor([[*PROMPTS[2], *RESPONSES[5]]])
    states = policy.model.base_model(input_ids=ids).last_hidden_state[0, len(PROMPTS[2]) - 1 : -1]
    expected = states @ torch.linspace(-1, 1, 16, dtype=torch.float64) + 0.5
    torch.testing.assert_close(values[2, 1, :4], expected, rtol=1e-12, atol=1e-12)
    assert values[2, 1, 4:].eq(0).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_critic_of_a_half_precise_model_is_in_float32(autocast: bool):
    """Its values are sums of returns, which bfloat16 resolves to 1 in 256: 100⅓ would be 100 or 100½."""
    critic = Critic(301, torch.zeros(1, dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in critic.parameters()} == {torch.float32}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        critic.weight.fill_(1 / 3)
        found = critic(torch.ones(2, 301, dtype=torch.bfloat16))
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx([301 / 3] * 2, rel=1e-6)


def test_a_critic_of_its_own_shares_nothing_with_the_policy():
    policy = tiny_policy("mistral", critic="own")
    with torch.no_grad():
        policy.language_model.critic.weight.fill_(1.0)
    values = policy.forward(Batch(**tensors()), OutputRequest(values=True)).values.sum()
    found = torch.autograd.grad(values, policy.parameters(), allow_unused=True)
    for name, g in zip(policy.named_parameters(), found, strict=True):
        assert (g is not None) == name.startswith("critic."), name


def test_without_a_critic_values_are_refused():
    with pytest.raises(ValueError, match="no critic"):
        tiny_policy().forward(Batch(**tensors()), OutputRequest(values=True))


# Copies and adapters


def logp_of(policy: CausalLMPolicy) -> Tensor:
    return policy.forward(Batch(**tensors())).logp.detach()


def shift(policy: CausalLMPolicy, by: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by)


@pytest.mark.parametrize("critic", [None, "shared"])
def test_copies_are_independent_and_copy_back_and_forth(critic: str | None):
    policy = tiny_policy(critic=critic)
    start, twin = logp_of(policy), policy.clone()
    second = twin.clone()
    assert not any(p.requires_grad for p in twin.parameters())
    shift(policy, 0.01)
    moved = logp_of(policy)
    assert torch.equal(logp_of(twin), start) and not torch.equal(moved, start)
    twin.copy_from(policy)
    assert torch.equal(logp_of(twin), moved) and torch.equal(logp_of(second), start)
    second.blend_from(policy, 0.25)
    for mine, theirs in zip(second.parameters(), policy.named_parameters().values(), strict=False):
        torch.testing.assert_close(mine, theirs - 0.75 * 0.01, rtol=0, atol=1e-15)
    policy.copy_from(second)  # which has no critic to give back
    assert torch.equal(logp_of(policy), logp_of(second)) and not torch.equal(logp_of(policy), moved)
    assert critic is None or torch.equal(policy.language_model.critic.bias, torch.tensor(0.01, dtype=torch.float64))


def lora_policy() -> CausalLMPolicy:
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.5)
    with torch.random.fork_rng(devices=[]):
        return tiny_policy(get_peft_model(tiny_model("mistral"), config))


def test_under_an_adapter_only_the_adapter_is_trained_and_copies_share_the_base():
    policy = lora_policy()
    assert all("lora_" in name for name in policy.named_parameters()) and len(policy.parameters()) == 8
    reference = policy.clone()
    start = logp_of(reference)
    base, copied = (dict(p.language_model.named_parameters()) for p in (policy, reference))
    for name in base:
        shared = base[name].data_ptr() == copied[name].data_ptr()
        assert shared == ("lora_" not in name), name
    shift(policy, 0.1)
    assert torch.equal(logp_of(reference), start) and not torch.equal(logp_of(policy), start)
    with policy.model.disable_adapter():
        bare = logp_of(policy)
    assert not torch.equal(bare, start)  # the reference is the policy as it was, not the base below it
    torch.testing.assert_close(bare, logp_of(tiny_policy("mistral")), rtol=1e-12, atol=1e-12)


def test_gradients_reach_an_adapter_through_checkpoints_and_chunks():
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    found = []
    for settings in ({}, {"gradient_checkpointing": True, "logits_at_a_time": 4 * VOCABULARY}):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = get_peft_model(tiny_model("mistral"), config)
        found.append(gradient(tiny_policy(model, **settings), tensors()))
    same(*found)
    assert all(g.abs().sum() > 0 for g in found[0])


# The protocol, and what is refused


def test_chunks_of_no_tokens_at_all():
    head = nn.Linear(3, 5)
    logp, entropy = chunked_log_probs(head, torch.zeros((0, 3)), torch.zeros(0, dtype=torch.int64), 4, entropy=True)
    assert logp.shape == entropy.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": torch.zeros(3, dtype=torch.int64)}, r"prompts of shape \(3,\): must be \(B, P\)"),
        (
            {"prompt_mask": torch.ones((3, 4), dtype=torch.bool).index_fill(1, torch.tensor([3]), 0)},
            "prompt 0: must have",
        ),
        ({"prompt_mask": torch.tensor([[1] * 4, [0] * 4, [1] * 4])}, "prompt 1: must have tokens"),
        (
            {"prompts": torch.zeros((3, POSITIONS), dtype=torch.int64), "prompt_mask": None},
            "prompt 1: has 32 tokens, and its response up to 5",
        ),
    ],
)
def test_prompts_that_cannot_be_are_named(change: dict[str, Tensor | None], message: str):
    with pytest.raises(ValueError, match=message):
        tiny_policy().forward(Batch(**tensors() | change))


def test_rows_that_just_fit_are_scored_though_the_longest_prompt_and_response_together_would_not():
    prompts, prompt_mask = pad_left([[5] * (POSITIONS - 1), [7]])
    responses, mask = pad_right([[4, EOS], [3, 7, 8, 9, 10, 11]])
    batch = {"prompts": prompts, "prompt_mask": prompt_mask, "responses": responses[:, None], "mask": mask[:, None]}
    policy = tiny_policy("gpt2")
    expected = plain_log_probs(policy.model, [7], [3, 7, 8, 9, 10, 11])
    torch.testing.assert_close(policy.forward(Batch(**batch)).logp[1, 0], expected, rtol=1e-12, atol=1e-12)


def test_a_model_with_steps_between_backbone_and_logits_is_refused():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=VOCABULARY, is_decoder=True, **sizes)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="BertLMHeadModel: must compute its logits as head"):
        tiny_policy(model)


def test_a_policy_without_eos_is_refused():
    with pytest.raises(ValueError, match="eos_token_ids"):
        tiny_policy(eos_token_ids=())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [2, 128])
def test_prompts_are_scored_when_asked_and_nothing_else_changes(shape: str, rows: int):
    """Each prompt's tokens after its first, by the plain distribution of what stands before them; 0 in padding."""
    policy, batch = tiny_policy(shape, score_batch_size=rows), tensors(prompt_pad=2)
    with torch.no_grad():
        found = policy.forward(Batch(**batch), OutputRequest(entropy=True, prompt_logp=True))
        alone = policy.forward(Batch(**batch), OutputRequest(entropy=True))
    assert alone.prompt_logp is None and found.prompt_logp is not None
    same([found.logp, found.entropy], [alone.logp, alone.entropy])
    assert found.prompt_logp.shape == batch["prompts"].shape
    for row, mask, logp in zip(batch["prompts"], batch["prompt_mask"], found.prompt_logp, strict=True):
        text = row[mask].tolist()
        expected = plain_distributions(policy.model, text[:1], text[1:], 1.0)[range(len(text) - 1), text[1:]]
        same([logp[len(row) - len(text) + 1 :]], [expected])
        assert (logp[: len(row) - len(text) + 1] == 0).all()


def test_sft_imitates_the_prompt_too_when_told():
    policy, batch = tiny_policy(), tensors(prompt_pad=1)
    data = Batch(**batch)
    learner = Learner(policy, Optimiser(method="sgd", learning_rate=1e-9), ())
    found = {option: learner.update(SFT(include_prompt=option), data, {}).loss for option in (False, True)}
    with torch.no_grad():
        outputs = policy.forward(Batch(**batch), OutputRequest(prompt_logp=True))
    own = -torch.where(data.mask, outputs.logp, 0).sum(-1).mean()
    prompts = -outputs.prompt_logp.sum(-1).mean()
    assert found[False].item() == pytest.approx(own.item(), rel=1e-6)
    assert found[True].item() == pytest.approx((own + prompts).item(), rel=1e-6)
