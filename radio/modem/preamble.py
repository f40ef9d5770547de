"""The two preambles that open a burst.

A preamble is a row of equal short symbols of 16 samples, a guard of 64 samples, and equal
Zadoff-Chu symbols of 256: 16 and 2 of them, or four times as many in the robust preamble, which
another Zadoff-Chu root tells apart.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.modem import ofdm

SHORT_SAMPLES: Final = 16
LONG_GUARD: Final = 2 * ofdm.CP_SAMPLES
MAX_CFO: Final = 1 / (2 * SHORT_SAMPLES)
"""Largest carrier offset that can be told apart, in cycles per sample: ±fs/32."""


def _zadoff_chu(root: int) -> NDArray[np.complex64]:
    """Zadoff-Chu sequence of prime length 199, extended cyclically to the 200 used subcarriers."""
    n = np.arange(ofdm.N_USED) % 199
    return np.asarray(np.exp(-1j * np.pi * root * n * (n + 1) / 199), np.complex64)


TONES: Final = np.array([k for k in range(-6, 7) if k])
_TONE_PHASES: Final = np.array([5, 4, 3, 4, 1, 3, 3, 3, 5, 7, 7, 3]) / 8
"""Phases of the 12 tones, in turns: the best of 60,000 random sets. The short symbol's peak power
lies 3.2 dB above its mean. Shifted by one tone, and delayed by any number of samples, it correlates
with itself by 0.54 at most: so the coarse carrier offset cannot be wrong by a whole tone, as it
could be with a chirp."""


def _short_symbol() -> IQ:
    """One short symbol, complex64[16]: every 16th subcarrier."""
    bins = np.zeros(SHORT_SAMPLES, np.complex128)
    bins[TONES] = np.exp(2j * np.pi * _TONE_PHASES)
    wave = np.fft.ifft(bins)
    return np.asarray(wave * ofdm.RMS_LEVEL / np.sqrt(np.mean(np.abs(wave) ** 2)), np.complex64)


SHORT: Final = _short_symbol()


class Preamble:
    """One of the two preambles.

    Attributes:
        robust: True for the longer one.
        n_short, n_long: numbers of short and of Zadoff-Chu symbols.
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
                np.tile(SHORT, self.n_short),
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
PLAIN: Final = Preamble(robust=False, repeat=1, root=25, levels=(0.075, 0.08), slack=96)
ROBUST: Final = Preamble(robust=True, repeat=4, root=34, levels=(0.037, 0.03), slack=320)


def samples(robust: bool) -> IQ:
    """The samples that open a burst, complex64[832], or complex64[3136] if robust."""
    return (ROBUST if robust else PLAIN).iq


def zadoff_chu(robust: bool) -> NDArray[np.complex64]:
    """What every Zadoff-Chu symbol of that preamble holds on the used subcarriers,
    complex64[200]."""
    return (ROBUST if robust else PLAIN).zadoff_chu
