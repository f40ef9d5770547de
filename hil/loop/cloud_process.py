"""`hil cloud`: the loop with an edge on another machine, joined to it by a radio and a broker
alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cloud.model.base_model import BaseModel
from hil.contract import ScoreSet
from hil.control.opening import open_bus
from hil.loop.edge_client import EdgePeer
from hil.loop.rounds import Bench, Watcher, run
from hil.radio_kinds.pluto import PlutoSendingRadio
from hil.radio_kinds.pluto_devices import real_radio
from hil.settings import Settings


def run_cloud(settings: Settings, watcher: Watcher) -> Path:
    """The closed loop with the edge of `hil edge`, from the first round to the last; the run's
    folder.

    Args:
        settings: of the run; radio.uri is the radio here. The edge needs the same [radio] and
            [control].
        watcher: hears of its progress.
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
    peer = EdgePeer(bus, settings.control.timeout_s)
    return Bench(sending, peer, air, met=lambda status: sending.set_receiver(status.receiver))
