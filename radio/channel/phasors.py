"""Turns as complex numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def phasors(cycles: NDArray[np.float64]) -> NDArray[np.complex64]:
    """e^{j2π·cycles}, complex64 of the same shape; whole turns are taken off before single
    precision is enough."""
    angle = (2 * np.pi * (cycles - np.rint(cycles))).astype(np.float32)
    turned = np.empty(cycles.shape, np.complex64)
    np.cos(angle, out=turned.real)
    np.sin(angle, out=turned.imag)
    return turned
