"""[radio] of hil.toml, kind = "loopback": a simulated link."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hil.settings.channel import (
    BandwidthTrajectory,
    ChannelSettings,
    Constant,
    ShareTrajectory,
    Steps,
)
from hil.settings.table import Table


class LoopbackRadio(Table):
    """[radio] kind = "loopback": a simulated channel in place of the air."""

    kind: Literal["loopback"] = "loopback"
    bandwidth_hz: BandwidthTrajectory = Constant(value=1_570_312.5)
    """Occupied bandwidth: 201 of 256 subcarriers, so the sample rate is bandwidth x 256 / 201."""
    airtime_share: ShareTrajectory = Steps(kind="steps", values=[1.0, 0.6], dwell=3)
    deadline_s: float = Field(default=20.0, gt=0, le=3600)
    """Air time after which an update that has not arrived is given up."""
    record: bool = False
    """Write every round's received samples into the run's folder, iq/*.sigmf-*, for hil replay."""
    channel: ChannelSettings = ChannelSettings()
