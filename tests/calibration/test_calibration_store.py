import json
import logging
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from calibration.record import CalibrationRecord, with_spread
from calibration.result import Calibration
from calibration.store import file_of, load, save
from hil.contract import CalibrationError
from radio.link import Adaptation
from radio.modem import mcs

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
KNOWN = {"serial": "rx-1", "lo_hz": 915e6, "rate_hz": 1e6, "emulated": True, "now_utc": NOON}


@pytest.fixture
def bench(make_air, make_bench):
    return make_bench(make_air())


def test_what_was_saved_is_loaded(bench, tmp_path):
    curve = bench.record(
        "noise_floor", "dBFS", [[-70, -60], [-71, -61], [-69, -59]], axis="rx_gain_db", at=[0, 10]
    )
    single = bench.stated("cfo", "ppm", [2.5], [math.nan], n=1, notes=["a note"], rx_gain_db=20.0)
    path = save(tmp_path / "new", [curve, single])
    assert path == tmp_path / "new" / "rx-1.json"
    found = load(tmp_path / "new", **KNOWN)
    assert found.records["noise_floor"].values == (-70.0, -60.0)
    assert found.records["noise_floor"].spread == (1.0, 1.0)
    assert found.records["noise_floor"].texts() == [
        "rx_gain_db 0: -70.0 ± 1.0 dBFS",
        "rx_gain_db 10: -60.0 ± 1.0 dBFS",
    ]
    assert repr(found.records["cfo"]) == repr(single)
    assert found.warnings == ()
    assert found.records["cfo"].conditions.path == "invented cable, 30 dB"
    assert found.records["cfo"].conditions.tx_serial == "tx-1"


def test_a_newer_record_takes_the_place_of_the_same_quantity_alone(bench, tmp_path):
    save(
        tmp_path,
        [
            bench.record("cfo", "ppm", [1.0, 1.0, 1.0]),
            bench.record("dc_offset", "dBFS", [-50.0, -50.0, -50.0]),
        ],
    )
    save(tmp_path, [bench.record("cfo", "ppm", [2.0, 2.0, 2.0])])
    found = load(tmp_path, **KNOWN)
    assert found.record("cfo").value == 2.0
    assert found.record("dc_offset").value == -50.0
    assert len(json.loads(file_of(tmp_path, "rx-1").read_text())["records"]) == 2


def test_carriers_are_kept_apart(make_air, make_bench, tmp_path):
    for lo_hz, value in ((915e6, 1.0), (2.45e9, 2.0)):
        bench = make_bench(make_air(), rx_lo_hz=lo_hz, tx_lo_hz=lo_hz)
        save(tmp_path, [bench.record("cfo", "ppm", [value] * 3)])
    assert load(tmp_path, **KNOWN).record("cfo").value == 1.0
    assert load(tmp_path, **KNOWN | {"lo_hz": 2.45e9}).record("cfo").value == 2.0


@pytest.mark.parametrize(
    ("other", "asked"),
    [
        ({"tx_serial": "tx-2"}, {"tx_serial": "tx-2"}),
        ({"emulated": False}, {"emulated": False}),
        ({"rate_hz": 2e6}, {"rate_hz": 2e6}),
    ],
)
def test_a_measurement_of_another_set_up_leaves_the_first_one_alone(bench, tmp_path, other, asked):
    first = bench.record("cfo", "ppm", [1.0, 1.0, 1.0])
    second = bench.record("cfo", "ppm", [2.0, 2.0, 2.0])
    save(tmp_path, [first])
    save(tmp_path, [replace(second, conditions=replace(second.conditions, **other))])
    assert load(tmp_path, **KNOWN | {"tx_serial": "tx-1"}).record("cfo").value == 1.0
    assert load(tmp_path, **KNOWN | asked).record("cfo").value == 2.0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"serial": "rx-2"}, r"no calibration of receiver rx-2 in .* \(there: rx-1\)"),
        ({"lo_hz": 2.4e9}, "carrier is 2400000000 Hz, calibrated was 915000000 Hz"),
        ({"rate_hz": 2e6}, "sample rate is 2000000 Hz, calibrated was 1000000 Hz"),
        ({"emulated": False}, "kind is hardware, calibrated was an emulated radio"),
        ({"tx_serial": "tx-7"}, "transmitter is tx-7, calibrated was tx-1"),
    ],
)
def test_another_bench_is_refused_with_the_cure(bench, tmp_path, asked, message):
    save(tmp_path, [bench.record("cfo", "ppm", [1.0, 1.0, 1.0])])
    with pytest.raises(CalibrationError, match=message + ".*run hil calibrate all") as error:
        load(tmp_path, **KNOWN | asked)
    assert "\n" not in str(error.value)


def test_a_file_that_was_renamed_is_of_another_receiver(bench, tmp_path):
    save(tmp_path, [bench.record("cfo", "ppm", [1.0, 1.0, 1.0])]).rename(tmp_path / "rx-2.json")
    with pytest.raises(CalibrationError, match="receiver is rx-2, calibrated was rx-1"):
        load(tmp_path, **KNOWN | {"serial": "rx-2"})


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 1, "records": [{"quantity": "cfo"}]}']
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "rx-1.json").write_text(content)
    with pytest.raises(CalibrationError, match=r"rx-1\.json: not a calibration"):
        load(tmp_path, **KNOWN)


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "rx-1.json").write_text('{"format": 9, "records": []}')
    with pytest.raises(CalibrationError, match="format 9, this version reads 1"):
        load(tmp_path, **KNOWN)


def test_values_that_do_not_fit_their_axis_are_damage(bench, tmp_path):
    record = bench.record("cfo", "ppm", [1.0, 1.0, 1.0]).to_json() | {"values": [1.0, 2.0]}
    with pytest.raises(CalibrationError, match="cfo is damaged"):
        CalibrationRecord.of(record, "here")


def test_age_and_temperature_are_warned_of(bench, tmp_path, caplog):
    save(tmp_path, [bench.record("cfo", "ppm", [1.0, 1.0, 1.0])])
    later = {"now_utc": NOON + timedelta(hours=30)}
    assert load(tmp_path, **KNOWN | later, max_age_h=31, temperature_c=40.0).warnings == ()
    with caplog.at_level(logging.WARNING, "calibration"):
        found = load(tmp_path, **KNOWN | later, max_age_h=24, temperature_c=45.0)
    assert len(found.warnings) == 2
    assert "cfo is 30 h old, more than 24 h" in found.warnings[0]
    assert "measured at 31 °C, the radio is at 45 °C now" in found.warnings[1]
    assert [message.getMessage() for message in caplog.records] == list(found.warnings)


def test_serials_become_safe_names(tmp_path):
    assert file_of(tmp_path, "../a b").parent == tmp_path


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (2.71828, 0.031, "2.718 ± 0.031"),
        (-70.0, 12.0, "-70 ± 12"),
        (3.0, 0.0, "3.00 ± 0.00"),
        (3.14159, math.nan, "3.142"),
        (math.nan, 1.0, "not measured"),
    ],
)
def test_a_value_has_the_digits_that_its_spread_allows(value, spread, text):
    assert with_spread(value, spread) == text


# ------------------------------------------------------------------------------------------------
# what it is for


def test_the_link_switches_by_the_benchs_own_thresholds(bench, tmp_path):
    at = [scheme.index for scheme in mcs.MCS_TABLE]
    worse = (mcs.LOOPBACK.threshold_db + 1.5).tolist()
    known = {"n": 280, "axis": "mcs", "at": at}
    spread = [0.02] * 17 + [math.nan]
    threshold = bench.stated("mcs_threshold", "dB", worse, spread, **known)
    width = bench.stated(
        "mcs_width", "dB", mcs.LOOPBACK.width_db.tolist(), [math.nan] * 18, **known
    )
    save(tmp_path, [threshold, width])
    table = load(tmp_path, **KNOWN).loss_table()
    own, default = Adaptation(table=table), Adaptation()
    for snr_db in np.arange(-4, 28, 0.7):
        chosen, usual = own.choose(snr_db), default.choose(snr_db - 1.5)
        assert chosen == usual
        assert chosen in mcs.MCS_TABLE  # the frame's entry, whatever the bench
    scheme = mcs.MCS_TABLE[9]
    assert own.expected_losses(scheme, 12.0) == pytest.approx(default.expected_losses(scheme, 10.5))


def test_the_scheme_record_is_read_by_the_modem(bench):
    at = [scheme.index for scheme in mcs.MCS_TABLE]
    threshold = bench.stated(
        "mcs_threshold", "dB", list(mcs.LOOPBACK.threshold_db), [0.1] * 18, n=9, axis="mcs", at=at
    )
    width = bench.stated(
        "mcs_width", "dB", list(mcs.LOOPBACK.width_db), [0.1] * 18, n=9, axis="mcs", at=at
    )
    record = Calibration(records={"mcs_threshold": threshold, "mcs_width": width}).scheme_record()
    assert json.loads(mcs.TABLE_FILE.read_text()).keys() - record.keys() == {"seed"}
    assert mcs.read_losses(json.loads(json.dumps(record)), "here").threshold_db == pytest.approx(
        mcs.LOOPBACK.threshold_db
    )


def test_a_quantity_that_was_not_measured_is_named_with_those_that_were(bench):
    calibration = Calibration(records={"cfo": bench.record("cfo", "ppm", [1.0, 1.0, 1.0])})
    with pytest.raises(CalibrationError, match=r"mcs_threshold was not measured .*known: cfo"):
        calibration.loss_table()
