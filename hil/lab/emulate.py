"""`hil emulate-pluto`: Plutos in software, for this and other programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np

from hil.contract import ConfigError
from hil.radio_kinds.channel_files import figures_of, interferer_of
from hil.radio_kinds.conditions import LIMITS, seeded, trace_of, values
from hil.settings import Settings
from hil.settings.pluto import EmulatorSettings, PlutoRadio
from hil.settings.trajectories import AnyTrajectory, Csv
from hil.system.signals import until_signalled
from radio.channel.trace import read_column
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime, VirtualTime
from radio.emulator.ether import Ether
from radio.emulator.front_end import NodeSpec, RfSettings, loss_for_snr_db
from radio.modem.ofdm import RMS_LEVEL
from radio.pluto.permission import Band, Permission
from radio.pluto.samples import TX_UNIT
from radio.pluto.settings import PlutoSettings

MAX_NODES: Final = 16
BURST_RMS_DBFS: Final = 20 * math.log10(RMS_LEVEL * TX_UNIT / 2**15)
"""Level of the kit's bursts at the transmitter's converter."""
_VALUES: Final = 10_000
"""Values of a trajectory; then it begins again."""


BENCH_RATE_HZ: Final = 1e6
BENCH_LO_HZ: Final = 2.45e9
BENCH_PERMISSION: Final = Permission([Band(low_hz=2.4e9, high_hz=2.4835e9, max_dbm=-10.0)])
"""Band in which emulated radios that are tried out may transmit."""


def bench_settings(uri: str) -> PlutoSettings:
    """Settings of an emulated radio that is tried out."""
    return PlutoSettings(
        uri=uri,
        rate_hz=BENCH_RATE_HZ,
        tx_lo_hz=BENCH_LO_HZ,
        rx_lo_hz=BENCH_LO_HZ,
        rx_gain_db=40.0,
        tx_attenuation_db=20.0,
    )


def emulate_plutos(
    settings: Settings, nodes: int, *, ports: Sequence[int] = (), real_time: bool = True
) -> None:
    """Serve Plutos that share one ether, until a signal ends it.

    Their URIs are printed, a line each, once they can be reached. Only the main thread may call
    this: it alone receives signals.

    Args:
        settings: the experiment. [radio.channel] lies between any two antennas: its SNR is that of
            the kit's bursts at the carrier, rate, gain and attenuation of [radio].
        nodes: number of radios, 1..16.
        ports: TCP ports; further radios get a free one, and so do those with port 0.
        real_time: False: as fast as the clients read.

    Raises:
        ConfigError: a number of nodes out of range, more ports than nodes, or a figure out of
            range.
        DeviceError: a port that is taken.
    """
    if not 1 <= nodes <= MAX_NODES or len(ports) > nodes:
        raise ConfigError(
            f"{nodes} emulated Plutos with {len(ports)} ports; use 1..{MAX_NODES} of them, and at "
            "most as many ports"
        )
    radio = settings.radio
    emulator = radio.emulator if isinstance(radio, PlutoRadio) else EmulatorSettings()
    losses = path_losses(settings)
    specs = [
        NodeSpec(ppm=emulator.ppm[index] if index < len(emulator.ppm) else 0.0)
        for index in range(nodes)
    ]
    ether = Ether(
        specs,
        clock=RealTime() if real_time else VirtualTime(),
        path_loss_db=losses[0][0],
        figures=figures_of(radio.channel),
        interferer=interferer_of(radio.channel, emulator.seed),
        seed=emulator.seed,
    )
    with until_signalled() as ended, EmulatedPlutos(ether, ports=ports) as plutos:
        print(*plutos.uris, sep="\n", flush=True)
        for path_loss_db, dwell_s in cycle(losses):
            ether.path_loss_db = path_loss_db
            if ended.wait(dwell_s):
                return


def path_losses(settings: Settings) -> list[tuple[float, float]]:
    """Path losses in dB that give the SNRs of [radio.channel] in turn, for radios set as in
    [radio], and how many seconds each holds."""
    radio = settings.radio
    rf, emulator = RfSettings(), EmulatorSettings()
    if isinstance(radio, PlutoRadio):
        emulator = radio.emulator
        rf = RfSettings(
            rx_lo_hz=radio.lo_hz,
            tx_lo_hz=radio.lo_hz,
            rate_hz=radio.rate_hz,
            rx_gain_db=radio.rx_gain_db,
            tx_attenuation_db=radio.tx_attenuation_db,
        )
    node = NodeSpec()
    snr_db, dwells_s = _levels(radio.channel.snr_db, emulator)
    losses_db = {
        snr: loss_for_snr_db(node, rf, node, rf, snr_db=snr, tx_rms_dbfs=BURST_RMS_DBFS)
        for snr in set(snr_db)
    }
    return [(losses_db[snr], dwell_s) for snr, dwell_s in zip(snr_db, dwells_s, strict=True)]


def _levels(
    trajectory: AnyTrajectory, emulator: EmulatorSettings
) -> tuple[list[float], list[float]]:
    """SNRs, and how many seconds each holds; a file's rows are all there is."""
    name = "channel.snr_db"
    trace = trace_of(trajectory, name)
    if trace is not None:
        end_s = trace.duration_s if len(trace.values) > 1 else emulator.dwell_s
        return trace.values.tolist(), np.diff(trace.times_s, append=end_s).tolist()
    if isinstance(trajectory, Csv):
        found = read_column(Path(trajectory.path), trajectory.column, LIMITS[name])
    else:
        found = values(trajectory, _VALUES, seeded(emulator.seed, "snr"), name)
    return found.tolist(), [emulator.dwell_s] * len(found)
