"""dBFS to dBm, from a power that an instrument showed."""

from __future__ import annotations

import numpy as np

from calibration import levels
from calibration.bench import Bench, Plan
from calibration.gain import calibration_tone, heard_tone
from calibration.record import CalibrationRecord
from hil.contract import CalibrationError

_TOP_DBFS = -3.0


def measure_reference(bench: Bench, plan: Plan) -> list[CalibrationRecord]:
    """Record full_scale: power at the receiver's port, dBm, that reads 0 dBFS at plan.rx_gain_db.

    With rx_gain it turns every level into dBm. Nothing without plan.reference_dbm.

    Raises:
        CalibrationError: the tone overdrives the receiver at that gain.
    """
    if plan.reference_dbm is None:
        return []
    bench.set(rx_gain_db=plan.rx_gain_db)
    with bench.sending(calibration_tone(), tx_attenuation_db=plan.tx_attenuation_db):
        tones = [heard_tone(bench, bench.capture(plan.samples)).power for _ in range(plan.repeats)]
    heard_dbfs = levels.dbfs(tones)
    if heard_dbfs.max() > _TOP_DBFS:
        raise CalibrationError(
            f"the reference tone stands at {heard_dbfs.max():.1f} dBFS, at most {_TOP_DBFS:g} is "
            "measured well; "
            "lower rx_gain_db"
        )
    return [
        bench.record(
            "full_scale",
            "dBm",
            plan.reference_dbm - np.asarray(heard_dbfs),
            rx_gain_db=plan.rx_gain_db,
            tx_attenuation_db=plan.tx_attenuation_db,
            notes=(
                f"from {plan.reference_dbm:g} dBm at the receiver's port, as measured with an "
                "instrument",
            ),
        )
    ]
