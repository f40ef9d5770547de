"""The decoder: what it must correct, what it must never claim, what must not wrap."""

import numpy as np
import pytest

from radio import ldpc


def noisy_words(code, n_blocks, n_coded, snr_db, rng, rv=0):
    """Information bits and LLRs in nats of QPSK at an Es/N0: one bit a dimension, amplitude 1,
    noise variance 1/SNR."""
    info = rng.integers(0, 2, (n_blocks, code.info_bits), np.uint8)
    sent = ldpc.rate_match(code, ldpc.encode(code, info), n_coded, 2, rv)
    return info, llr_of(sent, snr_db, rng)


def llr_of(sent, snr_db, rng):
    snr = 10 ** (snr_db / 10)
    received = 1 - 2.0 * sent + rng.standard_normal(sent.shape) / snr**0.5
    return (2 * snr * received).astype(np.float32)


@pytest.mark.parametrize(
    ("info_bits", "base_graph", "n_coded", "rv"),
    [
        (8448, 1, 25344, 0),
        (8448, 1, 9440, 0),
        (8448, 1, 40000, 3),
        (5000, 1, 9000, 0),
        (1280, 2, 2560, 0),
        (192, 2, 960, 0),
        (600, 2, 1500, 0),
        (24, 2, 120, 0),
    ],
)
def test_clean_words_come_back(info_bits, base_graph, n_coded, rv):
    code = ldpc.code_for(info_bits, base_graph)
    info, llr = noisy_words(code, 4, n_coded, 30, np.random.default_rng(info_bits), rv)
    info[0] = 0  # the zero word looks decided before it is
    llr[0] = np.abs(llr[0])
    got = ldpc.decode(code, ldpc.rate_recover(code, llr, 2, rv))
    np.testing.assert_array_equal(got.bits, info)
    assert got.converged.all()
    assert got.iterations.max() <= 5


@pytest.mark.parametrize(
    ("info_bits", "base_graph", "n_coded", "snr_db"),
    # half a dB to one and a half above the waterfall of each
    [
        (8448, 1, 72092, -4.6),
        (8448, 1, 25344, -0.7),
        (8448, 1, 16896, 1.6),
        (8448, 1, 10176, 5.4),
        (1280, 2, 2560, 2.2),
        (192, 2, 960, -1.0),
    ],
)
def test_noise_is_corrected(info_bits, base_graph, n_coded, snr_db):
    code = ldpc.code_for(info_bits, base_graph)
    info, llr = noisy_words(code, 12, n_coded, snr_db, np.random.default_rng(n_coded))
    raw_errors = np.mean((llr < 0) != ldpc.rate_match(code, ldpc.encode(code, info), n_coded, 2))
    assert raw_errors > 0.02
    got = ldpc.decode(code, ldpc.rate_recover(code, llr, 2))
    np.testing.assert_array_equal(got.bits, info)
    assert got.converged.all()


def test_noise_alone_never_converges():
    rng = np.random.default_rng(7)
    for info_bits, base_graph, n_coded in [
        (8448, 1, 9440),
        (8448, 1, 25344),
        (1280, 2, 2560),
        (192, 2, 960),
    ]:
        code = ldpc.code_for(info_bits, base_graph)
        for strength in (0.3, 3, 300):
            llr = (strength * rng.standard_normal((10, n_coded))).astype(np.float32)
            got = ldpc.decode(code, ldpc.rate_recover(code, llr, 2))
            assert not got.converged.any()
            assert (got.iterations == 20).all()


def test_what_converges_is_a_codeword_even_far_below_the_waterfall():
    code = ldpc.code_for(192, 2)
    info, llr = noisy_words(code, 400, 960, -4.0, np.random.default_rng(8))
    soft = ldpc.rate_recover(code, llr, 2)
    got = ldpc.decode(code, soft, 50)
    assert 0.05 < np.mean(got.converged) < 0.95
    right = (got.bits == info).all(axis=1)
    assert right[got.converged].all()


def test_silence_is_not_the_zero_word():
    code = ldpc.code_for(1280, 2)
    got = ldpc.decode(code, ldpc.rate_recover(code, np.zeros((2, 2560), np.float32), 2))
    assert not got.converged.any()


def test_full_scale_values_do_not_wrap():
    code = ldpc.code_for(8448, 1)
    rng = np.random.default_rng(9)
    info = rng.integers(0, 2, (4, 8448), np.uint8)
    buffer = ldpc.encode(code, info)
    flipped = rng.random(buffer.shape) < 0.05
    soft = np.where(buffer ^ flipped, np.int16(-32768), np.int16(32767))
    got = ldpc.decode(code, soft)
    np.testing.assert_array_equal(got.bits, info)
    assert got.converged.all()


def test_iterations_are_limited_and_help():
    code = ldpc.code_for(8448, 1)
    info, llr = noisy_words(code, 8, 16896, 1.4, np.random.default_rng(10))
    soft = ldpc.rate_recover(code, llr, 2)
    few, many = ldpc.decode(code, soft, 3), ldpc.decode(code, soft, 30)
    assert (few.iterations == 3).all()
    assert not few.converged.any()
    assert many.converged.all()
    assert np.mean(few.bits != info) < np.mean(ldpc.decode(code, soft, 1).bits != info)


def test_two_hopeless_receptions_add_up_to_a_good_one():
    code = ldpc.code_for(8448, 1)
    rng = np.random.default_rng(11)
    info = rng.integers(0, 2, (6, 8448), np.uint8)
    buffer = ldpc.encode(code, info)
    for second_rv in (0, 2):  # the same bits again, or others
        soft = [
            ldpc.rate_recover(
                code, llr_of(ldpc.rate_match(code, buffer, 16896, 2, rv), -1.2, rng), 2, rv
            )
            for rv in (0, second_rv)
        ]
        for alone in soft:
            assert not ldpc.decode(code, alone).converged.any()
        together = ldpc.decode(code, ldpc.combine(*soft))
        np.testing.assert_array_equal(together.bits, info)


def test_blocks_do_not_depend_on_their_company():
    code = ldpc.code_for(1280, 2)
    rng = np.random.default_rng(12)
    info, llr = noisy_words(code, 6, 2560, 1.3, rng)
    soft = ldpc.rate_recover(code, llr, 2)
    soft[3, 3000:] = 0  # fewer layers than its neighbours
    together = ldpc.decode(code, soft)
    for i in range(6):
        alone = ldpc.decode(code, soft[i : i + 1])
        np.testing.assert_array_equal(alone.bits[0], together.bits[i])
        assert alone.iterations[0] == together.iterations[i]
    assert info.shape == together.bits.shape
