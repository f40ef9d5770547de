"""Which thresholds a run over radios goes by: the bench's own where they may be used, else those of
the loopback."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from calibration.store import save
from hil.radio_kinds.thresholds import thresholds_of
from hil.settings import CalibrationSettings
from hil.settings.pluto import PlutoRadio
from radio.modem import mcs
from radio.pluto.settings import DeviceIdentity

SHIFT_DB = 0.75


@pytest.fixture
def calibration(make_air, make_bench, tmp_path):
    """A folder with a table that lies SHIFT_DB above that of the loopback, three hours old."""
    measured = datetime.now(UTC) - timedelta(hours=3)
    bench = replace(make_bench(make_air()), now=lambda: measured)
    index = [scheme.index for scheme in mcs.MCS_TABLE]
    threshold = [[value + SHIFT_DB for value in mcs.LOOPBACK.threshold_db]] * 3
    width = [list(mcs.LOOPBACK.width_db)] * 3
    records = [
        bench.record("mcs_threshold", "dB", threshold, axis="mcs", at=index),
        bench.record("mcs_width", "dB", width, axis="mcs", at=index),
    ]
    save(tmp_path, records)
    return CalibrationSettings(folder=str(tmp_path), max_age_h=24.0)


def transmitter(emulated=True):
    return DeviceIdentity(
        serial="tx-1", firmware="0", model="invented", emulated=emulated, uri="ip:invented"
    )


RADIO = PlutoRadio(kind="pluto", uri="ip:invented", lo_hz=915e6, rate_hz=1e6)


def test_the_benchs_own_thresholds_with_their_age(calibration):
    found = thresholds_of(RADIO, calibration, transmitter(), "rx-1")
    np.testing.assert_allclose(found.table.threshold_db, mcs.LOOPBACK.threshold_db + SHIFT_DB)
    assert found.source == "calibrated with receiver rx-1, ± 0.00 dB at most, 3.0 h ago"


@pytest.mark.parametrize(
    ("radio", "emulated", "receiver", "reason"),
    [
        (RADIO.model_copy(update={"lo_hz": 2.45e9}), True, "rx-1", "carrier is 2450000000 Hz"),
        (RADIO.model_copy(update={"rate_hz": 2e6}), True, "rx-1", "sample rate is 2000000 Hz"),
        (RADIO, False, "rx-1", "emulated"),
        (RADIO, True, "rx-2", "no calibration of receiver rx-2"),
    ],
)
def test_what_was_measured_of_another_bench_is_not_used(
    calibration, caplog, radio, emulated, receiver, reason
):
    found = thresholds_of(radio, calibration, transmitter(emulated), receiver)
    assert found.table is mcs.LOOPBACK
    assert found.source.startswith("loopback, because: ")
    assert reason in found.source
    assert reason in caplog.text


def test_an_old_table_is_used_with_a_warning(calibration, caplog):
    found = thresholds_of(
        RADIO, calibration.model_copy(update={"max_age_h": 1.0}), transmitter(), "rx-1"
    )
    np.testing.assert_allclose(found.table.threshold_db, mcs.LOOPBACK.threshold_db + SHIFT_DB)
    assert "mcs_threshold is 3 h old" in found.source
    assert [record.levelname for record in caplog.records] == ["WARNING"]
