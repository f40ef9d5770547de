"""`hil record` and `hil replay`: a session over the radio as a SigMF recording, and again from its
samples."""

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
"""Name of the recording's files, without their endings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A session that was recorded.

    Attributes:
        path: file with the recording's metadata.
        report: how the delivery went.
        data_bytes: size of the file with the samples.
    """

    path: Path
    report: LinkReport
    data_bytes: int


def payload_of(path: Path) -> bytes:
    """Content of a file as a payload.

    Raises:
        ConfigError: it cannot be read, is empty or too long.
    """
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
    """Random payload, drawn from run.seed.

    Raises:
        ConfigError: no payload has this length.
    """
    if not 1 <= n_bytes <= MAX_PAYLOAD_BYTES:
        raise ConfigError(f"--bytes {n_bytes}: a payload has 1..{MAX_PAYLOAD_BYTES} bytes")
    return seeded(settings.run.seed, "payload").bytes(n_bytes)


def record(settings: Settings, folder: Path, payload: bytes) -> Recorded:
    """Sound, deliver a payload over the first round's channel, and write both down.

    Args:
        settings: the experiment; [radio] and run.seed count.
        folder: where the recording goes; made when missing.
        payload: bytes to deliver.

    Raises:
        RecordingError: the folder holds a recording already, or cannot be written to.
    """
    cloud, edge = InProcessBus.pair(settings.control.device)
    one_round = settings.model_copy(update={"run": settings.run.model_copy(update={"rounds": 1})})
    waiting_for("opening the radio and delivering the payload")
    with cloud, edge, open_link_radio(one_round, (cloud, edge), None) as radio:
        radio.start_round(0)
        radio.link.begin(
            folder / NAME, radio.setup({"radio": settings.radio.model_dump(mode="json")})
        )
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
    """Size of the recording, and how the delivery went."""
    report = recorded.report
    outcome = "delivered" if report.delivered else f"not delivered ({report.reason})"
    return (
        f"{recorded.data_bytes / 1e6:.1f} MB of samples; {report.payload_bytes} bytes {outcome} "
        f"in {report.airtime_s:.3f} s of air at an SNR of {report.snr_db:.1f} dB, "
        f"{report.bursts_sent} bursts, {report.blocks_lost} of {report.blocks_sent} blocks lost"
    )


def replay_all(path: Path) -> list[Replayed]:
    """Soundings and deliveries of a recording, or of all recordings in a folder, done again.

    Args:
        path: a recording, or a folder whose recordings are taken in the order of their names.

    Raises:
        RecordingError: there is no recording, or one that cannot be replayed.
    """
    waiting_for("receiving the recorded samples again")
    if not path.is_dir():
        return list(replay([path]))
    found = sorted(path.glob("*.sigmf-meta"))
    if not found:
        raise RecordingError(
            f"{path}: no *.sigmf-meta in this folder; name one that hil record wrote"
        )
    return list(replay(found))


def comparison(replayed: Sequence[Replayed]) -> TextTable:
    """Recorded and replayed figures side by side; those that differ are marked."""
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
    """What differs, or that nothing does, in one line."""
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
