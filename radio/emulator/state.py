"""State of an emulated Pluto: its settings as the driver would hold them, and what it refuses.

Ranges and steps are those of the AD9363/AD9364 with ADI's driver: AD9364 data sheet and reference
manual UG-673/UG-570 (synthesiser, clock chain, FIR), Pluto's 325 MHz..3.8 GHz tuning range.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, field
from typing import Final, Literal

from radio.emulator.front_end import RfSettings, Tone
from radio.emulator.protocol import RefusedError

LO_RANGE_HZ: Final = (325_000_000, 3_800_000_000)
BANDWIDTH_RANGE_HZ: Final = (200_000, 56_000_000)
MAX_RATE_HZ: Final = 61_440_000
GAIN_RANGE_DB: Final = (-3, 71)
MAX_ATTENUATION_DB: Final = 89.75
CRYSTAL_HZ: Final = 40_000_000
CRYSTAL_RANGE_HZ: Final = (39_992_000, 40_008_000)
GAIN_MODES: Final = ("manual", "fast_attack", "slow_attack", "hybrid")
ENSM_MODES: Final = ("sleep", "wait", "alert", "fdd", "pinctrl", "pinctrl_fdd_indep")
CALIBRATIONS: Final = (
    "auto",
    "manual",
    "manual_tx_quad",
    "tx_quad",
    "rf_dc_offs",
    "rssi_gain_step",
)
RX_PORTS: Final = (
    "A_BALANCED B_BALANCED C_BALANCED A_N A_P B_N B_P C_N C_P TX_MONITOR1 TX_MONITOR2 TX_MONITOR1_2"
).split()
TX_PORTS: Final = ("A", "B")
STATUS_REGISTER: Final = 0x80000088
"""Interface status of both converter cores: RX overflow and TX underflow, cleared by writing the
bit."""
OVERFLOW_BIT: Final = 1 << 2
UNDERFLOW_BIT: Final = 1 << 0

_MIN_CONVERTER_HZ: Final = 25_000_000
_MAX_CONVERTER_HZ: Final = 320_000_000
_HALF_BANDS: Final = ((3, 2, 2), (2, 2, 2), (3, 2, 1), (2, 2, 1), (3, 1, 1), (2, 1, 1), (1, 1, 1))
"""Factors of the three half-band stages, converter side first, the largest product first."""
_MIN_BBPLL_HZ: Final = 715_000_000
_VCO_MIN_HZ: Final = 6e9
_PLL_REFERENCE_HZ: Final = 80e6
_PLL_MODULUS: Final = 8_388_593
_REGISTER_BITS: Final = 0xFFFFFFFF
_DDS_STEPS: Final = 1 << 16
_TONE_CHANNELS: Final[tuple[Literal["I", "Q"], ...]] = ("I", "I", "Q", "Q")


@dataclass(frozen=True, slots=True)
class Fir:
    """A programmable filter as the driver takes it.

    Attributes:
        taps: number of taps, a multiple of 16 up to 128.
        decimation, interpolation: 1, 2 or 4.
    """

    taps: int
    decimation: int
    interpolation: int


@dataclass(slots=True)
class Dds:
    """One of the four tone generators.

    Attributes:
        enabled: it sounds whenever no buffer is being sent.
        frequency_hz: 0..rate / 2.
        scale: amplitude relative to full scale, 0..1.
        phase_mdeg: thousandths of a degree, 0..360,000.
    """

    enabled: bool = True
    frequency_hz: float = 1e6
    scale: float = 0.0
    phase_mdeg: int = 0


def _refuse_outside(value: float, limits: tuple[float, float]) -> None:
    if not limits[0] <= value <= limits[1]:
        raise RefusedError(errno.EINVAL)


@dataclass(slots=True)
class RadioState:
    """Everything a Pluto keeps from one client to the next; the values are those after power-on.

    Attributes:
        lo_hz: carrier frequencies, as the synthesiser makes them ("rx", "tx").
        lo_on: True where that oscillator runs.
        rate_hz: sample rate of both directions.
        gain_mode: one of GAIN_MODES. The gain control itself is not emulated: under it the gain
            stays where it is.
        gain_db: receive gain, whole dB.
        attenuation_db: attenuation of the transmitter, >= 0, in steps of 0.25 dB.
        bandwidth_hz: widths of the analogue filters ("rx", "tx").
        loopback: 0 none, 1 digital from TX to RX.
        crystal_hz: what the driver takes its crystal for (xo_correction).
        switches: the on/off settings that change nothing here, by name.
        choices: the settings by word that change nothing here but "ensm_mode", by name.
        dds: the four tone generators: I F1, I F2, Q F1, Q F2.
        registers: what was written by address, device by device.
        selected_register: the address that the next read gives, device by device.
        temperature_c: temperature of the chip, degrees Celsius.
        rssi_db: power of the last received buffer below full scale, plus the gain.
    """

    lo_hz: dict[str, float] = field(default_factory=lambda: {"rx": 2.4e9, "tx": 2.45e9})
    lo_on: dict[str, bool] = field(default_factory=lambda: {"rx": True, "tx": True})
    rate_hz: int = 30_720_000
    fir: Fir | None = None
    fir_enabled: bool = False
    gain_mode: str = "slow_attack"
    gain_db: int = 71
    attenuation_db: float = 10.0
    bandwidth_hz: dict[str, int] = field(
        default_factory=lambda: {"rx": 18_000_000, "tx": 18_000_000}
    )
    loopback: int = 0
    crystal_hz: int = CRYSTAL_HZ
    switches: dict[str, bool] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    dds: tuple[Dds, Dds, Dds, Dds] = field(default_factory=lambda: (Dds(), Dds(), Dds(), Dds()))
    registers: dict[str, dict[int, int]] = field(default_factory=dict)
    selected_register: dict[str, int] = field(default_factory=dict)
    temperature_c: float = 35.0
    rssi_db: float = 0.0

    def __post_init__(self) -> None:
        for path, lo_hz in self.lo_hz.items():
            self.set_lo(path, round(lo_hz))
        for index, dds in enumerate(self.dds):
            self.set_tone_frequency(index, dds.frequency_hz)

    def set_lo(self, path: str, lo_hz: int) -> None:
        """Tune to the nearest frequency that the fractional-N synthesiser can make (steps of at
        most 4.8 Hz)."""
        _refuse_outside(lo_hz, LO_RANGE_HZ)
        divider = 1 << math.ceil(math.log2(_VCO_MIN_HZ / lo_hz))
        word = round(lo_hz * divider / _PLL_REFERENCE_HZ * _PLL_MODULUS)
        self.lo_hz[path] = word * _PLL_REFERENCE_HZ / _PLL_MODULUS / divider

    def set_rate(self, rate_hz: int) -> None:
        """Set the sample rate of both directions."""
        self._require_clocks(rate_hz, self.fir if self.fir_enabled else None)
        self.rate_hz = rate_hz

    def enable_fir(self, enabled: bool) -> None:
        """Switch the programmable filters; refused without any, or where the rate needs the other
        choice."""
        if enabled and self.fir is None:
            raise RefusedError(errno.EINVAL)
        self._require_clocks(self.rate_hz, self.fir if enabled else None)
        self.fir_enabled = enabled

    def _require_clocks(self, rate_hz: int, fir: Fir | None) -> None:
        slowest = _MIN_CONVERTER_HZ // 12 // (fir.decimation if fir else 1)
        _refuse_outside(rate_hz, (slowest, MAX_RATE_HZ))
        if fir and fir.taps > 16 * (_converter_hz(rate_hz * fir.interpolation) // rate_hz):
            raise RefusedError(errno.EINVAL)

    def set_gain(self, gain_db: float) -> None:
        """Set the receive gain; the gain control must be off."""
        if self.gain_mode != "manual":
            raise RefusedError(errno.EOPNOTSUPP)
        _refuse_outside(gain_db, GAIN_RANGE_DB)
        self.gain_db = math.trunc(gain_db)

    def set_attenuation(self, gain_db: float) -> None:
        """Set the transmit attenuation from a gain of -89.75..0 dB."""
        _refuse_outside(gain_db, (-MAX_ATTENUATION_DB, 0.0))
        self.attenuation_db = math.floor(-gain_db * 4 + 1e-9) / 4

    def set_bandwidth(self, path: str, bandwidth_hz: int) -> None:
        """Set an analogue filter's bandwidth."""
        _refuse_outside(bandwidth_hz, BANDWIDTH_RANGE_HZ)
        self.bandwidth_hz[path] = bandwidth_hz

    def set_crystal(self, crystal_hz: int) -> None:
        """Tell the driver what its crystal really swings at."""
        _refuse_outside(crystal_hz, CRYSTAL_RANGE_HZ)
        self.crystal_hz = crystal_hz

    def set_tone_frequency(self, index: int, frequency_hz: float) -> None:
        """Set a tone to the nearest of the generator's 2^16 steps per sample rate."""
        _refuse_outside(frequency_hz, (0, self.rate_hz / 2))
        self.dds[index].frequency_hz = (
            round(frequency_hz / self.rate_hz * _DDS_STEPS) * self.rate_hz / _DDS_STEPS
        )

    def set_tone_scale(self, index: int, scale: float) -> None:
        """Set a tone's amplitude."""
        _refuse_outside(scale, (0.0, 1.0))
        self.dds[index].scale = scale

    def set_tone_phase(self, index: int, phase_mdeg: float) -> None:
        """Set a tone's phase."""
        _refuse_outside(phase_mdeg, (0, 360_000))
        self.dds[index].phase_mdeg = round(phase_mdeg)

    def read_register(self, device: str) -> int:
        """The register that was selected last; 0 for one that nobody wrote."""
        return self.registers.get(device, {}).get(self.selected_register.get(device, 0), 0)

    def write_register(self, device: str, address: int, value: int) -> None:
        """Set a register; in the status register the bits written are cleared."""
        registers = self.registers.setdefault(device, {})
        kept = registers.get(address, 0) & ~value if address == STATUS_REGISTER else value
        registers[address] = kept & _REGISTER_BITS

    def raise_status(self, device: str, bit: int) -> None:
        """Set a bit of the status register."""
        registers = self.registers.setdefault(device, {})
        registers[STATUS_REGISTER] = registers.get(STATUS_REGISTER, 0) | bit

    def rx_path_rates(self) -> str:
        """The receiver's clock chain as the driver writes it."""
        return self._path_rates("BBPLL ADC R2 R1 RF RXSAMP", self.fir.decimation if self.fir else 1)

    def tx_path_rates(self) -> str:
        """The transmitter's clock chain as the driver writes it."""
        return self._path_rates(
            "BBPLL DAC T2 T1 TF TXSAMP", self.fir.interpolation if self.fir else 1
        )

    def _path_rates(self, names: str, factor: int) -> str:
        filter_hz = self.rate_hz * (factor if self.fir_enabled else 1)
        third, second, first = _half_bands(filter_hz)
        converter_hz = filter_hz * third * second * first
        pll_hz = converter_hz
        while pll_hz < _MIN_BBPLL_HZ:
            pll_hz *= 2
        rates = (
            pll_hz,
            converter_hz,
            filter_hz * second * first,
            filter_hz * first,
            filter_hz,
            self.rate_hz,
        )
        return " ".join(f"{name}:{rate}" for name, rate in zip(names.split(), rates, strict=True))

    def rf_settings(self) -> RfSettings:
        """Settings for the ether. Dividers set for another crystal than the real one miss by their
        ratio."""
        trim = CRYSTAL_HZ / self.crystal_hz
        tones = (
            Tone(
                frequency_hz=dds.frequency_hz,
                scale=dds.scale,
                phase_deg=dds.phase_mdeg / 1000,
                channel=channel,
            )
            for dds, channel in zip(self.dds, _TONE_CHANNELS, strict=True)
            if dds.enabled and dds.scale > 0
        )
        return RfSettings(
            rx_lo_hz=self.lo_hz["rx"] * trim,
            tx_lo_hz=self.lo_hz["tx"] * trim,
            rate_hz=self.rate_hz * trim,
            rx_gain_db=self.gain_db,
            tx_attenuation_db=self.attenuation_db,
            rx_bandwidth_hz=self.bandwidth_hz["rx"],
            tx_bandwidth_hz=self.bandwidth_hz["tx"],
            loopback=self.loopback,
            tx_lo_on=self.lo_on["tx"] and self.choices.get("ensm_mode", "fdd") == "fdd",
            tones=tuple(tones),
        )


def _half_bands(filter_hz: int) -> tuple[int, int, int]:
    for stages in _HALF_BANDS:
        if filter_hz * math.prod(stages) <= _MAX_CONVERTER_HZ:
            return stages
    return _HALF_BANDS[-1]


def _converter_hz(filter_hz: int) -> int:
    return filter_hz * math.prod(_half_bands(filter_hz))


def parse_fir(text: str) -> Fir:
    """The filter in a configuration of ADI's driver: "RX 3 GAIN -6 DEC 4", "TX 3 GAIN 0 INT 4",
    then "tx,rx" taps.

    Raises:
        RefusedError: EINVAL for another form, or figures out of range.
    """
    factors: dict[str, int] = {}
    taps = 0
    try:
        for line in filter(None, (line.strip() for line in text.splitlines())):
            words = line.replace(",", " ").split()
            if words[0] in ("RX", "TX"):
                factors[words[0]] = int(words[5])
            elif words[0] not in ("#", "RRX", "RTX", "BWRX", "BWTX"):
                if not all(-(1 << 15) <= int(word) < 1 << 15 for word in words) or len(words) != 2:
                    raise RefusedError(errno.EINVAL)
                taps += 1
        fir = Fir(taps=taps, decimation=factors["RX"], interpolation=factors["TX"])
    except (ValueError, KeyError, IndexError):
        raise RefusedError(errno.EINVAL) from None
    if not {fir.decimation, fir.interpolation} <= {1, 2, 4} or taps % 16 or not 0 < taps <= 128:
        raise RefusedError(errno.EINVAL)
    return fir
