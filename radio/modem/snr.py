"""Es/N0 per used subcarrier, measured from what was received.

Data-aided: once a CRC has passed, what was sent is known. The channel estimate rests on pilots
alone, so that its errors and the noise on the data are independent: what the estimate leaves of the
data is noise, plus the estimate's own error, whose share is known. Without any CRC, the Zadoff-Chu
symbols of the preamble do: what lies within the delays a channel can have is signal, the rest
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from radio.modem import delay_basis, ofdm
from radio.modem.equaliser import Symbols
from radio.modem.sync import Acquisition

_DB: Final = 10 / np.log(10)
_FLOOR: Final = 1e-12
_MODEL_STD_DB: Final = 0.02
"""What the receiver itself adds to the noise, beside what it knows of, differs by so much from
burst to burst."""
_ROWS: Final = 64
"""Symbols of a burst that are looked at for its fading."""
_LOWEST: Final = 1e-3
"""SNR below which nothing is told apart: -30 dB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnrMeasurement:
    """One measurement.

    Attributes:
        snr_db: Es/N0 per used subcarrier.
        snr_std_db: one sigma, from the number of symbols it rests on.
        data_aided: True if a CRC vouched for the symbols; False: preamble only.
        flat_snr_db: SNR of a channel without fading that has the same capacity, ≤ snr_db: what a
            scheme is chosen by.
    """

    snr_db: float
    snr_std_db: float
    data_aided: bool
    flat_snr_db: float


def from_preamble(found: Acquisition) -> SnrMeasurement:
    """The SNR from a burst's Zadoff-Chu symbols."""
    basis = delay_basis.whole()
    received = found.long_symbols.astype(np.complex128)
    inside = basis.conj().T @ received.mean(axis=0)
    freedom = received.size - len(inside)
    energy = float(np.sum(np.abs(received) ** 2))
    within = len(received) * float(np.sum(np.abs(inside) ** 2))
    noise = max((energy - within) / freedom, _FLOOR)
    signal = max((within - len(inside) * noise) / received.size, 0.0)
    relative_variance = _relative_variance(signal / noise, freedom, received.size)
    # what the noise puts within the delays fluctuates as well
    relative_variance += len(inside) / (received.size * max(signal / noise, _LOWEST)) ** 2
    gains = np.abs(basis @ inside) ** 2
    return _measurement(
        signal, noise, relative_variance, _fading_loss_db(gains / noise), data_aided=False
    )


def measure(
    symbols: Symbols, sent: ofdm.Grid, known: NDArray[np.bool_], *, data_aided: bool = True
) -> SnrMeasurement:
    """The SNR before equalisation from symbols whose content is known.

    Args:
        symbols: the received symbols.
        sent: complex64[n, 192], unit mean energy; n may be less than there are symbols.
        known: bool[n, 192]; at least two are.
        data_aided: the flag of the measurement.
    """
    n = len(sent)
    channel = symbols.gain[:n][known]
    reference = sent[known]
    received = symbols.data[:n][known] * channel
    expected = channel * reference
    weights = float(known.sum(axis=1) @ (1 + symbols.excess[:n].astype(np.float64)))
    count = int(known.sum())
    noise = max(_energy(received - expected) / weights, _FLOOR)
    # the estimate's own error adds to its power; its amplitude and the data's are averaged by what
    # they rest on
    energy = max(_energy(reference), _FLOOR)
    power = max(_energy(expected) / energy - noise * (weights / count - 1), _FLOOR)
    scale = float(np.vdot(expected, received).real) / (energy * power)
    total = count + symbols.n_reference
    signal = power * ((count * scale + symbols.n_reference) / total) ** 2
    relative_variance = _relative_variance(signal / noise, count, total)
    rows = symbols.noise_variance[:: max(1, len(symbols.noise_variance) // _ROWS)]
    return _measurement(
        signal, noise, relative_variance, _fading_loss_db(1 / rows), data_aided=data_aided
    )


def _fading_loss_db(snr: NDArray[np.floating[Any]]) -> float:
    """Flat SNR of the same capacity over the mean SNR, dB ≤ 0, from the SNR of subcarriers (and
    symbols).

    A code word that is spread over all of them gets about what their mean capacity allows.
    """
    values = snr.astype(np.float64)
    return float(10 * np.log10(np.expm1(np.log1p(values).mean()) / max(values.mean(), _FLOOR)))


def _energy(values: NDArray[np.complex64]) -> float:
    return float(np.sum(np.abs(values) ** 2, dtype=np.float64))


def _relative_variance(snr: float, noise_count: float, signal_count: float) -> float:
    """Relative variance of an SNR whose noise and signal power rest on so many complex values."""
    return 1 / noise_count + 2 / (max(snr, _LOWEST) * signal_count)


def _measurement(
    signal: float,
    noise: float,
    relative_variance: float,
    fading_loss_db: float,
    *,
    data_aided: bool,
) -> SnrMeasurement:
    snr_db = float(_DB * np.log(max(signal / noise, _LOWEST)))
    return SnrMeasurement(
        snr_db=snr_db,
        snr_std_db=float(np.hypot(_DB * relative_variance**0.5, _MODEL_STD_DB)),
        data_aided=data_aided,
        flat_snr_db=snr_db + min(fading_loss_db, 0.0),
    )


def evm_rms(symbols: Symbols, sent: ofdm.Grid, known: NDArray[np.bool_]) -> float:
    """Error vector magnitude of known symbols after equalisation, relative to their rms amplitude;
    NaN without any."""
    if not known.any():
        return float("nan")
    reference = sent[known]
    error = np.mean(np.abs(symbols.data[: len(sent)][known] - reference) ** 2, dtype=np.float64)
    return float(np.sqrt(error / np.mean(np.abs(reference) ** 2, dtype=np.float64)))


def combine(measurements: Sequence[SnrMeasurement]) -> SnrMeasurement:
    """Several measurements of one channel as one, weighted by 1/σ²; data-aided ones alone if there
    are any.

    Raises:
        ValueError: for no measurements.
    """
    best = [m for m in measurements if m.data_aided] or list(measurements)
    if not best:
        raise ValueError("no SNR measurements to combine")
    weights = np.array([1 / m.snr_std_db**2 for m in best])
    pairs = [(m.snr_db, m.flat_snr_db) for m in best]
    mean, flat = (float(np.average(values, weights=weights)) for values in zip(*pairs, strict=True))
    return SnrMeasurement(
        snr_db=mean,
        snr_std_db=float(weights.sum() ** -0.5),
        data_aided=best[0].data_aided,
        flat_snr_db=flat,
    )
