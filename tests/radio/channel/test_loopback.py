import numpy as np
import pytest

from hil.contract import ConfigError, DeviceError
from radio.channel import PRESETS, Figures, Loopback, QueueFeedback
from radio.clocks import VirtualClock


def make(seed=1, **changes):
    clock = VirtualClock()
    return Loopback(
        clock=clock, rng=np.random.default_rng(seed), **{"snr_db": 20.0, **changes}
    ), clock


@pytest.mark.parametrize(
    ("iq", "words"),
    [
        (np.zeros(0, np.complex64), "at least one sample"),
        (np.zeros((2, 2), np.complex64), "one row"),
        (np.array([0, np.nan], np.complex64), "not finite"),
        (np.array([0, np.inf * 1j], np.complex64), "not finite"),
        (np.array([0, 1.2], np.complex64), "full scale"),
    ],
)
def test_unsound_samples_are_refused(iq, words):
    loopback, clock = make()
    with pytest.raises(DeviceError, match=words):
        loopback.transmit(iq)
    assert clock.now() == 0.0
    assert len(loopback.receive(10, timeout_s=0.1)) == 0


def test_time_is_air_time_at_the_rate_of_the_round():
    loopback, clock = make()
    loopback.transmit(np.ones(1000, np.complex64) / 2)
    assert clock.now() == pytest.approx(1000 / 2e6)
    loopback.sample_rate_hz = 1e6
    loopback.transmit(np.ones(1000, np.complex64) / 2)
    assert clock.now() == pytest.approx(1000 / 2e6 + 1000 / 1e6)


def test_reads_take_what_was_sent_in_pieces_and_never_more():
    loopback, _ = make(max_delay_samples=0)
    loopback.transmit(np.ones(700, np.complex64) / 2)
    loopback.transmit(np.ones(300, np.complex64) / 4)
    lengths = [len(loopback.receive(400, timeout_s=1.0)) for _ in range(4)]
    assert lengths == [400, 400, 200, 0]


def test_noise_follows_the_snr_of_the_round():
    loopback, _ = make(max_delay_samples=0)
    silence = np.zeros(50_000, np.complex64)
    powers = []
    for snr_db in (10.0, 20.0):
        loopback.snr_db = snr_db
        loopback.transmit(silence)
        powers.append(np.mean(np.abs(loopback.receive(50_000, timeout_s=0.0)) ** 2))
    assert powers[0] / powers[1] == pytest.approx(10.0, rel=0.03)


def test_further_impairments_are_applied_before_the_noise():
    loopback, _ = make(max_delay_samples=0, snr_db=90.0, impairments=(lambda iq, rng: iq[:5],))
    loopback.transmit(np.ones(50, np.complex64) / 2)
    assert len(loopback.receive(50, timeout_s=0.0)) == 5


def test_the_amplifier_comes_before_the_air_and_the_converter_after_the_noise():
    seen = []

    def weaken(iq, rng):
        seen.append(iq)
        return iq * np.float32(0.25)

    loopback, _ = make(
        max_delay_samples=0, figures=Figures(pa_backoff_db=0.0, adc_bits=4), impairments=(weaken,)
    )
    loopback.transmit(np.full(100, 0.9, np.complex64))
    np.testing.assert_allclose(np.abs(seen[0]), 0.2, rtol=0.01)  # driven far into saturation
    codes = loopback.receive(100, timeout_s=0.0).view(np.float32) * 8
    np.testing.assert_array_equal(codes, np.rint(codes))
    assert len(set(codes.tolist())) < 5


def gain(loopback, n=200):
    """The channel's gain at the end of a short steady transmission."""
    loopback.transmit(np.full(n, 0.5, np.complex64))
    return complex(loopback.receive(10_000, timeout_s=0.0)[n - 1]) / 0.5


def test_fading_goes_on_along_the_clock():
    loopback, clock = make(
        max_delay_samples=0, snr_db=90.0, figures=Figures(profile="flat", doppler_hz=5.0)
    )
    first = gain(loopback)
    assert abs(gain(loopback) - first) < 0.02
    clock.sleep_until(1.0)
    later = gain(loopback)
    assert abs(later - first) > 0.1
    loopback.sample_rate_hz = 1e6
    assert abs(gain(loopback) - later) < 0.02


def test_the_carrier_turns_on_through_a_pause():
    loopback, clock = make(max_delay_samples=0, snr_db=90.0, cfo_hz=10.0)
    first = gain(loopback)
    clock.sleep_until(
        clock.now() + 0.025 - 200 / 2e6
    )  # a quarter turn from transmission to transmission
    assert gain(loopback) / first == pytest.approx(1j, abs=0.01)
    loopback.cfo_hz = -10.0
    assert loopback.cfo_hz == -10.0


def test_a_silent_tail_lets_the_last_sample_out_and_costs_no_time():
    loopback, clock = make(
        max_delay_samples=0,
        snr_db=90.0,
        figures=Figures(profile="TDL-D", delay_spread_ns=500.0, clock_offset_ppm=20.0),
    )
    iq = np.zeros(1000, np.complex64)
    iq[-1] = 0.9
    loopback.transmit(iq)
    heard = loopback.receive(10_000, timeout_s=0.0)
    assert 0.5 < np.linalg.norm(heard) < 2.0
    assert clock.now() == pytest.approx(1000 / 2e6)


def test_mean_snr_is_what_was_set_behind_rayleigh_fading():
    signal, noise = (
        make(
            seed=7,
            max_delay_samples=0,
            snr_db=10.0,
            figures=Figures(profile="TDL-B", delay_spread_ns=100.0, doppler_hz=50.0),
        )
        for _ in range(2)
    )
    # the same seed has the same noise: the difference is the signal alone
    powers = []
    for _ in range(150):
        iq = np.full(64, 0.2, np.complex64)
        heard = [
            (one.transmit(x), one.receive(9999, timeout_s=0.0))[1]
            for (one, _), x in zip((signal, noise), (iq, 0 * iq), strict=True)
        ]
        powers.append(np.mean(np.abs((heard[0] - heard[1])[40:60]) ** 2))
        for _, clock in (signal, noise):
            clock.sleep_until(clock.now() + 0.02)
    assert np.mean(powers) == pytest.approx(0.04, rel=0.15)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_carries_bursts_and_repeats_with_its_seed(preset):
    rng = np.random.default_rng(9)
    iq = (0.1 * (rng.standard_normal(3000) + 1j * rng.standard_normal(3000))).astype(np.complex64)

    def run(seed):
        loopback, _ = make(seed, figures=PRESETS[preset], cfo_hz=500.0)
        for _ in range(2):
            loopback.transmit(iq)
        return loopback.receive(10**6, timeout_s=0.0)

    one, two, other = run(1), run(1), run(2)
    assert one.dtype == np.complex64
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()
    assert 6000 <= len(one) <= 6000 + 2 * (512 + 200)


def test_leaving_drops_what_was_not_received():
    loopback, _ = make()
    with loopback:
        loopback.transmit(np.ones(50, np.complex64) / 2)
    assert len(loopback.receive(50, timeout_s=0.0)) == 0


def test_a_sample_rate_must_be_positive():
    with pytest.raises(ConfigError, match="positive"):
        make(sample_rate_hz=0.0)


def test_messages_arrive_in_order_after_the_delay():
    clock = VirtualClock()
    path = QueueFeedback(clock, delay_s=0.05)
    path.send(b"one")
    clock.sleep_until(0.01)
    path.send(b"two")
    assert path.receive(0.02) is None
    assert clock.now() == pytest.approx(0.03)
    assert path.receive(1.0) == b"one"
    assert clock.now() == pytest.approx(0.05)
    assert path.receive(1.0) == b"two"
    assert clock.now() == pytest.approx(0.06)
    assert path.receive(0.5) is None
    assert clock.now() == pytest.approx(0.56)
    clock.sleep_until(0.1)
    assert clock.now() == pytest.approx(0.56)
