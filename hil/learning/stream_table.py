"""What any plan for any round of a trained stream comes to, as arrays; of a real stream, or of an
invented one.

A stream is trained once at r_max, and a rank plan only decides what of it is sent. So it is enough
to know, for every round, what is missing at every rank and of every older update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hil import codec
from hil.contract import BaseSpec, Floats, Ints, TextState
from hil.rounding import ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class Knots:
    """Per round a rising line through Q points: nats that are expected to be missing → excess loss
    in nats per token.

    Beyond its ends it goes on as it was.

    Attributes:
        missing, excess: float64[T, Q], rising along Q, Q ≥ 2.
    """

    missing: Floats
    excess: Floats

    @classmethod
    def identity(cls, rounds: int) -> Knots:
        """What is expected is what comes."""
        line = np.tile([0.0, 1.0], (rounds, 1))
        return cls(missing=line, excess=line)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTable:
    """What any plan for any round of one stream comes to: T rounds, M modules, ranks 0..R.

    Attributes:
        module_shapes: adapted modules in canonical order, as (d_out, d_in).
        bits_per_direction: int64[M], payload bits of one more direction.
        overhead_bits: payload bits of an update whatever its ranks.
        texts: state of the text in each of the T rounds.
        spectra: float32[T, M, R], singular values.
        sent_kfac, sent_energy: float32[T, M, R + 1], what is missing in round t when r directions
            of it are sent (Residuals.missing_if_sent).
        kept_kfac, kept_energy: float32[T, M, R + 1, T], what is missing in the round of the last
            index when the edge holds r directions that were sent in the round of the first.
        base_losses, full_losses: float64[T], nats per token with nothing and with all R directions
            delivered.
        base_scores, full_scores: float64[T], the same in shares of right answers; NaN without
            labels.
        trial_missing, trial_excess: float64[T, K], what a policy is told of that line: MeasuredLoss
            of every round, from other examples of its text.
        knots: a line from missing nats to excess loss, on the items that rounds are scored on.
    """

    module_shapes: Mapping[str, tuple[int, int]]
    bits_per_direction: Ints
    overhead_bits: int
    texts: tuple[TextState, ...]
    spectra: NDArray[np.float32]
    sent_kfac: NDArray[np.float32]
    sent_energy: NDArray[np.float32]
    kept_kfac: NDArray[np.float32]
    kept_energy: NDArray[np.float32]
    base_losses: Floats
    full_losses: Floats
    base_scores: Floats
    full_scores: Floats
    trial_missing: Floats
    trial_excess: Floats
    knots: Knots

    @property
    def n_rounds(self) -> int:
        """T."""
        return len(self.texts)

    @property
    def r_max(self) -> int:
        """R."""
        return int(self.spectra.shape[2])

    @property
    def bits(self) -> Ints:
        """int64[M, R + 1]: payload bits of r directions of a module."""
        return codec.bits_by_rank(self.bits_per_direction, self.r_max)

    @property
    def shapes(self) -> Ints:
        """int64[M, 2]."""
        return np.array(list(self.module_shapes.values()), np.int64)


def table_of(stream: Any, knots: Knots | None = None, *, coefficient_bits: int) -> StreamTable:
    """The table of a trained stream (cloud.streams.stream.Stream).

    Args:
        stream: trained at r_max, with its residuals.
        knots: fitted to real forward passes; None = missing nats are taken for the excess loss.
        coefficient_bits: bits that the codec spends on a coefficient.
    """
    target = codec.CodecTarget(coefficient_bits=coefficient_bits)
    prices = codec.bits_per_direction(stream.spec, target)
    return StreamTable(
        module_shapes=dict(stream.module_shapes),
        bits_per_direction=np.array([prices[m] for m in stream.module_shapes], np.int64),
        overhead_bits=codec.overhead_bits(stream.spec, target),
        texts=tuple(stream.texts),
        spectra=stream.spectra,
        sent_kfac=stream.sent_kfac,
        sent_energy=stream.sent_energy,
        kept_kfac=stream.kept_kfac,
        kept_energy=stream.kept_energy,
        base_losses=np.asarray(stream.base_losses, np.float64),
        full_losses=np.asarray(stream.full_losses, np.float64),
        base_scores=np.asarray(stream.base_scores, np.float64),
        full_scores=np.asarray(stream.full_scores, np.float64),
        trial_missing=stream.trial_missing,
        trial_excess=stream.trial_excess,
        knots=knots if knots is not None else Knots.identity(len(stream.texts)),
    )


_DOMAINS: Final = 4
_DWELL: Final = 2
_OVERLAP: Final = 0.98
"""Cosine between a direction and itself one round of training later."""
_TRIALS: Final = 7
"""Points of the line from expected to measured loss, as many as of a real stream."""
_PROJECTIONS: Final[dict[str, tuple[int, int]]] = {
    "self_attn.q_proj": (256, 256),
    "self_attn.k_proj": (128, 256),
    "self_attn.v_proj": (128, 256),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_proj": (512, 256),
    "mlp.up_proj": (512, 256),
    "mlp.down_proj": (256, 512),
}


def synthetic_table(
    rng: np.random.Generator, rounds: int = 8, modules: int = 28, r_max: int = 16
) -> StreamTable:
    """A stream that never was: every domain has a power law of singular values of its own in each
    module.

    Direction i of a module meets direction i of an older round at an angle and no other one, so
    that what is missing of a stale update follows exactly: little within a domain, more than
    everything after the domain has changed. Missing nats are the excess loss, so the best plan of a
    round at a price of bits is known.

    Args:
        rng: source of spectra, domains and text measures.
        rounds: T ≥ 1.
        modules: M ≥ 1.
        r_max: R ≥ 1.
    """
    domain = rng.integers(_DOMAINS, size=ceil_div(rounds, _DWELL)).repeat(_DWELL)[:rounds]
    decay = rng.uniform(0.4, 1.6, (_DOMAINS, modules))
    size = rng.lognormal(-4.5, 1.0, (_DOMAINS, modules)) * rng.lognormal(
        0.0, 0.3, (rounds, _DOMAINS, modules)
    )
    law = np.arange(1, r_max + 1) ** -decay[..., np.newaxis]
    now = np.arange(rounds)
    # nats by direction, [T, M, R]
    nats = size[now, domain][..., np.newaxis] * (law / law.sum(axis=2, keepdims=True))[domain]
    overlap = np.where(
        domain[:, np.newaxis] == domain,
        _OVERLAP ** np.abs(now[:, np.newaxis] - now),
        rng.uniform(0, 0.2),
    )
    sent, kept = _lacking(nats, overlap)
    shapes = _synthetic_shapes(modules)
    spec = BaseSpec(identity="0" * 64, module_shapes=shapes)
    target = codec.CodecTarget(coefficient_bits=8)
    measures = rng.uniform((0.6, 0.0, 1.1), (0.9, 0.5, 2.5), (_DOMAINS, 3))
    full_losses = rng.uniform(0.1, 0.4, _DOMAINS)[domain]
    unknown = np.full(rounds, np.nan)
    everything = sent[:, :, 0].sum(axis=1, dtype=np.float64)
    line = everything[:, np.newaxis] * np.linspace(0.0, 1.0, _TRIALS)
    return StreamTable(
        module_shapes=shapes,
        bits_per_direction=np.array(
            list(codec.bits_per_direction(spec, target).values()), np.int64
        ),
        overhead_bits=codec.overhead_bits(spec, target),
        texts=tuple(_synthetic_text(f"domain{d}", *measures[d]) for d in domain.tolist()),
        spectra=np.sqrt(nats).astype(np.float32),
        sent_kfac=sent,
        sent_energy=sent,
        kept_kfac=kept,
        kept_energy=kept,
        base_losses=full_losses + everything,
        full_losses=full_losses,
        base_scores=unknown,
        full_scores=unknown,
        trial_missing=line,
        trial_excess=line,
        knots=Knots.identity(rounds),
    )


def _lacking(nats: Floats, overlap: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is missing when r directions are sent, [T, M, R + 1], and when older ones are held, [T,
    M, R + 1, T]."""
    first = ((0, 0), (0, 0), (1, 0))
    root = np.sqrt(nats)
    whole = nats.sum(axis=2)
    sent = whole[..., np.newaxis] - np.pad(nats, first).cumsum(axis=2)
    gained = np.pad(nats, first).cumsum(axis=2)
    kept = np.empty((*sent.shape, len(nats)), np.float32)
    for i, row in enumerate(overlap):
        shared = np.pad(root[i] * root * row[:, np.newaxis, np.newaxis], first).cumsum(axis=2)
        kept[i] = np.moveaxis(whole[..., np.newaxis] + gained[i] - 2 * shared, 0, -1)
    return np.maximum(sent, 0).astype(np.float32), np.maximum(kept, 0)


def _synthetic_shapes(modules: int) -> dict[str, tuple[int, int]]:
    per_layer = list(_PROJECTIONS.items())
    named = (divmod(i, len(per_layer)) for i in range(modules))
    return {f"model.layers.{layer}.{per_layer[k][0]}": per_layer[k][1] for layer, k in named}


def _synthetic_text(
    domain: str, entropy: float, oov_rate: float, pieces_per_word: float
) -> TextState:
    return TextState(
        domain=domain,
        lexical_entropy_bits=10 * entropy,
        lexical_entropy=entropy,
        oov_rate=oov_rate,
        pieces_per_word=pieces_per_word,
    )
