"""A radio without a radio: transmit, a seeded channel, receive."""

from __future__ import annotations

from collections import deque
from typing import Self

import numpy as np

from hil.contract import IQ, ChannelModel, ConfigError
from radio.channel.chain import Chain, RandomDelay
from radio.channel.interferer import Interferer
from radio.channel.noise import Awgn, MovingNoise
from radio.channel.oscillator import FrequencyOffset
from radio.channel.presets import NOISE_ALONE, Figures, clocks, multipath, receive_end, transmit_end
from radio.channel.trace import Trace
from radio.clocks import VirtualClock
from radio.iq import require_transmittable


class Loopback:
    """A Transceiver whose receiver hears its transmitter through a simulated channel.

    What a signal meets, in order: the transmitter's front end, further impairments, multipath,
    sample clock, phase noise and carrier offset, delay, noise, the receiver's front end. The
    channel is one medium in time: fading, clocks and phases go on from transmission to
    transmission, and through the pauses between them on the clock.

    All attributes may be changed between transmissions, for example round by round.

    Attributes:
        sample_rate_hz: rate of both directions, > 0; a transmission takes samples / rate on the
            clock.
        snr_db: mean Es/N0 per used subcarrier (channel.Awgn), or how it moves over the clock's
            time.
        max_delay_samples: each transmission comes 0..this many samples late, uniform; less than
            link.GUARD_SAMPLES.
        impairments: further models, applied behind the transmitter's front end.
        interferer: another transmitter that the receiver hears, or None.
        multipath: the air between the antennas.
    """

    def __init__(
        self,
        *,
        clock: VirtualClock,
        rng: np.random.Generator,
        snr_db: float | Trace,
        sample_rate_hz: float = 2e6,
        cfo_hz: float = 0.0,
        max_delay_samples: int = 512,
        figures: Figures = NOISE_ALONE,
        impairments: tuple[ChannelModel, ...] = (),
        interferer: Interferer | None = None,
    ) -> None:
        """A loopback; see the class for the arguments.

        Args:
            clock: time, which transmissions move on.
            rng: source of everything random.
            snr_db, sample_rate_hz, max_delay_samples, impairments, interferer: see the class.
            cfo_hz: carrier offset at the start; `figures` gives its drift.
            figures: effects of the channel beside carrier offset, delay and noise.

        Raises:
            ConfigError: for a sample rate that is not positive, or a figure out of range.
        """
        if not sample_rate_hz > 0:
            raise ConfigError(f"loopback sample rate is {sample_rate_hz}; it must be positive")
        self.sample_rate_hz = sample_rate_hz
        self.snr_db = snr_db
        self.max_delay_samples = max_delay_samples
        self.impairments = impairments
        self.interferer = interferer
        self._carrier = FrequencyOffset(cfo_hz, sample_rate_hz, figures.cfo_drift_hz_s)
        self._transmit_end = transmit_end(figures)
        self.multipath = multipath(figures, sample_rate_hz, rng)
        self._clocks = clocks(figures, sample_rate_hz)
        self._receive_end = receive_end(figures)
        self._clock = clock
        self._rng = rng
        self._channel_time_s = clock.now()
        self._air: deque[IQ] = deque()

    @property
    def cfo_hz(self) -> float:
        """Carrier offset now, in Hz; a value that is set drifts on from there."""
        return self._carrier.cfo_hz

    @cfo_hz.setter
    def cfo_hz(self, value: float) -> None:
        self._carrier.cfo_hz = value

    def transmit(self, iq: IQ) -> None:
        """Send samples through the channel.

        Raises:
            DeviceError: for NaN, zero length or |iq| > 1.
        """
        require_transmittable(iq, "loopback transmit")
        chain = Chain(
            (
                *self._transmit_end,
                *self.impairments,
                *self.multipath,
                *self._clocks,
                self._carrier,
                RandomDelay(self.max_delay_samples),
                self._noise(),
                *self._receive_end,
            )
        )
        chain.set_sample_rate(self.sample_rate_hz)
        # the channel may be ahead of the clock by the silence that it was fed to let its echoes out
        chain.advance(max(0.0, self._clock.now() - self._channel_time_s))
        self._channel_time_s = max(self._channel_time_s, self._clock.now())
        with_tail = np.concatenate([iq, np.zeros(chain.tail_samples, np.complex64)])
        self._air.append(chain(with_tail, self._rng))
        self._channel_time_s += len(with_tail) / self.sample_rate_hz
        self._clock.sleep_until(self._clock.now() + len(iq) / self.sample_rate_hz)

    def _noise(self) -> ChannelModel:
        """Noise of the next transmission, and whoever sends meanwhile."""
        if self.interferer is None and not isinstance(self.snr_db, Trace):
            return Awgn(self.snr_db)
        return MovingNoise(
            snr_db=self.snr_db,
            interferer=self.interferer,
            begin_s=max(self._channel_time_s, self._clock.now()),
            sample_rate_hz=self.sample_rate_hz,
        )

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The next samples, at most n_samples; fewer when no more were sent: nothing else can come
        within timeout_s."""
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

    def __exit__(self, *_: object) -> None:
        """Samples not yet received are dropped."""
        self._air.clear()


class QueueFeedback:
    """A FeedbackPath within one process: messages arrive delay_s later on the virtual clock, in
    order."""

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
