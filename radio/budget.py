"""What the link needs: payload to airtime and back, from the frame layout and the MCS it would choose.

Counted: one sounding burst, preamble, prefix, pilots and header of every burst, and the windows that resend lost
blocks. Not counted: waiting for feedback, which is no airtime.
"""

from __future__ import annotations

import math

from hil.contract import ConfigError
from radio import framing, ofdm
from radio.mcs import Mcs, block_error_rate, choose

_UNUSABLE: float = 0.95
"""Share of lost blocks from which the link is said to carry nothing."""


def _window_samples(blocks: int, scheme: Mcs) -> int:
    """Samples of the bursts that carry this many blocks once."""
    full, rest = divmod(blocks, framing.MAX_BLOCKS_PER_BURST)
    sizes = [framing.MAX_BLOCKS_PER_BURST] * full + ([rest] if rest else [])
    return sum(framing.HEAD_SAMPLES + framing.data_symbols(size, scheme) * ofdm.SYMBOL_SAMPLES for size in sizes)


def _samples(blocks: int, snr_db: float, margin_db: float) -> float:
    """Expected samples of a session, infinite on an unusable channel."""
    scheme = choose(snr_db, margin_db)
    lost = block_error_rate(scheme, snr_db, framing.BLOCK_BITS)
    if lost > _UNUSABLE:
        return math.inf
    total = float(framing.HEAD_SAMPLES)
    left = float(blocks)
    while left >= 1:
        total += _window_samples(round(left), scheme)
        left *= lost
    # below one expected block, a last window is needed with probability `left`
    return total + left * _window_samples(1, scheme)


def airtime_s(payload_bytes: int, snr_db: float, sample_rate_hz: float, *, margin_db: float = 0.0) -> float:
    """Expected airtime of a payload, sounding included; infinite on a channel that carries nothing.

    Args:
        payload_bytes: ≥ 1.
        snr_db: measured Es/N0 per used subcarrier.
        sample_rate_hz: > 0.
        margin_db: the adaptation's, taken off before the MCS is chosen.

    Raises:
        ConfigError: for a payload or a sample rate that is not positive.
    """
    if payload_bytes < 1 or sample_rate_hz <= 0:
        raise ConfigError(f"airtime of {payload_bytes} bytes at {sample_rate_hz} samples/s; both must be positive")
    return _samples(framing.block_count_of(payload_bytes), snr_db, margin_db) / sample_rate_hz


def payload_bits(airtime_s: float, snr_db: float, sample_rate_hz: float, *, margin_db: float = 0.0) -> int:
    """Payload bits that the link expects to deliver within an airtime, sounding included; a whole number of blocks.

    Args:
        airtime_s: ≥ 0.
        snr_db: measured Es/N0 per used subcarrier.
        sample_rate_hz: > 0.
        margin_db: the adaptation's.

    Raises:
        ConfigError: for a negative airtime or a sample rate that is not positive.
    """
    if not airtime_s >= 0 or sample_rate_hz <= 0:
        raise ConfigError(f"payload for {airtime_s} s at {sample_rate_hz} samples/s; airtime >= 0, rate > 0")
    budget = airtime_s * sample_rate_hz
    low, high = 0, framing.MAX_BLOCKS  # low fits (nothing needs nothing), blocks beyond high do not exist
    while low < high:
        middle = (low + high + 1) // 2
        if _samples(middle, snr_db, margin_db) <= budget:
            low = middle
        else:
            high = middle - 1
    return 8 * low * framing.BLOCK_PAYLOAD_BYTES
