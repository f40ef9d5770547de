"""What `hil check` says of radios and their libraries: what is there, and the cure for what is
not."""

import importlib.metadata
import shutil

import pytest

from hil.contract import DeviceError
from hil.lab import check_radio
from hil.lab.check import check_bench

pytestmark = pytest.mark.skipif(
    shutil.which("iio_info") is None, reason="iio_info is missing: apt-get install libiio-utils"
)


@pytest.fixture(scope="module")
def uri():
    from radio.emulator import EmulatedPlutos
    from radio.emulator.clock import VirtualTime
    from radio.emulator.ether import Ether, NodeSpec

    with EmulatedPlutos(Ether([NodeSpec()], clock=VirtualTime(), seed=0)) as plutos:
        yield plutos.uris[0]


def settings_of(uri, *more):
    return [f"radio={{kind='pluto', uri='{uri}', lo_hz=2.45e9}}", *more]


def radio_findings(overrides, tmp_path):
    config = tmp_path / "hil.toml"
    config.write_text("")
    found = check_bench(config, overrides, bundle=tmp_path)  # the edge's form: no model is built
    return {finding.subject: finding for finding in found}


def test_model_serial_and_firmware_of_a_radio(uri):
    assert check_radio.describe(uri) == {
        "hw_model": "emulated ADALM-Pluto",
        "hw_serial": "emulated-0",
        "fw_version": "emulated",
    }


def test_a_radio_that_does_not_answer_is_named_with_a_cure():
    with pytest.raises(
        DeviceError, match=r"no ADALM-Pluto at ip:127\.0\.0\.1:1 .*refused.*check the cable"
    ):
        check_radio.describe("ip:127.0.0.1:1")


def test_missing_libiio_names_the_package(monkeypatch):
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(DeviceError, match="apt-get install libiio0"):
        check_radio.libraries()


@pytest.mark.parametrize("missing", ["pylibiio", "pyadi-iio"])
def test_missing_python_package_names_the_extra(monkeypatch, missing):
    real = importlib.metadata.version

    def version(name):
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(DeviceError, match=rf"{missing} is not installed.*\[pluto\]"):
        check_radio.libraries()


def test_a_pylibiio_that_refuses_the_library_names_the_one_that_does_not(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.1")
    with pytest.raises(
        DeviceError, match=r"pylibiio 1\.0\.1 refuses libiio 0\.\d+.*pylibiio==0\.25"
    ):
        check_radio.libraries()


def test_the_bench_lists_its_radio_and_where_it_may_transmit(uri, tmp_path):
    found = radio_findings(settings_of(uri), tmp_path)
    assert found["radio"].ok
    assert "serial emulated-0" in found["radio"].text
    assert "allowed to transmit: nowhere" in found["radio"].text


def test_a_bench_that_was_never_calibrated_says_what_to_run(uri, tmp_path):
    found = radio_findings(settings_of(uri, f"calibration.folder='{tmp_path}'"), tmp_path)
    assert not found["calibration"].ok
    assert "emulated-0" in found["calibration"].text
    assert "run hil calibrate all" in found["calibration"].text


def test_an_edge_is_not_asked_for_torch(uri, tmp_path):
    found = radio_findings(settings_of(uri), tmp_path)
    assert "torch" not in found["libraries"].text
    assert not found["edge"].ok
    assert "hil provision" in found["edge"].text
