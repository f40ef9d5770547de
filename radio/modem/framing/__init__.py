"""Bursts: from the blocks of a payload to samples, and back from a burst that was found.

A burst is preamble, header, data. The header (24 bytes, CRC-16) is QPSK under LDPC base graph 2,
spread over whole symbols until it survives below every data MCS. Data blocks are LDPC codewords one
after another, each spread over all subcarriers. A block names itself under its CRC, and the header
says where the burst's blocks stand in a list that both ends know, so that soft values of a block
that failed can be added to those of its next copy.
"""

from radio.modem.framing.blocks import (
    CRC_BYTES,
    INDEX_BYTES,
    LONG,
    MAX_BLOCKS,
    MAX_PAYLOAD_BYTES,
    MAX_REPAIR_BLOCKS,
    RESERVED_BYTES,
    SHORT,
    SHORT_PAYLOAD_BYTES,
    Layout,
    block_count_of,
    layout_of,
    split,
)
from radio.modem.framing.building import Burst, build_burst, burst_grid
from radio.modem.framing.header import (
    HEADER_BYTES,
    MAX_BURST_SAMPLES,
    TAG_BYTES,
    BurstHeader,
    burst_samples,
    data_symbols,
    header_symbols,
)
from radio.modem.framing.reading import (
    DecodedBlocks,
    decode_blocks,
    known_symbols,
    read_header,
    soft_blocks,
)

__all__ = [
    "CRC_BYTES",
    "HEADER_BYTES",
    "INDEX_BYTES",
    "LONG",
    "MAX_BLOCKS",
    "MAX_BURST_SAMPLES",
    "MAX_PAYLOAD_BYTES",
    "MAX_REPAIR_BLOCKS",
    "RESERVED_BYTES",
    "SHORT",
    "SHORT_PAYLOAD_BYTES",
    "TAG_BYTES",
    "Burst",
    "BurstHeader",
    "DecodedBlocks",
    "Layout",
    "block_count_of",
    "build_burst",
    "burst_grid",
    "burst_samples",
    "data_symbols",
    "decode_blocks",
    "header_symbols",
    "known_symbols",
    "layout_of",
    "read_header",
    "soft_blocks",
    "split",
]
