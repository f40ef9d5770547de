"""Bursts of known content across a transceiver or a bench: what every measurement of the modem is
made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibration import levels
from calibration.bench import Bench
from hil.contract import IQ, Transceiver
from radio.channel import Loopback
from radio.clocks import VirtualClock
from radio.link.receiver import Reception, receive_burst
from radio.modem import framing, ofdm, preamble, sync
from radio.modem.mcs import MCS_TABLE

TransceiverFactory = Callable[[float, np.random.Generator], Transceiver]
"""(snr_db, rng) → the transceiver for one burst, its channel set to that SNR."""

_ROOM_SAMPLES = 4096
"""Received beyond what was sent: for the delay."""
PAUSE_SAMPLES: Final = 1024
"""Silence behind each burst of a cyclic buffer: there the receiver sees its own DC offset."""
MAX_CYCLE_SAMPLES: Final = 2**16
"""Longest cyclic buffer, where a single block allows: radios have little memory, and buffers time
out."""
MAX_BLOCKS: Final = 8


def loopback_factory(sample_rate_hz: float = 2e6) -> TransceiverFactory:
    """Loopbacks with a random carrier offset within ±0.95 fs/32 and a random delay of up to 2,000
    samples."""

    def make(snr_db: float, rng: np.random.Generator) -> Loopback:
        cfo_hz = float(rng.uniform(-0.95, 0.95)) * preamble.MAX_CFO * sample_rate_hz
        return Loopback(
            clock=VirtualClock(),
            rng=rng,
            snr_db=snr_db,
            sample_rate_hz=sample_rate_hz,
            cfo_hz=cfo_hz,
            max_delay_samples=2000,
        )

    return make


def random_burst(place: int, n_blocks: int, rng: np.random.Generator) -> framing.Burst:
    """A burst of random long blocks.

    Args:
        place: index of the MCS in mcs.MCS_TABLE; a robust one is sent behind the repeated
            preamble.
        n_blocks: number of blocks; 0 for a sounding.
        rng: generator of the content.
    """
    payload = rng.bytes(max(n_blocks, 1) * framing.LONG.block_payload_bytes)
    header = framing.BurstHeader(
        session=1,
        burst=0,
        mcs=MCS_TABLE[place],
        basis=0,
        first=0,
        block_count=n_blocks,
        payload_bytes=len(payload),
        tag=bytes(framing.TAG_BYTES),
        robust=MCS_TABLE[place].robust,
    )
    return framing.build_burst(header, framing.split(payload)[:n_blocks], range(n_blocks))


def cross(
    transceiver: Transceiver, place: int, n_blocks: int, rng: np.random.Generator
) -> Reception | None:
    """Reception of one random burst over the transceiver; None if it was not found or its header
    failed."""
    burst = random_burst(place, n_blocks, rng)
    transceiver.transmit(burst.iq)
    wait_s = 2 * len(burst.iq) / transceiver.sample_rate_hz + 1
    heard = transceiver.receive(len(burst.iq) + _ROOM_SAMPLES, timeout_s=wait_s)
    receptions = [receive_burst(heard, found) for found in sync.find_bursts(heard)]
    return next((reception for reception in receptions if reception.header == burst.header), None)


# ------------------------------------------------------------------------------------------------
# over and over again


@dataclass(frozen=True, slots=True, kw_only=True)
class CyclicBurst:
    """A burst and a pause, to be sent over and over.

    Attributes:
        header: the burst's.
        iq: one period.
        power: mean power of the period, pause included, over that of a burst as the modem means it.
    """

    header: framing.BurstHeader
    iq: IQ
    power: float


def cyclic_burst(
    place: int, n_blocks: int, rng: np.random.Generator, *, backoff_db: float = 0.0
) -> CyclicBurst:
    """Random burst and pause for a cyclic buffer, `backoff_db` ≥ 0 below the modem's level."""
    burst = random_burst(place, n_blocks, rng)
    iq = np.concatenate([burst.iq, np.zeros(PAUSE_SAMPLES, np.complex64)])
    power = float(np.mean(np.abs(iq) ** 2, dtype=np.float64)) / ofdm.RMS_LEVEL**2
    iq *= np.float32(10 ** (-backoff_db / 20))
    return CyclicBurst(header=burst.header, iq=iq, power=power)


def blocks_in_a_cycle(place: int) -> int:
    """Blocks of a scheme, 1..MAX_BLOCKS, whose burst fits a cyclic buffer."""
    count = MAX_BLOCKS
    room = MAX_CYCLE_SAMPLES - PAUSE_SAMPLES
    while count > 1 and framing.burst_samples(count, MCS_TABLE[place]) > room:
        count -= 1
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """Bursts in a capture of a cyclic buffer.

    Attributes:
        receptions: bursts that were found whole and whose header passed, at most `bursts`.
        bursts: number of whole bursts that were asked for.
        power: mean power over whole periods, without the constant.
        clipped: share of clipped samples.
    """

    receptions: tuple[Reception, ...]
    bursts: int
    power: float
    clipped: float


def hear(bench: Bench, sent: CyclicBurst, bursts: int) -> Hearing:
    """Receive `bursts` whole bursts of what goes out over and over."""
    period = len(sent.iq)
    iq = bench.capture((bursts + 1) * period)
    length = sent.header.n_samples
    whole = [
        found
        for found in sync.find_bursts(iq)
        if found.start + math.ceil(length * (1 + 1e-4)) <= len(iq)
    ]
    # the last ones: the first may be the remains of a burst that began before the capture
    receptions = (receive_burst(iq, found) for found in whole[-bursts:])
    return Hearing(
        receptions=tuple(reception for reception in receptions if reception.header == sent.header),
        bursts=bursts,
        power=levels.power(iq[: bursts * period]),
        clipped=levels.clipped_share(iq),
    )
