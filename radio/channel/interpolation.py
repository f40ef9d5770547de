"""Samples between samples: short filters that delay a signal by a part of a sample."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

TAPS: Final = 24
"""Length of a filter; its error in the used band stays 70 dB below the signal at every fraction."""
BEFORE: Final = TAPS // 2 - 1
"""Taps before the sample that the fraction counts from."""
_BAND: Final = 0.4
"""Half width of the band for which the filters are made, in units of the sample rate; the used band
ends at 0.391."""


def fractional_taps(fraction: NDArray[np.float64]) -> NDArray[np.float32]:
    """Taps float32[n, TAPS] that give x(i + fraction) as Σ taps[k] · x[i - BEFORE + k].

    They have the least mean square error over ±0.4 of the sample rate, where the ideal filter
    e^{jω·fraction} and the taps' response are compared; the normal equations of that band are sinc
    functions of differences of places.

    Args:
        fraction: float64[n], 0..1.
    Source: Laakso et al., Splitting the unit delay, IEEE Signal Processing Magazine 13(1), 1996,
    §3.2.
    """
    places = np.arange(TAPS)
    band = np.sinc(2 * _BAND * (places[:, None] - places))
    wanted = np.sinc(2 * _BAND * (places[:, None] - BEFORE - fraction))
    # a trace of white noise outside the band keeps the equations well conditioned
    taps = np.linalg.solve(band + 1e-9 * np.eye(TAPS), wanted).T
    return np.ascontiguousarray(taps, np.float32)
