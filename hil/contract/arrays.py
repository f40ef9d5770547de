"""Names of array types, by what an element is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IQ = NDArray[np.complex64]
"""Baseband samples, complex64[N], full scale 1.0."""
