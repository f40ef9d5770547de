"""The control channel through an MQTT 5 broker; the only file that imports paho.

A connection keeps its session at the broker for an hour, so that what is said to an absent half
waits for it. Messages travel with QoS 1 (at least once); the endpoint's counters make that once. A
lost connection is taken up again without anyone's doing; calls fail only once their own deadline,
or that of the reconnection, has passed.

The broker's word is what publish waits for. A broker that is killed takes with it what it had
confirmed and not yet passed on; what it had not confirmed is sent again.

The connection is not encrypted: use a network of your own, or a tunnel.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from pathlib import Path
from typing import Any, Final, Self

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from hil.contract import ControlError
from hil.control.broker import explain, parse_url, read_secret
from hil.control.bus import PUBLISH_TIMEOUT_S, BusCounters, Endpoint, M
from hil.control.messages import MAX_MESSAGE_BYTES, AnyMessage, Role, StatusMessage

SESSION_EXPIRY_S: Final = 3600
"""How long the broker keeps messages for a half that is away."""
WILL_DELAY_S: Final = 2
"""How long an edge may be away before the broker says that it is gone."""
RECONNECT_TIMEOUT_S: Final = 30.0

_KEEPALIVE_S: Final = 15
_TCP_TIMEOUT_S: Final = 3.0
_POLL_S: Final = 0.2
_RETRY_MIN_S: Final = 0.1
_RETRY_MAX_S: Final = 2.0
_SHORT_LIFE_S: Final = 5.0
_MAX_SHORT_LIVES: Final = 5
_MAX_UNCONFIRMED: Final = 64
_NO_SUBSCRIBERS: Final = 0x10  # reason codes: MQTT 5.0, section 2.4
_DISCONNECT_WITH_WILL: Final = 0x04
_TAKEN_OVER: Final = 0x8E
_BAD_CREDENTIALS: Final = (0x86, 0x87)
_log = logging.getLogger(__name__)


def connect(
    url: str,
    role: Role,
    device_id: str,
    *,
    secret_path: Path | None,
    timeout_s: float = 10.0,
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
    clean_start: bool = False,
) -> MqttBus:
    """One end of the control channel, connected and subscribed.

    Args:
        url: mqtt://host[:port].
        role: the side it speaks for; a device has one of each.
        device_id: names the edge, in topics and as the broker's client.
        secret_path: see read_secret; None for a broker without passwords.
        timeout_s: deadline for all of this. Looking up a host name may take longer.
        reconnect_timeout_s: how long a lost connection may stay lost before receive raises.
        clean_start: forget what the broker still holds for this end.

    Raises:
        ControlError: the URL, the file, the broker or the credentials are wrong.
    """
    host, port = parse_url(url)
    credentials = read_secret(secret_path) if secret_path else None
    if credentials and host not in ("localhost", "127.0.0.1", "::1"):
        _log.warning(
            "%s: the password crosses the network unencrypted; keep to a network of your own", url
        )
    bus = MqttBus(url, Endpoint(role, device_id, secrets.token_hex(4)), reconnect_timeout_s)
    bus.open(host, port, credentials, timeout_s, clean_start)
    return bus


class MqttBus:
    """One end of the control channel at a broker, made by `connect`; see hil.control.bus.Bus.

    One thread of its own does all reading and writing, so the connection stays alive while the rest
    of the program computes. It ends with close.
    """

    def __init__(self, url: str, endpoint: Endpoint, reconnect_timeout_s: float) -> None:
        self._url = url
        self._endpoint = endpoint
        self._reconnect_timeout_s = reconnect_timeout_s
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            f"hil-{endpoint.device_id}-{endpoint.role}",
            protocol=mqtt.MQTTv5,
        )
        self._thread = threading.Thread(
            target=self._serve, name=f"mqtt-{endpoint.role}", daemon=True
        )
        self._changed = threading.Condition()  # guards the next eight
        self._ready = False  # subscribed
        self._ready_at = self._lost_at = time.monotonic()
        self._short_lives = 0  # connections in a row that were lost soon, and made again at once
        self._problem = "no answer"  # why the connection is not ready
        self._fault = ""  # why it never will be
        self._confirmed: dict[int, ReasonCode] = {}
        self._first = True
        self._last_status: StatusMessage | None = None
        self._closing = threading.Event()
        self._stop = threading.Event()
        self._publishing = threading.Lock()

    @property
    def counters(self) -> BusCounters:
        """Counts of the messages that went through this end so far."""
        return self._endpoint.counters

    # ------------------------------------------------------------------------------------------
    # life

    def open(
        self,
        host: str,
        port: int,
        credentials: tuple[str, str] | None,
        timeout_s: float,
        clean_start: bool,
    ) -> None:
        """Connect and subscribe; `connect` does this.

        Raises:
            ControlError: as connect; the bus is closed then.
        """
        deadline = time.monotonic() + timeout_s
        self._configure(credentials, min(timeout_s, _TCP_TIMEOUT_S))
        # more than is taken, so that a message that is a little too long comes and is counted
        limits = {
            "SessionExpiryInterval": SESSION_EXPIRY_S,
            "MaximumPacketSize": 4 * MAX_MESSAGE_BYTES,
        }
        try:
            self._client.connect(
                host,
                port,
                keepalive=_KEEPALIVE_S,
                clean_start=mqtt.MQTT_CLEAN_START_FIRST_ONLY if clean_start else False,
                properties=_properties(PacketTypes.CONNECT, **limits),
            )
        except (OSError, UnicodeError) as error:
            self._release()
            raise ControlError(f"{self._url}: {explain(error)}") from None
        self._thread.start()
        with self._changed:
            while (
                not (self._ready or self._fault) and (remaining := deadline - time.monotonic()) > 0
            ):
                self._changed.wait(remaining)
            fault = (
                ""
                if self._ready
                else self._fault or f"{self._problem} within {timeout_s:g} s; is it a broker?"
            )
        if fault:
            self.close()
            raise ControlError(f"{self._url}: {fault}")

    def _configure(self, credentials: tuple[str, str] | None, tcp_timeout_s: float) -> None:
        client = self._client
        client.connect_timeout = tcp_timeout_s
        client.max_queued_messages_set(_MAX_UNCONFIRMED)
        if credentials:
            client.username_pw_set(*credentials)
        if self._endpoint.role == "edge":
            properties = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=WILL_DELAY_S)
            client.will_set(*self._endpoint.last_will(), qos=1, retain=True, properties=properties)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_register_write = _leave_to_the_thread

    def close(self) -> None:
        """Disconnect and end the thread, within seconds; the broker then says that a closed edge is
        gone."""
        if self._stop.is_set():
            return
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        if self._client.is_connected():
            with_will = ReasonCode(PacketTypes.DISCONNECT, identifier=_DISCONNECT_WITH_WILL)
            self._client.disconnect(with_will if self._endpoint.role == "edge" else None)
            self._thread.join(1.0)
        self._stop.set()
        self._thread.join(_TCP_TIMEOUT_S + 1.0)
        self._release()

    def _release(self) -> None:
        """Free the sockets and the callbacks, which hold the client and this object in a ring."""
        self._stop.set()
        if (open_socket := self._client.socket()) is not None:
            open_socket.close()
        client = self._client
        client.on_connect = client.on_subscribe = client.on_disconnect = None
        client.on_publish = client.on_message = client.on_socket_register_write = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --------------------------------------------------------------------------------------- verbs

    def publish(self, message: AnyMessage, *, timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        """Send a message; returns once the broker has confirmed it for a subscriber. See
        Bus.publish.

        A status is kept by the broker for whoever comes later, even for the next start of the edge.
        Any other message must have a subscriber: without one (never there, or forgotten by a
        restarted broker) it is repeated until the deadline. A message that was not confirmed in
        time may still arrive later.

        Raises:
            ControlError: not confirmed within the deadline, refused by the broker, a closed or
                broken bus.
        """
        deadline = time.monotonic() + timeout_s
        self._check_usable()
        if not self._publishing.acquire(timeout=timeout_s):
            raise ControlError(
                f"{self._url}: another message unconfirmed after {timeout_s:g} s; is the broker up?"
            )
        try:
            with self._changed:  # so that no older status is repeated with a higher counter
                topic, payload = self._endpoint.wrap(message)
                if kept := isinstance(message, StatusMessage):
                    self._last_status = message
            while True:
                reason = self._send(topic, payload, kept, deadline, timeout_s)
                if kept or reason.value != _NO_SUBSCRIBERS:
                    break
                if time.monotonic() + _RETRY_MIN_S > deadline:
                    raise ControlError(
                        f"{self._url}: nobody listens to {topic}; start the {self._endpoint.peer} "
                        "half"
                    )
                time.sleep(_RETRY_MIN_S)
            if reason.is_failure:
                raise ControlError(
                    f"{self._url}: {topic} refused ({reason}); let this user write there"
                )
            self._endpoint.count_sent(topic, payload)
        finally:
            self._publishing.release()

    def _send(
        self, topic: str, payload: bytes, kept: bool, deadline: float, timeout_s: float
    ) -> ReasonCode:
        """Publish once and wait for the broker's word on it."""
        with self._changed:
            self._confirmed.clear()
        # Without holding the lock: paho's own is held when it calls _on_publish, which takes ours.
        info = self._client.publish(topic, payload, qos=1, retain=kept)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            raise ControlError(
                f"{self._url}: {_MAX_UNCONFIRMED} messages are unconfirmed already; is the broker "
                "up?"
            )
        with self._changed:
            while info.mid not in self._confirmed:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._fault or self._closing.is_set():
                    why = self._fault or ("the broker is silent" if self._ready else self._problem)
                    raise ControlError(
                        f"{self._url}: {topic} not confirmed within {timeout_s:g} s: {why}"
                    )
                self._changed.wait(remaining)
            return self._confirmed.pop(info.mid)

    def receive(self, *kinds: type[M], timeout_s: float) -> M | None:
        """The oldest waiting message of these kinds, or None when none comes within the deadline.
        See Bus.receive.

        Raises:
            ControlError: a closed bus, or a connection that has been lost for longer than
                reconnect_timeout_s.
        """
        self._check_open()
        deadline = time.monotonic() + timeout_s
        while True:
            remaining = deadline - time.monotonic()
            message = self._endpoint.take(*kinds, timeout_s=min(max(remaining, 0.0), _POLL_S))
            if message is not None:
                return message
            self._check_usable()
            if remaining <= 0:
                return None

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise ControlError(f"{self._url}: this end is closed; connect again")

    def _check_usable(self) -> None:
        """Raises ControlError when nothing can come or go any more."""
        self._check_open()
        with self._changed:
            if self._fault:
                raise ControlError(f"{self._url}: {self._fault}")
            lost_s = 0.0 if self._ready else time.monotonic() - self._lost_at
            if lost_s > self._reconnect_timeout_s:
                raise ControlError(
                    f"{self._url}: lost for {lost_s:.0f} s ({self._problem}); restart the broker"
                )

    # --------------------------------------------------------------------------------- network
    # thread

    def _serve(self) -> None:
        """Read and write until stopped; take a lost connection up again, ever more slowly."""
        pause_s = _RETRY_MIN_S
        while not self._stop.is_set():
            problem = self._turn()
            if not problem:
                pause_s = _RETRY_MIN_S if self._ready else pause_s
                continue
            self._note_loss(problem)
            if self._fault or self._closing.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    def _turn(self) -> str:
        """Connect if need be, then read and write for a moment; the problem, or ""."""
        try:
            if self._client.socket() is None:
                self._client.reconnect()
            code = self._client.loop(_POLL_S)
        except OSError as error:
            return explain(error)
        except Exception as error:  # paho parses whatever the other side has sent
            return f"{type(error).__name__}: {error}"
        if self._client.socket() is None:
            return "the connection was closed"
        return "" if code == mqtt.MQTT_ERR_SUCCESS else mqtt.error_string(code)

    def _note_loss(self, problem: str) -> None:
        with self._changed:
            if self._ready and not self._closing.is_set():
                _log.warning("%s: connection lost (%s), trying again", self._url, problem)
            if self._ready:
                self._ready, self._lost_at = False, time.monotonic()
                short = self._lost_at - self._ready_at < _SHORT_LIFE_S
                self._short_lives = self._short_lives + 1 if short else 0
            else:
                self._short_lives = 0
            if self._short_lives >= _MAX_SHORT_LIVES and not self._fault:
                self._fault = self._rival(
                    "the broker closes connections as soon as they are made; probably "
                )
            if self._first and not self._fault:
                self._fault = (
                    f"answers, but not as an MQTT 5 broker ({problem}); check host and port"
                )
            self._problem = problem
            self._changed.notify_all()

    def _give_up(self, fault: str) -> None:
        with self._changed:
            self._fault = fault
            self._changed.notify_all()

    def _rival(self, prefix: str = "") -> str:
        end = f"{self._endpoint.role} of {self._endpoint.device_id!r}"
        return (
            f"{prefix}another process is connected as the {end}; stop one, or give it another "
            "device id"
        )

    def _on_connect(
        self, client: mqtt.Client, _: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure and (self._first or reason.value in _BAD_CREDENTIALS):
            hint = (
                "check the secrets file"
                if reason.value in _BAD_CREDENTIALS
                else "see the broker's log"
            )
            self._give_up(f"the broker refuses ({reason}); {hint}")
        elif not reason.is_failure:
            if not flags.session_present:
                self._short_lives = 0  # the broker is new as well: no rival closed the connection
            client.subscribe(self._endpoint.subscription, options=SubscribeOptions(qos=1))

    def _on_subscribe(
        self, client: mqtt.Client, _: Any, mid: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._give_up(
                f"may not read {self._endpoint.subscription} ({reasons[0]}); let this user read "
                "there"
            )
            return
        with self._changed:
            repeated = self._endpoint.wrap(self._last_status) if self._last_status else None
        if repeated:  # the broker may have said that this edge is gone, or lost its memory
            client.publish(*repeated, qos=1, retain=True)
        with self._changed:
            if not self._first:
                _log.warning("%s: connected again", self._url)
            self._ready, self._first, self._ready_at = True, False, time.monotonic()
            self._changed.notify_all()

    def _on_disconnect(
        self, _: Any, __: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.value == _TAKEN_OVER:
            self._give_up(self._rival())

    def _on_publish(self, _: Any, __: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        with self._changed:
            self._confirmed[mid] = reason
            self._changed.notify_all()

    def _on_message(self, _: Any, __: Any, message: mqtt.MQTTMessage) -> None:
        self._endpoint.accept(message.topic, bytes(message.payload))


def _leave_to_the_thread(*_: Any) -> None:
    """Tell paho that the network thread writes; else it writes from whichever thread publishes,
    unguarded."""


def _properties(packet: int, **values: int) -> Properties:
    """Properties of one MQTT packet, by the names of MQTT 5.0, section 2.2.2.2."""
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
