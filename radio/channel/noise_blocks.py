"""Noise that hangs on the count of its samples alone, however they are asked for."""

from __future__ import annotations

from typing import Final

import numpy as np

from hil.contract import IQ

NOISE_BLOCK: Final = 1 << 14
"""Samples that are drawn together, from multiples of it on, whatever part of the stream is asked
for."""


class CountedNoise:
    """White Gaussian noise at every count of a stream's samples, the same however it is read.

    I and Q have unit power each. Each block has a generator of its own, seeded by (seed, stream,
    block): no table and no period. Several threads may ask.
    """

    def __init__(self, seed: int, stream: int) -> None:
        self._seed = seed
        self._stream = stream
        self._latest = -1, np.empty(0, np.complex64)

    def at(self, begin: int, n: int) -> IQ:
        """The noise at counts begin ... begin + n."""
        noise = np.empty(n, np.complex64)
        for block, part, taken in blocks(begin, n):
            noise[taken] = self._of(block)[part]
        return noise

    def _of(self, block: int) -> IQ:
        number, values = self._latest
        if block != number:
            sequence = np.random.SeedSequence(self._seed, spawn_key=(self._stream, block))
            rng = np.random.Generator(np.random.SFC64(sequence))
            values = rng.standard_normal(2 * NOISE_BLOCK, np.float32).view(np.complex64)
            self._latest = block, values
        return values


def blocks(begin: int, n: int) -> list[tuple[int, slice, slice]]:
    """The blocks that counts begin ... begin + n lie in: number, part of the block, part of the
    counts."""
    first, last = begin // NOISE_BLOCK, (begin + n - 1) // NOISE_BLOCK
    spans = []
    for block in range(first, last + 1):
        low, high = max(begin, block * NOISE_BLOCK), min(begin + n, (block + 1) * NOISE_BLOCK)
        at = block * NOISE_BLOCK
        spans.append((block, slice(low - at, high - at), slice(low - begin, high - begin)))
    return spans
