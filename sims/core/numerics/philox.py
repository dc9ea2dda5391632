"""Philox4x64-10, a random generator without state: number i of a stream is a function of a key and of i.

Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". Here in elementwise integer operations,
which round nothing: every device gives the same bits. It is the generator of `numpy.random.Philox`, which is as fast as
other generators on a CPU and is used there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

WORDS = 4  # 64-bit words per counter, one uniform each
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_INCREMENTS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # of the key, after each round
_LOW = 0xFFFFFFFF


def philox(counter: Sequence[Tensor], key: Sequence[Tensor], rounds: int = 10) -> list[Tensor]:
    """Four random words. counter: four, key: two tensors int64 of unsigned 64-bit words, which broadcast.

    Sums and products wrap around modulo 2⁶⁴, whatever the sign of their int64; shifts are made unsigned by a mask.
    """
    (a, b, c, d), (left, right) = counter, key
    for _ in range(rounds):
        high_a, low_a = _product(a, _MULTIPLIERS[0])
        high_c, low_c = _product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ left, low_c, high_a ^ d ^ right, low_a
        left, right = left + _signed(_INCREMENTS[0]), right + _signed(_INCREMENTS[1])
    return [a, b, c, d]


def uniforms(key: Tensor, run: Tensor, start: int, counters: int) -> Tensor:
    """Uniforms 4·start … 4·(start + counters) − 1 of each run, on [0, 1) in steps of 2⁻⁵³: (R, 4·counters) float64.

    key: (R, 2), as `key_of` makes them; run: (R,), part of the counter. Both int64, on the device of the result.
    """
    # NumPy counts up before it draws: the first counter is 1.
    index = torch.arange(start + 1, start + 1 + counters, device=key.device)
    nothing = torch.zeros((), dtype=torch.int64, device=key.device)
    words = philox((index, nothing, run[:, None], nothing), (key[:, :1], key[:, 1:]))
    return torch.stack([_shifted(word, 11) for word in words], dim=-1).flatten(1).double() * 2.0**-53


def key_of(seed: int, stream: int) -> np.ndarray:
    """Two words, for one seed and one stream: (2,) uint64."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(stream,)).generate_state(2, np.uint64)


def in_numpy(key: np.ndarray, run: int, skip: int) -> np.random.Generator:
    """NumPy's generator of the same uniforms, after `skip` of them."""
    generator = np.random.Generator(np.random.Philox(counter=[skip // WORDS, 0, run, 0], key=key))
    generator.random(skip % WORDS)
    return generator


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of x·factor, from products of 32-bit halves."""
    x_low, x_high, low, high = x & _LOW, _shifted(x, 32), factor & _LOW, factor >> 32
    cross, crossed = x_low * high, x_high * low
    carried = _shifted(x_low * low, 32) + (cross & _LOW) + (crossed & _LOW)
    return x_high * high + _shifted(cross, 32) + _shifted(crossed, 32) + (carried >> 32), x * _signed(factor)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits of an unsigned word."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The int64 of the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word
