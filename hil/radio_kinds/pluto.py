"""Real radios of an experiment: both ends of the link in this process, or its sending end alone."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Self

from hil.contract import LinkReport
from hil.control.bus import Bus
from hil.control.feedback import CloudFeedback, LocalFeedback
from hil.radio_kinds.conditions import seeded, values
from hil.radio_kinds.pluto_devices import open_receiver, open_transmitter, warm_up
from hil.radio_kinds.round_radio import LinkRadio, Provenance, RoundRadio
from hil.radio_kinds.thresholds import thresholds_of
from hil.settings import CalibrationSettings
from hil.settings.pluto import PlutoRadio
from radio.clocks import MonotonicClock
from radio.link import Adaptation, Limits, SendingEnd, Sounding
from radio.pluto.pair import PlutoPair
from radio.pluto.settings import DeviceIdentity
from radio.recordings.recorder import RecordingLink
from radio.recordings.recording import Setup

_ROUND_TRIP_S: Final = 0.1
"""Time from the end of a burst to the answer, as budgets expect it: buffers of 16 ms on both
sides, decoding, a broker."""
_FEEDBACK_TIMEOUT_S: Final = 0.5


def _limits(settings: PlutoRadio) -> Limits:
    """Limits that leave a radio time to go away once and return."""
    return Limits(
        airtime_s=settings.deadline_s,
        elapsed_s=4 * settings.deadline_s + settings.patience_s,
        feedback_timeout_s=_FEEDBACK_TIMEOUT_S,
    )


def _provenance(
    settings: PlutoRadio, devices: Mapping[str, DeviceIdentity], thresholds: str
) -> Provenance:
    channel = settings.channel
    emulated = [
        f"{what}: {device.model}, {device.serial}, in software behind the libiio network "
        "protocol; the air between "
        f"emulated radios is simulated ({channel.preset})"
        for what, device in devices.items()
        if device.emulated
    ]
    identities = {what: asdict(device) for what, device in devices.items()}
    return Provenance(emulated=emulated, devices=identities, thresholds=thresholds)


class PlutoPairRadio(LinkRadio):
    """Both ends of the link over two Plutos, or over one with its own echo, in real time.

    Args:
        settings: the [radio] table.
        calibration: the [calibration] table; the bench's own thresholds may lie in its folder.
        rounds: number of rounds.
        seed: seed of the airtime shares.
        buses: both ends of the control channel, (cloud, edge), for the feedback.
        iq_dir: folder for recordings, one a round; None for no recordings.
    """

    def __init__(
        self,
        settings: PlutoRadio,
        calibration: CalibrationSettings,
        rounds: int,
        seed: int,
        buses: tuple[Bus, Bus],
        iq_dir: Path | None = None,
    ) -> None:
        self._settings, self._calibration = settings, calibration
        self._thresholds = ""
        self._shares = values(
            settings.airtime_share, rounds, seeded(seed, "airtime"), "channel.airtime_share"
        )
        transmitter = open_transmitter(settings)
        self._pair = PlutoPair(
            transmitter, open_receiver(settings) if settings.has_two_radios else transmitter
        )
        clock = MonotonicClock()
        cloud, edge = buses
        link = RecordingLink(self._pair, LocalFeedback(edge, cloud, clock), clock)
        super().__init__(link, clock, _limits(settings), _ROUND_TRIP_S, iq_dir)

    def __enter__(self) -> Self:
        """Open the radios.

        Raises:
            DeviceError: one cannot be reached, or does not take its settings.
        """
        warm_up()
        self._pair.__enter__()
        known = thresholds_of(
            self._settings, self._calibration, self._pair.tx.identity, self._pair.rx.identity.serial
        )
        self.link.adaptation, self._thresholds = Adaptation(table=known.table), known.source
        return self

    @property
    def provenance(self) -> Provenance:
        """See RoundRadio."""
        devices = {"transmitter": self._pair.tx.identity, "receiver": self._pair.rx.identity}
        return _provenance(self._settings, devices, self._thresholds)

    def start_round(self, round_id: int) -> None:
        """See RoundRadio."""
        self.airtime_share = float(self._shares[round_id])
        super().start_round(round_id)

    @property
    def health(self) -> Mapping[str, int]:
        """See RoundRadio."""
        tx, rx = self._pair.tx, self._pair.rx
        outages = rx.outages + (tx.outages if tx is not rx else 0)
        return {"radio.outages": outages, "radio.clipped_samples": rx.clipped_samples}

    def setup(self, notes: Mapping[str, object]) -> Setup:
        """See LinkRadio."""
        settings, rx, provenance = self._settings, self._pair.rx, self.provenance
        facts = {
            "simulated": False,
            "emulated": bool(provenance.emulated),
            "devices": provenance.devices,
        }
        return Setup(
            hardware=f"{rx.identity.model}, {rx.identity.serial}",
            frequency_hz=settings.lo_hz,
            gain_db=settings.rx_gain_db,
            notes={**facts, "path": settings.path, **notes},
        )

    def __exit__(self, *exc: Any) -> None:
        """End a recording, and close the radios."""
        try:
            super().__exit__(*exc)
        finally:
            self._pair.__exit__(*exc)


class PlutoSendingRadio(RoundRadio):
    """The sending end of the link over one Pluto; the receiving end is another process.

    Args:
        settings: the [radio] table.
        calibration: the [calibration] table; the bench's own thresholds may lie in its folder.
        rounds: number of rounds.
        seed: seed of the airtime shares.
        bus: the cloud's end of the control channel, for the feedback.
    """

    def __init__(
        self,
        settings: PlutoRadio,
        calibration: CalibrationSettings,
        rounds: int,
        seed: int,
        bus: Bus,
    ) -> None:
        self._settings, self._calibration = settings, calibration
        self._thresholds, self._receiver = "loopback", ""
        self._shares = values(
            settings.airtime_share, rounds, seeded(seed, "airtime"), "channel.airtime_share"
        )
        self._pluto = open_transmitter(settings)
        clock = MonotonicClock()
        self._link = SendingEnd(
            self._pluto,
            CloudFeedback(bus, clock),
            clock,
            first_session=1
            + secrets.randbelow(2**31),  # the edge may remember sessions of earlier runs
            patience_s=settings.patience_s,
        )
        super().__init__(self._link, clock, _limits(settings), _ROUND_TRIP_S)

    def __enter__(self) -> Self:
        """Open the radio.

        Raises:
            DeviceError: it cannot be reached, or does not take its settings.
        """
        warm_up()
        self._pluto.__enter__()
        return self

    @property
    def provenance(self) -> Provenance:
        """See RoundRadio."""
        found = _provenance(self._settings, {"transmitter": self._pluto.identity}, self._thresholds)
        return replace(found, devices={**found.devices, "receiver": {"serial": self._receiver}})

    @property
    def health(self) -> Mapping[str, int]:
        """Counts of the transmitter alone; see RoundRadio."""
        return {"radio.outages": self._pluto.outages}

    def set_receiver(self, serial: str) -> None:
        """Use the thresholds that were calibrated with this receiver."""
        self._receiver = serial
        known = thresholds_of(self._settings, self._calibration, self._pluto.identity, serial)
        self._link.adaptation, self._thresholds = Adaptation(table=known.table), known.source

    def start_round(self, round_id: int) -> None:
        """See RoundRadio."""
        self.airtime_share = float(self._shares[round_id])

    def deliver(self, payload: bytes, sounding: Sounding) -> LinkReport:
        """See RoundRadio."""
        return self._link.deliver(payload, self.limits, sounding=sounding)

    def __exit__(self, *exc: Any) -> None:
        """Close the radio."""
        self._pluto.__exit__(*exc)
