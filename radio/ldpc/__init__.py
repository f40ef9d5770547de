"""The forward error correction: LDPC codes of 5G New Radio (3GPP TS 38.212)."""

from radio.ldpc.code import LdpcCode, code_for
from radio.ldpc.crc import crc24a, crc24b
from radio.ldpc.decoder import Decoded, decode
from radio.ldpc.encoder import encode
from radio.ldpc.rate_matching import LLR_PER_NAT, combine, rate_match, rate_recover

__all__ = [
    "LLR_PER_NAT",
    "Decoded",
    "LdpcCode",
    "code_for",
    "combine",
    "crc24a",
    "crc24b",
    "decode",
    "encode",
    "rate_match",
    "rate_recover",
]
