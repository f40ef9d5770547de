"""Carrier offset, phase noise and sample clock offset against what their formulas say."""

import numpy as np
import pytest
from scipy.signal import welch

from hil.contract import ConfigError
from radio.channel import ClockOffset, FrequencyOffset, PhaseNoise

RATE = 1e6


def in_pieces(model, iq, rng, sizes=(1, 7, 0, 500)):
    """The samples through the model in several calls."""
    cuts = np.cumsum(sizes)
    return np.concatenate([model(part, rng) for part in np.split(iq, cuts)])


def tone(cycles_per_sample, n):
    return np.exp(2j * np.pi * cycles_per_sample * np.arange(n)).astype(np.complex64)


def test_an_offset_drifts_through_calls_and_pauses():
    cfo_hz, drift_hz_s, pause_s = 2e3, 1e5, 0.05
    model = FrequencyOffset(cfo_hz, RATE, drift_hz_s)
    rng = np.random.default_rng(81)
    ones = np.ones(20_000, np.complex64)
    out = in_pieces(model, ones, rng)
    model.advance(pause_s)
    out = np.concatenate([out, model(ones, rng)])
    t_s = np.concatenate([np.arange(20_000), np.arange(20_000, 40_000) + pause_s * RATE]) / RATE
    expected = np.exp(2j * np.pi * (cfo_hz * t_s + drift_hz_s / 2 * t_s**2))
    np.testing.assert_allclose(out * np.conj(out[0]), expected, atol=1e-4)
    assert model.cfo_hz == pytest.approx(cfo_hz + drift_hz_s * (0.04 + pause_s))


def test_an_offset_that_is_set_keeps_its_phase():
    model = FrequencyOffset(1e3, RATE)
    rng = np.random.default_rng(82)
    before = model(np.ones(100, np.complex64), rng)
    model.cfo_hz = -5e3
    after = model(np.ones(100, np.complex64), rng)
    assert np.angle(after[0] / before[-1]) == pytest.approx(2 * np.pi * 1e3 / RATE, abs=1e-5)
    assert np.angle(after[1] / after[0]) == pytest.approx(-2 * np.pi * 5e3 / RATE, abs=1e-5)


@pytest.mark.parametrize("loop_hz", [0.0, 20e3])
def test_phase_noise_has_the_spectrum_asked_for(loop_hz):
    model = PhaseNoise(-85.0, RATE, offset_hz=10e3, pll_bandwidth_hz=loop_hz)
    phase = np.unwrap(
        np.angle(in_pieces(model, np.ones(2**19, np.complex64), np.random.default_rng(83)))
    )
    # small angles: the sideband density is the phase's two-sided density, half of welch's one-sided
    frequency, density = welch(phase, RATE, nperseg=2**13)
    for at_hz in (2e3, 10e3, 50e3):
        near = (frequency > at_hz / 1.1) & (frequency < at_hz * 1.1)
        expected_db = -85 + 10 * np.log10((10e3**2 + loop_hz**2) / (at_hz**2 + loop_hz**2))
        assert 10 * np.log10(density[near].mean() / 2) == pytest.approx(expected_db, abs=0.6)


def test_a_free_oscillator_walks_through_a_pause_and_a_loop_holds_it():
    rng = np.random.default_rng(84)
    one = np.ones(1, np.complex64)

    def deviation(pause_s, loop_hz):
        model = PhaseNoise(-90.0, RATE, offset_hz=10e3, pll_bandwidth_hz=loop_hz)
        phases = [np.angle(model(one, rng))[0]]
        for _ in range(2000):
            model.advance(pause_s)
            phases.append(np.angle(model(one, rng))[0])
        return np.std(np.angle(np.exp(1j * np.diff(phases))))

    # a Wiener phase of linewidth 2π·offset²·10^(L/10) = 0.63 Hz walks by √(2π·0.63·t)
    assert deviation(0.02, 0.0) == pytest.approx((2 * np.pi * 0.628 * 0.02) ** 0.5, rel=0.06)
    # held, two times far apart are independent, each of variance π·B·density within the loop
    inside = 1e-9 * (10e3**2 + 20e3**2) / 20e3**2
    assert deviation(0.02, 20e3) == pytest.approx((2 * np.pi * 20e3 * inside) ** 0.5, rel=0.06)


def test_phase_noise_needs_an_offset():
    with pytest.raises(ConfigError, match="offset 0"):
        PhaseNoise(-90.0, RATE, offset_hz=0.0)


@pytest.mark.parametrize("cycles", [-0.39, -0.1, 0.25, 0.39])
@pytest.mark.parametrize("ppm", [20.0, -317.0])
def test_another_sample_clock_gives_the_values_between_to_60_db(cycles, ppm):
    out = ClockOffset(ppm, RATE)(tone(cycles, 60_000), np.random.default_rng(0))
    exact = np.exp(2j * np.pi * cycles * (1 + ppm * 1e-6) * np.arange(len(out)))
    inside = slice(30, None)  # the tone begins abruptly
    assert np.abs(out - exact)[inside].max() < 1e-3
    assert len(out) == pytest.approx((60_000 - ClockOffset.tail_samples) / (1 + ppm * 1e-6), abs=2)


def test_the_fraction_between_the_clocks_goes_on_from_call_to_call():
    rng = np.random.default_rng(85)
    iq = (rng.standard_normal(3000) + 1j * rng.standard_normal(3000)).astype(np.complex64)
    whole = ClockOffset(200.0, RATE)(iq, rng)
    pieces = in_pieces(ClockOffset(200.0, RATE), iq, rng)
    assert len(whole) == len(pieces)
    np.testing.assert_allclose(pieces, whole, atol=1e-4)


def test_clocks_drift_apart_in_a_pause():
    model = ClockOffset(10.0, RATE)
    rng = np.random.default_rng(86)
    model(np.zeros(1, np.complex64), rng)
    model.advance(0.03)  # 0.3 of a sample
    out = model(tone(0.1, 500), rng)
    steady = np.angle(out[100:400] * np.conj(tone(0.1, 400)[100:]))
    whole_samples = np.mean(steady) / (2 * np.pi * 0.1)
    assert whole_samples % 1.0 == pytest.approx(0.3, abs=0.01)


def test_a_clock_beyond_reason_is_refused():
    with pytest.raises(ConfigError, match=r"5000\.0 ppm"):
        ClockOffset(5000.0, RATE)
