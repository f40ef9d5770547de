"""Impairments of a receiver: phase noise, noise, an imperfect mixer, limits, and the converter."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.channel import Figures
from radio.channel.noise_blocks import NOISE_BLOCK, blocks
from radio.channel.oscillator import PhaseNoise
from radio.channel.presets import NO_NOISE_DBC_HZ
from radio.compiled import compiled
from radio.emulator.front_end import CODES
from radio.emulator.station import Codes


class PhaseJitter:
    """Phase noise of a receiver's oscillator; counts that are asked for never fall."""

    def __init__(self, figures: Figures, rng: np.random.Generator) -> None:
        """The figures' phase noise, drawn from rng."""
        self._rng = rng
        self._model: PhaseNoise | None = None
        if figures.phase_noise_dbc_hz > NO_NOISE_DBC_HZ:
            self._model = PhaseNoise(
                figures.phase_noise_dbc_hz,
                1.0,
                offset_hz=figures.phase_noise_offset_hz,
                pll_bandwidth_hz=figures.pll_bandwidth_hz,
            )
        self._block = -1
        self._values = np.empty(0, np.complex64)

    def rotate(self, begin: int, rate_hz: float, iq: IQ) -> None:
        """Rotate samples by the phase noise; they lie at counts from begin on."""
        if self._model is None:
            return
        self._model.sample_rate_hz = rate_hz
        for block, part, taken in blocks(begin, len(iq)):
            if block != self._block:
                self._model.advance((block - self._block - 1) * NOISE_BLOCK / rate_hz)
                self._values = self._model(np.ones(NOISE_BLOCK, np.complex64), self._rng)
                self._block = block
            iq[taken] *= self._values[part]


def convert(
    signal: IQ, noise: IQ, *, noise_rms: float, image: complex, offset: complex, limit: float
) -> Codes:
    """The converter's codes, int16[n, 2], of signal and noise.

    Args:
        signal: complex64[n], amplitudes over full scale.
        noise: complex64[n], I and Q of unit power each.
        noise_rms: noise of I and Q together.
        image: amplitude of the mirror image over the signal.
        offset: DC.
        limit: amplitude to which I and Q are limited ahead of the converter.
    """
    codes = np.empty((len(signal), 2), np.int16)
    _convert(
        signal,
        noise,
        noise_rms / math.sqrt(2),
        complex(image),
        complex(offset),
        min(limit, 1.0),
        codes,
    )
    return codes


@compiled()
def _convert(
    signal: IQ,
    noise: IQ,
    deviation: float,
    image: complex,
    offset: complex,
    limit: float,
    codes: NDArray[np.int16],
) -> None:
    sigma = np.float32(deviation)
    image_re, image_im = np.float32(image.real), np.float32(image.imag)
    offset_re, offset_im = np.float32(offset.real), np.float32(offset.imag)
    scale = np.float32(CODES)
    high = np.float32(min(round(limit * CODES), CODES - 1))
    low = np.float32(-round(limit * CODES))
    for i in range(len(signal)):
        a = signal[i].real + sigma * noise[i].real
        b = signal[i].imag + sigma * noise[i].imag
        # v + image · conj(v) + offset
        x = a + image_re * a + image_im * b + offset_re
        y = b + image_im * a - image_re * b + offset_im
        codes[i, 0] = np.int16(min(max(np.rint(x * scale), low), high))
        codes[i, 1] = np.int16(min(max(np.rint(y * scale), low), high))
