"""An emulated Pluto as pyadi-iio sees it, through the unmodified client stack."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from radio.emulator import EmulatedPlutos
from radio.emulator.clock import VirtualTime
from radio.emulator.ether import Ether
from radio.emulator.front_end import NodeSpec
from tests.radio.emulator.pyadi_client import pyadi_client

pytestmark = pytest.mark.usefixtures("libiio", "contexts_go_last")

STATUS = 0x80000088
RATE_HZ = 3_000_000
N = 1 << 14


@contextlib.contextmanager
def _plutos(*ppm: float, **arguments: Any) -> Iterator[EmulatedPlutos]:
    ether = Ether(
        [NodeSpec(ppm=error) for error in ppm or (0.0,)], clock=VirtualTime(), seed=7, **arguments
    )
    with EmulatedPlutos(ether) as running:
        yield running


@pytest.fixture
def sdr() -> Iterator[Any]:
    with _plutos() as plutos, pyadi_client(plutos) as client:
        _set_up(client)
        yield client


def _set_up(client: Any, *, lo_hz: int = 915_000_000) -> None:
    client.sample_rate = RATE_HZ
    client.rx_lo = client.tx_lo = lo_hz
    client.gain_control_mode_chan0 = "manual"
    client.rx_hardwaregain_chan0 = 20
    client.tx_hardwaregain_chan0 = -10
    client.rx_rf_bandwidth = client.tx_rf_bandwidth = RATE_HZ
    client.rx_buffer_size = N


def _tone(cycles: int, amplitude: float = 2.0**14) -> NDArray[np.complex128]:
    """A tone with a whole number of cycles in N samples."""
    return amplitude * np.exp(2j * np.pi * cycles * np.arange(N) / N)


def _send_over_and_over(client: Any, samples: NDArray[np.complex128]) -> None:
    client.tx_destroy_buffer()
    client.tx_cyclic_buffer = True
    client.tx(samples)


def _fresh(client: Any) -> NDArray[np.complex128]:
    """Samples from after now; the first buffer is left out for what filters still carry over."""
    client.rx_destroy_buffer()
    client.rx()
    received: NDArray[np.complex128] = client.rx()
    return received


def _spectrum_db(samples: NDArray[np.complex128]) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.abs(np.fft.fft(samples * np.blackman(len(samples)))) ** 2
    return 10 * np.log10(power + 1e-12)


def _spur_free_range_db(samples: NDArray[np.complex128], cycles: int) -> float:
    spectrum = _spectrum_db(samples)
    peak = int(np.argmax(spectrum))
    assert peak == cycles % N
    main_lobe = (peak + np.arange(-4, 5)) % N
    return float(spectrum[peak] - np.delete(spectrum, main_lobe).max())


def _power_dbfs(samples: NDArray[np.complex128]) -> float:
    return float(10 * np.log10(np.mean(np.abs(samples / 2048) ** 2)))


# --------------------------------------------------------------------------------------------
# attributes


@pytest.mark.slow
def test_every_property_can_be_read_and_written(sdr: Any) -> None:
    wanted = {
        "rx_lo": 2_400_000_000,
        "tx_lo": 868_000_000,
        "sample_rate": 1_000_000,
        "rx_rf_bandwidth": 900_000,
        "tx_rf_bandwidth": 1_100_000,
        "gain_control_mode_chan0": "manual",
        "rx_hardwaregain_chan0": 33,
        "tx_hardwaregain_chan0": -20.25,
        "loopback": 1,
        "rx_dec8_filter_en": False,
        "tx_int8_filter_en": False,
        "dds_scales": ["0.250000", "0.000000", "1.000000", "0.500000"],
        "dds_phases": ["90000", "0", "360000", "1"],
        "dds_enabled": ["1", "0", "0", "1"],
    }
    for name, value in wanted.items():
        setattr(sdr, name, value)
    found = {name: getattr(sdr, name) for name in wanted}
    assert abs(found.pop("rx_lo") - wanted.pop("rx_lo")) <= 8
    assert abs(found.pop("tx_lo") - wanted.pop("tx_lo")) <= 8
    assert found == wanted
    assert "emulated" in sdr.ctx.attrs["hw_model"]
    assert sdr.filter == [128, 4, 128, 4]
    assert "loopback:                1" in repr(sdr)


@pytest.mark.parametrize("mode", ["slow_attack", "fast_attack", "manual"])
def test_gain_modes(sdr: Any, mode: str) -> None:
    sdr.gain_control_mode_chan0 = mode
    assert sdr.gain_control_mode_chan0 == mode


@pytest.mark.slow
def test_a_hundred_random_values_survive_write_and_read(sdr: Any) -> None:
    rng = np.random.default_rng(11)
    for _ in range(100):
        lo_hz = int(rng.integers(325_000_000, 3_800_000_001))
        rate_hz = int(rng.integers(521_000, 61_440_001))
        attenuation_db = float(rng.uniform(-89.75, 0))
        sdr.rx_lo = sdr.tx_lo = lo_hz
        sdr.sample_rate = rate_hz
        sdr.tx_hardwaregain_chan0 = attenuation_db
        assert abs(sdr.rx_lo - lo_hz) <= 8
        assert abs(sdr.tx_lo - lo_hz) <= 8
        assert abs(sdr.sample_rate - rate_hz) <= 4
        assert abs(sdr.tx_hardwaregain_chan0 - attenuation_db) <= 0.25


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rx_lo", 324_999_999),
        ("tx_lo", 3_800_000_001),
        ("sample_rate", 61_440_001),
        ("rx_rf_bandwidth", 199_999),
        ("tx_rf_bandwidth", 56_000_001),
        ("rx_hardwaregain_chan0", 72),
        ("rx_hardwaregain_chan0", -4),
        ("tx_hardwaregain_chan0", 0.25),
        ("tx_hardwaregain_chan0", -90),
        ("gain_control_mode_chan0", "loud"),
        ("loopback", 3),
    ],
)
def test_values_out_of_range_are_refused(sdr: Any, name: str, value: object) -> None:
    before = getattr(sdr, name)
    with pytest.raises(OSError, match="Invalid argument") as refusal:
        setattr(sdr, name, value)
    assert refusal.value.errno == errno.EINVAL
    assert getattr(sdr, name) == before


def test_gain_cannot_be_set_under_gain_control(sdr: Any) -> None:
    sdr.gain_control_mode_chan0 = "slow_attack"
    sdr.rx_hardwaregain_chan0 = 5  # pyadi-iio does not even try
    assert sdr.rx_hardwaregain_chan0 == 20
    with pytest.raises(OSError, match="not supported") as refusal:
        sdr._ctrl.find_channel("voltage0", False).attrs["hardwaregain"].value = "5"
    assert refusal.value.errno == errno.EOPNOTSUPP


def test_rates_without_and_with_the_filter(sdr: Any) -> None:
    rate = sdr._ctrl.find_channel("voltage0", False).attrs["sampling_frequency"]
    fir = sdr._ctrl.find_channel("out", False).attrs["voltage_filter_fir_en"]
    sdr.sample_rate = 520_833 + 167
    rate.value = "520833"
    for refused in ("520832", "nonsense", "61440001"):
        with pytest.raises(OSError, match="Invalid argument"):
            rate.value = refused
    with pytest.raises(OSError, match="Invalid argument"):
        fir.value = "0"
    rate.value = "2083333"
    fir.value = "0"
    with pytest.raises(OSError, match="Invalid argument"):
        rate.value = "2083332"


def test_both_directions_share_one_rate(sdr: Any) -> None:
    sdr._ctrl.find_channel("voltage0", True).attrs["sampling_frequency"].value = "4000000"
    assert sdr.sample_rate == 4_000_000
    assert sdr._rxadc.find_channel("voltage0", False).attrs["sampling_frequency"].value == "4000000"


def test_settings_outlive_the_client() -> None:
    with _plutos() as plutos:
        with pyadi_client(plutos) as first:
            _set_up(first)
            first.tx_hardwaregain_chan0 = -42.75
        with pyadi_client(plutos) as second:
            assert second.tx_hardwaregain_chan0 == -42.75
            assert second.rx_lo == pytest.approx(915e6, abs=8)
            assert second.gain_control_mode_chan0 == "manual"


def test_registers_keep_what_is_written(sdr: Any) -> None:
    sdr._ctrl.reg_write(0x5A, 0xC3)
    assert sdr._ctrl.reg_read(0x5A) == 0xC3
    assert sdr._ctrl.reg_read(0x5B) == 0
    assert sdr._rxadc.reg_read(0x5A) == 0


# ------------------------------------------------------------------------------------------------
# streams


def test_digital_loopback_returns_what_is_sent(sdr: Any) -> None:
    sdr.loopback = 1
    rng = np.random.default_rng(3)
    codes = rng.integers(-2048, 2048, size=(2, N))
    _send_over_and_over(sdr, 16.0 * (codes[0] + 1j * codes[1]))
    received = _fresh(sdr)
    start = int(
        np.argmax(
            np.abs(
                np.fft.ifft(np.fft.fft(received) * np.conj(np.fft.fft(codes[0] + 1j * codes[1])))
            )
        )
    )
    np.testing.assert_array_equal(np.roll(received, -start), codes[0] + 1j * codes[1])


def test_the_low_four_bits_do_not_reach_the_converter(sdr: Any) -> None:
    sdr.loopback = 1
    _send_over_and_over(sdr, np.tile([15 + 16j, -1 - 17j], N // 2))
    assert set(_fresh(sdr)) == {0 + 1j, -1 - 2j}


def test_blocks_play_back_to_back(sdr: Any) -> None:
    sdr.loopback = 1
    ramp = np.arange(6 * 1024) % 2048
    sdr.rx_buffer_size = len(ramp)
    sdr.rx()  # receiving from here on
    for block in np.split(ramp, 6):
        sdr.tx(16.0 * block + 16j)
    received = np.concatenate([sdr.rx(), sdr.rx()])
    sent = received[received.imag == 1].real
    np.testing.assert_array_equal(sent, ramp)
    assert np.all(np.diff(np.flatnonzero(received.imag == 1)) == 1)


def test_zeros_stay_zeros(sdr: Any) -> None:
    sdr.loopback = 1
    _send_over_and_over(sdr, np.zeros(N, complex))
    assert not _fresh(sdr).any()


@pytest.mark.parametrize("cycles", [500, -1200])
def test_spurs_of_a_tone_from_memory(sdr: Any, cycles: int) -> None:
    _send_over_and_over(sdr, _tone(cycles))
    assert _spur_free_range_db(_fresh(sdr), cycles) >= 40


@pytest.mark.parametrize("cycles", [1024, -512])
def test_spurs_of_a_tone_from_the_synthesis(sdr: Any, cycles: int) -> None:
    sdr.dds_single_tone(cycles * RATE_HZ / N, 0.5)
    assert _spur_free_range_db(_fresh(sdr), cycles) >= 40
    sdr.dds_scales = [0, 0, 0, 0]
    assert _power_dbfs(_fresh(sdr)) < -60


def test_two_tones_from_the_synthesis(sdr: Any) -> None:
    sdr.dds_dual_tone(256 * RATE_HZ / N, 0.4, -1024 * RATE_HZ / N, 0.2)
    spectrum = _spectrum_db(_fresh(sdr))
    strongest = set(np.argsort(spectrum)[::-1][:6])
    assert {256, N - 1024} <= strongest
    assert spectrum[256] - spectrum[N - 1024] == pytest.approx(6.02, abs=0.3)


@pytest.mark.parametrize("lo_hz", [1_000_000_000, 2_000_000_000, 3_000_000_000])
def test_tones_come_back_on_the_right_side(sdr: Any, lo_hz: int) -> None:
    sdr.rx_lo = sdr.tx_lo = lo_hz
    for cycles in (777, -333):
        _send_over_and_over(sdr, _tone(cycles))
        assert int(np.argmax(_spectrum_db(_fresh(sdr)))) == cycles % N


def test_attenuation_and_gain_move_the_level_as_much_as_they_say(sdr: Any) -> None:
    _send_over_and_over(sdr, _tone(300))
    levels = []
    for attenuation_db in (10, 20, 30):
        sdr.tx_hardwaregain_chan0 = -attenuation_db
        levels.append(float(np.max(_spectrum_db(_fresh(sdr)))))
    assert np.diff(levels) == pytest.approx([-10, -10], abs=0.2)
    sdr.rx_hardwaregain_chan0 = 30
    assert float(np.max(_spectrum_db(_fresh(sdr)))) - levels[-1] == pytest.approx(10, abs=0.2)


def test_the_rssi_follows_the_level_at_the_antenna(sdr: Any) -> None:
    rssi = sdr._ctrl.find_channel("voltage0", False).attrs["rssi"]
    readings = []
    for attenuation_db, gain_db in ((0, 20), (10, 20), (10, 10)):
        sdr.tx_hardwaregain_chan0, sdr.rx_hardwaregain_chan0 = -attenuation_db, gain_db
        _send_over_and_over(sdr, _tone(300))
        _fresh(sdr)
        readings.append(float(rssi.value.removesuffix(" dB")))
    assert readings[1] - readings[0] == pytest.approx(10, abs=0.3)
    assert readings[2] == pytest.approx(readings[1], abs=0.3)


def test_a_second_cyclic_client_is_refused_until_the_first_lets_go() -> None:
    with _plutos() as plutos, pyadi_client(plutos) as first, pyadi_client(plutos) as second:
        _set_up(first)
        _send_over_and_over(first, _tone(100))
        with pytest.raises(OSError, match="busy") as refusal:
            _send_over_and_over(second, _tone(200))
        assert refusal.value.errno == errno.EBUSY
        first.tx_destroy_buffer()
        _send_over_and_over(second, _tone(200))
        second.rx_buffer_size = N
        assert int(np.argmax(_spectrum_db(_fresh(second)))) == 200


def test_the_synthesis_takes_over_when_a_transmit_buffer_closes(sdr: Any) -> None:
    sdr.dds_single_tone(1024 * RATE_HZ / N, 0.5)
    _send_over_and_over(sdr, _tone(100))
    assert sdr.dds_enabled == ["0", "0", "0", "0"]
    assert int(np.argmax(_spectrum_db(_fresh(sdr)))) == 100
    sdr.tx_destroy_buffer()
    assert sdr.dds_enabled == ["1", "1", "1", "1"]
    assert int(np.argmax(_spectrum_db(_fresh(sdr)))) == 1024


def test_a_switched_off_oscillator_sends_nothing(sdr: Any) -> None:
    _send_over_and_over(sdr, _tone(100))
    power = sdr._ctrl.find_channel("altvoltage1", True).attrs["powerdown"]
    power.value = "1"
    assert _power_dbfs(_fresh(sdr)) < -60
    power.value = "0"
    assert _power_dbfs(_fresh(sdr)) > -40


def test_overflow_is_flagged_until_it_is_cleared(sdr: Any) -> None:
    sdr._rxadc.set_kernel_buffers_count(2)
    sdr.rx()
    assert sdr._rxadc.reg_read(STATUS) & 4 == 0
    for _ in range(8):  # each waits for room, and the receive buffers run full meanwhile
        sdr.tx(_tone(1))
    assert sdr._rxadc.reg_read(STATUS) & 4
    sdr.tx_destroy_buffer()
    sdr.rx_destroy_buffer()
    assert sdr._rxadc.reg_read(STATUS) & 4  # it stays
    sdr._rxadc.reg_write(STATUS, sdr._rxadc.reg_read(STATUS))
    assert sdr._rxadc.reg_read(STATUS) == 0


def test_underflow_is_flagged_until_it_is_cleared(sdr: Any) -> None:
    for _ in range(4):
        sdr.tx(_tone(1))
    assert sdr._txdac.reg_read(STATUS) & 1 == 0
    for _ in range(8):  # the transmitter runs dry meanwhile
        sdr.rx()
    assert sdr._txdac.reg_read(STATUS) & 1
    sdr.tx_destroy_buffer()
    sdr._txdac.reg_write(STATUS, 1)
    assert sdr._txdac.reg_read(STATUS) == 0


# -----------------------------------------------------------------------------------------------
# two radios


def test_the_other_radio_hears_the_tone_off_by_both_oscillators() -> None:
    with (
        _plutos(2.0, -3.0) as plutos,
        pyadi_client(plutos, 0) as sender,
        pyadi_client(plutos, 1) as receiver,
    ):
        for client in (sender, receiver):
            _set_up(client)
        sender.tx_hardwaregain_chan0 = 0
        receiver.rx_hardwaregain_chan0 = 50
        _send_over_and_over(sender, _tone(1000))
        peak = int(np.argmax(_spectrum_db(_fresh(receiver))))
        expected_hz = 1000 * RATE_HZ / N + 5e-6 * 915e6
        assert peak * RATE_HZ / N == pytest.approx(expected_hz, abs=RATE_HZ / N)


def test_the_crystal_correction_takes_the_error_away() -> None:
    with (
        _plutos(50.0, 0.0) as plutos,
        pyadi_client(plutos, 0) as sender,
        pyadi_client(plutos, 1) as receiver,
    ):
        for client in (sender, receiver):
            _set_up(client)
        sender.tx_hardwaregain_chan0 = 0
        receiver.rx_hardwaregain_chan0 = 50
        sender._ctrl.attrs["xo_correction"].value = "40002000"
        _send_over_and_over(sender, _tone(1000))
        peak = int(np.argmax(_spectrum_db(_fresh(receiver))))
        assert peak == 1000


def _digest_of_a_session() -> str:
    digest = hashlib.sha256()
    with (
        _plutos(4.0, -1.0) as plutos,
        pyadi_client(plutos, 0) as sender,
        pyadi_client(plutos, 1) as receiver,
    ):
        for client in (sender, receiver):
            _set_up(client)
        receiver.rx_hardwaregain_chan0 = 60
        digest.update(receiver.rx().tobytes())
        for cycles in range(6):
            sender.tx(_tone(cycles))
        sender.tx_destroy_buffer()
        for _ in range(6):
            digest.update(receiver.rx().tobytes())
        _send_over_and_over(sender, _tone(9))
        digest.update(_fresh(receiver).tobytes())
    return digest.hexdigest()


def test_sessions_in_virtual_time_are_the_same_bit_for_bit() -> None:
    assert len({_digest_of_a_session() for _ in range(3)}) == 1
