"""The bench that is measured: a transmitter, a receiver, and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike

from calibration.record import CalibrationRecord, Conditions
from hil.contract import IQ, CalibrationError
from radio.iq import require_samples
from radio.pluto.settings import MAX_ATTENUATION_DB, DeviceIdentity, PlutoSettings

SETTLE_SAMPLES: Final = 4096
"""Dropped at the head of every capture: a gain that was just set, and the receiver's DC tracking,
have not settled."""


class Radio(Protocol):
    """Radio as a measurement needs it; radio.pluto.process.Pluto is one."""

    @property
    def identity(self) -> DeviceIdentity:
        """Identity of the device."""
        ...

    @property
    def settings(self) -> PlutoSettings:
        """Present settings."""
        ...

    def configure(
        self, *, rx_gain_db: float | None = None, tx_attenuation_db: float | None = None
    ) -> None:
        """Set what is not None; automatic gain stays off."""
        ...

    def transmit_cyclic(self, iq: IQ) -> None:
        """Send the samples over and over until stop_transmit()."""
        ...

    def stop_transmit(self) -> None:
        """Fall silent, carrier and tones included."""
        ...

    def capture(self, n_samples: int) -> IQ:
        """The next n_samples in one piece, none of them older than the call."""
        ...

    def temperature_c(self) -> float:
        """Temperature of the chip, degrees Celsius; NaN if it has no sensor."""
        ...


def _utc() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A transmitter and the receiver that hears it; the same radio twice for one with a cable or in
    loopback.

    Attributes:
        transmitter, receiver: open.
        path: what lies between them, in words, for example "cable, 40 dB".
        now: the time, with a time zone.
    """

    transmitter: Radio
    receiver: Radio
    path: str
    now: Callable[[], datetime] = field(default=_utc)

    @property
    def rate_hz(self) -> float:
        """Sample rate."""
        return self.receiver.settings.rate_hz

    @property
    def lo_hz(self) -> float:
        """The receiver's carrier."""
        return self.receiver.settings.rx_lo_hz

    @property
    def lo_difference_hz(self) -> float:
        """Transmit carrier over receive carrier as set: what is no error of the oscillators."""
        return self.transmitter.settings.tx_lo_hz - self.receiver.settings.rx_lo_hz

    @property
    def one_oscillator(self) -> bool:
        """True if one board does both, so that carrier and clock offsets are zero by
        construction."""
        return self.transmitter.identity.serial == self.receiver.identity.serial

    @property
    def emulated(self) -> bool:
        """True if one of the radios is software."""
        return self.transmitter.identity.emulated or self.receiver.identity.emulated

    def set(
        self, *, rx_gain_db: float | None = None, tx_attenuation_db: float | None = None
    ) -> None:
        """Set gain and attenuation, where they are not so already."""
        if rx_gain_db is not None and rx_gain_db != self.receiver.settings.rx_gain_db:
            self.receiver.configure(rx_gain_db=rx_gain_db)
        if (
            tx_attenuation_db is not None
            and tx_attenuation_db != self.transmitter.settings.tx_attenuation_db
        ):
            self.transmitter.configure(tx_attenuation_db=tx_attenuation_db)

    @contextmanager
    def sending(self, iq: IQ, *, tx_attenuation_db: float) -> Iterator[None]:
        """Transmit the samples over and over within the block; fall silent behind it, also after
        an error."""
        self.set(tx_attenuation_db=tx_attenuation_db)
        try:
            self.transmitter.transmit_cyclic(iq)
            yield
        finally:
            self.silence()

    def silence(self) -> None:
        """Stop transmitting, and attenuate what the carrier leaks as far as possible."""
        self.transmitter.stop_transmit()
        self.set(tx_attenuation_db=MAX_ATTENUATION_DB)

    def capture(self, n_samples: int) -> IQ:
        """Samples in one piece, settled.

        Raises:
            CalibrationError: fewer came.
            DeviceError: they are not finite.
        """
        iq = self.receiver.capture(SETTLE_SAMPLES + n_samples)[SETTLE_SAMPLES:]
        if len(iq) < n_samples:
            raise CalibrationError(
                f"receiver {self.receiver.identity.serial} gave {len(iq)} of {n_samples} samples; "
                "check its connection, or lower the sample rate"
            )
        require_samples(iq, "calibration")
        return iq[:n_samples]

    def record(
        self,
        quantity: str,
        unit: str,
        repeats: ArrayLike,
        *,
        at: Sequence[float] = (),
        **known: Any,
    ) -> CalibrationRecord:
        """The mean of repeated measurements with their spread, under the conditions of now.

        Args:
            quantity, unit, at: see CalibrationRecord.
            repeats: [n] for a single value, [n, len(at)] along an axis.
            known: the rest of what stated() takes.
        """
        table = np.asarray(repeats, np.float64).reshape(-1, max(1, len(at)))
        spread = table.std(axis=0, ddof=1) if len(table) > 1 else np.full(table.shape[1], math.nan)
        mean = table.mean(axis=0)
        return self.stated(
            quantity, unit, mean.tolist(), spread.tolist(), n=len(table), at=at, **known
        )

    def stated(
        self,
        quantity: str,
        unit: str,
        values: Sequence[float],
        spread: Sequence[float],
        *,
        n: int,
        axis: str = "",
        at: Sequence[float] = (),
        rx_gain_db: float = math.nan,
        tx_attenuation_db: float = math.nan,
        flags: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> CalibrationRecord:
        """Values whose spread is known otherwise; arguments as in CalibrationRecord and
        Conditions."""
        return CalibrationRecord(
            quantity=quantity,
            unit=unit,
            values=tuple(values),
            spread=tuple(spread),
            n=n,
            conditions=self.conditions(rx_gain_db=rx_gain_db, tx_attenuation_db=tx_attenuation_db),
            axis=axis,
            at=tuple(float(place) for place in at),
            flags=tuple(flags),
            notes=tuple(notes),
        )

    def conditions(self, *, rx_gain_db: float, tx_attenuation_db: float) -> Conditions:
        """Conditions of a measurement made now."""
        identity = self.receiver.identity
        return Conditions(
            device=identity.model,
            firmware=identity.firmware,
            serial=identity.serial,
            tx_serial=self.transmitter.identity.serial,
            emulated=self.emulated,
            rx_lo_hz=self.receiver.settings.rx_lo_hz,
            tx_lo_hz=self.transmitter.settings.tx_lo_hz,
            rate_hz=self.rate_hz,
            rx_gain_db=rx_gain_db,
            tx_attenuation_db=tx_attenuation_db,
            path=self.path,
            temperature_c=self.receiver.temperature_c(),
            measured_utc=self.now().astimezone(UTC).isoformat(timespec="seconds"),
            tool_version=metadata.version("hil-lora-testbed"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of a calibration.

    Attributes:
        rx_gain_db: receive gain for SNR, CFO, image and DC.
        tx_attenuation_db: smallest attenuation that is ever set: what path and receiver bear.
        repeats: number of times that everything is measured, ≥ 3, for the spread.
        samples: length of one capture, a power of two.
        rx_gains_db, tx_attenuations_db: settings of the measured curves, rising; attenuations
            below tx_attenuation_db are left out.
        blocks: sent at each point of a block error curve.
        places: indices into mcs.MCS_TABLE of the schemes whose block errors are counted; None: all.
        reference_dbm: power at the receiver's port while the calibration tone goes out at
            tx_attenuation_db, measured with an instrument; None: levels stay in dBFS.
        seed: seed of all content that is sent.
    """

    rx_gain_db: float
    tx_attenuation_db: float
    repeats: int = 3
    samples: int = 2**15
    rx_gains_db: tuple[float, ...] = tuple(range(0, 71, 5))
    tx_attenuations_db: tuple[float, ...] = tuple(np.arange(0, MAX_ATTENUATION_DB, 4).tolist())
    blocks: int = 40
    places: tuple[int, ...] | None = None
    reference_dbm: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repeats < 3:
            raise CalibrationError(f"{self.repeats} repeats; a spread needs at least 3")
        if len(self.rx_gains_db) < 2 or list(self.rx_gains_db) != sorted(set(self.rx_gains_db)):
            raise CalibrationError(f"gains {self.rx_gains_db} dB; give at least two, rising")

    @property
    def attenuations_db(self) -> tuple[float, ...]:
        """tx_attenuations_db from the least on, that one first."""
        above = (a for a in self.tx_attenuations_db if a > self.tx_attenuation_db)
        return (self.tx_attenuation_db, *above)
