"""Calibrations on disk: a JSON file a receiver, named by its serial number."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from calibration.record import CalibrationRecord, Conditions
from calibration.result import Calibration
from hil.contract import CalibrationError
from hil.system.whole_file import written_whole

_FORMAT: Final = 1
_LO_TOLERANCE_HZ: Final = 1e3
_RATE_TOLERANCE_HZ: Final = 10.0
"""Radios read back another carrier and rate than was set by some Hz."""
_WARM_C: Final = 10.0
"""A crystal and an amplifier move noticeably over more than this."""

_Check = tuple[str, str, Callable[[Conditions], str], Callable[[Conditions], bool]]
"""Name of a check, value that is needed, value when measured, whether they fit."""

_log = logging.getLogger(__name__)


def file_of(folder: Path, serial: str) -> Path:
    """File with the records of a receiver."""
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', serial)}.json"


def save(folder: Path, records: Sequence[CalibrationRecord]) -> Path:
    """Put records beside those that are kept; an older one of the same quantity and set-up gives
    way.

    Args:
        folder: folder of all calibrations; made when missing.
        records: one record or more, all of one receiver.

    Returns:
        The file.

    Raises:
        CalibrationError: it cannot be written, or what is there is no calibration.
    """
    serial = records[0].conditions.serial
    path = file_of(folder, serial)
    kept = {
        _set_up(record): record for record in [*(_read(path) if path.exists() else ()), *records]
    }
    content = {
        "format": _FORMAT,
        "serial": serial,
        "records": [record.to_json() for record in kept.values()],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(
                json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
    except OSError as error:
        raise CalibrationError(
            f"{path}: {error.strerror}; choose another [calibration] folder"
        ) from error
    return path


def load(
    folder: Path,
    *,
    serial: str,
    lo_hz: float,
    rate_hz: float,
    emulated: bool,
    now_utc: datetime,
    max_age_h: float = math.inf,
    temperature_c: float = math.nan,
    tx_serial: str | None = None,
) -> Calibration:
    """Calibration of a receiver for its present settings.

    Args:
        folder: folder that save() wrote to.
        serial, lo_hz, rate_hz, emulated: properties of the receiver.
        now_utc: the time, with a time zone.
        max_age_h: older records are warned of.
        temperature_c: temperature of the receiver now; NaN if it is not known.
        tx_serial: serial number of the transmitter; None: whichever was measured last.

    Raises:
        CalibrationError: nothing was measured of this receiver, at this carrier and rate, or with
            this transmitter; or only of an emulated one while this is hardware, or the other way
            round.
    """
    path = file_of(folder, serial)
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "none"
        raise CalibrationError(
            f"no calibration of receiver {serial} in {folder} (there: {known}); run hil calibrate "
            "all"
        )
    records = _read(path)
    for name, wanted, value, fits in _checks(serial, lo_hz, rate_hz, emulated, tx_serial):
        fitting = [record for record in records if fits(record.conditions)]
        if not fitting:
            measured = (
                ", ".join(sorted({value(record.conditions) for record in records})) or "nothing"
            )
            raise CalibrationError(
                f"{path}: {name} is {wanted}, calibrated was {measured}; run hil calibrate all"
            )
        records = fitting
    latest = {r.quantity: r for r in sorted(records, key=lambda r: r.measured_at)}
    warnings = _warnings(list(latest.values()), now_utc, max_age_h, temperature_c)
    for warning in warnings:
        _log.warning("%s", warning)
    return Calibration(records=latest, warnings=warnings)


def _checks(
    serial: str, lo_hz: float, rate_hz: float, emulated: bool, tx_serial: str | None
) -> list[_Check]:
    return [
        ("receiver", serial, lambda c: c.serial, lambda c: c.serial == serial),
        ("kind", _kind(emulated), lambda c: _kind(c.emulated), lambda c: c.emulated == emulated),
        (
            "carrier",
            f"{lo_hz:.0f} Hz",
            lambda c: f"{c.rx_lo_hz:.0f} Hz",
            lambda c: abs(c.rx_lo_hz - lo_hz) <= _LO_TOLERANCE_HZ,
        ),
        (
            "sample rate",
            f"{rate_hz:.0f} Hz",
            lambda c: f"{c.rate_hz:.0f} Hz",
            lambda c: abs(c.rate_hz - rate_hz) <= _RATE_TOLERANCE_HZ,
        ),
        (
            "transmitter",
            tx_serial or "any",
            lambda c: c.tx_serial,
            lambda c: tx_serial is None or c.tx_serial == tx_serial,
        ),
    ]


def _kind(emulated: bool) -> str:
    return "an emulated radio" if emulated else "hardware"


def _warnings(
    records: Sequence[CalibrationRecord], now_utc: datetime, max_age_h: float, temperature_c: float
) -> tuple[str, ...]:
    serial = records[0].conditions.serial
    warnings = []
    oldest = min(records, key=lambda r: r.measured_at)
    age_h = (now_utc - oldest.measured_at) / timedelta(hours=1)
    if age_h > max_age_h:
        warnings.append(
            f"calibration of {serial}: {oldest.quantity} is {age_h:.0f} h old, more than "
            f"{max_age_h:g} h "
            "([calibration] max_age_h); run hil calibrate all"
        )
    known = [r for r in records if math.isfinite(r.conditions.temperature_c)]
    if known and math.isfinite(temperature_c):
        furthest = max(known, key=lambda r: abs(r.conditions.temperature_c - temperature_c))
        apart_c = temperature_c - furthest.conditions.temperature_c
        if abs(apart_c) > _WARM_C:
            warnings.append(
                f"calibration of {serial}: {furthest.quantity} was measured at "
                f"{furthest.conditions.temperature_c:.0f} "
                f"°C, the radio is at {temperature_c:.0f} °C now (limit {_WARM_C:g} apart); run "
                "hil calibrate all"
            )
    return tuple(warnings)


def _set_up(record: CalibrationRecord) -> tuple[object, ...]:
    """Key of a record: a newer record with the same key replaces the older."""
    c = record.conditions
    return record.quantity, c.serial, c.tx_serial, c.emulated, c.rx_lo_hz, c.tx_lo_hz, c.rate_hz


def _read(path: Path) -> list[CalibrationRecord]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known, listed = content["format"], list(content["records"])
    except OSError as error:
        raise CalibrationError(f"{path}: {error.strerror}; check its permissions") from error
    except (ValueError, TypeError, KeyError) as error:
        raise CalibrationError(
            f"{path}: not a calibration ({error!r}); remove it and run hil calibrate all"
        ) from error
    if known != _FORMAT:
        raise CalibrationError(
            f"{path}: format {known}, this version reads {_FORMAT}; run hil calibrate all anew"
        )
    return [CalibrationRecord.of(record, str(path)) for record in listed]
