"""Layered min-sum decoding on int16 soft values.

Layer by layer (a layer is a row of the base graph), every edge's message is replaced and the
columns' posteriors are updated at once (Hocevar, "A reduced complexity decoder architecture via
layered decoding of LDPC codes", SiPS 2004). A check tells each of its bits the smallest magnitude m
among the others, which overstates it: 7/8 m less a quarter of a nat is sent (normalisation and
offset of Chen et al., "Reduced-complexity decoding of LDPC codes", IEEE Trans. Commun. 53, 2005).
Either alone loses: normalisation at low rates, an offset where the LLRs' scale is off.

The lifting index is the vector lane. A posterior column is kept turned as the last layer left it
and is written twice, so that the next layer's rotation of it is one contiguous read. Sums stay
exact: a posterior is its channel value plus at most 30 messages (the heaviest column), and 511 + 30
* 1023 < 32768, so nothing can wrap. The channel's limit is the lower one: a bit heard wrong at full
  scale can still be outvoted.

Kernels index with unsigned integers: a signed index may be negative, and minding that would keep
loops scalar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio.compiled import compiled
from radio.ldpc.code import LdpcCode
from radio.ldpc.rate_matching import LLR_PER_NAT
from radio.ldpc.tables import CORE_ROWS, INFO_COLUMNS, lifted

Soft = NDArray[np.int16]
Indices = NDArray[np.int32]

_MAX_CHANNEL: Final = np.int16(511)
_MAX_MESSAGE: Final = np.int16(1023)
_LARGEST: Final = np.int16(32767)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """What the decoder made of each block.

    Attributes:
        bits: uint8[n, info_bits], the most likely information bits.
        converged: bool[n], True if they belong to a codeword: every check in use holds, no
            information bit is undecided, every filler bit is 0. A CRC still has to say whether it
            is the codeword that was sent.
        iterations: int32[n], passes over the layers, 1 to max_iterations.
    """

    bits: NDArray[np.uint8]
    converged: NDArray[np.bool_]
    iterations: NDArray[np.int32]


def decode(code: LdpcCode, llr: Soft, max_iterations: int = 20) -> Decoded:
    """The information bits of each block, decoded until every check holds or the iterations are
    used up.

    Only layers whose own parity bits were heard take part, so a high rate is fast.

    Args:
        code: the code.
        llr: int16[n, n_buffer] from rate_recover or combine; values beyond ±511 (32 nats) count as
            that.
        max_iterations: limit on the iterations, ≥ 1.

    Raises:
        ConfigError: another shape or no iterations.
    """
    if llr.ndim != 2 or llr.shape[1] != code.n_buffer:
        raise ConfigError(
            f"LDPC decoder got soft values of shape {llr.shape}; expected (n, {code.n_buffer})"
        )
    if max_iterations < 1:
        raise ConfigError(
            f"LDPC decoder was given {max_iterations} iterations; it needs at least 1"
        )
    graph = lifted(code.base_graph, code.lifting_size)
    n_blocks = llr.shape[0]
    decided = np.empty((n_blocks, INFO_COLUMNS[code.base_graph] * code.lifting_size), np.uint8)
    converged = np.empty(n_blocks, np.bool_)
    iterations = np.empty(n_blocks, np.int32)
    _decode_blocks(
        np.ascontiguousarray(llr, np.int16),
        code.lifting_size,
        CORE_ROWS,
        LLR_PER_NAT // 4,
        max_iterations,
        graph.row_start,
        graph.column,
        graph.shift,
        decided,
        converged,
        iterations,
    )
    bits, fillers = np.hsplit(decided, [code.info_bits])
    return Decoded(
        bits=np.ascontiguousarray(bits),
        converged=converged & ~fillers.any(axis=1),
        iterations=iterations,
    )


@compiled()
def _load(llr: Soft, size: int, posterior: Soft) -> None:
    """Fills the posterior columns with the channel's values; the punctured ones in front know
    nothing."""
    punctured = posterior.size // 2 - llr.size
    posterior[: 2 * punctured] = 0
    for start in range(0, llr.size, size):
        source = np.uint64(start)
        low = np.uint64(2 * (start + punctured))
        high = low + np.uint64(size)
        for z in range(np.uint64(size)):
            value = min(max(llr[source + z], -_MAX_CHANNEL), _MAX_CHANNEL)
            posterior[low + z] = value
            posterior[high + z] = value


@compiled()
def _line_up(
    columns: Indices, shifts: Indices, rotation: Indices, size: int, starts: NDArray[np.uint64]
) -> None:
    """Where to read each column of a layer so that its lanes are the layer's checks."""
    for slot in range(columns.size):
        turn = shifts[slot] - rotation[columns[slot]]
        starts[slot] = np.uint64(2 * size * columns[slot] + (turn if turn >= 0 else turn + size))


@compiled()
def _gather(
    posterior: Soft,
    starts: NDArray[np.uint64],
    message: Soft,
    size: np.uint64,
    extrinsic: Soft,
    least: Soft,
    second: Soft,
    parity: Soft,
) -> None:
    """Takes a layer's old messages out of its columns; finds each check's two smallest magnitudes
    and its sign."""
    odd = starts.size % 2
    if odd:
        at = starts[0]
        for z in range(size):
            value = np.int16(posterior[at + z] - message[z])
            extrinsic[z] = value
            parity[z] = value
            least[z] = np.int16(abs(value))
            second[z] = _LARGEST
    else:
        parity[:] = 0
        least[:] = _LARGEST
        second[:] = _LARGEST
    for slot in range(odd, starts.size, 2):
        at_a, at_b = starts[slot], starts[slot + 1]
        edge_a = np.uint64(slot) * size
        edge_b = edge_a + size
        for z in range(size):
            a = np.int16(posterior[at_a + z] - message[edge_a + z])
            b = np.int16(posterior[at_b + z] - message[edge_b + z])
            extrinsic[edge_a + z] = a
            extrinsic[edge_b + z] = b
            parity[z] ^= a ^ b
            a, b = np.int16(abs(a)), np.int16(abs(b))
            smaller = min(a, b)
            second[z] = min(second[z], max(a, b), max(least[z], smaller))
            least[z] = min(least[z], smaller)


@compiled()
def _soften(magnitude: Soft, offset: int, softened: Soft) -> None:
    """What a check sends for a smallest magnitude: 7/8 of it less the offset, limited."""
    for z in range(magnitude.size):
        reduced = np.int16(magnitude[z] - ((magnitude[z] + 4) >> 3) - offset)
        softened[z] = min(max(reduced, np.int16(0)), _MAX_MESSAGE)


@compiled()
def _scatter(
    posterior: Soft,
    columns: Indices,
    message: Soft,
    size: np.uint64,
    extrinsic: Soft,
    least: Soft,
    for_most: Soft,
    for_least: Soft,
    parity: Soft,
) -> None:
    """Gives a layer's edges their new messages and adds them to the columns, both copies.

    The edge that brought the smallest magnitude gets the second smallest; where two brought it,
    those are equal.
    """
    for slot in range(columns.size):
        edge = np.uint64(slot) * size
        low = np.uint64(columns[slot]) * size * np.uint64(2)
        high = low + size
        for z in range(size):
            value = extrinsic[edge + z]
            most, own = (
                for_most[z],
                for_least[z],
            )  # both read first: a choice between loads would not vectorise
            strength = own if np.int16(abs(value)) == least[z] else most
            sign = np.int16((value ^ parity[z]) >> 15)
            new = np.int16((strength ^ sign) - sign)
            message[edge + z] = new
            posterior[low + z] = np.int16(value + new)
            posterior[high + z] = np.int16(value + new)


@compiled()
def _layer_holds(
    posterior: Soft, starts: NDArray[np.uint64], size: np.uint64, parity: Soft
) -> bool:
    """True if the signs of the posteriors satisfy every check of a layer."""
    parity[:] = 0
    for start in starts:
        for z in range(size):
            parity[z] ^= posterior[start + z]
    signs = np.int16(0)
    for value in parity:
        signs |= value
    return bool(signs >= 0)


@compiled()
def _decide(posterior: Soft, rotation: Indices, size: int, decided: NDArray[np.uint8]) -> bool:
    """Hard decisions of the information columns, in the order of the bits; True if none is a
    draw."""
    draws = 0
    for start in range(0, decided.size, size):
        turn = rotation[start // size]
        low = np.uint64(2 * start + (size - turn if turn else 0))
        out = np.uint64(start)
        for z in range(np.uint64(size)):
            value = posterior[low + z]
            decided[out + z] = value < 0
            draws += value == 0
    return draws == 0


@compiled()
def _decode_blocks(
    llr: Soft,
    size: int,
    core_rows: int,
    offset: int,
    max_iterations: int,
    row_start: Indices,
    column: Indices,
    shift: Indices,
    decided: NDArray[np.uint8],
    converged: NDArray[np.bool_],
    iterations: NDArray[np.int32],
) -> None:
    # longer than a screen: one loop over the blocks, and the work arrays that all its steps share
    n_rows = row_start.size - 1
    n_columns = decided.shape[1] // size + n_rows
    lanes = np.uint64(size)
    posterior = np.empty(2 * n_columns * size, np.int16)
    rotation = np.empty(n_columns, np.int32)
    message = np.empty(column.size * size, np.int16)
    heaviest = np.max(row_start[1:] - row_start[:-1])
    extrinsic = np.empty(heaviest * size, np.int16)
    starts = np.empty(heaviest, np.uint64)
    least, second, parity = (
        np.empty(size, np.int16),
        np.empty(size, np.int16),
        np.empty(size, np.int16),
    )
    for_most, for_least = np.empty(size, np.int16), np.empty(size, np.int16)
    in_use = np.empty(n_rows, np.int64)

    for block in range(llr.shape[0]):
        _load(llr[block], size, posterior)
        rotation[:] = 0
        n_layers = 0
        for row in range(n_rows):
            own = llr.shape[1] - (n_rows - row) * size
            if row < core_rows or np.any(llr[block, own : own + size]):
                in_use[n_layers] = row
                n_layers += 1
                message[row_start[row] * size : row_start[row + 1] * size] = 0

        holds = False
        iteration = 0
        while not holds and iteration < max_iterations:
            iteration += 1
            for row in in_use[:n_layers]:
                first, last = row_start[row], row_start[row + 1]
                columns, shifts, at = column[first:last], shift[first:last], starts[: last - first]
                mine = message[first * size : last * size]
                _line_up(columns, shifts, rotation, size, at)
                _gather(posterior, at, mine, lanes, extrinsic, least, second, parity)
                _soften(least, offset, for_most)
                _soften(second, offset, for_least)
                _scatter(
                    posterior, columns, mine, lanes, extrinsic, least, for_most, for_least, parity
                )
                rotation[columns] = shifts
            holds = True
            for row in in_use[:n_layers]:
                first, last = row_start[row], row_start[row + 1]
                at = starts[: last - first]
                _line_up(column[first:last], shift[first:last], rotation, size, at)
                if not _layer_holds(posterior, at, lanes, parity):
                    holds = False
                    break
            if holds or iteration == max_iterations:
                holds &= _decide(posterior, rotation, size, decided[block])
        converged[block] = holds
        iterations[block] = iteration
