"""Multipath that changes while a burst passes: delay lines whose gains move, by Doppler for one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ, ConfigError
from radio.channel.interpolation import BEFORE, TAPS, fractional_taps
from radio.channel.phasors import phasors
from radio.channel.profiles import power_delay_profile
from radio.compiled import compiled

_WAVES: Final = 32
"""Plane waves that make up a path: the fourth moment of their sum lies 1 / (2 _WAVES) below a
Gaussian's."""
_SIGHT_DOPPLER: Final = 0.7
"""Doppler shift of a line of sight over the largest one (TR 38.901 §7.7.2)."""
_TURNS_PER_KNOT: Final = 1 / 64
"""Turns of the fastest wave between two evaluations of the gains: a straight line between errs by
less than -60 dB."""
_KNOTS_AT_ONCE: Final = 16
_LATENCY: Final = TAPS - BEFORE - 1
"""Samples by which every path is late, so that a filter may reach back before it."""


class PlaneWaves:
    """Gains of paths on which waves arrive evenly from all round: Rayleigh fading with Jakes'
    Doppler spectrum.

    Gains that lie t apart correlate by J0(2π · doppler · t); paths are independent and have unit
    mean power.

    Args:
        n_paths: paths, ≥ 1.
        rng: source of angles and phases.
        n_waves: plane waves on each path.
    Source: Clarke, Bell System Technical Journal 47(6), 1968; Zheng and Xiao, IEEE Trans. Commun.
    51(6), 2003.
    """

    def __init__(self, n_paths: int, rng: np.random.Generator, n_waves: int = _WAVES) -> None:
        angles = 2 * np.pi * (np.arange(n_waves) + rng.uniform(size=(n_paths, 1))) / n_waves
        self._shifts = np.cos(angles)
        self._starts = rng.uniform(size=(n_paths, n_waves))

    def __call__(self, turns: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Gains complex64[n, n_paths] at the times `turns`, float64[n], in periods of the Doppler
        frequency."""
        waves = phasors(turns[:, None, None] * self._shifts + self._starts)
        return np.asarray(
            waves.sum(axis=2) / np.float32(self._shifts.shape[1] ** 0.5), np.complex64
        )


class DelayLine(ABC):
    """Echoes with fractional delays and gains that move; one continuous channel from call to call.

    The gains are functions of the channel's own time, which calls and pauses move on. They are
    evaluated at knots and drawn straight between them, within a burst as well.

    Attributes:
        sample_rate_hz: rate of the samples, > 0; may be changed between calls: paths and gains
            stay the same.
    """

    def __init__(self, delays_s: NDArray[np.float64], knot_s: float, sample_rate_hz: float) -> None:
        """Echoes.

        Args:
            delays_s: float64[n_paths], ≥ 0.
            knot_s: time between two knots.
            sample_rate_hz: rate of the samples.
        """
        self._delays_s = delays_s
        self._knot_s = knot_s
        self._now_s = 0.0
        self.sample_rate_hz = sample_rate_hz

    @abstractmethod
    def gains(self, t_s: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Gains complex64[n, n_paths] at times of the channel."""

    @property
    def sample_rate_hz(self) -> float:
        """Rate of the samples."""
        return self._sample_rate_hz

    @sample_rate_hz.setter
    def sample_rate_hz(self, value: float) -> None:
        self._sample_rate_hz = value
        self._responses = _responses(self._delays_s * value)
        self._held = np.zeros(self.tail_samples, np.complex64)

    @property
    def tail_samples(self) -> int:
        """Samples of echo and filter behind the last sample that went in."""
        return int(self._responses.shape[1]) - 1

    def advance(self, seconds: float) -> None:
        """Let the channel change through a pause."""
        self._now_s += seconds

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples behind the channel, as many as went in; what is still under way comes with
        the next call."""
        samples = np.concatenate([self._held, iq])
        re, im = samples.real.copy(), samples.imag.copy()
        out = np.empty(len(iq), np.complex64)
        knots_per_sample = 1 / (self._knot_s * self._sample_rate_hz)
        place = self._now_s / self._knot_s
        at_once = max(1, int(_KNOTS_AT_ONCE / knots_per_sample))
        for begin in range(0, len(iq), at_once):
            end = min(begin + at_once, len(iq))
            first, last = place + begin * knots_per_sample, place + (end - 1) * knots_per_sample
            knots = np.arange(int(first), int(last) + 2, dtype=np.float64) * self._knot_s
            taps = self.gains(knots) @ self._responses
            _filter(
                re[begin:],
                im[begin:],
                taps.real.copy(),
                taps.imag.copy(),
                first % 1.0,
                knots_per_sample,
                out[begin:end],
            )
        self._held = samples[len(iq) :]
        self.advance(len(iq) / self._sample_rate_hz)
        return out


class TappedDelayLine(DelayLine):
    """A delay line of 3GPP TR 38.901 whose gains follow Doppler; mean power 1.

    Attributes:
        profile: delays and mean powers.
    """

    def __init__(
        self,
        name: str,
        *,
        sample_rate_hz: float,
        rng: np.random.Generator,
        delay_spread_ns: float = 0.0,
        doppler_hz: float = 0.0,
        k_factor_db: float | None = None,
    ) -> None:
        """A channel.

        Args:
            name: the profile's: "flat", "TDL-A" to "TDL-E".
            sample_rate_hz: rate of the samples.
            rng: source of the realisation.
            delay_spread_ns: rms; without meaning for "flat".
            doppler_hz: largest shift, ≥ 0; 0 = the channel stands still.
            k_factor_db: power of the line of sight over all scattered power; None = the profile's
                own.

        Raises:
            ConfigError: for an unknown profile, or a figure out of range.
        """
        if not doppler_hz >= 0:
            raise ConfigError(
                f"channel Doppler frequency is {doppler_hz} Hz; it must be at least 0"
            )
        self.profile = power_delay_profile(name, delay_spread_ns * 1e-9, k_factor_db)
        self._doppler_hz = doppler_hz
        self._sight_start = rng.uniform()
        self._waves = PlaneWaves(len(self.profile.powers), rng)
        # a channel that hardly moves is evaluated at least every 16 ms
        super().__init__(
            np.append(self.profile.delays_s, 0.0),
            _TURNS_PER_KNOT / max(doppler_hz, 1.0),
            sample_rate_hz,
        )

    def gains(self, t_s: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Gains complex64[n, n_paths + 1] at times of the channel; the last column is the line of
        sight."""
        turns = self._doppler_hz * t_s
        scattered = self._waves(turns) * np.sqrt(self.profile.powers).astype(np.float32)
        sight = phasors(_SIGHT_DOPPLER * turns + self._sight_start) * np.float32(
            self.profile.sight_power**0.5
        )
        return np.concatenate([scattered, sight[:, None]], axis=1)


def _responses(delays: NDArray[np.float64]) -> NDArray[np.complex64]:
    """What a unit path of each delay does, complex64[n_paths, n_taps]; the last tap meets the
    newest sample.

    Args:
        delays: float64[n_paths], in samples, ≥ 0.
    """
    whole = np.ceil(delays).astype(np.int64)
    taps = fractional_taps(whole - delays)
    n_taps = TAPS + int(whole.max())
    responses = np.zeros((len(delays), n_taps), np.complex64)
    for path, late in enumerate(whole):
        responses[path, n_taps - late - TAPS : n_taps - late] = taps[path]
    return responses


@compiled(fastmath=True)
def _filter(
    re: NDArray[np.float32],
    im: NDArray[np.float32],
    taps_re: NDArray[np.float32],
    taps_im: NDArray[np.float32],
    first: float,
    step: float,
    out: IQ,
) -> None:
    """Fill out[i] with Σ taps[k] · x[i + k], where the taps move straight from row to row.

    Args:
        re, im: the samples, from n_taps - 1 before the first output on.
        taps_re, taps_im: float32[n_knots, n_taps].
        first: place of the first output between row 0 and row 1, 0..1.
        step: rows by which each output moves on.
        out: complex64[n].
    """
    block = 512
    sums = np.empty((4, block), np.float32)
    begin = 0
    while begin < len(out):
        row = min(int(first + begin * step), taps_re.shape[0] - 2)
        end = min(len(out), begin + block, max(begin + 1, int(np.ceil((row + 1 - first) / step))))
        n = end - begin
        sums[:, :n] = 0
        for k in range(taps_re.shape[1]):
            a = taps_re[row, k]
            b = taps_im[row, k]
            slope_a = taps_re[row + 1, k] - a
            slope_b = taps_im[row + 1, k] - b
            for i in range(n):
                x = re[begin + i + k]
                y = im[begin + i + k]
                sums[0, i] += a * x - b * y
                sums[1, i] += a * y + b * x
                sums[2, i] += slope_a * x - slope_b * y
                sums[3, i] += slope_a * y + slope_b * x
        for i in range(n):
            along = np.float32(first + (begin + i) * step - row)
            out[begin + i] = complex(
                sums[0, i] + along * sums[2, i], sums[1, i] + along * sums[3, i]
            )
        begin = end
