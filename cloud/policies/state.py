"""Observations as arrays: what the learnt policies see, for one round or for a batch of them.

The environments that step thousands of rounds a second and the policy that plans one round of the
loop read the same functions here, so that a policy meets in the loop what it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.codec import bits_by_rank
from hil.contract import Bools, Floats, Ints, MeasuredLoss, ModelError, RoundObservation

PROBE_PRICES: Final = (0.01, 0.1, 1.0, 10.0)
"""Prices, in measured nats per Mbit, at which the state tells what an allocation would come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """N rounds before their plans, over M adapted modules and ranks 0..R.

    Attributes:
        snr_db, snr_std_db, age_s: float[N], as ChannelState; NaN before the first measurement.
        bandwidth_hz, airtime_share: float[N].
        budget_bits: int[N], the most bits that a plan may cost now.
        airtime_s: float[N], airtime that is left.
        rounds_left: int[N], rounds that it must last, this one included.
        pooled: Budget.pooled, the same for all N.
        entropy, oov_rate, pieces_per_word: float[N], as TextState (entropy 0..1).
        domain_changed: float[N], 1 in the first round of a domain, else 0.
        last_ranks: int[N, M], ranks that the edge holds, 0 = nothing.
        missing_if_sent: float[N, M, R + 1], nats expected to be missing when r directions are sent
            (RoundObservation.kfac).
        missing_if_kept: float[N, M], the same when the module stays as it is; equal to
            missing_if_sent[..., 0] where nothing is held.
        trial_missing, trial_excess: float[N, K], MeasuredLoss of each round.
        bits: int[M, R + 1], payload bits of r directions of a module.
        overhead_bits: payload bits of an update whatever its ranks.
        shapes: int[M, 2], (d_out, d_in).
    """

    snr_db: Floats
    snr_std_db: Floats
    age_s: Floats
    bandwidth_hz: Floats
    airtime_share: Floats
    budget_bits: Ints
    airtime_s: Floats
    rounds_left: Ints
    pooled: bool
    entropy: Floats
    oov_rate: Floats
    pieces_per_word: Floats
    domain_changed: Floats
    last_ranks: Ints
    missing_if_sent: Floats
    missing_if_kept: Floats
    trial_missing: Floats
    trial_excess: Floats
    bits: Ints
    overhead_bits: int
    shapes: Ints

    @property
    def r_max(self) -> int:
        """Largest rank R."""
        return int(self.bits.shape[1]) - 1

    @property
    def holds(self) -> Bools:
        """bool[N, M], the edge holds something of the module."""
        return self.last_ranks > 0


def situation_of(obs: RoundObservation) -> Situation:
    """One observation as arrays, N = 1; where nothing was tried, what is expected is taken for what
    comes.

    Raises:
        ModelError: the observation carries no expected losses (obs.kfac).
    """
    if not obs.kfac.missing_if_sent:
        raise ModelError(
            "the observation carries no expected losses (kfac); this policy needs them measured"
        )
    modules = list(obs.module_shapes)
    sent = np.array([obs.kfac.missing_if_sent[m] for m in modules], np.float64)
    bits = bits_by_rank(
        [obs.bits_per_direction[m] for m in modules], obs.r_max, obs.bits_per_module
    )
    kept = np.array([obs.kfac.missing_if_kept.get(m, sent[i, 0]) for i, m in enumerate(modules)])
    last = obs.history[-1] if obs.history else None
    whole = np.array([0.0, max(float(sent[:, 0].sum()), 1e-12)])
    line = obs.measured or MeasuredLoss(missing=whole, excess=whole)

    def one(value: float) -> Floats:
        return np.array([value], np.float64)

    return Situation(
        snr_db=one(obs.channel.snr_db),
        snr_std_db=one(obs.channel.snr_std_db),
        age_s=one(obs.channel.age_s),
        bandwidth_hz=one(obs.channel.bandwidth_hz),
        airtime_share=one(obs.channel.airtime_share),
        budget_bits=np.array([obs.budget.bits], np.int64),
        airtime_s=one(obs.budget.airtime_s),
        rounds_left=np.array([obs.budget.rounds], np.int64),
        pooled=obs.budget.pooled,
        entropy=one(obs.text.lexical_entropy),
        oov_rate=one(obs.text.oov_rate),
        pieces_per_word=one(obs.text.pieces_per_word),
        domain_changed=one(float(last is None or last.domain != obs.text.domain)),
        last_ranks=np.array([[obs.held.get(m, 0) for m in modules]], np.int64),
        missing_if_sent=sent[np.newaxis],
        missing_if_kept=kept[np.newaxis],
        trial_missing=line.missing[np.newaxis],
        trial_excess=line.excess[np.newaxis],
        bits=bits,
        overhead_bits=obs.overhead_bits,
        shapes=np.array([obs.module_shapes[m] for m in modules], np.int64),
    )


def paper_state(s: Situation) -> NDArray[np.float32]:
    """float32[N, 4 + M]: SNR, bandwidth, lexical entropy, OOV rate, then every rank over r_max,
    each in 0..1.

    SNR is scaled from -5..15 dB and clipped, bandwidth is the share of it that may be used (the
    paper's is constant). Before the first measurement it counts as the worst.
    Source: arXiv 2507.11515.
    """
    snr = np.clip((np.nan_to_num(s.snr_db, nan=-5.0) + 5.0) / 20.0, 0.0, 1.0)
    head = np.stack([snr, s.airtime_share, s.entropy, s.oov_rate], axis=1)
    return np.concatenate([head, s.last_ranks / s.r_max], axis=1).astype(np.float32)


def pace_state(s: Situation) -> NDArray[np.float32]:
    """float32[N, 17]: what this round's share of the budget and its price can be chosen from, about
    -2..2 each.

    Link and budget (SNR, its age, share, bits that fit now against a whole update, rounds left,
    bits per second), text (entropy, OOV, pieces, new domain), what would be missing if nothing were
    sent (against holding nothing, and in measured nats), and the share of a whole update that would
    be worth its bits at each of PROBE_PRICES. The ranks themselves are left out: they name the
    training stream more than they help.
    """
    whole_bits = float(s.bits[:, -1].sum())
    budget = np.maximum(s.budget_bits.astype(np.float64), 1.0)
    lacking, nothing = s.missing_if_kept.sum(axis=1), s.missing_if_sent[:, :, 0].sum(axis=1)
    lacking_nats, nothing_nats = (
        on_line(s.trial_missing, s.trial_excess, x) for x in (lacking, nothing)
    )
    expected_per_measured = nothing / np.maximum(nothing_nats, 1e-4)
    columns = [
        # held within the range that is trained on; what a higher SNR carries stands in the rate
        np.clip(np.nan_to_num(s.snr_db, nan=-5.0), -5.0, 15.0) / 10.0 - 0.5,
        np.log10(1.0 + np.nan_to_num(s.age_s, nan=100.0)),
        s.airtime_share,
        np.log10(budget / whole_bits),
        np.log2(s.rounds_left),
        np.log10(budget / np.maximum(s.airtime_s, 1e-6)) - 6.0,
        s.entropy,
        s.oov_rate,
        s.pieces_per_word - 1.0,
        s.domain_changed,
        lacking_nats / np.maximum(nothing_nats, 1e-4),
        np.log10(np.maximum(lacking_nats, 1e-4)),
        np.log10(np.maximum(nothing_nats, 1e-4)),
        *(_worth_sending(s, price * expected_per_measured) for price in PROBE_PRICES),
    ]
    state: NDArray[np.float32] = np.clip(np.stack(columns, axis=1), -5.0, 5.0).astype(np.float32)
    return state


PACE_STATE_SIZE: Final = 13 + len(PROBE_PRICES)


def _worth_sending(s: Situation, nats_per_mbit: Floats) -> Floats:
    """float[N]: share of a whole update's bits that a plan without a budget would spend at these
    expected nats."""
    value = s.missing_if_sent + 1e-6 * nats_per_mbit[:, np.newaxis, np.newaxis] * s.bits
    rank = value.argmin(axis=2)
    best = np.take_along_axis(value, rank[..., np.newaxis], axis=2)[..., 0]
    bits = np.take_along_axis(
        np.broadcast_to(s.bits, s.missing_if_sent.shape), rank[..., np.newaxis], axis=2
    )[..., 0]
    spent: Floats = np.where(best < s.missing_if_kept, bits, 0).sum(axis=1) / s.bits[:, -1].sum()
    return spent


def on_line(x: Floats, y: Floats, at: Floats) -> Floats:
    """float[N]: lines through K points each, read at one place each; beyond their ends they go on
    as they were.

    Args:
        x, y: float[N, K], never falling along K ≥ 2.
        at: float[N].
    """
    left = np.clip((at[:, np.newaxis] >= x[:, 1:-1]).sum(axis=1), 0, x.shape[1] - 2)
    row = np.arange(len(at))
    x0, y0 = x[row, left], y[row, left]
    read: Floats = y0 + slopes(x, y)[row, left] * (at - x0)
    return read


def slopes(x: Floats, y: Floats) -> Floats:
    """float[N, K - 1], of the segments of such lines; 0 where two points lie on one another."""
    dx, dy = np.diff(x, axis=1), np.diff(y, axis=1)
    steep: Floats = np.divide(dy, dx, out=np.zeros_like(dy), where=dx > 0)
    return steep


def checked_spectrum(obs: RoundObservation, module: str) -> NDArray[np.float32]:
    """float32[min(r_max, d_out, d_in)], the singular values of a module. Raises ModelError if one
    is not finite."""
    spectrum = obs.spectra[module][: min(obs.r_max, *obs.module_shapes[module])]
    if not np.isfinite(spectrum).all():
        raise ModelError(
            f"the spectrum of {module} is not finite; the training that made it has diverged"
        )
    return spectrum
