"""Replay of a recording: the link works again, on the recorded samples, answers and times.

The receiver hears what was recorded, and the sender gets the answers that were recorded, so both
ends compute what they computed then. Whatever this program would do otherwise is told: another
burst or call ends the replay with the place where it parts from the recording; another figure is
named in the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from hil.contract import IQ
from radio.link import Limits, Link, Sounding
from radio.recordings.recorder import SAME_BURST, fingerprint, outcome_of
from radio.recordings.recording import (
    Json,
    Recording,
    RecordingError,
    plain,
    read_recording,
    summary_of,
    tool_version,
)

_NOT_FINITE: Final = ("nan", "inf", "-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One sounding or delivery, as recorded and as replayed.

    Attributes:
        name: its recording's.
        kind: "sound" or "deliver".
        recorded, replayed: the fields of its Sounding or LinkReport, length and hash of what the
            receiver handed over, and how many of its answers were not the recorded ones.
        received: the payload as the replay's receiver holds it, or None.
    """

    name: str
    kind: str
    recorded: Mapping[str, Any]
    replayed: Mapping[str, Any]
    received: bytes | None

    @property
    def differences(self) -> tuple[str, ...]:
        """Names of the fields that differ."""
        names = {**self.recorded, **self.replayed}
        return tuple(name for name in names if self.recorded.get(name) != self.replayed.get(name))


def replay(paths: Sequence[Path]) -> Iterator[Replayed]:
    """Every sounding and delivery of some recordings, done again.

    Args:
        paths: recordings of one link, in their order, from its first on.
    Raises:
        RecordingError: a recording is missing or damaged, one before it is lacking, or this program
            parts from it.
    """
    link: Link | None = None
    for path in paths:
        recording = read_recording(path)
        playback = _Playback(recording)
        seams = ReplayTransceiver(playback), ReplayFeedback(playback), ReplayClock(playback)
        if link is None:
            link = Link(*seams, first_session=recording.session["first_session"])
        link.transceiver, link.feedback, link.clock = seams
        if link.next_session != recording.session["next_session"]:
            raise RecordingError(
                f"{recording.stem}: begins at session {recording.session['next_session']}, the "
                "replay has come to "
                f"{link.next_session}; replay the recordings before it, too: name their folder"
            )
        for operation in recording.session["operations"]:
            yield _again(link, playback, operation)
        playback.finish()


def _again(link: Link, playback: _Playback, operation: Json) -> Replayed:
    playback.take("begin")
    playback.other_answers = 0
    recorded = {**operation["result"], "answers that differ": 0}
    received = None
    try:
        limits = Limits(**_read(operation["limits"]))
        sounding = Sounding(**_read(operation["sounding"])) if operation.get("sounding") else None
    except TypeError as error:
        raise RecordingError(f"{playback.name}: {error}; {playback.versions}") from error
    if operation["kind"] == "sound":
        result = asdict(link.sound(limits, attempts=operation["attempts"]))
    else:
        report, received = link.deliver(
            playback.payload(operation["payload"]), limits, sounding=sounding
        )
        result = {**asdict(report), **outcome_of(link, received)}
        recorded |= {name: operation[name] for name in ("received", "prefix")}
    return Replayed(
        name=playback.name,
        kind=operation["kind"],
        recorded=recorded,
        replayed={**plain(result), "answers that differ": playback.other_answers},
        received=received,
    )


def _read(record: Json) -> Json:
    """The fields of a record from what `plain` made of them."""
    return {name: float(value) if value in _NOT_FINITE else value for name, value in record.items()}


class _Playback:
    """The calls of a recording, to be made again one by one.

    Attributes:
        now_s: time at which the latest call ended.
        other_answers: answers that were not the recorded ones.
    """

    def __init__(self, recording: Recording) -> None:
        self.now_s = 0.0
        self.other_answers = 0
        self._recording = recording
        self._calls: list[Json] = recording.session["calls"]
        self._made = 0
        self._heard = 0

    @property
    def name(self) -> str:
        """The recording's name."""
        return self._recording.stem.name

    @property
    def sample_rate_hz(self) -> float:
        """The recording's sample rate."""
        return float(self._recording.session["sample_rate_hz"])

    @property
    def versions(self) -> str:
        """Who recorded, and who replays."""
        return f"recorded by {self._recording.recorder}, replayed by {tool_version()}"

    def take(self, call: str, **facts: Any) -> Json:
        """The next recorded call, which must be this one."""
        wanted = {"call": call, **facts}
        if self._made == len(self._calls):
            raise RecordingError(
                f"{self.name}: replay goes on after all {self._made} recorded calls: "
                f"{_in_words(wanted)}; "
                f"{self.versions}"
            )
        recorded = self._calls[self._made]
        if any(recorded.get(name) != value for name, value in wanted.items()):
            raise RecordingError(
                f"{self.name}: replay parts at call {self._made + 1}: recorded "
                f"{_in_words(recorded)}, now "
                f"{_in_words(wanted)}; {self.versions}"
            )
        self._made += 1
        self.now_s = recorded["at_s"]
        return recorded

    def hear(self, n_samples: int) -> IQ:
        """The next recorded samples."""
        self._heard += n_samples
        return np.array(
            self._recording.samples[self._heard - n_samples : self._heard], np.complex64
        )

    def refuse_burst(self) -> RecordingError:
        """What is said when the sender sends another burst than the recorded one of the same
        length."""
        return RecordingError(
            f"{self.name}: replay parts at call {self._made}: it transmits another burst; "
            f"{self.versions}"
        )

    def payload(self, stored: Json) -> bytes:
        """A payload that was stored beside the recording."""
        path = self._recording.stem.with_name(Path(stored["file"]).name)
        try:
            payload = path.read_bytes()
        except OSError as error:
            raise RecordingError(
                f"{path}: {error.strerror}; it belongs to recording {self.name}"
            ) from error
        if summary_of(payload)["sha256"] != stored["sha256"]:
            raise RecordingError(
                f"{path}: its SHA-256 is not the recorded one: it is damaged; copy it anew"
            )
        return payload

    def finish(self) -> None:
        """Raise if recorded calls are left."""
        left = len(self._calls) - self._made
        if left:
            raise RecordingError(
                f"{self.name}: replay ends {left} calls early: recorded "
                f"{_in_words(self._calls[self._made])}; "
                f"{self.versions}"
            )


def _in_words(call: Json) -> str:
    match call["call"]:
        case "transmit":
            return f"transmit {call['samples']} samples"
        case "receive":
            return f"receive up to {call['asked']} samples"
        case name:
            return str(name)


class ReplayTransceiver:
    """A Transceiver whose receiver hears a recording; what is transmitted must be what was
    transmitted then."""

    def __init__(self, playback: _Playback) -> None:
        self.sample_rate_hz = playback.sample_rate_hz
        self._playback = playback

    def transmit(self, iq: IQ) -> None:
        """Compare samples with those that were transmitted.

        Raises:
            RecordingError: they are others.
        """
        recorded = self._playback.take("transmit", samples=len(iq))
        if not abs(fingerprint(iq) - complex(*recorded["fingerprint"])) < SAME_BURST:
            raise self._playback.refuse_burst()

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The recorded samples of this call; nothing is waited for."""
        return self._playback.hear(self._playback.take("receive", asked=n_samples)["samples"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


class ReplayFeedback:
    """A FeedbackPath that brings the recorded messages, and counts those sent that are others."""

    def __init__(self, playback: _Playback) -> None:
        self._playback = playback

    def send(self, message: bytes) -> None:
        """Compare a message with the recorded one."""
        if self._playback.take("answer")["message"] != message.hex():
            self._playback.other_answers += 1

    def receive(self, timeout_s: float) -> bytes | None:
        """The recorded message of this call, or None as then."""
        message = self._playback.take("listen")["message"]
        return None if message is None else bytes.fromhex(message)


class ReplayClock:
    """A Clock that shows the recorded times."""

    def __init__(self, playback: _Playback) -> None:
        self._playback = playback

    def now(self) -> float:
        """When the latest call had ended."""
        return self._playback.now_s

    def sleep_until(self, t_s: float) -> None:
        """A recorded call as any other."""
        self._playback.take("wait")
