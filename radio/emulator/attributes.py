"""The table of devices, channels and attributes of a Pluto: what a client may read and write, as
text.

Attributes that the driver keeps in one sysfs file (both directions' sample rate, for example) act
on one setting here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from radio.emulator import state as limits
from radio.emulator import values
from radio.emulator.protocol import AttributeName, Direction, RefusedError
from radio.emulator.state import RadioState, parse_fir

PHY: Final = "ad9361-phy"
TX_CORE: Final = "cf-ad9361-dds-core-lpc"
RX_CORE: Final = "cf-ad9361-lpc"

Reader = Callable[[RadioState], str]
Writer = Callable[[RadioState, str], None]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One value that a client may read, and perhaps write.

    Attributes:
        name: name in the protocol.
        file: name of the sysfs file behind it; attributes of several channels may share one.
        read: its text.
        write: sets it from text, or raises RefusedError; None = read-only.
    """

    name: str
    file: str
    read: Reader
    write: Writer | None = None


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of a device.

    Attributes:
        direction, channel_id: together its identity.
        attributes: its values.
        name: a second name for it, or "".
        scan_index: place of its samples in a buffer; None: it has none.
        scan_format: format of those samples, as the kernel writes it.
    """

    direction: Direction
    channel_id: str
    attributes: tuple[Attribute, ...]
    name: str = ""
    scan_index: int | None = None
    scan_format: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the context."""

    device_id: str
    name: str
    channels: tuple[Channel, ...]
    attributes: tuple[Attribute, ...] = ()
    debug_attributes: tuple[Attribute, ...] = ()


# -------------------------------------------------------------------------------------------------
# kinds of attribute


def _switch(name: str, file: str) -> Attribute:
    def write(state: RadioState, text: str) -> None:
        state.switches[file] = values.flag(text)

    return Attribute(name, file, lambda state: str(int(state.switches.get(file, True))), write)


def _words(
    name: str, file: str, allowed: Sequence[str], default: str
) -> tuple[Attribute, Attribute]:
    def write(state: RadioState, text: str) -> None:
        state.choices[file] = values.choice(text, allowed)

    available = Attribute(f"{name}_available", f"{file}_available", lambda _: " ".join(allowed))
    return Attribute(name, file, lambda state: state.choices.get(file, default), write), available


def _available(name: str, file: str, low: int, high: int, step: int | float = 1) -> Attribute:
    return Attribute(f"{name}_available", f"{file}_available", lambda _: f"[{low} {step} {high}]")


def _oscillator(index: int, path: str) -> Channel:
    name = f"{path.upper()}_LO"
    prefix = f"out_altvoltage{index}_{name}"

    def set_power(state: RadioState, text: str) -> None:
        state.lo_on[path] = not values.flag(text)

    attributes = (
        Attribute(
            "frequency",
            f"{prefix}_frequency",
            lambda state: str(int(state.lo_hz[path] + 1e-3)),
            lambda state, text: state.set_lo(path, values.whole(text)),
        ),
        _available("frequency", f"{prefix}_frequency", *limits.LO_RANGE_HZ),
        Attribute(
            "powerdown",
            f"{prefix}_powerdown",
            lambda state: str(int(not state.lo_on[path])),
            set_power,
        ),
    )
    return Channel("out", f"altvoltage{index}", attributes, name=name)


def _rate(direction: Direction) -> Attribute:
    return Attribute(
        "sampling_frequency",
        f"{direction}_voltage_sampling_frequency",
        lambda state: str(state.rate_hz),
        lambda state, text: state.set_rate(int(values.decimal(text))),
    )


def _bandwidth(direction: Direction, path: str) -> tuple[Attribute, Attribute]:
    file = f"{direction}_voltage_rf_bandwidth"
    return (
        Attribute(
            "rf_bandwidth",
            file,
            lambda state: str(state.bandwidth_hz[path]),
            lambda state, text: state.set_bandwidth(path, values.whole(text)),
        ),
        _available("rf_bandwidth", file, *limits.BANDWIDTH_RANGE_HZ),
    )


def _core_rate(direction: Direction) -> tuple[Attribute, Attribute]:
    """The rate of a converter core: that of the chip; the division by 8 in the FPGA that it offers
    is refused."""

    def write(state: RadioState, text: str) -> None:
        if int(values.decimal(text)) != state.rate_hz:
            raise RefusedError(errno.EINVAL)

    file = f"{direction}_voltage_sampling_frequency"
    return (
        Attribute("sampling_frequency", file, lambda state: str(state.rate_hz), write),
        Attribute(
            "sampling_frequency_available",
            f"{file}_available",
            lambda state: f"{state.rate_hz} {state.rate_hz // 8}",
        ),
    )


def _register_access(device: str) -> Attribute:
    """One address written selects a register, address and value written set it; reading gives the
    selected one."""

    def write(state: RadioState, text: str) -> None:
        match [values.whole(word) for word in text.split()]:
            case [address]:
                state.selected_register[device] = address
            case [address, value]:
                state.write_register(device, address, value)
            case _:
                raise RefusedError(errno.EINVAL)

    return Attribute(
        "direct_reg_access",
        "direct_reg_access",
        lambda state: f"0x{state.read_register(device):X}",
        write,
    )


# -------------------------------------------------------------------------------------------------
# devices


def _receiver() -> Channel:
    def set_mode(state: RadioState, text: str) -> None:
        state.gain_mode = values.choice(text, limits.GAIN_MODES)

    low, high = limits.GAIN_RANGE_DB
    attributes = (
        Attribute(
            "gain_control_mode",
            "in_voltage0_gain_control_mode",
            lambda state: state.gain_mode,
            set_mode,
        ),
        Attribute(
            "gain_control_mode_available",
            "in_voltage_gain_control_mode_available",
            lambda _: " ".join(limits.GAIN_MODES),
        ),
        Attribute(
            "hardwaregain",
            "in_voltage0_hardwaregain",
            lambda state: f"{state.gain_db:.6f} dB",
            lambda state, text: state.set_gain(values.decimal(text)),
        ),
        _available("hardwaregain", "in_voltage0_hardwaregain", low, high),
        Attribute("rssi", "in_voltage0_rssi", lambda state: f"{state.rssi_db:.2f} dB"),
        *_bandwidth("in", "rx"),
        _rate("in"),
        _switch("quadrature_tracking_en", "in_voltage_quadrature_tracking_en"),
        _switch("rf_dc_offset_tracking_en", "in_voltage_rf_dc_offset_tracking_en"),
        _switch("bb_dc_offset_tracking_en", "in_voltage_bb_dc_offset_tracking_en"),
        *_words("rf_port_select", "in_voltage0_rf_port_select", limits.RX_PORTS, "A_BALANCED"),
    )
    return Channel("in", "voltage0", attributes)


def _transmitter() -> Channel:
    attributes = (
        Attribute(
            "hardwaregain",
            "out_voltage0_hardwaregain",
            lambda state: f"{-state.attenuation_db + 0.0:.6f} dB",
            lambda state, text: state.set_attenuation(values.decimal(text)),
        ),
        Attribute(
            "hardwaregain_available",
            "out_voltage0_hardwaregain_available",
            lambda _: f"[{-limits.MAX_ATTENUATION_DB} 0.25 0]",
        ),
        *_bandwidth("out", "tx"),
        _rate("out"),
        *_words("rf_port_select", "out_voltage0_rf_port_select", limits.TX_PORTS, "A"),
    )
    return Channel("out", "voltage0", attributes)


def _load_fir(state: RadioState, text: str) -> None:
    state.fir = parse_fir(text)


def _fir_text(state: RadioState) -> str:
    fir = state.fir
    if fir is None:
        return "FIR Rx: 0,0 Tx: 0,0"
    return f"FIR Rx: {fir.taps},{fir.decimation} Tx: {fir.taps},{fir.interpolation}"


def _set_loopback(state: RadioState, text: str) -> None:
    state.loopback = int(values.choice(text, ("0", "1")))


def _phy() -> Device:
    fir_switch = Attribute(
        "voltage_filter_fir_en",
        "in_out_voltage_filter_fir_en",
        lambda state: str(int(state.fir_enabled)),
        lambda state, text: state.enable_fir(values.flag(text)),
    )
    temperature = Attribute(
        "input", "in_temp0_input", lambda state: str(round(1000 * state.temperature_c))
    )
    return Device(
        "iio:device0",
        PHY,
        channels=(
            _oscillator(0, "rx"),
            _oscillator(1, "tx"),
            _receiver(),
            _transmitter(),
            Channel("in", "out", (fir_switch,)),
            Channel("in", "temp0", (temperature,)),
        ),
        attributes=(
            *_words("ensm_mode", "ensm_mode", limits.ENSM_MODES, "fdd"),
            *_words("calib_mode", "calib_mode", limits.CALIBRATIONS, "auto"),
            Attribute(
                "xo_correction",
                "xo_correction",
                lambda state: str(state.crystal_hz),
                lambda state, text: state.set_crystal(values.whole(text)),
            ),
            _available("xo_correction", "xo_correction", *limits.CRYSTAL_RANGE_HZ),
            Attribute("filter_fir_config", "filter_fir_config", _fir_text, _load_fir),
            Attribute("rx_path_rates", "rx_path_rates", RadioState.rx_path_rates),
            Attribute("tx_path_rates", "tx_path_rates", RadioState.tx_path_rates),
        ),
        debug_attributes=(
            Attribute("loopback", "loopback", lambda state: str(state.loopback), _set_loopback),
            _register_access(PHY),
        ),
    )


def _tone(index: int, name: str) -> Channel:
    def set_enabled(state: RadioState, text: str) -> None:
        state.dds[index].enabled = bool(values.whole(text))

    def set_scale(state: RadioState, text: str) -> None:
        state.set_tone_scale(index, values.decimal(text))

    def set_phase(state: RadioState, text: str) -> None:
        state.set_tone_phase(index, values.decimal(text))

    prefix = f"out_altvoltage{index}_{name}"
    attributes = (
        Attribute(
            "raw", f"{prefix}_raw", lambda state: str(int(state.dds[index].enabled)), set_enabled
        ),
        Attribute(
            "frequency",
            f"{prefix}_frequency",
            lambda state: str(round(state.dds[index].frequency_hz)),
            lambda state, text: state.set_tone_frequency(index, values.decimal(text)),
        ),
        Attribute(
            "phase", f"{prefix}_phase", lambda state: str(state.dds[index].phase_mdeg), set_phase
        ),
        Attribute(
            "scale", f"{prefix}_scale", lambda state: f"{state.dds[index].scale:.6f}", set_scale
        ),
    )
    return Channel("out", f"altvoltage{index}", attributes, name=name)


def _converter(
    device_id: str, name: str, direction: Direction, scan_format: str, tones: Sequence[Channel]
) -> Device:
    samples = (
        Channel(
            direction,
            f"voltage{index}",
            _core_rate(direction),
            scan_index=index,
            scan_format=scan_format,
        )
        for index in (0, 1)
    )
    return Device(
        device_id, name, channels=(*samples, *tones), debug_attributes=(_register_access(name),)
    )


DEVICES: Final = (
    _phy(),
    _converter(
        "iio:device1",
        TX_CORE,
        "out",
        "le:S16/16>>0",
        [
            _tone(index, name)
            for index, name in enumerate(("TX1_I_F1", "TX1_I_F2", "TX1_Q_F1", "TX1_Q_F2"))
        ],
    ),
    _converter("iio:device2", RX_CORE, "in", "le:S12/16>>0", []),
)
_BY_NAME: Final[Mapping[str, Device]] = {device.device_id: device for device in DEVICES} | {
    device.name: device for device in DEVICES
}


def device(name: str) -> Device:
    """The device of this id or name.

    Raises:
        RefusedError: ENODEV if there is none.
    """
    if name not in _BY_NAME:
        raise RefusedError(errno.ENODEV)
    return _BY_NAME[name]


def attribute(name: AttributeName) -> Attribute:
    """The attribute that a client means.

    Raises:
        RefusedError: ENODEV without such a device, ENOENT without such a channel or attribute.
    """
    owner = device(name.device)
    if name.channel is not None:
        direction, wanted = name.channel
        channels = [
            c
            for c in owner.channels
            if c.direction == direction and wanted in (c.channel_id, c.name)
        ]
        candidates = channels[0].attributes if channels else ()
    else:
        candidates = owner.debug_attributes if name.debug else owner.attributes
    for found in candidates:
        if found.name == name.attribute:
            return found
    raise RefusedError(errno.ENOENT)


def read(state: RadioState, name: AttributeName) -> str:
    """An attribute's text.

    Raises:
        RefusedError: ENODEV without such a device, ENOENT without such a channel or attribute.
    """
    return attribute(name).read(state)


def write(state: RadioState, name: AttributeName, value: bytes) -> None:
    """Set an attribute from the bytes of a client; a closing NUL and blanks around the value do not
    count.

    Raises:
        RefusedError: ENODEV, ENOENT as in read(); EPERM for a read-only one; what its setting
            refuses; EINVAL for other text.
    """
    found = attribute(name)
    if found.write is None:
        raise RefusedError(errno.EPERM)
    try:
        text = value.split(b"\0")[0].decode("ascii").strip()
    except UnicodeDecodeError:
        raise RefusedError(errno.EINVAL) from None
    found.write(state, text)
