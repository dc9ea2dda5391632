"""One random stream per run and purpose, so that adding runs, or using other random numbers, changes no run.

Everything random is a function of uniforms, and uniforms come from streams named for what they are used for
("responses", "labels", ...). Two algorithms that use the same names and seed share their random numbers: their runs can
be compared in pairs (common random numbers).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from . import philox

Generator = Literal["pcg64", "philox"]
_BLOCK = 1 << 20  # doubles drawn at a time over all runs: few calls, yet within the cache
_BLOCK_ELSEWHERE = 1 << 22  # on another device: some 500 operations a block, which take a launch each


class Noise:
    """Uniforms on [0, 1) in float64, drawn in blocks of many updates.

    runs: one (seed, run index) for each position of the leading axis; `Noise.single(seed)` has no leading axis.
    generator: pcg64, NumPy's PCG64DXSM, on the CPU; or philox (`sims.core.numerics.philox`), on any device. device:
    where the uniforms are to be, and all that is computed from them. Neither the device nor the block size changes a
    number. The state is how many uniforms each stream has given.
    """

    def __init__(
        self, runs: Sequence[tuple[int, int]], generator: Generator = "pcg64", device: torch.device | str = "cpu"
    ) -> None:
        self.runs = list(runs)
        self.lead: tuple[int, ...] = (len(self.runs),)
        self.generator, self.device = generator, torch.device(device)
        elsewhere = _PhiloxStream if generator == "philox" else _MovedStream
        self._kind_of_stream: type[_Stream] = _NumPyStream if self.device.type == "cpu" else elsewhere
        self._given: dict[str, int] = {}
        self._streams: dict[str, _Stream] = {}

    @classmethod
    def of(cls, seed: int, runs: int, generator: Generator = "pcg64", device: torch.device | str = "cpu") -> Noise:
        """Runs 0 … runs−1 of one seed."""
        return cls([(seed, run) for run in range(runs)], generator, device)

    @classmethod
    def single(cls, seed: int) -> Noise:
        """One run without a leading axis, as a language model has it."""
        noise = cls([(seed, 0)])
        noise.lead = ()
        return noise

    def from_start(
        self, runs: Sequence[tuple[int, int]] | None = None, device: torch.device | str | None = None
    ) -> Noise:
        """The streams of the same runs, or of others, from their start: for what must not depend on what was drawn."""
        return Noise(self.runs if runs is None else runs, self.generator, self.device if device is None else device)

    def to(self, device: torch.device | str) -> Noise:
        """The same streams on a device, where they are now."""
        moved = self.from_start(device=device)
        moved.lead = self.lead
        moved.load_state_dict(self._given)
        return moved

    def uniforms(self, stream: str, *shape: int) -> Tensor:
        """The next uniforms of `stream`: lead + shape, float64."""
        given, count = self._given.get(stream, 0), math.prod(shape)
        if stream not in self._streams:
            self._streams[stream] = self._kind_of_stream(self, stream, given)
        self._given[stream] = given + count
        found = self._streams[stream]
        if found.used + count > found.block.shape[1]:
            found.refill(count)
        start, found.used = found.used, found.used + count
        if isinstance(found.block, np.ndarray):
            return torch.from_numpy(found.block[:, start : found.used].copy().reshape(*self.lead, *shape))
        return found.block[:, start : found.used].reshape(*self.lead, *shape)

    def state_dict(self) -> dict[str, int]:
        """How many uniforms each stream has given per run."""
        return dict(self._given)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken."""
        self._given = {name: int(count) for name, count in state.items()}
        self._streams = {}


class _NumPyStream:
    """Uniforms of NumPy's generators, one per run; runs that share seed and number, as those of arms that are paired
    do, share a generator."""

    def __init__(self, noise: Noise, name: str, skip: int) -> None:
        stream, first = zlib.crc32(name.encode()), dict[tuple[int, int], int]()
        source = [first.setdefault(run, row) for row, run in enumerate(noise.runs)]
        self.generators = {row: _in_numpy(noise.generator, *run, stream, skip) for run, row in first.items()}
        self.copies = [row for row, its in enumerate(source) if its != row]
        self.copied = [source[row] for row in self.copies]
        self.block = np.empty((len(source), 0))
        self.used = 0

    def refill(self, count: int) -> None:
        """Draw a block of what is left and at least `count` more for every run: (runs, at least count)."""
        left, calls = self.block.shape[1] - self.used, max(1, _BLOCK // (len(self.block) * max(count, 1)))
        block = self.block  # reused where it fits: newly allocated memory is slow
        if block.shape[1] != left + count * calls:
            block = np.empty((len(self.block), left + count * calls))
        block[:, :left] = self.block[:, self.used :]
        for row, generator in self.generators.items():
            generator.random(out=block[row, left:])
        for row, its in zip(self.copies, self.copied, strict=True):
            block[row, left:] = block[its, left:]
        self.block, self.used = block, 0


class _MovedStream:
    """The same on another device: a block is moved at a time, as each move waits for the device."""

    def __init__(self, noise: Noise, name: str, skip: int) -> None:
        self.stream, self.device = _NumPyStream(noise, name, skip), noise.device
        self.block = torch.from_numpy(self.stream.block).to(self.device)
        self.used = 0

    def refill(self, count: int) -> None:
        """See `_NumPyStream`."""
        self.stream.used = self.used
        self.stream.refill(count)
        self.block, self.used = torch.from_numpy(self.stream.block).to(self.device), 0


class _PhiloxStream:
    """Uniforms of Philox, drawn on the device itself."""

    def __init__(self, noise: Noise, name: str, skip: int) -> None:
        stream, device = zlib.crc32(name.encode()), noise.device
        keys = {seed: philox.key_of(seed, stream).view(np.int64) for seed, _ in noise.runs}
        self.keys = torch.from_numpy(np.stack([keys[seed] for seed, _ in noise.runs])).to(device)
        self.runs = torch.tensor([run for _, run in noise.runs], device=device)
        self.drawn, self.used = skip // philox.WORDS, 0  # drawn: counters, up to the end of the block
        self.block = torch.empty((len(noise.runs), 0), dtype=torch.float64, device=device)
        if skip % philox.WORDS:
            self.refill(philox.WORDS)
            self.used = skip % philox.WORDS

    def refill(self, count: int) -> None:
        """See `_NumPyStream`."""
        counters = -(-max(count, _BLOCK_ELSEWHERE // len(self.keys)) // philox.WORDS)
        fresh = philox.uniforms(self.keys, self.runs, self.drawn, counters)
        self.block, self.used = torch.cat([self.block[:, self.used :], fresh], dim=-1), 0
        self.drawn += counters


_Stream = _NumPyStream | _MovedStream | _PhiloxStream


def _in_numpy(generator: Generator, seed: int, run: int, stream: int, skip: int) -> np.random.Generator:
    """NumPy's generator of one run and stream, after `skip` uniforms."""
    if generator == "philox":
        return philox.in_numpy(philox.key_of(seed, stream), run, skip)
    bits = np.random.PCG64DXSM(np.random.SeedSequence(entropy=seed, spawn_key=(stream, run)))
    return np.random.Generator(bits.advance(skip))  # one double is one step of the generator
