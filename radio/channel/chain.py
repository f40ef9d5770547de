"""Impairments one after another, and which of them remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from hil.contract import IQ, ChannelModel


@runtime_checkable
class Medium(Protocol):
    """A ChannelModel with a time of its own: what it does to one call goes on where the last call
    ended.

    Attributes:
        sample_rate_hz: rate of the samples, > 0; may be changed between calls.
    """

    sample_rate_hz: float

    @property
    def tail_samples(self) -> int:
        """Silent samples that must follow the last one before all of it has come out."""
        ...

    def advance(self, seconds: float) -> None:
        """Let time pass in which nothing is sent."""
        ...

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples behind the impairment; some may come with the next call only."""
        ...


@dataclass(frozen=True, slots=True)
class RandomDelay:
    """A pause of 0..max_samples before the samples, uniform."""

    max_samples: int

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples behind the pause."""
        return np.concatenate([np.zeros(int(rng.integers(self.max_samples + 1)), np.complex64), iq])


@dataclass(frozen=True, slots=True)
class Chain:
    """Impairments one after another."""

    models: tuple[ChannelModel, ...]

    @property
    def media(self) -> tuple[Medium, ...]:
        """Those of them that remember, in chains within this one as well."""
        found: list[Medium] = []
        for model in self.models:
            if isinstance(model, Chain):
                found += model.media
            elif isinstance(model, Medium):
                found.append(model)
        return tuple(found)

    @property
    def tail_samples(self) -> int:
        """Silent samples that must follow the last one before all of it has come out."""
        return sum(medium.tail_samples for medium in self.media)

    def set_sample_rate(self, sample_rate_hz: float) -> None:
        """Change the rate of all samples to come."""
        for medium in self.media:
            if medium.sample_rate_hz != sample_rate_hz:
                medium.sample_rate_hz = sample_rate_hz

    def advance(self, seconds: float) -> None:
        """Let time pass in which nothing is sent."""
        for medium in self.media:
            medium.advance(seconds)

    def __call__(self, iq: IQ, rng: np.random.Generator) -> IQ:
        """The samples behind all of them."""
        for model in self.models:
            iq = model(iq, rng)
        return iq
