"""Two Plutos, or one with its own echo, as the transmitter and the receiver of a link in one
process."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final, Self

import numpy as np

from hil.contract import IQ, ConfigError
from radio.clocks import VirtualClock
from radio.pluto.driver import TX_KERNEL_BUFFERS, PlutoDevice
from radio.pluto.process import Pluto
from radio.pluto.samples import from_adc, to_dac

_EARLY_SAMPLES: Final = 256
"""Received before a burst is thought to begin."""


class PlutoPair:
    """A Transceiver over radios in processes of their own, in real time.

    The receiver listens all the time. What it captured between the bursts is dropped, so that
    receive() begins where the latest burst does: by the clock, within a few milliseconds.

    Attributes:
        tx, rx: transmitter and receiver; one radio for a digital loopback or a cable.
        sample_rate_hz: sample rate of both.
    """

    def __init__(self, tx: Pluto, rx: Pluto) -> None:
        """A pair; entering it opens both.

        Raises:
            ConfigError: two sample rates.
        """
        self.tx, self.rx = tx, rx
        self.sample_rate_hz = _common_rate_hz(tx, rx)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Open both radios. Raises DeviceError."""
        with _opened(self.tx, self.rx) as stack:
            self.rx.restart_receive()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: Any) -> None:
        """Close both radios."""
        self._open.__exit__(*exc)

    def transmit(self, iq: IQ) -> None:
        """Send samples; see Pluto.transmit."""
        self.tx.transmit(iq)
        self.rx.skip_until(self.tx.on_air_s() - _EARLY_SAMPLES / self.sample_rate_hz)

    def receive(self, n_samples: int, *, timeout_s: float) -> IQ:
        """The next samples off the air; see Pluto.receive."""
        return self.rx.receive(n_samples, timeout_s=timeout_s)


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

    def __init__(self, tx: PlutoDevice, rx: PlutoDevice, clock: VirtualClock | None = None) -> None:
        """A pair; entering it opens both.

        Args:
            tx, rx: transmitter and receiver, with one sample rate and one buffer_samples.
            clock: virtual clock that every received sample moves; None: time is real.

        Raises:
            ConfigError: two sample rates, or two lengths of buffers.
        """
        self.tx, self.rx = tx, rx
        self.sample_rate_hz = _common_rate_hz(tx, rx)
        self._n = rx.settings.buffer_samples
        if tx.settings.buffer_samples != self._n:
            raise ConfigError(
                f"buffer_samples is {tx.settings.buffer_samples} and {self._n}; use one length "
                "for both"
            )
        self._clock = clock
        self._heard: list[IQ] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Open both radios. Raises DeviceError."""
        self._open = _opened(self.tx, self.rx)
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
        if self._clock is not None:
            self._clock.sleep_until(self._clock.now() + len(iq) / self.sample_rate_hz)
        return iq


def _opened(tx: Pluto | PlutoDevice, rx: Pluto | PlutoDevice) -> ExitStack:
    with ExitStack() as stack:
        stack.enter_context(tx)
        if rx is not tx:
            stack.enter_context(rx)
        return stack.pop_all()


def _common_rate_hz(tx: Pluto | PlutoDevice, rx: Pluto | PlutoDevice) -> float:
    if tx.sample_rate_hz != rx.sample_rate_hz:
        raise ConfigError(
            f"rate_hz is {tx.sample_rate_hz:g} and {rx.sample_rate_hz:g}; use one rate for both "
            "radios"
        )
    return tx.sample_rate_hz
