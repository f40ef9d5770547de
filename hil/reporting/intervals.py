"""Student's 95 % interval: how many measurements it takes, and how wide it is."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from hil.contract import Floats

CONFIDENCE: Final = 0.95

LEAST_N: Final = 3
"""Independent measurements below which no interval is given: from two it would be 9 times as wide
as the two lie apart, which says nothing."""


def half_width(std_error: ArrayLike, n: ArrayLike) -> Floats:
    """Half of a mean's 95 % interval; NaN from fewer than LEAST_N measurements.

    Args:
        std_error: standard error of the mean, ≥ 0; any shape.
        n: number of independent measurements that it was estimated from, of a shape that
            broadcasts.
    Source: Student, The probable error of a mean, Biometrika 6 (1908).
    """
    count = np.asarray(n, np.float64)
    known = np.where(count >= LEAST_N, count, np.nan)
    return np.asarray(stdtrit(known - 1, (1 + CONFIDENCE) / 2) * std_error, np.float64)
