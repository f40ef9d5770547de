import numpy as np
import pytest

from radio.modem import delay_basis, ofdm, preamble, search, sync


def burst(rng, robust=False):
    bits = rng.integers(0, 2, (8, 192, 2)) * 2 - 1
    data = (bits @ [1, 1j] / 2**0.5).astype(np.complex64)
    return np.concatenate([preamble.samples(robust), ofdm.modulate(data)])


def on_air(rng, iq, snr_db, cfo, delay):
    """The burst `delay` samples late (a fraction too), turned by `cfo` cycles per sample, at Es/N0
    = snr_db."""
    x = np.concatenate([np.zeros(int(delay)), iq, np.zeros(100)])
    f = np.fft.fftfreq(len(x))
    x = np.fft.ifft(np.fft.fft(x) * np.exp(-2j * np.pi * f * (delay % 1)))
    x *= np.exp(2j * np.pi * (cfo * np.arange(len(x)) + rng.uniform()))
    # a unit symbol has amplitude AMPLITUDE on its subcarrier, under a unitary transform
    sigma = ofdm.AMPLITUDE * 10 ** (-snr_db / 20) / 2**0.5
    return (x + sigma * (rng.standard_normal((len(x), 2)) @ [1, 1j])).astype(np.complex64)


def cramer_rao(snr_db, n):
    """Standard deviation bound of a known n-sample signal's frequency, in subcarriers (Rife and
    Boorstyn 1974)."""
    per_sample = 10 ** (snr_db / 10) * ofdm.N_USED / ofdm.N_FFT
    return np.sqrt(6 / (per_sample * n**3)) / (2 * np.pi) * ofdm.N_FFT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robust", "snr_db"), [(False, 0.0), (False, 5.0), (False, 20.0), (True, -7.0), (True, 0.0)]
)
def test_bursts_are_found_at_any_offset_and_delay_near_the_cramer_rao_bound(robust, snr_db):
    rng = np.random.default_rng(11)
    iq, n, errors = burst(rng, robust), 60, []
    for _ in range(n):
        cfo, delay = rng.uniform(-1, 1) * preamble.MAX_CFO, rng.uniform(0, 1500)
        found = sync.find_bursts(on_air(rng, iq, snr_db, cfo, delay))
        right = [b for b in found if abs(b.start - delay) <= 8 and b.robust == robust]
        errors.extend((b.cfo - cfo) * ofdm.N_FFT for b in right)
    assert n * 0.97 <= len(errors) <= n
    rms = np.sqrt(np.mean(np.square(errors)))
    bound = cramer_rao(snr_db, len(preamble.samples(robust)))
    assert 0.8 * bound < rms < 1.6 * bound


def test_nothing_is_found_in_noise_even_on_a_large_constant():
    rng = np.random.default_rng(12)
    noise = rng.standard_normal(2_000_000, np.float32).view(np.complex64)
    assert sync.find_bursts(noise) == []
    assert sync.find_bursts(noise + np.complex64(300 - 100j)) == []


@pytest.mark.parametrize("frequency", [0.0, 1 / 16, 0.0213])
def test_a_carrier_gets_few_looks(frequency):
    rng = np.random.default_rng(13)
    n = 400_000
    tone = np.exp(2j * np.pi * frequency * np.arange(n)) + 0.01 * (
        rng.standard_normal((n, 2)) @ [1, 1j]
    )
    assert sync.find_bursts(tone.astype(np.complex64)) == []
    assert len(list(search.candidates(tone.astype(np.complex64)))) <= 2 * n / 4096 + 4


def test_a_burst_is_found_on_a_carrier_of_equal_power():
    rng = np.random.default_rng(14)
    iq = on_air(rng, burst(rng), 15.0, 0.01, 20_000)
    iq += np.complex64(ofdm.RMS_LEVEL) * np.exp(2j * np.pi * 0.11 * np.arange(len(iq))).astype(
        np.complex64
    )
    assert [b.start for b in sync.find_bursts(iq)] == pytest.approx([20_000], abs=4)


def test_a_receivers_constant_does_not_disturb():
    rng = np.random.default_rng(15)
    for _ in range(20):
        cfo = rng.uniform(-1, 1) * preamble.MAX_CFO
        iq = on_air(rng, burst(rng), 5.0, cfo, 700) + np.complex64(0.1 - 0.2j)
        (found,) = sync.find_bursts(iq)
        assert found.start == pytest.approx(700, abs=4)
        assert (found.cfo - cfo) * ofdm.N_FFT == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("length", [0, 1, 15, 255, 832, 3136])
def test_nothing_is_found_in_few_samples(length):
    assert sync.find_bursts(np.ones(length, np.complex64)) == []


def test_silence_is_no_burst():
    assert sync.find_bursts(np.zeros(20_000, np.complex64)) == []


def test_bursts_of_both_kinds_in_one_capture_are_found_in_order():
    rng = np.random.default_rng(16)
    kinds, delays = [False, True, True, False], [300, 0, 5000, 17]
    parts = [
        on_air(rng, burst(rng, kind), 12.0, 0.01, delay)
        for kind, delay in zip(kinds, delays, strict=True)
    ]
    begins = np.cumsum([0, *map(len, parts[:-1])]) + delays
    found = sync.find_bursts(np.concatenate(parts))
    assert [b.robust for b in found] == kinds
    np.testing.assert_allclose([b.start for b in found], begins, atol=3)
    assert [b.body - b.start for b in found] == [len(preamble.samples(kind)) for kind in kinds]


def test_a_burst_far_above_the_noise_before_it_is_found():
    rng = np.random.default_rng(17)
    iq = on_air(rng, burst(rng), 60.0, 0.02, 3000.4)
    assert [b.start for b in sync.find_bursts(iq)] == pytest.approx([3000], abs=3)


def test_data_symbols_are_not_taken_for_a_preamble():
    rng = np.random.default_rng(18)
    data = (rng.standard_normal((2000, 192, 2)) @ [0.7, 0.7j]).astype(np.complex64)
    assert sync.find_bursts(ofdm.modulate(data)) == []


def test_a_weak_first_path_is_in_the_window():
    rng = np.random.default_rng(19)
    paths = np.zeros(12)
    paths[[0, 7, 11]] = 0.45, 1.0, 0.5
    iq = np.convolve(burst(rng), paths).astype(np.complex64)
    (found,) = sync.find_bursts(on_air(rng, iq, 20.0, 0.003, 400))
    # the first path within the receiver's backoff, the last within the prefix
    assert 400 - found.start >= -ofdm.WINDOW_BACKOFF
    assert 411 - found.start <= ofdm.CP_SAMPLES - ofdm.WINDOW_BACKOFF


def test_delay_basis_keeps_short_responses_and_is_small():
    basis = delay_basis.whole()
    np.testing.assert_allclose(basis.conj().T @ basis, np.eye(basis.shape[1]), atol=1e-5)
    assert basis.shape[1] / ofdm.N_USED < 0.17
    for delay in (0.5, 8.0, 8.5, 20.25, 31.5):
        response = np.exp(-2j * np.pi * ofdm.USED * delay / ofdm.N_FFT)
        left = [
            np.mean(np.abs(response - b @ (b.conj().T @ response)) ** 2)
            for b in delay_basis.windows()
        ]
        assert left[-1] < 1e-6
        smallest = min(
            b.shape[1] for b, rest in zip(delay_basis.windows(), left, strict=True) if rest < 1e-6
        )
        assert smallest <= 6
