"""The simulated radio of an experiment: the loopback and its link, moved along the trajectories of
hil.toml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hil.contract import ConfigError
from hil.control.bus import Bus
from hil.control.feedback import LocalFeedback
from hil.radio_kinds.conditions import conditions, seeded
from hil.radio_kinds.round_radio import LinkRadio, Provenance
from hil.settings.radio import LoopbackRadio
from radio.channel import Loopback
from radio.channel import figures as channel_figures
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
        figures = channel_figures(channel.preset, **channel.overrides())
        self._cfo_hz = seeded(seed, "cfo").uniform(-figures.cfo_hz, figures.cfo_hz, rounds)
        clock = VirtualClock()
        self._loopback = Loopback(
            clock=clock,
            rng=seeded(seed, "air"),
            snr_db=float(self._air.snr_db[0]),
            max_delay_samples=channel.max_delay_samples,
            figures=figures,
        )
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

    @property
    def provenance(self) -> Provenance:
        """See RoundRadio."""
        preset = self._settings.channel.preset
        return Provenance(
            simulated=[
                f"radio: a seeded channel ({preset}) stands in for transmitter, air and receiver",
                "time on the link: virtual, counted in samples and feedback delay",
            ]
        )

    def start_round(self, round_id: int) -> None:
        """Set channel and bandwidth of a round."""
        self.snr_db = float(self._air.snr_db[round_id])
        self.cfo_hz = float(self._cfo_hz[round_id])
        self.airtime_share = float(self._air.airtime_share[round_id])
        self._loopback.snr_db = self.snr_db
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
