"""Answers of the link over the control channel, by a virtual clock."""

from __future__ import annotations

import pytest

from hil.contract import ControlError
from hil.control.bus import InProcessBus
from hil.control.feedback import CloudFeedback, EdgeFeedback, LocalFeedback
from hil.control.messages import MAX_FEEDBACK_BYTES


class VirtualClock:
    def __init__(self) -> None:
        self.t_s = 100.0

    def now(self) -> float:
        return self.t_s

    def sleep_until(self, t_s: float) -> None:
        self.t_s = max(self.t_s, t_s)


def test_feedback_path_carries_bytes_and_lets_time_pass_only_on_the_links_clock() -> None:
    cloud, edge = InProcessBus.pair()
    clock = VirtualClock()
    path = LocalFeedback(edge, cloud, clock)
    path.send(b"one")
    path.send(b"\x00" * MAX_FEEDBACK_BYTES)
    assert path.receive(0.5) == b"one"
    assert path.receive(0.5) == b"\x00" * MAX_FEEDBACK_BYTES
    assert clock.now() == 100.0
    assert path.receive(0.5) is None
    assert clock.now() == 100.5
    with pytest.raises(ControlError, match="at most"):
        path.send(b"\x00" * (MAX_FEEDBACK_BYTES + 1))


def test_feedback_path_holds_a_message_until_it_is_due() -> None:
    cloud, edge = InProcessBus.pair()
    clock = VirtualClock()
    began_s = clock.now()
    path = LocalFeedback(edge, cloud, clock, delay_s=0.2)
    path.send(b"one")
    assert path.receive(0.0) is None
    assert path.receive(0.1) is None
    assert clock.now() == pytest.approx(began_s + 0.1)
    path.send(b"two")
    assert path.receive(0.5) == b"one"
    assert clock.now() == pytest.approx(began_s + 0.2)
    assert path.receive(0.5) == b"two"
    assert clock.now() == pytest.approx(began_s + 0.3)


def test_an_answer_that_no_broker_takes_is_lost_and_never_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cloud, edge = InProcessBus.pair()
    path = EdgeFeedback(edge)
    path.send(b"first")
    with pytest.raises(ControlError, match="at most"):
        path.send(b"\x00" * (MAX_FEEDBACK_BYTES + 1))
    edge.close()
    path.send(b"second")
    assert "an answer of the link is lost" in caplog.text
    clock = VirtualClock()
    heard = CloudFeedback(cloud, clock)
    assert heard.receive(0.0) == b"first"
    began_s = clock.now()
    assert heard.receive(0.5) is None
    assert clock.now() == began_s + 0.5
