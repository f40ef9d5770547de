"""The search for preambles: places in the samples that are worth a closer look.

Every block of 16 samples is correlated with the short symbol at its 16 shifts and three carrier
offsets (one matrix product; its columns are blind to a constant, so that a receiver's DC does not
count). The products of neighbouring blocks' correlations, summed over the row, turn by the same
angle whatever the phase: their sum, over the energy received, is the score. Against the plain
autocorrelation (Schmidl and Cox, IEEE Trans. Commun. 45(12), 1997) the correlation comes before the
squaring, which is worth 12 dB on each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.compiled import compiled
from radio.modem.preamble import MAX_CFO, PLAIN, ROBUST, SHORT, SHORT_SAMPLES, Preamble

_BANK_CFO: Final = (-2 * MAX_CFO / 3, 0.0, 2 * MAX_CFO / 3)
_COLUMNS: Final = SHORT_SAMPLES * len(_BANK_CFO)
_CHUNK_BLOCKS: Final = 1024
_STRETCH_BLOCKS: Final = 256
"""A row of short symbols keeps the score high for 120 blocks at most. What lasts longer is a
carrier or the like, and gets one look for every so many blocks, if one of them stands out."""
_STANDS_OUT: Final = 2.0


def _bank() -> NDArray[np.float32]:
    """Matched filters as a real matrix, float32[32, 96]: real and imaginary parts of a block in; of
    48 columns out."""
    n = np.arange(SHORT_SAMPLES)
    shifts = SHORT[(n[:, None] - n[None, :]) % SHORT_SAMPLES]
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
_LAGS: Final = (PLAIN.n_short - 2, ROBUST.n_short - 2)
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


def candidates(iq: IQ) -> Iterator[tuple[Preamble, int, float]]:
    """Rough starts of short parts and their carrier offsets: one for each stretch of places with a
    high score."""
    n_blocks = len(iq) // SHORT_SAMPLES
    blocks = np.ascontiguousarray(iq[: n_blocks * SHORT_SAMPLES], np.complex64).view(np.float32)
    blocks = blocks.reshape(n_blocks, 2 * SHORT_SAMPLES)
    for kind, scores in zip((PLAIN, ROBUST), _all_scores(blocks), strict=True):
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
