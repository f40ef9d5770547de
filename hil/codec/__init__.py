"""LoraUpdate ⇄ payload bytes: the only owner of the wire format, and what a plan costs in it."""

from hil.codec.layout import (
    BITS_PER_MODULE,
    bits_by_rank,
    bits_per_direction,
    kept_bits,
    overhead_bits,
)
from hil.codec.payload import decode, digest, encode
from hil.codec.quantiser import CodecTarget

__all__ = [
    "BITS_PER_MODULE",
    "CodecTarget",
    "bits_by_rank",
    "bits_per_direction",
    "decode",
    "digest",
    "encode",
    "kept_bits",
    "overhead_bits",
]
