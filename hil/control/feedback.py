"""The link's answers over the control channel: contract.FeedbackPath, end by end.

On two machines the edge has an EdgeFeedback and the cloud a CloudFeedback. Where one process drives
both ends in turns, a LocalFeedback joins them.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from hil.contract import Clock, ControlError
from hil.control.bus import Bus
from hil.control.messages import MAX_FEEDBACK_BYTES, FeedbackMessage

_SEND_S: Final = 0.5  # nobody reads the radio meanwhile
_TRANSIT_LIMIT_S: Final = 10.0  # real time; a confirmed message takes milliseconds

_log = logging.getLogger(__name__)


class EdgeFeedback:
    """The edge's end: it sends answers.

    An answer that the bus does not take soon is lost, as on the radio, and the link asks again.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def send(self, message: bytes) -> None:
        """Send an answer.

        Raises:
            ControlError: it is longer than MAX_FEEDBACK_BYTES.
        """
        checked = _checked(message)
        try:
            self._bus.publish(checked, timeout_s=_SEND_S)
        except ControlError as error:
            _log.warning("an answer of the link is lost: %s", error)


class CloudFeedback:
    """The cloud's end: it receives answers.

    Args:
        bus: the cloud's end of the control channel.
        clock: the link's clock, on which a time-out passes.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus, self._clock = bus, clock

    def receive(self, timeout_s: float) -> bytes | None:
        """The next answer, or None when none came within timeout_s of the link's clock.

        Raises:
            ControlError: as Bus.receive.
        """
        deadline_s = self._clock.now() + timeout_s
        message = self._bus.receive(FeedbackMessage, timeout_s=timeout_s)
        if message is None:
            self._clock.sleep_until(deadline_s)
            return None
        return message.data


class LocalFeedback:
    """Both ends in one process.

    It knows whether an answer is on its way, waits for that one, and for nothing else. So the
    link's clock alone decides about time-outs, however fast the bus is.

    Args:
        edge: the end that answers are sent on.
        cloud: the end that they arrive at.
        clock: the link's clock, on which a time-out passes.
        delay_s: simulated travel time of each answer on the link's clock, ≥ 0.
    """

    def __init__(self, edge: Bus, cloud: Bus, clock: Clock, *, delay_s: float = 0.0) -> None:
        self._edge, self._cloud, self._clock = edge, cloud, clock
        self._delay_s = delay_s
        self._due_s: deque[float] = deque()

    def send(self, message: bytes) -> None:
        """Send an answer.

        Raises:
            ControlError: it is longer than MAX_FEEDBACK_BYTES, or as Bus.publish.
        """
        self._edge.publish(_checked(message))
        self._due_s.append(self._clock.now() + self._delay_s)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next answer that is due within timeout_s of the link's clock, else None.

        Raises:
            ControlError: as Bus.receive.
        """
        deadline_s = self._clock.now() + timeout_s
        if not self._due_s or self._due_s[0] > deadline_s:
            self._clock.sleep_until(deadline_s)
            return None
        message = self._cloud.receive(FeedbackMessage, timeout_s=_TRANSIT_LIMIT_S)
        if message is None:
            self._due_s.clear()
            self._clock.sleep_until(deadline_s)
            return None
        self._clock.sleep_until(self._due_s.popleft())
        return message.data


def _checked(message: bytes) -> FeedbackMessage:
    if len(message) > MAX_FEEDBACK_BYTES:
        raise ControlError(
            f"feedback of {len(message)} bytes: at most {MAX_FEEDBACK_BYTES} can be sent"
        )
    return FeedbackMessage(data=message)
