"""The stacked transformer against minGPT written out for one run, against its own sampling, and against sums."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu as library_gelu
from torch.nn.functional import layer_norm

from sims.core.loop.protocols import Prompts, SampleRequest
from sims.core.numerics.noise import Noise
from sims.core.numerics.sampling import inverse_cdf
from sims.core.objectives.batch import Batch, OutputRequest
from sims.core.spec import SpecError
from sims.environments import BanditR1, Contextual, TokenBanditR1, TokenBanditR2, TokenBanditSmall, TokenTree
from sims.policies import Transformer, TransformerPolicy
from sims.policies.causal import PER_BLOCK, attention, gelu

SPEC = Transformer(num_layers=2, num_heads=2, hidden_size=8, fit_steps=2)
PLACE = TokenBanditR2(vocabulary=12, length=4, num_prompts=3, peak=4)


def in_general_position(policy: TransformerPolicy) -> TransformerPolicy:
    """The policy with every parameter, biases, norms and critic too, moved somewhere."""
    random = torch.Generator().manual_seed(5)
    for parameter in policy.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))
    return policy


def built(spec: Transformer = SPEC, place: object = PLACE, runs: int = 2, critic: bool = True) -> TransformerPolicy:
    return in_general_position(spec.build(place, Noise.of(1, runs), critic, torch.float64))


def written_out(policy: TransformerPolicy, run: int, prompt: int, response: Tensor) -> tuple[Tensor, Tensor]:
    """One run, one prompt, one response, position by position: distributions (L, V) and values (L), as minGPT computes
    them."""
    tokens, positions, *rest = [p[run] for p in policy.parameters()]
    rows = [int(policy.prompt_rows[prompt]), *response.tolist()[:-1]]
    x = torch.stack([tokens[row] + positions[t] for t, row in enumerate(rows)])

    def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], scale[:, 0], shift[:, 0])

    for i in range(policy.blocks):
        block = rest[PER_BLOCK * i : PER_BLOCK * (i + 1)]
        q, k, v = (norm(x, *block[:2]) @ block[2] + block[3]).chunk(3, dim=-1)
        size, mixed = q.shape[-1] // policy.heads, torch.zeros_like(x)
        for head in range(policy.heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(len(rows)):
                weight = (k[: t + 1, part] @ q[t, part] / math.sqrt(size)).softmax(-1)
                mixed[t, part] = weight @ v[: t + 1, part]
        x = x + mixed @ block[4] + block[5]
        inner = norm(x, *block[6:8]) @ block[8] + block[9]
        x = x + library_gelu(inner, approximate="tanh") @ block[10] + block[11]
    scale, shift, head_weight, critic, critic_bias = rest[PER_BLOCK * policy.blocks :]
    x = norm(x, scale, shift)
    return (x @ head_weight).log_softmax(-1), x @ critic[0] + critic_bias


def drawn(policy: TransformerPolicy, prompts: Tensor, generations: int = 3) -> Tensor:
    return policy.sample(SampleRequest(Prompts(prompts), generations, Noise.of(2, prompts.shape[0]))).responses


def test_it_is_mingpt() -> None:
    policy, prompts = built(), torch.tensor([[0, 2], [1, 1]])
    responses = drawn(policy, prompts)
    outputs = policy.forward(
        Batch(prompts, responses, torch.ones_like(responses, dtype=torch.bool)),
        OutputRequest(values=True, entropy=True),
    )
    distributions = policy.token_log_probs(prompts, responses)
    for run, b, k in np.ndindex(2, 2, 3):
        distribution, value = written_out(policy, run, int(prompts[run, b]), responses[run, b, k])
        torch.testing.assert_close(distributions[run, b, k], distribution, rtol=0, atol=1e-12)
        chosen = distribution.gather(-1, responses[run, b, k].unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(outputs.logp[run, b, k], chosen, rtol=0, atol=1e-12)
        torch.testing.assert_close(outputs.values[run, b, k], value, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            outputs.entropy[run, b, k], -(distribution.exp() * distribution).sum(-1), rtol=0, atol=1e-12
        )


def test_the_paper_counts_95_thousand_parameters() -> None:
    policy = Transformer(fit_steps=0).build(TokenBanditR1(), Noise.of(0, 1), False, torch.float32)
    assert sum(p.numel() for p in policy.parameters()) == 94_992
    spread = {p.shape[1:]: p.std().item() for p in policy.parameters() if p.shape[-1] > 1 and p.shape[-2] > 1}
    assert spread[48, 192] == pytest.approx(0.02, rel=0.05)  # minGPT's start
    assert spread[192, 48] == pytest.approx(0.02 / math.sqrt(6), rel=0.05)  # two ways back in each of 3 blocks


def test_gelu_and_its_derivative() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(gelu(x), library_gelu(x, approximate="tanh"), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(gelu, (x,))
    taken = x.detach().clone()
    assert torch.equal(gelu(taken), gelu(x))  # without gradient in place, and the same bits
    assert torch.equal(taken, gelu(x))


def test_the_derivative_of_attention() -> None:
    joint = torch.randn((2, 4, 24), generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: attention(x, 2), (joint,))


def test_gradients_are_those_of_the_written_out_network() -> None:
    policy, prompts = built(runs=1), torch.tensor([[2]])
    responses = drawn(policy, prompts, 1)
    for parameter in policy.parameters():
        parameter.requires_grad_(True)
    outputs = policy.forward(
        Batch(prompts, responses, torch.ones_like(responses, dtype=torch.bool)), OutputRequest(values=True)
    )
    stacked = torch.autograd.grad(outputs.logp.sum() + outputs.values.sum(), policy.parameters())
    distribution, value = written_out(policy, 0, 2, responses[0, 0, 0])
    plain = distribution.gather(-1, responses[0, 0, 0].unsqueeze(-1)).sum() + value.sum()
    for mine, expected in zip(stacked, torch.autograd.grad(plain, policy.parameters()), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("place", [PLACE, TokenBanditSmall(num_prompts=3)], ids=["no EOS", "EOS"])
@pytest.mark.parametrize("share", [None, 0.3])
def test_sampling_draws_from_the_distributions_that_scoring_gives(place: object, share: float | None) -> None:
    """Token by token: the distribution at each prefix, its inverse CDF at the same uniform, and its log-prob."""
    policy, other = built(place=place), built(SPEC.replace(fit_learning_rate=0.5), place)
    prompts = torch.tensor([[0, 2], [1, 1]])
    samples = policy.sample(
        SampleRequest(Prompts(prompts), 3, Noise.of(2, 2), blend=None if share is None else (other, share))
    )
    distribution = policy.token_log_probs(prompts, samples.responses)
    if share is not None:
        mixed = (1 - share) * distribution + share * other.token_log_probs(prompts, samples.responses)
        distribution = mixed.log_softmax(-1)
    mask = samples.mask.expand(samples.responses.shape)
    uniforms = Noise.of(2, 2).uniforms("responses", 2, 3, 4)
    expected = inverse_cdf(distribution.exp(), uniforms.unsqueeze(-1)).squeeze(-1)
    assert torch.equal(samples.responses[mask], expected[mask])
    assert (samples.responses[~mask] == 0).all()
    logp = distribution.gather(-1, samples.responses.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(samples.logp[mask], logp[mask], rtol=0, atol=1e-12)
    assert torch.equal(samples.mask, place.space.mask(samples.responses))


def test_a_share_a_run_blends_each_run_by_its_own() -> None:
    policy, other = built(), built(SPEC.replace(fit_learning_rate=0.5))
    prompts = torch.tensor([[0, 2], [1, 1]])
    mixed = policy.sample(SampleRequest(Prompts(prompts), 3, Noise.of(2, 2), blend=(other, torch.tensor([0.0, 1.0]))))
    pure = [p.sample(SampleRequest(Prompts(prompts), 3, Noise.of(2, 2))).responses for p in (policy, other)]
    assert torch.equal(mixed.responses, torch.stack([pure[0][0], pure[1][1]]))


@pytest.mark.parametrize("place", [TokenBanditSmall(num_prompts=2), TokenTree(num_prompts=2), BanditR1(num_prompts=2)])
def test_all_responses_together_are_certain(place: object) -> None:
    total = built(place=place).all_log_probs().exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(2, 2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_copies_and_averages_are_of_every_parameter() -> None:
    policy, other = built(), built(SPEC.replace(fit_learning_rate=0.5))
    twin = policy.clone()
    start = [p.clone() for p in policy.parameters()]
    policy.blend_from(other, 0.25)
    for p, q, before, kept in zip(policy.parameters(), other.parameters(), start, twin.parameters(), strict=True):
        torch.testing.assert_close(p, 0.75 * before + 0.25 * q, rtol=0, atol=1e-14)
        assert torch.equal(kept, before)
    policy.copy_from(other)
    assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), other.parameters(), strict=True))


def test_the_reference_is_near_the_data_policy() -> None:
    """Tajwar et al.'s, with dropout on, is 0.025 away in total variation; without, it should be nearer."""
    place, noise = TokenBanditR1(), Noise.of(0, 4)
    policy = Transformer().build(place, noise, False, torch.float32)
    prompts = (noise.uniforms("test prompts", 50) * 100).long()
    distributions = policy.token_log_probs(
        prompts, policy.sample(SampleRequest(Prompts(prompts), 1, noise, "test")).responses
    ).exp()
    distance = 0.5 * (distributions - torch.from_numpy(place.data_policy())).abs().sum(-1)
    assert distance.mean() < 0.025


def test_the_fit_reaches_a_distribution_that_depends_on_prompt_and_prefix() -> None:
    place = TokenTree(num_prompts=2)
    spec = SPEC.replace(hidden_size=24, fit_samples=16, fit_steps=200)
    before, after = (s.build(place, Noise.of(0, 2), False, torch.float64) for s in (spec.replace(fit_steps=0), spec))
    table = torch.from_numpy(place.reference_logp())
    space, (responses, mask) = place.space, place.space.all_responses
    nodes = torch.where(mask, space.node_index(responses), 0)
    logp = table[:, nodes].gather(-1, responses.expand(2, -1, -1).unsqueeze(-1)).squeeze(-1)
    data = torch.where(mask, logp, 0.0).sum(-1)
    far, near = ((p.all_log_probs().exp() * (p.all_log_probs() - data)).sum(-1).max() for p in (before, after))
    assert near < 0.1 < 0.5 < far


@pytest.mark.parametrize("changes", [{"num_heads": 5}, {"fit_steps": -1}, {"hidden_size": 1}])
def test_sizes_that_cannot_be(changes: dict[str, int]) -> None:
    with pytest.raises(SpecError) as error:
        Transformer(**changes)
    assert error.value.field in changes


def test_a_reference_with_a_hole_is_refused() -> None:
    with pytest.raises(SpecError, match="use table where one has none"):
        SPEC.check_environment(Contextual(num_prompts=2, best_mass=0.0))
