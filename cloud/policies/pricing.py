"""How much of a round's update is worth its air: the exact plan at a price of airtime, in nats that
were measured.

The expected losses of a round order its plans; the line through plans that were tried
(cloud.finetuning.trial) says what they come to. That line has a few straight pieces. On each of
them real nats are so many times the expected ones, so the best plan of a piece is the allocator's
at the price divided by that many; the best plan of all is the best of these few.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from cloud.policies.allocator import allocate, options
from cloud.policies.plans import bits_of_ranks
from cloud.policies.state import Situation, on_line, slopes
from hil.contract import Bools, Floats, Ints

LEAST_SHARE: Final = 1e-6
"""What a bit must be expected to bring at any price, over what one of the whole update brings on
average: directions without any use are not sent although there is room. A share, because expected
nats have no scale of their own: where the model has become sure of its answers a whole update is
expected to bring 1e-8 of them, and really brings one."""
_MOST_NATS_PER_BIT: Final = 1e3  # where a piece of the line is flat: nothing is worth a bit


def worthwhile_ranks(s: Situation, nats_per_s: ArrayLike, budget_bits: Ints) -> tuple[Ints, Bools]:
    """Ranks int[N, M] and kept modules bool[N, M] (rank 0 there) with the least measured loss +
    price x airtime.

    Args:
        s: N rounds; a second of air carries s.budget_bits / s.airtime_s bits.
        nats_per_s: [N] or one for all, >= 0: what a second of air must bring.
        budget_bits: [N], no plan is larger.
    Raises:
        ModelError: an expected loss that is not a number.
    """
    n, pieces = len(budget_bits), s.trial_missing.shape[1] - 1
    price = np.broadcast_to(nats_per_s, n) * s.airtime_s / np.maximum(s.budget_bits, 1)
    steep = slopes(s.trial_missing, s.trial_excess)
    floor = np.full_like(steep, _MOST_NATS_PER_BIT)
    np.divide(price[:, np.newaxis], steep, out=floor, where=steep > 0)
    least = LEAST_SHARE * s.missing_if_sent[:, :, 0].sum(axis=1) / s.bits[:, -1].sum()
    damage, bits = options(s)
    choice = allocate(
        np.repeat(damage, pieces, axis=0),
        bits,
        s.overhead_bits,
        np.repeat(budget_bits, pieces),
        np.clip(floor, least[:, np.newaxis], _MOST_NATS_PER_BIT).reshape(-1),
    ).reshape(n, pieces, -1)
    value = np.stack([_value(s, choice[:, k], price) for k in range(pieces)], axis=1)
    best = choice[np.arange(n), value.argmin(axis=1)]
    keep = best == s.r_max + 1
    return np.where(keep, 0, best), keep


def _value(s: Situation, choice: Ints, price: Floats) -> Floats:
    """float[N]: measured loss + price x bits of plans int[N, M] of options."""
    keep = choice == s.r_max + 1
    ranks = np.where(keep, 0, choice)
    sent = np.take_along_axis(s.missing_if_sent, ranks[..., np.newaxis], axis=2)[..., 0]
    missing = np.where(keep, s.missing_if_kept, sent).sum(axis=1)
    value: Floats = on_line(s.trial_missing, s.trial_excess, missing) + price * bits_of_ranks(
        s, ranks, keep
    )
    return value
