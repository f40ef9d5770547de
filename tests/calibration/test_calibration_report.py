import json
import re
from dataclasses import replace

import pytest

from calibration.bench import Plan
from calibration.plots import panels
from hil.contract import CalibrationError, ConfigError
from hil.lab.calibrate import calibrate_settings, calibrate_verb
from hil.settings import parse_settings
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether, NodeSpec

PLAN = Plan(
    rx_gain_db=20.0,
    tx_attenuation_db=10.0,
    samples=2**14,
    rx_gains_db=(0.0, 20.0, 40.0, 60.0),
    tx_attenuations_db=(18.0, 26.0, 34.0),
    blocks=16,
    places=(9, 12),
)


@pytest.mark.slow
def test_everything_is_measured_kept_and_shown(make_air, make_bench, tmp_path):
    lines, steps = [], []
    done = calibrate_verb(
        "all",
        make_bench(make_air(cfo_hz=1830.0, clock_ppm=2.0, iq_gain_db=0.4)),
        PLAN,
        folder=tmp_path,
        on_progress=lambda *step: steps.append(step),
        on_line=lines.append,
    )
    assert done.file == tmp_path / "rx-1.json"
    assert done.flags == ()
    assert steps[-1] == (10, 10, "done")
    values = [line for line in lines if line.startswith("Carrier offset")]
    assert re.fullmatch(
        r"Carrier offset, transmitter over receiver: 2\.0\d* ± [\d.]+ ppm", values[0]
    )
    assert sum("±" in line for line in lines) > 40
    kept = {record["quantity"] for record in json.loads(done.file.read_text())["records"]}
    assert {
        "noise_floor",
        "rx_gain",
        "compression_level",
        "cfo",
        "snr_data_aided",
        "mcs_threshold",
        "bler_11",
    } <= kept
    page = done.report.read_text()
    assert page.count("<svg") == 5
    assert "An emulated radio" in page
    assert "invented cable, 30 dB" in page
    assert "2.0000 ± 0.0000 ppm" in page
    assert "<script" not in page
    assert "http" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_one_quantity_joins_what_is_known(make_air, make_bench, tmp_path):
    bench = make_bench(make_air(cfo_hz=915.0), emulated=False)
    calibrate_verb("cfo", bench, PLAN, folder=tmp_path)
    done = calibrate_verb("cfo", bench, PLAN, folder=tmp_path)
    assert {record.quantity for record in done.records} == {"cfo", "cfo_hz", "clock_offset"}
    assert len(json.loads(done.file.read_text())["records"]) == 3
    page = done.report.read_text()
    assert "emulated radio" not in page
    assert "<svg" not in page


def test_a_folder_that_cannot_be_written_is_named(make_air, make_bench, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match=r"choose another \[calibration\] folder"):
        calibrate_verb("cfo", make_bench(make_air()), PLAN, folder=tmp_path / "file")


@pytest.mark.slow
def test_a_flag_stands_on_the_page_and_on_the_terminal(make_air, make_bench, tmp_path):
    lines = []
    bench = make_bench(make_air(phase_noise_dbc_hz=-75.0))
    done = calibrate_verb(
        "snr", bench, replace(PLAN, places=(9,)), folder=tmp_path, on_line=lines.append
    )
    assert any("WRONG: the methods differ by -" in line for line in lines)
    assert any("the methods differ by -" in flag for flag in done.flags)
    assert "the methods differ by -" in done.report.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("libiio")
def test_the_radios_of_the_settings_are_measured(tmp_path):
    ether = Ether([NodeSpec(), NodeSpec(ppm=-1.5)], clock=VirtualTime(), path_loss_db=50.0, seed=2)
    with EmulatedPlutos(ether) as plutos:
        radio = {
            "kind": "pluto",
            "uri": plutos.uris[0],
            "receive_uri": plutos.uris[1],
            "lo_hz": 915e6,
            "path": "emulated, 50 dB",
            "allow": {"bands": [{"low_hz": 910e6, "high_hz": 920e6, "max_dbm": 0}]},
        }
        settings = parse_settings(
            {"radio": radio, "calibration": {"folder": str(tmp_path)}}, source="test"
        )
        done = calibrate_settings(settings, "cfo", quick=True)
    assert done.file == tmp_path / "emulated-1.json"
    (cfo,) = (record for record in done.records if record.quantity == "cfo")
    assert cfo.value == pytest.approx(1.5, abs=0.05)
    assert cfo.conditions.path == "emulated, 50 dB"
    assert cfo.conditions.tx_attenuation_db == settings.radio.tx_attenuation_db


def test_simulated_air_has_no_radio_to_measure():
    with pytest.raises(
        ConfigError, match=r"radio\.kind = 'loopback': hil calibrate measures radios"
    ):
        calibrate_settings(parse_settings({}, source="test"), "all")


def test_panels_hold_what_was_measured(make_air, make_bench):
    bench = make_bench(make_air())
    gain = bench.stated(
        "rx_gain", "dB", [0.0, 10.3], [0.1, 0.1], n=3, axis="rx_gain_db", at=[0, 10]
    )
    aided = bench.stated(
        "snr_data_aided", "dB", [20.0, 10.0], [0.3, 0.3], n=3, axis="tx_attenuation_db", at=[10, 20]
    )
    floor = bench.stated(
        "snr_noise_floor",
        "dB",
        [20.5, 10.1],
        [0.4, 0.4],
        n=3,
        axis="tx_attenuation_db",
        at=[10, 20],
    )
    found = {panel.title: panel for panel in panels({r.quantity: r for r in (gain, aided, floor)})}
    assert set(found) == {
        "Linearity of gain and attenuation",
        "SNR against attenuation",
        "Agreement of the two methods",
    }
    assert found["Linearity of gain and attenuation"].series[0].y == pytest.approx([0.0, 0.3])
    gap = found["Agreement of the two methods"].series[0]
    assert gap.y == pytest.approx([-0.5, -0.1])
    assert gap.spread == pytest.approx([0.5, 0.5])
