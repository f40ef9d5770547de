"""SNR that each scheme needs: as calibrated on the bench, or else as measured in loopback."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime

from calibration.store import load
from hil.contract import CalibrationError
from hil.settings import CalibrationSettings
from hil.settings.pluto import PlutoRadio
from radio.modem.mcs import LOOPBACK, LossTable
from radio.pluto.settings import DeviceIdentity

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Block losses of every scheme.

    Attributes:
        table: losses that link and budget expect.
        source: origin, age and spread of the table, a sentence for the manifest.
    """

    table: LossTable
    source: str


def thresholds_of(
    radio: PlutoRadio,
    calibration: CalibrationSettings,
    transmitter: DeviceIdentity,
    receiver_serial: str,
) -> Thresholds:
    """The bench's own thresholds if they are valid, else those of the loopback and a warning in the
    log.

    Args:
        radio: the [radio] table.
        calibration: the [calibration] table: folder and largest age of records.
        transmitter: identity of the transmitter.
        receiver_serial: serial number of the receiver.
    """
    now_utc = datetime.now(UTC)
    try:
        known = load(
            calibration.records_folder,
            serial=receiver_serial,
            tx_serial=transmitter.serial,
            lo_hz=radio.receive_lo_hz,
            rate_hz=radio.rate_hz,
            emulated=transmitter.emulated,
            now_utc=now_utc,
            max_age_h=calibration.max_age_h,
        )
        table, record = known.loss_table(), known.record("mcs_threshold")
    except CalibrationError as error:
        _log.warning("thresholds of the loopback are used: %s", error)
        return Thresholds(table=LOOPBACK, source=f"loopback, because: {error}")
    age_h = (now_utc - record.measured_at).total_seconds() / 3600
    measured_db = [spread_db for spread_db in record.spread if not math.isnan(spread_db)]
    spread = f"± {max(measured_db):.2f} dB at most, " if measured_db else ""
    source = f"calibrated with receiver {receiver_serial}, {spread}{age_h:.1f} h ago"
    return Thresholds(table=table, source="; ".join([source, *known.warnings]))
