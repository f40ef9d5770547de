"""How long bursts may be, how many blocks fit, and which preamble a sounding takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hil.contract import Bools
from radio.modem import framing
from radio.modem.mcs import MCS_TABLE, Mcs, slowest

BLOCKS_PER_BURST: Final = 32
BURST_SAMPLES: Final = 2**18
"""Longest burst, as the channel moves."""
_SURE_DB: Final = 3.0


def robust_sounding(snr_db: ArrayLike) -> Bools:
    """True where a sounding needs the repeated preamble: the SNR is unknown (NaN), or hardly above
    the slowest plain MCS's threshold."""
    return ~(np.asarray(snr_db, np.float64) > slowest(robust=False).threshold_db + _SURE_DB)


def sounding_samples(snr_db: ArrayLike) -> NDArray[np.intp]:
    """Samples of a sounding at a known SNR."""
    short, long = (framing.burst_samples(0, slowest(robust=robust)) for robust in (False, True))
    return np.where(robust_sounding(snr_db), long, short)


@lru_cache(maxsize=2 * len(MCS_TABLE))
def blocks_per_burst(mcs: Mcs, layout: framing.Layout) -> int:
    """Blocks in a burst that nothing but the limits on bursts cuts short."""
    return fitting_blocks(BURST_SAMPLES, mcs, layout)


def fitting_blocks(samples: int, mcs: Mcs, layout: framing.Layout) -> int:
    """Blocks that one burst of at most this many samples can carry, 0..BLOCKS_PER_BURST."""
    count = BLOCKS_PER_BURST
    while count and framing.burst_samples(count, mcs, layout) > samples:
        count -= 1
    return count
