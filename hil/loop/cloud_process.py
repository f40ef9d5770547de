"""`hil cloud`: the loop with an edge on another machine, joined to it by a radio and a broker
alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cloud.model.base_model import BaseModel
from hil.contract import ScoreSet
from hil.control.opening import open_bus
from hil.loop.edge_client import EdgeClient
from hil.loop.rounds import Bench, Watcher, run
from hil.radio_kinds.pluto import PlutoSendingRadio
from hil.radio_kinds.pluto_devices import real_radio
from hil.settings import Settings


def run_cloud(settings: Settings, watcher: Watcher) -> Path:
    """Run the closed loop with a `hil edge` elsewhere; gives the run's folder.

    Args:
        settings: the run's settings; radio.uri names the transmitter. The edge needs the same
            [radio] and [control].
        watcher: hears of the run's progress.
    Raises:
        ConfigError: [radio] is simulated, or [control] names no broker.
        ControlError: no edge answers within control.timeout_s, or one with another model or other
            score sets.
        HilError: as hil.loop.run.
    """
    real_radio(settings, "hil cloud")
    return run(settings, watcher, sending_bench)


def sending_bench(
    settings: Settings, folder: Path, base: BaseModel, score_sets: list[ScoreSet], stack: ExitStack
) -> Bench:
    """The sending end of the radio, and an edge in another process."""
    radio = real_radio(settings, "hil cloud")
    bus = stack.enter_context(open_bus(settings.control, "cloud"))
    rounds, seed = settings.run.rounds, settings.run.seed
    sending = stack.enter_context(PlutoSendingRadio(radio, settings.calibration, rounds, seed, bus))
    air = {"rate_hz": radio.rate_hz, "lo_hz": radio.lo_hz}
    edge = EdgeClient(bus, settings.control.timeout_s)
    return Bench(
        sending, edge, air, on_connected=lambda status: sending.set_receiver(status.receiver)
    )
