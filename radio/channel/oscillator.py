"""What the difference of two oscillators does to a carrier: an offset that drifts, and phase
noise."""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import lfilter

from hil.contract import IQ, ConfigError
from radio.channel.phasors import phasors


class FrequencyOffset:
    """A carrier that lies above the receiver's oscillator, with a random start phase that runs on
    between calls.

    Attributes:
        cfo_hz: the offset now; a value that is set drifts on from there.
        sample_rate_hz: rate of the samples, > 0; may be changed between calls.
        drift_hz_s: rise of the offset in a second.
    """

    tail_samples = 0

    def __init__(self, cfo_hz: float, sample_rate_hz: float, drift_hz_s: float = 0.0) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.drift_hz_s = drift_hz_s
        self.cfo_hz = cfo_hz
        self._cycles: float | None = None

    def advance(self, seconds: float) -> None:
        """Turn on through a pause."""
        if self._cycles is not None:
            self._cycles = (
                self._cycles + (self.cfo_hz + self.drift_hz_s * seconds / 2) * seconds
            ) % 1.0
        self.cfo_hz += self.drift_hz_s * seconds

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples, turning; the start phase is drawn in the first call."""
        if self._cycles is None:
            self._cycles = rng.uniform()
        t_s = np.arange(len(iq)) / self.sample_rate_hz
        cycles = self._cycles + (self.cfo_hz + self.drift_hz_s / 2 * t_s) * t_s
        self.advance(len(iq) / self.sample_rate_hz)
        return iq * phasors(cycles)


class PhaseNoise:
    """Phase noise with the spectrum of an oscillator, alone or held by a phase-locked loop.

    Single-sideband level L(f) ∝ 1 / (f² + B²): a free-running oscillator (B = 0) has a phase that
    walks at random and a Lorentzian line; a loop of bandwidth B holds the slow part down to a
    plateau. Both are a first-order recursion.

    Attributes:
        sample_rate_hz: rate of the samples, > 0; may be changed between calls.

    Source: Demir, Mehrotra and Roychowdhury, Phase noise in oscillators, IEEE Trans. Circuits Syst.
    I 47(5), 2000.
    """

    tail_samples = 0

    def __init__(
        self,
        level_dbc_hz: float,
        sample_rate_hz: float,
        *,
        offset_hz: float = 10e3,
        pll_bandwidth_hz: float = 0.0,
    ) -> None:
        """An oscillator.

        Args:
            level_dbc_hz: single-sideband noise density at offset_hz from the carrier.
            sample_rate_hz: rate of the samples.
            offset_hz: > 0.
            pll_bandwidth_hz: B, ≥ 0; 0 = free running.

        Raises:
            ConfigError: for an offset or a bandwidth out of range.
        """
        if not (offset_hz > 0 and pll_bandwidth_hz >= 0):
            raise ConfigError(
                f"phase noise: offset {offset_hz} Hz (must be > 0), loop bandwidth "
                f"{pll_bandwidth_hz} Hz (>= 0)"
            )
        self.sample_rate_hz = sample_rate_hz
        self._pole_hz = pll_bandwidth_hz
        # two-sided phase density (rad²/Hz) is A / (f² + B²); the white noise that drives it has
        # density 4π²A
        self._drive = (
            4 * math.pi**2 * 10 ** (level_dbc_hz / 10) * (offset_hz**2 + pll_bandwidth_hz**2)
        )
        self._phase = 0.0
        self._pause_s = (
            math.inf if pll_bandwidth_hz else 0.0
        )  # a loop starts from its stationary distribution

    def advance(self, seconds: float) -> None:
        """Let the phase wander through a pause; where to is drawn in the next call."""
        self._pause_s += seconds

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples, trembling."""
        if len(iq) == 0:
            return iq
        if self._pause_s:
            memory, std = self._step(self._pause_s)
            self._phase = memory * self._phase + std * rng.standard_normal()
            self._pause_s = 0.0
        memory, std = self._step(1 / self.sample_rate_hz)
        drive = rng.standard_normal(len(iq), np.float32).astype(np.float64)
        phase, _ = lfilter([std], [1.0, -memory], drive, zi=[memory * self._phase])
        self._phase = math.remainder(phase[-1], 2 * math.pi)
        return iq * phasors(phase / (2 * np.pi))

    def _step(self, seconds: float) -> tuple[float, float]:
        """Share of the phase that is left after a time, and the deviation that has come on top."""
        rate = 4 * math.pi * self._pole_hz
        variance = self._drive * (-math.expm1(-rate * seconds) / rate if rate else seconds)
        return math.exp(-rate / 2 * seconds), variance**0.5
