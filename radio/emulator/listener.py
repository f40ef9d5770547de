"""One receiver: from what all transmitters play to the codes of its converter."""

from __future__ import annotations

import cmath
import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.channel import Figures
from radio.channel.frontend import IqImbalance
from radio.channel.interferer import Interferer
from radio.channel.noise_blocks import CountedNoise
from radio.channel.presets import NO_DC_DBFS, multipath, transmit_end
from radio.emulator.echoes import Echoes
from radio.emulator.front_end import CODES, NodeSpec, floor_dbfs, noise_dbfs, received_dbfs
from radio.emulator.propagation import STRETCH, receive_path, window
from radio.emulator.reception import PhaseJitter, convert
from radio.emulator.selectivity import heard_filter
from radio.emulator.station import Codes, State, Transmission
from radio.emulator.timeline import Ramp


@dataclass(frozen=True, slots=True)
class Source:
    """One transmitter as a receiver hears it while nothing changes.

    Attributes:
        node: index of the transmitter.
        sent: its transmission.
        beat: turns of its carrier against the receiver's.
        loss_db: loss of the path.
    """

    node: int
    sent: Transmission
    beat: Ramp
    loss_db: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples of a receiver during which nothing changes.

    Attributes:
        begin, end: counts on the receiver's sample clock.
        state: state of the receiver.
        own: transmission of its own transmitter.
        sources: transmitters that it hears.
    """

    begin: int
    end: int
    state: State
    own: Transmission
    sources: tuple[Source, ...]


class Listener:
    """The receiver of one radio. Counts of the pieces it is given never fall."""

    def __init__(
        self,
        node: int,
        specs: tuple[NodeSpec, ...],
        figures: Figures,
        seed: int,
        interferer: Interferer | None = None,
    ) -> None:
        self._interferer = interferer
        self._spec = specs[node]
        self._figures = figures
        self._transmit_end = transmit_end(figures)
        self._noise = CountedNoise(seed, node)
        self._rng = np.random.default_rng([seed, node])
        self._jitter = PhaseJitter(figures, self._rng)
        self._echoes = {
            other: Echoes(figures, 1.0, np.random.default_rng([seed, node, other]))
            for other in range(len(specs))
            if other != node
        }
        self._busy = threading.Lock()

    def capture(self, pieces: list[Piece]) -> Codes:
        """The converter's codes of all pieces."""
        with self._busy:
            return np.concatenate([self._convert(piece) for piece in pieces])

    def _convert(self, piece: Piece) -> Codes:
        settings = piece.state.settings
        if settings.loopback:
            return piece.own.codes(piece.begin, piece.end)
        heard = np.zeros(piece.end - piece.begin, np.complex64)
        for source in piece.sources:
            self._hear(piece, source, heard)
        if self._interferer is not None:
            level = np.float32(_amplitude(floor_dbfs(self._spec, settings)))
            heard += self._interferer.at(piece.begin, len(heard), settings.rate_hz) * level
        self._jitter.rotate(piece.begin, settings.rate_hz, heard)
        f, spec = self._figures, self._spec
        own, common = (
            IqImbalance(spec.rx_iq_gain_db, spec.rx_iq_phase_deg),
            IqImbalance(f.iq_gain_db, f.iq_phase_deg),
        )
        return convert(
            heard,
            self._noise.at(piece.begin, len(heard)),
            noise_rms=_amplitude(noise_dbfs(spec, settings)),
            image=own.image + common.image,
            offset=cmath.rect(_amplitude(spec.rx_dc_dbfs) + _amplitude(f.dc_dbfs), math.pi / 4),
            limit=_amplitude(f.clip_dbfs),
        )

    def _hear(self, piece: Piece, source: Source, heard: IQ) -> None:
        """Add one transmitter to `heard`."""
        taps = heard_filter(source.sent.state.settings, piece.state.settings, source.beat.rate_hz)
        if taps is not None and not len(taps):
            return
        rate_hz = piece.state.settings.rate_hz

        def arriving(begin: int, end: int) -> IQ:
            return self._arriving(piece.state, source, taps, begin, end)

        echoes = self._echoes.get(source.node)
        if echoes:
            heard += echoes.pass_through(piece.begin, piece.end, rate_hz, arriving)
        else:
            heard += arriving(piece.begin, piece.end)

    def _arriving(
        self, state: State, source: Source, taps: NDArray[np.complex64] | None, begin: int, end: int
    ) -> IQ:
        """Samples from one transmitter at counts begin..end, before multipath."""
        first = begin // STRETCH * STRETCH
        arriving = np.zeros(-(-(end - first) // STRETCH) * STRETCH, np.complex64)
        late = 0 if taps is None else len(taps) // 2
        sent = source.sent
        low, high = window(sent.state.samples, state.samples, first, first + len(arriving))
        waveform = self._transmitted(sent, low - 2 * late, high)
        if waveform is not None:
            level_dbfs = received_dbfs(
                sent.spec, sent.state.settings, self._spec, state.settings, source.loss_db
            )
            receive_path(
                waveform if taps is None else np.convolve(waveform, taps, "valid"),
                low,
                sender=sent.state.samples,
                receiver=state.samples,
                beat=source.beat,
                gain=_amplitude(level_dbfs),
                begin=first,
                out=arriving,
            )
        return arriving[begin - first : end - first]

    def _transmitted(self, sent: Transmission, low: int, high: int) -> IQ | None:
        """The samples behind the transmitter's front end, full scale 1, or None for silence."""
        codes = sent.codes(low, high)
        if not codes.any() and self._figures.tx_dc_dbfs <= NO_DC_DBFS:
            return None
        waveform: IQ = (codes.astype(np.float32) / np.float32(CODES)).view(np.complex64)[:, 0]
        for model in self._transmit_end:
            waveform = model(waveform, self._rng)
        return waveform


def rehearse(figures: Figures) -> None:
    """Do everything once with nothing: what has to be compiled is compiled now, not while a client
    waits.

    Raises:
        ConfigError: a figure is out of range.
    """
    nothing, one = np.zeros(0, np.complex64), np.zeros(1, np.complex64)
    rng = np.random.default_rng(0)
    for sender_hz in (1.0, 2.0):
        sender, receiver, beat = Ramp(0.0, 0.0, sender_hz), Ramp(0.0, 0.0, 1.0), Ramp(0.0, 0.0, 0.0)
        receive_path(
            nothing, 0, sender=sender, receiver=receiver, beat=beat, gain=1.0, begin=0, out=nothing
        )
    for model in (*transmit_end(figures), *multipath(figures, 1.0, rng)):
        model(one, rng)
    PhaseJitter(figures, rng).rotate(0, 1.0, one)
    convert(one, one, noise_rms=0.0, image=0j, offset=0j, limit=1.0)


def _amplitude(level_db: float) -> float:
    return float(10 ** (level_db / 20))
