"""The constant that a direct-conversion receiver adds to its samples."""

from __future__ import annotations

from typing import Final

import numpy as np

from hil.contract import IQ

_MARGIN: Final = 4096
"""Samples before and after a part that are searched for a pause."""
_PIECE: Final = 128
_CONSTANT_LEVEL: Final = 12.0
"""Energy of a constant in the part, in units of chance, above which it is believed against the
pauses."""
_CHANCE: Final = 4.0
"""Energy of a constant, in such units, that is left in."""


def constant(iq: IQ, first: int, last: int) -> complex:
    """The constant in iq[first:last], from that part and its neighbourhood: every piece by how
    quiet it is.

    A burst's own mean is mostly signal, and taking that out would harm more than a small constant
    does. So a pause counts for more, and what could be chance is taken out in part or not at all
    (shrinkage after James and Stein).
    """
    body = iq[max(0, first) : last]
    around = iq[max(0, first - _MARGIN) : last + _MARGIN]
    if len(body) == 0:
        return 0j
    pieces = around[: len(around) // _PIECE * _PIECE].reshape(-1, _PIECE)
    own = complex(body.mean(dtype=np.complex128))
    energy = float(np.vdot(body, body).real)
    if len(pieces) == 0 or energy == 0:
        return 0j
    means = pieces.mean(axis=1)
    spread = np.mean(np.abs(pieces - means[:, None]) ** 2, axis=1, dtype=np.float64)
    weights = _PIECE / np.maximum(spread, 1e-9 * energy / len(body))
    pooled = complex(np.sum(weights * means) / weights.sum())
    strength = abs(pooled) ** 2 * float(weights.sum())
    if abs(own - pooled) ** 2 * len(body) ** 2 > _CONSTANT_LEVEL * energy:
        # the pauses know nothing of the part's constant
        pooled, strength = own, abs(own) ** 2 * len(body) ** 2 / energy
    return pooled * max(0.0, 1 - _CHANCE / max(strength, _CHANCE))
