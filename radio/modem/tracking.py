"""Carrier and sample clock through a burst: a Kalman filter on the pilots, one step for a piece of
the burst.

The state is the common phase, its change per symbol, the delay in samples and its change per
sample. Pieces grow with what is known, so that the first, when the clock's offset is unknown, are
short enough to hold still. The channel that the pilots are compared with is carried along too, with
a memory of some hundred symbols, so that fading is no error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio.compiled import compiled
from radio.modem import delay_basis, ofdm
from radio.modem.channel_fit import gather
from radio.modem.front import FrontEnd

_MEMORY_SYMBOLS: Final = 100
"""Over so many symbols the reference channel is renewed by half."""
_TURN_STD: Final = 0.1
"""Carrier offset left by the acquisition, radians per symbol."""
_DRIFT_STD: Final = 20e-6
"""Sample clocks' offset before anything is known."""
_WANDER: Final = np.array([1e-3, 1e-7, 4e-6, 1e-18])
"""Variance that phase, turn, delay and drift gain per symbol: phase noise, carrier drift, moving
reflectors."""
_STEPS: Final = 4
_BEND: Final = 2
"""Degree of the phase over a burst: carrier offset and its drift. What else moves, the channel fit
follows better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A burst whose carrier and clock stand still.

    Attributes:
        grid: complex64[n, 200].
        phase: float64[n], radians taken out of each symbol beside the acquisition's carrier offset.
        drift: delay gained per sample.
    """

    grid: ofdm.Grid
    phase: NDArray[np.float64]
    drift: float


def noise_of(long_symbols: ofdm.Grid) -> float:
    """Noise variance on a subcarrier from what lies outside the delays a channel can have,
    complex[n_long, 200]."""
    basis = delay_basis.whole()
    left = long_symbols - (long_symbols @ basis.conj()) @ basis.T
    freedom = len(left) * (ofdm.N_USED - basis.shape[1])
    return float(np.sum(np.abs(left) ** 2) / freedom)


def follow(front: FrontEnd, long: ofdm.Grid, noise_variance: float, n_symbols: int) -> Track:
    """A burst's body with carrier and sample clock taken out.

    Args:
        front: the burst's front end.
        long: complex64[n_long, 200], Zadoff-Chu symbols divided by what was sent.
        noise_variance: noise on a subcarrier, > 0.
        n_symbols: ≥ 1.
    """
    basis = delay_basis.whole()
    reference = basis.conj().T @ long.mean(axis=0)
    # the state refers to the start of a piece; the first starts at the middle of the Zadoff-Chu
    # symbols
    span = ofdm.CP_SAMPLES / 2 + len(long) * ofdm.N_FFT / 2
    gap = 0.5 + span / ofdm.SYMBOL_SAMPLES
    power = float(np.mean(np.abs(basis @ reference) ** 2))
    begin = front.body + ofdm.CP_SAMPLES - ofdm.WINDOW_BACKOFF
    state = np.zeros(4)
    spread = np.diag(
        [noise_variance / (2 * long.size * max(power, 1e-9)), _TURN_STD**2, 1e-4, _DRIFT_STD**2]
    )
    grid = np.empty((n_symbols, ofdm.N_USED), np.complex64)
    signs, places = ofdm.pilot_symbols(n_symbols), ofdm.pilot_places(n_symbols)
    shifts = np.empty(n_symbols)
    middles: list[tuple[float, float, float, float]] = []
    before = -gap
    for first, last in _pieces(n_symbols):
        state, spread = _predict(state, spread, first - before)
        before = first
        piece, time = slice(first, last), np.arange(last - first)
        shift = int(np.round(state[2] + state[3] * ofdm.SYMBOL_SAMPLES * (last - first) / 2))
        shifts[piece] = shift
        grid[piece] = front.read(begin + shift + ofdm.SYMBOL_SAMPLES * (first + time))
        pilots = np.take_along_axis(grid[piece], places[piece], axis=1) * signs[piece]
        pilots = pilots * np.exp(-2j * np.pi * ofdm.USED[places[piece]] * shift / ofdm.N_FFT)
        channel = (basis @ reference)[places[piece]]
        seen = pilots * channel.conj()
        if first == 0:
            state[1] += _turn_peak(seen, power * long.size, gap)
        subcarriers = ofdm.USED[places[piece]]
        state, spread = _correct(
            state, spread, seen, np.abs(channel) ** 2, subcarriers, noise_variance
        )
        middle = (last - first - 1) / 2
        delay = state[2] + state[3] * ofdm.SYMBOL_SAMPLES * middle
        middles.append((first + middle, state[0] + state[1] * middle, state[1], delay))
        if last - first >= ofdm.PILOT_PERIOD and last < n_symbols:
            turned = pilots * np.exp(-1j * _expected(state, time[:, None], subcarriers))
            whole, _ = gather(turned.astype(np.complex64), first)
            weight = (last - first) / (last - first + _MEMORY_SYMBOLS)
            reference += weight * (basis.conj().T @ whole.mean(axis=0) - reference)
    phase, delay = _smooth(np.array(middles), float(state[3]), n_symbols)
    _turn(grid, phase, delay - shifts)
    return Track(grid=grid, phase=phase, drift=float(state[3]))


def _smooth(
    middles: NDArray[np.float64], drift: float, n_symbols: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Phase and delay of every symbol without steps: what moves in steps could not be told from a
    fading channel.

    Args:
        middles: float64[pieces, 4], time, phase, turn and delay in the middle of each piece.
        drift: delay gained per sample.
        n_symbols: the burst's symbols.
    """
    symbols = np.arange(n_symbols)
    times, phases, turns, delays = middles.T
    if len(times) > _BEND:
        phase = np.polynomial.Polynomial.fit(times, phases, _BEND)(symbols)
    else:
        phase = np.interp(symbols, times, phases)
        phase += turns[0] * np.minimum(symbols - times[0], 0) + turns[-1] * np.maximum(
            symbols - times[-1], 0
        )
    gained = drift * ofdm.SYMBOL_SAMPLES
    delay = gained * symbols + float(np.mean(delays - gained * times))
    return np.asarray(phase, np.float64), np.asarray(delay, np.float64)


def _pieces(n_symbols: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of every piece: 25, 25, 50, 100, 100, ... symbols; a short rest joins the
    piece before."""
    first, size = 0, ofdm.PILOT_PERIOD
    while first < n_symbols:
        last = first + size if first + 1.5 * size <= n_symbols else n_symbols
        yield first, last
        first, size = last, min(max(last, ofdm.PILOT_PERIOD), 4 * ofdm.PILOT_PERIOD)


def _predict(
    state: NDArray[np.float64], spread: NDArray[np.float64], symbols: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """State and covariance so many symbols later."""
    step = np.eye(4)
    step[0, 1] = symbols
    step[2, 3] = symbols * ofdm.SYMBOL_SAMPLES
    return step @ state, step @ spread @ step.T + np.diag(_WANDER * symbols)


def _turn_peak(seen: NDArray[np.complex128], anchor: float, gap: float) -> float:
    """The first piece's turn per symbol: the strongest line in its phasors and the preamble's.

    Args:
        seen: complex[n, 8], pilots times the expected channel's conjugate.
        anchor: energy of the preamble's phasor, whose phase is 0 `gap` symbols before the first.
        gap: symbols between the preamble's middle and the first.
    """
    turns = np.linspace(-0.5, 0.5, 201)
    time = np.arange(len(seen))
    lines = np.exp(-1j * np.outer(turns, time)) @ seen.sum(axis=1) + anchor * np.exp(
        1j * turns * gap
    )
    return float(turns[np.argmax(np.abs(lines))])


def _expected(
    state: NDArray[np.float64],
    time: NDArray[np.float64] | NDArray[np.intp],
    subcarriers: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Phases float64[n, 8] by a state, `time` symbols [n, 1] later, on subcarriers intp[n, 8]."""
    delay = state[2] + state[3] * ofdm.SYMBOL_SAMPLES * time
    return np.asarray(
        state[0] + state[1] * time - 2 * np.pi * subcarriers * delay / ofdm.N_FFT, np.float64
    )


def _correct(
    state: NDArray[np.float64],
    spread: NDArray[np.float64],
    seen: NDArray[np.complex128],
    power: NDArray[np.float32],
    subcarriers: NDArray[np.intp],
    noise_variance: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """State and covariance after a piece's pilots, by Gauss-Newton steps.

    Args:
        state: predicted for the piece's first symbol.
        spread: its covariance.
        seen: complex[n, 8], pilots times the expected channel's conjugate.
        power: float[n, 8], squared magnitude of that channel.
        subcarriers: intp[n, 8].
        noise_variance: noise on a subcarrier.
    """
    time = np.arange(len(seen), dtype=np.float64)[:, None]
    slopes = np.stack([_expected(unit, time, subcarriers).ravel() for unit in np.eye(4)])
    weights = (2 / noise_variance) * power.ravel()
    prior = np.linalg.inv(spread)
    information = prior + (slopes * weights) @ slopes.T
    now = state.copy()
    for _ in range(_STEPS):
        left = seen.ravel() * np.exp(-1j * (now @ slopes))
        gradient = (2 / noise_variance) * (slopes @ left.imag) - prior @ (now - state)
        now = now + np.linalg.solve(information, gradient)
    return now, np.asarray(np.linalg.inv(information), np.float64)


@compiled(fastmath=True)
def _turn(
    grid: NDArray[np.complex64], phase: NDArray[np.float64], delay: NDArray[np.float64]
) -> None:
    """Take a phase in radians and a delay in samples out of every symbol of complex64[n, 200], in
    place."""
    for t in range(len(grid)):
        step = np.exp(2j * np.pi * delay[t] / 256)
        turn = np.exp(-1j * phase[t] - 2j * np.pi * delay[t] * 100 / 256)
        for k in range(200):
            if k == 100:
                turn *= step  # no subcarrier at 0
            grid[t, k] *= np.complex64(turn)
            turn *= step
