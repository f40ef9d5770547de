"""A run's payloads once more over a simulated link: what the radios cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hil.contract import LinkReport
from hil.radio_kinds.conditions import seeded
from hil.reporting.run_folder import Run, Value
from hil.settings.pluto import PlutoRadio
from radio.channel import Loopback, QueueFeedback, figures
from radio.clocks import VirtualClock
from radio.link import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One round's payload over the radios, and the same length over the loopback.

    Attributes:
        round_id: number of the round, from 0.
        delivered: True if the radios delivered the payload.
        payload_bytes: length of the payload.
        snr_db: Es/N0 that the radios measured; the loopback is set to it.
        goodput_bps, elapsed_goodput_bps: payload bits per second of air, and per second from the
            sounding to the last answer, over the radios.
        loopback_goodput_bps, loopback_elapsed_goodput_bps: the same figures over the loopback.
    """

    round_id: int
    delivered: bool
    payload_bytes: int
    snr_db: float
    goodput_bps: float
    elapsed_goodput_bps: float
    loopback_goodput_bps: float
    loopback_elapsed_goodput_bps: float

    @property
    def airtime_ratio(self) -> float:
        """Goodput by airtime, radios over loopback."""
        return self.goodput_bps / self.loopback_goodput_bps

    @property
    def elapsed_ratio(self) -> float:
        """Goodput by elapsed time, radios over loopback."""
        return self.elapsed_goodput_bps / self.loopback_elapsed_goodput_bps


def compare(run: Run, radio: PlutoRadio, seed: int) -> list[Comparison]:
    """Comparison for every round that sent something; the loopback has the same SNR, carrier and
    clock offset.

    Both sides sound before they deliver, and both count it. A radio's oscillator makes its carrier
    and its sample clock, so the measured carrier offset tells both.

    Args:
        run: a run over real or emulated radios.
        radio: its [radio] table.
        seed: seed of payloads and noise.
    """
    clock = VirtualClock()
    ppm = _median_cfo_hz(run) / radio.lo_hz * 1e6 + radio.cfo_ppm
    loopback = Loopback(
        clock=clock,
        rng=seeded(seed, "loopback twin"),
        snr_db=math.nan,
        sample_rate_hz=radio.rate_hz,
        figures=figures(
            radio.channel.shipped_preset,
            **radio.channel.overrides() | {"clock_offset_ppm": ppm, "cfo_hz": 0.0},
        ),
    )
    link = Link(loopback, QueueFeedback(clock, delay_s=radio.channel.feedback_delay_s), clock)
    payloads = seeded(seed, "loopback twin payloads")
    found = []
    for row in run.rows:
        n_bytes = int(row["payload.bytes"])
        if n_bytes:
            loopback.snr_db, loopback.cfo_hz = float(row["link.snr_db"]), float(row["link.cfo_hz"])
            sounding = link.sound()
            report, _ = link.deliver(payloads.bytes(n_bytes), sounding=sounding)
            found.append(_comparison(row, report))
    return found


def _comparison(row: Mapping[str, Value], report: LinkReport) -> Comparison:
    bits = 8.0 * report.payload_bytes
    sent = bits if row["link.delivered"] else 0.0
    return Comparison(
        round_id=int(row["round.id"]),
        delivered=bool(row["link.delivered"]),
        payload_bytes=report.payload_bytes,
        snr_db=float(row["link.snr_db"]),
        goodput_bps=sent / float(row["link.airtime_s"]),
        elapsed_goodput_bps=sent / float(row["link.elapsed_s"]),
        loopback_goodput_bps=bits / report.airtime_s,
        loopback_elapsed_goodput_bps=bits / report.elapsed_s,
    )


def _median_cfo_hz(run: Run) -> float:
    measured = sorted(
        value for value in run.numbers("link.cfo_hz").tolist() if not math.isnan(value)
    )
    return measured[len(measured) // 2] if measured else 0.0
