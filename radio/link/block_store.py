"""Blocks on disk: what a receiver verified survives its restart.

One file per session, append-only: a head that names session, tag and payload length, then records
of one size, each a block's index, its payload and a CRC-32. Records are handed to the operating
system before the receiver answers, and never synced: after a crash of the process nothing is lost,
after a power cut some blocks are sent again. A record that was torn fails its CRC and is left out,
so damage costs blocks and never correctness.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import DeviceError
from radio.modem import framing

_HEAD: Final = struct.Struct(">4sI6sIH")
"""magic, session, tag, payload length, bytes of a block's payload."""
_MAGIC: Final = b"HBS1"
_INDEX: Final = struct.Struct(">H")
_CRC_BYTES: Final = 4
_SUFFIX: Final = ".blocks"


class BlockStore:
    """Verified blocks of the latest sessions, in a directory of their own that no other receiver
    uses.

    Attributes:
        directory: folder of the files.
        max_bytes: limit on all files together; the sessions written to longest ago are removed
            until it holds.
    """

    def __init__(self, directory: Path, *, max_bytes: int = 2**28) -> None:
        """A store; the directory is made if it is not there.

        Raises:
            DeviceError: if it cannot be.
        """
        self.directory = directory
        self.max_bytes = max_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(
                f"block store {directory}: {error.strerror}; name a directory that can be made"
            ) from error

    def load(self, session: int, tag: bytes, payload_bytes: int) -> dict[int, NDArray[np.uint8]]:
        """Blocks uint8[block payload bytes] by index; none unless session, tag and length are those
        stored.

        Raises:
            DeviceError: if the disk refuses.
        """
        path = self._path(session, tag, payload_bytes)
        head, size = _head(session, tag, payload_bytes), _record_bytes(payload_bytes)
        with _disk(path, "check the disk"):
            content = path.read_bytes() if path.exists() else b""
            if content[: len(head)] != head:
                path.unlink(missing_ok=True)
                return {}
            whole = (len(content) - len(head)) // size
            if (
                len(content) != len(head) + whole * size
            ):  # a torn record: the next one must begin where it did
                os.truncate(path, len(head) + whole * size)
        records = (content[len(head) + k * size : len(head) + (k + 1) * size] for k in range(whole))
        return {
            _INDEX.unpack(record[: _INDEX.size])[0]: np.frombuffer(
                record[_INDEX.size : -_CRC_BYTES], np.uint8
            )
            for record in records
            if zlib.crc32(record[:-_CRC_BYTES]) == int.from_bytes(record[-_CRC_BYTES:], "big")
        }

    def append(
        self, session: int, tag: bytes, payload_bytes: int, blocks: Mapping[int, NDArray[np.uint8]]
    ) -> None:
        """Keep further blocks of a session.

        Raises:
            DeviceError: if the disk refuses.
        """
        path = self._path(session, tag, payload_bytes)
        content = b"".join(_record(index, block) for index, block in blocks.items())
        with _disk(path, "free some space or check the disk"):
            with path.open("ab") as file:
                if file.tell() == 0:
                    content = _head(session, tag, payload_bytes) + content
                file.write(content)
            self._bound(path)

    def forget(self, session: int, tag: bytes, payload_bytes: int) -> None:
        """Drop a session's blocks."""
        path = self._path(session, tag, payload_bytes)
        with _disk(path, "check the disk"):
            path.unlink(missing_ok=True)

    def _path(self, session: int, tag: bytes, payload_bytes: int) -> Path:
        return self.directory / f"{session:08x}-{tag.hex()}-{payload_bytes}{_SUFFIX}"

    def _bound(self, newest: Path) -> None:
        """Remove the oldest files, but not the newest, until max_bytes holds."""
        files = [
            (path.stat().st_mtime_ns, path.stat().st_size, path)
            for path in self.directory.glob(f"*{_SUFFIX}")
        ]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size


@contextmanager
def _disk(path: Path, cure: str) -> Iterator[None]:
    """What the operating system refuses is a broken bench: DeviceError."""
    try:
        yield
    except OSError as error:
        raise DeviceError(f"block store {path}: {error.strerror}; {cure}") from error


def _head(session: int, tag: bytes, payload_bytes: int) -> bytes:
    size = framing.layout_of(payload_bytes).block_payload_bytes
    return _HEAD.pack(_MAGIC, session, tag, payload_bytes, size)


def _record_bytes(payload_bytes: int) -> int:
    return _INDEX.size + framing.layout_of(payload_bytes).block_payload_bytes + _CRC_BYTES


def _record(index: int, block: NDArray[np.uint8]) -> bytes:
    body = _INDEX.pack(index) + block.tobytes()
    return body + zlib.crc32(body).to_bytes(_CRC_BYTES, "big")
