import numpy as np
import pytest
from scipy.signal.windows import blackmanharris

from calibration import levels
from hil.contract import CalibrationError


def noise(n, variance, rng):
    return (
        (rng.standard_normal(2 * n) * (variance / 2) ** 0.5)
        .view(np.complex128)
        .astype(np.complex64)
    )


def test_a_tone_between_two_bins_is_found_at_its_own_frequency_and_power():
    n, rng = 2**14, np.random.default_rng(1)
    true = (1234.37) / n
    iq = 0.01 * np.exp(2j * np.pi * true * np.arange(n)) + 0.5 * np.exp(
        -2j * np.pi * 0.31 * np.arange(n)
    )
    found = levels.find_line((iq + noise(n, 1e-6, rng)).astype(np.complex64), 0.08, 0.02)
    # Cramér-Rao (Rife and Boorstyn, IEEE Trans. IT 20(5), 1974) for amplitude² / variance = 20 dB
    bound = (6 / (100 * n**3)) ** 0.5 / (2 * np.pi)
    assert found.frequency == pytest.approx(true, abs=6 * bound)
    assert float(levels.dbfs(found.power)) == pytest.approx(-40.0, abs=0.02)
    assert found.visible


def test_frequency_errors_are_those_of_the_window():
    n, rng = 2**12, np.random.default_rng(2)
    errors = []
    for _ in range(100):
        true = rng.uniform(0.05, 0.1)
        iq = np.exp(2j * np.pi * (true * np.arange(n) + rng.uniform())) + noise(n, 0.1, rng)
        errors.append(levels.find_line(iq.astype(np.complex64), 0.075, 0.03).frequency - true)
    # first order: the slope that noise of 0.1 / 2 in the phase gives under the weights of the
    # window
    weights, t = blackmanharris(n, sym=False), np.arange(n) - n / 2
    expected = (0.05 * np.sum((weights * t) ** 2)) ** 0.5 / (2 * np.pi * np.sum(weights * t**2))
    assert np.std(errors) == pytest.approx(expected, rel=0.2)


def test_the_noise_beside_a_line_is_that_of_white_noise():
    n, rng = 2**12, np.random.default_rng(3)
    window = blackmanharris(n, sym=False)
    expected = 0.02 * np.sum(window**2) / window.sum() ** 2
    seen = [levels.line_at(noise(n, 0.02, rng), 0.2).noise for _ in range(40)]
    assert np.mean(seen) == pytest.approx(expected, rel=0.1)


def test_no_tone_is_no_measurement():
    with pytest.raises(CalibrationError, match=r"no tone within .* lower tx_attenuation_db"):
        levels.find_line(noise(4096, 1e-3, np.random.default_rng(4)), 0.1, 0.05)


def test_noise_of_a_subcarrier_is_a_256th_of_white_noise_and_a_constant_is_none():
    rng = np.random.default_rng(5)
    iq = noise(2**16, 1e-4, rng) + np.complex64(0.1 - 0.05j)
    assert levels.subcarrier_noise(iq) == pytest.approx(1e-4 / 256, rel=0.03)
    assert levels.power(iq) == pytest.approx(1e-4, rel=0.03)


def test_noise_outside_the_used_subcarriers_does_not_count():
    rng = np.random.default_rng(6)
    spectrum = np.fft.fft(noise(2**16, 1e-4, rng))
    spectrum[np.abs(np.fft.fftfreq(2**16)) * 256 > 105] *= 10
    iq = np.fft.ifft(spectrum).astype(np.complex64)
    assert levels.subcarrier_noise(iq) == pytest.approx(1e-4 / 256, rel=0.03)


def test_a_tone_repeats_without_a_seam():
    once = levels.tone(5 / 64, 4096, 0.5)
    long = np.tile(once, 3)
    assert np.abs(long[1:] * np.conj(long[:-1]) - 0.25 * np.exp(2j * np.pi * 5 / 64)).max() < 1e-6


def test_clipped_samples_are_those_at_the_converters_end():
    iq = np.array([0.999, 2047 / 2048, -1, 1j * 2047 / 2048, 0.5 - 1j, 0.99 + 0.99j], np.complex64)
    assert levels.clipped_share(iq) == pytest.approx(4 / 6)
