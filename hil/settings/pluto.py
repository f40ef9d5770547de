"""[radio] of hil.toml, kind = "pluto": real radios, what they may send, and what the emulated ones
hear."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hil.settings.channel import ChannelSettings
from hil.settings.table import Table
from hil.settings.trajectories import Constant, ShareTrajectory


class BandSettings(Table):
    """One band in which transmitting is allowed, and how strongly."""

    low_hz: float = Field(ge=1e6, le=10e9)
    high_hz: float = Field(ge=1e6, le=10e9)
    max_dbm: float = Field(ge=-100, le=40)
    """Largest transmit power at the antenna port."""

    @model_validator(mode="after")
    def _ordered(self) -> BandSettings:
        if self.low_hz >= self.high_hz:
            raise ValueError(f"low_hz = {self.low_hz:g} must lie below high_hz = {self.high_hz:g}")
        return self


class AllowSettings(Table):
    """[radio.allow]: where this bench may transmit. Nowhere, as long as nothing is written here."""

    bands: list[BandSettings] = Field(default=[], max_length=64)


class EmulatorSettings(Table):
    """[radio.emulator]: what `hil emulate-pluto` puts on its ether beside [radio.channel]; real
    radios ignore it."""

    ppm: list[float] = Field(default=[0.0, 3.0], min_length=1, max_length=8)
    """Error of each node's oscillator, for carrier and sample clock; nodes beyond the list have
    none."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    dwell_s: float = Field(default=10.0, gt=0, le=86_400)
    """Time for which each value of radio.channel.snr_db holds."""


class PlutoRadio(Table):
    """[radio] kind = "pluto": one ADALM-Pluto in loopback, or two of them."""

    kind: Literal["pluto"]
    uri: str = Field(min_length=1)
    """Address of the radio that transmits, for example "ip:192.168.2.1" or "usb:1.2.5"."""
    receive_uri: str = ""
    """Address of the radio that receives; "" = the same one."""
    rate_hz: float = Field(default=1e6, ge=520_834, le=61.44e6)
    """Samples a second in both directions; over USB 2 at most about 2 MS/s both ways."""
    lo_hz: float = Field(default=2.45e9, ge=325e6, le=3.8e9)
    """Carrier of the link."""
    cfo_ppm: float = Field(default=0.0, ge=-100, le=100)
    """Carrier offset of transmitter over receiver, as `hil calibrate cfo` finds it; the receiver is
    tuned by it."""
    tx_attenuation_db: float = Field(default=20.0, ge=0, le=89.75)
    rx_gain_db: float = Field(default=40.0, ge=-3, le=71)
    loopback: Literal["none", "digital"] = "none"
    """"digital": the chip hands what it would send back to its receiver; for one radio without a
    cable."""
    path: str = Field(default="", max_length=200)
    """The path between the radios in words, for the records: "cable, 40 dB"."""
    patience_s: float = Field(default=30.0, ge=1, le=3600)
    """How long a radio that went away may stay away."""
    airtime_share: ShareTrajectory = Constant(value=1.0)
    deadline_s: float = Field(default=20.0, gt=0, le=3600)
    """Air time after which an update that has not arrived is given up."""
    record: bool = False
    """Write every round's received samples into the run's folder, iq/*.sigmf-*, for hil replay."""
    allow: AllowSettings = AllowSettings()
    channel: ChannelSettings = ChannelSettings(
        preset="lab_cable", snr_db=Constant(value=20.0), max_delay_samples=0
    )
    """Between emulated radios alone."""
    emulator: EmulatorSettings = EmulatorSettings()

    @property
    def has_two_radios(self) -> bool:
        """True when another radio receives than the one that transmits."""
        return self.receive_uri not in ("", self.uri)

    @property
    def receive_lo_hz(self) -> float:
        """Carrier that the receiver is tuned to; one oscillator has no offset to itself."""
        return self.lo_hz * (1 + self.cfo_ppm * 1e-6) if self.has_two_radios else self.lo_hz
