"""The parameters of one LDPC code of 3GPP TS 38.212: base graph, block size, lifting size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Final

from hil.contract import ConfigError
from radio.ldpc.tables import INFO_COLUMNS, LIFTING_SETS, N_COLUMNS, PUNCTURED_COLUMNS

_MAX_LIFTING_SIZE: Final = 384
_MIN_INFO_BITS: Final = 24
"""The standard's smallest transport block, TS 38.214 table 5.1.3.2-1; shorter ones would not
outlast the puncturing."""
_BG2_COLUMNS_IN_USE: Final = ((640, 10), (560, 9), (192, 8), (0, 6))
"""§5.2.2: blocks longer than the first number choose their lifting size as if BG2 had so many
information columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LdpcCode:
    """One code: `info_bits` bits in, a circular buffer of `n_buffer` bits out.

    Attributes:
        base_graph: 1 or 2.
        info_bits: bits of a block, its CRC included.
        lifting_size: Z, bits in a base column.
    """

    base_graph: int
    info_bits: int
    lifting_size: int

    @property
    def n_columns(self) -> int:
        """Base columns, the two punctured ones included: 68 or 52."""
        return N_COLUMNS[self.base_graph]

    @property
    def n_buffer(self) -> int:
        """Bits of the circular buffer, 66 Z or 50 Z: the codeword, filler bits included, without
        its first 2 Z bits."""
        return (self.n_columns - PUNCTURED_COLUMNS) * self.lifting_size

    @property
    def n_fillers(self) -> int:
        """Zeros between the information bits and the parity bits, known to both ends and never
        sent."""
        return INFO_COLUMNS[self.base_graph] * self.lifting_size - self.info_bits

    @property
    def filler_start(self) -> int:
        """Place of the first filler bit in the circular buffer."""
        return self.info_bits - PUNCTURED_COLUMNS * self.lifting_size


@lru_cache(maxsize=64)
def code_for(info_bits: int, base_graph: int) -> LdpcCode:
    """The code of a base graph with the smallest lifting size that holds a block (TS 38.212
    §5.2.2).

    Args:
        info_bits: bits of a block, its CRC included; 24 to 8448 with base graph 1, 24 to 3840 with
            2.
        base_graph: 1 or 2.

    Raises:
        ConfigError: another base graph or a size it cannot hold.
    """
    if base_graph not in INFO_COLUMNS:
        raise ConfigError(f"LDPC base graph is {base_graph}; TS 38.212 has 1 and 2")
    largest = INFO_COLUMNS[base_graph] * _MAX_LIFTING_SIZE
    if not _MIN_INFO_BITS <= info_bits <= largest:
        raise ConfigError(
            f"LDPC block of {info_bits} bits; base graph {base_graph} takes {_MIN_INFO_BITS} to "
            f"{largest}"
        )
    if base_graph == 1:
        columns = INFO_COLUMNS[1]
    else:
        columns = next(
            columns for longer_than, columns in _BG2_COLUMNS_IN_USE if info_bits > longer_than
        )
    lifting_size = min(size for size in chain(*LIFTING_SETS) if size * columns >= info_bits)
    return LdpcCode(base_graph=base_graph, info_bits=info_bits, lifting_size=lifting_size)
