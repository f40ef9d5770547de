"""Numbers, flags and words in the text that clients write: what the kernel's drivers take, and
nothing else."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Sequence
from typing import Final

from radio.emulator.protocol import RefusedError

_DECIMAL: Final = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?: ?dB)?")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,19}")
_HEXADECIMAL: Final = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_FLAGS: Final = {"1": True, "y": True, "on": True, "0": False, "n": False, "off": False}


def decimal(text: str) -> float:
    """The number of "-10", "-10.250000" or "-10.25 dB".

    Raises:
        RefusedError: EINVAL for other text.
    """
    found = _DECIMAL.fullmatch(text)
    value = float(found.group(1)) if found else math.inf
    if not math.isfinite(value):
        raise RefusedError(errno.EINVAL)
    return value


def whole(text: str) -> int:
    """The number of "2400000000" or "0x80000088".

    Raises:
        RefusedError: EINVAL for other text.
    """
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if not _WHOLE.fullmatch(text):
        raise RefusedError(errno.EINVAL)
    return int(text)


def flag(text: str) -> bool:
    """True for "1", "y" or "on", False for "0", "n" or "off", in either case.

    Raises:
        RefusedError: EINVAL for other text.
    """
    if text.lower() not in _FLAGS:
        raise RefusedError(errno.EINVAL)
    return _FLAGS[text.lower()]


def choice(text: str, allowed: Sequence[str]) -> str:
    """The text itself.

    Raises:
        RefusedError: EINVAL if it is none of those allowed.
    """
    if text not in allowed:
        raise RefusedError(errno.EINVAL)
    return text
