import numpy as np
import pytest
from scipy import signal
from scipy.interpolate import CubicSpline

from radio.modem import equaliser, ofdm, preamble, sync

LEVELS = {2: 2, 4: 4, 6: 8, 8: 16}


def draw(rng, n, bits):
    levels = 2 * np.arange(LEVELS[bits]) - LEVELS[bits] + 1.0
    levels /= np.sqrt(2 * np.mean(levels**2))
    return (rng.choice(levels, (n, 192)) + 1j * rng.choice(levels, (n, 192))).astype(np.complex64)


def resampled(iq, ppm):
    """The samples as a clock sees them that runs slower by ppm, by four-fold interpolation and a
    cubic spline."""
    fine = CubicSpline(np.arange(4 * len(iq)) / 4, signal.resample(iq, 4 * len(iq)))
    return fine(np.arange(int(len(iq) / (1 + ppm * 1e-6))) * (1 + ppm * 1e-6))


def receive(
    rng, n, bits, snr_db, *, robust=False, alter=lambda iq, rng: iq, after=lambda iq: iq, cfo=None
):
    """(symbols, what was sent, true carrier offset less the acquisition's) of a burst in noise at
    Es/N0 = snr_db."""
    sent = draw(rng, n, bits)
    iq = np.concatenate([preamble.samples(robust), ofdm.modulate(sent)])
    iq = np.concatenate([np.zeros(600), alter(iq, rng), np.zeros(600)])
    cfo = rng.uniform(-1, 1) * preamble.MAX_CFO if cfo is None else cfo
    iq = iq * np.exp(2j * np.pi * (cfo * np.arange(len(iq)) + rng.uniform()))
    sigma = ofdm.AMPLITUDE * 10 ** (-snr_db / 20) / 2**0.5
    iq = after(iq + sigma * (rng.standard_normal((len(iq), 2)) @ [1, 1j])).astype(np.complex64)
    (found,) = sync.find_bursts(iq)
    assert found.robust == robust
    return equaliser.receive_symbols(iq, found, n), sent, cfo - found.cfo


def loss_db(symbols, sent, snr_db):
    """By how much the noise on received symbols, the estimate's error included, exceeds the
    channel's."""
    left = np.abs((symbols.data - sent) * symbols.gain) ** 2
    return 10 * np.log10(np.mean(left) * 10 ** (snr_db / 10))


def calibration(symbols, sent):
    return np.mean(np.abs(symbols.data - sent) ** 2 / symbols.noise_variance)


@pytest.mark.parametrize(
    ("robust", "n", "bits", "snr_db"),
    [
        (True, 200, 2, -8.0),
        (True, 200, 2, -5.0),
        (False, 200, 2, 0.0),
        (False, 200, 4, 12.0),
        (False, 200, 8, 30.0),
    ],
)
def test_noise_after_equalisation_is_the_channels_and_known(robust, n, bits, snr_db):
    rng = np.random.default_rng(21)
    losses, ratios = [], []
    for _ in range(5):
        symbols, sent, cfo = receive(rng, n, bits, snr_db, robust=robust)
        losses.append(loss_db(symbols, sent, snr_db))
        ratios.append(calibration(symbols, sent))
        assert symbols.residual_cfo == pytest.approx(cfo, abs=2e-3 / ofdm.N_FFT)
    assert -0.05 < np.mean(losses) < 0.1
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)


def test_the_head_alone_costs_little():
    rng = np.random.default_rng(22)
    losses = [loss_db(*receive(rng, 8, 2, -1.0)[:2], -1.0) for _ in range(15)]
    assert np.mean(losses) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "ppm", "snr_db"), [(400, 40.0, 26.0), (400, -40.0, 0.0), (1200, 40.0, 26.0)]
)
def test_the_window_follows_the_sample_clock(n, ppm, snr_db):
    rng = np.random.default_rng(23)
    symbols, sent, _ = receive(rng, n, 6, snr_db, alter=lambda iq, rng: resampled(iq, ppm))
    # 26 dB above the noise, intercarrier interference of the offset itself: (π 100 · 40e-6)² / 3 =
    # -53 dB at the edge
    assert loss_db(symbols, sent[: len(symbols.data)], snr_db) < 0.12
    assert symbols.clock_offset_ppm == pytest.approx(ppm, abs=1.0 if snr_db > 20 else 2.0)


@pytest.mark.slow
def test_fading_is_followed_and_a_still_channel_gets_the_whole_average():
    def fade(iq, rng):
        """Three paths up to 10 samples apart, each turning by up to ±1.3 cycles over the burst."""
        t = np.linspace(0, 1, len(iq))
        late = [np.concatenate([np.zeros(d), iq])[: len(iq)] for d in (0, 4, 10)]
        return sum(
            a
            * np.sum(
                np.exp(
                    2j * np.pi * (np.outer(rng.uniform(-1.3, 1.3, 6), t) + rng.uniform(size=(6, 1)))
                ),
                axis=0,
            )
            / 6**0.5
            * x
            for a, x in zip((0.7, 0.6, 0.4), late, strict=True)
        )

    rng = np.random.default_rng(24)
    faded, sent, _ = receive(rng, 1500, 6, 25.0, alter=fade)
    assert loss_db(faded, sent, 25.0) < 0.4
    assert calibration(faded, sent) == pytest.approx(1, abs=0.08)
    still, sent, _ = receive(rng, 1500, 6, 25.0)
    assert loss_db(still, sent, 25.0) < 0.06
    assert still.excess.mean() < 0.3 * faded.excess.mean()


def test_phase_that_walks_is_tracked():
    def walk(iq, rng):
        """-90 dBc/Hz at 10 kHz, 2 MS/s: the phase's variance grows by (2π 10 kHz)² 10^-9 = 3.9 rad²
        a second."""
        return iq * np.exp(1j * np.cumsum(rng.standard_normal(len(iq)) * np.sqrt(3.95 / 2e6)))

    rng = np.random.default_rng(25)
    losses = [loss_db(*receive(rng, 200, 6, 20.0, alter=walk)[:2], 20.0) for _ in range(4)]
    # what moves within a symbol cannot be tracked: variance T·rate/6 = 8.4e-5, 0.04 dB at 20 dB
    assert 0.03 < np.mean(losses) < 0.4


def test_mirror_image_and_constant_of_a_receiver_are_taken_out():
    ratio, angle = 10 ** (1 / 20), np.deg2rad(3)
    direct, mirror = (1 + ratio * np.exp(-1j * angle)) / 2, (1 - ratio * np.exp(1j * angle)) / 2

    def mixer(iq):
        return (direct * iq + mirror * iq.conj()) / abs(direct) + 0.01 - 0.005j

    rng = np.random.default_rng(26)
    losses = [loss_db(*receive(rng, 200, 6, 20.0, after=mixer)[:2], 20.0) for _ in range(4)]
    # the image alone, at -24 dB, would cost 1.5 dB
    assert np.mean(losses) < 0.1


def test_noise_on_some_subcarriers_and_in_some_symbols_is_told():
    def jam(iq):
        tone = 0.02 * np.exp(2j * np.pi * 0.2 * np.arange(len(iq)))
        loud = np.zeros(len(iq))
        loud[600 + 832 + 100 * 288 : 600 + 832 + 150 * 288] = 0.03
        return iq + tone + loud * (np.random.default_rng(1).standard_normal((len(iq), 2)) @ [1, 1j])

    rng = np.random.default_rng(27)
    symbols, sent, _ = receive(rng, 300, 4, 20.0, after=jam, cfo=0.0)
    error = np.abs(symbols.data - sent) ** 2
    tone = np.argmin(np.abs(ofdm.USED[ofdm.DATA[0]] - 51))
    assert symbols.noise_variance[:90, tone].mean() > 3 * np.median(symbols.noise_variance[:90])
    assert symbols.noise_variance[110:140].mean() > 3 * np.median(symbols.noise_variance[:90])
    assert np.mean(error[:, 150:] / symbols.noise_variance[:, 150:]) == pytest.approx(1, abs=0.15)


def test_a_cut_burst_gives_the_symbols_that_are_whole():
    rng = np.random.default_rng(28)
    sent = draw(rng, 40, 2)
    iq = np.concatenate([np.zeros(50), preamble.PLAIN.iq, ofdm.modulate(sent)]).astype(np.complex64)
    iq += (1e-3 * rng.standard_normal((len(iq), 2)) @ [1, 1j]).astype(np.complex64)
    cut = iq[: 50 + 832 + 20 * 288 + 200]
    (found,) = sync.find_bursts(cut)
    symbols = equaliser.receive_symbols(cut, found, 40)
    assert symbols.data.shape == symbols.noise_variance.shape == symbols.gain.shape == (20, 192)
    np.testing.assert_allclose(symbols.data, sent[:20], atol=0.1)
    for n in (0, 5, 25, 26):
        assert equaliser.receive_symbols(iq, found, n).data.shape == (n, 192)
    assert equaliser.receive_symbols(iq[: found.body + 100], found, 40).data.shape == (0, 192)


def test_a_preamble_that_nothing_follows_gives_finite_symbols():
    iq = np.concatenate([np.zeros(50), preamble.PLAIN.iq, np.zeros(288 * 60)]).astype(np.complex64)
    (found,) = sync.find_bursts(iq)
    symbols = equaliser.receive_symbols(iq, found, 50)
    assert np.isfinite(symbols.data).all()
    assert np.isfinite(symbols.noise_variance).all()
