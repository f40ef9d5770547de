"""A receiver whose sample clock does not run at the transmitter's rate."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ, ConfigError
from radio.channel.interpolation import BEFORE, TAPS, fractional_taps
from radio.compiled import compiled

_PHASES: Final = 256
"""Fractions for which taps are tabled; linear interpolation between them errs by less than -95
dB."""


class ClockOffset:
    """A transmitter whose sample clock runs `ppm` faster than the receiver's: n samples become n /
    (1 + ppm·1e-6).

    The fraction of a sample at which the clocks stand to each other is kept from call to call.

    Attributes:
        ppm: may be changed between calls.
        sample_rate_hz: rate of the samples, > 0; tells how far the clocks drift apart in a pause.
    """

    tail_samples = TAPS - BEFORE

    def __init__(self, ppm: float, sample_rate_hz: float) -> None:
        """Clocks that stand at a whole sample. Raises ConfigError for an offset beyond ±1000
        ppm."""
        if not abs(ppm) <= 1000:
            raise ConfigError(f"sample clock offset is {ppm} ppm; it must lie within ±1000")
        self.ppm = ppm
        self.sample_rate_hz = sample_rate_hz
        self._held = np.zeros(BEFORE, np.complex64)
        self._fraction = 0.0
        self._taps = _table()

    def advance(self, seconds: float) -> None:
        """Let the clocks run through a pause."""
        self._fraction = (self._fraction + seconds * self.sample_rate_hz * self.ppm * 1e-6) % 1.0

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples as the receiver's clock takes them; what still needs samples to come waits
        for the next call."""
        samples = np.concatenate([self._held, iq])
        step = 1 + self.ppm * 1e-6
        start = BEFORE + self._fraction
        # the sample at floor(position) needs TAPS - BEFORE - 1 behind it
        count = max(0, int(np.ceil((len(samples) - (TAPS - BEFORE - 1) - start) / step)))
        out = np.empty(count, np.complex64)
        _resample(samples.real.copy(), samples.imag.copy(), self._taps, BEFORE, start, step, out)
        whole, self._fraction = divmod(start + count * step, 1.0)
        self._held = samples[int(whole) - BEFORE :]
        return out


@cache
def _table() -> NDArray[np.float32]:
    """Taps float32[_PHASES + 1, TAPS] of the fractions 0, 1/_PHASES, ..., 1."""
    return fractional_taps(np.arange(_PHASES + 1) / _PHASES)


@compiled(fastmath=True)
def _resample(
    re: NDArray[np.float32],
    im: NDArray[np.float32],
    taps: NDArray[np.float32],
    before: int,
    start: float,
    step: float,
    out: IQ,
) -> None:
    """Fill `out` with the values at start, start + step, ... ; `taps` are of the fractions 0,
    1/phases, ..., 1."""
    phases = taps.shape[0] - 1
    for m in range(len(out)):
        position = start + m * step
        place = int(position)
        row = (position - place) * phases
        low = min(int(row), phases - 1)
        weight = np.float32(row - low)
        a = np.float32(0)
        b = np.float32(0)
        for k in range(taps.shape[1]):
            tap = taps[low, k] + weight * (taps[low + 1, k] - taps[low, k])
            a += tap * re[place - before + k]
            b += tap * im[place - before + k]
        out[m] = complex(a, b)
