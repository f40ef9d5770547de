"""`hil emulate-pluto`: Plutos in software, for this and other programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Final

from hil.contract import ConfigError
from hil.radio_kinds.conditions import seeded, values
from hil.settings import Settings
from hil.settings.pluto import EmulatorSettings, PlutoRadio
from hil.system.signals import until_signalled
from radio.channel import figures as channel_figures
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
    losses_db = path_losses_db(settings)
    specs = [
        NodeSpec(ppm=emulator.ppm[index] if index < len(emulator.ppm) else 0.0)
        for index in range(nodes)
    ]
    ether = Ether(
        specs,
        clock=RealTime() if real_time else VirtualTime(),
        path_loss_db=losses_db[0],
        figures=channel_figures(radio.channel.preset, **radio.channel.overrides()),
        seed=emulator.seed,
    )
    with until_signalled() as ended, EmulatedPlutos(ether, ports=ports) as plutos:
        print(*plutos.uris, sep="\n", flush=True)
        for path_loss_db in cycle(losses_db):
            ether.path_loss_db = path_loss_db
            if ended.wait(emulator.dwell_s):
                return


def path_losses_db(settings: Settings) -> list[float]:
    """Path losses that give the SNRs of [radio.channel] in turn, for radios set as in [radio]."""
    radio = settings.radio
    rf, seed = RfSettings(), EmulatorSettings().seed
    if isinstance(radio, PlutoRadio):
        seed = radio.emulator.seed
        rf = RfSettings(
            rx_lo_hz=radio.lo_hz,
            tx_lo_hz=radio.lo_hz,
            rate_hz=radio.rate_hz,
            rx_gain_db=radio.rx_gain_db,
            tx_attenuation_db=radio.tx_attenuation_db,
        )
    node = NodeSpec()
    snr_db = values(radio.channel.snr_db, _VALUES, seeded(seed, "snr"), "channel.snr_db").tolist()
    losses_db = {
        snr: loss_for_snr_db(node, rf, node, rf, snr_db=snr, tx_rms_dbfs=BURST_RMS_DBFS)
        for snr in set(snr_db)
    }
    return [losses_db[snr] for snr in snr_db]
