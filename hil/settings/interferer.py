"""[radio.channel.interferer] of hil.toml: who else is on the air."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from hil.settings.table import Table


class _Interferer(Table):
    inr_db: float = Field(ge=-60, le=80)
    """Interference-to-noise ratio: the interferer's mean power while it is on, over the receiver's
    noise, both in the whole sampled band."""

    @property
    def mean_inr_db(self) -> float:
        """The same with its mean power over all time."""
        return self.inr_db


class NoiseInterferer(_Interferer):
    """White noise over the whole band."""

    kind: Literal["noise"]


class ToneInterferer(_Interferer):
    """One unmodulated carrier."""

    kind: Literal["tone"]
    offset_hz: float = Field(ge=-50e6, le=50e6)
    """Frequency above the receiver's centre."""


class BurstInterferer(_Interferer):
    """White noise that goes on and off."""

    kind: Literal["burst"]
    period_s: float = Field(gt=0, le=3600)
    duty: float = Field(gt=0, lt=1)
    """Share of the period for which it is on, from its start."""

    @property
    def mean_inr_db(self) -> float:
        """See _Interferer; pauses count."""
        return self.inr_db + 10 * math.log10(self.duty)


class RecordedInterferer(_Interferer):
    """Recorded samples, again and again."""

    kind: Literal["recording"]
    path: str = Field(pattern=r"\.(npy|sigmf-meta|sigmf-data)$")
    rate_hz: float = Field(default=0.0, ge=0, le=100e6)
    """Sample rate of a .npy file; 0 = the receiver's, whatever it is. A SigMF recording has its
    own."""

    @model_validator(mode="after")
    def _one_rate(self) -> RecordedInterferer:
        if self.rate_hz and not self.path.endswith(".npy"):
            raise ValueError("rate_hz is for .npy files; a SigMF recording says its own")
        return self


AnyInterferer = NoiseInterferer | ToneInterferer | BurstInterferer | RecordedInterferer
