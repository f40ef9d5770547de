"""The receiver's front: windows of a burst's samples to subcarriers, without DC, mirror image and
carrier offset."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.compiled import compiled
from radio.modem import ofdm, sync
from radio.modem.dc_offset import constant

_IMAGE_CHANCE: Final = 10.0
"""Squared circularity times the number of samples that is put down to chance; circular white
samples have 1 on average, an OFDM signal 1.3."""


class FrontEnd:
    """Reads windows of one burst.

    A direct-conversion receiver adds a constant, and, by unequal branches, a small conjugate copy
    of the signal, which lies at mirrored frequencies. OFDM's own samples are circular (their
    squares average to zero), so the copy's strength follows from the second moments (Anttila,
    Valkama, Renfors, IEEE Trans. Veh. Technol. 57(4), 2008).
    """

    def __init__(self, iq: IQ, found: sync.Acquisition, n_symbols: int) -> None:
        """The front for a burst.

        Args:
            iq: samples that `found` refers to.
            found: the burst.
            n_symbols: symbols of the burst's body, ≥ 1: DC and image are measured there.
        """
        self._iq = np.ascontiguousarray(iq, np.complex64)
        self.body = found.body
        end = found.body + n_symbols * ofdm.SYMBOL_SAMPLES
        body = self._iq[found.body : end]
        self._dc = constant(self._iq, found.start, end)
        self._image = _image(body, self._dc)
        self._cfo = found.cfo

    def read(self, starts: NDArray[np.intp]) -> ofdm.Grid:
        """Used subcarriers complex64[n, 200] of windows of 256 samples that begin at `starts`,
        intp[n].

        The carrier phase is 0 at the burst's body. Where a window reaches over the samples' end,
        zeros are read.
        """
        tone = np.exp(-2j * np.pi * self._cfo * np.arange(ofdm.N_FFT)).astype(np.complex64)
        turns = np.exp(-2j * np.pi * ((self._cfo * (starts - self.body)) % 1)).astype(np.complex64)
        frames = _windows(
            self._iq, starts, tone, turns, np.complex64(self._dc), np.complex64(self._image)
        )
        return ofdm.read_used(frames)


def _image(body: IQ, dc: complex) -> complex:
    """Strength of the conjugate copy, shrunk by what may be chance."""
    energy = float(np.vdot(body, body).real) / len(body) - abs(dc) ** 2
    square = complex(np.dot(body, body)) / len(body) - dc**2
    if energy <= 0:
        return 0j
    circularity = square / energy
    strength = abs(circularity) ** 2 * len(body)
    sure = max(0.0, 1 - _IMAGE_CHANCE / max(strength, _IMAGE_CHANCE))
    return complex(sure * circularity / (1 + max(0.0, 1 - abs(circularity) ** 2) ** 0.5))


@compiled(fastmath=True)
def _windows(
    iq: NDArray[np.complex64],
    starts: NDArray[np.intp],
    tone: NDArray[np.complex64],
    turns: NDArray[np.complex64],
    dc: np.complex64,
    image: np.complex64,
) -> NDArray[np.complex64]:
    """Windows complex64[n, len(tone)]: constant and image taken out, then turned."""
    width = len(tone)
    frames = np.zeros((len(starts), width), np.complex64)
    for i in range(len(starts)):
        first = starts[i]
        turn = turns[i]
        for j in range(max(0, -first), min(width, len(iq) - first)):
            x = iq[first + j] - dc
            frames[i, j] = (x - image * x.conjugate()) * (tone[j] * turn)
    return frames
