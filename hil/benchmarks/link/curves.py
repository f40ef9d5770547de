"""Trials that draw error curves: block errors against SNR, without a receiver and through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hil.benchmarks.link.bars import Point
from hil.benchmarks.link.burst_trials import Air, air, hear, make_burst, preset_air
from radio import ldpc
from radio.modem import framing, mcs, ofdm, qam

_GENIE_BATCH: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How far an error curve is measured, and how well.

    Attributes:
        start_db: SNR of the first point; the others lie at whole multiples of step_db from it.
        step_db: distance of the points.
        floor: the walk upwards ends below this share of lost blocks.
        blocks: most at a point.
        errors: a point ends early with this many lost blocks, if it has a fifth of `blocks`.
        span_db: farthest above the start.
    """

    start_db: float
    step_db: float
    blocks: int
    floor: float = 0.005
    errors: int = 100
    span_db: float = 6.0


@dataclass(slots=True)
class _Tally:
    lost: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def enough(self, walk: Walk) -> bool:
        sent = sum(self.sent)
        return sent >= walk.blocks or (5 * sent >= walk.blocks and sum(self.lost) >= walk.errors)


def measure_curve(groups: Callable[[float], Iterable[tuple[int, int]]], walk: Walk) -> list[Point]:
    """Points across a waterfall: from the start up to the floor, and down until nine in ten are
    lost.

    Args:
        groups: SNR → endless pairs (blocks lost, blocks sent), one for each burst or batch.
        walk: range and length of the measurement.
    """

    def point(snr_db: float) -> Point:
        tally = _Tally()
        for lost, sent in groups(snr_db):
            tally.lost.append(lost)
            tally.sent.append(sent)
            if tally.enough(walk):
                break
        return Point(snr_db, tuple(tally.lost), tuple(tally.sent))

    steps = round(walk.span_db / walk.step_db)
    points = [point(walk.start_db)]
    for k in range(1, steps + 1):
        if points[-1].bler < walk.floor:
            break
        points.append(point(walk.start_db + k * walk.step_db))
    points.reverse()
    for k in range(1, steps + 1):
        if points[-1].bler > 0.9:
            break
        points.append(point(walk.start_db - k * walk.step_db))
    return points[::-1]


def genie_curve(
    rng: np.random.Generator, *, place: int, walk: Walk, copies: int = 1
) -> dict[str, Any]:
    """Block errors with nothing but noise between mapper and demapper, which knows its variance.

    Args:
        rng: source of content and noise.
        place: the MCS's in mcs.MCS_TABLE.
        walk: range and length of the measurement.
        copies: transmissions of each block whose soft values are added before the one decoding.
    """
    scheme = mcs.MCS_TABLE[place]
    layout = framing.LONG
    n_coded = layout.coded_bits(scheme)

    def groups(snr_db: float) -> Iterable[tuple[int, int]]:
        variance = np.float32(10 ** (-snr_db / 10))
        while True:
            info = rng.integers(0, 2, (_GENIE_BATCH, layout.code.info_bits), np.uint8)
            coded = ldpc.rate_match(
                layout.code, ldpc.encode(layout.code, info), n_coded, scheme.bits_per_symbol
            )
            flips = rng.integers(
                0, 2, coded.shape, np.uint8
            )  # stands for the scrambler: max-log errors differ by bit
            symbols = qam.map_bits((coded ^ flips).ravel(), scheme.bits_per_symbol)
            soft = _soft(symbols, variance, flips, layout.code, scheme.bits_per_symbol, rng)
            for _ in range(copies - 1):
                soft = ldpc.combine(
                    soft, _soft(symbols, variance, flips, layout.code, scheme.bits_per_symbol, rng)
                )
            right = (ldpc.decode(layout.code, soft).bits == info).all(axis=1)
            yield int((~right).sum()), _GENIE_BATCH

    return {"place": place, "copies": copies, "points": measure_curve(groups, walk)}


def _soft(
    symbols: NDArray[np.complex64],
    variance: np.float32,
    flips: NDArray[np.uint8],
    code: ldpc.LdpcCode,
    bits_per_symbol: int,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Soft values in buffer positions of symbols that went through noise."""
    noise = rng.standard_normal(2 * len(symbols), np.float32).view(np.complex64) * np.sqrt(
        variance / 2
    )
    llrs = qam.demap(symbols + noise, np.asarray(variance, np.float32), bits_per_symbol).reshape(
        flips.shape
    )
    return ldpc.rate_recover(code, llrs * (1 - 2 * flips.astype(np.float32)), bits_per_symbol)


def chain_losses(
    channel: Air, place: int, n_blocks: int, snr_db: float, rng: np.random.Generator
) -> Iterable[tuple[int, int]]:
    """Blocks lost and sent of one burst after the other over a channel; all of a burst that was not
    read."""
    while True:
        burst = make_burst(place, n_blocks, rng)
        reception = hear(channel(burst.iq, snr_db, rng), burst.header)
        passed = (
            int(reception.blocks.passed.sum())
            if reception is not None and reception.blocks is not None
            else 0
        )
        yield n_blocks - passed, n_blocks


def chain_curve(
    rng: np.random.Generator, *, place: int, walk: Walk, n_blocks: int, preset: str | None = None
) -> dict[str, Any]:
    """Block errors of the whole receiver, over the clean channel or over a preset's."""
    channel = preset_air(preset) if preset else air
    points = measure_curve(lambda snr_db: chain_losses(channel, place, n_blocks, snr_db, rng), walk)
    return {"place": place, "preset": preset, "points": points}


def burst_goodput(
    rng: np.random.Generator, *, place: int, snr_db: float, n_blocks: int, bursts: int
) -> dict[str, Any]:
    """Blocks lost of full bursts, and the goodput over the capacity of the occupied bandwidth if
    none were.

    Returns:
        place, snr_db, n_blocks, blocks, lost, and lossless_share: payload bits of a burst, preamble
        and header counted.
    """
    losses = chain_losses(air, place, n_blocks, snr_db, rng)
    lost = sum(lost for (lost, _), _ in zip(losses, range(bursts), strict=False))
    return {
        "place": place,
        "snr_db": snr_db,
        "n_blocks": n_blocks,
        "blocks": bursts * n_blocks,
        "lost": lost,
        "lossless_share": burst_efficiency(place, n_blocks) / math.log2(1 + 10 ** (snr_db / 10)),
    }


def burst_efficiency(place: int, n_blocks: int) -> float:
    """Payload bits per second and hertz of occupied bandwidth of a burst, nothing lost."""
    samples = framing.burst_samples(n_blocks, mcs.MCS_TABLE[place])
    bits = 8 * framing.LONG.block_payload_bytes * n_blocks
    return bits / samples * ofdm.N_FFT / (ofdm.N_USED + 1)
