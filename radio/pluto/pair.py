"""Two Plutos, or one with its own echo, as the transmitter and the receiver of a link in one
process."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final, Self

from hil.contract import IQ, ConfigError
from radio.pluto.process import Pluto

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
        if tx.sample_rate_hz != rx.sample_rate_hz:
            raise ConfigError(
                f"rate_hz is {tx.sample_rate_hz:g} and {rx.sample_rate_hz:g}; use one rate for "
                "both radios"
            )
        self.sample_rate_hz = tx.sample_rate_hz
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Open both radios. Raises DeviceError."""
        with ExitStack() as stack:
            stack.enter_context(self.tx)
            if self.rx is not self.tx:
                stack.enter_context(self.rx)
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
