"""Trials of the modem: a generator and settings in, counts out.

`air` is the clean channel of these trials (random carrier offset over the whole range, random
delay, noise), `genie` one without any: symbols and noise straight into the demapper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hil.benchmarks.link.bars import Point
from hil.contract import IQ
from hil.rounding import ceil_div
from radio import ldpc
from radio.channel import Awgn, FrequencyOffset, figures
from radio.channel.loopback import Loopback
from radio.clocks import VirtualClock
from radio.link.receiver import Reception, receive_burst
from radio.modem import framing, mcs, ofdm, qam, sync

SAMPLE_RATE_HZ: Final = 2e6
MAX_DELAY_SAMPLES: Final = 2000
_TAIL_SAMPLES: Final = 600
TIMING_TOLERANCE: Final = ofdm.WINDOW_BACKOFF
"""Samples that a burst's start may be off before it counts as not found."""
_CFO_TOLERANCE: Final = 0.25 / ofdm.N_FFT
"""Likewise for the carrier offset: a quarter of a subcarrier, cycles per sample."""
_GENIE_BATCH: Final = 25

Air = Callable[[IQ, float, np.random.Generator], IQ]
"""(burst, snr_db, rng) → what is received."""


# ------------------------------------------------------------------------------------------------
# bursts


def make_burst(
    place: int, n_blocks: int, rng: np.random.Generator, *, robust: bool | None = None
) -> framing.Burst:
    """A burst of random long blocks, 0 for a sounding.

    Args:
        place: of the MCS in mcs.MCS_TABLE.
        n_blocks: of the burst; the payload is as long.
        rng: of the content.
        robust: repeated preamble; as the MCS demands if not said.
    """
    payload = rng.bytes(max(n_blocks, 4) * framing.LONG.block_payload_bytes)
    header = framing.BurstHeader(
        session=int(rng.integers(1, 2**32)),
        burst=int(rng.integers(2**16)),
        mcs=mcs.MCS_TABLE[place],
        basis=0,
        first=0,
        block_count=n_blocks,
        payload_bytes=len(payload),
        tag=rng.bytes(framing.TAG_BYTES),
        robust=mcs.MCS_TABLE[place].robust if robust is None else robust,
    )
    return framing.build_burst(header, framing.split(payload)[:n_blocks], range(n_blocks))


@dataclass(frozen=True, slots=True)
class Arrival:
    """A burst as it came through the clean channel, and the truth about it."""

    iq: IQ
    start: int
    cfo: float


def arrive(iq: IQ, snr_db: float, rng: np.random.Generator) -> Arrival:
    """The burst behind a random delay and any carrier offset in range, in noise."""
    start = int(rng.integers(MAX_DELAY_SAMPLES + 1))
    cfo = float(rng.uniform(-1, 1)) * sync.MAX_CFO
    padded = np.concatenate(
        [np.zeros(start, np.complex64), iq, np.zeros(_TAIL_SAMPLES, np.complex64)]
    )
    turned = FrequencyOffset(cfo * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)(padded, rng)
    return Arrival(Awgn(snr_db)(turned, rng), start, cfo)


def air(iq: IQ, snr_db: float, rng: np.random.Generator) -> IQ:
    """The clean channel, as samples."""
    return arrive(iq, snr_db, rng).iq


def preset_air(preset: str, sample_rate_hz: float = SAMPLE_RATE_HZ, **overrides: Any) -> Air:
    """A preset's channel: fading, carrier offset and delay drawn anew for every burst, with its
    radios and noise."""
    chosen = figures(preset, **overrides)

    def cross(iq: IQ, snr_db: float, rng: np.random.Generator) -> IQ:
        loopback = Loopback(
            clock=VirtualClock(),
            rng=rng,
            snr_db=snr_db,
            sample_rate_hz=sample_rate_hz,
            cfo_hz=float(rng.uniform(-1, 1)) * chosen.cfo_hz,
            max_delay_samples=MAX_DELAY_SAMPLES,
            figures=chosen,
        )
        loopback.transmit(np.concatenate([iq, np.zeros(_TAIL_SAMPLES, np.complex64)]))
        return loopback.receive(2 * framing.MAX_BURST_SAMPLES, timeout_s=1.0)

    return cross


def hear(iq: IQ, header: framing.BurstHeader) -> Reception | None:
    """The reception of the burst with this header, or None if it was not found or not read."""
    receptions = (receive_burst(iq, found) for found in sync.find_bursts(iq))
    return next((reception for reception in receptions if reception.header == header), None)


# ------------------------------------------------------------------------------------------------
# acquisition


def acquire(
    rng: np.random.Generator, *, snr_db: float, bursts: int, robust: bool
) -> dict[str, Any]:
    """How many soundings are found where they are, how many headers are read, and the errors of the
    carrier offset.

    Returns:
        bursts, found (start within TIMING_TOLERANCE samples, carrier within a quarter subcarrier),
        read, and cfo_errors in subcarriers: of the preamble, and at the end of the burst where its
        header was read.
    """
    found_count = read = 0
    preamble_errors, final_errors = [], []
    for _ in range(bursts):
        burst = make_burst(mcs.slowest(robust=robust).place, 0, rng)
        arrival = arrive(burst.iq, snr_db, rng)
        for found in sync.find_bursts(arrival.iq):
            error = found.cfo - arrival.cfo
            timing = found.body - len(sync.preamble(robust)) - arrival.start
            if (
                abs(timing) > TIMING_TOLERANCE
                or abs(error) > _CFO_TOLERANCE
                or found.robust != robust
            ):
                continue
            found_count += 1
            preamble_errors.append(error * ofdm.N_FFT)
            reception = receive_burst(arrival.iq, found)
            if reception.header == burst.header:
                read += 1
                final_errors.append((reception.cfo - arrival.cfo) * ofdm.N_FFT)
            break
    return {
        "robust": robust,
        "snr_db": snr_db,
        "bursts": bursts,
        "found": found_count,
        "read": read,
        "cfo_errors": preamble_errors,
        "final_cfo_errors": final_errors,
    }


def false_alarms(
    rng: np.random.Generator, *, source: str, samples: int, chunk: int = 2**19
) -> dict[str, Any]:
    """Bursts that are seen where there is none.

    Args:
        rng: of the samples.
        source: "noise", "tone" (a carrier of random frequency for each chunk, 20 dB above weak
            noise), or "ofdm64" (another system: 64 subcarriers, 52 used, prefix 16, QPSK, at 10
            dB).
        samples: in all, rounded up to whole chunks.
        chunk: samples searched at once.

    Returns:
        source, samples, found (preambles believed), read (of those, headers whose CRC passed).
    """
    make = {"noise": _noise, "tone": _tone, "ofdm64": _other_ofdm}[source]
    found = read = 0
    chunks = ceil_div(samples, chunk)
    for _ in range(chunks):
        iq = make(chunk, rng)
        for burst in sync.find_bursts(iq):
            found += 1
            read += receive_burst(iq, burst).header is not None
    return {"source": source, "samples": chunks * chunk, "found": found, "read": read}


def _noise(n: int, rng: np.random.Generator) -> IQ:
    iq: IQ = rng.standard_normal(2 * n, np.float32).view(np.complex64)
    iq *= np.float32(0.1)
    return iq


def _tone(n: int, rng: np.random.Generator) -> IQ:
    iq = _noise(n, rng)
    iq += np.exp(2j * np.pi * (rng.uniform(-0.5, 0.5) * np.arange(n) + rng.uniform())).astype(
        np.complex64
    )
    return iq


def _other_ofdm(n: int, rng: np.random.Generator) -> IQ:
    n_symbols = ceil_div(n, 80)
    bins = np.zeros((n_symbols, 64), np.complex64)
    used = np.concatenate([np.arange(1, 27), np.arange(-26, 0)])
    bins[:, used] = qam.map_bits(
        rng.integers(0, 2, 2 * n_symbols * len(used), np.uint8), 2
    ).reshape(n_symbols, -1)
    symbols = np.fft.ifft(bins, axis=1, norm="ortho").astype(np.complex64)
    iq = np.concatenate([symbols[:, -16:], symbols], axis=1).ravel()[:n]
    mixed = np.float32((0.1 * 52 / 64 / 0.02) ** 0.5) * _noise(
        n, rng
    )  # 10 dB down: _noise has a power of 0.02
    mixed += iq * np.exp(2j * np.pi * rng.uniform(-0.03, 0.03) * np.arange(n)).astype(np.complex64)
    return mixed


# ------------------------------------------------------------------------------------------------
# SNR


def estimate_snr(
    rng: np.random.Generator, *, snr_db: float, place: int, blocks: int, bursts: int
) -> dict[str, Any]:
    """What the receiver says about the SNR of bursts.

    Returns:
        snr_db, bursts, and of those whose header was read: error_db, std_db, aided (data-aided),
        passed (blocks).
    """
    rows = []
    for _ in range(bursts):
        burst = make_burst(place, blocks, rng)
        reception = hear(air(burst.iq, snr_db, rng), burst.header)
        if reception is None:
            continue
        said = reception.measurement
        passed = int(reception.blocks.passed.sum()) if reception.blocks is not None else 0
        rows.append((said.snr_db - snr_db, said.snr_std_db, said.data_aided, passed))
    columns = _columns(rows, ("error_db", "std_db", "aided", "passed"))
    return {"snr_db": snr_db, "bursts": bursts, "place": place, **columns}


def estimate_blind(
    rng: np.random.Generator, *, snr_db: float, place: int, blocks: int, bursts: int
) -> dict[str, Any]:
    """What the receiver says about the SNR of bursts of which no block passes, or not even the
    header.

    Returns:
        snr_db, bursts, and of those found of which nothing passed: error_db, std_db, aided, read
        (header).
    """
    rows = []
    for _ in range(bursts):
        burst = make_burst(place, blocks, rng)
        arrival = arrive(burst.iq, snr_db, rng)
        for found in sync.find_bursts(arrival.iq):
            if (
                abs(found.body - len(sync.preamble(burst.header.robust)) - arrival.start)
                > TIMING_TOLERANCE
            ):
                continue
            reception = receive_burst(arrival.iq, found)
            if reception.n_passed == 0:
                said = reception.measurement
                rows.append(
                    (
                        said.snr_db - snr_db,
                        said.snr_std_db,
                        said.data_aided,
                        reception.header is not None,
                    )
                )
    return {
        "snr_db": snr_db,
        "bursts": bursts,
        **_columns(rows, ("error_db", "std_db", "aided", "read")),
    }


def _columns(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> dict[str, list[Any]]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


# ------------------------------------------------------------------------------------------------
# error curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How far an error curve is measured, and how well.

    Attributes:
        start_db: where it begins; points lie at whole multiples of step_db from there.
        step_db: between points.
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
        walk: where and how long.
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
        rng: of content and noise.
        place: of the MCS in mcs.MCS_TABLE.
        walk: where to measure.
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
