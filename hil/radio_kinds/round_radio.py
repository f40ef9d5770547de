"""The radio as the loop sees it, round by round, whatever lies behind it: simulated, real, or its
sending half."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from hil.contract import Budget, Clock, LinkReport, Transceiver
from radio.link import Adaptation, Limits, Sounding, airtime_s, payload_bits
from radio.recordings.recorder import RecordingLink
from radio.recordings.recording import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Origin of a run's figures, for its manifest.

    Attributes:
        simulated, emulated: sentences about what is not real; empty lists otherwise.
        devices: "transmitter" and "receiver" → identity.
        thresholds: origin of the SNR that each scheme needs.
        channel: what a simulated channel follows: "snr_db", "profile", ... → kind, and file and
            SHA-256 where it comes from one.
    """

    simulated: list[str] = field(default_factory=list)
    emulated: list[str] = field(default_factory=list)
    devices: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    thresholds: str = "loopback"
    channel: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class _SendingLink(Protocol):
    """Common part of Link and SendingEnd."""

    transceiver: Transceiver
    adaptation: Adaptation

    @property
    def bandwidth_hz(self) -> float: ...

    @property
    def next_session(self) -> int: ...

    def sound(self, limits: Limits | None = None) -> Sounding: ...


class RoundRadio(ABC):
    """A link with its limits, moved from round to round. A context manager.

    Attributes:
        clock: clock of the link.
        limits: limits of a sounding, and of a delivery.
        airtime_share: this round's share of the airtime budget.
        snr_db, cfo_hz: true values of a simulated channel in this round; NaN for radios. They are
            for reports, never for decisions.
    """

    def __init__(
        self, link: _SendingLink, clock: Clock, limits: Limits, round_trip_s: float
    ) -> None:
        """Wrap a link.

        Args:
            link: link that carries payloads and measures the channel.
            clock, limits: attributes of the class.
            round_trip_s: time from the end of a burst to the answer, as budgets expect it.
        """
        self.clock, self.limits = clock, limits
        self.airtime_share = 1.0
        self.snr_db = self.cfo_hz = math.nan
        self._sending, self._round_trip_s = link, round_trip_s

    @property
    @abstractmethod
    def provenance(self) -> Provenance:
        """Origin of its figures."""

    @property
    def health(self) -> Mapping[str, int]:
        """Health of a real radio: counts since it was opened, by their name in rounds.jsonl."""
        return {}

    @property
    def disturbances(self) -> Mapping[str, float | str]:
        """What a simulated channel did in this round beside SNR and carrier offset, by its name in
        rounds.jsonl."""
        return {}

    @abstractmethod
    def start_round(self, round_id: int) -> None:
        """Prepare a round."""

    @abstractmethod
    def deliver(self, payload: bytes, sounding: Sounding) -> LinkReport:
        """Carry a payload across, behind the sounding of its round."""

    @property
    def sample_rate_hz(self) -> float:
        """Sample rate of this round."""
        return self._sending.transceiver.sample_rate_hz

    @property
    def bandwidth_hz(self) -> float:
        """Occupied bandwidth of this round."""
        return self._sending.bandwidth_hz

    @property
    def next_session(self) -> int:
        """Number of the session that the next sounding or delivery opens."""
        return self._sending.next_session

    def sound(self) -> Sounding:
        """Measure the channel."""
        return self._sending.sound(self.limits)

    def budget(self, airtime_s: float, sounding: Sounding, *, rounds: int, pooled: bool) -> Budget:
        """Payload that the link expects to deliver in an airtime, at the SNR last measured.

        Args:
            airtime_s: airtime that may be spent; the deadline of a delivery caps it.
            sounding: last sounding that was answered; before the first, the link counts as the
                worst that its slowest scheme is made for.
            rounds: number of rounds that the airtime must last, this one included.
            pooled: True if later rounds may use what this round leaves over.
        """
        table = self._sending.adaptation.table
        bits = payload_bits(
            min(airtime_s, self.limits.airtime_s),
            table.lowest_db if math.isnan(sounding.snr_db) else sounding.flat_snr_db,
            self.sample_rate_hz,
            margin_db=self._sending.adaptation.margin_db,
            round_trip_s=self._round_trip_s,
            table=table,
        )
        return Budget(airtime_s=airtime_s, bits=int(bits), rounds=rounds, pooled=pooled)

    def predicted_airtime_s(self, payload: bytes, sounding: Sounding) -> float | None:
        """Predicted airtime of a payload at the measured SNR, s; None without payload or SNR."""
        if not payload or math.isnan(sounding.snr_db):
            return None
        expected_s = airtime_s(
            len(payload),
            sounding.flat_snr_db,
            self.sample_rate_hz,
            margin_db=self._sending.adaptation.margin_db,
            round_trip_s=self._round_trip_s,
            table=self._sending.adaptation.table,
        )
        return float(expected_s)

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *exc: Any) -> None: ...


class LinkRadio(RoundRadio):
    """Both ends of the link in this process, every round's samples on the disk if asked for.

    Attributes:
        link: both ends; what it received is asked of link.receiver.
    """

    def __init__(
        self,
        link: RecordingLink,
        clock: Clock,
        limits: Limits,
        round_trip_s: float,
        iq_dir: Path | None,
    ) -> None:
        """Wrap a link; see RoundRadio.

        Args:
            link, clock, limits, round_trip_s: see RoundRadio.
            iq_dir: folder for recordings, one a round; None for no recordings.
        """
        super().__init__(link, clock, limits, round_trip_s)
        self.link = link
        self._iq_dir = iq_dir

    @abstractmethod
    def setup(self, notes: Mapping[str, object]) -> Setup:
        """Description of the hardware in a recording.

        Args:
            notes: further notes, JSON values by name.
        """

    def start_round(self, round_id: int) -> None:
        """Begin the round's recording."""
        if self._iq_dir is not None:
            self.link.begin(self._iq_dir / f"round-{round_id:05d}", self.setup({"round": round_id}))

    def deliver(self, payload: bytes, sounding: Sounding) -> LinkReport:
        """See RoundRadio."""
        report, _ = self.link.deliver(payload, self.limits, sounding=sounding)
        return report

    def __exit__(self, *exc: Any) -> None:
        """End a recording."""
        self.link.end()
