"""The part of a transmitted band that a receiver can hear: what its filters keep when carriers or
rates differ."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio.emulator.front_end import RfSettings

_OCCUPIED: Final = 0.45
"""Half width of the band that a transmitter may fill, over its rate."""
_KEPT: Final = 0.45
"""Half width of the band that a receiver's decimation keeps, over its rate."""
_TX_CORNER: Final = 1.6
_RX_CORNER: Final = 1.4
"""Corner of the analogue baseband filters over half the bandwidth that is set (AD9361 reference
manual, UG-570)."""
_TRANSITION: Final = 0.1
"""Width of a filter's edge, over the narrower of band and rates."""
_STOP_DB: Final = 70.0
_KAISER_BETA: Final = 0.1102 * (_STOP_DB - 8.7)
"""Kaiser's formula; his for the length is (stop - 8) / (2.285 · 2π · transition)."""


def heard_filter(
    sent: RfSettings, heard: RfSettings, beat_hz: float
) -> NDArray[np.complex64] | None:
    """Taps, at the transmitter's rate, that leave of its signal what the receiver hears.

    All filters of both ends are drawn as one with linear phase, flat to 0.05 of the narrower rate
    before its edges and 70 dB down as far behind them. The noise of the receiver is not filtered:
    it stays white.

    Args:
        sent, heard: settings of transmitter and receiver.
        beat_hz: transmitter's carrier less the receiver's.

    Returns:
        complex64[n], n odd; no taps if nothing is heard; None if all is.
    """
    tx_hz, rx_hz = sent.rate_hz, heard.rate_hz
    tx_edge = min(tx_hz / 2, _TX_CORNER / 2 * (sent.tx_bandwidth_hz or tx_hz))
    rx_edge = min(rx_hz / 2, _RX_CORNER / 2 * (heard.rx_bandwidth_hz or rx_hz))
    inside = _OCCUPIED * tx_hz
    if inside <= tx_edge and abs(beat_hz) + inside <= rx_edge:
        return None
    kept = min(_KEPT * rx_hz, rx_edge)
    return _band_pass(max(-tx_edge, -beat_hz - kept) / tx_hz, min(tx_edge, -beat_hz + kept) / tx_hz)


@lru_cache(maxsize=64)
def _band_pass(low: float, high: float) -> NDArray[np.complex64]:
    """Taps of a filter from low to high, in cycles per sample, -0.5..0.5."""
    if not low < high:
        return np.zeros(0, np.complex64)
    transition = _TRANSITION * min(1.0, high - low)
    half = int(np.ceil((_STOP_DB - 8) / (2.285 * 2 * np.pi * transition) / 2))
    n = np.arange(-half, half + 1)
    ideal = (high - low) * np.sinc((high - low) * n) * np.exp(1j * np.pi * (high + low) * n)
    return np.asarray(ideal * np.kaiser(len(n), _KAISER_BETA), np.complex64)
