import numpy as np
import pytest

from radio.modem import equaliser, ofdm, preamble, snr, sync


def receive(rng, n, snr_db, *, robust=False, paths=(1.0,)):
    """(symbols, acquisition, sent) of a QPSK burst through `paths` (unit power) in noise at Es/N0 =
    snr_db."""
    sent = ((rng.integers(0, 2, (n, 192, 2)) * 2 - 1) @ [1, 1j] / 2**0.5).astype(np.complex64)
    iq = np.convolve(np.concatenate([preamble.samples(robust), ofdm.modulate(sent)]), paths)
    iq = np.concatenate([np.zeros(500), iq, np.zeros(500)]) * np.exp(2j * np.pi * rng.uniform())
    sigma = ofdm.AMPLITUDE * 10 ** (-snr_db / 20) / 2**0.5
    iq = (iq + sigma * (rng.standard_normal((len(iq), 2)) @ [1, 1j])).astype(np.complex64)
    (found,) = sync.find_bursts(iq)
    return equaliser.receive_symbols(iq, found, n), found, sent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snr_db", "robust"), [(-5.0, True), (0.0, False), (15.0, False), (30.0, False)]
)
def test_measured_snr_is_right_and_its_sigma_is_honest(snr_db, robust):
    rng = np.random.default_rng(41)
    aided, preamble = [], []
    for _ in range(40):
        symbols, found, sent = receive(rng, 40, snr_db, robust=robust, paths=(0.8, 0, 0, 0.6j))
        aided.append(snr.measure(symbols, sent, np.ones(sent.shape, np.bool_)))
        preamble.append(snr.from_preamble(found))
    for measured, is_aided in ((aided, True), (preamble, False)):
        errors = np.array([m.snr_db - snr_db for m in measured])
        sigmas = np.array([m.snr_std_db for m in measured])
        assert all(m.data_aided == is_aided for m in measured)
        # 68 % of 40 bursts, three sigma either way
        assert 18 <= np.sum(np.abs(errors) < sigmas) <= 36
        assert abs(errors.mean()) < 0.08 + 3 * sigmas.mean() / 40**0.5
    assert np.abs([m.snr_db - snr_db for m in aided]).max() < (0.5 if snr_db < 0 else 0.4)


def test_a_fading_channel_is_no_noise():
    rng = np.random.default_rng(42)
    n = 1000
    sent = ((rng.integers(0, 2, (n, 192, 2)) * 2 - 1) @ [1, 1j] / 2**0.5).astype(np.complex64)
    iq = np.concatenate([preamble.PLAIN.iq, ofdm.modulate(sent)])
    fade = 1 + 0.5 * np.exp(2j * np.pi * 1.5 * np.arange(len(iq)) / len(iq))
    noise = (
        ofdm.AMPLITUDE
        * 10 ** (-25 / 20)
        / 2**0.5
        * (rng.standard_normal((len(iq) + 200, 2)) @ [1, 1j])
    )
    iq = (np.concatenate([np.zeros(100), iq * fade, np.zeros(100)]) + noise).astype(np.complex64)
    (found,) = sync.find_bursts(iq)
    measured = snr.measure(
        equaliser.receive_symbols(iq, found, n), sent, np.ones(sent.shape, np.bool_)
    )
    true = 25 + 10 * np.log10(np.mean(np.abs(fade[832:]) ** 2))
    assert measured.snr_db == pytest.approx(true, abs=0.1)


@pytest.mark.parametrize("snr_db", [3.0, 15.0])
def test_flat_snr_has_the_capacity_of_the_channel_with_an_echo(snr_db):
    rng = np.random.default_rng(45)
    paths = (0.8, 0, 0, 0, 0, 0.6j)
    response = np.fft.fft(paths, ofdm.N_FFT)[ofdm.USED % ofdm.N_FFT]
    capacity = np.log2(1 + 10 ** (snr_db / 10) * np.abs(response) ** 2).mean()
    expected_db = 10 * np.log10(2**capacity - 1)
    for echo, wanted_db in ((paths, expected_db), ((1.0,), snr_db)):
        symbols, found, sent = receive(rng, 100, snr_db, paths=echo)
        aided = snr.measure(symbols, sent, np.ones(sent.shape, np.bool_))
        assert aided.flat_snr_db == pytest.approx(wanted_db, abs=0.25)
        assert snr.from_preamble(found).flat_snr_db == pytest.approx(wanted_db, abs=1.0)
    assert expected_db < snr_db - 0.5


def test_unknown_symbols_do_not_count():
    rng = np.random.default_rng(43)
    symbols, _, sent = receive(rng, 60, 15.0)
    known = np.zeros(sent.shape, np.bool_)
    known[:30, ::8] = True
    whole = snr.measure(symbols, sent, np.ones(sent.shape, np.bool_))
    part = snr.measure(symbols, np.where(known, sent, 0), known)
    assert part.snr_db == pytest.approx(15.0, abs=0.5)
    assert part.snr_std_db > 1.5 * whole.snr_std_db
    assert snr.measure(symbols, sent[:30], known[:30]) == part


def test_error_vector_magnitude_follows_the_snr():
    rng = np.random.default_rng(44)
    symbols, _, sent = receive(rng, 100, 20.0)
    known = np.ones(sent.shape, np.bool_)
    assert snr.evm_rms(symbols, sent, known) == pytest.approx(0.1, rel=0.02)
    assert np.isnan(snr.evm_rms(symbols, sent, ~known))


def test_combining_weights_by_sigma_and_prefers_known_data():
    a = snr.SnrMeasurement(snr_db=10.0, snr_std_db=0.1, data_aided=True, flat_snr_db=9.0)
    b = snr.SnrMeasurement(snr_db=11.0, snr_std_db=0.2, data_aided=True, flat_snr_db=11.0)
    c = snr.SnrMeasurement(snr_db=30.0, snr_std_db=0.01, data_aided=False, flat_snr_db=30.0)
    both = snr.combine([a, b, c])
    assert both.data_aided
    assert both.snr_db == pytest.approx((10 * 100 + 11 * 25) / 125)
    assert both.flat_snr_db == pytest.approx((9 * 100 + 11 * 25) / 125)
    assert both.snr_std_db == pytest.approx(125**-0.5)
    assert snr.combine([c]) == c
    with pytest.raises(ValueError, match="no SNR"):
        snr.combine([])
