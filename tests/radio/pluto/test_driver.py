"""The driver in this process: against the emulator in virtual time, and against the smallest fake
of pyadi-iio."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hil.contract import IQ, ConfigError, DeviceError
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether, NodeSpec
from radio.pluto import driver as pluto
from radio.pluto.driver import OutageError, PlutoDevice
from radio.pluto.permission import Band, Permission
from radio.pluto.samples import from_adc, to_dac
from radio.pluto.settings import PlutoSettings

pytestmark = pytest.mark.usefixtures("libiio")
ALLOWED = Permission([Band(low_hz=2.44e9, high_hz=2.46e9, max_dbm=-13.0)])


def settings_of(uri: str, **changes: Any) -> PlutoSettings:
    values: dict[str, Any] = {
        "uri": uri,
        "rate_hz": 1e6,
        "tx_lo_hz": 2.45e9,
        "rx_lo_hz": 2.45e9,
        "rx_gain_db": 30.0,
        "tx_attenuation_db": 20.0,
        "loopback": "digital",
        "buffer_samples": 4096,
    }
    return PlutoSettings(**values | changes)


def _other_program(uri: str) -> Any:
    """The radio as somebody else's program holds it."""
    return importlib.import_module("adi").Pluto(uri)


def tone(periods: int, n_samples: int = 1000, amplitude: float = 0.5) -> IQ:
    return (amplitude * np.exp(2j * np.pi * periods * np.arange(n_samples) / n_samples)).astype(
        np.complex64
    )


@pytest.fixture
def emulated() -> Iterator[EmulatedPlutos]:
    with EmulatedPlutos(Ether([NodeSpec()], clock=VirtualTime(), seed=1)) as plutos:
        yield plutos


@pytest.fixture
def uri(emulated: EmulatedPlutos) -> str:
    return emulated.uris[0]


# ------------------------------------------------------------------------------------------------
# integers


def test_integers_of_samples() -> None:
    assert to_dac(np.array([1, -1j, 0.5 + 0.25j], np.complex64)).tolist() == [
        16384,
        0,
        0,
        -16384,
        8192,
        4096,
    ]
    iq, clipped = from_adc(np.array([2047, 0, -2048, 5, 1024, -512, 3, 2046], np.int16))
    assert iq[2] == 0.5 - 0.25j
    assert iq[1].real == -1.0
    assert clipped == 2


@pytest.mark.parametrize("bad", [[np.nan], [1.001], [], [np.inf]])
def test_what_cannot_be_sent_is_refused(uri: str, bad: list[float]) -> None:
    with PlutoDevice(settings_of(uri), ALLOWED) as device:
        with pytest.raises(DeviceError, match="transmit"):
            device.transmit_cyclic(np.array(bad, np.complex64))
        assert not np.any(device.capture(5000))


def test_clipped_samples_are_counted(emulated: EmulatedPlutos, uri: str) -> None:
    emulated.ether.coupling_loss_db = 10.0
    with PlutoDevice(settings_of(uri, loopback="none", rx_gain_db=60.0), ALLOWED) as device:
        device.transmit_cyclic(tone(5))
        device.capture(2000)
        assert device.clipped_samples > 1000


# ------------------------------------------------------------------------------------------------
# three ways to use


def test_cyclic_capture_is_fresh_after_every_change(uri: str) -> None:
    with PlutoDevice(settings_of(uri, kernel_buffers=4), ALLOWED) as device:
        for periods in (5, -7, 250):
            device.transmit_cyclic(
                tone(periods)
            )  # one after another: the buffer before is destroyed first
            spectrum = np.abs(np.fft.fft(device.capture(10_000)))
            assert np.argmax(spectrum) == periods * 10 % 10_000
        device.stop_transmit()
        assert not np.any(device.capture(5000))


def test_buffers_read_in_turn_have_no_gap(uri: str) -> None:
    with PlutoDevice(settings_of(uri), ALLOWED) as device:
        device.transmit_cyclic(
            tone(1, 2042)
        )  # no divisor of a buffer: a lost one shows as a jump of the phase
        device.start_receive()
        device.read()
        heard, _ = from_adc(np.concatenate([device.read() for _ in range(20)]))
    steps = np.angle(heard[1:] * heard[:-1].conj()) * 2042 / (2 * np.pi)
    assert np.abs(steps - 1).max() < 4


def test_written_buffers_are_played_back_to_back(uri: str) -> None:
    burst = to_dac(tone(3, 3 * 4096)).reshape(3, -1)
    with PlutoDevice(settings_of(uri), ALLOWED) as device:
        device.start_receive()
        device.read()
        for buffer in burst:
            device.write(buffer)
        heard, _ = from_adc(np.concatenate([device.read() for _ in range(5)]))
    loud = np.flatnonzero(np.abs(heard) > 0.2)
    assert len(loud) == loud[-1] - loud[0] + 1 == 3 * 4096
    assert np.allclose(heard[loud], tone(3, 3 * 4096) / 2, atol=2 / 2048)


def test_buffers_of_another_length_are_refused(uri: str) -> None:
    with PlutoDevice(settings_of(uri), ALLOWED) as device:
        with pytest.raises(DeviceError, match="4096"):
            device.write(np.zeros(100, np.int16))
        with pytest.raises(DeviceError, match="even"):
            device.transmit_cyclic(tone(1, 999))


# ------------------------------------------------------------------------------------------------
# permission


def test_nothing_leaves_without_permission(uri: str) -> None:
    with PlutoDevice(settings_of(uri), Permission()) as device:
        with pytest.raises(ConfigError, match="not allowed"):
            device.transmit_cyclic(tone(5))
        with pytest.raises(ConfigError, match="not allowed"):
            device.write(to_dac(tone(1, 4096)))
        assert not np.any(device.capture(5000))


def test_the_carrier_is_off_before_anything_is_transmitted(
    emulated: EmulatedPlutos, uri: str
) -> None:
    def carrier_is_on() -> bool:
        return bool(emulated.nodes[0].state.rf_settings().tx_lo_on)

    with PlutoDevice(settings_of(uri), ALLOWED) as radio:
        radio.capture(1024)
        assert not carrier_is_on()
        radio.transmit_cyclic(tone(10))
        assert carrier_is_on()
        radio.stop_transmit()
        assert not carrier_is_on()


def test_a_running_transmission_stays_within_its_permission(uri: str) -> None:
    with PlutoDevice(settings_of(uri), ALLOWED) as device:
        device.transmit_cyclic(tone(5))
        for changes in ({"tx_attenuation_db": 19.0}, {"tx_lo_hz": 2.5e9}):
            with pytest.raises(ConfigError, match="transmitting"):
                device.configure(**changes)
        assert device.settings == settings_of(uri)
        device.stop_transmit()
        device.configure(tx_lo_hz=2.5e9)
        with pytest.raises(ConfigError, match="not allowed"):
            device.transmit_cyclic(tone(5))


# ------------------------------------------------------------------------------------------------
# settings


def test_what_another_program_left_is_written_over_and_nothing_is_left_on_the_air(uri: str) -> None:
    before = _other_program(uri)
    before.gain_control_mode_chan0 = "slow_attack"
    before.loopback = 1
    before.dds_single_tone(100_000, 0.9)
    del before
    with PlutoDevice(settings_of(uri, loopback="none", rx_gain_db=20.0), ALLOWED) as device:
        assert np.abs(device.capture(5000)).max() < 0.01
        device.transmit_cyclic(tone(5))
    after = _other_program(uri)
    assert after.gain_control_mode_chan0 == "manual"
    assert after.rx_hardwaregain_chan0 == 20
    assert after.loopback == 0
    assert after.tx_hardwaregain_chan0 == -89.75
    assert [float(scale) for scale in after.dds_scales] == [0.0] * 4


@pytest.mark.parametrize("rate_hz", [521e3, 1e6, 2.1e6, 4e6])
def test_rates_above_and_below_the_filters_limit(uri: str, rate_hz: float) -> None:
    with PlutoDevice(settings_of(uri, rate_hz=rate_hz), ALLOWED):
        assert _other_program(uri).sample_rate == pytest.approx(rate_hz, abs=4)


def test_a_value_that_the_board_cannot_do_is_named(uri: str) -> None:
    with (
        pytest.raises(DeviceError, match=r"rx_lo = 5000000000.*Invalid argument"),
        PlutoDevice(settings_of(uri, rx_lo_hz=5e9), ALLOWED),
    ):
        pass


def test_buffers_longer_than_half_the_timeout_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"buffer_samples is 600000.*use <= 499999"):
        PlutoDevice(settings_of("ip:127.0.0.1", buffer_samples=600_000), ALLOWED, io_timeout_s=1.0)


def test_a_radio_that_is_not_there_is_an_outage_with_its_address() -> None:
    with (
        pytest.raises(OutageError, match=r"ip:127\.0\.0\.1:1, connecting"),
        PlutoDevice(settings_of("ip:127.0.0.1:1"), ALLOWED),
    ):
        pass


def test_a_lost_connection_is_an_outage(emulated: EmulatedPlutos, uri: str) -> None:
    device = PlutoDevice(settings_of(uri), ALLOWED).__enter__()
    device.start_receive()
    device.read()
    emulated.faults[0].drop_connection()
    with pytest.raises(OutageError, match="receiving"):
        device.read()
    with pytest.raises(OutageError, match="silencing"):
        device.__exit__(None, None, None)


def test_an_error_of_the_user_silences_the_radio_too(uri: str) -> None:
    with pytest.raises(DeviceError, match="even"), PlutoDevice(settings_of(uri), ALLOWED) as device:
        device.transmit_cyclic(tone(1, 999))
    assert _other_program(uri).tx_hardwaregain_chan0 == -89.75


# ------------------------------------------------------------------------------------------------
# a fake driver


class _Channel(SimpleNamespace):
    @classmethod
    def make(cls, *_: object) -> _Channel:
        return cls(
            attrs={
                name: SimpleNamespace(value="0")
                for name in (*pluto._TRACKING, "powerdown", "input")
            }
        )


class _FakePluto:
    """Keeps what it is told, except for what `off` says."""

    off: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, uri_ctx: Any) -> None:
        self.ctx = uri_ctx

    def disable_dds(self) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        off = object.__getattribute__(self, "off")
        return value + off[name] if name in off else value


def _fake_client(devices: set[str]) -> tuple[Any, Any]:
    device = SimpleNamespace(
        find_channel=_Channel.make, set_kernel_buffers_count=lambda count: None
    )
    context = SimpleNamespace(
        find_device=lambda name: device if name in devices else None,
        set_timeout=lambda ms: None,
        attrs={},
    )
    return _FakePluto, SimpleNamespace(Context=lambda uri: context, Buffer=None)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("sample_rate", 4),
        ("tx_lo", 8),
        ("rx_lo", 8),
        ("rx_hardwaregain_chan0", 1),
        ("tx_hardwaregain_chan0", 0.25),
    ],
)
def test_read_back_is_compared(
    monkeypatch: pytest.MonkeyPatch, name: str, tolerance: float
) -> None:
    monkeypatch.setattr(pluto, "_client", lambda: _fake_client(set(pluto._DEVICES)))
    for off in (tolerance, -tolerance):
        monkeypatch.setattr(_FakePluto, "off", {name: off})
        with PlutoDevice(settings_of("ip:fake"), ALLOWED):
            pass
        monkeypatch.setattr(_FakePluto, "off", {name: 1.1 * off})
        with (
            pytest.raises(DeviceError, match=rf"{name} was set to .* and reads"),
            PlutoDevice(settings_of("ip:fake"), ALLOWED),
        ):
            pass


def test_another_device_is_no_pluto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pluto, "_client", lambda: _fake_client({"ad9361-phy"}))
    with pytest.raises(DeviceError, match="no Pluto"), PlutoDevice(settings_of("ip:fake"), ALLOWED):
        pass


# ------------------------------------------------------------------------------------------------
# what to install


def _broken_import(name: str) -> Any:
    raise AttributeError("undefined symbol: iio_get_backends_count")


@pytest.mark.parametrize(
    ("versions", "library", "cure"),
    [
        ({"pylibiio": "0.25"}, "libiio.so.0", r"pip install 'hil-lora-testbed\[pluto\]'"),
        ({"pyadi-iio": "0.0.21"}, "libiio.so.0", r"pip install 'hil-lora-testbed\[pluto\]'"),
        (
            {"pyadi-iio": "0.0.21", "pylibiio": "1.0"},
            "libiio.so.0",
            r"pylibiio 1\.0 .* 'pylibiio==0\.25'",
        ),
        ({"pyadi-iio": "0.0.21", "pylibiio": "0.25"}, None, "apt-get install libiio0"),
        ({"pyadi-iio": "0.0.21", "pylibiio": "0.25"}, "libiio.so.0", "undefined symbol"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], library: str | None, cure: str
) -> None:
    def version(package: str) -> str:
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(importlib, "import_module", _broken_import)
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(pluto, "find_library", lambda name: library)
    with pytest.raises(DeviceError, match=cure), PlutoDevice(settings_of("ip:127.0.0.1"), ALLOWED):
        pass


# ------------------------------------------------------------------------------------------------
# the end


@pytest.mark.slow
def test_a_program_that_ends_with_open_buffers_does_not_crash(uri: str) -> None:
    program = f"""
import numpy as np
from radio.pluto.permission import Band, Permission
from radio.pluto.driver import PlutoDevice
from radio.pluto.settings import PlutoSettings
settings = PlutoSettings(uri={uri!r}, rate_hz=1e6, tx_lo_hz=2.45e9, rx_lo_hz=2.45e9,
    rx_gain_db=30.0,
                         tx_attenuation_db=20.0, buffer_samples=4096)
allowed = Permission([Band(low_hz=2.4e9, high_hz=2.5e9, max_dbm=0.0)])
device = PlutoDevice(settings, allowed).__enter__()
device.transmit_cyclic(np.ones(1000, np.complex64) / 2)
device.start_receive()
device.read()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert _other_program(uri).tx_hardwaregain_chan0 == -89.75
