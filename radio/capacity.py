"""Link models: what an airtime carries and what a payload takes, without sending anything.

Environments plan and charge airtime by them. An SNR of NaN (no measurement) carries nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radio import budget
from radio.link import OCCUPIED_SUBCARRIERS
from radio.ofdm import N_FFT

_CACHED_ANSWERS = 1 << 16


class LinkModel(Protocol):
    """Payload to airtime and back; arrays broadcast, scalars give scalars."""

    def bits(self, airtime_s: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.int64]:
        """Most payload bits that the link is expected to deliver within an airtime; 0 where the SNR is NaN."""
        ...

    def airtime_s(self, bits: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.float64]:
        """Expected airtime of a payload in seconds: 0 for no bits, else infinite where nothing gets through."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShannonLink:
    """A share of the capacity of the Gaussian channel: efficiency · bandwidth · log2(1 + SNR) bits per second.

    Attributes:
        efficiency: that share, 0..1.
    """

    efficiency: float = 0.55

    def bits(self, airtime_s: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.int64]:
        """See LinkModel."""
        fitting = np.floor(np.asarray(airtime_s, np.float64) * self._rate_bps(snr_db, bandwidth_hz))
        return fitting.astype(np.int64)

    def airtime_s(self, bits: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.float64]:
        """See LinkModel."""
        payload, rate = np.broadcast_arrays(np.asarray(bits, np.float64), self._rate_bps(snr_db, bandwidth_hz))
        seconds = np.full(payload.shape, np.inf)
        np.divide(payload, rate, out=seconds, where=rate > 0)
        return np.where(payload > 0, seconds, 0.0)[()]

    def _rate_bps(self, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.float64]:
        snr = 10 ** (np.asarray(snr_db, np.float64) / 10)
        rate: NDArray[np.float64] = np.nan_to_num(self.efficiency * np.asarray(bandwidth_hz) * np.log2(1 + snr))
        return rate


class ModemLink:
    """This kit's own modem by radio.budget: frame layout, MCS choice and retransmissions, a sounding included.

    Args:
        margin_db: taken off the measured SNR before the MCS is chosen.
    """

    def __init__(self, margin_db: float = 0.0) -> None:
        # One round is asked about several times: as a budget, as a plan, as a charge.
        self._bits = np.vectorize(lru_cache(_CACHED_ANSWERS)(self._bits_of), otypes=[np.int64])
        self._airtime_s = np.vectorize(lru_cache(_CACHED_ANSWERS)(self._airtime_of), otypes=[np.float64])
        self._margin_db = margin_db

    def bits(self, airtime_s: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.int64]:
        """See LinkModel; a whole number of blocks."""
        fitting: NDArray[np.int64] = self._bits(airtime_s, snr_db, bandwidth_hz)[()]
        return fitting

    def airtime_s(self, bits: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.float64]:
        """See LinkModel; a payload that is no whole number of bytes is rounded up."""
        seconds: NDArray[np.float64] = self._airtime_s(bits, snr_db, bandwidth_hz)[()]
        return seconds

    def _bits_of(self, airtime_s: float, snr_db: float, bandwidth_hz: float) -> int:
        if np.isnan(snr_db):
            return 0
        rate_hz = sample_rate_hz(float(bandwidth_hz))
        return budget.payload_bits(float(airtime_s), float(snr_db), rate_hz, margin_db=self._margin_db)

    def _airtime_of(self, bits: int, snr_db: float, bandwidth_hz: float) -> float:
        if bits <= 0:
            return 0.0
        if np.isnan(snr_db):
            return np.inf
        n_bytes, rate_hz = -(-int(bits) // 8), sample_rate_hz(float(bandwidth_hz))
        return budget.airtime_s(n_bytes, float(snr_db), rate_hz, margin_db=self._margin_db)


def sample_rate_hz(bandwidth_hz: float) -> float:
    """Samples per second of the modem that occupies this bandwidth."""
    return bandwidth_hz * N_FFT / OCCUPIED_SUBCARRIERS
