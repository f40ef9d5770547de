"""The commands of the libiio 0.x network protocol, and the form of the answers.

A command is one line of ASCII that ends in CR LF (LF alone will do), keywords in either case. An
answer begins with a decimal number on a line of its own; a negative one is -errno. Facts from the
behaviour of libiio 0.24 on the wire.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

MAX_LINE_BYTES: Final = 4096
MAX_ATTRIBUTE_BYTES: Final = 1 << 16
SAMPLE_BYTES: Final = 4
"""One complex sample: int16 I and int16 Q, little-endian."""

Direction = Literal["in", "out"]
_DIRECTIONS: Final[dict[str, Direction]] = {"INPUT": "in", "OUTPUT": "out"}
_MASK_WORD = re.compile(r"[0-9a-fA-F]{8}")
_DECIMAL = re.compile(r"[0-9]{1,18}")


class RefusedError(Exception):
    """A request that the device turns down.

    Attributes:
        errno: the positive error number that the client gets as -errno.
    """

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number


@dataclass(frozen=True, slots=True)
class AttributeName:
    """Name of an attribute and its device.

    Attributes:
        device: id or name.
        attribute: its name.
        channel: id of the channel and its direction; None for an attribute of the device.
        debug: it is one of the device's debug attributes.
    """

    device: str
    attribute: str
    channel: tuple[Direction, str] | None = None
    debug: bool = False


@dataclass(frozen=True, slots=True)
class Print:
    """Asks for the XML that describes the context."""


@dataclass(frozen=True, slots=True)
class Version:
    """Asks for the server's version."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Ends the connection; no answer."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """Sets how long a transfer may wait; 0 ms = for ever."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class Read:
    """Asks for an attribute's value."""

    name: AttributeName


@dataclass(frozen=True, slots=True)
class Write:
    """Sets an attribute; `size` bytes of value follow the line."""

    name: AttributeName
    size: int


@dataclass(frozen=True, slots=True)
class Open:
    """Opens a device's buffer of `samples` samples; bit n of `mask` enables the channel of scan
    index n."""

    device: str
    samples: int
    mask: int
    cyclic: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Frees a device's buffer."""

    device: str


@dataclass(frozen=True, slots=True)
class ReadBuffer:
    """Asks for `size` bytes of samples."""

    device: str
    size: int


@dataclass(frozen=True, slots=True)
class WriteBuffer:
    """Offers `size` bytes of samples, which follow once the server says 0."""

    device: str
    size: int


@dataclass(frozen=True, slots=True)
class SetBuffersCount:
    """Sets the number of kernel buffers of the next OPEN."""

    device: str
    count: int


@dataclass(frozen=True, slots=True)
class GetTrigger:
    """Asks for the device's trigger."""

    device: str


Command = (
    Print
    | Version
    | Exit
    | Timeout
    | Read
    | Write
    | Open
    | Close
    | ReadBuffer
    | WriteBuffer
    | SetBuffersCount
    | GetTrigger
)


def parse(line: bytes) -> Command | None:
    """The command on one line, line end included or not; None for an empty line, which gets no
    answer.

    Raises:
        RefusedError: EINVAL for everything that is no command of this protocol.
    """
    try:
        words = line.decode("ascii").split()
    except UnicodeDecodeError:
        raise RefusedError(errno.EINVAL) from None
    if not words:
        return None
    keyword, arguments = words[0].upper(), words[1:]
    match keyword, arguments:
        case "PRINT", []:
            return Print()
        case "VERSION", []:
            return Version()
        case (("EXIT" | "QUIT"), []):
            return Exit()
        case "TIMEOUT", [milliseconds]:
            return Timeout(_number(milliseconds))
        case "READ", [*name]:
            return Read(_attribute_name(name))
        case "WRITE", [*name, size]:
            return Write(_attribute_name(name), _number(size))
        case _:
            return _buffer_command(keyword, arguments)


def _buffer_command(keyword: str, arguments: Sequence[str]) -> Command:
    match keyword, arguments:
        case "OPEN", [device, samples, mask]:
            return Open(device, _number(samples), _mask(mask), cyclic=False)
        case "OPEN", [device, samples, mask, cyclic] if cyclic.upper() == "CYCLIC":
            return Open(device, _number(samples), _mask(mask), cyclic=True)
        case "CLOSE", [device]:
            return Close(device)
        case "READBUF", [device, size]:
            return ReadBuffer(device, _number(size))
        case "WRITEBUF", [device, size]:
            return WriteBuffer(device, _number(size))
        case "SET", [device, what, count] if what.upper() == "BUFFERS_COUNT":
            return SetBuffersCount(device, _number(count))
        case "GETTRIG", [device]:
            return GetTrigger(device)
        case _:
            raise RefusedError(errno.EINVAL)


def _attribute_name(words: Sequence[str]) -> AttributeName:
    match words:
        case [device, attribute]:
            return AttributeName(device, attribute)
        case [device, debug, attribute] if debug.upper() == "DEBUG":
            return AttributeName(device, attribute, debug=True)
        case [device, direction, channel, attribute] if direction.upper() in _DIRECTIONS:
            return AttributeName(
                device, attribute, channel=(_DIRECTIONS[direction.upper()], channel)
            )
        case _:
            raise RefusedError(errno.EINVAL)


def _number(word: str) -> int:
    if not _DECIMAL.fullmatch(word):
        raise RefusedError(errno.EINVAL)
    return int(word)


def _mask(word: str) -> int:
    """The channel mask; every device here has fewer than 33 channels, so exactly one word."""
    if not _MASK_WORD.fullmatch(word):
        raise RefusedError(errno.EINVAL)
    return int(word, 16)


def integer(value: int) -> bytes:
    """An answer that is a number alone; -errno for a refusal."""
    return b"%d\n" % value


def text(value: str) -> bytes:
    """An attribute's value: length with the closing NUL, then the value."""
    encoded = value.encode("ascii") + b"\0"
    return b"%d\n%s\n" % (len(encoded), encoded)


def document(value: str) -> bytes:
    """The XML of the context: its length, then itself."""
    encoded = value.encode("utf-8")
    return b"%d\n%s\n" % (len(encoded), encoded)


def samples_header(size: int, mask: int | None) -> bytes:
    """Header before `size` bytes of samples; the channel mask (one word) stands in the first
    chunk alone."""
    return integer(size) if mask is None else b"%d\n%08x\n" % (size, mask)
