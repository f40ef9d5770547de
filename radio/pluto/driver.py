"""An ADALM-Pluto over pyadi-iio, in this process; the only file that knows the driver.

A library call may hang for ever here, which no caller can end: radio.pluto.process puts the same
radio behind a process that can be killed.
"""

from __future__ import annotations

import atexit
import errno
import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from importlib import metadata
from typing import Any, Final, Self

import numpy as np

from hil.contract import IQ, ConfigError, DeviceError
from radio.pluto.permission import Permission
from radio.pluto.samples import Integers, from_adc, to_dac
from radio.pluto.settings import MAX_ATTENUATION_DB, DeviceIdentity, Loopback, PlutoSettings

TX_KERNEL_BUFFERS: Final = 4
"""Transmit buffers in the radio: a push waits while this many are queued."""

_CONNECTING: Final = "connecting"
_REFUSED: Final = {
    errno.EINVAL,
    errno.ERANGE,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.EPERM,
    errno.EACCES,
}
_TRACKING: Final = (
    "quadrature_tracking_en",
    "rf_dc_offset_tracking_en",
    "bb_dc_offset_tracking_en",
)


class OutageError(DeviceError):
    """The radio does not answer now, and may again: a lost connection, a timeout, a device that is
    busy."""


class PlutoDevice:
    """One radio, opened by `with`: settings, buffers, and three ways to use them.

    Capture (transmit_cyclic, then capture), one buffer after another (start_receive, read; write),
    and both ways at once from one thread for each direction. On the way out the transmitter is
    silenced: attenuation at its most, no tones.

    Attributes:
        settings: present settings of the radio.
        identity: identity of the radio; known once it is open.
        clipped_samples: number of received samples at the converter's limits so far.
    """

    identity: DeviceIdentity

    def __init__(
        self, settings: PlutoSettings, permission: Permission, *, io_timeout_s: float = 2.5
    ) -> None:
        """A radio that is not open yet.

        Args:
            settings: settings that it gets when it is opened.
            permission: bands and powers that it may transmit.
            io_timeout_s: longest wait for each answer of the radio.

        Raises:
            ConfigError: buffers too long for io_timeout_s.
        """
        if settings.buffer_s >= io_timeout_s / 2:
            most = math.ceil(settings.rate_hz * io_timeout_s / 2) - 1
            raise ConfigError(
                f"Pluto buffer_samples is {settings.buffer_samples}, {settings.buffer_s:.3g} s at "
                f"{settings.rate_hz:g} S/s; at most half of the {io_timeout_s:g} s that an answer "
                f"may take: use <= {most}"
            )
        self.settings = settings
        self.clipped_samples = 0
        self._permission = permission
        self._io_timeout_s = io_timeout_s
        self._sdr: Any = None
        self._rx: Any = None
        self._tx: Any = None
        self._set: dict[str, float] = {}

    @property
    def sample_rate_hz(self) -> float:
        """Sample rate of both directions."""
        return self.settings.rate_hz

    def __enter__(self) -> Self:
        """Connect, and set everything.

        Raises:
            DeviceError: a package is missing, it cannot be reached, or a setting does not hold.
        """
        pluto_class, iio = _client()
        uri = self.settings.uri
        with self._talking(_CONNECTING):
            context = iio.Context(uri)
        if any(context.find_device(name) is None for name in _DEVICES):
            raise DeviceError(
                f"{uri} is no Pluto: it lacks one of {', '.join(_DEVICES)}; check the address"
            )
        with self._talking(_CONNECTING):
            context.set_timeout(round(1000 * self._io_timeout_s))
            self._sdr = pluto_class(uri_ctx=context)
        self._buffer_class = iio.Buffer
        self.identity = DeviceIdentity.of(context.attrs, uri)
        # A buffer that is still there when the interpreter ends crashes in libiio: the context
        # would go first.
        atexit.register(self._leave)
        try:
            self._prepare()
            self._apply(self.settings)
            self._power_carrier(
                on=False
            )  # it leaks; nothing is to be on the air before somebody transmits
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Silence the transmitter and disconnect. Raises OutageError if the radio was not there to
        be silenced."""
        try:
            self._silence()
        except OutageError:
            if kind is None:
                raise
        finally:
            self._release()

    # ------------------------------------------------------------------------------------------
    # settings

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
        settings = self.settings.changed(
            rx_gain_db=rx_gain_db,
            tx_attenuation_db=tx_attenuation_db,
            rx_lo_hz=rx_lo_hz,
            tx_lo_hz=tx_lo_hz,
            loopback=loopback,
        )
        if self._tx is not None:
            self.require_permission(settings)
        self._apply(settings)
        self.settings = settings

    def temperature_c(self) -> float:
        """Temperature of the transceiver chip, in degrees Celsius."""
        with self._talking("reading temp0"):
            phy = self._sdr.ctx.find_device(_DEVICES[0])
            return float(phy.find_channel("temp0").attrs["input"].value) / 1000

    def _prepare(self) -> None:
        """Undo what another program may have left behind and no setting covers."""
        with self._talking("preparing"):
            self._sdr.tx_hardwaregain_chan0 = -MAX_ATTENUATION_DB
            self._sdr.dds_scales = [0.0] * 4
            self._sdr.disable_dds()
            self._sdr.gain_control_mode_chan0 = "manual"  # else a gain is ignored without a word
            phy = self._sdr.ctx.find_device(_DEVICES[0])
            for name in _TRACKING:
                phy.find_channel("voltage0").attrs[name].value = "1"
            for device, count in (
                (_DEVICES[1], TX_KERNEL_BUFFERS),
                (_DEVICES[2], self.settings.kernel_buffers),
            ):
                self._sdr.ctx.find_device(device).set_kernel_buffers_count(count)

    def _apply(self, settings: PlutoSettings) -> None:
        """Write what differs from what was written before, then read everything back."""
        wanted = _wanted(settings)
        if self._set.get("sample_rate") != wanted["sample_rate"]:
            self._set = {}  # a new rate may move the filters
        for name, value in wanted.items():
            if self._set.get(name) != value:
                with self._talking(f"setting {name} = {value}"):
                    setattr(self._sdr, name, value)
        self._set = wanted
        for name, value in wanted.items():
            with self._talking(f"reading {name}"):
                got = getattr(self._sdr, name)
            if abs(got - value) > _TOLERANCES[name]:
                self._set = {}
                raise DeviceError(
                    f"Pluto {settings.uri}: {name} was set to {value:.10g} and reads {got:.10g} "
                    f"(tolerance {_TOLERANCES[name]:g}); the board cannot do this value, or "
                    "another program uses it"
                )

    def _silence(self) -> None:
        """Leave nothing on the air: without buffers the transmitter falls back to its tone
        generators."""
        with self._talking("silencing the transmitter"):
            self._sdr.tx_hardwaregain_chan0 = -MAX_ATTENUATION_DB
            self.stop_transmit()
            self._sdr.dds_scales = [0.0] * 4
            self._sdr.loopback = 0
            self._power_carrier(on=True)  # other programs expect it; the attenuation keeps it quiet

    def _leave(self) -> None:
        """Silence and release the radio at the interpreter's end."""
        with suppress(OutageError):
            self._silence()
        self._release()

    def _release(self) -> None:
        """Free buffers, then the context, in this order."""
        self._rx = self._tx = None
        self._sdr = None
        atexit.unregister(self._leave)

    # -------------------------------------------------------------------------------------------
    # receive

    def start_receive(self) -> None:
        """Open the receive buffers anew: nothing that was captured before is read after."""
        self.stop_receive()
        with self._talking("opening the receive buffer"):
            self._rx = self._open_buffer(
                _DEVICES[2], output=False, samples=self.settings.buffer_samples
            )

    def read(self) -> Integers:
        """The next buffer's samples, without a gap to the last one's as long as kernel_buffers of
        them are not late."""
        if self._rx is None:
            self.start_receive()
        with self._talking("receiving"):
            self._rx.refill()
            return np.frombuffer(self._rx.read(), np.int16)

    def stop_receive(self) -> None:
        """Close the receive buffers."""
        self._rx = None

    def read_fresh(self, n_samples: int) -> Integers:
        """The next samples in one piece, from receive buffers that are opened for them; int16[2 *
        n_samples]."""
        self.start_receive()
        self.read()  # may hold what was on its way through the filters before
        chunks = [self.read() for _ in range(math.ceil(n_samples / self.settings.buffer_samples))]
        self.stop_receive()
        # each buffer has a connection of its own: what is transmitted may have ended unnoticed
        self.temperature_c()
        return np.concatenate(chunks)[: 2 * n_samples]

    def capture(self, n_samples: int) -> IQ:
        """read_fresh as complex64[n_samples]."""
        iq, clipped = from_adc(self.read_fresh(n_samples))
        self.clipped_samples += clipped
        return iq

    # ------------------------------------------------------------------------------------------
    # transmit

    def start_transmit(self) -> None:
        """Open the transmit buffers anew, for write().

        Raises:
            ConfigError: transmitting is not allowed.
        """
        self.require_permission()
        self._tx = None  # a second one is refused while there is one
        self._power_carrier(on=True)
        with self._talking("opening the transmit buffer"):
            self._tx = self._open_buffer(
                _DEVICES[1], output=True, samples=self.settings.buffer_samples
            )

    def write(self, integers: Integers) -> None:
        """Send one buffer's samples behind those sent before; waits while TX_KERNEL_BUFFERS are
        queued.

        Args:
            integers: int16[2 * buffer_samples], from to_dac.

        Raises:
            ConfigError: transmitting is not allowed.
        """
        self.require_permission()
        samples = self.settings.buffer_samples
        if len(integers) != 2 * samples:
            raise DeviceError(f"Pluto write: {len(integers) // 2} samples; a buffer has {samples}")
        if self._tx is None:
            self.start_transmit()
        self._push(integers)

    def repeat(self, integers: Integers) -> None:
        """Send samples over and over, until stop_transmit or the next repeat.

        Args:
            integers: int16[2 N], N even (the DMA moves two samples at a time), from to_dac.

        Raises:
            ConfigError: transmitting is not allowed.
        """
        self.require_permission()
        if len(integers) == 0 or len(integers) % 4:
            raise DeviceError(
                f"Pluto cyclic transmit: {len(integers) // 2} samples; the DMA needs an even number"
            )
        self._tx = None  # a second one is refused while there is one
        self._power_carrier(on=True)
        with self._talking("opening the cyclic transmit buffer"):
            self._tx = self._open_buffer(
                _DEVICES[1], output=True, samples=len(integers) // 2, cyclic=True
            )
        self._push(integers)

    def transmit_cyclic(self, iq: IQ) -> None:
        """repeat() for samples, |iq| <= 1."""
        self.repeat(to_dac(iq))

    def stop_transmit(self) -> None:
        """Drop what is queued or repeated, and fall silent, carrier included."""
        if self._tx is not None:
            self._tx = None
            self._power_carrier(on=False)

    def _power_carrier(self, *, on: bool) -> None:
        with self._talking("switching the transmit carrier"):
            phy = self._sdr.ctx.find_device(_DEVICES[0])
            phy.find_channel("altvoltage1", True).attrs["powerdown"].value = str(int(not on))

    def _push(self, integers: Integers) -> None:
        with self._talking("transmitting"):
            self._tx.write(bytearray(integers.tobytes()))
            self._tx.push()

    def require_permission(self, settings: PlutoSettings | None = None) -> None:
        """Return if a signal at full scale may leave with these settings, else those that are set.

        Raises:
            ConfigError: it may not.
        """
        settings = settings or self.settings
        self._permission.require(settings.tx_lo_hz, settings.tx_filter_hz, settings.power_dbm)

    # -------------------------------------------------------------------------------------------
    # library

    def _open_buffer(self, device: str, *, output: bool, samples: int, cyclic: bool = False) -> Any:
        stream = self._sdr.ctx.find_device(device)
        for channel in ("voltage0", "voltage1"):
            stream.find_channel(channel, output).enabled = True
        return self._buffer_class(stream, samples, cyclic)

    @contextmanager
    def _talking(self, what: str) -> Iterator[None]:
        """Name the radio and what was asked of it in whatever the library raises."""
        try:
            yield
        except OSError as error:
            text = f"Pluto {self.settings.uri}, {what}: {error.strerror} (errno {error.errno})"
            if error.errno in _REFUSED and what != _CONNECTING:
                raise DeviceError(f"{text}; the radio refuses this") from error
            raise OutageError(
                f"{text}; check cable, power and that no other program uses it"
            ) from error


_DEVICES: Final = ("ad9361-phy", "cf-ad9361-dds-core-lpc", "cf-ad9361-lpc")

_TOLERANCES: Final = {
    "sample_rate": 4.0,
    "tx_lo": 8.0,
    "rx_lo": 8.0,
    "tx_rf_bandwidth": 4.0,
    "rx_rf_bandwidth": 4.0,
    "loopback": 0.0,
    "rx_hardwaregain_chan0": 1.0,
    "tx_hardwaregain_chan0": 0.25,
}
"""Most that a value may read back otherwise than it was written: steps of the synthesizers, the
gain table, the attenuator."""


def _wanted(settings: PlutoSettings) -> dict[str, float]:
    """pyadi-iio's names and values, in the order in which they are written: the transmitter opens
    up last."""
    return {
        "sample_rate": round(settings.rate_hz),
        "tx_lo": round(settings.tx_lo_hz),
        "rx_lo": round(settings.rx_lo_hz),
        "tx_rf_bandwidth": round(settings.tx_filter_hz),
        "rx_rf_bandwidth": round(settings.rx_filter_hz),
        "loopback": int(settings.loopback == "digital"),
        "rx_hardwaregain_chan0": float(settings.rx_gain_db),
        "tx_hardwaregain_chan0": -float(settings.tx_attenuation_db),
    }


def _client() -> tuple[Any, Any]:
    """pyadi-iio's Pluto and pylibiio, imported.

    Raises:
        DeviceError: they, or the library below them, are not there; it says what to install.
    """
    try:
        iio = importlib.import_module("iio")
        return importlib.import_module("adi.ad936x").Pluto, iio
    except (
        ImportError,
        AttributeError,
        OSError,
    ) as error:  # pylibiio looks for symbols in whatever it finds
        raise DeviceError(_cure(error)) from error


def _cure(error: Exception) -> str:
    install = "pip install 'hil-lora-testbed[pluto]'"
    versions = {}
    for package in ("pyadi-iio", "pylibiio"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            return f"a Pluto needs {package}, which is not installed: {install}"
    if not versions["pylibiio"].startswith("0."):
        return (
            f"pylibiio {versions['pylibiio']} does not fit libiio 0.x: pip install 'pylibiio==0.25'"
        )
    if find_library("iio") is None:
        return "a Pluto needs the library libiio, which is not installed: apt-get install libiio0"
    return f"pyadi-iio cannot be imported: {error}; try {install}"
