"""Philox in elementwise operations: its published vectors, NumPy's numbers, and nothing else that they depend on."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sims.core.numerics import noise as module
from sims.core.numerics.noise import Noise, _MovedStream, _PhiloxStream
from sims.core.numerics.philox import key_of, philox, uniforms

ONES = 2**64 - 1
# The known answers of Random123 for philox4x64-10: counter, key, words. The last is of the digits of π.
KNOWN = [
    ([0] * 4, [0] * 2, [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]),
    ([ONES] * 4, [ONES] * 2, [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        [0x452821E638D01377, 0xBE5466CF34E90C6C],
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]
RUNS = [(3, 0), (3, 1023), (2**62, 5)]
SHAPES = [(3,), (5,), (2, 4), (1,), (50,), (2,)]


def words(numbers: list[int]) -> list[Tensor]:
    """Unsigned 64-bit words as tensors."""
    return [torch.from_numpy(np.array(x, dtype=np.uint64).view(np.int64)) for x in numbers]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    assert philox(words(counter), words(key)) == words(expected)


def test_uniforms_are_numpy_s() -> None:
    key, start = key_of(7, 99), 2**40  # a counter beyond 32 bits
    found = uniforms(torch.from_numpy(key.view(np.int64))[None], torch.tensor([12]), start, 25)
    expected = np.random.Generator(np.random.Philox(counter=[start, 0, 12, 0], key=key)).random(100)
    assert np.array_equal(found[0].numpy(), expected)


def elsewhere(runs: list[tuple[int, int]], generator: module.Generator = "philox") -> Noise:
    """The streams of a device that is not the CPU, on the CPU."""
    noise = Noise(runs, generator)
    noise._kind_of_stream = _PhiloxStream if generator == "philox" else _MovedStream
    return noise


@pytest.mark.parametrize("generator", ["philox", "pcg64"])
@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_streams_are_the_same_on_every_device(
    generator: module.Generator, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    monkeypatch.setattr(module, "_BLOCK_ELSEWHERE", block)
    here, there = Noise(RUNS, generator), elsewhere(RUNS, generator)
    for shape in SHAPES:
        expected, found = here.uniforms("responses", *shape), there.uniforms("responses", *shape)
        assert found.shape == (3, *shape)
        assert torch.equal(found, expected)
    resumed = elsewhere(RUNS, generator)
    resumed.load_state_dict(here.state_dict())
    moved = here.to("cpu")
    expected = here.uniforms("responses", 6)
    assert torch.equal(resumed.uniforms("responses", 6), expected)
    assert torch.equal(moved.uniforms("responses", 6), expected)


def test_a_run_is_the_same_alone_and_in_one_draw_or_many() -> None:
    together, alone = elsewhere(RUNS), elsewhere(RUNS[1:2])
    drawn = torch.cat([together.uniforms("x", n) for n in (1, 6, 30)], dim=-1)
    assert torch.equal(alone.uniforms("x", 37), drawn[1:2])


def test_streams_seeds_and_runs_differ_and_are_not_those_of_pcg64() -> None:
    draws = [Noise(RUNS, "philox").uniforms(name, 4) for name in "ab"] + [Noise(RUNS).uniforms("a", 4)]
    assert len({tuple(row) for row in torch.cat(draws).tolist()}) == 9
