"""What the receiver says: how the channel is, and which blocks it holds. A message checks itself
before it is used."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.rounding import ceil_div
from radio.modem.framing import MAX_BLOCKS, RESERVED_BYTES, TAG_BYTES

VERSION: Final = 3
_HEAD: Final = struct.Struct(">BBIII6sHIIfffffffHH")
"""version, flags, epoch, sequence, session, tag, last burst, bursts found, blocks passed, SNR, its
sigma, flat SNR, EVM, carrier offset, clock offset, block error rate, blocks wanted, blocks of the
payload."""
_CRC_BYTES: Final = 4
_DATA_AIDED: Final = 1
_SNR_RANGE_DB: Final = 100.0
_CLOCK_RANGE_PPM: Final = 1e4

NO_TAG: Final = bytes(TAG_BYTES)
"""Tag of a session without a payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One message of the receiver.

    Attributes:
        epoch: drawn anew when the receiver starts, so that a restart shows.
        sequence: rising within an epoch.
        session: session it answers; with `tag` zero and no blocks, all it heard was soundings or
            unreadable headers.
        tag: first bytes of the SHA-256 of that session's payload.
        last_burst: highest number among the session's bursts that were found; 0 if there were none.
        bursts_found: distinct bursts of the session whose header passed.
        blocks_passed: copies of blocks that passed their CRC by themselves in those bursts.
        snr_db, snr_std_db, flat_snr_db, data_aided: an snr.SnrMeasurement of the bursts since
            the last message.
        evm_rms: NaN if no header passed.
        cfo_hz: carrier frequency offset.
        clock_offset_ppm: excess of the sender's sample clock over the receiver's; NaN
            if no header passed.
        block_error_rate: share of copies lost in the bursts since the last message, 0..1.
        wanted: how many more blocks, whichever of those that are missing or repair blocks, complete
            the payload.
        held: bool[n_blocks], which source blocks the receiver holds.
    """

    epoch: int
    sequence: int
    session: int
    tag: bytes
    last_burst: int
    bursts_found: int
    blocks_passed: int
    snr_db: float
    snr_std_db: float
    flat_snr_db: float
    data_aided: bool
    evm_rms: float
    cfo_hz: float
    clock_offset_ppm: float
    block_error_rate: float
    wanted: int
    held: NDArray[np.bool_]

    def pack(self) -> bytes:
        """The message with its CRC-32."""
        body = _HEAD.pack(
            VERSION,
            _DATA_AIDED if self.data_aided else 0,
            self.epoch,
            self.sequence,
            self.session,
            self.tag,
            self.last_burst,
            self.bursts_found,
            self.blocks_passed,
            self.snr_db,
            self.snr_std_db,
            self.flat_snr_db,
            self.evm_rms,
            self.cfo_hz,
            self.clock_offset_ppm,
            self.block_error_rate,
            self.wanted,
            len(self.held),
        )
        body += np.packbits(self.held).tobytes() + bytes(RESERVED_BYTES)
        return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "big")

    @classmethod
    def unpack(cls, message: bytes) -> Feedback | None:
        """The feedback, or None if the message is damaged, of another version, or says what cannot
        be."""
        body, check = message[:-_CRC_BYTES], message[-_CRC_BYTES:]
        if len(body) < _HEAD.size + RESERVED_BYTES or zlib.crc32(body) != int.from_bytes(
            check, "big"
        ):
            return None
        (
            version,
            flags,
            epoch,
            sequence,
            session,
            tag,
            last,
            found,
            passed,
            *figures,
            wanted,
            n_blocks,
        ) = _HEAD.unpack(body[: _HEAD.size])
        bitmap = body[_HEAD.size : -RESERVED_BYTES]
        if (
            version != VERSION
            or flags not in (0, _DATA_AIDED)
            or n_blocks > MAX_BLOCKS
            or len(bitmap) != ceil_div(n_blocks, 8)
            or any(body[-RESERVED_BYTES:])
            or not _possible(*figures)
        ):
            return None
        held = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=n_blocks).astype(np.bool_)
        missing = n_blocks - int(held.sum())
        if wanted > missing or (wanted == 0) != (missing == 0):
            return None
        snr_db, snr_std_db, flat_snr_db, evm_rms, cfo_hz, clock_offset_ppm, block_error_rate = (
            figures
        )
        return cls(
            epoch=epoch,
            sequence=sequence,
            session=session,
            tag=tag,
            last_burst=last,
            bursts_found=found,
            blocks_passed=passed,
            snr_db=snr_db,
            snr_std_db=snr_std_db,
            flat_snr_db=flat_snr_db,
            data_aided=flags == _DATA_AIDED,
            evm_rms=evm_rms,
            cfo_hz=cfo_hz,
            clock_offset_ppm=clock_offset_ppm,
            block_error_rate=block_error_rate,
            wanted=wanted,
            held=held,
        )


def _possible(
    snr: float, std: float, flat: float, evm: float, cfo: float, clock: float, errors: float
) -> bool:
    """True for figures that a receiver can have measured."""
    return (
        abs(snr) <= _SNR_RANGE_DB
        and 0 <= std < math.inf
        and abs(flat) <= 2 * _SNR_RANGE_DB
        and (math.isnan(evm) or 0 <= evm < math.inf)
        and math.isfinite(cfo)
        and (math.isnan(clock) or abs(clock) <= _CLOCK_RANGE_PPM)
        and 0 <= errors <= 1
    )
