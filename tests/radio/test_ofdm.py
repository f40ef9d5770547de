import numpy as np
import pytest

from radio import mcs, ofdm


def random_symbols(rng, n):
    return mcs.map_bits(rng.integers(0, 2, n * ofdm.N_DATA * 4).astype(np.uint8), 4).reshape(n, ofdm.N_DATA)


def receive(iq):
    """Grid of a body that arrives without delay: the window's backoff is taken from zeros in front."""
    return ofdm.demodulate(np.concatenate([np.zeros(ofdm.WINDOW_BACKOFF, np.complex64), iq]))


def known_channel():
    """What a window that starts WINDOW_BACKOFF samples early sees of an ideal channel (shift theorem)."""
    return np.exp(-2j * np.pi * ofdm.USED * ofdm.WINDOW_BACKOFF / ofdm.N_FFT).astype(np.complex64)


def test_symbols_come_back_through_an_ideal_channel():
    rng = np.random.default_rng(1)
    data = random_symbols(rng, 20)
    got, noise = ofdm.equalize(receive(ofdm.modulate(data)), known_channel(), 0.01)
    np.testing.assert_allclose(got, data, atol=2e-5)
    np.testing.assert_allclose(noise, 0.01, rtol=1e-4)


def test_only_used_subcarriers_carry_power_and_the_prefix_is_cyclic():
    rng = np.random.default_rng(2)
    iq = ofdm.modulate(random_symbols(rng, 30)).reshape(30, 288)
    np.testing.assert_array_equal(iq[:, :32], iq[:, 256:])
    power = np.mean(np.abs(np.fft.fft(iq[:, 32:], axis=1)) ** 2, axis=0)
    empty = np.r_[0, 101:156]
    assert power[empty].max() < 1e-9 * power[1]
    assert np.all(np.delete(power, empty) > 0)
    assert np.sum(power > 0.1 * power[1]) == 200


def test_transmit_level_is_as_stated_and_never_above_full_scale():
    rng = np.random.default_rng(3)
    iq = ofdm.modulate(random_symbols(rng, 500))
    assert np.sqrt(np.mean(np.abs(iq) ** 2)) == pytest.approx(ofdm.RMS_LEVEL, rel=0.01)
    same = np.full((1, ofdm.N_DATA), 1 + 0j, np.complex64)
    assert np.abs(ofdm.modulate(same * 10)).max() <= 1.0


def test_pilots_have_no_line():
    signs = ofdm.pilot_symbols(512)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert np.abs(signs.mean(axis=0)).max() < 0.2


@pytest.mark.parametrize("rotation", [-0.3, 0.02, 0.9])
def test_common_phase_and_rotation_are_removed(rotation):
    rng = np.random.default_rng(4)
    data = random_symbols(rng, 60)
    turned = receive(ofdm.modulate(data)) * np.exp(1j * (0.7 + rotation * np.arange(60)))[:, None]
    tracked, measured = ofdm.track_phase(turned.astype(np.complex64), known_channel())
    assert measured == pytest.approx(rotation, abs=1e-4)
    got, _ = ofdm.equalize(tracked, known_channel(), 0.01)
    np.testing.assert_allclose(got, data, atol=1e-3)


def test_a_channel_of_zero_gain_gives_a_huge_noise_variance_and_no_nan():
    channel = known_channel()
    channel[ofdm.DATA[5]] = 0
    got, noise = ofdm.equalize(np.ones((1, 200), np.complex64), channel, 0.01)
    assert np.isfinite(got).all()
    assert noise[5] > 1e6
