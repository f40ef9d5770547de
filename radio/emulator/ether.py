"""The air between emulated radios: who hears whom, at which level, on whose clock."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np

from hil.contract import ConfigError
from radio.channel import Figures
from radio.channel.interferer import Interferer
from radio.channel.presets import NOISE_ALONE
from radio.emulator import front_end
from radio.emulator.clock import Clock
from radio.emulator.front_end import NodeSpec, RfSettings, Tone
from radio.emulator.listener import Listener, Piece, Source, rehearse
from radio.emulator.rx_ring import RxRing
from radio.emulator.station import SAME_SAMPLE, State, Station
from radio.emulator.timeline import Ramp, Timeline
from radio.emulator.tx_queue import TxQueue

__all__ = ["Ether", "NodeSpec", "RfSettings", "Tone"]

_MEMORY_S: Final = 5e-3
"""Age at which a sample is out of the air for good: longer than all filters and echoes."""


class Ether:
    """Emulated radios that all hear each other.

    Every radio has a sample clock and two carriers of its own, all off by its ppm. A receiver hears
    every transmitter whose band reaches into its own, its own transmitter included, over
    path_loss_db or coupling_loss_db, late by 16 transmitted samples. What it hears is worked out
    when a buffer is read, from what was sent and set at the time at which the buffer filled.
    Samples of one radio are counted from time 0 on, and noise hangs on that count alone, so that
    the same is heard however it is read.

    Of the figures, each receiver has the multipath (a channel of its own for each other radio),
    phase noise, mixer, DC and limiter, each transmitter the mixer, DC (its carrier leaks as long as
    it is powered) and amplifier, whose levels are over the converter's full scale. cfo_hz,
    cfo_drift_hz_s and clock_offset_ppm do not act: that is what the radios' ppm are for; nor
    adc_bits: the converters have 12.

    Methods may be called from any thread.

    Attributes:
        clock: clock of all radios.
        nodes: figures of each radio.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        *,
        clock: Clock,
        path_loss_db: float = 60.0,
        coupling_loss_db: float = 40.0,
        figures: Figures = NOISE_ALONE,
        interferer: Interferer | None = None,
        seed: int,
    ) -> None:
        """Radios with default settings.

        Args:
            nodes: one for each radio, at least one.
            clock: RealTime or VirtualTime.
            path_loss_db, coupling_loss_db: losses between two radios, and from a transmitter to
                its own receiver.
            figures: impairments of the air and of all radios beside loss, noise and ppm.
            interferer: another transmitter that every radio hears, at its level over that radio's
                own noise.
            seed: seed of noise, multipath and the carriers' first phases.

        Raises:
            ConfigError: there is no radio, a loss is no number, or a figure is out of range.
        """
        if not nodes:
            raise ConfigError("emulated ether has no radio; it needs at least one")
        rehearse(figures)
        self.clock = clock
        self.nodes = tuple(nodes)
        self._lock = threading.Lock()
        self._stations = [Station(spec, clock, self._lock) for spec in nodes]
        self._listeners = [
            Listener(node, self.nodes, figures, seed, interferer) for node in range(len(nodes))
        ]
        self._path_loss = Timeline(_loss_db(path_loss_db))
        self._coupling_loss = Timeline(_loss_db(coupling_loss_db))
        turns = np.random.default_rng(seed).uniform(size=(len(nodes), len(nodes)))
        self._beats = {
            (tx, rx): Timeline(Ramp(0.0, float(turn), self._beat_hz(tx, rx)))
            for (tx, rx), turn in np.ndenumerate(turns)
        }
        self._rings: dict[int, RxRing] = {}
        self._queues: dict[int, TxQueue] = {}

    # -------------------------------------------------------------------------------------------
    # what is set, and when

    @property
    def path_loss_db(self) -> float:
        """Loss between any two radios; a new value holds from now on; infinite: no path."""
        return self._path_loss.latest

    @path_loss_db.setter
    def path_loss_db(self, value: float) -> None:
        with self._lock:
            self._path_loss.set(self.clock.now(), _loss_db(value))

    @property
    def coupling_loss_db(self) -> float:
        """Loss from each transmitter to its own receiver; a new value holds from now on."""
        return self._coupling_loss.latest

    @coupling_loss_db.setter
    def coupling_loss_db(self, value: float) -> None:
        with self._lock:
            self._coupling_loss.set(self.clock.now(), _loss_db(value))

    def configure(self, node: int, settings: RfSettings) -> None:
        """Set a radio, from now on; carriers and counts go on without a jump."""
        with self._lock:
            self._stations[node].configure(settings)
            now_s = self.clock.now()
            for (tx, rx), beat in self._beats.items():
                if node in (tx, rx):
                    beat.set(now_s, beat.latest.at_rate(now_s, self._beat_hz(tx, rx)))
            self._forget()

    def silence(self, node: int) -> None:
        """Let a radio vanish from the air: from now on it neither sends nor hears."""
        with self._lock:
            self._stations[node].set_silent(True)

    def restore(self, node: int) -> None:
        """Bring a radio back, from now on."""
        with self._lock:
            self._stations[node].set_silent(False)

    def snr_db(self, tx: int, rx: int, tx_rms_dbfs: float) -> float:
        """Es/N0 per used subcarrier that a receiver should measure for the kit's OFDM, as all is
        set now.

        Noise of receiver and converter and the rounding at both ends are counted; multipath has
        unit mean gain; clipping, an interferer and what the figures do beside are not counted.

        Args:
            tx, rx: transmitter and receiver; the same one for its coupling to itself.
            tx_rms_dbfs: rms level of the burst at the transmitter's converter.
        """
        return front_end.snr_db(
            *self._ends(tx, rx), loss_db=self._loss(tx, rx).latest, tx_rms_dbfs=tx_rms_dbfs
        )

    def set_snr(self, tx: int, rx: int, snr_db: float, tx_rms_dbfs: float) -> None:
        """Choose the path loss (the coupling loss where tx is rx) that gives an SNR, from now on.

        Raises:
            ConfigError: 12-bit samples at that level cannot have that SNR.
        """
        loss_db = front_end.loss_for_snr_db(
            *self._ends(tx, rx), snr_db=snr_db, tx_rms_dbfs=tx_rms_dbfs
        )
        with self._lock:
            self._loss(tx, rx).set(self.clock.now(), loss_db)

    def _ends(self, tx: int, rx: int) -> tuple[NodeSpec, RfSettings, NodeSpec, RfSettings]:
        sender, receiver = self._stations[tx], self._stations[rx]
        return (
            sender.spec,
            sender.states.latest.settings,
            receiver.spec,
            receiver.states.latest.settings,
        )

    def _loss(self, tx: int, rx: int) -> Timeline[float]:
        return self._coupling_loss if tx == rx else self._path_loss

    def _beat_hz(self, tx: int, rx: int) -> float:
        """Sender's carrier less the receiver's; small differences of large figures stay exact."""
        sender, sent, receiver, heard = self._ends(tx, rx)
        errors_hz = (sent.tx_lo_hz * sender.ppm - heard.rx_lo_hz * receiver.ppm) * 1e-6
        return sent.tx_lo_hz - heard.rx_lo_hz + errors_hz

    # ---------------------------------------------------------------------------------------------
    # streams

    def open_rx(self, node: int, samples: int, kernel_buffers: int) -> RxRing:
        """Start to receive.

        Args:
            node: the radio; one ring at a time is open on it.
            samples: length of a buffer.
            kernel_buffers: buffers of the ring, ≥ 1.

        Raises:
            OSError: EBUSY, a ring is open.
        """
        with self._lock:
            if node in self._rings and not self._rings[node].closed:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            ring = RxRing(
                self._stations[node],
                samples,
                kernel_buffers,
                lambda begin, end: self._hear(node, begin, end),
            )
            self._rings[node] = ring
        return ring

    def open_tx(self, node: int, samples: int, kernel_buffers: int, cyclic: bool) -> TxQueue:
        """Start to transmit; the radio's tones are mute until the queue is closed.

        Args:
            node: the radio; one queue at a time is open on it.
            samples: largest length of a block.
            kernel_buffers: blocks that the queue holds, the one that plays included, ≥ 1.
            cyclic: the first block repeats until the queue is closed.

        Raises:
            OSError: EBUSY, a queue is open.
        """
        with self._lock:
            if node in self._queues and not self._queues[node].closed:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            queue = TxQueue(self._stations[node], samples, kernel_buffers, cyclic, self._forget)
            self._queues[node] = queue
        return queue

    # ---------------------------------------------------------------------------------------------
    # what is heard

    def _hear(self, node: int, begin: int, end: int) -> bytes:
        with self._lock:
            pieces = self._pieces(node, begin, end)
        return self._listeners[node].capture(pieces).astype("<i2", copy=False).tobytes()

    def _pieces(self, node: int, begin: int, end: int) -> list[Piece]:
        """The samples cut where anything changes, with all that is needed to work them out without
        the lock."""
        station = self._stations[node]
        lines: list[Timeline[float] | Timeline[State]] = [self._path_loss, self._coupling_loss]
        lines += [other.states for other in self._stations]
        begin_s, end_s = station.time_of(begin), station.time_of(end)
        changes_s: set[float] = set()
        for line in lines:
            changes_s.update(line.changes(begin_s, end_s))
        pieces = []
        now_s = begin_s
        for change_s in [*sorted(changes_s), end_s]:
            stop = min(end, math.ceil(station.samples_around(begin).count(change_s) - SAME_SAMPLE))
            if stop > begin:
                pieces.append(self._piece(node, begin, stop, now_s))
                begin = stop
            now_s = change_s
        return pieces

    def _piece(self, node: int, begin: int, end: int, now_s: float) -> Piece:
        station = self._stations[node]
        state = station.states.at(now_s)
        sources = []
        for tx, sender in enumerate(self._stations):
            sent = sender.transmission(now_s)
            if sent.state.settings.tx_lo_on and not (sent.state.silent or state.silent):
                sources.append(
                    Source(
                        tx, sent, self._beats[tx, node].at(now_s), self._loss(tx, node).at(now_s)
                    )
                )
        return Piece(begin, end, state, station.transmission(now_s), tuple(sources))

    def _forget(self) -> None:
        """Drop what no receiver can hear any more; with the lock held."""
        now_s = self.clock.now()
        spans_s = [(now_s - _MEMORY_S, math.inf)]
        for node, ring in self._rings.items():
            station = self._stations[node]
            for begin, end in ring.unread:
                spans_s.append(
                    (station.time_of(begin) - _MEMORY_S, station.time_of(end) + _MEMORY_S)
                )
        earliest_s = min(begin_s for begin_s, _ in spans_s)
        for loss in (self._path_loss, self._coupling_loss):
            loss.forget(earliest_s)
        for beat in self._beats.values():
            beat.forget(earliest_s)
        for station in self._stations:
            station.forget(spans_s)


def _loss_db(value: float) -> float:
    if math.isnan(value):
        raise ConfigError("emulated path loss is not a number; give it in dB, inf for no path")
    return value
