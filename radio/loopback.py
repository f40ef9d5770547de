"""A radio without a radio: transmit, a seeded channel, receive; and a clock that counts air time."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import numpy as np

from hil.contract import IQ, ChannelModel, ConfigError
from radio.channel import Awgn, Chain, FrequencyOffset, RandomDelay
from radio.iq import require_transmittable


class VirtualClock:
    """Time that passes only when samples are sent or someone waits; starts at 0."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return self._now_s

    def sleep_until(self, t_s: float) -> None:
        """Set the clock to t_s, unless it is later already."""
        self._now_s = max(self._now_s, t_s)


class Loopback:
    """A Transceiver whose receiver hears its transmitter through delay, carrier offset and noise.

    All attributes may be changed between transmissions, for example round by round.

    Attributes:
        sample_rate_hz: of both directions, > 0; a transmission takes samples / rate on the clock.
        snr_db: Es/N0 per used subcarrier (channel.Awgn).
        cfo_hz: carrier offset.
        max_delay_samples: each transmission comes 0..this many samples late, uniform; less than link.GUARD_SAMPLES.
        impairments: further models, applied before delay, offset and noise.
    """

    def __init__(
        self,
        *,
        clock: VirtualClock,
        rng: np.random.Generator,
        snr_db: float,
        sample_rate_hz: float = 2e6,
        cfo_hz: float = 0.0,
        max_delay_samples: int = 512,
        impairments: tuple[ChannelModel, ...] = (),
    ) -> None:
        """A loopback; see the class for the arguments.

        Raises:
            ConfigError: for a sample rate that is not positive.
        """
        if not sample_rate_hz > 0:
            raise ConfigError(f"loopback sample rate is {sample_rate_hz}; it must be positive")
        self.sample_rate_hz = sample_rate_hz
        self.snr_db = snr_db
        self.cfo_hz = cfo_hz
        self.max_delay_samples = max_delay_samples
        self.impairments = impairments
        self._clock = clock
        self._rng = rng
        self._air: deque[IQ] = deque()

    def transmit(self, iq: IQ) -> None:
        """Send samples through the channel.

        Raises:
            DeviceError: for NaN, zero length or |iq| > 1.
        """
        require_transmittable(iq, "loopback transmit")
        chain = Chain(
            (
                *self.impairments,
                RandomDelay(self.max_delay_samples),
                FrequencyOffset(self.cfo_hz, self.sample_rate_hz),
                Awgn(self.snr_db),
            )
        )
        self._air.append(chain(iq, self._rng))
        self._clock.sleep_until(self._clock.now() + len(iq) / self.sample_rate_hz)

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The next samples, at most n_samples; fewer when no more were sent: nothing else can come within timeout_s."""
        parts: list[IQ] = [np.zeros(0, np.complex64)]
        wanted = n_samples
        while wanted > 0 and self._air:
            head = self._air.popleft()
            parts.append(head[:wanted])
            if len(head) > wanted:
                self._air.appendleft(head[wanted:])
            wanted -= len(parts[-1])
        return np.concatenate(parts)

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Samples not yet received are dropped."""
        self._air.clear()


class QueueFeedback:
    """A FeedbackPath within one process: messages arrive delay_s later on the virtual clock, in order."""

    def __init__(self, clock: VirtualClock, *, delay_s: float = 0.05) -> None:
        self.delay_s = delay_s
        self._clock = clock
        self._queue: deque[tuple[float, bytes]] = deque()

    def send(self, message: bytes) -> None:
        """Hand a message over."""
        self._queue.append((self._clock.now() + self.delay_s, message))

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message, or None; the clock moves to its arrival, or to the end of the wait."""
        limit = self._clock.now() + timeout_s
        if self._queue and self._queue[0][0] <= limit:
            due, message = self._queue.popleft()
            self._clock.sleep_until(due)
            return message
        self._clock.sleep_until(limit)
        return None
