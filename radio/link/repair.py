"""Repair blocks: a systematic Reed-Solomon code across the blocks of a short payload, and how many
pay.

Any n of the n source blocks and their repair blocks give the payload back. Repair block r is the
sum over the source blocks j of block j / ((255 - r) + j), in GF(2^8) with x^8 + x^4 + x^3 + x^2 +
1. These weights form a Cauchy matrix, every square part of which can be inverted (Blömer et al.,
"An XOR-Based Erasure-Resilient Coding Scheme", ICSI TR-95-048, 1995); and they depend neither on n
nor on how many repair blocks there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

Blocks = NDArray[np.uint8]
"""uint8[n, block bytes]."""

MAX_SOURCE_BLOCKS: Final = 200
"""Payloads of more blocks do without: their holes are few against what they send anyway."""
_FIELD: Final = 256
_POLYNOMIAL: Final = 0x11D
_MAX_COPIES: Final = 3
"""A receiver starts its sum anew after as many."""


def _tables() -> tuple[Blocks, Blocks]:
    """Products uint8[256, 256], and inverses uint8[256] (0 for 0)."""
    powers = np.empty(_FIELD - 1, np.uint8)
    value = 1
    for k in range(_FIELD - 1):
        powers[k] = value
        value = value << 1 ^ (_POLYNOMIAL if value & 0x80 else 0)
    logs = np.zeros(_FIELD, np.intp)
    logs[powers] = np.arange(_FIELD - 1)
    product = powers[(logs[:, None] + logs[None, :]) % (_FIELD - 1)]
    product[0, :] = product[:, 0] = 0
    inverse = powers[-logs % (_FIELD - 1)]
    inverse[0] = 0
    return product, inverse


_PRODUCT, _INVERSE = _tables()


def repair_blocks_of(n_source: int) -> int:
    """How many repair blocks a payload of n_source blocks can have."""
    return _FIELD - n_source if 0 < n_source <= MAX_SOURCE_BLOCKS else 0


def _weights(rows: Sequence[int], columns: Sequence[int]) -> NDArray[np.uint8]:
    """Weights of source blocks `columns` in repair blocks `rows`, uint8[len(rows),
    len(columns)]."""
    sums = (_FIELD - 1 - np.asarray(rows, np.intp))[:, None] ^ np.asarray(columns, np.intp)[None, :]
    return np.take(_INVERSE, sums)


def _weighted(weights: NDArray[np.uint8], blocks: Blocks) -> Blocks:
    """The matrix product in the field, uint8[len(weights), block bytes]."""
    total = np.zeros((len(weights), blocks.shape[1]), np.uint8)
    for column, block in zip(weights.T, blocks, strict=True):
        total ^= _PRODUCT[column[:, None], block[None, :]]
    return total


def encode(source: Blocks, first: int, count: int) -> Blocks:
    """Repair blocks first..first + count - 1, uint8[count, block bytes].

    Args:
        source: all source blocks of the payload, at most MAX_SOURCE_BLOCKS.
        first, count: first + count ≤ repair_blocks_of(len(source)).
    """
    return _weighted(_weights(range(first, first + count), range(len(source))), source)


def solve(n_source: int, held: Mapping[int, Blocks]) -> dict[int, Blocks]:
    """The missing source blocks, by index.

    Args:
        n_source: source blocks of the payload.
        held: blocks uint8[block bytes] by index, repair blocks from n_source on; at least n_source
            of them.
    """
    missing = [j for j in range(n_source) if j not in held]
    if not missing:
        return {}
    present = [j for j in range(n_source) if j in held]
    rows = sorted(index - n_source for index in held if index >= n_source)[: len(missing)]
    rest = np.stack([held[n_source + r] for r in rows])
    if present:
        rest ^= _weighted(_weights(rows, present), np.stack([held[j] for j in present]))
    return dict(zip(missing, _eliminate(_weights(rows, missing), rest), strict=True))


def _eliminate(matrix: NDArray[np.uint8], right: Blocks) -> Blocks:
    """x of matrix · x = right; a Cauchy matrix needs no pivoting, as all its leading minors differ
    from 0."""
    both = np.concatenate([matrix, right], axis=1)
    for k in range(len(matrix)):
        both[k] = _PRODUCT[_INVERSE[both[k, k]], both[k]]
        factors = both[:, k].copy()
        factors[k] = 0
        both ^= _PRODUCT[factors[:, None], both[k][None, :]]
    return both[:, len(matrix) :]


def success_probability(wanted: int, spare: int, loss: float) -> float:
    """Probability that at least `wanted` of wanted + spare blocks arrive, each lost independently
    with `loss`."""
    return float(bdtr(spare, wanted + spare, loss))


@dataclass(frozen=True, slots=True)
class Plan:
    """How a window is filled: wanted + spare different blocks, each of them `copies` times."""

    spare: int
    copies: int


def plan(
    wanted: int,
    loss_by_copies: Sequence[float],
    block_samples: float,
    round_trip_samples: float,
    *,
    most_spare: int,
) -> Plan:
    """What makes the expected airtime of a window and of what it leaves to do the least, waiting
    counted as air.

    A window that leaves blocks missing costs the round trip and those blocks again. So nothing is
    sent in excess where answers come quickly, and the shorter the blocks are against the round
    trip, the surer the first window is.

    Args:
        wanted: blocks that must arrive, ≥ 1.
        loss_by_copies: probability that a block is lost when 1, 2, 3... copies of it are sent; 3
            count at most.
        block_samples: air that a block takes.
        round_trip_samples: air that waiting for an answer is worth, with the head of another burst.
        most_spare: different blocks available beyond `wanted`.
    """
    best, best_cost = Plan(spare=0, copies=1), math.inf
    for copies, loss in enumerate(loss_by_copies[:_MAX_COPIES], start=1):
        for spare in range(most_spare + 1):
            sent = copies * (wanted + spare) * block_samples
            if sent >= best_cost:
                break
            failure = 1 - success_probability(wanted, spare, loss)
            # mean of what more than `spare` losses leave missing: mean losses, less the chance of
            # at least k, k ≤ spare
            fewer = bdtr(np.arange(spare), wanted + spare, loss)
            left = (wanted + spare) * loss - float(np.sum(1 - fewer))
            cost = sent + failure * round_trip_samples + left * block_samples
            if cost < best_cost:
                best, best_cost = Plan(spare=spare, copies=copies), cost
    return best
