"""Amplifier, mixer and converter against textbook figures."""

import numpy as np
import pytest

from hil.contract import ConfigError
from radio.channel import Clipping, DcOffset, IqImbalance, Quantisation, RappAmplifier
from radio.modem import ofdm

RNG = np.random.default_rng(0)
TONE = np.exp(2j * np.pi * 37 / 512 * np.arange(512)).astype(np.complex64)


def db(ratio):
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_the_amplifier_bends_as_rapp_has_it(p):
    amplifier = RappAmplifier(backoff_db=8.0, smoothness=p)
    saturation = ofdm.RMS_LEVEL * 10 ** (8 / 20)
    points = np.array([1e-3, 1.0, 1e3]) * saturation * np.exp(0.7j)
    out = amplifier(points.astype(np.complex64), RNG)
    # linear, 10·log10(2)/p dB below linear at the saturation level, saturated
    np.testing.assert_allclose(
        np.abs(out) / saturation, [1e-3, 2 ** (-1 / (2 * p)), 1.0], rtol=1e-5
    )
    np.testing.assert_allclose(np.angle(out), 0.7, rtol=1e-5)


def test_an_amplifier_needs_a_bend():
    with pytest.raises(ConfigError, match="smoothness is 0"):
        RappAmplifier(8.0, 0.0)(TONE, RNG)


@pytest.mark.parametrize(("gain_db", "phase_deg"), [(1.0, 3.0), (-0.5, 0.0), (0.0, -5.0)])
def test_the_image_is_as_strong_as_in_a_mixer_with_two_unequal_branches(gain_db, phase_deg):
    spectrum = np.abs(np.fft.fft(IqImbalance(gain_db, phase_deg)(TONE, RNG))) ** 2
    rejection_db = db(spectrum[37] / spectrum[-37])
    g, phi = 10 ** (gain_db / 20), np.deg2rad(phase_deg)
    branches = TONE.real + 1j * g * (TONE.imag * np.cos(phi) - TONE.real * np.sin(phi))
    measured = np.abs(np.fft.fft(branches)) ** 2
    assert rejection_db == pytest.approx(db(measured[37] / measured[-37]), abs=0.01)
    assert rejection_db == pytest.approx(
        db((1 + 2 * g * np.cos(phi) + g**2) / (1 - 2 * g * np.cos(phi) + g**2)), abs=0.01
    )
    assert spectrum[37] == pytest.approx(512**2, rel=1e-5)  # the signal keeps its level


def test_a_dc_offset_has_its_level():
    out = DcOffset(-40.0)(TONE, RNG)
    assert abs(out.mean()) == pytest.approx(0.01, rel=1e-3)
    np.testing.assert_allclose(out - out.mean(), TONE, atol=1e-6)


def test_clipping_limits_each_component_and_nothing_else():
    iq = np.array([0.3 + 0.7j, -0.9 - 0.1j, 0.5j], np.complex64)
    np.testing.assert_allclose(
        Clipping(-6.0206)(iq, RNG), [0.3 + 0.5j, -0.5 - 0.1j, 0.5j], atol=1e-5
    )


@pytest.mark.parametrize(("bits", "level_db"), [(6, 0.0), (12, 0.0), (12, -14.0)])
def test_quantisation_noise_is_6_02_db_a_bit(bits, level_db):
    amplitude = 10 ** (level_db / 20) * (1 - 2.0 ** (1 - bits))
    iq = (amplitude * np.exp(2j * np.pi * np.sqrt(2) / 9 * np.arange(2**16))).astype(np.complex64)
    error = Quantisation(bits)(iq, RNG) - iq
    assert db(np.mean(np.abs(iq) ** 2) / np.mean(np.abs(error) ** 2)) == pytest.approx(
        6.02 * bits + 1.76 + level_db, abs=0.35
    )


def test_a_converter_has_its_codes_and_saturates():
    ramp = (np.linspace(-1.5, 1.5, 4001) * (1 + 1j)).astype(np.complex64)
    out = Quantisation(3)(ramp, RNG)
    assert sorted(set(out.real.tolist())) == [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75]
    with pytest.raises(ConfigError, match="0 bits"):
        Quantisation(0)(ramp, RNG)
