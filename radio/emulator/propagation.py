"""Propagation of one radio's samples to another one's converter: another clock, another carrier."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.channel.interpolation import BEFORE, TAPS, fractional_taps
from radio.channel.phasors import phasors
from radio.compiled import compiled
from radio.emulator.timeline import Ramp

LATENCY_SAMPLES: Final = 16
"""Transmitted samples by which the air is late: what is heard now never hangs on samples that are
yet to be sent."""
STRETCH: Final = 128
"""Received samples for which clock and carrier are evaluated once; stretches begin at multiples of
it, whatever part of the stream is asked for, so that each sample always comes out the same."""
_PHASES: Final = 256
_MARGIN: Final = 16
"""Table rows beyond a whole sample, for stretches that cross it."""
_STRAIGHT: Final = 1e-4
"""Difference of the clocks up to which the taps may be drawn straight over a stretch; the error
stays below -75 dB."""


def receive_path(
    waveform: IQ,
    first: int,
    *,
    sender: Ramp,
    receiver: Ramp,
    beat: Ramp,
    gain: float,
    begin: int,
    out: IQ,
) -> None:
    """Add to `out` what a receiver hears of a waveform.

    The carrier is taken at every sample, the waveform between its samples by filters whose error in
    ±0.4 of its rate is below -65 dB.

    Args:
        waveform: transmitted samples; those of window() are needed.
        first: count of the first of them on the sender's clock.
        sender, receiver: sample clocks.
        beat: turns of the sender's carrier against the receiver's.
        gain: factor of the amplitudes.
        begin: count of the first sample of `out` on the receiver's clock, a multiple of STRETCH.
        out: complex64[n], n a multiple of STRETCH.
    """
    times = receiver.times_of(np.arange(begin, begin + len(out), STRETCH))
    places = sender.counts(times) - (LATENCY_SAMPLES + first)
    carriers = np.float32(gain) * phasors(beat.counts(times))
    rotation = phasors(np.arange(STRETCH, dtype=np.float64) * (beat.rate_hz / receiver.rate_hz))
    step = sender.rate_hz / receiver.rate_hz
    re, im = waveform.real.copy(), waveform.imag.copy()
    kernel = _nearly_even if abs(step - 1) <= _STRAIGHT else _uneven
    kernel(
        re, im, _table(), places, step, carriers, rotation.real.copy(), rotation.imag.copy(), out
    )


def window(sender: Ramp, receiver: Ramp, begin: int, end: int) -> tuple[int, int]:
    """Counts of the first and behind the last transmitted sample that received samples begin..end
    need."""
    low = sender.count(receiver.time_of(begin)) - LATENCY_SAMPLES
    high = sender.count(receiver.time_of(end)) - LATENCY_SAMPLES
    return int(np.floor(low)) - TAPS, int(np.ceil(high)) + TAPS


@cache
def _table() -> NDArray[np.float32]:
    """Taps float32[n, TAPS] of the fractions -_MARGIN / _PHASES ... 1 + _MARGIN / _PHASES."""
    return fractional_taps(np.arange(-_MARGIN, _PHASES + _MARGIN + 1) / _PHASES)


@compiled(fastmath=True)
def _taps_at(table: NDArray[np.float32], fraction: float, taps: NDArray[np.float32]) -> None:
    """The taps of a fraction, drawn straight between two rows."""
    row = fraction * _PHASES + _MARGIN
    low = int(row)
    weight = np.float32(row - low)
    for k in range(TAPS):
        taps[k] = table[low, k] + weight * (table[low + 1, k] - table[low, k])


@compiled(fastmath=True)
def _nearly_even(
    re: NDArray[np.float32],
    im: NDArray[np.float32],
    table: NDArray[np.float32],
    places: NDArray[np.float64],
    step: float,
    carriers: NDArray[np.complex64],
    rotation_re: NDArray[np.float32],
    rotation_im: NDArray[np.float32],
    out: IQ,
) -> None:
    """Clocks that run almost alike: over a stretch the taps move straight, and whole samples never
    shift."""
    here = np.empty(TAPS, np.float32)
    there = np.empty(TAPS, np.float32)
    a = np.empty(STRETCH, np.float32)
    b = np.empty(STRETCH, np.float32)
    for stretch in range(len(places)):
        whole = int(np.floor(places[stretch]))
        fraction = places[stretch] - whole
        drift = STRETCH * (step - 1)
        _taps_at(table, fraction, here)
        _taps_at(table, fraction + drift, there)
        a[:] = 0
        b[:] = 0
        for k in range(TAPS):
            tap = here[k]
            slope = (there[k] - tap) / np.float32(STRETCH)
            x = re[whole - BEFORE + k :]
            y = im[whole - BEFORE + k :]
            for i in range(STRETCH):
                now = tap + np.float32(i) * slope
                a[i] += now * x[i]
                b[i] += now * y[i]
        _turn(
            a,
            b,
            carriers[stretch],
            rotation_re,
            rotation_im,
            out[stretch * STRETCH : (stretch + 1) * STRETCH],
        )


@compiled(fastmath=True)
def _uneven(
    re: NDArray[np.float32],
    im: NDArray[np.float32],
    table: NDArray[np.float32],
    places: NDArray[np.float64],
    step: float,
    carriers: NDArray[np.complex64],
    rotation_re: NDArray[np.float32],
    rotation_im: NDArray[np.float32],
    out: IQ,
) -> None:
    """Clocks of any two rates: taps for every sample."""
    taps = np.empty(TAPS, np.float32)
    a = np.empty(STRETCH, np.float32)
    b = np.empty(STRETCH, np.float32)
    for stretch in range(len(places)):
        for i in range(STRETCH):
            place = places[stretch] + i * step
            whole = int(np.floor(place))
            _taps_at(table, place - whole, taps)
            x = np.float32(0)
            y = np.float32(0)
            for k in range(TAPS):
                x += taps[k] * re[whole - BEFORE + k]
                y += taps[k] * im[whole - BEFORE + k]
            a[i] = x
            b[i] = y
        _turn(
            a,
            b,
            carriers[stretch],
            rotation_re,
            rotation_im,
            out[stretch * STRETCH : (stretch + 1) * STRETCH],
        )


@compiled(fastmath=True)
def _turn(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    carrier: complex,
    rotation_re: NDArray[np.float32],
    rotation_im: NDArray[np.float32],
    out: IQ,
) -> None:
    """Add a + jb, turned by the carrier, to `out`."""
    c = np.float32(carrier.real)
    s = np.float32(carrier.imag)
    for i in range(STRETCH):
        p = c * rotation_re[i] - s * rotation_im[i]
        q = c * rotation_im[i] + s * rotation_re[i]
        out[i] += complex(a[i] * p - b[i] * q, a[i] * q + b[i] * p)
