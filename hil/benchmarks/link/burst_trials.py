"""Trials of the modem: a generator and settings in, counts out.

`air` is the clean channel of these trials: random carrier offset over the whole range, random
delay, noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hil.contract import IQ
from hil.rounding import ceil_div
from radio.channel import Awgn, FrequencyOffset, Loopback, figures
from radio.clocks import VirtualClock
from radio.link.receiver import Reception, receive_burst
from radio.modem import framing, mcs, ofdm, preamble, qam, sync

SAMPLE_RATE_HZ: Final = 2e6
MAX_DELAY_SAMPLES: Final = 2000
_TAIL_SAMPLES: Final = 600
TIMING_TOLERANCE: Final = ofdm.WINDOW_BACKOFF
"""Samples that a burst's start may be off before it counts as not found."""
_CFO_TOLERANCE: Final = 0.25 / ofdm.N_FFT
"""Cycles per sample that the carrier offset may be off: a quarter of a subcarrier."""

Air = Callable[[IQ, float, np.random.Generator], IQ]
"""(burst, snr_db, rng) → what is received."""


# ------------------------------------------------------------------------------------------------
# bursts


def make_burst(
    place: int, n_blocks: int, rng: np.random.Generator, *, robust: bool | None = None
) -> framing.Burst:
    """A burst of random long blocks, 0 for a sounding.

    Args:
        place: the MCS's in mcs.MCS_TABLE.
        n_blocks: the burst's blocks; the payload is as long.
        rng: source of the content.
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
    cfo = float(rng.uniform(-1, 1)) * preamble.MAX_CFO
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
            timing = found.body - len(preamble.samples(robust)) - arrival.start
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
        rng: source of the samples.
        source: "noise", "tone" (a carrier of random frequency for each chunk, 20 dB above weak
            noise), or "ofdm64" (another system: 64 subcarriers, 52 used, prefix 16, QPSK, at 10
            dB).
        samples: number in all, rounded up to whole chunks.
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
                abs(found.body - len(preamble.samples(burst.header.robust)) - arrival.start)
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
