import numpy as np
import pytest

from hil.contract import ConfigError, DeviceError
from radio.loopback import Loopback, QueueFeedback, VirtualClock


def make(seed=1, **changes):
    clock = VirtualClock()
    return Loopback(clock=clock, rng=np.random.default_rng(seed), **{"snr_db": 20.0, **changes}), clock


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
