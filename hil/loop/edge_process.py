"""`hil edge`: an edge device of its own, joined to the cloud by a radio and a broker alone."""

from __future__ import annotations

import logging
import secrets
import time
from pathlib import Path
from typing import Final

from edge_device.bundle import load_bundle
from hil.contract import ControlError
from hil.control.feedback import EdgeFeedback
from hil.control.mqtt import MqttBus
from hil.control.opening import open_bus
from hil.loop.edge_server import READY, EdgeServer
from hil.radio_kinds.pluto_devices import open_receiver, real_radio, warm_up
from hil.settings import ControlSettings, Settings
from hil.system.signals import until_signalled
from radio.clocks import MonotonicClock
from radio.link import BlockStore, ReceivingEnd

_LISTEN_S: Final = 0.05
"""Air between two looks at the control channel."""
_RETRY_S: Final = 0.5
_FOREVER_S: Final = 1e9

_log = logging.getLogger(__name__)


def run_edge(settings: Settings, bundle_dir: Path, state_dir: Path) -> None:
    """Listen to the radio, take what the cloud offers, and answer, until SIGINT or SIGTERM; for the
    main thread.

    A cloud or a broker that goes away may come back at any time; a radio within radio.patience_s.

    Args:
        settings: the bench's settings; [radio], [control] and [edge] count. radio.receive_uri (or
            radio.uri) names the receiver.
        bundle_dir: folder that `hil provision` wrote.
        state_dir: folder of installed updates, and of blocks of updates that are not whole yet; no
            other process may use it.
    Raises:
        ConfigError: [radio] is simulated, or [control] names no broker.
        ModelError: the bundle is damaged, or its model cannot be served.
        DeviceError: the radio cannot be opened or stays away, the model process does not come back,
            the disk is full.
        ControlError: no broker answers within control.timeout_s, or it turns this edge away.
    """
    radio = real_radio(settings, "hil edge")
    bundle = load_bundle(bundle_dir)
    store = BlockStore(state_dir / "blocks")
    clock = MonotonicClock()
    with (
        until_signalled() as ended,
        _open_bus(settings.control) as bus,
        open_receiver(radio) as pluto,
    ):
        end = ReceivingEnd(pluto, EdgeFeedback(bus), clock, epoch=secrets.randbits(32), store=store)
        with EdgeServer(
            bundle,
            state_dir / "updates",
            bus,
            end.payload,
            settings.edge,
            rate_hz=radio.rate_hz,
            lo_hz=radio.lo_hz,
            receiver=pluto.identity.serial,
        ) as server:
            warm_up()
            server.report_status(READY)
            _log.info("%s listens at %.6g MHz", pluto.identity.serial, radio.lo_hz / 1e6)
            pluto.restart_receive()
            while not ended.is_set():
                end.listen(_LISTEN_S)
                if server.answer_next(0.0):
                    # what came meanwhile has waited too long to be answered
                    pluto.restart_receive()
                    end.receiver.flush(radio.rate_hz)
            _log.info("ends")


def _open_bus(settings: ControlSettings) -> MqttBus:
    """The edge's end of the control channel; waits for a broker that is not there yet."""
    deadline = time.monotonic() + settings.timeout_s
    problem = ""
    while True:
        try:
            return open_bus(settings, "edge", reconnect_timeout_s=_FOREVER_S)
        except ControlError as error:
            if time.monotonic() + _RETRY_S > deadline:
                raise
            if str(error) != problem:
                problem = str(error)
                _log.info("%s; trying again for %g s", problem, settings.timeout_s)
        time.sleep(_RETRY_S)
