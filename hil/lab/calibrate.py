"""`hil calibrate`: measure a bench, keep every record, write the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from calibration.bench import Bench, Plan
from calibration.calibrate import QUANTITIES, OnProgress, Quantity, calibrate
from calibration.record import CalibrationRecord, title_of
from calibration.store import file_of, load, save
from hil.contract import ConfigError
from hil.lab.calibration_report import write_calibration_report
from hil.radio_kinds.pluto_devices import open_receiver, open_transmitter
from hil.settings import Settings
from hil.settings.pluto import PlutoRadio
from hil.system.waits import waiting_for
from radio.pluto.settings import MAX_ATTENUATION_DB

_MOST_LINES: Final = 8
OnLine = Callable[[str], None]

_QUICK: Final[dict[str, Any]] = {
    "rx_gains_db": (0.0, 20.0, 40.0, 60.0),
    "tx_attenuations_db": tuple(np.arange(8.0, MAX_ATTENUATION_DB, 8.0).tolist()),
    "blocks": 16,
    "places": (3, 7, 12),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """Result of a calibration.

    Attributes:
        records: records that were measured.
        file: JSON file that holds them, with earlier ones of other quantities.
        report: HTML page of them all.
    """

    records: tuple[CalibrationRecord, ...]
    file: Path
    report: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """Faults of the records, a sentence each."""
        found: list[str] = []
        for record in self.records:
            found += [f"{title_of(record.quantity)}: {flag}" for flag in record.flags]
        return tuple(found)


def calibrate_verb(
    what: Quantity | Literal["all"],
    bench: Bench,
    plan: Plan,
    *,
    folder: Path,
    on_progress: OnProgress = lambda done, total, what: None,
    on_line: OnLine = lambda line: None,
) -> Calibrated:
    """Records of a bench, saved after each step: a later error loses nothing.

    Args:
        what: "snr", "gain", "cfo" or "all".
        bench: transmitter and receiver, open.
        plan: settings of the calibration.
        folder: folder of all calibrations ([calibration] folder).
        on_progress: called with (steps done, steps in all, what is measured now).
        on_line: called with each value as "quantity: value ± spread unit", and each flag.

    Raises:
        CalibrationError: something cannot be measured, or the folder cannot be written.
        DeviceError: a radio is broken.
    """

    def keep(records: Sequence[CalibrationRecord]) -> None:
        if records:
            save(folder, records)
        for record in records:
            for line in record_lines(record):
                on_line(line)

    quantities: tuple[Quantity, ...] = QUANTITIES if what == "all" else (what,)
    records = calibrate(quantities, bench, plan, on_progress=on_progress, on_records=keep)
    known = load(
        folder,
        serial=bench.receiver.identity.serial,
        tx_serial=bench.transmitter.identity.serial,
        lo_hz=bench.lo_hz,
        rate_hz=bench.rate_hz,
        emulated=bench.emulated,
        now_utc=bench.now(),
    )
    file = file_of(folder, bench.receiver.identity.serial)
    write_calibration_report(known.records, file.with_suffix(".html"))
    return Calibrated(records=tuple(records), file=file, report=file.with_suffix(".html"))


def calibrate_settings(
    settings: Settings,
    what: Quantity | Literal["all"],
    *,
    quick: bool = False,
    reference_dbm: float | None = None,
    on_progress: OnProgress = lambda done, total, what: None,
    on_line: OnLine = lambda line: None,
) -> Calibrated:
    """Records of the radios of [radio], saved into [calibration] folder.

    Args:
        settings: the experiment; radio.kind is "pluto", and nothing is sent at less than
            radio.tx_attenuation_db.
        what: "snr", "gain", "cfo" or "all".
        quick: True for fewer settings, schemes and blocks: a look, no table to switch by.
        reference_dbm: power at the receiver's port that an instrument showed; None: levels stay in
            dBFS.
        on_progress, on_line: as in calibrate_verb.

    Raises:
        ConfigError: another kind of radio, or transmitting is not allowed.
        CalibrationError: something cannot be measured, or the folder cannot be written.
        DeviceError: a radio cannot be opened, or is broken.
    """
    radio = settings.radio
    if not isinstance(radio, PlutoRadio):
        raise ConfigError(
            f"radio.kind = {radio.kind!r}: hil calibrate measures radios; set radio.kind = 'pluto' "
            "(hil emulate-pluto gives some in software)"
        )
    plan = Plan(
        rx_gain_db=radio.rx_gain_db,
        tx_attenuation_db=radio.tx_attenuation_db,
        reference_dbm=reference_dbm,
        seed=settings.run.seed,
        **(_QUICK if quick else {}),
    )
    waiting_for("opening the radios")
    with ExitStack() as open_radios:
        transmitter = open_radios.enter_context(open_transmitter(radio))
        receiver = (
            open_radios.enter_context(open_receiver(radio)) if radio.has_two_radios else transmitter
        )
        bench = Bench(transmitter=transmitter, receiver=receiver, path=radio.path)
        folder = settings.calibration.records_folder
        return calibrate_verb(
            what, bench, plan, folder=folder, on_progress=on_progress, on_line=on_line
        )


def record_lines(record: CalibrationRecord) -> list[str]:
    """Lines about a record for the terminal.

    Each value stands as "quantity: value ± spread unit"; notes and flags follow. Of a long curve
    the two ends are shown; the page has all of it.
    """
    title, texts = title_of(record.quantity), record.texts()
    lines = [f"{title}: {text}" for text in texts]
    if len(lines) > _MOST_LINES:
        lines = [lines[0], f"{title}: … {len(texts) - 2} more on the page …", lines[-1]]
    lines += [f"  note: {note}" for note in record.notes]
    lines += [f"  WRONG: {flag}" for flag in record.flags]
    return lines
