"""The receiving end of the link, without I/O: samples in, payload and feedback out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio import framing, ofdm, snr, sync
from radio.feedback import NO_TAG, Feedback
from radio.iq import require_samples

_MAX_SESSIONS: Final = 4
_LEAD_SAMPLES: Final = 512
"""Kept before a burst that is not whole yet: its start is known roughly only."""
_TAIL_SAMPLES: Final = sync.PREAMBLE_SAMPLES + _LEAD_SAMPLES
"""Kept at the end of what was searched: a preamble may lie across two calls."""


def payload_tag(payload: bytes) -> bytes:
    """First 7 bytes of the payload's SHA-256: names the payload in every header."""
    return hashlib.sha256(payload).digest()[: framing.TAG_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """One burst as it was received.

    Attributes:
        header: None if it did not pass its CRC.
        section: its data blocks; None without a header or without blocks.
        measurement: the SNR.
        evm_rms: NaN without a header.
        cfo: carrier offset in cycles per sample.
    """

    header: framing.BurstHeader | None
    section: framing.DataSection | None
    measurement: snr.SnrMeasurement
    evm_rms: float
    cfo: float


def receive_burst(iq: IQ, found: sync.Acquisition, header: framing.BurstHeader | None = None) -> Reception:
    """Demodulate and decode one burst that was found in `iq`; a burst that is cut gives the blocks that are whole.

    Args:
        iq: the samples `found` refers to.
        found: from sync.find_bursts.
        header: the burst's, where it is known already; else it is read.
    """
    header = header or peek_header(iq, found)
    if header is None:
        return Reception(
            header=None,
            section=None,
            measurement=snr.from_preamble(found.long_symbols),
            evm_rms=float("nan"),
            cfo=found.cfo,
        )
    grid, rotation = ofdm.track_phase(_grid(iq, found, header.n_symbols), found.channel)
    equalized, noise = ofdm.equalize(grid, found.channel, found.noise_variance)
    sent = framing.modulated_header(header)
    known = np.ones(sent.shape, np.bool_)
    section = None
    if header.block_count:
        section = framing.read_blocks(equalized[framing.HEADER_SYMBOLS :], noise, header)
        data, sure = framing.known_data(section, header)
        sent, known = np.concatenate([sent, data]), np.concatenate([known, sure])
    n = len(sent)
    return Reception(
        header=header,
        section=section,
        measurement=snr.from_known(grid[:n, ofdm.DATA], sent, known),
        evm_rms=snr.evm_rms(equalized[:n], sent, known),
        cfo=found.cfo + rotation / (2 * np.pi * ofdm.SYMBOL_SAMPLES),
    )


def peek_header(iq: IQ, found: sync.Acquisition) -> framing.BurstHeader | None:
    """The header of a burst that was found, or None if it does not pass or is not there whole."""
    grid = _grid(iq, found, framing.HEADER_SYMBOLS)
    if len(grid) < framing.HEADER_SYMBOLS:
        return None
    grid, _ = ofdm.track_phase(grid, found.channel)
    return framing.read_header(*ofdm.equalize(grid, found.channel, found.noise_variance))


def _grid(iq: IQ, found: sync.Acquisition, n_symbols: int) -> ofdm.Grid:
    """Used subcarriers of the burst's first n_symbols symbols, or of as many as the samples hold."""
    begin = found.body - ofdm.WINDOW_BACKOFF
    # phase 0 lies where the channel was estimated, at the first of the two Zadoff-Chu symbols' windows
    return ofdm.demodulate(
        sync.rotate(iq[begin : begin + n_symbols * ofdm.SYMBOL_SAMPLES], found.cfo, first=2 * ofdm.N_FFT)
    )


@dataclass(slots=True)
class _Session:
    """What is held of one payload."""

    number: int
    tag: bytes
    payload_bytes: int
    blocks: dict[int, bytes] = field(default_factory=dict)
    bursts: set[int] = field(default_factory=set)
    blocks_passed: int = 0

    @property
    def n_blocks(self) -> int:
        return framing.block_count_of(self.payload_bytes)

    def held(self) -> NDArray[np.bool_]:
        """bool[n_blocks]."""
        mask = np.zeros(self.n_blocks, np.bool_)
        mask[list(self.blocks)] = True
        return mask

    def payload(self) -> bytes | None:
        """The payload once it is whole. If it then fails its hash, a block was wrong: all of them are dropped."""
        if self.payload_bytes == 0 or len(self.blocks) < self.n_blocks:
            return None
        payload = b"".join(self.blocks[i] for i in range(self.n_blocks))[: self.payload_bytes]
        if payload_tag(payload) == self.tag:
            return payload
        self.blocks.clear()
        return None


class Receiver:
    """Finds bursts in a stream of samples, collects blocks by session, and answers.

    A session goes on only under the same number, payload length and tag; the same number with another payload starts
    anew. The latest four sessions are kept, so that a header that passed by chance does no harm.

    Attributes:
        latest: the burst received last, or None.
        bursts_unreadable: bursts found whose header did not pass.
        mid_burst: the samples so far end within a burst.
    """

    def __init__(self, *, epoch: int) -> None:
        """A receiver that holds nothing.

        Args:
            epoch: 0..2^32 - 1, another one at each start.
        """
        self.latest: Reception | None = None
        self.bursts_unreadable = 0
        self.mid_burst = False
        self._epoch = epoch
        self._sequence = 0
        self._buffer: IQ = np.zeros(0, np.complex64)
        self._sessions: dict[int, _Session] = {}
        self._current: _Session | None = None
        self._fresh: list[Reception] = []
        self._cfo_hz = 0.0

    def feed(self, iq: IQ, sample_rate_hz: float) -> list[Reception]:
        """Take the next samples of the stream; bursts that are whole by now are received.

        Raises:
            DeviceError: for no samples or samples that are not finite.
        """
        require_samples(iq, "receiver")
        self._buffer = np.concatenate([self._buffer, iq.astype(np.complex64, copy=False)])
        return self._search(sample_rate_hz, final=False)

    def flush(self, sample_rate_hz: float) -> list[Reception]:
        """Receive what is left of a burst that was cut; the stream begins anew."""
        receptions = self._search(sample_rate_hz, final=True)
        self._buffer = np.zeros(0, np.complex64)
        return receptions

    def _search(self, sample_rate_hz: float, *, final: bool) -> list[Reception]:
        done = 0
        self.mid_burst = False
        receptions: list[Reception] = []
        for found in sync.find_bursts(self._buffer):
            if found.start < done - sync.PREAMBLE_SAMPLES // 2:
                continue  # inside a burst that was just read
            available = len(self._buffer) - found.body + ofdm.WINDOW_BACKOFF
            header = peek_header(self._buffer, found)
            n_symbols = header.n_symbols if header else framing.HEADER_SYMBOLS
            if not final and available < n_symbols * ofdm.SYMBOL_SAMPLES:
                self.mid_burst = True
                self._buffer = self._buffer[max(found.start - _LEAD_SAMPLES, done) :]
                return receptions
            receptions.append(receive_burst(self._buffer, found, header))
            self._accept(receptions[-1], sample_rate_hz)
            done = found.body + (n_symbols * ofdm.SYMBOL_SAMPLES if header else 0) - ofdm.WINDOW_BACKOFF
        self._buffer = self._buffer[max(done, len(self._buffer) - _TAIL_SAMPLES) :]
        return receptions

    def _accept(self, reception: Reception, sample_rate_hz: float) -> None:
        self.latest = reception
        self._fresh.append(reception)
        self._cfo_hz = reception.cfo * sample_rate_hz
        header = reception.header
        if header is None:
            self.bursts_unreadable += 1
            return
        session = self._session_of(header)
        self._current = session
        again = header.burst in session.bursts  # a burst heard twice counts once
        session.bursts.add(header.burst)
        if reception.section is not None:
            session.blocks.update(reception.section.blocks)
            session.blocks_passed += 0 if again else int(reception.section.passed.sum())

    def _session_of(self, header: framing.BurstHeader) -> _Session:
        session = self._sessions.pop(header.session, None)
        if session is None or (session.tag, session.payload_bytes) != (header.tag, header.payload_bytes):
            session = _Session(header.session, header.tag, header.payload_bytes)
        self._sessions[header.session] = session  # the newest lies last
        while len(self._sessions) > _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def payload(self, session: int) -> bytes | None:
        """The session's payload, once all blocks are held and its hash agrees; else None."""
        known = self._sessions.get(session)
        return known.payload() if known else None

    def feedback(self) -> Feedback | None:
        """The answer to what came since the last answer, or None if no burst was ever found.

        A message covers the bursts since the one before; if there were none, the last burst is spoken of again. Bursts
        that were found but could not be read are answered with their SNR and no session.
        """
        if self.latest is None:
            return None
        fresh = self._fresh or [self.latest]
        self._fresh = []
        measurement = snr.combine([r.measurement for r in fresh])
        evms = [r.evm_rms for r in fresh if r.header is not None]
        counts = [(r.header.block_count, r.section) for r in fresh if r.header and r.section is not None]
        sent = sum(count for count, _ in counts)
        passed = sum(int(section.passed.sum()) for _, section in counts)
        readable = any(r.header is not None for r in fresh)
        session = self._current if readable and self._current is not None else _Session(0, NO_TAG, 0)
        session.payload()  # drops blocks that fail the hash before they are reported as held
        self._sequence += 1
        return Feedback(
            epoch=self._epoch,
            sequence=self._sequence,
            session=session.number,
            tag=session.tag,
            bursts_found=len(session.bursts),
            blocks_passed=session.blocks_passed,
            snr_db=measurement.snr_db,
            snr_std_db=measurement.snr_std_db,
            data_aided=measurement.data_aided,
            evm_rms=float(np.sqrt(np.mean(np.square(evms)))) if evms else float("nan"),
            cfo_hz=self._cfo_hz,
            block_error_rate=1 - passed / sent if sent else 0.0,
            held=session.held(),
        )
