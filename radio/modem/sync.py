"""The preambles, and finding them: burst detection, carrier offset, timing and a first look at the
channel.

A preamble is a row of equal short symbols of 16 samples, a guard of 64 samples, and equal
Zadoff-Chu symbols of 256: 16 and 2 of them, or four times as many in the robust preamble, which
another Zadoff-Chu root tells apart.

Search: every block of 16 samples is correlated with the short symbol at its 16 shifts and three
carrier offsets (one matrix product; its columns are blind to a constant, so that a receiver's DC
does not count). The products of neighbouring blocks' correlations, summed over the row, turn by the
same angle whatever the phase: their sum, over the energy received, is the score. Against the plain
autocorrelation (Schmidl and Cox, IEEE Trans. Commun. 45(12), 1997) the correlation comes before the
squaring, which is worth 12 dB on each block. A candidate must then show the Zadoff-Chu symbols;
they give timing and channel, and the whole preamble, as that channel would deliver it, the carrier
offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hil.contract import IQ
from radio.compiled import compiled
from radio.modem import delay_basis, ofdm
from radio.modem.dc_offset import constant

SHORT_SAMPLES: Final = 16
LONG_GUARD: Final = 2 * ofdm.CP_SAMPLES
MAX_CFO: Final = 1 / (2 * SHORT_SAMPLES)
"""Largest carrier offset that can be told apart, in cycles per sample: ±fs/32."""

_BANK_CFO: Final = (-2 * MAX_CFO / 3, 0.0, 2 * MAX_CFO / 3)
_COLUMNS: Final = SHORT_SAMPLES * len(_BANK_CFO)
_CHUNK_BLOCKS: Final = 1024
_STRETCH_BLOCKS: Final = 256
"""A row of short symbols keeps the score high for 120 blocks at most. What lasts longer is a
carrier or the like, and gets one look for every so many blocks, if one of them stands out."""
_STANDS_OUT: Final = 2.0

_Kind = TypeVar("_Kind", np.float64, np.complex128)


def _zadoff_chu(root: int) -> NDArray[np.complex64]:
    """Zadoff-Chu sequence of prime length 199, extended cyclically to the 200 used subcarriers."""
    n = np.arange(ofdm.N_USED) % 199
    return np.asarray(np.exp(-1j * np.pi * root * n * (n + 1) / 199), np.complex64)


_TONES: Final = np.array([k for k in range(-6, 7) if k])
_TONE_PHASES: Final = np.array([5, 4, 3, 4, 1, 3, 3, 3, 5, 7, 7, 3]) / 8
"""In turns; drawn by lot as the best of 60,000: a peak of 3.2 dB over the mean, and no likeness to
the same symbol one tone higher at any delay (0.54), as a chirp would have: the coarse carrier
offset must not be a whole tone wrong."""


def _short_symbol() -> IQ:
    """One short symbol, complex64[16]: every 16th subcarrier."""
    bins = np.zeros(SHORT_SAMPLES, np.complex128)
    bins[_TONES] = np.exp(2j * np.pi * _TONE_PHASES)
    wave = np.fft.ifft(bins)
    return np.asarray(wave * ofdm.RMS_LEVEL / np.sqrt(np.mean(np.abs(wave) ** 2)), np.complex64)


_SHORT: Final = _short_symbol()


class _Preamble:
    """One of the two preambles.

    Attributes:
        robust: which.
        n_short, n_long: how many short and Zadoff-Chu symbols.
        score_level: score above which a place is looked at.
        match_level: squared correlation with the Zadoff-Chu symbols above which a burst is
            believed.
        slack: samples that the rough start may be off, either way.
        zadoff_chu: complex64[200].
        long: complex64[256], one Zadoff-Chu symbol.
        iq: all of it.
    """

    def __init__(
        self, *, robust: bool, repeat: int, root: int, levels: tuple[float, float], slack: int
    ) -> None:
        self.robust = robust
        self.n_short, self.n_long = 16 * repeat, 2 * repeat
        self.score_level, self.match_level = levels
        self.slack = slack
        self.zadoff_chu = _zadoff_chu(root)
        self.long = ofdm.fill_used(self.zadoff_chu[None])[0]
        self.iq: IQ = np.concatenate(
            [
                np.tile(_SHORT, self.n_short),
                self.long[-LONG_GUARD:],
                np.tile(self.long, self.n_long),
            ]
        )

    @property
    def short_samples(self) -> int:
        """Samples of the short part."""
        return self.n_short * SHORT_SAMPLES

    @property
    def long_samples(self) -> int:
        """Samples of the Zadoff-Chu symbols."""
        return self.n_long * ofdm.N_FFT


# In noise the squared match, times 256 for each Zadoff-Chu symbol, is a gamma variable of shape
# n_long: it passes these levels once in 10^16 places. An undistorted burst has 0.28 at -3 dB and
# 0.11 at -8 dB. Noise scores 1 / (16 √n_short) rms, and passes the score levels once in some 10^5
# blocks.
_NORMAL: Final = _Preamble(robust=False, repeat=1, root=25, levels=(0.075, 0.08), slack=96)
_ROBUST: Final = _Preamble(robust=True, repeat=4, root=34, levels=(0.037, 0.03), slack=320)
PREAMBLE: Final = _NORMAL.iq
"""complex64[832]."""
ROBUST_PREAMBLE: Final = _ROBUST.iq
"""complex64[3136]."""
PREAMBLE_SAMPLES: Final = len(PREAMBLE)


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


def preamble(robust: bool) -> IQ:
    """The samples that open a burst, complex64[832], or complex64[3136] if robust."""
    return ROBUST_PREAMBLE if robust else PREAMBLE


def zadoff_chu(robust: bool) -> NDArray[np.complex64]:
    """What every Zadoff-Chu symbol of that preamble holds on the used subcarriers,
    complex64[200]."""
    return (_ROBUST if robust else _NORMAL).zadoff_chu


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
    for kind, start, cfo in _candidates(iq):
        burst = _acquire(iq, kind, start, cfo)
        if burst is not None:
            found.append(burst)
    # one burst may be seen from several candidates, or shifted by whole Zadoff-Chu symbols: the
    # best view counts
    apart: list[Acquisition] = []
    for burst in sorted(found, key=lambda burst: -burst.match):
        if all(abs(burst.body - other.body) >= len(preamble(other.robust)) for other in apart):
            apart.append(burst)
    return sorted(apart, key=lambda burst: burst.body)


# ------------------------------------------------------------------------------------------------
# search


def _bank() -> NDArray[np.float32]:
    """Matched filters as a real matrix, float32[32, 96]: real and imaginary parts of a block in; of
    48 columns out."""
    n = np.arange(SHORT_SAMPLES)
    shifts = _SHORT[(n[:, None] - n[None, :]) % SHORT_SAMPLES]
    filters = np.concatenate(
        [shifts * np.exp(2j * np.pi * cfo * n)[:, None] for cfo in _BANK_CFO], axis=1
    ).conj()
    filters -= filters.mean(axis=0)
    filters /= np.linalg.norm(filters, axis=0)
    real = np.empty((SHORT_SAMPLES, 2, 2 * _COLUMNS))
    real[:, 0, :_COLUMNS], real[:, 0, _COLUMNS:] = filters.real, filters.imag
    real[:, 1, :_COLUMNS], real[:, 1, _COLUMNS:] = -filters.imag, filters.real
    return np.ascontiguousarray(real.reshape(2 * SHORT_SAMPLES, 2 * _COLUMNS), np.float32)


_BANK: Final = _bank()
_LAGS: Final = (_NORMAL.n_short - 2, _ROBUST.n_short - 2)
"""Products of neighbouring blocks that lie in the short part wherever the blocks' borders fall."""


@compiled()
def _energies(blocks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Energy of each block without its mean, float64[n], of float32[n, 32]."""
    energy = np.empty(len(blocks))
    for i in range(len(blocks)):
        total, real, imag = 0.0, 0.0, 0.0
        for j in range(0, 32, 2):
            x, y = np.float64(blocks[i, j]), np.float64(blocks[i, j + 1])
            total += x * x + y * y
            real += x
            imag += y
        energy[i] = total - (real * real + imag * imag) / 16
    return energy


@compiled(fastmath=True)
def _scores(
    matched: NDArray[np.float32],
    energy: NDArray[np.float64],
    lags: int,
    scores: NDArray[np.float32],
) -> None:
    """Squared score of a row of `lags` products beginning at each block, into float32[n - lags].

    Args:
        matched: float32[n, 96], matched filters' outputs, 48 real parts and 48 imaginary.
        energy: float64[n].
        lags: number of products.
        scores: the result.
    """
    real, imag = np.zeros(48), np.zeros(48)
    total = 0.0
    for i in range(len(matched) - 1):
        for c in range(48):
            a, b = matched[i, c], matched[i, 48 + c]
            x, y = matched[i + 1, c], matched[i + 1, 48 + c]
            real[c] += x * a + y * b
            imag[c] += y * a - x * b
        total += energy[i]
        if i >= lags:
            for c in range(48):
                a, b = matched[i - lags, c], matched[i - lags, 48 + c]
                x, y = matched[i - lags + 1, c], matched[i - lags + 1, 48 + c]
                real[c] -= x * a + y * b
                imag[c] -= y * a - x * b
            total -= energy[i - lags]
        if i >= lags - 1:
            best = 0.0
            for c in range(48):
                best = max(best, real[c] * real[c] + imag[c] * imag[c])
            whole = total + energy[i + 1]
            scores[i - lags + 1] = best / (whole * whole) if whole > 1e-20 else 0.0


def _candidates(iq: IQ) -> Iterator[tuple[_Preamble, int, float]]:
    """Rough starts of short parts and their carrier offsets: one for each stretch of places with a
    high score."""
    n_blocks = len(iq) // SHORT_SAMPLES
    blocks = np.ascontiguousarray(iq[: n_blocks * SHORT_SAMPLES], np.complex64).view(np.float32)
    blocks = blocks.reshape(n_blocks, 2 * SHORT_SAMPLES)
    for kind, scores in zip((_NORMAL, _ROBUST), _all_scores(blocks), strict=True):
        high = np.flatnonzero(scores > kind.score_level**2)
        if len(high) == 0:
            continue
        for run in np.split(high, np.flatnonzero(np.diff(high) > 2) + 1):
            for stretch in np.split(run, np.arange(_STRETCH_BLOCKS, len(run), _STRETCH_BLOCKS)):
                place = int(stretch[np.argmax(scores[stretch])])
                if len(stretch) == _STRETCH_BLOCKS and scores[place] < _STANDS_OUT * np.median(
                    scores[stretch]
                ):
                    continue
                yield kind, *_read_short(blocks[place : place + kind.n_short - 1], place)


def _all_scores(blocks: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Squared scores of both preambles beginning at each block, two of float32[n]."""
    scores = [np.zeros(max(0, len(blocks) - lags), np.float32) for lags in _LAGS]
    energy = _energies(blocks)
    for first in range(0, len(blocks), _CHUNK_BLOCKS):
        last = first + _CHUNK_BLOCKS + max(_LAGS)
        matched = blocks[first:last] @ _BANK
        for lags, score in zip(_LAGS, scores, strict=True):
            part = score[first : first + _CHUNK_BLOCKS]
            if len(part):
                _scores(
                    matched[: len(part) + lags],
                    energy[first : first + len(part) + lags],
                    lags,
                    part,
                )
    return scores


def _read_short(blocks: NDArray[np.float32], place: int) -> tuple[int, float]:
    """Rough start and carrier offset, from the blocks float32[n, 32] of a short part, the first
    being number `place`.

    The matched filter's output turns by 16 samples' worth of carrier offset from block to block: a
    tone, whose frequency is where its spectrum peaks.
    """
    parts = blocks @ _BANK
    matched = (parts[:, :_COLUMNS] + 1j * parts[:, _COLUMNS:]).astype(np.complex128)
    column = int(np.argmax(np.abs(np.sum(matched[1:] * matched[:-1].conj(), axis=0))))
    hypothesis, shift = divmod(column, SHORT_SAMPLES)
    size = 1024
    spectrum = np.abs(np.fft.fft(matched[:, column], size))
    peak = int(np.argmax(spectrum))
    below, top, above = spectrum[peak - 1], spectrum[peak], spectrum[(peak + 1) % size]
    bend = 2 * top - below - above
    turns = (peak + (0.5 * (above - below) / bend if bend > 0 else 0.0)) / size
    # turns are known but for whole ones; the filter that matched best says which
    whole_turns = np.round(_BANK_CFO[hypothesis] * SHORT_SAMPLES - turns)
    return SHORT_SAMPLES * (place - 1) + shift, float(turns + whole_turns) / SHORT_SAMPLES


# ------------------------------------------------------------------------------------------------
# acquisition


def _acquire(iq: IQ, kind: _Preamble, start: int, cfo: float) -> Acquisition | None:
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


def _match_long(segment: IQ, kind: _Preamble) -> tuple[float, int]:
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
    iq: IQ, kind: _Preamble, long_start: int, cfo: float, match: float
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


def _residual_cfo(turned: IQ, channel: NDArray[np.complex64], kind: _Preamble) -> float:
    """Carrier offset that is left, cycles per sample: the slope of the phase against what the
    channel makes of it all.

    Args:
        turned: the preamble from its second short symbol on, carrier offset removed as far as
            known.
        channel: complex64[200].
        kind: the preamble.
    """
    bins = np.zeros(SHORT_SAMPLES, np.complex128)
    through = channel[np.searchsorted(ofdm.USED, SHORT_SAMPLES * _TONES)]
    bins[_TONES] = np.fft.fft(_SHORT)[_TONES] * through
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
