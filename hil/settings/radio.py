"""[radio] of hil.toml, kind = "loopback": a simulated link."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hil.settings.channel import ChannelSettings
from hil.settings.table import Table
from hil.settings.trajectories import BandwidthTrajectory, Constant, ShareTrajectory, Steps


class LoopbackRadio(Table):
    """[radio] kind = "loopback": a simulated channel in place of the air."""

    kind: Literal["loopback"] = "loopback"
    bandwidth_hz: BandwidthTrajectory = Constant(value=1_570_312.5)
    """Occupied bandwidth: 201 of 256 subcarriers, so the sample rate is bandwidth x 256 / 201."""
    airtime_share: ShareTrajectory = Steps(kind="steps", values=[1.0, 0.6], dwell=3)
    round_period_s: float = Field(default=0.0, ge=0, le=86_400)
    """Time from the start of a round to the start of the next; 0 = a round starts where the one
    before has ended. A delivery that takes longer makes the next round late."""
    deadline_s: float = Field(default=20.0, gt=0, le=3600)
    """Air time after which an update that has not arrived is given up."""
    record: bool = False
    """Write every round's received samples into the run's folder, iq/*.sigmf-*, for hil replay."""
    channel: ChannelSettings = ChannelSettings()
