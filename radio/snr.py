"""Es/N0 per used subcarrier, measured from what was received.

Data-aided: once a CRC has passed, what was sent is known; each subcarrier's gain is fitted anew on it, and what the fit
leaves is noise, counted with the degrees of freedom that remain. Without any CRC, the two equal Zadoff-Chu symbols of
the preamble do the same with 200 degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio import ofdm

_DB: Final = 10 / np.log(10)
_FLOOR: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SnrMeasurement:
    """One measurement.

    Attributes:
        snr_db: Es/N0 per used subcarrier.
        snr_std_db: one sigma, from the number of symbols it rests on.
        data_aided: True if a CRC vouched for the symbols; False: preamble only.
    """

    snr_db: float
    snr_std_db: float
    data_aided: bool


def from_preamble(long_symbols: ofdm.Grid) -> SnrMeasurement:
    """The SNR from both received Zadoff-Chu symbols over what was sent, complex64[2, 200]."""
    return from_known(long_symbols, np.ones_like(long_symbols), np.ones(long_symbols.shape, np.bool_), data_aided=False)


def from_known(
    received: ofdm.Grid, sent: ofdm.Grid, known: NDArray[np.bool_], *, data_aided: bool = True
) -> SnrMeasurement:
    """The SNR from symbols whose content is known.

    Args:
        received: complex64[n_symbols, n_subcarriers], phase tracked, not equalised.
        sent: the same shape, unit mean energy.
        known: bool, the same shape; at least one subcarrier holds two known symbols.
        data_aided: what the measurement is flagged as.
    """
    y = np.where(known, received, 0).astype(np.complex128)
    x = np.where(known, sent, 0).astype(np.complex128)
    count = known.sum(axis=0)
    energy = np.maximum(np.sum(np.abs(x) ** 2, axis=0), _FLOOR)
    fit = np.sum(y * x.conj(), axis=0) / energy
    freedom = int(np.maximum(count - 1, 0).sum())
    rest = float(np.sum(np.abs(y - fit * x) ** 2)) / freedom
    noise = max(rest, _FLOOR)
    fitted = count > 0
    # the fit's own noise adds to its power
    signal = float(np.mean(np.abs(fit[fitted]) ** 2 - noise / energy[fitted]))
    snr = max(signal, _FLOOR) / noise
    n_known = int(count.sum())
    relative_variance = 1 / freedom + (2 / snr + 1 / snr**2) / n_known
    return SnrMeasurement(
        snr_db=float(_DB * np.log(snr)), snr_std_db=float(_DB * relative_variance**0.5), data_aided=data_aided
    )


def evm_rms(equalized: ofdm.Grid, sent: ofdm.Grid, known: NDArray[np.bool_]) -> float:
    """Error vector magnitude of known symbols after equalisation, relative to their rms amplitude; NaN without any."""
    if not known.any():
        return float("nan")
    reference = sent[known]
    error = np.mean(np.abs(equalized[known] - reference) ** 2, dtype=np.float64)
    return float(np.sqrt(error / np.mean(np.abs(reference) ** 2, dtype=np.float64)))


def combine(measurements: Sequence[SnrMeasurement]) -> SnrMeasurement:
    """Several measurements of one channel as one, weighted by 1/σ²; data-aided ones alone if there are any.

    Raises:
        ValueError: for no measurements.
    """
    best = [m for m in measurements if m.data_aided] or list(measurements)
    if not best:
        raise ValueError("no SNR measurements to combine")
    weights = np.array([1 / m.snr_std_db**2 for m in best])
    mean = float(np.sum(weights * [m.snr_db for m in best]) / weights.sum())
    return SnrMeasurement(snr_db=mean, snr_std_db=float(weights.sum() ** -0.5), data_aided=best[0].data_aided)
