"""LoraUpdate ⇄ payload bytes: the only owner of the wire format, and what a plan costs in it."""

from hil.codec.layout import (
    BITS_PER_MODULE,
    KEPT_FROM_BITS,
    bits_by_rank,
    bits_per_direction,
    overhead_bits,
)
from hil.codec.payload import decode, digest, encode
from hil.codec.quantiser import CodecTarget

__all__ = [
    "BITS_PER_MODULE",
    "KEPT_FROM_BITS",
    "CodecTarget",
    "bits_by_rank",
    "bits_per_direction",
    "decode",
    "digest",
    "encode",
    "overhead_bits",
]
