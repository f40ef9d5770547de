"""The simulated radio of an experiment: the loopback and its link, moved along the trajectories of hil.toml."""

from __future__ import annotations

import math
from pathlib import Path

from hil.conditions import conditions, seeded
from hil.contract import Budget, ConfigError
from hil.control import Bus, BusFeedback
from hil.radio_settings import LoopbackRadio
from radio.channel import figures as channel_figures
from radio.link import OCCUPIED_SUBCARRIERS, Limits, Sounding, airtime_s, payload_bits
from radio.loopback import Loopback, VirtualClock
from radio.ofdm import N_FFT
from radio.recorder import RecordingLink
from radio.recording import Setup

HARDWARE = "loopback: a simulated channel, no radio"


class SimulatedRadio:
    """The loopback and its link, moving from round to round along the trajectories of hil.toml.

    Attributes:
        clock: virtual air time.
        link: carries payloads; measures what it hears.
        snr_db, cfo_hz: what the simulator was told for this round: for reports, never for decisions.
        airtime_share: this round's share of the airtime budget.
    """

    def __init__(
        self, settings: LoopbackRadio, rounds: int, seed: int, buses: tuple[Bus, Bus], iq_dir: Path | None = None
    ) -> None:
        channel = settings.channel
        self._settings = settings
        self._air = conditions(settings, rounds, seed)
        figures = channel_figures(channel.preset, **channel.overrides())
        self._cfo_hz = seeded(seed, "cfo").uniform(-figures.cfo_hz, figures.cfo_hz, rounds)
        self.clock = VirtualClock()
        self._loopback = Loopback(
            clock=self.clock,
            rng=seeded(seed, "air"),
            snr_db=float(self._air.snr_db[0]),
            max_delay_samples=channel.max_delay_samples,
            figures=figures,
        )
        cloud, edge = buses
        feedback = BusFeedback(self.clock, cloud=cloud, edge=edge, delay_s=channel.feedback_delay_s)
        self._iq_dir, self._seed = iq_dir, seed
        self.link = RecordingLink(self._loopback, feedback, self.clock)
        self._round_trip_s = channel.feedback_delay_s
        self.limits = Limits(
            airtime_s=settings.deadline_s,
            elapsed_s=4 * settings.deadline_s,
            feedback_timeout_s=2 * channel.feedback_delay_s + 0.1,
        )
        for rate_hz in {float(b) * N_FFT / OCCUPIED_SUBCARRIERS for b in self._air.bandwidth_hz}:
            if figures.cfo_hz > rate_hz / 32:
                raise ConfigError(
                    f"radio.channel.cfo_hz = {figures.cfo_hz:g}: the preamble resolves ±{rate_hz / 32:g} Hz at "
                    f"{rate_hz:g} samples/s; lower it or widen radio.bandwidth_hz"
                )

    def start_round(self, round_id: int) -> None:
        """Set channel and bandwidth of a round."""
        self.snr_db = float(self._air.snr_db[round_id])
        self.cfo_hz = float(self._cfo_hz[round_id])
        self.airtime_share = float(self._air.airtime_share[round_id])
        self._loopback.snr_db = self.snr_db
        self._loopback.cfo_hz = self.cfo_hz
        self._loopback.sample_rate_hz = float(self._air.bandwidth_hz[round_id]) * N_FFT / OCCUPIED_SUBCARRIERS
        if self._iq_dir is not None:
            notes = {"simulated": True, "seed": self._seed, "round": round_id, "snr_db": self.snr_db}
            self.link.begin(self._iq_dir / f"round-{round_id:05d}", Setup(hardware=HARDWARE, notes=notes))

    @property
    def sample_rate_hz(self) -> float:
        """Of this round."""
        return self._loopback.sample_rate_hz

    def budget(self, airtime_s: float, sounding: Sounding, *, rounds: int) -> Budget:
        """What the link expects to deliver in an airtime at the SNR just measured, before its deadline.

        Args:
            airtime_s: that may be spent.
            sounding: of this round.
            rounds: that the airtime must last, this one included.
        """
        if math.isnan(sounding.snr_db):
            return Budget(airtime_s=airtime_s, bits=0, rounds=rounds)
        usable_s = min(airtime_s, self._settings.deadline_s)
        margin_db = self.link.adaptation.margin_db
        bits = payload_bits(
            usable_s, sounding.flat_snr_db, self.sample_rate_hz, margin_db=margin_db, round_trip_s=self._round_trip_s
        )
        return Budget(airtime_s=airtime_s, bits=int(bits), rounds=rounds)

    def predicted_airtime_s(self, payload: bytes, sounding: Sounding) -> float | None:
        """What the link model says that a payload takes at the SNR just measured; None without payload or SNR."""
        if not payload or math.isnan(sounding.snr_db):
            return None
        expected_s = airtime_s(
            len(payload),
            sounding.flat_snr_db,
            self.sample_rate_hz,
            margin_db=self.link.adaptation.margin_db,
            round_trip_s=self._round_trip_s,
        )
        return float(expected_s)
