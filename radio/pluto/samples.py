"""Samples as a Pluto's converters know them: integers of 12 bits."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.iq import require_transmittable

Integers = NDArray[np.int16]
"""I and Q in turn, int16[2 N]. The DAC takes the upper 12 bits; the ADC gives -2048..2047."""

TX_UNIT: Final = 2**14
"""DAC integer of 1.0: the converter's full scale is 2**15, so that 1.0 leaves 6 dB to it."""
RX_UNIT: Final = 2**11
"""ADC integer of 1.0, its full scale."""


def to_dac(iq: IQ) -> Integers:
    """The DAC's integers of samples.

    Raises:
        DeviceError: NaN, zero length or |iq| > 1.
    """
    require_transmittable(iq, "Pluto transmit")
    parts = np.ascontiguousarray(iq, np.complex64).view(np.float32)
    integers: Integers = np.rint(parts * np.float32(TX_UNIT)).astype(np.int16)
    return integers


def from_adc(integers: Integers) -> tuple[IQ, int]:
    """Samples of the ADC's integers, and how many of them the converter clipped."""
    at_limit = (integers >= RX_UNIT - 1) | (integers <= -RX_UNIT)
    clipped = int((at_limit[0::2] | at_limit[1::2]).sum()) if at_limit.any() else 0
    return (integers.astype(np.float32) * np.float32(1 / RX_UNIT)).view(np.complex64), clipped
