"""Two radios whose oscillators lie further apart than the preamble resolves: measured, tuned,
joined."""

import pytest

from hil.lab.calibrate import calibrate_settings
from hil.lab.recording_session import random_payload, record
from hil.settings import parse_settings
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime
from radio.emulator.ether import Ether, NodeSpec

pytestmark = pytest.mark.usefixtures("libiio")

PPM = -22.0
"""Of the transmitter over the receiver: 54 kHz at 2.45 GHz, where 1 MS/s resolves 31."""


@pytest.fixture
def settings_of(tmp_path):
    ether = Ether(
        [NodeSpec(ppm=PPM / 2), NodeSpec(ppm=-PPM / 2)], clock=RealTime(), path_loss_db=45.0, seed=2
    )
    with EmulatedPlutos(ether) as plutos:

        def settings(**radio):
            tx, rx = plutos.uris
            bands = [{"low_hz": 2.4e9, "high_hz": 2.4835e9, "max_dbm": -10.0}]
            table = {
                "kind": "pluto",
                "uri": tx,
                "receive_uri": rx,
                "allow": {"bands": bands},
                "deadline_s": 2.0,
                **radio,
            }
            folder = {"folder": str(tmp_path / "calibration")}
            return parse_settings({"radio": table | radio, "calibration": folder}, source="test")

        yield settings


@pytest.mark.slow
def test_an_offset_that_was_calibrated_is_tuned_away(settings_of, tmp_path):
    found = {
        record.quantity: record
        for record in calibrate_settings(settings_of(), "cfo", quick=True).records
    }
    assert found["cfo"].value == pytest.approx(PPM, abs=0.1)
    settings = settings_of(cfo_ppm=round(found["cfo"].value, 2))
    delivered = record(settings, tmp_path / "tuned", random_payload(settings, 5000)).report
    assert delivered.delivered
    assert abs(delivered.cfo_hz) < 100
    untuned = settings_of(patience_s=2.0)
    lost = record(untuned, tmp_path / "untuned", random_payload(untuned, 5000)).report
    assert not lost.delivered
