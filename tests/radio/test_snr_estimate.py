import numpy as np
import pytest

from radio import mcs, snr


def trial(rng, snr_db, n_symbols, bits=4, gain=0.3 - 0.7j):
    sent = mcs.map_bits(rng.integers(0, 2, n_symbols * 192 * bits).astype(np.uint8), bits).reshape(n_symbols, 192)
    sigma = abs(gain) * 10 ** (-snr_db / 20) / 2**0.5
    noise = rng.standard_normal((*sent.shape, 2)) @ [1, 1j]
    return (gain * sent + sigma * noise).astype(np.complex64), sent


@pytest.mark.parametrize("snr_db", [-3.0, 0.0, 10.0, 25.0])
@pytest.mark.parametrize("n_symbols", [2, 8, 40])
def test_measured_snr_is_unbiased_and_its_sigma_is_honest(snr_db, n_symbols):
    rng = np.random.default_rng(41)
    known = np.ones((n_symbols, 192), np.bool_)
    got = [snr.from_known(*trial(rng, snr_db, n_symbols), known) for _ in range(200)]
    errors = np.array([m.snr_db for m in got]) - snr_db
    sigma = got[0].snr_std_db
    assert abs(errors.mean()) < 0.02 + 4 * sigma / 200**0.5
    assert errors.std() == pytest.approx(sigma, rel=0.25)
    assert all(m.data_aided for m in got)


def test_unknown_symbols_do_not_count():
    rng = np.random.default_rng(42)
    received, sent = trial(rng, 15.0, 20)
    known = np.zeros(sent.shape, np.bool_)
    known[:8] = True
    received[8:] = 100
    assert snr.from_known(received, sent, known).snr_db == pytest.approx(15.0, abs=0.6)


def test_preamble_measurement_is_flagged():
    rng = np.random.default_rng(43)
    received = 1 + 10 ** (-10 / 20) / 2**0.5 * (rng.standard_normal((2, 200, 2)) @ [1, 1j])
    measured = snr.from_preamble(received.astype(np.complex64))
    assert not measured.data_aided
    assert measured.snr_db == pytest.approx(10.0, abs=4 * measured.snr_std_db)
    assert measured.snr_std_db > 0.2


def test_noise_only_gives_a_finite_low_value():
    rng = np.random.default_rng(44)
    received = (rng.standard_normal((2, 200, 2)) @ [1, 1j]).astype(np.complex64)
    assert -100 < snr.from_preamble(received).snr_db < 0


def test_error_vector_magnitude():
    sent = np.full((4, 192), 1 + 0j, np.complex64)
    known = np.ones(sent.shape, np.bool_)
    assert snr.evm_rms(sent * 1.1, sent, known) == pytest.approx(0.1, rel=1e-5)
    assert np.isnan(snr.evm_rms(sent, sent, ~known))


def test_combining_weights_by_sigma_and_prefers_known_data():
    a = snr.SnrMeasurement(snr_db=10.0, snr_std_db=0.1, data_aided=True)
    b = snr.SnrMeasurement(snr_db=11.0, snr_std_db=0.2, data_aided=True)
    c = snr.SnrMeasurement(snr_db=30.0, snr_std_db=0.01, data_aided=False)
    both = snr.combine([a, b, c])
    assert both.data_aided
    assert both.snr_db == pytest.approx((10 * 100 + 11 * 25) / 125)
    assert both.snr_std_db == pytest.approx(125**-0.5)
    assert snr.combine([c]) == c
    with pytest.raises(ValueError, match="no SNR"):
        snr.combine([])
