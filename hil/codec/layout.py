"""The layout of a payload of format 1, and what a plan costs in it.

All integers are little endian. A payload is

    offset  bytes  field
         0      4  magic "HLRA"
         4      1  format version, 1
         5      1  bits per coefficient, 4 or 8
         6      2  number of modules n of the base model
         8      4  round id
        12      4  length of the header, its CRC-32 included
        16      4  length of the payload
        20     32  identity of the base model
        52      …  module bitmap: 2 bits a module in canonical order, the first in the lowest
                    bits of the first byte
                   (0 no update, 1 sent, 2 kept as the edge holds it); ceil(n / 4) bytes, unused
                   bits zero
               32  digest of the update that kept modules are taken from; only there when
                    a module is kept
                …  rank of each sent module, one byte each
                4  CRC-32 of the header so far
                …  per sent module, in canonical order: a row per direction (see
                    hil.codec.quantiser), then their CRC-32
               32  SHA-256 of everything before it
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hil.codec.quantiser import COEFFICIENT_BITS, CodecTarget, row_bytes
from hil.contract import BaseSpec, CodecError

MAGIC = b"HLRA"
VERSION = 1
MAX_RANK = 255
CRC_BYTES = 4
SHA_BYTES = 32
BITS_PER_MODULE = 8 * (1 + CRC_BYTES)
"""Payload bits that a sent module costs beside its directions: its rank and its CRC-32."""
_DIGEST_BITS = 8 * SHA_BYTES

_PREFIX = struct.Struct("<4sBBHIII32s")
_NONE, _SENT, _KEEP = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The head of a payload, before the first direction.

    Attributes:
        coefficient_bits: 4 or 8.
        round_id: 0 .. 2^32 - 1.
        ranks: sent module → rank, in canonical order.
        kept: modules that stay as the edge holds them.
        kept_from: digest (64 hex digits) of the update they are taken from; None iff `kept` is
            empty.
    """

    coefficient_bits: int
    round_id: int
    ranks: Mapping[str, int]
    kept: frozenset[str]
    kept_from: str | None


def bits_per_direction(base: BaseSpec, target: CodecTarget) -> dict[str, int]:
    """Module → payload bits of one direction."""
    return {
        module: 8 * row_bytes(shape, target.coefficient_bits)
        for module, shape in base.module_shapes.items()
    }


def bits_by_rank(
    per_direction: ArrayLike, r_max: int, per_module: int = BITS_PER_MODULE
) -> NDArray[np.int64]:
    """int64[M, r_max + 1]: payload bits of r directions of each module, r = 0..r_max.

    Args:
        per_direction: [M], as bits_per_direction.
        r_max: ≥ 0.
        per_module: bits that a module with r ≥ 1 costs beside its directions.
    """
    ranks = np.arange(r_max + 1)
    bits: NDArray[np.int64] = np.asarray(per_direction, np.int64)[:, np.newaxis] * ranks
    return bits + np.where(ranks > 0, per_module, 0)


def kept_bits(n_kept: ArrayLike) -> NDArray[np.int64]:
    """Payload bits that keeping modules costs: one digest, however many they are; 0 for none.

    Args:
        n_kept: numbers of kept modules, of any shape; the result has the same.
    """
    return np.where(np.asarray(n_kept) > 0, _DIGEST_BITS, 0)


def overhead_bits(base: BaseSpec, target: CodecTarget) -> int:
    """Payload bits of an update that sends and keeps no module; in format 1 the same for every
    target.

    A payload has exactly overhead_bits + Σ over sent modules (BITS_PER_MODULE + rank ·
    bits_per_direction) + kept_bits(number of kept modules) bits.
    """
    empty = Header(
        coefficient_bits=target.coefficient_bits,
        round_id=0,
        ranks={},
        kept=frozenset(),
        kept_from=None,
    )
    return 8 * (_header_bytes(empty, base) + SHA_BYTES)


def module_spans(header: Header, base: BaseSpec) -> dict[str, tuple[int, int]]:
    """Sent module → its first byte in the payload and the first byte after its CRC-32."""
    spans, start = {}, _header_bytes(header, base)
    for module, rank in header.ranks.items():
        end = (
            start
            + rank * row_bytes(base.module_shapes[module], header.coefficient_bits)
            + CRC_BYTES
        )
        spans[module] = (start, end)
        start = end
    return spans


def payload_bytes(header: Header, base: BaseSpec) -> int:
    """Length of the payload that has this header."""
    ends = [end for _, end in module_spans(header, base).values()]
    return (ends[-1] if ends else _header_bytes(header, base)) + SHA_BYTES


def check_rank(module: str, rank: int, shape: tuple[int, int]) -> None:
    """Raises CodecError unless 1 ≤ rank ≤ min(d_out, d_in, 255)."""
    limit = min(*shape, MAX_RANK)
    if not 1 <= rank <= limit:
        raise CodecError(
            f"module {module} has rank {rank}, outside 1..{limit} for its shape {shape}"
        )


def pack_header(header: Header, base: BaseSpec) -> bytes:
    """The header's bytes, CRC-32 included.

    Raises:
        CodecError: a field that does not fit its bytes.
    """
    n_modules, length = len(base.module_shapes), payload_bytes(header, base)
    if not 0 <= header.round_id < 2**32:
        raise CodecError(f"round id {header.round_id} lies outside 0..{2**32 - 1}")
    if n_modules >= 2**16 or length >= 2**32:
        raise CodecError(
            f"{n_modules} modules in {length} bytes: a payload takes 65535 modules in {2**32 - 1} "
            "bytes"
        )
    packed = _PREFIX.pack(
        MAGIC,
        VERSION,
        header.coefficient_bits,
        n_modules,
        header.round_id,
        _header_bytes(header, base),
        length,
        _hash_bytes("base identity", base.identity),
    )
    packed += _pack_bitmap([_state(module, header) for module in base.module_shapes])
    if header.kept_from is not None:
        packed += _hash_bytes("kept_from", header.kept_from)
    packed += bytes(header.ranks.values())
    return packed + zlib.crc32(packed).to_bytes(CRC_BYTES, "little")


def parse_header(payload: memoryview, base: BaseSpec) -> Header:
    """The header of a payload, checked; nothing is allocated by what it says before it is known to
    be whole.

    Raises:
        CodecError: no payload of this format, a header cut short or altered, or an update of
            another base model.
    """
    if len(payload) < _PREFIX.size:
        raise CodecError(
            f"payload is truncated at byte {len(payload)}, in the header of at least "
            f"{_PREFIX.size} bytes"
        )
    magic, version, bits, n_modules, round_id, header_bytes, declared, identity = (
        _PREFIX.unpack_from(payload)
    )
    if magic != MAGIC:
        raise CodecError(f"payload opens with {magic!r} instead of {MAGIC!r}: it is no LoRA update")
    if version != VERSION:
        raise CodecError(
            f"payload has format version {version}, this decoder knows {VERSION}; update the "
            "older side"
        )
    if len(payload) < header_bytes:
        raise CodecError(
            f"payload is truncated at byte {len(payload)}, in the header of {header_bytes} bytes"
        )
    if header_bytes < _PREFIX.size + CRC_BYTES or not _crc_matches(payload[:header_bytes]):
        raise CodecError(
            f"payload is altered in the header, bytes 0..{max(header_bytes, _PREFIX.size) - 1}"
        )
    if identity.hex() != base.identity:
        raise CodecError(
            f"payload updates base model {identity.hex()[:12]}, this one is {base.identity[:12]}; "
            "give both halves the same base model"
        )
    if bits not in COEFFICIENT_BITS:
        raise CodecError(f"header says {bits} bits a coefficient; format {VERSION} has 4 and 8")
    if n_modules != len(base.module_shapes):
        raise CodecError(
            f"header counts {n_modules} modules, the base model has {len(base.module_shapes)}"
        )
    variable = payload[_PREFIX.size : header_bytes - CRC_BYTES]
    header = _parse_variable(variable, base, bits, round_id)
    expected = payload_bytes(header, base)
    if declared != expected:
        raise CodecError(
            f"header declares a payload of {declared} bytes, its own ranks make {expected}"
        )
    return header


def _parse_variable(variable: memoryview, base: BaseSpec, bits: int, round_id: int) -> Header:
    """Bitmap, digest and ranks."""
    names, n_bitmap = list(base.module_shapes), _bitmap_bytes(base)
    codes = np.frombuffer(variable[:n_bitmap], np.uint8)
    states = ((codes[:, np.newaxis] >> np.array([0, 2, 4, 6], np.uint8)) & 3).reshape(-1)
    if len(variable) < n_bitmap or states[len(names) :].any() or (states > _KEEP).any():
        raise CodecError(f"header's module bitmap is not one of {len(names)} modules")
    sent = [names[i] for i in np.flatnonzero(states == _SENT)]
    kept = frozenset(names[i] for i in np.flatnonzero(states == _KEEP))
    n_digest = SHA_BYTES if kept else 0
    if len(variable) != n_bitmap + n_digest + len(sent):
        raise CodecError(
            f"header holds {len(variable)} bytes of bitmap, digest and ranks; {len(sent)} modules "
            "sent and "
            f"{len(kept)} kept make {n_bitmap + n_digest + len(sent)}"
        )
    ranks = dict(zip(sent, variable[n_bitmap + n_digest :], strict=True))
    for module, rank in ranks.items():
        check_rank(module, rank, base.module_shapes[module])
    kept_from = bytes(variable[n_bitmap : n_bitmap + n_digest]).hex() if kept else None
    return Header(
        coefficient_bits=bits, round_id=round_id, ranks=ranks, kept=kept, kept_from=kept_from
    )


def _header_bytes(header: Header, base: BaseSpec) -> int:
    digest_bytes = SHA_BYTES if header.kept else 0
    return _PREFIX.size + _bitmap_bytes(base) + digest_bytes + len(header.ranks) + CRC_BYTES


def _bitmap_bytes(base: BaseSpec) -> int:
    return (len(base.module_shapes) + 3) // 4


def _state(module: str, header: Header) -> int:
    if module in header.ranks:
        return _SENT
    return _KEEP if module in header.kept else _NONE


def _pack_bitmap(states: list[int]) -> bytes:
    padded = np.zeros(((len(states) + 3) // 4, 4), np.uint8)
    padded.reshape(-1)[: len(states)] = states
    bitmap: NDArray[np.uint8] = (padded << np.array([0, 2, 4, 6], np.uint8)).sum(
        axis=1, dtype=np.uint8
    )
    return bitmap.tobytes()


def _crc_matches(block: memoryview) -> bool:
    return zlib.crc32(block[:-CRC_BYTES]) == int.from_bytes(block[-CRC_BYTES:], "little")


def _hash_bytes(what: str, digits: str) -> bytes:
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise CodecError(f"{what} {digits!r} is not a SHA-256 of 64 lower-case hex digits")
    return bytes.fromhex(digits)
