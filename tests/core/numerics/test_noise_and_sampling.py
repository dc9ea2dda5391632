"""Uniforms that depend on nothing but seed, run and purpose; and the tokens that they become."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sims.core.numerics.noise import Noise
from sims.core.numerics.sampling import inverse_cdf


def test_a_run_is_the_same_among_few_and_many() -> None:
    few, many = Noise.of(3, 2), Noise.of(3, 64)
    for shape in ((5, 2), (7,), (5, 2)):
        assert torch.equal(few.uniforms("responses", *shape), many.uniforms("responses", *shape)[:2])


def test_block_size_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    large = [Noise.of(0, 3).uniforms("x", 11) for _ in range(1)]
    whole = Noise.of(0, 3)
    drawn = [whole.uniforms("x", n) for n in (11, 4, 50)]
    monkeypatch.setattr("sims.core.numerics.noise._BLOCK", 1)
    small = Noise.of(0, 3)
    for expected, n in zip(drawn, (11, 4, 50), strict=True):
        assert torch.equal(expected, small.uniforms("x", n))
    assert torch.equal(large[0], drawn[0])


def test_runs_that_share_seed_and_number_draw_the_same_and_others_as_if_alone() -> None:
    runs = [(0, 1), (4, 1), (0, 1), (0, 2), (4, 1), (0, 1)]
    together, alone = Noise(runs), [Noise([run]) for run in runs]
    for count in (3, 7, 1 << 18, 5):  # through several blocks
        drawn = together.uniforms("x", count)
        for row, single in zip(drawn, alone, strict=True):
            assert torch.equal(row, single.uniforms("x", count)[0])


def test_streams_seeds_and_runs_differ() -> None:
    draws = [Noise.of(0, 2).uniforms("a", 4), Noise.of(0, 2).uniforms("b", 4), Noise.of(1, 2).uniforms("a", 4)]
    rows = torch.cat(draws).tolist()
    assert len({tuple(row) for row in rows}) == 6


def test_resumed_noise_goes_on_where_it_was() -> None:
    noise = Noise.single(5)
    noise.uniforms("x", 3)
    state = noise.state_dict()
    expected = noise.uniforms("x", 4)
    resumed = Noise.single(5)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.uniforms("x", 4), expected)
    assert expected.shape == (4,)


@given(st.integers(0, 2**32 - 1), st.integers(1, 130), st.sampled_from([1, 3, 20]), st.integers(1, 3), st.booleans())
def test_inverse_cdf_is_the_first_token_beyond_the_uniform(
    seed: int, tokens: int, draws: int, distributions: int, peaked: bool
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(2, distributions, tokens)) ** (6 if peaked else 1)
    weights[rng.uniform(size=weights.shape) < 0.3] = 0
    weights[..., rng.integers(tokens)] += 1e-3
    probabilities = torch.from_numpy(weights / weights.sum(-1, keepdims=True))
    uniforms = torch.from_numpy(rng.uniform(size=(2, draws)))
    rows = torch.from_numpy(rng.integers(distributions, size=(2, draws)))
    found = inverse_cdf(probabilities, uniforms, rows)
    for r in range(2):
        for s in range(draws):
            cumulative = np.cumsum(probabilities[r, rows[r, s]].numpy())
            expected = int((cumulative <= uniforms[r, s].item() * cumulative[-1]).sum())
            assert found[r, s] == expected
            assert probabilities[r, rows[r, s], expected] > 0
    if distributions == 1:
        assert torch.equal(found, inverse_cdf(probabilities[:, 0], uniforms))


def test_the_largest_uniform_stays_inside_and_zeros_are_never_drawn() -> None:
    probabilities = torch.tensor([[0.0, 0.3, 0.7 - 2**-54, 0.0]], dtype=torch.float64)
    uniforms = torch.tensor([[0.0, np.nextafter(1.0, 0.0)] * 5], dtype=torch.float64)
    assert inverse_cdf(probabilities, uniforms).tolist() == [[1, 2] * 5]


def test_every_token_of_a_large_vocabulary_can_be_drawn() -> None:
    """In float32 the steps of the cumulative sum fall below its resolution, and a fifth of the tokens is lost."""
    size = 50_304
    probabilities = torch.full((1, size), 1.0 / size, dtype=torch.float32)
    middles = ((torch.arange(size, dtype=torch.float64) + 0.5) / size)[None]
    assert torch.equal(inverse_cdf(probabilities, middles)[0], torch.arange(size))


def test_a_wide_distribution_is_drawn_from_by_blocks_as_in_one_piece() -> None:
    """The sums differ in their last bit: a uniform falls between the two with probability below 1e-10."""
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(40, 5000)) ** 6 * (rng.uniform(size=(40, 5000)) < 0.1)
    weights[0, :4999], weights[0, 4999], weights[1, 0], weights[1, 1:] = 0, 1, 1, 0
    probabilities = torch.from_numpy(weights / weights.sum(-1, keepdims=True)).float()
    uniforms = torch.from_numpy(rng.uniform(size=(40, 2)))
    uniforms[2:4] = torch.tensor([0.0, np.nextafter(1.0, 0.0)])
    cdf = probabilities.double().cumsum(-1)
    expected = torch.searchsorted(cdf, uniforms * cdf[:, -1:], right=True)
    found = inverse_cdf(probabilities, uniforms)
    assert torch.equal(found[4:], expected[4:]) and found[:2].tolist() == [[4999, 4999], [0, 0]]
    assert (probabilities.gather(-1, found) > 0).all()  # at the ends, too


@pytest.mark.parametrize("tokens", [3, 5000])
@pytest.mark.parametrize("draws", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_finer_than_float32(tokens: int, draws: int, dtype: torch.dtype) -> None:
    """A token of probability 2⁻⁴⁰ after one of ½ has a place of its own, which no sum in float32 has: though float32
    holds both."""
    tiny = 2.0**-40
    probabilities = torch.zeros(1, tokens, dtype=dtype)
    probabilities[0, :3] = torch.tensor([0.5, tiny, 0.5], dtype=dtype)
    uniforms = torch.full((1, draws), (0.5 + tiny / 2) / (1.0 + tiny), dtype=torch.float64)
    assert inverse_cdf(probabilities, uniforms).tolist() == [[1] * draws]
    rows = torch.zeros(1, draws, dtype=torch.int64)
    assert inverse_cdf(probabilities[:, None], uniforms, rows).tolist() == [[1] * draws]


@pytest.mark.parametrize("likeliest", [0, 1, 2])
def test_every_token_is_drawn_whichever_is_the_likeliest(likeliest: int) -> None:
    probabilities = torch.full((1, 3), 0.2, dtype=torch.float64)
    probabilities[0, likeliest] = 0.6
    uniforms = (torch.arange(10, dtype=torch.float64) + 0.5)[None] / 10
    drawn = inverse_cdf(probabilities, uniforms)[0].bincount(minlength=3)
    assert drawn.tolist() == [6 if token == likeliest else 2 for token in range(3)]
