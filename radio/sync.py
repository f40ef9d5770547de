"""The preamble, and finding it: burst detection, carrier offset, timing and channel estimate.

Preamble (832 samples): 16 short symbols of 16 samples, then a guard of 64 samples and two equal Zadoff-Chu symbols of
256. Detection is the normalised autocorrelation of the short part at lag 16 (Schmidl and Cox, IEEE Trans. Commun.
45(12), 1997), evaluated every 16 samples by block sums; each candidate must then show both Zadoff-Chu symbols.
Carrier offset: lag 16 gives ±fs/32 without ambiguity, lag 128 sharpens it, lag 256 between the Zadoff-Chu symbols
gives the last digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio import ofdm

SHORT_SAMPLES: Final = 16
N_SHORT: Final = 16
SHORT_PART: Final = SHORT_SAMPLES * N_SHORT
LONG_GUARD: Final = 2 * ofdm.CP_SAMPLES
PREAMBLE_SAMPLES: Final = SHORT_PART + LONG_GUARD + 2 * ofdm.N_FFT
MAX_CFO: Final = 1 / (2 * SHORT_SAMPLES)
"""Largest carrier offset that can be told apart, in cycles per sample: ±fs/32."""

_CANDIDATE_LEVEL: Final = 0.04
"""Squared autocorrelation above which a place is looked at; noise alone passes once in 15,000 places."""
_LONG_LEVEL: Final = 0.12
"""Squared correlation with the Zadoff-Chu symbols above which a burst is believed; 0.28 is expected at -3 dB, noise
reaches 0.12 with a probability below 1e-20."""
_SEARCH: Final = 96
"""Samples that the rough start may be off, either way."""
_WRAP_ZONE: Final = 0.8 * MAX_CFO

_Kind = TypeVar("_Kind", np.float64, np.complex128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """A burst that was found.

    Attributes:
        start: index of its first sample; may be a few samples off, or negative if the capture cut it.
        body: index of the first symbol after the preamble (its prefix).
        match: squared correlation with the Zadoff-Chu symbols, 0..1.
        cfo: carrier offset in cycles per sample.
        channel: complex64[200], gain of each used subcarrier, by the receiver's window.
        noise_variance: N0 on a subcarrier where symbols have unit energy, from the preamble, > 0.
        long_symbols: complex64[2, 200], both received Zadoff-Chu symbols divided by what was sent.
    """

    start: int
    body: int
    match: float
    cfo: float
    channel: NDArray[np.complex64]
    noise_variance: float
    long_symbols: ofdm.Grid


def _zadoff_chu() -> NDArray[np.complex64]:
    """Zadoff-Chu sequence of prime length 199, root 25, extended cyclically to the 200 used subcarriers."""
    n = np.arange(ofdm.N_USED) % 199
    return np.asarray(np.exp(-1j * np.pi * 25 * n * (n + 1) / 199), np.complex64)


def _short_symbol() -> IQ:
    """One short symbol, complex64[16]: every 16th subcarrier with quadratic phases, which keep its peak low."""
    tones = np.array([k for k in range(-6, 7) if k])
    bins = np.zeros(SHORT_SAMPLES, np.complex128)
    bins[tones % SHORT_SAMPLES] = np.exp(1j * np.pi * tones**2 / len(tones))
    wave = np.fft.ifft(bins)
    return np.asarray(wave * ofdm.RMS_LEVEL / np.sqrt(np.mean(np.abs(wave) ** 2)), np.complex64)


def _subspace(n_taps: int) -> NDArray[np.complex64]:
    """Orthonormal basis complex64[200, rank] of what an impulse response of n_taps samples can look like in band."""
    delays = np.exp(-2j * np.pi * np.outer(ofdm.USED, np.arange(n_taps)) / ofdm.N_FFT)
    basis, values, _ = np.linalg.svd(delays, full_matrices=False)
    return basis[:, values > 1e-3 * values[0]].astype(np.complex64)


_ZC: Final = _zadoff_chu()
_LONG: Final = ofdm.fill_used(_ZC[None])[0]
PREAMBLE: Final[IQ] = np.concatenate([np.tile(_short_symbol(), N_SHORT), _LONG[-LONG_GUARD:], _LONG, _LONG])
"""complex64[832]."""
CHANNEL_BASIS: Final = _subspace(ofdm.CP_SAMPLES)
"""complex64[200, rank]; the channel estimate is projected on it, which takes out most of its noise."""


def rotate(iq: IQ, cfo: float, first: int = 0) -> IQ:
    """The samples with a carrier offset of `cfo` cycles per sample removed; phase 0 lies `first` samples earlier."""
    phase = (-2 * np.pi * cfo) * np.arange(first, first + len(iq))
    turn = np.empty(len(iq), np.complex64)
    turn.real = np.cos(phase)
    turn.imag = np.sin(phase)
    return iq * turn


def find_bursts(iq: IQ) -> list[Acquisition]:
    """Every burst whose preamble lies whole within the samples, in rising order of place."""
    found: list[Acquisition] = []
    for start in _candidates(iq):
        burst = _acquire(iq, start)
        if burst is None:
            continue
        if found and burst.body - found[-1].body < PREAMBLE_SAMPLES // 2:
            # noise just before a burst, with a wrong carrier offset, can match a shifted Zadoff-Chu symbol in part
            found[-1] = max(found[-1], burst, key=lambda b: b.match)
        else:
            found.append(burst)
    return found


def _candidates(iq: IQ) -> Iterator[int]:
    """Rough starts of the short part: one for each run of places where the lag-16 autocorrelation is high."""
    n_blocks = len(iq) // SHORT_SAMPLES
    if n_blocks < N_SHORT:
        return
    blocks = iq[: n_blocks * SHORT_SAMPLES].reshape(n_blocks, SHORT_SAMPLES)
    lagged = np.einsum("ij,ij->i", blocks[1:], blocks[:-1].conj())
    energy = np.einsum("ij,ij->i", blocks.real, blocks.real) + np.einsum("ij,ij->i", blocks.imag, blocks.imag)
    correlation = _moving_sum(lagged.astype(np.complex128), N_SHORT - 1)
    power = _moving_sum(energy.astype(np.float64), N_SHORT - 1)
    both = power[1:] * power[:-1]
    metric = np.abs(correlation) ** 2 / np.maximum(both, 1e-30)
    high = np.flatnonzero(metric > _CANDIDATE_LEVEL)
    if len(high) == 0:
        return
    for run in np.split(high, np.flatnonzero(np.diff(high) > 2) + 1):
        yield int(run[np.argmax(metric[run])]) * SHORT_SAMPLES


def _moving_sum(values: NDArray[_Kind], width: int) -> NDArray[_Kind]:
    """Sums of `width` neighbours, [n - width + 1]."""
    total = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])
    return np.asarray(total[width:] - total[:-width], values.dtype)


def _acquire(iq: IQ, start: int) -> Acquisition | None:
    """The burst whose short part begins near `start`, or None if the Zadoff-Chu symbols are not there."""
    first = start + SHORT_PART + LONG_GUARD - _SEARCH
    segment = iq[max(first, 0) : first + 2 * _SEARCH + 2 * ofdm.N_FFT]
    if first < 0 or len(segment) <= 2 * ofdm.N_FFT:
        return None
    # near the edge of the range, noise may turn the lag-16 phase by a full turn: then both readings are tried
    coarse = _coarse_cfo(iq[start : start + SHORT_PART])
    readings = [coarse]
    if abs(coarse) > _WRAP_ZONE:
        readings.append(coarse - np.copysign(2 * MAX_CFO, coarse))
    cfo, (level, offset) = max(((f, _match_long(rotate(segment, f))) for f in readings), key=lambda item: item[1][0])
    if level < _LONG_LEVEL:
        return None
    return _estimate(iq, first + offset, cfo, level)


def _coarse_cfo(short: IQ) -> float:
    """Carrier offset in cycles per sample from the short part, its ragged ends left out."""
    core = short[SHORT_SAMPLES:-SHORT_SAMPLES]
    rough = np.angle(np.vdot(core[:-SHORT_SAMPLES], core[SHORT_SAMPLES:])) / (2 * np.pi * SHORT_SAMPLES)
    lag = SHORT_PART // 2
    fine = np.angle(np.vdot(core[:-lag], core[lag:]) * np.exp(-2j * np.pi * rough * lag)) / (2 * np.pi * lag)
    return float(rough + fine)


def _match_long(segment: IQ) -> tuple[float, int]:
    """Squared correlation 0..1 with both Zadoff-Chu symbols where it is best, and the place of the earliest path."""
    size = 1024
    spectrum = np.fft.fft(segment, size) * np.conj(np.fft.fft(_LONG, size))
    matched = np.abs(np.fft.ifft(spectrum)[: len(segment) - ofdm.N_FFT + 1]) ** 2
    energy = _moving_sum(np.abs(segment).astype(np.float64) ** 2, ofdm.N_FFT)
    places = len(segment) - 2 * ofdm.N_FFT + 1
    pair = matched[:places] + matched[-places:]
    own = float(np.vdot(_LONG, _LONG).real)
    level = pair / np.maximum(own * (energy[:places] + energy[-places:]), 1e-30)
    best = int(np.argmax(pair))
    early = max(0, best - ofdm.CP_SAMPLES + ofdm.WINDOW_BACKOFF)
    strong = np.flatnonzero(pair[early : best + 1] > pair[best] / 4)
    return float(level[best]), early + int(strong[0])


def _estimate(iq: IQ, long_start: int, cfo: float, match: float) -> Acquisition | None:
    """Fine carrier offset, noise and channel from the Zadoff-Chu symbols, the first of which begins at long_start."""
    begin = long_start - ofdm.WINDOW_BACKOFF
    pair = iq[begin : begin + 2 * ofdm.N_FFT]
    if begin < LONG_GUARD or len(pair) < 2 * ofdm.N_FFT:
        return None
    # the second half of the guard is free of the short part's echoes and repeats 256 samples on, like the symbols do
    lead = iq[begin - ofdm.CP_SAMPLES + ofdm.WINDOW_BACKOFF : begin + 2 * ofdm.N_FFT]
    turn = np.vdot(lead[: -ofdm.N_FFT], lead[ofdm.N_FFT :]) * np.exp(-2j * np.pi * cfo * ofdm.N_FFT)
    cfo += float(np.angle(turn)) / (2 * np.pi * ofdm.N_FFT)
    ratio = ofdm.read_used(rotate(pair, cfo).reshape(2, ofdm.N_FFT)) * np.conj(_ZC)
    noise = float(np.mean(np.abs(ratio[1] - ratio[0]) ** 2)) / 2
    channel = CHANNEL_BASIS @ (CHANNEL_BASIS.conj().T @ ratio.mean(axis=0))
    return Acquisition(
        start=long_start - LONG_GUARD - SHORT_PART,
        body=long_start + 2 * ofdm.N_FFT,
        match=match,
        cfo=cfo,
        channel=channel.astype(np.complex64),
        noise_variance=max(noise, 1e-9),
        long_symbols=ratio,
    )
