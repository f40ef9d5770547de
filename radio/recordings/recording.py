"""Sessions of the link as SigMF recordings: the files.

A recording holds every sample that the receiver was given, and whatever else the link was told from
outside: answers, times, payloads, limits. From that `radio.recordings.replay` computes the whole
session again, down to the last bit of its report.

Samples are stored as cf32_le, the type the receiver works on, so that nothing is lost. Beside
NAME.sigmf-data and NAME.sigmf-meta lie the payloads, NAME.1.payload and so on. What replay needs
stands in the metadata under "hil:session", with a hash of its own; "captures" names each sounding
and delivery, "annotations" each burst. The rest of the metadata may be edited.

Source: SigMF 1.2, https://sigmf.org.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import sigmf
from numpy.typing import NDArray

from hil.contract import HilError
from radio.link import OCCUPIED_SUBCARRIERS
from radio.link.receiver import Reception, peek_header, receive_burst
from radio.modem import framing, ofdm, sync

Json = dict[str, Any]
Samples = NDArray[np.complex64]

FORMAT: Final = "1.0.0"
"""Version of what stands under "hil:"."""
SAMPLE: Final = np.dtype("<c8")
_DATATYPE: Final = "cf32_le"
_SESSION: Final = "hil:session"
_SESSION_HASH: Final = "hil:session_sha256"
_WINDOW_SAMPLES: Final = 2 * framing.MAX_BURST_SAMPLES
_LEAD_SAMPLES: Final = 4096
"""Kept before a burst, and at the end of a window, where the search goes on from there; longer than
any preamble."""
_SLACK_SAMPLES: Final = 64
"""Samples by which the longest burst ends later if its sender's clock is 50 ppm slow."""


class RecordingError(HilError):
    """A recording cannot be written, is missing or damaged, or is not what this program would have
    done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a recording is made with: for its readers; replay does not need it.

    Attributes:
        hardware: the radios in words.
        frequency_hz: centre of the received band; 0 for a simulated channel.
        gain_db: the receiver's gain.
        notes: further facts; must turn into JSON.
    """

    hardware: str
    frequency_hz: float = 0.0
    gain_db: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording that was read and is whole.

    Attributes:
        stem: path of its files without their endings.
        recorder: name and version of the program that made it.
        session: what replay needs: sample_rate_hz, first_session, next_session, operations, calls.
        samples: complex64[n] as they lie on the disk.
    """

    stem: Path
    recorder: str
    session: Json
    samples: Samples


def tool_version() -> str:
    """Name and version of this program."""
    return f"hil-lora-testbed {metadata.version('hil-lora-testbed')}"


def sibling(stem: Path, ending: str) -> Path:
    """The recording's file with this ending; a stem may hold dots."""
    return stem.with_name(stem.name + ending)


def plain(value: Any) -> Any:
    """A record's fields as JSON can hold them; what is not finite becomes text that `float`
    reads."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return value


def summary_of(data: bytes) -> Json:
    """Length and SHA-256 (hex) of bytes."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# ------------------------------------------------------------------------------------------------
# writing


def write_recording(stem: Path, setup: Setup, session: Json, sha512: str) -> Path:
    """Complete a recording whose samples lie in NAME.part, and give the path of its metadata.

    The metadata come last: a recording without them was never finished.

    Args:
        stem: path of its files without their endings.
        setup: radios and settings it was made with.
        session: Recording.session without its format.
        sha512: SHA-512 of the samples' file, hex.
    """
    rate_hz = session["sample_rate_hz"]
    session = {"format": FORMAT, **session}
    signal = sigmf.SigMFFile(
        global_info={
            sigmf.DATATYPE_KEY: _DATATYPE,
            sigmf.SAMPLE_RATE_KEY: rate_hz,
            sigmf.HW_KEY: setup.hardware,
            sigmf.RECORDER_KEY: tool_version(),
            sigmf.SHA512_KEY: sha512,
            sigmf.EXTENSIONS_KEY: [{"name": "hil", "version": FORMAT, "optional": True}],
            "hil:notes": dict(setup.notes),
            _SESSION: session,
            _SESSION_HASH: _digest(session),
        }
    )
    for operation in session["operations"]:
        segment = {
            sigmf.FREQUENCY_KEY: setup.frequency_hz,
            sigmf.DATETIME_KEY: operation["utc"],
            "hil:operation": operation["kind"],
            "hil:gain_db": setup.gain_db,
        }
        signal.add_capture(operation["sample_start"], segment)
    data = sibling(stem, ".sigmf-data")
    sibling(stem, ".part").replace(data)
    for start, n_samples, burst in _bursts(_open(data)):
        signal.add_annotation(start, n_samples, _annotation(burst, rate_hz, setup.frequency_hz))
    signal.tofile(stem)
    return sibling(stem, ".sigmf-meta")


def _digest(session: Json) -> str:
    """SHA-256 of what replay rests on, however it is laid out in the file."""
    return hashlib.sha256(json.dumps(session, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _open(path: Path) -> Samples:
    return np.memmap(path, SAMPLE, "r") if path.stat().st_size else np.zeros(0, SAMPLE)


@dataclass(slots=True)
class _Spotted:
    """A burst in some samples: where it was found, what its header says, and where it ends."""

    found: sync.Acquisition
    header: framing.BurstHeader | None
    end: int


def _bursts(samples: Samples) -> Iterator[tuple[int, int, Reception]]:
    """First sample, length and reception of every burst, in order, each heard by itself."""
    begin = heard_to = 0
    while begin < len(samples):
        window = np.array(samples[begin : begin + _WINDOW_SAMPLES])
        last = begin + len(window) == len(samples)
        following = len(samples) if last else begin + len(window) - _LEAD_SAMPLES
        for burst in _spot(window):
            start, end = burst.found.start, min(burst.end, len(window))
            if burst.end > following - begin and not last:
                following = max(heard_to, begin + start - _LEAD_SAMPLES)
                break
            heard_to = begin + end
            yield (
                begin + start,
                end - start,
                receive_burst(window[: end + _SLACK_SAMPLES], burst.found, burst.header),
            )
        begin = following


def _spot(iq: Samples) -> list[_Spotted]:
    """The bursts in the samples. One that lies within another counts only if its header passes, and
    then cuts that."""
    spotted: list[_Spotted] = []
    for found in sync.find_bursts(iq):
        header = peek_header(iq, found)
        if spotted and found.body < spotted[-1].end:
            if header is None:
                continue
            spotted[-1].end = found.start
        n_symbols = header.n_symbols if header else framing.header_symbols(found.robust)
        spotted.append(_Spotted(found, header, found.body + n_symbols * ofdm.SYMBOL_SAMPLES))
    return spotted


def _annotation(burst: Reception, rate_hz: float, frequency_hz: float) -> Json:
    header, heard = burst.header, burst.measurement
    cfo_hz = burst.cfo * rate_hz
    half_band_hz = OCCUPIED_SUBCARRIERS * rate_hz / ofdm.N_FFT / 2
    name = (
        f"session {header.session} burst {header.burst} {header.mcs.name}"
        if header
        else "unreadable"
    )
    facts: Json = {
        sigmf.LABEL_KEY: name,
        sigmf.FREQ_LOWER_EDGE_KEY: frequency_hz + cfo_hz - half_band_hz,
        sigmf.FREQ_UPPER_EDGE_KEY: frequency_hz + cfo_hz + half_band_hz,
        "hil:snr_db": heard.snr_db,
        "hil:snr_std_db": heard.snr_std_db,
        "hil:data_aided": heard.data_aided,
        "hil:cfo_hz": cfo_hz,
    }
    if header:
        mcs = header.mcs.name
        facts |= {
            "hil:session": header.session,
            "hil:burst": header.burst,
            "hil:mcs": mcs,
            "hil:blocks": header.block_count,
            "hil:evm_rms": plain(burst.evm_rms),
        }
    return facts


# ------------------------------------------------------------------------------------------------
# reading


def read_recording(path: Path) -> Recording:
    """A recording, checked against its hashes.

    Args:
        path: its metadata or data, or the name of both without the ending.
    Raises:
        RecordingError: it is missing, damaged or cut, or was not made by this program.
    """
    stem = path.with_suffix("") if path.suffix in (".sigmf-meta", ".sigmf-data") else path
    meta, data = sibling(stem, ".sigmf-meta"), sibling(stem, ".sigmf-data")
    facts = _read_metadata(meta)
    session = facts[_SESSION]
    try:
        expected, found = SAMPLE.itemsize * session["samples"], data.stat().st_size
        if found != expected:
            raise RecordingError(
                f"{data}: {found} bytes, {expected} were recorded: it is cut or not its own; copy "
                "it anew"
            )
        with data.open("rb") as file:
            if hashlib.file_digest(file, "sha512").hexdigest() != facts.get(sigmf.SHA512_KEY):
                raise RecordingError(
                    f"{data}: its SHA-512 is not the recorded one: samples are damaged; copy it "
                    "anew"
                )
        samples = _open(data)
    except OSError as error:
        raise RecordingError(f"{data}: {error.strerror}; it belongs to {meta.name}") from error
    return Recording(
        stem=stem, recorder=str(facts.get(sigmf.RECORDER_KEY)), session=session, samples=samples
    )


def _read_metadata(path: Path) -> Json:
    """The global part of the metadata; what replay needs of it is checked against its hash."""
    try:
        facts: Json = json.loads(path.read_text(encoding="utf-8"))["global"]
        session, digest = facts[_SESSION], facts[_SESSION_HASH]
    except OSError as error:
        raise RecordingError(
            f"{path}: {error.strerror}; name a recording made by hil record"
        ) from error
    except ValueError as error:
        raise RecordingError(
            f"{path}: not JSON ({error}); the file is damaged, copy it anew"
        ) from error
    except (KeyError, TypeError) as error:
        raise RecordingError(
            f"{path}: no {_SESSION} in it to replay; name a recording made by hil record"
        ) from error
    if _digest(session) != digest:
        raise RecordingError(
            f"{path}: {_SESSION} does not fit its SHA-256: damaged or edited; copy it anew"
        )
    if session["format"] != FORMAT:
        raise RecordingError(
            f"{path}: format {session['format']}, this program reads {FORMAT}; use the one it is "
            "from"
        )
    return facts
