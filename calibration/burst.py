"""One burst of known content across a transceiver: what every measurement of the modem is made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hil.contract import Transceiver
from radio import framing, mcs, sync
from radio.loopback import Loopback, VirtualClock
from radio.receiver import Reception, receive_burst

TransceiverFactory = Callable[[float, np.random.Generator], Transceiver]
"""(snr_db, rng) → the transceiver for one burst, its channel set to that SNR."""

_ROOM_SAMPLES = 4096
"""Received beyond what was sent: for the delay."""


def loopback_factory(sample_rate_hz: float = 2e6) -> TransceiverFactory:
    """Loopbacks with a random carrier offset within ±0.95 fs/32 and a random delay of up to 2,000 samples."""

    def make(snr_db: float, rng: np.random.Generator) -> Loopback:
        cfo_hz = float(rng.uniform(-0.95, 0.95)) * sync.MAX_CFO * sample_rate_hz
        return Loopback(
            clock=VirtualClock(),
            rng=rng,
            snr_db=snr_db,
            sample_rate_hz=sample_rate_hz,
            cfo_hz=cfo_hz,
            max_delay_samples=2000,
        )

    return make


def cross(transceiver: Transceiver, place: int, n_blocks: int, rng: np.random.Generator) -> Reception | None:
    """One burst of random long blocks across the transceiver, or None if it was not found or its header failed.

    Args:
        transceiver: open.
        place: of the MCS in mcs.MCS_TABLE; a robust one is sent behind the repeated preamble.
        n_blocks: 0 for a sounding.
        rng: of the content.
    """
    payload = rng.bytes(max(n_blocks, 1) * framing.LONG.block_payload_bytes)
    header = framing.BurstHeader(
        session=1,
        burst=0,
        mcs=place,
        basis=0,
        first=0,
        block_count=n_blocks,
        payload_bytes=len(payload),
        tag=bytes(framing.TAG_BYTES),
        robust=mcs.is_robust(place),
    )
    iq = framing.build_burst(header, framing.split(payload)[:n_blocks], range(n_blocks)).iq
    transceiver.transmit(iq)
    heard = transceiver.receive(len(iq) + _ROOM_SAMPLES, timeout_s=2 * len(iq) / transceiver.sample_rate_hz + 1)
    receptions = [receive_burst(heard, found) for found in sync.find_bursts(heard)]
    return next((reception for reception in receptions if reception.header == header), None)
