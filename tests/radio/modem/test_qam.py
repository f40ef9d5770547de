import itertools

import numpy as np
import pytest
from scipy.special import erfc

from radio.modem import qam

ALL = [2, 4, 6, 8]


def all_words(bits_per_symbol):
    return np.array(list(itertools.product([0, 1], repeat=bits_per_symbol)), np.uint8)


def uncoded_bit_error_rate(bits_per_symbol, snr_db):
    """Exact for Gray-labelled square QAM over AWGN (Cho and Yoon, IEEE Trans. Commun. 50(7),
    2002)."""
    levels = 2 ** (bits_per_symbol // 2)
    arms = (2 * np.arange(levels) + 1) * np.sqrt(1.5 * 10 ** (snr_db / 10) / (levels**2 - 1))
    total = 0.0
    for bit in range(1, bits_per_symbol // 2 + 1):
        i = np.arange(int((1 - 2.0**-bit) * levels))
        turns = np.floor(i * 2 ** (bit - 1) / levels)
        weights = (-1) ** turns * (2 ** (bit - 1) - np.floor(i * 2 ** (bit - 1) / levels + 0.5))
        total += float(np.sum(weights * erfc(arms[i]))) / levels
    return total / (bits_per_symbol // 2)


@pytest.mark.parametrize(
    ("bits", "points"),
    [  # TS 38.211 §5.1.3-5.1.6, worked out by hand from the formulas
        ("00", (1 + 1j) / 2**0.5),
        ("10", (-1 + 1j) / 2**0.5),
        ("0000", (1 + 1j) / 10**0.5),
        ("0111", (3 - 3j) / 10**0.5),
        ("000000", (3 + 3j) / 42**0.5),
        ("101110", (-7 + 5j) / 42**0.5),
        ("00000000", (5 + 5j) / 170**0.5),
        ("11101010", (-15 - 5j) / 170**0.5),
    ],
)
def test_points_of_the_standard(bits, points):
    (symbol,) = qam.map_bits(np.array([int(b) for b in bits], np.uint8), len(bits))
    assert symbol == pytest.approx(points, abs=1e-6)


@pytest.mark.parametrize("bits", ALL)
def test_constellation_has_unit_energy_and_is_gray(bits):
    words = all_words(bits)
    points = qam.map_bits(words.ravel(), bits)
    assert np.mean(np.abs(points) ** 2) == pytest.approx(1.0, rel=1e-6)
    assert abs(points.mean()) < 1e-6
    distance = np.abs(points[:, None] - points[None])
    nearest = distance[distance > 1e-6].min()
    for i, j in np.argwhere(np.abs(distance - nearest) < 1e-4):
        assert np.count_nonzero(words[i] != words[j]) == 1


@pytest.mark.parametrize("bits", ALL)
def test_soft_values_are_the_max_log_ones(bits):
    rng = np.random.default_rng(41)
    words = all_words(bits)
    points = qam.map_bits(words.ravel(), bits)
    symbols = (1.3 * (rng.standard_normal(500) + 1j * rng.standard_normal(500))).astype(
        np.complex64
    )
    noise = rng.uniform(0.01, 2, 500).astype(np.float32)
    metric = np.abs(symbols[:, None] - points[None]) ** 2 / noise[:, None]
    wanted = [
        metric[:, words[:, b] == 1].min(1) - metric[:, words[:, b] == 0].min(1) for b in range(bits)
    ]
    got = qam.demap(symbols, noise, bits).reshape(500, bits)
    np.testing.assert_allclose(got, np.stack(wanted, 1), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("bits", "snr_db"), [(2, 7.0), (4, 13.0), (6, 18.0), (8, 24.0)])
def test_uncoded_bit_error_rate_is_the_theory(bits, snr_db):
    rng = np.random.default_rng(42)
    sent = rng.integers(0, 2, 400_000 // bits * bits, np.uint8)
    symbols = qam.map_bits(sent, bits)
    n0 = 10 ** (-snr_db / 10)
    noise = (n0 / 2) ** 0.5 * (
        rng.standard_normal(len(symbols)) + 1j * rng.standard_normal(len(symbols))
    )
    llrs = qam.demap((symbols + noise).astype(np.complex64), np.float32(n0), bits)
    expected = uncoded_bit_error_rate(bits, snr_db)
    sigma = (expected / len(sent)) ** 0.5
    assert np.mean((llrs < 0) != sent) == pytest.approx(expected, abs=4 * sigma)
