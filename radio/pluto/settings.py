"""Settings and identity of an ADALM-Pluto."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

from hil.contract import ConfigError

TX_FULL_SCALE_DBM: Final = 7.0
"""Estimate of the power at full scale and 0 dB attenuation (data sheet of the AD9363: +7 to +8 dBm,
by frequency)."""
MAX_ATTENUATION_DB: Final = 89.75
MIN_RATE_HZ: Final = 521e3
"""Slowest converter clock, 25/12 MHz, decimated by 4 in the programmable filter; what pyadi-iio
still sets."""
Loopback = Literal["none", "digital"]

_MAX_RATE_HZ: Final = 61.44e6
_LO_RANGE_HZ: Final = (
    70e6,
    6e9,
)  # of the AD9364; a board that keeps to the AD9363's range refuses by itself
_GAIN_RANGE_DB: Final = (-3.0, 76.0)  # the ends depend on the carrier; the board refuses by itself
_MIN_BANDWIDTH_HZ: Final = 200e3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """Identity of a radio.

    Attributes:
        serial: serial number; calibrations are filed by it.
        firmware, model: firmware and model, as the device reports them.
        emulated: True for a radio in software.
        uri: address at which it was reached.
    """

    serial: str
    firmware: str
    model: str
    emulated: bool
    uri: str

    @classmethod
    def of(cls, attributes: Mapping[str, str], uri: str) -> Self:
        """The identity in a libiio context's attributes."""
        model = attributes.get("hw_model", "unknown")
        return cls(
            serial=attributes.get("hw_serial", "unknown"),
            firmware=attributes.get("fw_version", "unknown"),
            model=model,
            emulated="emulated" in model.lower(),
            uri=uri,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlutoSettings:
    """Settings of a radio; they replace whatever another program left on it.

    Attributes:
        uri: address, for example "ip:192.168.2.1" or "usb:1.5.5"; it is never searched for.
        rate_hz: sample rate of both directions, 521e3..61.44e6. USB 2 carries 1-2 MS/s both ways, 4
            one way.
        tx_lo_hz, rx_lo_hz: carriers, 70e6..6e9 (325e6..3.8e9 as boards are sold).
        rx_gain_db: manual receive gain, -3..76 (71 at most above 1.3 GHz).
        tx_attenuation_db: 0..89.75 in steps of 0.25.
        tx_bandwidth_hz, rx_bandwidth_hz: width of the analog filters, >= 200e3; None: the sample
            rate.
        loopback: "digital": the chip returns the samples that it is sent.
        buffer_samples: length of one buffer, each way.
        kernel_buffers: receive buffers in the radio, >= 2: what it holds while nobody reads.
    """

    uri: str
    rate_hz: float
    tx_lo_hz: float
    rx_lo_hz: float
    rx_gain_db: float
    tx_attenuation_db: float
    tx_bandwidth_hz: float | None = None
    rx_bandwidth_hz: float | None = None
    loopback: Loopback = "none"
    buffer_samples: int = 2**14
    kernel_buffers: int = 16

    def __post_init__(self) -> None:
        if ":" not in self.uri:
            raise ConfigError(
                f"Pluto uri is {self.uri!r}; expected for example 'ip:192.168.2.1' or 'usb:1.5.5'"
            )
        _require("rate_hz", self.rate_hz, MIN_RATE_HZ, _MAX_RATE_HZ)
        _require("tx_lo_hz", self.tx_lo_hz, *_LO_RANGE_HZ)
        _require("rx_lo_hz", self.rx_lo_hz, *_LO_RANGE_HZ)
        _require("rx_gain_db", self.rx_gain_db, *_GAIN_RANGE_DB)
        _require("tx_attenuation_db", self.tx_attenuation_db, 0.0, MAX_ATTENUATION_DB)
        _require("tx_bandwidth_hz", self.tx_filter_hz, _MIN_BANDWIDTH_HZ, _MAX_RATE_HZ)
        _require("rx_bandwidth_hz", self.rx_filter_hz, _MIN_BANDWIDTH_HZ, _MAX_RATE_HZ)
        if self.loopback not in ("none", "digital"):
            raise ConfigError(f"Pluto loopback is {self.loopback!r}; expected 'none' or 'digital'")
        _require("buffer_samples", self.buffer_samples, 256, 2**22)
        _require("kernel_buffers", self.kernel_buffers, 2, 64)

    def changed(self, **changes: Any) -> PlutoSettings:
        """These settings with some of them anew; what is None stays.

        Raises:
            ConfigError: a value out of range.
        """
        return replace(
            self, **{name: value for name, value in changes.items() if value is not None}
        )

    @property
    def tx_filter_hz(self) -> float:
        """Width of the transmit filter."""
        return self.rate_hz if self.tx_bandwidth_hz is None else self.tx_bandwidth_hz

    @property
    def rx_filter_hz(self) -> float:
        """Width of the receive filter."""
        return self.rate_hz if self.rx_bandwidth_hz is None else self.rx_bandwidth_hz

    @property
    def buffer_s(self) -> float:
        """Duration of one buffer."""
        return self.buffer_samples / self.rate_hz

    @property
    def power_dbm(self) -> float:
        """Power at the connector of a signal at full scale: an estimate, see TX_FULL_SCALE_DBM."""
        return TX_FULL_SCALE_DBM - self.tx_attenuation_db


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"Pluto {name} is {value:g}; expected {low:g} to {high:g}")
