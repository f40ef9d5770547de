"""The control channel: a bus that carries messages between the cloud half and the edge half.

A message travels on the topic ``hil/<device>/<sender>/<kind>``. Whatever arrives is validated
first; what is invalid, doubled or outdated is dropped, counted and logged, and never raises.

`InProcessBus` joins two halves in one process; hil.control.mqtt joins them through a broker. Both
take the same path through `Endpoint`, so that the same messages cost the same bytes.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Protocol, Self, TypeVar, cast

from hil.contract import ControlError
from hil.control.messages import (
    GONE,
    SPEAKER,
    WIRE_VERSION,
    AnyMessage,
    Envelope,
    Message,
    Role,
    StatusMessage,
    decode,
    encode,
)

MAX_QUEUED: Final = 256
"""Messages of one kind that wait to be received; beyond it the oldest gives way."""
WINDOW: Final = 1024
"""How far behind a sender's highest counter a message may still arrive."""
PUBLISH_TIMEOUT_S: Final = 10.0

M = TypeVar("M", bound=Message)
_log = logging.getLogger(__name__)


# -------------------------------------------------------------------------------------- one end


@dataclass(slots=True)
class BusCounters:
    """Counts of the messages that one end of a bus has seen.

    Attributes:
        messages_sent, control_bytes_sent: confirmed messages, and their topics and payloads in
            bytes; what a protocol below adds (headers, acknowledgements, repetitions) is not
            counted, so two kinds of bus compare equal.
        messages_received, control_bytes_received: the same for messages that were accepted.
        late: number of those that came behind a message that was sent after them.
        dropped: cause ("invalid", "misaddressed", "duplicate", "old", "overflow") → messages.
    """

    messages_sent: int = 0
    control_bytes_sent: int = 0
    messages_received: int = 0
    control_bytes_received: int = 0
    late: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


Verdict = Literal["new", "late", "duplicate", "old"]


class CounterWindow:
    """Which counters of the other side were seen, as IPsec does it (RFC 4303, section 3.4.3), start
    by start."""

    def __init__(self) -> None:
        self._instance = ""
        self._past: deque[str] = deque(maxlen=16)
        self._highest = 0
        self._seen = 0  # bit i: counter highest - i

    def judge(self, instance: str, counter: int) -> Verdict:
        """Whether a message is new, late but unseen, a duplicate, or too old to tell; remembers it.

        Counter 0 is no count: it is new as long as its instance has no successor.
        """
        if instance in self._past:
            return "old"
        if counter == 0:
            return "new"
        if instance != self._instance:
            self._past.append(self._instance)
            self._instance, self._highest, self._seen = instance, counter, 1
            return "new"
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            self._highest = counter
            return "new"
        if -ahead >= WINDOW:
            return "old"
        if self._seen >> -ahead & 1:
            return "duplicate"
        self._seen |= 1 << -ahead
        return "late"


class Endpoint:
    """One end without any transport: messages to topic and bytes, and what arrives to bounded
    queues.

    Thread-safe.

    Args:
        role: the side this end speaks for.
        device_id: names the edge; 1 to 64 letters, digits, "_" or "-".
        instance: eight hex digits, another one at each start of the process.

    Raises:
        ControlError: a device_id that cannot be part of a topic.
    """

    def __init__(self, role: Role, device_id: str, instance: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", device_id):
            raise ControlError(
                f"device id {device_id[:80]!r}: use 1 to 64 letters, digits, '_' or '-'"
            )
        self.role: Final = role
        self.peer: Final[Role] = "edge" if role == "cloud" else "cloud"
        self.device_id: Final = device_id
        self.counters = BusCounters()
        self._instance = instance
        self._counter = 0
        self._window = CounterWindow()
        self._last_status = ("", 0)
        self._arrivals = 0
        self._queues: dict[type[Message], deque[tuple[int, AnyMessage]]] = {
            kind: deque() for kind in SPEAKER
        }
        self._changed = threading.Condition()

    @property
    def subscription(self) -> str:
        """Topic filter of everything that the other side says."""
        return f"hil/{self.device_id}/{self.peer}/+"

    def wrap(self, message: AnyMessage) -> tuple[str, bytes]:
        """Topic and payload of the next message.

        Raises:
            ControlError: a kind that this side does not speak, or a text that is too long or no
                Unicode.
        """
        with self._changed:
            self._counter += 1
            return self._seal(message, self._counter)

    def last_will(self) -> tuple[str, bytes]:
        """Topic and payload of the status that the other side gets once this edge is gone."""
        return self._seal(GONE, 0)

    def _seal(self, message: AnyMessage, counter: int) -> tuple[str, bytes]:
        if (speaker := SPEAKER[type(message)]) != self.role:
            raise ControlError(
                f"{message.kind}: only the {speaker} says it, and this is the {self.role}'s end "
                "of the bus"
            )
        envelope = Envelope(
            version=WIRE_VERSION,
            sender=self.role,
            instance=self._instance,
            counter=counter,
            message=message,
        )
        return f"hil/{self.device_id}/{self.role}/{message.kind}", encode(envelope)

    def count_sent(self, topic: str, payload: bytes) -> None:
        """Book a message that the transport has confirmed."""
        with self._changed:
            self.counters.messages_sent += 1
            self.counters.control_bytes_sent += len(topic.encode()) + len(payload)

    def accept(self, topic: str, payload: bytes) -> None:
        """Queue what arrived, or drop, count and log it. Never raises."""
        with self._changed:
            try:
                envelope = decode(payload)
            except ControlError as error:
                self._drop("invalid", topic, str(error))
                return
            message = envelope.message
            allowed = envelope.sender == SPEAKER[type(message)] == self.peer
            if not allowed or topic != f"hil/{self.device_id}/{self.peer}/{message.kind}":
                self._drop(
                    "misaddressed", topic, f"a {message.kind} that the {envelope.sender} says"
                )
                return
            verdict = self._window.judge(envelope.instance, envelope.counter)
            if isinstance(message, StatusMessage) and verdict in ("new", "late"):
                verdict = self._judge_status(envelope, verdict)
            if verdict in ("duplicate", "old"):
                self._drop(verdict, topic, f"counter {envelope.counter} of {envelope.instance}")
                return
            self.counters.late += verdict == "late"
            self.counters.messages_received += 1
            self.counters.control_bytes_received += len(topic.encode()) + len(payload)
            self._enqueue(topic, message)

    def _judge_status(self, envelope: Envelope, verdict: Verdict) -> Verdict:
        """Only the latest status counts: one that comes behind its successor is old."""
        instance, counter = self._last_status
        if verdict == "late" and envelope.instance == instance and envelope.counter < counter:
            return "old"
        if envelope.counter:
            self._last_status = envelope.instance, envelope.counter
        return verdict

    def _enqueue(self, topic: str, message: AnyMessage) -> None:
        queue = self._queues[type(message)]
        if len(queue) >= MAX_QUEUED:
            queue.popleft()
            self._drop("overflow", topic, f"{MAX_QUEUED} wait already, the oldest gives way")
        self._arrivals += 1
        queue.append((self._arrivals, message))
        self._changed.notify_all()

    def _drop(self, cause: str, topic: str, reason: str) -> None:
        self.counters.dropped[cause] += 1
        level = logging.DEBUG if cause in ("duplicate", "old") else logging.WARNING
        _log.log(level, "%s on %r dropped: %s", cause, topic[:200], reason)

    def take(self, *kinds: type[M], timeout_s: float) -> M | None:
        """The oldest waiting message of these kinds, or None when none comes within the
        deadline."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                waiting = [queue for kind in kinds if (queue := self._queues[kind])]
                if waiting:
                    _, message = min(waiting, key=lambda queue: queue[0][0]).popleft()
                    return cast(M, message)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(remaining)


# ------------------------------------------------------------------------------------------------
# buses


class Bus(Protocol):
    """One end of the control channel. A context manager; several threads may use it."""

    @property
    def counters(self) -> BusCounters:
        """Counts of the messages that went through this end so far."""
        ...

    def publish(self, message: AnyMessage, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        """Send a message; returns once its arrival (at the other end or at the broker) is
        confirmed.

        Raises:
            ControlError: not confirmed within the deadline, a kind that this side does not speak, a
                closed bus.
        """
        ...

    def receive(self, *kinds: type[M], timeout_s: float) -> M | None:
        """The oldest waiting message of these kinds, or None when none comes within the deadline.

        Raises:
            ControlError: the channel itself is broken, or closed.
        """
        ...

    def close(self) -> None:
        """Leave the channel; a closed edge is reported as GONE. May be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class InProcessBus:
    """One end of a bus within a process, made by `pair`.

    What is published has arrived when publish returns, so receive never waits: what is not there
    will not come until somebody else gets his turn.
    """

    def __init__(self, endpoint: Endpoint, peer: Endpoint) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self._closed = False

    @classmethod
    def pair(cls, device_id: str = "edge") -> tuple[InProcessBus, InProcessBus]:
        """The cloud's end and the edge's end of a new bus.

        Raises:
            ControlError: a device_id that cannot be part of a topic.
        """
        cloud = Endpoint("cloud", device_id, instance="00000000")
        edge = Endpoint("edge", device_id, instance="00000000")
        return cls(cloud, edge), cls(edge, cloud)

    @property
    def counters(self) -> BusCounters:
        """Counts of the messages that went through this end so far."""
        return self._endpoint.counters

    def publish(self, message: AnyMessage, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        """Hand a message to the other end; see Bus.publish."""
        self._check_open()
        topic, payload = self._endpoint.wrap(message)
        self._peer.accept(topic, payload)
        self._endpoint.count_sent(topic, payload)

    def receive(self, *kinds: type[M], timeout_s: float) -> M | None:
        """The oldest waiting message of these kinds, or None at once; see Bus.receive."""
        self._check_open()
        return self._endpoint.take(*kinds, timeout_s=0.0)

    def close(self) -> None:
        """Leave the bus; the cloud hears of a closed edge."""
        if not self._closed and self._endpoint.role == "edge":
            self._peer.accept(*self._endpoint.last_will())
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ControlError(
                f"in-process bus: the {self._endpoint.role}'s end is closed; make a new pair"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
