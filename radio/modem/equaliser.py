"""Equalised symbols of a burst from its samples: DC and image out, clocks followed, the channel
fitted and divided out.

Two passes. The first (radio.modem.tracking) goes through the burst in pieces and takes out what
moves: carrier, sample clock. The second looks at the whole burst at once: common phase, smoothed
over as many symbols as predict it best; the channel (radio.modem.channel_fit); and what both leave
at the pilots is the noise, by subcarrier and by time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from hil.contract import IQ
from radio.compiled import compiled
from radio.modem import ofdm, preamble, sync, tracking
from radio.modem.channel_fit import fit_channel
from radio.modem.front import FrontEnd

_PHASE_WINDOWS: Final = (3, 5, 9, 17, 33, 65, 129, 513)
"""Symbols over which the common phase may be averaged."""
_NOISE_PRIOR: Final = 40.0
"""Pilots' worth of trust in noise that is the same everywhere."""
_NEIGHBOURS: Final = 2
_FLOOR: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbols:
    """Data symbols of a burst after equalisation, and how far they can be trusted.

    Attributes:
        data: complex64[n, 192], unit mean energy as sent.
        noise_variance: float32[n, 192], noise of each after equalisation, the channel estimate's
            error included.
        gain: complex64[n, 192], channel estimate by which each was divided; data · gain is what was
            received.
        excess: float32[n], noise that the estimate's error adds before equalisation, as a share of
            the channel's.
        n_reference: known subcarrier values that the estimate rests on.
        residual_cfo: carrier offset beyond the acquisition's, cycles per sample, burst mean.
        clock_offset_ppm: excess of the transmitter's sample clock over the receiver's.
    """

    data: ofdm.Grid
    noise_variance: NDArray[np.float32]
    gain: ofdm.Grid
    excess: NDArray[np.float32]
    n_reference: int
    residual_cfo: float
    clock_offset_ppm: float


def receive_symbols(iq: IQ, found: sync.Acquisition, n_symbols: int) -> Symbols:
    """The first n_symbols symbols after the preamble, or as many as the samples hold whole.

    Args:
        iq: the samples that `found` refers to.
        found: the burst, from sync.find_bursts.
        n_symbols: ≥ 0.
    """
    n = min(n_symbols, (len(iq) - found.body + ofdm.WINDOW_BACKOFF) // ofdm.SYMBOL_SAMPLES)
    if n <= 0:
        return _nothing()
    front = FrontEnd(iq, found, n)
    long = front.read(sync.long_starts(found)) * preamble.zadoff_chu(found.robust).conj()
    noise = max(tracking.noise_of(long), _FLOOR)
    track = tracking.follow(front, long, noise, n)
    places = ofdm.pilot_places(n)
    pilots = np.take_along_axis(track.grid, places, axis=1) * ofdm.pilot_symbols(n)
    rough = fit_channel(long, pilots, noise)
    phase, window = _common_phase(pilots, np.take_along_axis(rough.gain, places, axis=1))
    pilots *= np.exp(-1j * phase).astype(np.complex64)[:, None]
    # each Zadoff-Chu symbol has pilots enough for a phase of its own
    turns = long @ rough.gain[0].conj()
    long *= (turns.conj() / np.maximum(np.abs(turns), _FLOOR))[:, None]
    fit = fit_channel(long, pilots, noise)
    left = pilots - np.take_along_axis(fit.gain, places, axis=1)
    taken = (fit.coefficients + n / (2 * window)) / (pilots.size + long.size)
    by_subcarrier, by_symbol = _noise_profile(left, long - fit.gain[0], 1 - min(taken, 0.9))
    phase_share = 1 / (2 * ofdm.N_PILOTS * window)
    data, variance, gain = _divide(
        track.grid,
        np.exp(-1j * phase).astype(np.complex64),
        fit.gain,
        ofdm.DATA,
        by_subcarrier,
        fit.share_subcarrier,
        by_symbol,
        fit.share_symbol,
        phase_share,
    )
    turning = np.polyfit(np.arange(n), track.phase + np.unwrap(phase), 1)[0] if n > 1 else 0.0
    return Symbols(
        data=data,
        noise_variance=variance,
        gain=gain,
        excess=(fit.share_subcarrier.mean() * fit.share_symbol + phase_share).astype(np.float32),
        n_reference=pilots.size + long.size,
        residual_cfo=float(turning) / (2 * np.pi * ofdm.SYMBOL_SAMPLES),
        clock_offset_ppm=-1e6 * track.drift,
    )


def _nothing() -> Symbols:
    empty = np.zeros((0, ofdm.N_DATA), np.complex64)
    none = np.zeros((0, ofdm.N_DATA), np.float32)
    return Symbols(
        data=empty,
        noise_variance=none,
        gain=empty,
        excess=none[:, 0],
        n_reference=0,
        residual_cfo=0.0,
        clock_offset_ppm=0.0,
    )


def _common_phase(pilots: ofdm.Grid, gain: ofdm.Grid) -> tuple[NDArray[np.float64], int]:
    """Phase of each symbol in radians, float64[n], and the number of symbols it is averaged over.

    Phasors are averaged with weights that fall exponentially to both sides; the width is the one
    whose average without a symbol agrees best with that symbol. Averaging phasors, not angles,
    cannot slip a cycle.

    Args:
        pilots: complex64[n, 8], divided by what was sent.
        gain: complex64[n, 8], the channel there.
    """
    phasors: NDArray[np.complex128] = np.einsum("ij,ij->i", pilots, gain.conj()).astype(
        np.complex128
    )
    best, phase, chosen = -np.inf, np.zeros(len(phasors)), _PHASE_WINDOWS[-1]
    for window in _PHASE_WINDOWS:
        keep = (window - 1) / (window + 1)
        before = scipy.signal.lfilter([0, keep], [1, -keep], phasors)
        after = scipy.signal.lfilter([0, keep], [1, -keep], phasors[::-1])[::-1]
        others = before + after
        agreement = float(
            np.sum((phasors * others.conj()).real / np.maximum(np.abs(others), 1e-30))
        )
        if agreement > best:
            best, phase, chosen = agreement, np.angle(others + phasors), window
    return phase, min(chosen, len(phasors))


def _noise_profile(
    left: ofdm.Grid, long_left: ofdm.Grid, freedom: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noise variance by subcarrier, float32[200], and its factor by symbol, float32[n].

    Args:
        left: complex64[n, 8], what the fit leaves of the pilots.
        long_left: complex64[n_long, 200], and of the Zadoff-Chu symbols.
        freedom: share of degrees of freedom that the fit left over, 0..1.
    """
    n = len(left)
    power = np.abs(left).astype(np.float64) ** 2 / freedom
    long_power = np.abs(long_left).astype(np.float64) ** 2 / freedom
    mean = max(float((power.sum() + long_power.sum()) / (power.size + long_power.size)), _FLOOR)
    places = ofdm.pilot_places(n).ravel()
    total = np.bincount(places, power.ravel(), ofdm.N_USED) + long_power.sum(axis=0)
    count = np.bincount(places, minlength=ofdm.N_USED) + float(len(long_left))
    box = np.ones(2 * _NEIGHBOURS + 1)
    total, count = np.convolve(total, box, "same"), np.convolve(count, box, "same")
    by_subcarrier = (total + _NOISE_PRIOR * mean) / (count + _NOISE_PRIOR)
    by_subcarrier *= mean / by_subcarrier.mean()
    group = np.arange(n) // ofdm.PILOT_PERIOD
    relative = power / by_subcarrier[ofdm.pilot_places(n)]
    count = np.bincount(group) * float(ofdm.N_PILOTS)
    factor = (np.bincount(group, relative.sum(axis=1)) + _NOISE_PRIOR) / (count + _NOISE_PRIOR)
    return by_subcarrier.astype(np.float32), factor[group].astype(np.float32)


@compiled(fastmath=True)
def _divide(
    grid: NDArray[np.complex64],
    turns: NDArray[np.complex64],
    channel: NDArray[np.complex64],
    data_places: NDArray[np.intp],
    noise: NDArray[np.float32],
    share_subcarrier: NDArray[np.float64],
    by_symbol: NDArray[np.float32],
    share_symbol: NDArray[np.float64],
    phase_share: float,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.complex64]]:
    """Data symbols, their noise variance and their gains, each [n, 192]."""
    n, width = len(grid), data_places.shape[1]
    data = np.empty((n, width), np.complex64)
    variance = np.empty((n, width), np.float32)
    gain = np.empty((n, width), np.complex64)
    for t in range(n):
        row = data_places[t % len(data_places)]
        turn, factor, share = turns[t], by_symbol[t], share_symbol[t]
        for j in range(width):
            k = row[j]
            h = channel[t, k]
            power = max(h.real * h.real + h.imag * h.imag, np.float32(1e-9))
            y = grid[t, k] * turn
            inverse = np.float32(1) / power
            data[t, j] = y * h.conjugate() * inverse
            extra = np.float32(1 + share_subcarrier[k] * share + phase_share)
            variance[t, j] = noise[k] * factor * extra * inverse
            gain[t, j] = h
    return data, variance, gain
