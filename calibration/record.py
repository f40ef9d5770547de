"""One measured quantity of a bench: values with their spread, and everything they hold for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Self

from hil.contract import CalibrationError

TITLES: Final = {
    "noise_floor": "Noise floor in the sampled band",
    "noise_per_subcarrier": "Noise on one used subcarrier",
    "dc_offset": "DC offset",
    "full_scale": "Power at the port that reads 0 dBFS",
    "rx_gain": "Receive gain",
    "tx_attenuation": "Transmit attenuation",
    "compression_level": "Tone compressed by 1 dB",
    "usable_high": "Strongest usable burst level",
    "usable_low": "Weakest usable burst level",
    "image_rejection": "Image rejection",
    "cfo": "Carrier offset, transmitter over receiver",
    "cfo_hz": "Carrier offset, transmitter over receiver",
    "clock_offset": "Sample clock offset, transmitter over receiver",
    "snr_data_aided": "SNR, data-aided",
    "snr_noise_floor": "SNR, noise-floor method",
    "burst_level": "Received burst level, pause included",
    "snr_disagreement": "Data-aided SNR over noise-floor method, at most",
    "mcs_threshold": "SNR at which 10 % of the blocks are lost",
    "mcs_width": "SNR step over which the odds of a loss fall by e",
}
"""Title of each quantity, as people read it."""
_BLER: Final = "bler_"


def title_of(quantity: str) -> str:
    """Title of a quantity, as people read it."""
    if quantity.startswith(_BLER):
        return f"Blocks lost, MCS {quantity.removeprefix(_BLER)}"
    return TITLES.get(quantity, quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Conditions of a measurement: devices, settings, time.

    Attributes:
        device, firmware: model and firmware of the receiver, as it reports them.
        serial: serial number of the receiver; calibrations are filed by it.
        tx_serial: serial number of the transmitter.
        emulated: True if one of the two is a radio in software.
        rx_lo_hz, tx_lo_hz: nominal carriers.
        rate_hz: sample rate.
        rx_gain_db, tx_attenuation_db: settings; NaN where the quantity is a function of it or
            does not depend on it.
        path: what lies between the radios, in words.
        temperature_c: temperature of the receiver, degrees Celsius.
        measured_utc: time of the measurement, ISO 8601.
        tool_version: version of this kit.
    """

    device: str
    firmware: str
    serial: str
    tx_serial: str
    emulated: bool
    rx_lo_hz: float
    tx_lo_hz: float
    rate_hz: float
    rx_gain_db: float
    tx_attenuation_db: float
    path: str
    temperature_c: float
    measured_utc: str
    tool_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """One quantity.

    Attributes:
        quantity: its name, a key of TITLES, or "bler_" and the index of an MCS.
        unit: unit of the values.
        values: a single value, or one for each place of `at`.
        spread: one sigma of a single measurement, from the repeats; NaN where it is unknown.
        n: number of measurements behind each value.
        conditions: conditions of the measurement.
        axis: quantity that the values are a function of, its unit in the name; "" for a single
            value.
        at: places along the axis, rising; empty for a single value.
        flags: faults, a sentence each.
        notes: remarks for the reader, a sentence each.
    """

    quantity: str
    unit: str
    values: tuple[float, ...]
    spread: tuple[float, ...]
    n: int
    conditions: Conditions
    axis: str = ""
    at: tuple[float, ...] = ()
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The single value, or the first."""
        return self.values[0]

    @property
    def measured_at(self) -> datetime:
        """Time of the measurement, with its time zone."""
        return datetime.fromisoformat(self.conditions.measured_utc)

    def texts(self) -> list[str]:
        """Every value as "value ± spread unit", behind its place where there is an axis."""
        places = [f"{self.axis} {place:g}: " for place in self.at] or [""]
        return [
            f"{place}{with_spread(value, spread)} {self.unit}".rstrip()
            for place, value, spread in zip(places, self.values, self.spread, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """The record in types that JSON has; what is not finite becomes null."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str) -> Self:
        """The record that to_json() gave.

        Raises:
            CalibrationError: it is something else; `source` names where it stands.
        """
        try:
            known = {f.name for f in fields(cls)} - {
                "conditions",
                "values",
                "spread",
                "at",
                "flags",
                "notes",
            }
            conditions: dict[str, Any] = {
                f.name: math.nan
                if content["conditions"][f.name] is None
                else content["conditions"][f.name]
                for f in fields(Conditions)
            }
            record = cls(
                conditions=Conditions(**conditions),
                values=_numbers(content["values"]),
                spread=_numbers(content["spread"]),
                at=_numbers(content["at"]),
                flags=tuple(content["flags"]),
                notes=tuple(content["notes"]),
                **{name: content[name] for name in known},
            )
            sound = len(record.values) == len(record.spread) == max(1, len(record.at))
            sound &= record.measured_at.tzinfo is not None
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"{source}: not a calibration record ({error!r}); run hil calibrate anew"
            ) from error
        if not sound:
            raise CalibrationError(
                f"{source}: {record.quantity} is damaged; run hil calibrate anew"
            )
        return record


def with_spread(value: float, spread: float) -> str:
    """Value ± spread, with the digits that the spread allows; the value alone where it has none."""
    if not math.isfinite(value):
        return "not measured"
    if not math.isfinite(spread):
        return f"{value:.4g}"
    digits = 2 if spread <= 0 else min(4, max(0, 1 - math.floor(math.log10(spread))))
    return f"{value:.{digits}f} ± {spread:.{digits}f}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(math.nan if value is None else float(value) for value in values)
