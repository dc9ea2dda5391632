"""One random stream per run and purpose, so that adding runs, or using other random numbers, changes no run.

Everything random is a function of uniforms, and uniforms come from streams named for what they are used for
("responses", "labels", ...). Two algorithms that use the same names and seed share their random numbers: their runs can
be compared in pairs (common random numbers).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 20  # doubles drawn at a time over all runs: few calls, yet within the cache


class Noise:
    """Uniforms on [0, 1) in float64, drawn in blocks of many updates.

    runs: one (seed, run index) for each position of the leading axis; `Noise.single(seed)` has no leading axis.
    The block size changes no number. The state is how many uniforms each stream has given.
    """

    def __init__(self, runs: Sequence[tuple[int, int]]) -> None:
        self.runs = list(runs)
        self.lead: tuple[int, ...] = (len(self.runs),)
        self._given: dict[str, int] = {}
        self._streams: dict[str, _Stream] = {}

    @classmethod
    def of(cls, seed: int, runs: int) -> Noise:
        """Runs 0 … runs−1 of one seed."""
        return cls([(seed, run) for run in range(runs)])

    @classmethod
    def single(cls, seed: int) -> Noise:
        """One run without a leading axis, as a language model has it."""
        noise = cls([(seed, 0)])
        noise.lead = ()
        return noise

    def uniforms(self, stream: str, *shape: int) -> Tensor:
        """The next uniforms of `stream`: lead + shape, float64."""
        if stream not in self._streams:
            self._streams[stream] = _Stream(self.runs, stream, self._given.get(stream, 0))
        found, count = self._streams[stream], math.prod(shape)
        if found.used + count > found.block.shape[1]:
            found.refill(count)
        self._given[stream] = self._given.get(stream, 0) + count
        start, found.used = found.used, found.used + count
        return torch.from_numpy(found.block[:, start : found.used].copy().reshape(*self.lead, *shape))

    def state_dict(self) -> dict[str, int]:
        """How many uniforms each stream has given per run."""
        return dict(self._given)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken."""
        self._given = {name: int(count) for name, count in state.items()}
        self._streams = {}


class _Stream:
    def __init__(self, runs: Sequence[tuple[int, int]], name: str, skip: int) -> None:
        key = zlib.crc32(name.encode())
        self.generators = []
        for seed, run in runs:
            bits = np.random.PCG64DXSM(np.random.SeedSequence(entropy=seed, spawn_key=(key, run)))
            self.generators.append(np.random.Generator(bits.advance(skip)))  # one double is one step of the generator
        self.block = np.empty((len(self.generators), 0))
        self.used = 0

    def refill(self, count: int) -> None:
        """Draw a block of what is left and at least `count` more for every run: (runs, at least count)."""
        left, calls = self.block.shape[1] - self.used, max(1, _BLOCK // (len(self.generators) * max(count, 1)))
        block = self.block  # reused where it fits: newly allocated memory is slow
        if block.shape[1] != left + count * calls:
            block = np.empty((len(self.generators), left + count * calls))
        block[:, :left] = self.block[:, self.used :]
        for row, generator in zip(block, self.generators, strict=True):
            generator.random(out=row[left:])
        self.block, self.used = block, 0
