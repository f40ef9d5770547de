"""One radio on the ether: its sample clock, its settings over time, and what its transmitter
plays."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio.emulator.clock import Clock
from radio.emulator.front_end import CODES, NodeSpec, RfSettings, Tone
from radio.emulator.timeline import Ramp, Timeline

Codes = NDArray[np.int16]
"""Converter codes, int16[n, 2], I and Q, -2048..2047."""

SAME_SAMPLE: Final = 1e-3
"""Two times closer than this, in samples, are the same sample: times are rounded."""


@dataclass(frozen=True, slots=True)
class Emission:
    """Codes that play at a place in the radio's stream of samples.

    Attributes:
        codes: int16[n, 2].
        start: count of the first of them.
        stop: count behind the last; None = they repeat without end.
    """

    codes: Codes
    start: int
    stop: int | None

    def cut(self, count: int) -> Emission:
        """The same, ending at `count` at the latest."""
        return replace(
            self, stop=max(self.start, count if self.stop is None else min(self.stop, count))
        )


@dataclass(frozen=True, slots=True)
class State:
    """State of a radio between two changes.

    Attributes:
        settings: settings of the radio.
        samples: its sample clock.
        silent: it has vanished: neither sends nor hears.
    """

    settings: RfSettings
    samples: Ramp
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Transmission:
    """Output of a transmitter, as far as anyone can still hear it.

    Attributes:
        spec, state: figures and state of the radio.
        emissions: what it plays, in order of time.
        streams: spans of counts (start, stop or None) in which a stream holds the transmitter and
            its tones are mute.
    """

    spec: NodeSpec
    state: State
    emissions: tuple[Emission, ...]
    streams: tuple[tuple[int, int | None], ...]

    def codes(self, first: int, last: int) -> Codes:
        """The converter's codes at counts first..last, int16[last - first, 2]."""
        codes = play(self.emissions, first, last)
        if self.state.settings.tones:
            tones = sound(self.state.settings.tones, self.state.settings.rate_hz, first, last)
            for start, stop in self.streams:
                tones[max(0, start - first) : max(0, (last if stop is None else stop) - first)] = 0
            codes += tones
        return codes


class Station:
    """One radio. Everything in it is guarded by the ether's lock, except what says otherwise.

    Attributes:
        spec: its own figures.
        states: how it ran when.
        emissions: what its transmitter plays, in order of time.
        streams: spans of counts (start, stop or None) in which a stream holds the transmitter, and
            tones are mute.
    """

    def __init__(self, spec: NodeSpec, clock: Clock, lock: threading.Lock) -> None:
        settings = RfSettings()
        self.spec = spec
        self.clock = clock
        self.lock = lock
        self.states = Timeline(State(settings, Ramp(0.0, 0.0, self._true(settings.rate_hz))))
        self.emissions: list[Emission] = []
        self.streams: list[tuple[int, int | None]] = []

    def _true(self, nominal_hz: float) -> float:
        return nominal_hz * (1 + self.spec.ppm * 1e-6)

    def configure(self, settings: RfSettings) -> None:
        """Run with other settings from now on."""
        now_s = self.clock.now()
        latest = self.states.latest
        samples = latest.samples.at_rate(now_s, self._true(settings.rate_hz))
        self.states.set(now_s, replace(latest, settings=settings, samples=samples))

    def set_silent(self, silent: bool) -> None:
        """Vanish or return, from now on."""
        self.states.set(self.clock.now(), replace(self.states.latest, silent=silent))

    def next_count(self) -> int:
        """Count of the first sample from now on."""
        return math.ceil(self.states.latest.samples.count(self.clock.now()) - SAME_SAMPLE)

    def time_of(self, count: int) -> float:
        """Time at which a sample is taken, in the past as well."""
        return self.samples_around(count).time_of(count)

    def samples_around(self, count: int) -> Ramp:
        """The sample clock as it ran when `count` was reached."""
        ramps = [state.samples for state in self.states.newest_first()]
        return next((ramp for ramp in ramps if ramp.start <= count + SAME_SAMPLE), ramps[-1])

    def wait_for(self, count: int, deadline_s: float | None, cancelled: Callable[[], bool]) -> None:
        """Return when sample `count` is reached; not to be called with the lock held.

        Raises:
            TimeoutError: not reached by deadline_s.
            Cancelled: `cancelled` says so.
        """
        while True:
            now_s = self.clock.now()
            with self.lock:
                if self.next_count() >= count:
                    return
                due_s = self.time_of(count)
            left_s = None if deadline_s is None else max(0.0, deadline_s - now_s)
            self.clock.wait_until(due_s, timeout_s=left_s, cancelled=cancelled)

    def transmission(self, t_s: float) -> Transmission:
        """Output of its transmitter, with the state of a given time."""
        return Transmission(
            self.spec, self.states.at(t_s), tuple(self.emissions), tuple(self.streams)
        )

    def forget(self, spans_s: Sequence[tuple[float, float]]) -> None:
        """Drop what is needed for none of some spans of time."""
        spans = [(self._count(begin_s), self._count(end_s)) for begin_s, end_s in spans_s]

        def needed(start: int, stop: int | None) -> bool:
            return any(start <= end and (stop is None or begin <= stop) for begin, end in spans)

        self.emissions[:] = [
            emission for emission in self.emissions if needed(emission.start, emission.stop)
        ]
        self.streams[:] = [stream for stream in self.streams if needed(*stream)]
        self.states.forget(min(begin_s for begin_s, _ in spans_s))

    def _count(self, t_s: float) -> float:
        return self.states.at(t_s).samples.count(t_s)


def play(emissions: Sequence[Emission], first: int, last: int) -> Codes:
    """The codes at counts first..last, int16[last - first, 2]; 0 where nothing plays."""
    played = np.zeros((last - first, 2), np.int16)
    for emission in emissions:
        begin = max(first, emission.start)
        end = last if emission.stop is None else min(last, emission.stop)
        while begin < end:
            at = (begin - emission.start) % len(emission.codes)
            n = min(end - begin, len(emission.codes) - at)
            played[begin - first : begin - first + n] = emission.codes[at : at + n]
            begin += n
    return played


def sound(tones: Sequence[Tone], rate_hz: float, first: int, last: int) -> Codes:
    """The codes of the direct digital synthesis at counts first..last, int16[last - first, 2].

    Each converter gets the sum of its tones, limited to full scale.
    """
    summed = np.zeros((last - first, 2))
    counts = np.arange(first, last)
    for tone in tones:
        turns = counts * (tone.frequency_hz / rate_hz) + tone.phase_deg / 360
        summed[:, "IQ".index(tone.channel)] += tone.scale * np.sin(
            2 * np.pi * (turns - np.rint(turns))
        )
    return np.clip(np.rint(summed * CODES), -CODES, CODES - 1).astype(np.int16)
