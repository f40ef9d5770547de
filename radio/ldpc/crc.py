"""The 24-bit cyclic redundancy checks of 3GPP TS 38.212 §5.1."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio.compiled import compiled


def _table(polynomial: int) -> NDArray[np.uint32]:
    """uint32[256]: what each leading byte leaves in the register, most significant bit first."""
    register = np.arange(256, dtype=np.uint32) << np.uint32(16)
    for _ in range(8):
        carry = register >> np.uint32(23) & np.uint32(1)
        register = (register << np.uint32(1) & np.uint32(0xFFFFFF)) ^ carry * np.uint32(polynomial)
    return register


_TABLE_A: Final = _table(0x864CFB)
_TABLE_B: Final = _table(0x800063)


@compiled()
def _remainders(
    data: NDArray[np.uint8], table: NDArray[np.uint32], out: NDArray[np.uint32]
) -> None:
    for row in range(data.shape[0]):
        register = np.uint32(0)
        for byte in data[row]:
            place = np.uint8(np.uint32(register >> np.uint32(16)) ^ np.uint32(byte))
            register = (
                np.uint32(np.uint32(register << np.uint32(8)) & np.uint32(0xFFFFFF)) ^ table[place]
            )
        out[row] = register


def _crc(data: NDArray[np.uint8], table: NDArray[np.uint32]) -> NDArray[np.uint32]:
    if data.ndim != 2:
        raise ConfigError(f"CRC got bytes of shape {data.shape}; expected (n, n_bytes)")
    rows = np.ascontiguousarray(data, np.uint8)
    out = np.empty(rows.shape[0], np.uint32)
    _remainders(rows, table, out)
    return out


def crc24a(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """CRC-24A of each row, uint32[n] below 2^24: generator 0x1864CFB, register starts at 0, first
    bit of a byte first.

    Args:
        data: uint8[n, n_bytes].

    Raises:
        ConfigError: another number of dimensions.
    """
    return _crc(data, _TABLE_A)


def crc24b(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """CRC-24B of each row, uint32[n] below 2^24: as crc24a with the generator 0x1800063.

    Args:
        data: uint8[n, n_bytes].

    Raises:
        ConfigError: another number of dimensions.
    """
    return _crc(data, _TABLE_B)
