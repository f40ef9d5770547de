"""One emulated Pluto without its network: settings, buffers that are open, and the ether behind
them."""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from radio.emulator import attributes
from radio.emulator.attributes import PHY, RX_CORE, TX_CORE
from radio.emulator.clock import Cancelled
from radio.emulator.context import context_xml
from radio.emulator.ether import Ether
from radio.emulator.faults import Faults
from radio.emulator.protocol import SAMPLE_BYTES, AttributeName, Open, RefusedError
from radio.emulator.rx_ring import RxRing
from radio.emulator.state import OVERFLOW_BIT, UNDERFLOW_BIT, RadioState
from radio.emulator.tx_queue import TxQueue

DEFAULT_KERNEL_BUFFERS: Final = 4
MAX_KERNEL_BUFFERS: Final = 1024
MAX_OPEN_BYTES: Final = 1 << 30
"""All kernel buffers of one device together; more is refused for want of memory."""
RX_FULL_SCALE: Final = 2048
_BOTH: Final = 0b11
_OPEN_PATIENCE_S: Final = 0.05
"""Longest wait of an OPEN for the client before it to be gone."""
_OVERDRIVE: Final = 64
_LEAST_POWER: Final = 0.25
"""Smallest power of one converter, in codes squared: half a code rms, so that silence has an
RSSI."""
_DELAY_SLICE_S: Final = 0.02

Cancel = Callable[[], bool]


class ReceiveBuffer:
    """A receive buffer that a client holds.

    Attributes:
        mask: enabled channels, bit 0 = I, bit 1 = Q.
    """

    def __init__(self, node: Node, ring: RxRing, mask: int) -> None:
        self.mask = mask
        self._node = node
        self._ring = ring

    def read(self, cancelled: Cancel) -> bytes:
        """The next buffer, little-endian int16 of the enabled channels, interleaved.

        Raises:
            RefusedError: ETIMEDOUT.
            Cancelled: `cancelled` says that nobody wants it any more.
        """
        faults = self._node.faults
        self._node.begin_transfer(cancelled)
        try:
            while faults.take("lost"):
                self._ring.read(self._node.timeout_s, cancelled)
            data = self._ring.read(self._node.timeout_s, cancelled)
        except TimeoutError:
            raise RefusedError(errno.ETIMEDOUT) from None
        if faults.take("clipped"):
            codes = np.frombuffer(data, "<i2").astype(np.int32) * _OVERDRIVE
            data = codes.clip(-RX_FULL_SCALE, RX_FULL_SCALE - 1).astype("<i2").tobytes()
        self._node.last_received = data
        return (
            data if self.mask == _BOTH else np.frombuffer(data, "<i2")[self.mask - 1 :: 2].tobytes()
        )

    def fetch_status(self) -> int:
        """Bits of the status register that have come up since the last call."""
        overflowed, self._ring.overflowed = self._ring.overflowed, False
        return OVERFLOW_BIT if overflowed else 0

    def close(self) -> None:
        """Stop capturing."""
        self._ring.close()


class SendBuffer:
    """A transmit buffer that a client holds.

    Attributes:
        mask: enabled channels, bit 0 = I, bit 1 = Q; the other one sends zeros.
        size: length of a full buffer, in bytes.
    """

    def __init__(self, node: Node, queue: TxQueue, mask: int, samples: int) -> None:
        self.mask = mask
        self.size = samples * _sample_bytes(mask)
        self._node = node
        self._queue = queue

    def write(self, data: bytes, cancelled: Cancel) -> None:
        """Queue a buffer; returns when there is room for another one.

        Raises:
            RefusedError: ETIMEDOUT; EBUSY for a second cyclic one.
            Cancelled: `cancelled` says that the client is gone.
        """
        self._node.begin_transfer(cancelled)
        if self.mask != _BOTH:
            both = np.zeros((len(data) // 2, 2), "<i2")
            both[:, self.mask - 1] = np.frombuffer(data, "<i2")
            data = both.tobytes()
        try:
            self._queue.push(data, self._node.timeout_s, cancelled)
        except TimeoutError:
            raise RefusedError(errno.ETIMEDOUT) from None
        except OSError:
            raise RefusedError(errno.EBUSY) from None

    def fetch_status(self) -> int:
        """Bits of the status register that have come up since the last call."""
        underflowed, self._queue.underflowed = self._queue.underflowed, False
        return UNDERFLOW_BIT if underflowed else 0

    def close(self) -> None:
        """Stop sending; what is queued is dropped."""
        self._queue.close()


def _sample_bytes(mask: int) -> int:
    return SAMPLE_BYTES * mask.bit_count() // 2


class Node:
    """One emulated Pluto. Thread-safe: every connection calls from a thread of its own.

    Attributes:
        index: number of its radio in the ether.
        serial: serial number, "emulated-<index>".
        xml: description of its context.
        state: its settings; they outlive clients.
        faults: faults on demand.
        timeout_s: how long a transfer may wait; None = for ever.
        last_received: the last buffer that a client got, for the RSSI.
    """

    def __init__(self, ether: Ether, index: int, faults: Faults) -> None:
        self.index = index
        self.serial = f"emulated-{index}"
        self.xml = context_xml(self.serial)
        self.state = RadioState()
        self.faults = faults
        self.timeout_s: float | None = None
        self.last_received = b""
        self._ether = ether
        self._change = threading.Condition()
        self._kernel_buffers = {RX_CORE: DEFAULT_KERNEL_BUFFERS, TX_CORE: DEFAULT_KERNEL_BUFFERS}
        self._open: dict[str, ReceiveBuffer | SendBuffer] = {}
        self._reserved: set[str] = set()
        self._settings = self.state.rf_settings()
        ether.configure(index, self._settings)

    def read_attribute(self, name: AttributeName) -> str:
        """An attribute's text.

        Raises:
            RefusedError: ENODEV, ENOENT.
        """
        with self._change:
            self._refresh()
            return attributes.read(self.state, name)

    def write_attribute(self, name: AttributeName, value: bytes) -> None:
        """Set an attribute; the ether hears of it at once.

        Raises:
            RefusedError: ENODEV, ENOENT, EPERM for a read-only one, EINVAL out of range, EOPNOTSUPP
                for a gain under AGC.
        """
        with self._change:
            self._refresh()
            attributes.write(self.state, name, value)
            self._configure()

    def open(self, command: Open) -> ReceiveBuffer | SendBuffer:
        """Open the buffer that a client asks for.

        Raises:
            RefusedError: EINVAL, ENODEV, ENOMEM; EBUSY while another client holds the device, or as
                a fault.
        """
        core = attributes.device(command.device).name
        if core == PHY:
            raise RefusedError(errno.ENODEV)
        if (
            not 0 < command.mask <= _BOTH
            or command.samples < 1
            or (command.cyclic and core == RX_CORE)
        ):
            raise RefusedError(errno.EINVAL)
        if self.faults.take("busy"):
            raise RefusedError(errno.EBUSY)
        with self._change:
            if not self._change.wait_for(lambda: core not in self._open, _OPEN_PATIENCE_S):
                raise RefusedError(errno.EBUSY)
            kernel_buffers = self._kernel_buffers[core]
            if command.samples * SAMPLE_BYTES * kernel_buffers > MAX_OPEN_BYTES:
                raise RefusedError(errno.ENOMEM)
            buffer: ReceiveBuffer | SendBuffer
            if core == RX_CORE:
                ring = self._ether.open_rx(self.index, command.samples, kernel_buffers)
                buffer = ReceiveBuffer(self, ring, command.mask)
            else:
                queue = self._ether.open_tx(
                    self.index, command.samples, kernel_buffers, command.cyclic
                )
                buffer = SendBuffer(self, queue, command.mask, command.samples)
            self._open[core] = buffer
            return buffer

    def close(self, buffer: ReceiveBuffer | SendBuffer) -> None:
        """Free a device; after a transmit buffer the tone generators take over again, as in the
        driver."""
        with self._change:
            self._refresh()
            buffer.close()
            for core in [core for core, held in self._open.items() if held is buffer]:
                del self._open[core]
                if core == TX_CORE:
                    for dds in self.state.dds:
                        dds.enabled = True
            self._configure()
            self._change.notify_all()

    def set_kernel_buffers(self, device: str, count: int) -> None:
        """Set how many kernel buffers the next OPEN gets.

        Raises:
            RefusedError: ENODEV; EBUSY while the device is open; EINVAL for a count out of 1..1024.
        """
        core = attributes.device(device).name
        if core == PHY:
            raise RefusedError(errno.ENODEV)
        if not 1 <= count <= MAX_KERNEL_BUFFERS:
            raise RefusedError(errno.EINVAL)
        with self._change:
            if core in self._open:
                raise RefusedError(errno.EBUSY)
            self._kernel_buffers[core] = count

    def begin_transfer(self, cancelled: Cancel) -> None:
        """Show the faults that the next transfer meets before it begins.

        Raises:
            RefusedError: ETIMEDOUT.
            Cancelled: while it waited.
        """
        end_s = time.monotonic() + self.faults.take_delay_s()
        while (left_s := end_s - time.monotonic()) > 0:
            if cancelled():
                raise Cancelled
            time.sleep(min(left_s, _DELAY_SLICE_S))
        if self.faults.take("timeout"):
            raise RefusedError(errno.ETIMEDOUT)

    def silence(self) -> None:
        """Take the radio out of the ether."""
        self._ether.silence(self.index)

    def restore(self) -> None:
        """Put it back."""
        self._ether.restore(self.index)

    def _refresh(self) -> None:
        """Bring what changes by itself up to date: the status registers and the received power."""
        for core, buffer in self._open.items():
            self.state.raise_status(core, buffer.fetch_status())
        if self.last_received:
            codes = np.frombuffer(self.last_received, "<i2").astype(np.float64)
            power = 2 * max(float(np.mean(codes**2)), _LEAST_POWER) / RX_FULL_SCALE**2
            self.state.rssi_db = self.state.gain_db - 10 * math.log10(power)
            self.last_received = b""

    def _configure(self) -> None:
        settings = self.state.rf_settings()
        if settings != self._settings:
            self._settings = settings
            self._ether.configure(self.index, settings)
