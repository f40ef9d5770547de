"""Trials of the link: whole payloads across simulated channels, and bursts through fades."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hil.benchmarks.link import bounds
from hil.benchmarks.link.burst_trials import SAMPLE_RATE_HZ, air, hear, make_burst, preset_air
from hil.contract import IQ, LinkReport
from radio.channel import Figures, Loopback, QueueFeedback, figures
from radio.channel.presets import NOISE_ALONE
from radio.channel.profiles import power_delay_profile
from radio.clocks import VirtualClock
from radio.link import Adaptation, Limits, Link
from radio.link.receiver import Receiver
from radio.link.sender import Sender
from radio.modem import framing, mcs, ofdm, sync
from radio.modem.mcs import Mcs

FEEDBACK_DELAY_S: Final = 0.05
_CFO_HZ: Final = 5e3
_FADES_AT_ONCE: Final = 2000
_CLASSES: Final = ("sync", "header", "blocks")


@dataclass(slots=True)
class FixedMcs(Adaptation):
    """An adaptation that always takes one MCS."""

    place: int = 0

    def choose(self, snr_db: float, snr_std_db: float = 0.0) -> Mcs | None:
        """The one."""
        return mcs.MCS_TABLE[self.place]


def make_link(
    rng: np.random.Generator,
    *,
    snr_db: float,
    chosen: Figures = NOISE_ALONE,
    transceiver: type[Loopback] = Loopback,
    **options: Any,
) -> Link:
    """A link over a simulated channel, its carrier off by up to 5 kHz, answers 50 ms late."""
    clock = VirtualClock()
    loopback = transceiver(
        clock=clock,
        rng=rng,
        snr_db=snr_db,
        sample_rate_hz=SAMPLE_RATE_HZ,
        cfo_hz=float(rng.uniform(-_CFO_HZ, _CFO_HZ)),
        figures=chosen,
        **options,
    )
    return Link(loopback, QueueFeedback(clock, delay_s=FEEDBACK_DELAY_S), clock)


def _summary(report: LinkReport, whole: bool) -> dict[str, Any]:
    return {
        "delivered": report.delivered and whole,
        "wrong": report.delivered and not whole,
        "reason": report.reason,
        "airtime_s": report.airtime_s,
        "elapsed_s": report.elapsed_s,
        "bursts": report.bursts_sent,
        "bursts_lost": report.bursts_lost,
        "blocks": report.blocks_sent,
        "blocks_lost": report.blocks_lost,
        "feedback_bytes": report.feedback_bytes,
        "by_mcs": dict(report.blocks_by_mcs),
        "measured_snr_db": report.snr_db,
    }


# ------------------------------------------------------------------------------------------------
# payloads


def deliver(
    rng: np.random.Generator,
    *,
    snr_db: float,
    payload_bytes: int,
    preset: str | None = None,
    place: int | None = None,
    restart_after_s: float | None = None,
    elapsed_limit_s: float = 300.0,
    case: str = "",
) -> dict[str, Any]:
    """One payload over a new link.

    Args:
        rng: source of payload and channel.
        snr_db: mean Es/N0.
        payload_bytes: its length.
        preset: the channel's; noise alone if none is named.
        place: the only MCS that is used; else the link adapts.
        restart_after_s: the receiver is replaced by one that knows nothing, once this much was on
            the air.
        elapsed_limit_s: longest time on the link's own clock.
        case: handed through.

    Returns:
        The report's figures, "delivered" only if the payload came out equal; goodput_bps over the
        time that passed, waiting included; capacity_bps, its mean over the fades where there is a
        preset; wall_s.
    """
    payload = rng.bytes(payload_bytes)
    chosen = figures(preset) if preset else NOISE_ALONE
    link = make_link(rng, snr_db=snr_db, chosen=chosen)
    first = link.receiver
    if place is not None:
        link.adaptation = FixedMcs(place=place)
    if restart_after_s is not None:
        _restart_receiver_after(link, restart_after_s)
    began_s = time.monotonic()
    report, received = link.deliver(payload, Limits(elapsed_s=elapsed_limit_s))
    done = report.delivered and received == payload
    return {
        "case": case,
        "snr_db": snr_db,
        "payload_bytes": payload_bytes,
        "fixed": place is not None,
        **_summary(report, received == payload),
        "restart_wanted": restart_after_s is not None,
        "restarted": link.receiver is not first,
        "goodput_bps": 8 * payload_bytes / report.elapsed_s if done else 0.0,
        "capacity_bps": ergodic_capacity_bps(snr_db, chosen),
        "wall_s": time.monotonic() - began_s,
    }


def _restart_receiver_after(link: Link, airtime_s: float) -> None:
    """Replace the link's receiver by a new one as soon as this much has been on the air."""
    transceiver = link.transceiver
    transmit = transceiver.transmit
    sent_s = 0.0

    def watch(iq: IQ) -> None:
        nonlocal sent_s
        before, sent_s = sent_s, sent_s + len(iq) / transceiver.sample_rate_hz
        transmit(iq)
        if before <= airtime_s < sent_s:
            link.receiver = Receiver(epoch=2)

    transceiver.transmit = watch  # type: ignore[method-assign]


def one_window(
    rng: np.random.Generator,
    *,
    payload_bytes: int,
    payloads: int,
    places: Sequence[int],
    loss: float,
    repair: bool,
) -> dict[str, Any]:
    """How many payloads are whole after their first window, where the table expects a share of
    blocks to be lost.

    Args:
        rng: source of payloads, MCS and channel.
        payload_bytes: length of each.
        payloads: number of payloads.
        places: MCS among which each payload draws its own.
        loss: share of blocks that the table expects to be lost at the SNR, which the sender knows.
        repair: waiting 50 ms for an answer counts as air, so that repair blocks pay; else nothing
            is sent in excess.

    Returns:
        repair, payloads, complete (of them), airtime_s and blocks (for each).
    """
    round_trip = FEEDBACK_DELAY_S * SAMPLE_RATE_HZ if repair else 0.0
    complete, airtime_s, wanted = 0, [], []
    for _ in range(payloads):
        place = int(rng.choice(list(places)))
        snr_db = snr_at_loss_db(place, loss)
        payload = rng.bytes(payload_bytes)
        sender = Sender(payload, session=1, adaptation=FixedMcs(place=place), snr_db=snr_db)
        receiver = Receiver(epoch=1)
        for burst in sender.window(2**31, round_trip):
            receiver.feed(air(burst.iq, snr_db, rng), SAMPLE_RATE_HZ)
        receiver.flush(SAMPLE_RATE_HZ)
        complete += receiver.payload(1) == payload
        airtime_s.append(sender.sent.samples / SAMPLE_RATE_HZ)
        wanted.append(sender.sent.blocks)
    return {
        "repair": repair,
        "payloads": payloads,
        "complete": complete,
        "airtime_s": airtime_s,
        "blocks": wanted,
    }


def snr_at_loss_db(place: int, loss: float) -> float:
    """The SNR at which the table expects this share of lost blocks, to 0.01 dB."""
    levels = np.arange(-12.0, 40.0, 0.01)
    return float(levels[np.argmax(mcs.block_error_rate(mcs.MCS_TABLE[place], levels) <= loss)])


def ergodic_capacity_bps(
    snr_db: float, chosen: Figures, sample_rate_hz: float = SAMPLE_RATE_HZ
) -> float:
    """Capacity of the occupied bandwidth: of a Rayleigh channel, mean over its fades, where the
    preset has any.

    Power is the same on every subcarrier and at all times (the sender does not know the channel);
    every subcarrier fades alike, so that the mean is E log2(1 + SNR g) with g exponential, whatever
    the profile's delays are.
    """
    snr = 10 ** (snr_db / 10)
    width_hz = sample_rate_hz * (ofdm.N_USED + 1) / ofdm.N_FFT
    if chosen.profile == "none":
        return width_hz * math.log2(1 + snr)
    nodes, weights = np.polynomial.laguerre.laggauss(64)
    return width_hz * float(weights @ np.log2(1 + snr * nodes))


def ideal_airtime_s(
    payload_bytes: int, place: int, sample_rate_hz: float = SAMPLE_RATE_HZ
) -> float:
    """Time that the payload's blocks take, each once: no preamble, no header, no waiting."""
    layout = framing.layout_of(payload_bytes)
    symbols = framing.data_symbols(
        framing.block_count_of(payload_bytes), mcs.MCS_TABLE[place], layout
    )
    return symbols * ofdm.SYMBOL_SAMPLES / sample_rate_hz


# ------------------------------------------------------------------------------------------------
# fades


def fade_losses(
    rng: np.random.Generator,
    *,
    place: int,
    snr_db: float,
    bursts: int,
    n_blocks: int,
    preset: str = "pedestrian",
    sample_rate_hz: float = 4e6,
) -> dict[str, Any]:
    """Blocks lost over a fading channel, every burst in a fade of its own, and what lost them.

    Returns:
        snr_db, bursts, n_blocks, lost (blocks, for each burst), and by_cause: bursts that lost any
        because the burst was not found ("sync"), its header not read ("header"), or only blocks
        failed ("blocks").
    """
    channel = preset_air(preset, sample_rate_hz)
    lost: list[int] = []
    causes = dict.fromkeys(_CLASSES, 0)
    for _ in range(bursts):
        burst = make_burst(place, n_blocks, rng)
        iq = channel(burst.iq, snr_db, rng)
        reception = hear(iq, burst.header)
        passed = (
            int(reception.blocks.passed.sum())
            if reception is not None and reception.blocks is not None
            else 0
        )
        lost.append(n_blocks - passed)
        if reception is None:
            causes["header" if sync.find_bursts(iq) else "sync"] += 1
        elif passed < n_blocks:
            causes["blocks"] += 1
    return {
        "snr_db": snr_db,
        "bursts": bursts,
        "n_blocks": n_blocks,
        "lost": lost,
        "by_cause": causes,
    }


def outage(
    rng: np.random.Generator,
    *,
    place: int,
    snr_db: Sequence[float],
    fades: int,
    preset: str = "pedestrian",
    sample_rate_hz: float = 4e6,
    backoff_db: float = 0.0,
) -> dict[str, Any]:
    """Share of fades in which the used subcarriers carry less than the MCS sends, whatever the
    receiver.

    What equally likely points of the MCS's constellation carry at SNR |h_k|² / backoff, mean over
    the used subcarriers of a standing channel, against the MCS's bits per symbol. With the distance
    that the code keeps to that limit without fading as backoff, it is what the link as it is could
    reach if it knew the channel.
    """
    chosen = figures(preset)
    profile = power_delay_profile(chosen.profile, chosen.delay_spread_ns * 1e-9, chosen.k_factor_db)
    turns = np.exp(
        -2j * np.pi * np.outer(profile.delays_s, ofdm.USED * sample_rate_hz / ofdm.N_FFT)
    )
    scheme = mcs.MCS_TABLE[place]
    levels = np.arange(-40.0, 50.0, 0.5)
    carried = [bounds.information_density(float(s), scheme.bits_per_symbol)[0] for s in levels]
    lost, drawn = np.zeros(len(snr_db)), 0
    while drawn < fades:
        gains = rng.standard_normal((_FADES_AT_ONCE, 2 * len(profile.powers))).view(np.complex128)
        power = np.abs((gains * np.sqrt(profile.powers / 2)) @ turns) ** 2
        power_db = 10 * np.log10(np.maximum(power, 1e-9))
        for k, mean_db in enumerate(snr_db):
            bits = np.interp(power_db + mean_db - backoff_db, levels, carried).mean(axis=1)
            lost[k] += np.count_nonzero(bits < scheme.efficiency)
        drawn += _FADES_AT_ONCE
    return {
        "snr_db": list(snr_db),
        "outage": (lost / drawn).tolist(),
        "fades": drawn,
        "backoff_db": backoff_db,
    }
