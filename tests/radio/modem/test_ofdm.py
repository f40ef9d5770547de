import numpy as np
import pytest

from radio.modem import ofdm


def random_symbols(rng, n):
    """16-QAM, drawn without the modem's mapper."""
    levels = np.array([-3, -1, 1, 3]) / 10**0.5
    return (rng.choice(levels, (n, 192)) + 1j * rng.choice(levels, (n, 192))).astype(np.complex64)


def test_symbols_come_back_by_a_plain_transform():
    rng = np.random.default_rng(1)
    data = random_symbols(rng, 60)
    grid = ofdm.read_used(ofdm.modulate(data).reshape(60, 288)[:, 32:])
    for n in (0, 7, 24, 25, 59):
        np.testing.assert_allclose(grid[n, ofdm.DATA[n % 25]], data[n], atol=2e-5)
        np.testing.assert_allclose(
            grid[n, ofdm.PILOTS[n % 25]], ofdm.pilot_symbols(60)[n], atol=2e-5
        )


def test_grid_rises_in_frequency():
    iq = ofdm.fill_used(np.eye(200, dtype=np.complex64)[[0, 99, 100, 199]])
    turns = np.angle(np.sum(iq[:, 1:] * iq[:, :-1].conj(), axis=1)) / (2 * np.pi) * 256
    np.testing.assert_allclose(turns, [-100, -1, 1, 100], atol=1e-3)


def test_pilots_visit_every_subcarrier_once_in_25_symbols_and_every_fifth_in_5():
    np.testing.assert_array_equal(np.sort(ofdm.PILOTS.ravel()), np.arange(200))
    for first in range(0, 25, 5):
        assert set(np.diff(np.sort(ofdm.PILOTS[first : first + 5].ravel()))) == {5}
    for n in range(25):
        assert not set(ofdm.PILOTS[n]) & set(ofdm.DATA[n])
        assert len(ofdm.DATA[n]) == 192


def test_only_used_subcarriers_carry_power_and_the_prefix_is_cyclic():
    rng = np.random.default_rng(2)
    iq = ofdm.modulate(random_symbols(rng, 30)).reshape(30, 288)
    np.testing.assert_array_equal(iq[:, :32], iq[:, 256:])
    power = np.mean(np.abs(np.fft.fft(iq[:, 32:], axis=1)) ** 2, axis=0)
    empty = np.r_[0, 101:156]
    assert power[empty].max() < 1e-9 * power[1]
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


def test_an_empty_body_has_no_samples():
    assert ofdm.modulate(np.zeros((0, 192), np.complex64)).shape == (0,)
