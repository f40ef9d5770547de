"""Deliveries over two emulated Plutos of which one fails now and then, in a process of its own.

    python -m hil.lab.fault_session '{"seed": 1, "plan": [["timeout", 0], ["lost block", 1]]}'

Sending and receiving end each drive their radio through the whole driver and network stack, in real
time. A fault comes while a payload is on its way; the next one follows when the link has recovered.
One JSON object comes out.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal

import numpy as np
import psutil

from hil.contract import HilError
from hil.lab.emulate import BENCH_PERMISSION, BURST_RMS_DBFS, bench_settings
from radio.clocks import MonotonicClock
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime
from radio.emulator.ether import Ether
from radio.emulator.faults import Faults
from radio.emulator.front_end import NodeSpec
from radio.link import AnswerTaken, BurstSent, Limits, ReceivingEnd, SendingEnd
from radio.pluto.process import Pluto

Kind = Literal["dropped connection", "timeout", "busy", "lost block", "away for 5 s"]
KINDS: Final[tuple[Kind, ...]] = (
    "dropped connection",
    "timeout",
    "busy",
    "lost block",
    "away for 5 s",
)
RECEIVER: Final = 1
"""Node that receives; node 0 transmits."""
AWAY_S: Final = 5.0
_SNR_DB: Final = 9.0
_RATE_HZ: Final = 6e5
"""A slow rate and long buffers: on a busy machine the emulator keeps up, and bridges a stall."""
_KERNEL_BUFFERS: Final = 64
_PAYLOAD_BYTES: Final = 72_000
"""About a second and a half of air at that SNR and rate: several bursts."""
_PATIENCE_S: Final = 240.0
"""A radio or a link that takes longer hangs, also on a busy machine."""
_PPM: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOutcome:
    """One fault that the link recovered from.

    Attributes:
        kind: kind of fault.
        node: "transmitter" or "receiver".
        resumed_s: time from the radio's return to the first answer that showed a block as held
            that was sent since.
    """

    kind: str
    node: str
    resumed_s: float


@dataclass(slots=True, kw_only=True)
class SessionOutcome:
    """Result of one process.

    Attributes:
        seed: seed of payloads, faults and air.
        faults: faults that were recovered from, in their order.
        payloads, delivered: payloads sent, and payloads that arrived whole and equal.
        repeated_blocks: blocks sent although the answer before had shown them as held.
        double_deliveries: payloads that became whole more than once.
        outages: number of times that a driver reopened its radio.
        children_left: processes left behind after closing.
        error: reason of an early end; "" otherwise.
    """

    seed: int
    faults: list[FaultOutcome] = field(default_factory=list)
    payloads: int = 0
    delivered: int = 0
    repeated_blocks: int = 0
    double_deliveries: int = 0
    outages: int = 0
    children_left: int = 0
    error: str = ""


class _Queue:
    """A FeedbackPath within this process."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def send(self, message: bytes) -> None:
        self._messages.put(message)

    def receive(self, timeout_s: float) -> bytes | None:
        try:
            return (
                self._messages.get(timeout=max(timeout_s, 0.0))
                if timeout_s > 0
                else self._messages.get_nowait()
            )
        except queue.Empty:
            return None


class _Edge:
    """The receiving end in a thread of its own; counts every time that a payload becomes whole."""

    def __init__(self, end: ReceivingEnd) -> None:
        self._end = end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge")
        self.arrived: dict[int, bytes] = {}
        self.arrivals = 0
        self.session = 0
        self.error = ""

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._end.listen()
                payload = self._end.payload(self.session)
                if payload is not None and self.arrived.get(self.session) != payload:
                    self.arrivals += 1
                    self.arrived[self.session] = payload
        except HilError as error:
            self.error = str(error)

    def __enter__(self) -> _Edge:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE_S)


@dataclass(slots=True)
class _Pending:
    """A fault that the link has not recovered from yet.

    Attributes:
        kind, node: the fault and the radio that it hit.
        back_s: time of the radio's return, on the link's clock.
        sent: (session, block) pairs that went out since.
    """

    kind: Kind
    node: int
    back_s: float
    sent: set[tuple[int, int]] = field(default_factory=set)


class Watch:
    """Provokes the faults of a plan, and compares what is sent with what was answered."""

    def __init__(
        self, plan: list[tuple[Kind, int]], faults: Sequence[Faults], rng: np.random.Generator
    ) -> None:
        self.plan, self._faults, self._rng = plan, faults, rng
        self.outcomes: list[FaultOutcome] = []
        self.repeated_blocks = 0
        self._held: set[tuple[int, int]] = set()
        self._pending: _Pending | None = None
        self._bursts_left = int(rng.integers(1, 4))

    def __call__(self, event: BurstSent | AnswerTaken) -> None:
        """Take note of a burst or an answer, in their order."""
        if isinstance(event, AnswerTaken):
            self._answered(event)
            return
        blocks = {(event.session, index) for index in event.indices}
        self.repeated_blocks += len(self._held & blocks)
        if self._pending is not None:
            if event.at_s >= self._pending.back_s:
                self._pending.sent |= blocks
        elif blocks and self.plan:
            self._bursts_left -= 1
            if self._bursts_left == 0:
                self._provoke()

    def _provoke(self) -> None:
        kind, node = self.plan.pop(0)
        faults = self._faults[node]
        away_s = 0.0
        match kind:
            case "dropped connection":
                faults.drop_connection()
            case "timeout":
                faults.timeout(1)
            case "busy":
                faults.busy(2)
                faults.drop_connection()
            case "lost block":
                faults.lose_block(1)
            case "away for 5 s":
                faults.vanish(AWAY_S)
                away_s = AWAY_S
        self._pending = _Pending(kind, node, time.monotonic() + away_s)
        self._bursts_left = int(self._rng.integers(1, 4))

    def _answered(self, answer: AnswerTaken) -> None:
        """Note what is held. The fault is over when a block that went out since the radio's return
        has arrived."""
        held = {(answer.session, int(index)) for index in np.flatnonzero(answer.held)}
        fresh = held - self._held
        self._held = {block for block in self._held if block[0] != answer.session} | held
        fault = self._pending
        if fault is not None and fresh & fault.sent:
            where = ("transmitter", "receiver")[fault.node]
            resumed_s = answer.at_s - fault.back_s
            self.outcomes.append(FaultOutcome(kind=fault.kind, node=where, resumed_s=resumed_s))
            self._pending = None

    @property
    def done(self) -> bool:
        """True when every fault came and the link recovered from it."""
        return not self.plan and self._pending is None


def run_session(seed: int, plan: list[tuple[Kind, int]]) -> SessionOutcome:
    """Deliveries that go on until the link recovered from all faults of the plan.

    Args:
        seed: seed of payloads, air, and the moments at which faults come.
        plan: (kind, node) in their order; node 0 transmits, node 1 receives.
    """
    rng = np.random.default_rng([seed, 1])
    outcome = SessionOutcome(seed=seed)
    try:
        with ExitStack() as stack:
            _deliver_all(stack, seed, plan, rng, outcome)
    except HilError as error:
        outcome.error = str(error)
    outcome.children_left = len(psutil.Process().children(recursive=True))
    return outcome


def _deliver_all(
    stack: ExitStack,
    seed: int,
    plan: list[tuple[Kind, int]],
    rng: np.random.Generator,
    outcome: SessionOutcome,
) -> None:
    ether = Ether([NodeSpec(), NodeSpec(ppm=_PPM)], clock=RealTime(), seed=seed)
    plutos = stack.enter_context(EmulatedPlutos(ether))
    sender, receiver = (
        stack.enter_context(
            Pluto(
                replace(bench_settings(uri), rate_hz=_RATE_HZ, kernel_buffers=_KERNEL_BUFFERS),
                BENCH_PERMISSION,
                patience_s=_PATIENCE_S,
            )
        )
        for uri in plutos.uris
    )
    ether.set_snr(0, 1, _SNR_DB, BURST_RMS_DBFS)
    feedback, clock = _Queue(), MonotonicClock()
    watch = Watch(plan, plutos.faults, rng)
    epoch = int(rng.integers(1, 2**32))
    edge = stack.enter_context(_Edge(ReceivingEnd(receiver, feedback, clock, epoch=epoch)))
    end = SendingEnd(
        sender,
        feedback,
        clock,
        first_session=int(rng.integers(1, 2**31)),
        patience_s=_PATIENCE_S,
        watch=watch,
    )
    until_s = time.monotonic() + _PATIENCE_S * max(1, len(plan))
    while not watch.done and time.monotonic() < until_s and not edge.error:
        payload = rng.bytes(_PAYLOAD_BYTES)
        edge.session = end.next_session
        report = end.deliver(payload, Limits(elapsed_s=_PATIENCE_S))
        outcome.payloads += 1
        outcome.delivered += report.delivered and edge.arrived.get(edge.session) == payload
    outcome.faults, outcome.repeated_blocks = watch.outcomes, watch.repeated_blocks
    outcome.double_deliveries = edge.arrivals - len(edge.arrived)
    outcome.outages = sender.outages + receiver.outages
    outcome.error = edge.error or ("" if watch.done else "the link did not recover in time")


def main() -> None:
    """The session that the first argument describes; its outcome as JSON."""
    options = json.loads(sys.argv[1])
    outcome = run_session(options["seed"], [(kind, node) for kind, node in options["plan"]])
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
