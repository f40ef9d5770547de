"""What the receiver says: how the channel is, and which blocks it holds. A message checks itself before it is used."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from radio.framing import MAX_BLOCKS, TAG_BYTES

VERSION: Final = 1
_HEAD: Final = struct.Struct(">BIIBI7sIIfffffH")
_CRC_BYTES: Final = 4
_DATA_AIDED: Final = 1
_SNR_RANGE_DB: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One message of the receiver.

    Attributes:
        epoch: drawn anew when the receiver starts, so that a restart shows.
        sequence: rising within an epoch.
        session: session it answers; with `tag` zero and no blocks, all it heard was soundings or unreadable headers.
        tag: of that session's payload.
        bursts_found: distinct bursts of the session whose header passed.
        blocks_passed: blocks whose CRC passed in those bursts, repeats included.
        snr_db, snr_std_db, data_aided: as snr.SnrMeasurement, over the bursts since the last message.
        evm_rms: NaN if no header passed.
        cfo_hz: carrier frequency offset.
        block_error_rate: share of blocks lost in the bursts since the last message, 0..1.
        held: bool[n_blocks], which blocks the receiver holds.
    """

    epoch: int
    sequence: int
    session: int
    tag: bytes
    bursts_found: int
    blocks_passed: int
    snr_db: float
    snr_std_db: float
    data_aided: bool
    evm_rms: float
    cfo_hz: float
    block_error_rate: float
    held: NDArray[np.bool_]

    def pack(self) -> bytes:
        """The message with its CRC-32."""
        body = _HEAD.pack(
            VERSION,
            self.epoch,
            self.sequence,
            _DATA_AIDED if self.data_aided else 0,
            self.session,
            self.tag,
            self.bursts_found,
            self.blocks_passed,
            self.snr_db,
            self.snr_std_db,
            self.evm_rms,
            self.cfo_hz,
            self.block_error_rate,
            len(self.held),
        )
        body += np.packbits(self.held).tobytes()
        return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "big")

    @classmethod
    def unpack(cls, message: bytes) -> Feedback | None:
        """The feedback, or None if the message is damaged, of another version, or says what cannot be."""
        body, check = message[:-_CRC_BYTES], message[-_CRC_BYTES:]
        if len(body) < _HEAD.size or zlib.crc32(body) != int.from_bytes(check, "big"):
            return None
        (version, epoch, sequence, flags, session, tag, found, passed, snr, std, evm, cfo, errors, n_blocks) = (
            _HEAD.unpack(body[: _HEAD.size])
        )
        bitmap = body[_HEAD.size :]
        sound = (
            version == VERSION
            and flags in (0, _DATA_AIDED)
            and n_blocks <= MAX_BLOCKS
            and len(bitmap) == -(-n_blocks // 8)
            and math.isfinite(snr)
            and abs(snr) <= _SNR_RANGE_DB
            and math.isfinite(std)
            and std >= 0
            and math.isfinite(cfo)
            and (math.isnan(evm) or 0 <= evm < math.inf)
            and 0 <= errors <= 1
        )
        if not sound:
            return None
        return cls(
            epoch=epoch,
            sequence=sequence,
            session=session,
            tag=tag,
            bursts_found=found,
            blocks_passed=passed,
            snr_db=snr,
            snr_std_db=std,
            data_aided=flags == _DATA_AIDED,
            evm_rms=evm,
            cfo_hz=cfo,
            block_error_rate=errors,
            held=np.unpackbits(np.frombuffer(bitmap, np.uint8), count=n_blocks).astype(np.bool_),
        )


NO_TAG: Final = bytes(TAG_BYTES)
"""Tag of a session without a payload."""
