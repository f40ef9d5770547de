"""Making a recording: a link whose seams to the outside are written down as it works.

While a recording is open, time stands still between two calls to the outside: the link is shown the
time at which the latest call ended, and replay shows it the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from hil.contract import IQ, Clock, FeedbackPath, LinkReport, Transceiver
from radio.link import Limits, Link, Sounding
from radio.recordings.recording import (
    SAMPLE,
    Json,
    RecordingError,
    Setup,
    plain,
    sibling,
    summary_of,
    write_recording,
)

SAME_BURST: Final = 1e-4
"""Fingerprints of the same burst differ by less, whatever machine it was computed on; of others, by
more."""


def fingerprint(iq: IQ) -> complex:
    """A projection of the samples on pseudo-random signs, over their norm.

    A hash would tell machines apart whose Fourier transforms round differently; this only tells
    bursts apart.
    """
    signs = np.unpackbits(
        np.frombuffer(hashlib.shake_128(b"signs").digest(len(iq) // 8 + 1), np.uint8)
    )[: len(iq)]
    return complex(
        np.sum(np.where(signs, iq, -iq), dtype=np.complex128)
        / max(float(np.linalg.norm(iq)), 1e-30)
    )


class Tape:
    """The calls of one recording, in order, and its samples, which go to the disk at once.

    Attributes:
        calls: one entry a call, each with the time at which it ended.
        n_samples: so far.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.calls: list[Json] = []
        self.n_samples = 0
        self._clock = clock
        self._now_s = clock.now()
        self._path = path
        self._hash = hashlib.sha512()
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}; choose another folder") from error

    def now(self) -> float:
        """When the latest call ended."""
        return self._now_s

    def note(self, call: str, **facts: Any) -> None:
        """Add a call that has just ended."""
        self._now_s = self._clock.now()
        self.calls.append({"call": call, **facts, "at_s": self._now_s})

    def write(self, iq: IQ) -> None:
        """Add samples."""
        data = np.ascontiguousarray(iq, SAMPLE).tobytes()
        self._hash.update(data)
        self.n_samples += len(iq)
        try:
            self._file.write(data)
        except OSError as error:
            raise RecordingError(
                f"{self._path}: {error.strerror}; make room or choose another folder"
            ) from error

    def close(self) -> str:
        """SHA-512 (hex) of the file, which is whole now."""
        try:
            self._file.close()
        except OSError as error:
            raise RecordingError(
                f"{self._path}: {error.strerror}; make room or choose another folder"
            ) from error
        return self._hash.hexdigest()


class RecordingTransceiver:
    """A Transceiver whose calls and received samples go onto a tape.

    Attributes:
        sample_rate_hz: the recording's rate; the inner transceiver must keep to it.
    """

    def __init__(self, inner: Transceiver, tape: Tape) -> None:
        self.sample_rate_hz = inner.sample_rate_hz
        self._inner, self._tape = inner, tape

    def transmit(self, iq: IQ) -> None:
        """Pass samples on.

        Raises:
            RecordingError: the sample rate is no longer the recording's.
            DeviceError: as the inner transceiver.
        """
        if self._inner.sample_rate_hz != self.sample_rate_hz:
            raise RecordingError(
                f"sample rate is {self._inner.sample_rate_hz:g} Hz, the recording's is "
                f"{self.sample_rate_hz:g} Hz; "
                "begin another recording when it changes"
            )
        self._inner.transmit(iq)
        mark = fingerprint(iq)
        self._tape.note("transmit", samples=len(iq), fingerprint=[mark.real, mark.imag])

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The next samples, as they are written down."""
        iq = self._inner.receive(n_samples, timeout_s=timeout_s)
        self._tape.write(iq)
        self._tape.note("receive", asked=n_samples, samples=len(iq))
        return iq

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)


class RecordingFeedback:
    """A FeedbackPath whose messages go onto a tape: what was sent, and what arrived."""

    def __init__(self, inner: FeedbackPath, tape: Tape) -> None:
        self._inner, self._tape = inner, tape

    def send(self, message: bytes) -> None:
        """Pass a message on."""
        self._inner.send(message)
        self._tape.note("answer", message=message.hex())

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message, or None when none came within the deadline."""
        message = self._inner.receive(timeout_s)
        self._tape.note("listen", message=None if message is None else message.hex())
        return message


class RecordingClock:
    """A Clock that stands still between the calls on a tape."""

    def __init__(self, inner: Clock, tape: Tape) -> None:
        self._inner, self._tape = inner, tape

    def now(self) -> float:
        """When the latest call ended."""
        return self._tape.now()

    def sleep_until(self, t_s: float) -> None:
        """Wait; a call as any other."""
        self._inner.sleep_until(t_s)
        self._tape.note("wait")


@dataclass(slots=True)
class _Open:
    """A recording that is being made."""

    stem: Path
    setup: Setup
    tape: Tape
    next_session: int
    operations: list[Json] = field(default_factory=list)

    def operation(self, kind: str, limits: Limits, **facts: Any) -> Json:
        """Note a sounding or delivery that begins; its result is to be added."""
        self.tape.note("begin")
        entry = {
            "kind": kind,
            "sample_start": self.tape.n_samples,
            "utc": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
            "limits": plain(asdict(limits)),
            **facts,
        }
        self.operations.append(entry)
        return entry

    def store(self, payload: bytes) -> Json:
        """Write a payload beside the samples."""
        number = 1 + sum(entry["kind"] == "deliver" for entry in self.operations)
        path = sibling(self.stem, f".{number}.payload")
        try:
            path.write_bytes(payload)
        except OSError as error:
            raise RecordingError(
                f"{path}: {error.strerror}; make room or choose another folder"
            ) from error
        return {"file": path.name, **summary_of(payload)}


def outcome_of(link: Link, received: bytes | None) -> Json:
    """What the receiver handed over, and what it holds of the payload without a gap, after a
    delivery."""
    prefix = link.receiver.prefix(link.next_session - 1)
    return {
        "received": None if received is None else summary_of(received),
        "prefix": summary_of(prefix),
    }


class RecordingLink(Link):
    """A Link that writes its soundings and deliveries into the recording that is open, and else is
    just a Link.

    A recording has one sample rate, and may hold several soundings and deliveries. Recordings of
    one link belong together in their order, because the link carries over what it has learnt. It
    has no block store: what an earlier process left there would be missing in the recording.
    """

    def __init__(
        self,
        transceiver: Transceiver,
        feedback: FeedbackPath,
        clock: Clock,
        *,
        first_session: int = 1,
    ) -> None:
        """A link whose calls are recorded; the arguments are Link's."""
        super().__init__(transceiver, feedback, clock, first_session=first_session)
        self._first_session = first_session
        self._inner = (transceiver, feedback, clock)
        self._recording: _Open | None = None

    def begin(self, stem: Path, setup: Setup) -> None:
        """Open a recording; one that is open is ended first.

        Args:
            stem: path of its files without their endings; the folder is made when missing.
            setup: radios and settings it is made with.
        Raises:
            RecordingError: there is one of that name, or it cannot be written.
        """
        self.end()
        if sibling(stem, ".sigmf-meta").exists():
            raise RecordingError(f"{sibling(stem, '.sigmf-meta')} exists; choose another folder")
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(
                f"{stem.parent}: {error.strerror}; choose another folder"
            ) from error
        transceiver, feedback, clock = self._inner
        tape = Tape(sibling(stem, ".part"), clock)
        self.transceiver = RecordingTransceiver(transceiver, tape)
        self.feedback = RecordingFeedback(feedback, tape)
        self.clock = RecordingClock(clock, tape)
        self._recording = _Open(stem, setup, tape, self.next_session)

    def end(self) -> Path | None:
        """Close the recording that is open, annotate it, and give the path of its metadata.

        None if none was open, if nothing was done in it, or if a sounding or delivery failed in it:
        NAME.part then holds the samples so far.

        Raises:
            RecordingError: it cannot be written.
        """
        recording, self._recording = self._recording, None
        if recording is None:
            return None
        rate_hz = self.transceiver.sample_rate_hz
        self.transceiver, self.feedback, self.clock = self._inner
        sha512 = recording.tape.close()
        if not recording.operations or any(
            "result" not in operation for operation in recording.operations
        ):
            return None
        session = {
            "first_session": self._first_session,
            "next_session": recording.next_session,
            "sample_rate_hz": rate_hz,
            "samples": recording.tape.n_samples,
            "operations": recording.operations,
            "calls": recording.tape.calls,
        }
        try:
            return write_recording(recording.stem, recording.setup, session, sha512)
        except OSError as error:
            raise RecordingError(
                f"{recording.stem}: {error.strerror}; make room or choose another folder"
            ) from error

    def sound(self, limits: Limits | None = None, *, attempts: int = 2) -> Sounding:
        """Sound the channel as Link.sound does, and record it."""
        if self._recording is None:
            return super().sound(limits, attempts=attempts)
        limits = limits or Limits()
        entry = self._recording.operation("sound", limits, attempts=attempts)
        sounding = super().sound(limits, attempts=attempts)
        entry["result"] = plain(asdict(sounding))
        return sounding

    def deliver(
        self, payload: bytes, limits: Limits | None = None, *, sounding: Sounding | None = None
    ) -> tuple[LinkReport, bytes | None]:
        """Deliver as Link.deliver does; the payload is written beside the samples."""
        if self._recording is None:
            return super().deliver(payload, limits, sounding=sounding)
        limits = limits or Limits()
        before = None if sounding is None else plain(asdict(sounding))
        stored = self._recording.store(payload)
        entry = self._recording.operation("deliver", limits, payload=stored, sounding=before)
        report, received = super().deliver(payload, limits, sounding=sounding)
        entry |= {"result": plain(asdict(report)), **outcome_of(self, received)}
        return report, received
