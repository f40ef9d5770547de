"""The seams between packages: Protocols of one or two verbs, whose implementers import nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np

from hil.contract.arrays import IQ
from hil.contract.records import RankPlan, RoundObservation


class Clock(Protocol):
    """Time of the link: virtual air time in loopback, monotonic time with a radio."""

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        ...

    def sleep_until(self, t_s: float) -> None:
        """Return when now() ≥ t_s."""
        ...


class Transceiver(Protocol):
    """A transmitter and the receiver that hears it, with the air between them.

    Attributes:
        sample_rate_hz: sample rate of both directions, > 0.
    """

    sample_rate_hz: float

    def transmit(self, iq: IQ) -> None:
        """Send samples. Raises DeviceError for NaN, zero length or |iq| > 1."""
        ...

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The next samples off the air, at most n_samples; fewer (also none) when no more come
        within the deadline."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ChannelModel(Protocol):
    """An impairment of the air; impairments compose by application one after another."""

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples after the impairment."""
        ...


class FeedbackSender(Protocol):
    """The receiver's end of the way back to the sender."""

    def send(self, message: bytes) -> None:
        """Hand a message over."""
        ...


class FeedbackReceiver(Protocol):
    """The sender's end of the way back from the receiver."""

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message, or None when none came within the deadline."""
        ...


class FeedbackPath(FeedbackSender, FeedbackReceiver, Protocol):
    """Both ends of the way back: a queue, MQTT, or a burst the other way."""


class RankPolicy(Protocol):
    """Chooses the rank of every adapted projection.

    Attributes:
        name: the name that tables and reports print.
    """

    name: str

    def plan(self, obs: RoundObservation) -> RankPlan:
        """A plan for this round: every module of obs.module_shapes, ranks 0..r_max or KEEP."""
        ...
