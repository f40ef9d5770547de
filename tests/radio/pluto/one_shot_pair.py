"""Two radios as a Transceiver that takes turns with them: in virtual time the same in every run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from hil.contract import IQ
from radio.clocks import VirtualClock
from radio.pluto.driver import TX_KERNEL_BUFFERS, PlutoDevice
from radio.pluto.samples import from_adc, to_dac


class OneShotPair:
    """A Transceiver over radios in this process and without any thread: for every burst the
    receiver starts anew.

    Buffers are sent and read in turns, the sender some ahead: what is received depends on the
    radios alone, not on how fast this process runs. On emulated radios with virtual time it is the
    same in every run.

    Attributes:
        tx, rx: transmitter and receiver; one radio for a digital loopback or a cable.
        sample_rate_hz: sample rate of both.
    """

    def __init__(self, tx: PlutoDevice, rx: PlutoDevice, clock: VirtualClock) -> None:
        """A pair; entering it opens both.

        Args:
            tx, rx: transmitter and receiver, with one sample rate and one buffer_samples.
            clock: virtual clock that every received sample moves.
        """
        self.tx, self.rx = tx, rx
        assert tx.sample_rate_hz == rx.sample_rate_hz
        assert tx.settings.buffer_samples == rx.settings.buffer_samples
        self.sample_rate_hz = tx.sample_rate_hz
        self._n = rx.settings.buffer_samples
        self._clock = clock
        self._heard: list[IQ] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Open both radios. Raises DeviceError."""
        with ExitStack() as stack:
            stack.enter_context(self.tx)
            if self.rx is not self.tx:
                stack.enter_context(self.rx)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: Any) -> None:
        """Close both radios."""
        self._open.__exit__(*exc)

    def transmit(self, iq: IQ) -> None:
        """Send samples, with silence behind them up to whole buffers, and receive meanwhile.

        Raises:
            ConfigError: transmitting is not allowed.
            DeviceError: NaN, zero length or |iq| > 1; or a radio does not answer.
        """
        integers = to_dac(iq)
        n_buffers = -(-len(iq) // self._n)
        buffers = np.zeros((n_buffers, 2 * self._n), np.int16)
        buffers.reshape(-1)[: len(integers)] = integers
        self.rx.start_receive()
        self._read()
        self._heard = []  # what came before the burst
        for place, buffer in enumerate(buffers):
            if place >= TX_KERNEL_BUFFERS - 2:
                self._heard.append(self._read())
            self.tx.write(buffer)

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The next n_samples; a radio that does not answer within its io_timeout_s is a
        DeviceError."""
        heard = sum(len(part) for part in self._heard)
        while heard < n_samples:
            self._heard.append(self._read())
            heard += self._n
        iq = np.concatenate([np.zeros(0, np.complex64), *self._heard])
        self._heard = [iq[n_samples:]]
        return iq[:n_samples]

    def _read(self) -> IQ:
        iq, clipped = from_adc(self.rx.read())
        self.rx.clipped_samples += clipped
        self._clock.sleep_until(self._clock.now() + len(iq) / self.sample_rate_hz)
        return iq
