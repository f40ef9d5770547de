import itertools
import math

import numpy as np
import pytest

from radio import mcs

QPSK, QAM16 = mcs.MCS_TABLE


def all_words(bits_per_symbol):
    return np.array(list(itertools.product([0, 1], repeat=bits_per_symbol)), np.uint8)


@pytest.mark.parametrize("bits", [2, 4])
def test_constellation_has_unit_energy_and_is_gray(bits):
    words = all_words(bits)
    points = mcs.map_bits(words.ravel(), bits)
    assert np.mean(np.abs(points) ** 2) == pytest.approx(1.0, rel=1e-6)
    distance = np.abs(points[:, None] - points[None, :])
    nearest = np.min(distance[distance > 1e-6])
    for i, j in zip(*np.nonzero(np.abs(distance - nearest) < 1e-4), strict=True):
        assert np.sum(words[i] != words[j]) == 1


def test_points_follow_the_standard():
    # 3GPP TS 38.211 §5.1.3 and §5.1.4
    np.testing.assert_allclose(
        mcs.map_bits(np.array([0, 0, 1, 0], np.uint8), 2), [0.70710678 * (1 + 1j), 0.70710678 * (-1 + 1j)]
    )
    got = mcs.map_bits(np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0], np.uint8), 4) * 10**0.5
    np.testing.assert_allclose(got, [1 + 1j, 3 + 3j, -3 + 1j], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_llrs_equal_an_exhaustive_max_log_search(bits):
    rng = np.random.default_rng(21)
    received = (rng.standard_normal(400) + 1j * rng.standard_normal(400)).astype(np.complex64)
    noise = rng.uniform(0.05, 2, 400).astype(np.float32)
    words = all_words(bits)
    points = mcs.map_bits(words.ravel(), bits)
    metric = np.abs(received[:, None] - points) ** 2 / noise[:, None]
    expected = np.stack(
        [metric[:, words[:, b] == 1].min(1) - metric[:, words[:, b] == 0].min(1) for b in range(bits)], axis=1
    )
    got = mcs.demap(received, noise, bits)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.reshape(-1, bits), expected, rtol=1e-4, atol=1e-4)


def q(x):
    return math.erfc(x / math.sqrt(2)) / 2


@pytest.mark.parametrize(
    ("scheme", "snr_db"), [(QPSK, 4.0), (QPSK, 7.0), (QPSK, 9.0), (QAM16, 10.0), (QAM16, 13.0), (QAM16, 15.0)]
)
def test_bit_error_rate_over_awgn_is_the_theory(scheme, snr_db):
    rng = np.random.default_rng(22)
    n = 2_000_000 // scheme.bits_per_symbol * scheme.bits_per_symbol
    bits = rng.integers(0, 2, n, np.uint8)
    symbols = mcs.map_bits(bits, scheme.bits_per_symbol)
    sigma = math.sqrt(10 ** (-snr_db / 10) / 2)
    noisy = symbols + np.float32(sigma) * rng.standard_normal(2 * len(symbols), np.float32).view(np.complex64)
    decided = mcs.slice_llrs(mcs.demap(noisy, np.float32(2 * sigma**2), scheme.bits_per_symbol))
    errors = int(np.sum(decided != bits))
    gamma = 10 ** (snr_db / 10)
    if scheme is QPSK:
        theory = q(math.sqrt(gamma))
    else:
        a = math.sqrt(gamma / 5)
        theory = (3 * q(a) + 2 * q(3 * a) - q(5 * a)) / 4
    assert abs(errors - n * theory) < 4 * math.sqrt(n * theory)
    assert mcs.bit_error_rate(scheme, snr_db) == pytest.approx(theory, rel=1e-9)


def test_choice_by_the_table():
    assert mcs.choose(-10.0, 0.0) is QPSK
    assert mcs.choose(QAM16.threshold_db - 0.01, 0.0) is QPSK
    assert mcs.choose(QAM16.threshold_db, 0.0) is QAM16
    assert mcs.choose(QAM16.threshold_db, 0.1) is QPSK


def test_outer_loop_backs_off_on_losses_and_returns():
    adaptation = mcs.Adaptation()
    snr_db = QAM16.threshold_db + 0.5
    assert adaptation.choose(snr_db) is QAM16
    adaptation.observe(0.9)
    assert adaptation.choose(snr_db) is QPSK
    for _ in range(20):
        adaptation.observe(0.0)
    assert adaptation.choose(snr_db) is QAM16
    for _ in range(100):
        adaptation.observe(1.0)
    assert adaptation.margin_db == adaptation.MAX_MARGIN_DB
