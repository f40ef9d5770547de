"""Link models: what an airtime carries and what a payload takes, without sending anything.

Environments plan and charge airtime by them. An SNR of NaN (no measurement) carries nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radio.link import budget
from radio.link.session import OCCUPIED_SUBCARRIERS
from radio.modem.ofdm import N_FFT


class LinkModel(Protocol):
    """Payload to airtime and back; arrays broadcast, scalars give scalars."""

    def bits(
        self, airtime_s: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike
    ) -> NDArray[np.int64]:
        """Most payload bits that the link is expected to deliver within an airtime; 0 where the SNR
        is NaN."""
        ...

    def airtime_s(
        self, bits: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike
    ) -> NDArray[np.float64]:
        """Expected airtime of a payload in seconds: 0 for no bits, else infinite where nothing gets
        through."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShannonLink:
    """A share of the capacity of the Gaussian channel: efficiency · bandwidth · log2(1 + SNR) bits
    per second.

    Attributes:
        efficiency: the share of the capacity, 0..1.
    """

    efficiency: float = 0.55

    def bits(
        self, airtime_s: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike
    ) -> NDArray[np.int64]:
        """Most payload bits within an airtime, whole bits."""
        fitting = np.floor(np.asarray(airtime_s, np.float64) * self._rate_bps(snr_db, bandwidth_hz))
        return fitting.astype(np.int64)

    def airtime_s(
        self, bits: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike
    ) -> NDArray[np.float64]:
        """Airtime of a payload in seconds."""
        payload, rate = np.broadcast_arrays(
            np.asarray(bits, np.float64), self._rate_bps(snr_db, bandwidth_hz)
        )
        seconds = np.full(payload.shape, np.inf)
        np.divide(payload, rate, out=seconds, where=rate > 0)
        return np.where(payload > 0, seconds, 0.0)[()]

    def _rate_bps(self, snr_db: ArrayLike, bandwidth_hz: ArrayLike) -> NDArray[np.float64]:
        snr = 10 ** (np.asarray(snr_db, np.float64) / 10)
        rate: NDArray[np.float64] = np.nan_to_num(
            self.efficiency * np.asarray(bandwidth_hz) * np.log2(1 + snr)
        )
        return rate


class ModemLink:
    """This kit's own modem by radio.link.budget: frame layout, calibrated MCS table, copies of lost
    blocks, a sounding.

    Args:
        margin_db: taken off the measured SNR before the MCS is chosen.
        round_trip_s: wait for an answer.
    """

    def __init__(self, margin_db: float = 0.0, round_trip_s: float = 0.0) -> None:
        self._margin_db = margin_db
        self._round_trip_s = round_trip_s

    def bits(
        self, airtime_s: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike
    ) -> NDArray[np.int64]:
        """Most payload bits within an airtime, a whole number of blocks."""
        rate_hz = sample_rate_hz(bandwidth_hz)
        return budget.payload_bits(
            airtime_s, snr_db, rate_hz, margin_db=self._margin_db, round_trip_s=self._round_trip_s
        )

    def airtime_s(
        self, bits: ArrayLike, snr_db: ArrayLike, bandwidth_hz: ArrayLike
    ) -> NDArray[np.float64]:
        """Expected airtime of a payload in seconds; bits are rounded up to bytes."""
        n_bytes = np.ceil(np.asarray(bits, np.float64) / 8)
        rate_hz = sample_rate_hz(bandwidth_hz)
        seconds = budget.airtime_s(
            np.maximum(n_bytes, 1),
            snr_db,
            rate_hz,
            margin_db=self._margin_db,
            round_trip_s=self._round_trip_s,
        )
        return np.where(n_bytes > 0, seconds, 0.0)[()]


def sample_rate_hz(bandwidth_hz: ArrayLike) -> NDArray[np.float64]:
    """Samples per second of the modem that occupies this bandwidth."""
    return np.asarray(bandwidth_hz, np.float64) * N_FFT / OCCUPIED_SUBCARRIERS
