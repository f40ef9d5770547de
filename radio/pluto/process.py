"""An ADALM-Pluto behind a process that can be killed: whatever the driver does, hanging included,
ends in time."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, Self

import numpy as np

from hil.contract import IQ, ConfigError, DeviceError
from hil.system.child_process import ChildProcess
from hil.system.pipe import Header
from radio.pluto.driver import OutageError
from radio.pluto.permission import Permission
from radio.pluto.samples import from_adc, to_dac
from radio.pluto.settings import DeviceIdentity, Loopback, PlutoSettings

_START_S: Final = 60.0
"""Longest time for a process to start and set its radio, on a busy machine."""
_GRACE_S: Final = 2.0
_RETRY_S: Final = 0.25
_WAIT_S: Final = 0.005
"""Longest wait within the process for one answer: another thread's requests come between."""


class Pluto:
    """One radio, opened by `with`; satisfies contract.Transceiver, for the bench as well as for the
    link.

    When the radio does not answer (a dropped connection, a timeout, a device that is busy or
    hangs), its process is killed and started again, until the radio is back with all its settings
    or patience_s is over. What was on its way is then lost on the air: transmit() returns with the
    burst not sent, receive() with what it has. One thread may transmit while another receives.

    Attributes:
        settings: present settings of the radio.
        permission: bands and powers that it may transmit.
        sample_rate_hz: sample rate of both directions.
        identity: identity of the radio; known once it is open.
        clipped_samples: number of received samples at the converter's limits so far.
        outages: number of times that the radio was away and came back.
    """

    identity: DeviceIdentity

    def __init__(
        self,
        settings: PlutoSettings,
        permission: Permission,
        *,
        patience_s: float = 30.0,
        io_timeout_s: float = 2.5,
    ) -> None:
        """A radio that is not open yet.

        Args:
            settings: settings that it gets when it is opened.
            permission: bands and powers that it may transmit.
            patience_s: longest absence of a radio that went away.
            io_timeout_s: longest wait for each answer of the radio.
        """
        self.settings = settings
        self.sample_rate_hz = settings.rate_hz
        self.clipped_samples = 0
        self.outages = 0
        self.permission = permission
        self._patience_s = patience_s
        self._io_timeout_s = io_timeout_s
        self._process: _Process | None = None
        self._repeated = b""
        self._listening = False
        self._recovering = threading.Lock()

    def __enter__(self) -> Self:
        """Start the process and open the radio.

        Raises:
            ConfigError: the settings cannot be.
            DeviceError: it cannot be reached, a package is missing, or a setting does not hold.
        """
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Silence and close the radio, end the process; a radio that went away is silenced over a
        new connection.

        Raises:
            OutageError: it is not there to be silenced.
        """
        process = self._process
        if process is None or process.ended:  # given up before, with an error
            return
        self._repeated, self._listening = b"", False
        try:
            self._end(process)
        except OutageError:
            try:
                self._open()
                self._end(self._running())
            except OutageError as outage:
                if kind is None:
                    raise OutageError(
                        f"Pluto {self.settings.uri} could not be silenced: {outage}"
                    ) from outage
        finally:
            self._process = None

    def _end(self, process: _Process) -> None:
        try:
            process.ask({"op": "close"}, timeout_s=self._deadline_s())
        finally:
            process.end()

    @property
    def process_id(self) -> int:
        """Number of the process that talks to the radio."""
        return self._running().process_id

    # -------------------------------------------------------------------------------------------
    # link

    def transmit(self, iq: IQ) -> None:
        """Send samples; returns when all but less than a buffer of them is in the radio, which then
        plays its buffers.

        Raises:
            ConfigError: transmitting is not allowed.
            DeviceError: NaN, zero length or |iq| > 1; or the radio stays away.
        """
        blob = to_dac(iq).tobytes()
        self._repeated = b""
        process = self._running()
        try:
            process.ask({"op": "transmit"}, blob, timeout_s=self._deadline_s())
            until_s = time.monotonic() + len(iq) / self.sample_rate_hz + self._deadline_s()
            while not process.ask(
                {"op": "wait_sent", "wait_s": _WAIT_S}, timeout_s=self._deadline_s()
            )[0]["sent"]:
                if time.monotonic() > until_s:
                    raise OutageError(f"Pluto {self.settings.uri} does not take {len(iq)} samples")
        except OutageError as outage:
            self._recover(process, outage)

    def on_air_s(self) -> float:
        """Time at which the latest burst's first sample left, on the monotonic clock; now, if that
        is not known."""
        process = self._running()
        try:
            request = {"op": "on_air", "wait_s": 4 * self.settings.buffer_s + _WAIT_S}
            t_s = process.ask(request, timeout_s=self._deadline_s())[0]["t_s"]
        except OutageError as outage:
            self._recover(process, outage)
            t_s = None
        return time.monotonic() if t_s is None else float(t_s)

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The next samples off the air, at most n_samples; fewer when no more came within
        timeout_s, or in an outage.

        The radio listens all the time from the first call on; what nobody fetches is kept for some
        seconds.
        """
        until_s = time.monotonic() + timeout_s
        parts = [np.zeros(0, np.complex64)]
        missing = n_samples
        self._listening = True
        process = self._running()
        while missing > 0:
            wait_s = min(_WAIT_S, max(0.0, until_s - time.monotonic()))
            try:
                _, blob = process.ask(
                    {"op": "receive", "n": missing, "wait_s": wait_s}, timeout_s=self._deadline_s()
                )
            except OutageError as outage:
                self._recover(process, outage)
                break
            parts.append(self._samples(blob))
            missing -= len(parts[-1])
            if time.monotonic() >= until_s:
                break
        return np.concatenate(parts)

    def restart_receive(self) -> None:
        """Drop what was captured so far: the next samples are captured from now on."""
        self._listening = True
        self._ask({"op": "restart"})

    def skip_until(self, t_s: float) -> None:
        """Drop what was captured before a time of the monotonic clock."""
        self._listening = True
        self._ask({"op": "skip", "t_s": t_s})

    # -------------------------------------------------------------------------------------------
    # bench

    def transmit_cyclic(self, iq: IQ) -> None:
        """Send an even number of samples over and over, until stop_transmit; also through outages.

        Raises:
            ConfigError: transmitting is not allowed.
            DeviceError: samples that cannot be sent; or the radio stays away.
        """
        repeated = to_dac(iq).tobytes()
        self._ask({"op": "repeat"}, repeated)
        self._repeated = repeated

    def stop_transmit(self) -> None:
        """Fall silent, carrier included."""
        self._repeated = b""
        self._ask({"op": "stop_transmit"})

    def capture(self, n_samples: int) -> IQ:
        """The next samples in one piece, none of them captured before the call;
        complex64[n_samples]."""
        self._listening = False
        expected_s = n_samples / self.sample_rate_hz + 2 * self.settings.buffer_s
        return self._samples(self._ask({"op": "capture", "n": n_samples}, expected_s=expected_s)[1])

    def configure(
        self,
        *,
        rx_gain_db: float | None = None,
        tx_attenuation_db: float | None = None,
        rx_lo_hz: float | None = None,
        tx_lo_hz: float | None = None,
        loopback: Loopback | None = None,
    ) -> None:
        """Set what is not None; what is transmitted goes on if it is still allowed.

        Raises:
            ConfigError: a value out of range, or a transmission that would no longer be allowed.
            DeviceError: the radio refuses, or reads back another value.
        """
        changes: dict[str, Any] = {
            "rx_gain_db": rx_gain_db,
            "tx_attenuation_db": tx_attenuation_db,
            "rx_lo_hz": rx_lo_hz,
            "tx_lo_hz": tx_lo_hz,
            "loopback": loopback,
        }
        settings = self.settings.changed(**changes)
        self._ask({"op": "configure", "changes": changes})
        self.settings = settings

    def temperature_c(self) -> float:
        """Temperature of the transceiver chip, in degrees Celsius."""
        return float(self._ask({"op": "temperature"})[0]["c"])

    # -------------------------------------------------------------------------------------------
    # process

    def _samples(self, blob: bytes) -> IQ:
        iq, clipped = from_adc(np.frombuffer(blob, np.int16))
        self.clipped_samples += clipped
        return iq

    def _deadline_s(self) -> float:
        """Longest time that a healthy process may take for one answer: a timeout of the driver, and
        its report."""
        return 2 * self._io_timeout_s + _GRACE_S

    def _running(self) -> _Process:
        if self._process is None:
            raise DeviceError(f"Pluto {self.settings.uri} is not open; use it within `with`")
        return self._process

    def _ask(
        self, request: Header, blob: bytes = b"", *, expected_s: float = 0.0
    ) -> tuple[Header, bytes]:
        """The reply to a request that may be made again: after an outage it is."""
        until_s = time.monotonic() + self._patience_s
        while True:
            process = self._running()
            try:
                return process.ask(request, blob, timeout_s=expected_s + self._deadline_s())
            except OutageError as outage:
                if time.monotonic() > until_s:
                    raise
                self._recover(process, outage)

    def _open(self) -> None:
        process = _Process()
        try:
            identity, _ = process.ask(
                {
                    "op": "open",
                    "settings": asdict(self.settings),
                    "bands": [asdict(band) for band in self.permission.bands],
                    "io_timeout_s": self._io_timeout_s,
                },
                timeout_s=_START_S,
            )
            if self._repeated:
                process.ask({"op": "repeat"}, self._repeated, timeout_s=self._deadline_s())
            if self._listening:
                process.ask({"op": "restart"}, timeout_s=self._deadline_s())
        except BaseException:
            process.kill()
            raise
        self._process = process
        self.identity = DeviceIdentity(**identity)

    def _recover(self, process: _Process, cause: OutageError) -> None:
        """Kill a process and open the radio again, unless another thread has done so.

        Raises:
            DeviceError: the radio does not come back within patience_s.
        """
        with self._recovering:
            if process is not self._process:
                return
            until_s = time.monotonic() + self._patience_s
            while True:
                process.kill()
                try:
                    self._open()
                except OutageError as error:
                    cause = error
                else:
                    self.outages += 1
                    return
                if time.monotonic() > until_s:
                    raise DeviceError(
                        f"Pluto {self.settings.uri} stayed away for {self._patience_s:g} s "
                        f"(patience_s): {cause}"
                    ) from cause
                time.sleep(_RETRY_S)


class _Process:
    """A started `radio.pluto.child`, asked from several threads."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._child = ChildProcess("radio.pluto.child", {"OMP_NUM_THREADS": "1"})

    @property
    def process_id(self) -> int:
        """Number of the process."""
        return self._child.popen.pid

    @property
    def ended(self) -> bool:
        """True if it was killed, or has ended."""
        return self._child.freed

    def ask(self, request: Header, blob: bytes = b"", *, timeout_s: float) -> tuple[Header, bytes]:
        """The reply.

        Raises:
            OutageError: the radio is away, or the process hangs or has ended.
            ConfigError, DeviceError: the request is refused.
        """
        try:
            with self._one_at_a_time:
                if self.ended:
                    raise OutageError("the Pluto's process was ended over another request")
                self._child.pipe.send(request, blob, timeout_s=timeout_s)
                reply, samples = self._child.pipe.receive(timeout_s=timeout_s)
        except TimeoutError as error:
            raise OutageError(
                f"the Pluto's process hung over {request['op']!r} for {timeout_s:g} s"
            ) from error
        except (EOFError, OSError) as error:
            raise OutageError(
                f"the Pluto's process ended over {request['op']!r}: {self.kill()}"
            ) from error
        if "outage" in reply:
            raise OutageError(reply["outage"])
        if "refused" in reply:
            raise (ConfigError if reply["kind"] == "ConfigError" else DeviceError)(reply["refused"])
        return reply, samples

    def end(self) -> None:
        """Let the process end by itself, for a while."""
        self._child.close_pipe()
        with suppress(subprocess.TimeoutExpired):
            self._child.popen.wait(_GRACE_S)
        self.kill()

    def kill(self) -> str:
        """End the process if it still runs, and free what belongs to it; how it ended and its last
        words."""
        self._child.popen.kill()  # ends every wait for an answer
        self._child.popen.wait()
        with self._one_at_a_time:
            return "ended before" if self.ended else self._child.free()
