"""`hil record` and `hil replay`: a session over the radio of hil.toml as a SigMF recording, and the
same from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hil.contract import ConfigError, LinkReport
from hil.control.bus import InProcessBus
from hil.radio_kinds.conditions import seeded
from hil.radio_kinds.opening import open_link_radio
from hil.reporting.text_table import TextTable
from hil.settings import Settings
from hil.system.waits import waiting_for
from radio.modem.framing import MAX_PAYLOAD_BYTES
from radio.recordings.recording import RecordingError, sibling
from radio.recordings.replay import Replayed, replay

NAME = "session"
"""Of the recording's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A session that was recorded.

    Attributes:
        path: of the recording's metadata.
        report: of the delivery.
        data_bytes: size of the samples' file.
    """

    path: Path
    report: LinkReport
    data_bytes: int


def payload_of(path: Path) -> bytes:
    """A file's bytes as a payload. Raises ConfigError: it cannot be read, is empty or too long."""
    try:
        size = path.stat().st_size
        if not 1 <= size <= MAX_PAYLOAD_BYTES:
            raise ConfigError(
                f"{path}: {size} bytes; a payload has 1..{MAX_PAYLOAD_BYTES}, name another file"
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name another payload file") from error


def random_payload(settings: Settings, n_bytes: int) -> bytes:
    """Bytes drawn from run.seed. Raises ConfigError for a length that no payload has."""
    if not 1 <= n_bytes <= MAX_PAYLOAD_BYTES:
        raise ConfigError(f"--bytes {n_bytes}: a payload has 1..{MAX_PAYLOAD_BYTES} bytes")
    return seeded(settings.run.seed, "payload").bytes(n_bytes)


def record(settings: Settings, folder: Path, payload: bytes) -> Recorded:
    """Sound, deliver a payload over the first round's channel, and write both down.

    Args:
        settings: of which [radio] and run.seed count.
        folder: of the recording; made when missing.
        payload: to be delivered.
    Raises:
        RecordingError: the folder holds a recording already, or cannot be written to.
    """
    cloud, edge = InProcessBus.pair(settings.control.device)
    one_round = settings.model_copy(update={"run": settings.run.model_copy(update={"rounds": 1})})
    with cloud, edge, open_link_radio(one_round, (cloud, edge), None) as radio:
        radio.start_round(0)
        radio.link.begin(
            folder / NAME, radio.setup({"radio": settings.radio.model_dump(mode="json")})
        )
        waiting_for(f"sounding the channel, then sending {len(payload)} bytes")
        try:
            sounding = radio.sound()
            report = radio.deliver(payload, sounding)
        finally:
            path = radio.link.end()
    if path is None:
        raise RecordingError(f"{folder}: the session did not come to its end")
    return Recorded(
        path=path, report=report, data_bytes=sibling(folder / NAME, ".sigmf-data").stat().st_size
    )


def summary(recorded: Recorded) -> str:
    """One line: where it lies, how large it is, and what came of the delivery."""
    report = recorded.report
    outcome = "delivered" if report.delivered else f"not delivered ({report.reason})"
    return (
        f"{recorded.path}: {recorded.data_bytes / 1e6:.1f} MB of samples; {report.payload_bytes} "
        f"bytes {outcome} in "
        f"{report.airtime_s:.3f} s of air at {report.snr_db:.1f} dB, {report.bursts_sent} bursts, "
        f"{report.blocks_lost} of {report.blocks_sent} blocks lost"
    )


def replay_all(path: Path) -> list[Replayed]:
    """A recording, or all recordings in a folder in the order of their names, done again.

    Raises:
        RecordingError: as radio.recordings.replay.replay, or for a folder without recordings.
    """
    if not path.is_dir():
        return list(replay([path]))
    found = sorted(path.glob("*.sigmf-meta"))
    waiting_for(f"decoding {len(found)} recordings")
    if not found:
        raise RecordingError(
            f"{path}: no *.sigmf-meta in this folder; name one that hil record wrote"
        )
    return list(replay(found))


def comparison(replayed: Sequence[Replayed]) -> TextTable:
    """Recorded and replayed figures side by side, those that differ marked."""
    rows = []
    for each in replayed:
        rows.append((f"{each.name}: {each.kind}", "", "", ""))
        for field, recorded, again in _rows(each.recorded, each.replayed):
            mark = "DIFFERS" if field in each.differences else ""
            rows.append((field, recorded, again, mark))
    heads = ("field", "recorded", "replayed", "")
    return TextTable(heads=heads, rows=rows, text_columns=heads)


def _rows(recorded: Mapping[str, Any], replayed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    names = list({**replayed, **recorded})
    return [(name, _in_words(recorded.get(name)), _in_words(replayed.get(name))) for name in names]


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping) and "sha256" in value:
        return f"{value['bytes']} bytes, SHA-256 {value['sha256'][:8]}..."
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(entry)}" for key, entry in value.items())
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, float) else str(value)


def verdict(replayed: Sequence[Replayed]) -> str:
    """One line: what differs, or that nothing does."""
    differing = [
        f"{each.name} {each.kind}: {', '.join(each.differences)}"
        for each in replayed
        if each.differences
    ]
    if differing:
        return f"differs in {'; '.join(differing)}"
    n_bytes = sum(len(each.received) for each in replayed if each.received is not None)
    return (
        f"equal in every field: {len(replayed)} soundings and deliveries, {n_bytes} payload bytes"
    )
