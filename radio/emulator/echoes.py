"""Multipath between two emulated radios: one channel in time, however the receiver's samples are
asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hil.contract import IQ
from radio.channel import Figures
from radio.channel.chain import Medium
from radio.channel.presets import multipath


class Echoes:
    """The channel from one radio to another; gaps between captures pass on its own clock."""

    def __init__(self, figures: Figures, sample_rate_hz: float, rng: np.random.Generator) -> None:
        """A realisation of the figures' profile; without a profile the signal passes as it is."""
        self._media: tuple[Medium, ...] = multipath(figures, sample_rate_hz, rng)
        self._rng = rng
        self._next = 0

    @property
    def tail_samples(self) -> int:
        """Samples by which what is sent may still be heard later."""
        return sum(medium.tail_samples for medium in self._media)

    def pass_through(
        self, begin: int, end: int, rate_hz: float, arriving: Callable[[int, int], IQ]
    ) -> IQ:
        """Samples behind the multipath at counts begin..end, which never fall from call to call.

        Args:
            begin, end: counts on the receiver's sample clock.
            rate_hz: sample rate of the receiver.
            arriving: samples without multipath between two counts.
        """
        if not self._media:
            return arriving(begin, end)
        for medium in self._media:
            if medium.sample_rate_hz != rate_hz:
                medium.sample_rate_hz = rate_hz
                self._next = min(self._next, begin - self.tail_samples)
        # behind a gap, what was sent within it still echoes
        first = max(self._next, begin - self.tail_samples)
        samples = arriving(first, end)
        for medium in self._media:
            medium.advance((first - self._next) / rate_hz)
            samples = medium(samples, self._rng)
        self._next = end
        return samples[begin - first :]
