import numpy as np
import pytest

from radio import channel, framing, ofdm, sync


def header(burst=0):
    return framing.BurstHeader(
        session=1, burst=burst, mcs=0, first_block=0, block_count=0, payload_bytes=0, tag=bytes(7)
    )


def on_air(rng, snr_db, cfo, delay, impairment=None):
    """A sounding burst behind `delay` samples of pause, with cfo in cycles per sample."""
    iq = framing.build_burst(header(), b"", []).iq
    if impairment is not None:
        iq = impairment(iq)
    iq = np.concatenate([np.zeros(delay, np.complex64), iq])
    return channel.Chain((channel.FrequencyOffset(cfo, 1.0), channel.Awgn(snr_db)))(iq, rng)


@pytest.mark.parametrize(("snr_db", "cfo_bar"), [(0.0, 0.02), (5.0, 0.01)])
def test_bursts_are_found_at_any_offset_and_delay(snr_db, cfo_bar):
    rng = np.random.default_rng(11)
    n, errors = 300, []
    for _ in range(n):
        cfo, delay = rng.uniform(-0.95, 0.95) * sync.MAX_CFO, int(rng.integers(2000))
        hits = [b for b in sync.find_bursts(on_air(rng, snr_db, cfo, delay)) if abs(b.start - delay) <= 8]
        if hits:
            errors.append((hits[0].cfo - cfo) * ofdm.N_FFT)
    assert len(errors) >= 0.99 * n
    assert np.sqrt(np.mean(np.square(errors))) <= cfo_bar


def test_nothing_is_found_in_noise():
    rng = np.random.default_rng(12)
    noise = rng.standard_normal(2_000_000, np.float32).view(np.complex64)
    assert sync.find_bursts(noise) == []


@pytest.mark.parametrize("length", [0, 1, 15, 255, 832])
def test_nothing_is_found_in_few_samples(length):
    assert sync.find_bursts(np.ones(length, np.complex64)) == []


def test_silence_is_no_burst():
    assert sync.find_bursts(np.zeros(20_000, np.complex64)) == []


def test_several_bursts_in_one_capture_are_found_in_order():
    rng = np.random.default_rng(13)
    delays = [300, 0, 5000, 17]
    capture = np.concatenate([on_air(rng, 12.0, 0.01, d) for d in delays])
    length = framing.HEAD_SAMPLES
    expected = np.cumsum(delays) + length * np.arange(4)
    starts = [b.start for b in sync.find_bursts(capture)]
    np.testing.assert_allclose(starts, expected, atol=2)


def test_data_symbols_are_not_taken_for_a_preamble():
    rng = np.random.default_rng(14)
    bits = rng.integers(0, 2, 3000 * ofdm.N_DATA * 2).astype(np.uint8)
    data = (1 - 2.0 * bits.reshape(-1, 2)) @ [1, 1j] / 2**0.5
    iq = ofdm.modulate(data.reshape(3000, ofdm.N_DATA).astype(np.complex64))
    assert sync.find_bursts(iq) == []


def test_channel_estimate_follows_two_paths_and_a_fraction_of_a_sample():
    def paths(iq):
        direct = np.concatenate([iq, np.zeros(9, np.complex64)])
        late = 0.5j * np.concatenate([np.zeros(9, np.complex64), iq])
        return (direct + late).astype(np.complex64)

    rng = np.random.default_rng(15)
    burst = sync.find_bursts(on_air(rng, 30.0, 0.003, 400, paths))[0]
    true = 1 + 0.5j * np.exp(-2j * np.pi * ofdm.USED * 9 / ofdm.N_FFT)
    # start phase and timing are free: fit one phase and one delay
    slopes = np.exp(-2j * np.pi * np.outer(np.linspace(0, 16, 321), ofdm.USED) / ofdm.N_FFT)
    match = np.abs(slopes.conj() @ (burst.channel * true.conj())).max() ** 2
    power = np.vdot(true, true).real * np.vdot(burst.channel, burst.channel).real
    assert match / power > 0.999
    assert np.mean(np.abs(burst.channel) ** 2) == pytest.approx(1.25, rel=0.02)


def test_projection_keeps_short_responses_and_takes_out_noise():
    basis = sync.CHANNEL_BASIS
    np.testing.assert_allclose(basis.conj().T @ basis, np.eye(basis.shape[1]), atol=1e-5)
    for delay in (0.0, 8.0, 8.5, 20.25):
        response = np.exp(-2j * np.pi * ofdm.USED * delay / ofdm.N_FFT)
        if delay >= 8:  # the receiver's window puts the first path there
            left = response - basis @ (basis.conj().T @ response)
            assert np.mean(np.abs(left) ** 2) < 1e-3
    assert basis.shape[1] / ofdm.N_USED < 0.17
