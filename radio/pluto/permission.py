"""Permission to transmit: none, until a band and its power are allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hil.contract import ConfigError

_RESOLUTION_HZ = 1.0  # bands are written by hand: an edge that rounding put outside is still inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A band that its user may transmit in.

    Attributes:
        low_hz, high_hz: its edges, 0 < low_hz < high_hz.
        max_dbm: largest power at the transmitter's connector.
    """

    low_hz: float
    high_hz: float
    max_dbm: float

    def __post_init__(self) -> None:
        if not 0 < self.low_hz < self.high_hz < math.inf:
            raise ConfigError(
                f"[radio.allow] band {self.low_hz:g} to {self.high_hz:g} Hz; expected 0 < low_hz "
                "< high_hz, in Hz"
            )
        if not math.isfinite(self.max_dbm):
            raise ConfigError(f"[radio.allow] max_dbm is {self.max_dbm}; expected a power in dBm")


class Permission:
    """The bands that may be transmitted in; by default none.

    Attributes:
        bands: allowed bands.
    """

    def __init__(self, bands: Iterable[Band] = ()) -> None:
        self.bands = tuple(bands)

    def require(self, tx_lo_hz: float, bandwidth_hz: float, power_dbm: float) -> None:
        """Return if one band holds the whole signal and allows its power.

        Args:
            tx_lo_hz: centre of the signal.
            bandwidth_hz: its whole width.
            power_dbm: power at the transmitter's connector.

        Raises:
            ConfigError: no band does; it says what to add to hil.toml.
        """
        low_hz, high_hz = tx_lo_hz - bandwidth_hz / 2, tx_lo_hz + bandwidth_hz / 2
        holding = [
            band
            for band in self.bands
            if band.low_hz - _RESOLUTION_HZ <= low_hz and high_hz <= band.high_hz + _RESOLUTION_HZ
        ]
        if any(power_dbm <= band.max_dbm for band in holding):
            return
        signal = f"{low_hz / 1e6:.6g} to {high_hz / 1e6:.6g} MHz at {power_dbm:.1f} dBm"
        if holding:
            limit_dbm = max(band.max_dbm for band in holding)
            raise ConfigError(
                f"transmitting {signal} exceeds the {limit_dbm:g} dBm that [radio.allow] bands "
                "allows; raise "
                f"tx_attenuation_db by {power_dbm - limit_dbm:.2f} dB, or max_dbm if law and "
                "cabling allow it"
            )
        raise ConfigError(
            f"transmitting {signal} is not allowed; if law and cabling permit it: hil.toml, "
            "[radio.allow] bands = "
            f"[{{ low_hz = {math.floor(low_hz)}, high_hz = {math.ceil(high_hz)}, "
            f"max_dbm = {math.ceil(power_dbm)} }}]"
        )
