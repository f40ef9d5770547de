"""Pseudo-random bits, the same on both ends."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_PERIOD = 2**15 - 1


@lru_cache(maxsize=1)
def _period() -> NDArray[np.uint8]:
    """One period, uint8[32767], of the register x^15 + x^14 + 1 started with the load of ETSI EN
    300 421 §4.4.1."""
    register = [int(bit) for bit in "100101010000000"]
    bits = np.empty(_PERIOD, np.uint8)
    for i in range(_PERIOD):
        bits[i] = register[13] ^ register[14]
        register = [int(bits[i]), *register[:-1]]
    return bits


def pn_bits(n: int) -> NDArray[np.uint8]:
    """The sequence's first n bits, uint8[n], each 0 or 1; it repeats after 32,767."""
    return np.resize(_period(), n)
