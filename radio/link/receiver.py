"""The receiving end of the link, without I/O: samples in, payload and feedback out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import IQ
from radio.iq import require_samples
from radio.link.block_store import BlockStore
from radio.link.feedback import NO_TAG, Feedback
from radio.link.reassembly import Assembly, basis_of
from radio.modem import equaliser, framing, ofdm, preamble, snr, sync

_MAX_SESSIONS: Final = 4
_LEAD_SAMPLES: Final = 512
"""Kept before a burst that is not whole yet: its start is known roughly only."""
_TAIL_SAMPLES: Final = len(preamble.ROBUST.iq) + _LEAD_SAMPLES
"""Kept at the end of what was searched: a preamble may lie across two calls."""
_CLOCK_DRIFT: Final = 50e-6
"""Share by which a burst may come out longer than it was sent: two clocks of 25 ppm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """One burst as it was received.

    Attributes:
        header: None if it did not pass its CRC.
        blocks: its data blocks by place, each decoded by itself; None without a header or without
            blocks.
        soft: their soft values int16[k, n_buffer]; None likewise.
        measurement: the SNR.
        evm_rms, clock_offset_ppm: NaN without a header.
        cfo: carrier offset in cycles per sample.
    """

    header: framing.BurstHeader | None
    blocks: framing.DecodedBlocks | None
    soft: NDArray[np.int16] | None
    measurement: snr.SnrMeasurement
    evm_rms: float
    cfo: float
    clock_offset_ppm: float

    @property
    def n_sent(self) -> int:
        """Data blocks that the header names."""
        return self.header.block_count if self.header else 0

    @property
    def n_passed(self) -> int:
        """Those of them that passed their CRC."""
        return int(self.blocks.passed.sum()) if self.blocks else 0


def peek_header(iq: IQ, found: sync.Acquisition) -> framing.BurstHeader | None:
    """The header of a burst that was found, or None if it does not pass or is not there whole."""
    symbols = equaliser.receive_symbols(iq, found, framing.header_symbols(found.robust))
    return framing.read_header(symbols, robust=found.robust)


def receive_burst(
    iq: IQ, found: sync.Acquisition, header: framing.BurstHeader | None = None
) -> Reception:
    """Demodulate and decode one burst that was found in `iq`; a burst that is cut gives the blocks
    that are whole.

    Args:
        iq: the samples `found` refers to.
        found: the burst, from sync.find_bursts.
        header: the burst's, where it is known already; else it is read.
    """
    header = header or peek_header(iq, found)
    if header is None:
        return Reception(
            header=None,
            blocks=None,
            soft=None,
            measurement=snr.from_preamble(found),
            evm_rms=float("nan"),
            cfo=found.cfo,
            clock_offset_ppm=float("nan"),
        )
    symbols = equaliser.receive_symbols(iq, found, header.n_symbols)
    soft = blocks = None
    if header.block_count:
        soft = framing.soft_blocks(symbols, header)
        blocks = framing.decode_blocks(soft, header)
    sent, known = framing.known_symbols(header, blocks, len(symbols.data))
    return Reception(
        header=header,
        blocks=blocks,
        soft=soft,
        measurement=snr.measure(symbols, sent, known),
        evm_rms=snr.evm_rms(symbols, sent, known),
        cfo=found.cfo + symbols.residual_cfo,
        clock_offset_ppm=symbols.clock_offset_ppm,
    )


@dataclass(frozen=True, slots=True)
class _Spotted:
    """A burst that was found in the buffer.

    Attributes:
        found: where.
        header: None if it did not pass.
        begin, end: its symbols lie between, on a clock that runs like ours.
        needed: samples from the buffer's start that hold it even if its sender's clock is slow.
    """

    found: sync.Acquisition
    header: framing.BurstHeader | None
    begin: int
    end: int
    needed: int


class Receiver:
    """Finds bursts in a stream of samples, collects blocks by session, and answers.

    A session goes on only under the same number, payload length and tag; the same number with
    another payload starts anew. The latest four sessions are kept, so that a header that passed by
    chance does no harm.

    Attributes:
        epoch: number of the receiver's start, another one each time.
        latest: the burst received last without its soft values, or None.
        bursts_unreadable: bursts found whose header did not pass.
        mid_burst: the samples so far end within a burst.
    """

    def __init__(self, *, epoch: int, store: BlockStore | None = None) -> None:
        """A receiver that holds nothing, or what its store kept.

        Args:
            epoch: 0..2^32 - 1, another one at each start.
            store: keeps verified blocks over a restart.
        """
        self.latest: Reception | None = None
        self.bursts_unreadable = 0
        self.mid_burst = False
        self.epoch = epoch
        self._store = store
        self._sequence = 0
        self._parts: list[IQ] = []
        self._needed = 0
        self._sessions: dict[int, Assembly] = {}
        self._current: Assembly | None = None
        self._fresh: list[Reception] = []
        self._cfo_hz = 0.0

    # ---------------------------------------------------------------------------------------------
    # samples in

    def feed(self, iq: IQ, sample_rate_hz: float) -> list[Reception]:
        """Take the next samples of the stream; the bursts that are whole by now, soft values
        dropped.

        Raises:
            DeviceError: for no samples or samples that are not finite.
        """
        require_samples(iq, "receiver")
        self._parts.append(iq.astype(np.complex64, copy=False))
        if sum(map(len, self._parts)) < self._needed:
            return []
        return self._search(sample_rate_hz, final=False)

    def flush(self, sample_rate_hz: float) -> list[Reception]:
        """Receive what is left of a burst that was cut; the stream begins anew."""
        receptions = self._search(sample_rate_hz, final=True)
        self._parts, self._needed = [], 0
        return receptions

    def _search(self, sample_rate_hz: float, *, final: bool) -> list[Reception]:
        iq = np.concatenate([np.zeros(0, np.complex64), *self._parts])
        self.mid_burst, self._needed = False, 0
        receptions: list[Reception] = []
        keep_from = max(0, len(iq) - _TAIL_SAMPLES)
        done = 0
        for burst in _spot(iq) if len(iq) else []:
            if burst.needed > len(iq) and not final:
                self.mid_burst, self._needed = True, burst.needed
                keep_from = max(burst.found.start - _LEAD_SAMPLES, done)
                break
            receptions.append(
                self._accept(
                    receive_burst(iq[: burst.needed], burst.found, burst.header), sample_rate_hz
                )
            )
            done = min(burst.end if burst.header else burst.begin, len(iq))
        keep_from = max(keep_from, done)
        self._parts = [iq[keep_from:]]
        self._needed = max(0, self._needed - keep_from)
        return receptions

    def _accept(self, reception: Reception, sample_rate_hz: float) -> Reception:
        self._cfo_hz = reception.cfo * sample_rate_hz
        header = reception.header
        if header is None:
            self.bursts_unreadable += 1
        else:
            session = self._current = self._session_of(header)
            if header.burst not in session.bursts:  # a burst heard twice counts once
                session.blocks_passed += reception.n_passed
            session.bursts.add(header.burst)
            if reception.blocks is not None and reception.soft is not None:
                session.take(header, reception.blocks, reception.soft)
        self.latest = replace(reception, soft=None)
        self._fresh.append(self.latest)
        return self.latest

    def _session_of(self, header: framing.BurstHeader) -> Assembly:
        session = self._sessions.pop(header.session, None)
        if session is None or (session.tag, session.payload_bytes) != (
            header.tag,
            header.payload_bytes,
        ):
            session = Assembly(header.session, header.tag, header.payload_bytes, self._store)
        self._sessions[header.session] = session  # the newest lies last
        while len(self._sessions) > _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    # ------------------------------------------------------------------------------------- payload
    # and answers out

    def payload(self, session: int) -> bytes | None:
        """The session's payload, once it is whole and its hash agrees; else None."""
        known = self._sessions.get(session)
        return known.payload if known else None

    def prefix(self, session: int) -> bytes:
        """The beginning of the session's payload as far as it is held without a gap: what a
        deadline leaves.

        Each block of it passed its CRC-24; the payload's hash covers the whole only.
        """
        known = self._sessions.get(session)
        return known.prefix if known else b""

    def feedback(self) -> Feedback | None:
        """The answer to what came since the last answer, or None if no burst was ever found.

        A message covers the bursts since the one before; if there were none, the last burst is
        spoken of again. Bursts that were found but could not be read are answered with their SNR
        and no session.
        """
        if self.latest is None:
            return None
        fresh = self._fresh or [self.latest]
        self._fresh = []
        readable = [r for r in fresh if r.header is not None]
        measurement = snr.combine([r.measurement for r in fresh])
        sent = sum(r.n_sent for r in readable)
        session = (
            self._current if readable and self._current is not None else Assembly(0, NO_TAG, 0)
        )
        self._sequence += 1 if basis_of(self._sequence + 1) else 2
        return Feedback(
            epoch=self.epoch,
            sequence=self._sequence,
            session=session.session,
            tag=session.tag,
            last_burst=max(session.bursts, default=0),
            bursts_found=len(session.bursts),
            blocks_passed=session.blocks_passed,
            snr_db=measurement.snr_db,
            snr_std_db=measurement.snr_std_db,
            flat_snr_db=measurement.flat_snr_db,
            data_aided=measurement.data_aided,
            evm_rms=float(np.sqrt(np.mean([r.evm_rms**2 for r in readable])))
            if readable
            else float("nan"),
            cfo_hz=self._cfo_hz,
            clock_offset_ppm=readable[-1].clock_offset_ppm if readable else float("nan"),
            block_error_rate=1 - sum(r.n_passed for r in readable) / sent if sent else 0.0,
            wanted=session.wanted,
            held=session.show(self._sequence),
        )


def _spot(iq: IQ) -> list[_Spotted]:
    """The bursts in the samples. One that lies within another counts only if its header passes, and
    then cuts that."""
    spotted: list[_Spotted] = []
    for found in sync.find_bursts(iq):
        begin = found.body - ofdm.WINDOW_BACKOFF
        header = peek_header(iq, found)
        if spotted and begin < spotted[-1].end:
            if header is None:
                continue
            cut = max(found.start, spotted[-1].begin + _head_samples(spotted[-1].found.robust))
            spotted[-1] = replace(spotted[-1], end=cut, needed=cut)
        length = header.n_symbols * ofdm.SYMBOL_SAMPLES if header else _head_samples(found.robust)
        drift = math.ceil(length * _CLOCK_DRIFT)
        spotted.append(
            _Spotted(
                found, header, begin, begin + length, begin + length + ofdm.WINDOW_BACKOFF + drift
            )
        )
    return spotted


def _head_samples(robust: bool) -> int:
    return framing.header_symbols(robust) * ofdm.SYMBOL_SAMPLES
