"""The simulated radio of an experiment: the loopback and its link, moved along the trajectories of
hil.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hil.contract import ConfigError
from hil.control.bus import Bus
from hil.control.feedback import LocalFeedback
from hil.radio_kinds.channel_files import figures_of, interferer_of, sources
from hil.radio_kinds.conditions import conditions, seeded, trace_of
from hil.radio_kinds.round_radio import LinkRadio, Provenance
from hil.settings.interferer import ToneInterferer
from hil.settings.radio import LoopbackRadio
from radio.channel import Loopback
from radio.channel.responses import RecordedDelayLine
from radio.clocks import VirtualClock
from radio.link import OCCUPIED_SUBCARRIERS, Limits
from radio.modem.ofdm import N_FFT
from radio.recordings.recorder import RecordingLink
from radio.recordings.recording import Setup

HARDWARE = "loopback: a simulated channel, no radio"


class SimulatedRadio(LinkRadio):
    """The loopback and its link; its clock counts air time.

    Args:
        settings: the [radio] table.
        rounds: number of rounds.
        seed: seed of everything random.
        buses: both ends of the control channel, (cloud, edge), for the feedback.
        iq_dir: folder for recordings, one a round; None for no recordings.

    Raises:
        ConfigError: the preamble cannot resolve the carrier offset.
    """

    def __init__(
        self,
        settings: LoopbackRadio,
        rounds: int,
        seed: int,
        buses: tuple[Bus, Bus],
        iq_dir: Path | None = None,
    ) -> None:
        channel = settings.channel
        self._settings, self._seed = settings, seed
        self._air = conditions(settings, rounds, seed)
        self._snr = trace_of(channel.snr_db, "channel.snr_db")
        figures = figures_of(channel)
        self._cfo_hz = seeded(seed, "cfo").uniform(-figures.cfo_hz, figures.cfo_hz, rounds)
        clock = VirtualClock()
        self._loopback = Loopback(
            clock=clock,
            rng=seeded(seed, "air"),
            snr_db=float(self._air.snr_db[0]),
            max_delay_samples=channel.max_delay_samples,
            figures=figures,
            interferer=interferer_of(channel, seed),
        )
        self._begun_s = 0.0
        cloud, edge = buses
        feedback = LocalFeedback(edge, cloud, clock, delay_s=channel.feedback_delay_s)
        limits = Limits(
            airtime_s=settings.deadline_s,
            elapsed_s=4 * settings.deadline_s,
            feedback_timeout_s=2 * channel.feedback_delay_s + 0.1,
        )
        super().__init__(
            RecordingLink(self._loopback, feedback, clock),
            clock,
            limits,
            channel.feedback_delay_s,
            iq_dir,
        )
        for rate_hz in {float(b) * N_FFT / OCCUPIED_SUBCARRIERS for b in self._air.bandwidth_hz}:
            if figures.cfo_hz > rate_hz / 32:
                raise ConfigError(
                    f"radio.channel.cfo_hz = {figures.cfo_hz:g}: the preamble resolves "
                    f"±{rate_hz / 32:g} Hz at "
                    f"{rate_hz:g} samples/s; lower it or widen radio.bandwidth_hz"
                )
            if isinstance(channel.interferer, ToneInterferer) and (
                2 * abs(channel.interferer.offset_hz) >= rate_hz
            ):
                raise ConfigError(
                    f"radio.channel.interferer.offset_hz = {channel.interferer.offset_hz:g}: the "
                    f"receiver hears ±{rate_hz / 2:g} Hz at {rate_hz:g} samples/s; move it inside"
                )

    @property
    def provenance(self) -> Provenance:
        """See RoundRadio."""
        preset = self._settings.channel.preset
        return Provenance(
            simulated=[
                f"radio: a seeded channel ({preset}) stands in for transmitter, air and receiver",
                "time on the link: virtual, counted in samples and feedback delay",
            ],
            channel=sources(self._settings),
        )

    @property
    def disturbances(self) -> Mapping[str, float | str]:
        """See RoundRadio; of what moves with time, while this round lasted until now."""
        found: dict[str, float | str] = {}
        span_s = self._begun_s, self.clock.now()
        if self._snr is not None:
            found["truth.snr_low_db"], found["truth.snr_high_db"] = self._snr.limits(*span_s)
        for line in self._loopback.multipath:
            if isinstance(line, RecordedDelayLine):
                found["truth.gain_db"] = line.mean_gain_db(*span_s)
        interferer = self._settings.channel.interferer
        if interferer is not None:
            found["truth.interferer"] = interferer.kind
            found["truth.inr_db"] = interferer.inr_db
        return found

    def start_round(self, round_id: int) -> None:
        """Set channel and bandwidth of a round, when its time has come."""
        self.clock.sleep_until(round_id * self._settings.round_period_s)
        self._begun_s = self.clock.now()
        self.snr_db = float(
            self._air.snr_db[round_id] if self._snr is None else self._snr.at(self._begun_s)
        )
        self.cfo_hz = float(self._cfo_hz[round_id])
        self.airtime_share = float(self._air.airtime_share[round_id])
        self._loopback.snr_db = self.snr_db if self._snr is None else self._snr
        self._loopback.cfo_hz = self.cfo_hz
        self._loopback.sample_rate_hz = (
            float(self._air.bandwidth_hz[round_id]) * N_FFT / OCCUPIED_SUBCARRIERS
        )
        super().start_round(round_id)

    def setup(self, notes: Mapping[str, object]) -> Setup:
        """See LinkRadio."""
        return Setup(
            hardware=HARDWARE,
            notes={"simulated": True, "seed": self._seed, "snr_db": self.snr_db, **notes},
        )
