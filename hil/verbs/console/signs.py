"""Printing on every console: signs that its encoding lacks become ASCII, control characters go.

Importing this file costs next to nothing, for it is needed before the first line is printed.
"""

from __future__ import annotations

import codecs
import io
import sys
from typing import Final, TextIO

_ASCII: Final = {
    "·": "-",
    "×": "x",
    "Δ": "delta ",
    "σ": "sigma",
    "≤": "<=",
    "≥": ">=",
    "…": "...",
    "→": "->",
    "±": "+-",
    "–": "-",
    "—": "--",
    "−": "-",
    "°": " deg ",
    "µ": "u",
    "μ": "u",
    "²": "^2",
    "§": "section ",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}
_SCHEME: Final = "hil-ascii"


def _replace(error: UnicodeError) -> tuple[str, int]:
    """The codec's error handler: what to write instead of signs that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign, "?") for sign in signs), error.end


codecs.register_error(_SCHEME, _replace)


def mend_streams() -> None:
    """Make stdout and stderr write a readable replacement where they would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_SCHEME)


def printable(text: str, stream: TextIO) -> str:
    """The text as the stream will show it, so that it can be laid out by its true width.

    Control characters become "?", so that a text from outside cannot steer the terminal; line
    breaks stay.
    """
    encoding = stream.encoding or "ascii"
    known = text.encode(encoding, _SCHEME).decode(encoding)
    return "".join(sign if sign == "\n" or sign.isprintable() else "?" for sign in known)
