"""Synchronisation: bursts in the samples, with timing, carrier offset and a first look at the
channel.

A candidate of radio.modem.search must show the Zadoff-Chu symbols; they give timing and channel,
and the whole preamble, as that channel would deliver it, gives the carrier offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hil.contract import IQ
from radio.modem import delay_basis, ofdm
from radio.modem.dc_offset import constant
from radio.modem.preamble import LONG_GUARD, SHORT, SHORT_SAMPLES, TONES, Preamble, samples
from radio.modem.search import candidates

_Kind = TypeVar("_Kind", np.float64, np.complex128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """A burst that was found.

    Attributes:
        start: index of its first sample; may be a few samples off.
        body: index of the first symbol after the preamble (its prefix).
        robust: whether it has the robust preamble.
        match: squared correlation with the Zadoff-Chu symbols, 0..1.
        cfo: carrier offset in cycles per sample.
        long_symbols: complex64[2 or 8, 200], the received Zadoff-Chu symbols divided by what was
            sent.
    """

    start: int
    body: int
    robust: bool
    match: float
    cfo: float
    long_symbols: ofdm.Grid


def long_starts(found: Acquisition) -> NDArray[np.intp]:
    """Where the receiver's windows of the Zadoff-Chu symbols begin, intp[2 or 8]."""
    n = len(found.long_symbols)
    return found.body - ofdm.WINDOW_BACKOFF + ofdm.N_FFT * np.arange(-n, 0)


def rotate(iq: IQ, cfo: float) -> IQ:
    """The samples with a carrier offset of `cfo` cycles per sample removed."""
    phase = (-2 * np.pi * cfo) * np.arange(len(iq))
    turn = np.empty(len(iq), np.complex64)
    turn.real = np.cos(phase)
    turn.imag = np.sin(phase)
    return iq * turn


def find_bursts(iq: IQ) -> list[Acquisition]:
    """Every burst whose preamble lies whole within the samples, in rising order of place."""
    found: list[Acquisition] = []
    for kind, start, cfo in candidates(iq):
        burst = _acquire(iq, kind, start, cfo)
        if burst is not None:
            found.append(burst)
    # one burst may be seen from several candidates, or shifted by whole Zadoff-Chu symbols: the
    # best view counts
    apart: list[Acquisition] = []
    for burst in sorted(found, key=lambda burst: -burst.match):
        if all(abs(burst.body - other.body) >= len(samples(other.robust)) for other in apart):
            apart.append(burst)
    return sorted(apart, key=lambda burst: burst.body)


def _acquire(iq: IQ, kind: Preamble, start: int, cfo: float) -> Acquisition | None:
    """The burst whose short part begins near `start`, or None if the Zadoff-Chu symbols are not
    there."""
    first = start + kind.short_samples + LONG_GUARD - kind.slack
    segment = iq[max(first, 0) : first + 2 * kind.slack + kind.long_samples]
    if first < 0 or len(segment) <= kind.long_samples:
        return None
    segment = segment - segment.mean()
    level, offset = _match_long(rotate(segment, cfo), kind)
    if level < kind.match_level:
        return None
    return _estimate(iq, kind, first + offset, cfo, level)


def _match_long(segment: IQ, kind: Preamble) -> tuple[float, int]:
    """Squared correlation 0..1 with the Zadoff-Chu symbols where it is best, and the place of the
    earliest path."""
    size = scipy.fft.next_fast_len(len(segment) + ofdm.N_FFT)
    spectrum = scipy.fft.fft(segment, size) * np.conj(scipy.fft.fft(kind.long, size))
    matched = (
        np.abs(scipy.fft.ifft(spectrum)[: len(segment) - ofdm.N_FFT + 1]).astype(np.float64) ** 2
    )
    places = len(segment) - kind.long_samples + 1
    row = np.zeros(places)
    for i in range(kind.n_long):
        row += matched[i * ofdm.N_FFT : i * ofdm.N_FFT + places]
    energy = _moving_sum(np.abs(segment).astype(np.float64) ** 2, kind.long_samples)
    own = float(np.vdot(kind.long, kind.long).real)
    level = row / np.maximum(own * energy, 1e-30)
    best = int(np.argmax(row))
    early = max(0, best - ofdm.CP_SAMPLES + ofdm.WINDOW_BACKOFF)
    strong = np.flatnonzero(row[early : best + 1] >= row[best] / 8)
    return float(level[best]), early + int(strong[0])


def _moving_sum(values: NDArray[_Kind], width: int) -> NDArray[_Kind]:
    """Sums of `width` neighbours, [n - width + 1]."""
    total = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])
    return np.asarray(total[width:] - total[:-width], values.dtype)


def _estimate(
    iq: IQ, kind: Preamble, long_start: int, cfo: float, match: float
) -> Acquisition | None:
    """Fine carrier offset and the Zadoff-Chu symbols, the first of which begins at long_start."""
    begin = long_start - ofdm.WINDOW_BACKOFF
    # the first short symbol is left out: the channel has not settled in it
    head = begin - LONG_GUARD - kind.short_samples + SHORT_SAMPLES
    if head < 0 or begin + kind.long_samples > len(iq):
        return None
    heard = iq[head : begin + kind.long_samples]
    heard = heard - np.complex64(constant(iq, head, begin + kind.long_samples))
    for _ in range(2):
        turned = rotate(heard, cfo)
        ratio = (
            ofdm.read_used(turned[-kind.long_samples :].reshape(-1, ofdm.N_FFT))
            * kind.zadoff_chu.conj()
        )
        basis = delay_basis.whole()
        channel = basis @ (basis.conj().T @ ratio.mean(axis=0))
        cfo += _residual_cfo(turned, channel, kind)
    turned = rotate(heard[-kind.long_samples :], cfo).reshape(-1, ofdm.N_FFT)
    return Acquisition(
        start=long_start - LONG_GUARD - kind.short_samples,
        body=long_start + kind.long_samples,
        robust=kind.robust,
        match=match,
        cfo=cfo,
        long_symbols=ofdm.read_used(turned) * kind.zadoff_chu.conj(),
    )


def _residual_cfo(turned: IQ, channel: NDArray[np.complex64], kind: Preamble) -> float:
    """Carrier offset that is left, cycles per sample: the slope of the phase against what the
    channel makes of it all.

    Args:
        turned: the preamble from its second short symbol on, carrier offset removed as far as
            known.
        channel: complex64[200].
        kind: the preamble.
    """
    bins = np.zeros(SHORT_SAMPLES, np.complex128)
    through = channel[np.searchsorted(ofdm.USED, SHORT_SAMPLES * TONES)]
    bins[TONES] = np.fft.fft(SHORT)[TONES] * through
    short = np.fft.ifft(bins).conj()
    long = ofdm.fill_used((kind.zadoff_chu * channel)[None])[0].conj()
    n_short = kind.n_short - 1
    rows = turned[: n_short * SHORT_SAMPLES].reshape(n_short, SHORT_SAMPLES)
    quarters = (turned[-kind.long_samples :].reshape(kind.n_long, ofdm.N_FFT) * long).reshape(
        kind.n_long * 4, -1
    )
    phasors = np.concatenate([rows @ short, quarters.sum(axis=1)])
    times = np.concatenate(
        [
            SHORT_SAMPLES * (np.arange(n_short) + 0.5),
            len(turned) - kind.long_samples + ofdm.N_FFT / 4 * (np.arange(4 * kind.n_long) + 0.5),
        ]
    )
    return _slope(phasors.astype(np.complex128), times)


def _slope(phasors: NDArray[np.complex128], times: NDArray[np.float64]) -> float:
    """Frequency in cycles per unit of time of phasors that turn little, by maximum likelihood from
    a start at 0."""
    total = 0.0
    for _ in range(3):
        turned = phasors * np.exp(-2j * np.pi * total * times)
        mean = turned.sum()
        along = turned * np.conj(mean) / max(abs(mean), 1e-30)
        weights = np.abs(phasors)
        centred = times - np.sum(weights * times) / max(weights.sum(), 1e-30)
        curvature = float(np.sum(weights * centred**2))
        total += float(np.sum(along.imag * centred)) / max(2 * np.pi * curvature, 1e-30)
    return total
