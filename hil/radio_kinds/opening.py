"""The radio that [radio] of hil.toml asks for, where both of its ends are in this process."""

from __future__ import annotations

from pathlib import Path

from hil.control.bus import Bus
from hil.radio_kinds.round_radio import LinkRadio
from hil.radio_kinds.simulated import SimulatedRadio
from hil.settings import Settings
from hil.settings.radio import LoopbackRadio


def open_link_radio(settings: Settings, buses: tuple[Bus, Bus], iq_dir: Path | None) -> LinkRadio:
    """Both ends of the link, simulated or over real radios.

    Args:
        settings: the experiment; [radio], [calibration] and [run] count.
        buses: both ends of the control channel, (cloud, edge), for the feedback.
        iq_dir: folder for recordings, one a round; None for no recordings.
    Raises:
        ConfigError: the settings do not fit each other, or transmitting is not allowed.
        DeviceError: a radio cannot be opened.
    """
    run = settings.run
    if isinstance(settings.radio, LoopbackRadio):
        return SimulatedRadio(settings.radio, run.rounds, run.seed, buses, iq_dir)
    from hil.radio_kinds.pluto import PlutoPairRadio

    return PlutoPairRadio(settings.radio, settings.calibration, run.rounds, run.seed, buses, iq_dir)
