"""The process that talks to a Pluto: the driver may hang or crash it, and nothing else.

Started by `radio.pluto.process` as `python -m radio.pluto.child`; answers one request after another
from stdin on stdout, and ends with its parent. Samples cross as the converters' integers: half the
bytes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from hil.contract import ConfigError, DeviceError
from hil.system.pipe import Header, Pipe
from radio.pluto.driver import OutageError, PlutoDevice
from radio.pluto.permission import Band, Permission
from radio.pluto.samples import Integers
from radio.pluto.settings import DeviceIdentity, PlutoSettings
from radio.pluto.streams import RxStream, TxStream

_PARENT_WATCH_S: Final = 0.5
_GRACE_S: Final = 3.0
"""Time for silencing the radio after the parent has gone."""


class Session:
    """One radio and its two streams, which begin when they are first needed."""

    def __init__(self) -> None:
        self._device: PlutoDevice | None = None
        self._hang_s = 0.0
        self._rx: RxStream | None = None
        self._tx: TxStream | None = None

    @property
    def device(self) -> PlutoDevice:
        """The radio. Raises DeviceError when none is open."""
        if self._device is None:
            raise DeviceError("the Pluto's process was not told which radio to open")
        return self._device

    def close(self) -> None:
        """End the streams, silence the radio, disconnect; nothing if none is open."""
        if self._device is not None:
            if self._tx is not None:
                self._tx.play_out()
            self._stop_receive()
            self._stop_transmit()
            device, self._device = self._device, None
            device.__exit__(None, None, None)

    def _open(
        self, settings: dict[str, Any], bands: list[dict[str, float]], io_timeout_s: float
    ) -> DeviceIdentity:
        permission = Permission(Band(**band) for band in bands)
        self._device = PlutoDevice(PlutoSettings(**settings), permission, io_timeout_s=io_timeout_s)
        self._device.__enter__()
        self._hang_s = io_timeout_s + 1.0  # the driver's own timeout comes first, where it works
        return self._device.identity

    def answer(self, request: Header, integers: Integers) -> tuple[Header, Integers | None]:
        """Reply to a request, as header and samples.

        Raises:
            DeviceError, ConfigError: it cannot be done.
        """
        for stream in (self._rx, self._tx):
            if stream is not None:
                stream.check()
        match request["op"]:
            case "open":
                return asdict(
                    self._open(request["settings"], request["bands"], request["io_timeout_s"])
                ), None
            case "close":
                self.close()
            case "receive":
                return {}, self._receiving().take(request["n"], request["wait_s"])
            case "skip":
                self._receiving().skip_until(request["t_s"])
            case "restart":
                self._stop_receive()
                self._receiving()
            case "transmit":
                self._sending().send(integers)
            case "wait_sent":
                return {"sent": self._sending().wait_sent(request["wait_s"])}, None
            case "on_air":
                return {"t_s": self._sending().on_air_s(request["wait_s"])}, None
            case "repeat":
                self._stop_transmit()
                self.device.repeat(integers)
            case "stop_transmit":
                self._stop_transmit()
            case "capture":
                self._stop_receive()
                return {}, self.device.read_fresh(request["n"])
            case "configure":
                self.device.configure(**request["changes"])
            case "temperature":
                return {"c": self.device.temperature_c()}, None
            case unknown:
                raise DeviceError(f"the Pluto's process knows no {unknown!r}")
        return {}, None

    def _receiving(self) -> RxStream:
        if self._rx is None:
            self._rx = RxStream(self.device, self.device.sample_rate_hz, hang_s=self._hang_s)
        return self._rx

    def _sending(self) -> TxStream:
        if self._tx is None:
            self._tx = TxStream(self.device, self.device.settings, hang_s=self._hang_s)
        return self._tx

    def _stop_receive(self) -> None:
        stream, self._rx = self._rx, None
        if stream is not None:
            stream.stop()

    def _stop_transmit(self) -> None:
        stream, self._tx = self._tx, None
        if stream is not None:
            stream.stop()
        self.device.stop_transmit()


def main() -> None:
    """Answer requests until the parent closes the pipe, or is gone."""
    # A terminal's Ctrl-C and hang-up are the parent's: this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(os.getppid(),), name="parent-watch", daemon=True).start()
    pipe = Pipe(sys.stdin.fileno(), os.dup(sys.stdout.fileno()))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's prints must not join replies
    session = Session()
    try:
        while True:
            request, blob = pipe.receive()
            pipe.send(*_reply(session, request, np.frombuffer(blob, np.int16)))
    except (EOFError, BrokenPipeError):
        with suppress(DeviceError):  # nobody is left to be told
            session.close()
    os._exit(0)  # a thread that hangs in the driver would crash the interpreter on its way out


def _reply(session: Session, request: Header, integers: Integers) -> tuple[Header, bytes]:
    """The answer; where there is none, "outage" or "refused" and why."""
    try:
        header, samples = session.answer(request, integers)
    except OutageError as error:
        return {"outage": str(error)}, b""
    except (ConfigError, DeviceError) as error:
        return {"refused": str(error), "kind": type(error).__name__}, b""
    return header, b"" if samples is None else samples.tobytes()


def _follow(parent: int) -> None:
    """End this process some time after its parent, even if the driver does not come back."""
    while os.getppid() == parent:
        time.sleep(_PARENT_WATCH_S)
    time.sleep(_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
