"""LoraUpdate → payload bytes → LoraUpdate."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping

import numpy as np

from hil.codec.layout import (
    CRC_BYTES,
    SHA_BYTES,
    Header,
    check_rank,
    module_spans,
    pack_header,
    parse_header,
    payload_bytes,
)
from hil.codec.quantiser import CodecTarget, dequantise, quantise
from hil.contract import KEEP, BaseSpec, CodecError, LoraUpdate, LowRankFactors, RankPlan


def encode(
    update: LoraUpdate,
    target: CodecTarget,
    *,
    base: BaseSpec,
    plan: RankPlan | None = None,
) -> bytes:
    """The update as payload bytes; equal input gives equal bytes on every machine.

    Directions are taken as they come, in falling order and balanced (as hil.codec.cut makes them);
    each is quantised on its own.

    Args:
        update: an update of `base`.
        target: bits per coefficient.
        base: gives the canonical order and shapes of the modules.
        plan: what the update must hold exactly: ranks and kept modules.
    Raises:
        CodecError: the update does not fit the base model or the plan, or holds a value that is not
            finite.
    """
    _check_update(update, base)
    if plan is not None:
        _check_plan(update, plan)
    header = Header(
        coefficient_bits=target.coefficient_bits,
        round_id=update.round_id,
        ranks={
            module: update.factors[module].rank
            for module in base.module_shapes
            if module in update.factors
        },
        kept=update.kept,
        kept_from=update.kept_from,
    )
    parts = [pack_header(header, base)]
    for module in header.ranks:
        try:
            rows = quantise(update.factors[module], target.coefficient_bits).tobytes()
        except CodecError as error:
            raise CodecError(f"module {module}: {error}") from error
        parts += [rows, zlib.crc32(rows).to_bytes(CRC_BYTES, "little")]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def decode(payload: bytes, base: BaseSpec) -> LoraUpdate:
    """The update that a payload carries.

    The length is settled before the first array is made: the update takes at most 8 times the
    memory of its payload, whatever that says.

    Raises:
        CodecError: truncated, altered, not of format 1, or made for another base model; the message
            says where.
    """
    view = memoryview(payload)
    header = parse_header(view, base)
    _check_length(len(view), header, base)
    factors = {}
    for module, (start, end) in module_spans(header, base).items():
        where = f"in module {module}, bytes {start}..{end - 1}"
        rows, crc = view[start : end - CRC_BYTES], view[end - CRC_BYTES : end]
        if zlib.crc32(rows) != int.from_bytes(crc, "little"):
            raise CodecError(f"payload is altered {where}")
        matrix = np.frombuffer(rows, np.uint8).reshape(header.ranks[module], -1)
        factors[module] = dequantise(
            matrix, base.module_shapes[module], header.coefficient_bits, where
        )
    if hashlib.sha256(view[:-SHA_BYTES]).digest() != view[-SHA_BYTES:]:
        raise CodecError(
            f"payload is altered in its SHA-256, bytes {len(view) - SHA_BYTES}..{len(view) - 1}"
        )
    return LoraUpdate(
        round_id=header.round_id,
        base_identity=base.identity,
        factors=factors,
        kept=header.kept,
        kept_from=header.kept_from,
    )


def digest(payload: bytes) -> str:
    """SHA-256 over the whole payload, 64 hex digits: the name by which an edge says what it
    holds."""
    return hashlib.sha256(payload).hexdigest()


def _check_length(n_bytes: int, header: Header, base: BaseSpec) -> None:
    """Raises CodecError, naming the place, unless the payload is as long as its header says."""
    expected = payload_bytes(header, base)
    if n_bytes > expected:
        raise CodecError(
            f"payload has {n_bytes - expected} bytes too many after its end at byte {expected}"
        )
    if n_bytes < expected:
        spans = module_spans(header, base)
        module = next((name for name, (_, end) in spans.items() if n_bytes < end), None)
        place = (
            f"module {module}, bytes {spans[module][0]}..{spans[module][1] - 1}"
            if module
            else "its SHA-256"
        )
        raise CodecError(f"payload is truncated at byte {n_bytes} of {expected}, in {place}")


def _check_update(update: LoraUpdate, base: BaseSpec) -> None:
    """Raises CodecError unless every part of the update belongs to the base model."""
    if update.base_identity != base.identity:
        raise CodecError(
            f"update belongs to base model {update.base_identity[:12]}, not to "
            f"{base.identity[:12]}; train it on the "
            "base model that the edge serves"
        )
    unknown = (set(update.factors) | update.kept) - set(base.module_shapes)
    if unknown:
        raise CodecError(
            f"update holds modules that the base model does not adapt: {_some(unknown)}"
        )
    if both := update.kept & set(update.factors):
        raise CodecError(f"update both sends and keeps {_some(both)}")
    if bool(update.kept) != (update.kept_from is not None):
        raise CodecError(
            f"update keeps {len(update.kept)} modules and has kept_from = {update.kept_from!r}"
        )
    for module, factors in update.factors.items():
        _check_shapes(module, factors, base.module_shapes[module])


def _check_shapes(module: str, factors: LowRankFactors, shape: tuple[int, int]) -> None:
    d_out, d_in = shape
    check_rank(module, factors.rank, shape)
    if factors.a.shape != (factors.rank, d_in) or factors.b.shape != (d_out, factors.rank):
        raise CodecError(
            f"module {module} has factors a {factors.a.shape} and b {factors.b.shape}; "
            f"rank {factors.rank} of shape {shape} needs ({factors.rank}, {d_in}) and ({d_out}, "
            f"{factors.rank})"
        )


def _check_plan(update: LoraUpdate, plan: RankPlan) -> None:
    """Raises CodecError unless the update sends and keeps exactly what the plan says."""
    held: Mapping[str, int | str] = {
        **{module: factors.rank for module, factors in update.factors.items()},
        **dict.fromkeys(update.kept, KEEP),
    }
    for module in sorted(set(plan.ranks) | set(held)):
        planned, found = plan.ranks.get(module, 0), held.get(module, 0)
        if planned != found:
            raise CodecError(
                f"module {module}: the plan says {planned}, the update holds {found}; cut it to "
                "the plan"
            )


def _some(modules: set[str] | frozenset[str]) -> str:
    names = sorted(modules)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
