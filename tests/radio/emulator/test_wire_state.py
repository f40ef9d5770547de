"""What an emulated Pluto remembers and refuses, against the chip's documentation."""

from __future__ import annotations

import errno
from fractions import Fraction

import numpy as np
import pytest

from radio.emulator import attributes, values
from radio.emulator.protocol import AttributeName, RefusedError
from radio.emulator.state import RadioState, parse_fir

FIR = "RX 3 GAIN -6 DEC {dec}\nTX 3 GAIN 0 INT {dec}\n" + "-15,-15\n" * 64


def test_carriers_lie_on_the_grid_of_the_synthesiser() -> None:
    """UG-570: LO = 80 MHz · (N + k / 8,388,593) / divider, the VCO between 6 and 12 GHz."""
    state = RadioState()
    for lo_hz in np.random.default_rng(2).integers(325_000_000, 3_800_000_001, 200):
        state.set_lo("rx", int(lo_hz))
        made = state.lo_hz["rx"]
        divider = next(d for d in (2, 4, 8, 16, 32) if 6e9 <= made * d < 12e9)
        step_hz = Fraction(80_000_000, 8_388_593 * divider)
        steps = Fraction(made) / step_hz
        assert abs(steps - round(steps)) < Fraction(1, 1000)
        assert abs(made - int(lo_hz)) <= step_hz / 2


@pytest.mark.parametrize("lo_hz", [400_000_000, 1_200_000_000, 2_400_000_000])
def test_carriers_that_are_whole_multiples_are_exact(lo_hz: int) -> None:
    state = RadioState()
    state.set_lo("tx", lo_hz)
    assert state.lo_hz["tx"] == lo_hz


def test_the_clock_chain_at_power_on_is_that_of_the_hardware() -> None:
    state = RadioState()
    assert state.rx_path_rates() == (
        "BBPLL:983040000 ADC:245760000 R2:122880000 R1:61440000 RF:30720000 RXSAMP:30720000"
    )
    assert state.tx_path_rates() == (
        "BBPLL:983040000 DAC:245760000 T2:122880000 T1:61440000 TF:30720000 TXSAMP:30720000"
    )


@pytest.mark.parametrize("rate_hz", [2_083_334, 3_000_000, 10_000_000, 40_000_000, 61_440_000])
@pytest.mark.parametrize("decimation", [None, 1, 2, 4])
def test_clocks_stay_within_what_the_chip_can_do(rate_hz: int, decimation: int | None) -> None:
    state = RadioState()
    state.set_rate(rate_hz)
    if decimation is not None:
        state.fir = parse_fir(FIR.format(dec=decimation))
        try:
            state.enable_fir(True)
        except RefusedError:
            assert rate_hz > 30_000_000  # too few clock cycles a sample for 64 taps
            return
    rates = {
        name: int(rate)
        for name, rate in (pair.split(":") for pair in state.rx_path_rates().split())
    }
    assert 715e6 <= rates["BBPLL"] <= 1430e6
    assert 25e6 <= rates["ADC"] <= 640e6
    assert rates["ADC"] // rates["R2"] in (1, 2, 3)
    assert rates["R2"] // rates["R1"] in (1, 2)
    assert rates["R1"] // rates["RF"] in (1, 2)
    assert rates["RF"] == rates["RXSAMP"] * (decimation or 1)
    assert rates["RXSAMP"] == rate_hz


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        FIR.format(dec=3),
        FIR.format(dec=4) + "1,1\n",
        FIR.format(dec=4) * 3,
        FIR.format(dec=4).replace("-15,-15\n", "-15\n"),
        FIR.format(dec=4).replace("-15,-15\n", "-15,40000\n"),
        "RX 3 GAIN -6 DEC 4\n" + "1,1\n" * 16,
        "RX 3 GAIN\nTX 3 GAIN 0 INT 4\n" + "1,1\n" * 16,
    ],
)
def test_other_filter_files_are_refused(text: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        parse_fir(text)
    assert refusal.value.errno == errno.EINVAL


def test_a_filter_file_with_comments_and_bandwidths() -> None:
    fir = parse_fir(
        "# of the filter wizard\r\nRX 3 GAIN -6 DEC 2\r\nTX 3 GAIN 0 INT 4\r\nBWRX 1\n"
        + " 1, -2 \r\n" * 32
    )
    assert (fir.taps, fir.decimation, fir.interpolation) == (32, 2, 4)


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", 30), ("-10.250000 dB", -10.25), ("+0.5", 0.5), (".5dB", 0.5), ("7.", 7)],
)
def test_numbers_with_a_fraction(text: str, value: float) -> None:
    assert values.decimal(text) == value


@pytest.mark.parametrize(
    "text", ["", "1e3", "nan", "inf", "0x10", "1_000", "1,5", "5 dBm", "--1", "9" * 400]
)
def test_other_text_is_no_number(text: str) -> None:
    with pytest.raises(RefusedError):
        values.decimal(text)
    with pytest.raises(RefusedError):
        values.whole(text if text != "0x10" else "0x")


def test_whole_numbers_and_flags() -> None:
    assert [values.whole(text) for text in ("2400000000", "-3", "0x80000088", "010")] == [
        2_400_000_000,
        -3,
        0x80000088,
        10,
    ]
    assert [values.flag(text) for text in ("1", "0", "y", "N", "on", "OFF")] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(RefusedError):
        values.flag("2")


def test_every_attribute_can_be_read_and_takes_back_its_own_text_or_refuses_to_be_written() -> None:
    state = RadioState()
    state.gain_mode = "manual"
    state.fir = parse_fir(FIR.format(dec=4))
    checked = 0
    for device in attributes.DEVICES:
        named = [(AttributeName(device.name, a.name), a) for a in device.attributes]
        named += [
            (AttributeName(device.name, a.name, debug=True), a) for a in device.debug_attributes
        ]
        named += [
            (AttributeName(device.device_id, a.name, channel=(c.direction, c.channel_id)), a)
            for c in device.channels
            for a in c.attributes
        ]
        for name, attribute in named:
            text = attributes.read(state, name)
            assert len(text) < 1023
            checked += 1
            if attribute.write is None:
                with pytest.raises(RefusedError) as refusal:
                    attributes.write(state, name, text.encode())
                assert refusal.value.errno == errno.EPERM
            elif name.attribute != "filter_fir_config":  # which reads as a summary
                attributes.write(state, name, text.encode() + b"\n\0")
                assert attributes.read(state, name) == text
    assert checked > 60


def test_the_status_register_is_cleared_by_writing_its_bits() -> None:
    state = RadioState()
    state.raise_status("cf-ad9361-lpc", 0b101)
    state.write_register("cf-ad9361-lpc", 0x80000088, 0b100)
    state.selected_register["cf-ad9361-lpc"] = 0x80000088
    assert state.read_register("cf-ad9361-lpc") == 0b001
    assert state.read_register("cf-ad9361-dds-core-lpc") == 0


def test_a_radio_that_is_not_in_duplex_mode_sends_nothing() -> None:
    state = RadioState()
    assert state.rf_settings().tx_lo_on
    attributes.write(state, AttributeName("ad9361-phy", "ensm_mode"), b"alert\0")
    assert not state.rf_settings().tx_lo_on


def test_tones_are_those_that_are_on_and_have_an_amplitude() -> None:
    state = RadioState()
    state.set_rate(4_194_304)
    state.set_tone_frequency(2, 100.0)
    state.set_tone_scale(2, 0.5)
    state.set_tone_phase(2, 90_000)
    state.set_tone_scale(0, 1.0)
    state.dds[0].enabled = False
    (tone,) = state.rf_settings().tones
    assert (tone.channel, tone.scale, tone.phase_deg) == ("Q", 0.5, 90.0)
    assert tone.frequency_hz == 128.0  # steps of rate / 2^16 = 64 Hz
