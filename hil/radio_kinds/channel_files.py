"""Files that a simulated channel comes from: opened, and named in records."""

from __future__ import annotations

from pathlib import Path

from hil.contract import ConfigError
from hil.radio_kinds.conditions import seeded
from hil.settings.channel import ChannelSettings
from hil.settings.interferer import (
    AnyInterferer,
    BurstInterferer,
    NoiseInterferer,
    RecordedInterferer,
    ToneInterferer,
)
from hil.settings.radio import LoopbackRadio
from hil.settings.trajectories import Csv, Replay
from hil.system.whole_file import file_sha256
from radio.channel import Figures, figures
from radio.channel.interferer import Bursts, Interferer, Tone, Waveform, WhiteNoise, read_recorded


def figures_of(channel: ChannelSettings) -> Figures:
    """The figures of a [radio.channel]. Raises ConfigError."""
    return figures(channel.shipped_preset, **channel.overrides())


def interferer_of(channel: ChannelSettings, seed: int) -> Interferer | None:
    """Who else is on the air.

    Raises:
        ConfigError: a recording cannot be read.
    """
    if channel.interferer is None:
        return None
    return Interferer(channel.interferer.inr_db, _waveform(channel.interferer, seed))


def _waveform(settings: AnyInterferer, seed: int) -> Waveform:
    noise_seed = int(seeded(seed, "interferer").integers(2**32))
    match settings:
        case NoiseInterferer():
            return WhiteNoise(noise_seed)
        case ToneInterferer(offset_hz=offset_hz):
            return Tone(offset_hz)
        case BurstInterferer(period_s=period_s, duty=duty):
            return Bursts(noise_seed, period_s, duty)
        case RecordedInterferer(path=path, rate_hz=rate_hz):
            return read_recorded(Path(path), rate_hz)


def sources(radio: LoopbackRadio) -> dict[str, dict[str, str]]:
    """Where each part of the channel comes from: its kind, and "file" and "sha256" where it has a
    file.

    Raises:
        ConfigError: a file cannot be read.
    """
    channel = radio.channel
    found = {"preset": {"kind": channel.preset}}
    for name, trajectory in (
        ("snr_db", channel.snr_db),
        ("bandwidth_hz", radio.bandwidth_hz),
        ("airtime_share", radio.airtime_share),
    ):
        found[name] = {"kind": trajectory.kind}
        if isinstance(trajectory, Csv):
            found[name] |= _identity(Path(trajectory.path))
        elif isinstance(trajectory, Replay):
            found[name] |= _identity(Path(trajectory.run) / "rounds.jsonl")
    profile = figures_of(channel)
    found["profile"] = {"kind": profile.profile}
    if profile.response_path:
        found["profile"] |= _identity(Path(profile.response_path))
    if channel.interferer is not None:
        found["interferer"] = {"kind": channel.interferer.kind}
        if isinstance(channel.interferer, RecordedInterferer):
            path = Path(channel.interferer.path)
            samples = path if path.suffix == ".npy" else path.with_suffix(".sigmf-data")
            found["interferer"] |= _identity(samples)
    return found


def _identity(path: Path) -> dict[str, str]:
    try:
        return {"file": str(path), "sha256": file_sha256(path)}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name another file") from error
