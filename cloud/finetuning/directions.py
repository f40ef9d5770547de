"""A trained update as singular directions, and what a rank plan cuts out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hil.codec import cut
from hil.contract import KEEP, LoraUpdate, LowRankFactors, ModelError, RankPlan


@dataclass(frozen=True, slots=True)
class Directions:
    """The singular value decomposition of one module's update, scaling included.

    Attributes:
        u: float64[d_out, k]; s: float64[k], falling; vt: float64[k, d_in].
    """

    u: NDArray[np.float64]
    s: NDArray[np.float64]
    vt: NDArray[np.float64]


def nothing(d_out: int, d_in: int) -> LowRankFactors:
    """The factors of a bare module: of rank 0."""
    return LowRankFactors(a=np.zeros((0, d_in), np.float32), b=np.zeros((d_out, 0), np.float32))


def spectra(found: Mapping[str, Directions], r_max: int) -> dict[str, NDArray[np.float32]]:
    """Singular values of each module, float32[r_max], padded with zeros where a module is smaller
    than r_max."""
    return {name: np.pad(d.s, (0, r_max))[:r_max].astype(np.float32) for name, d in found.items()}


def cut_update(
    found: Mapping[str, Directions],
    plan: RankPlan,
    *,
    round_id: int,
    identity: str,
    held_digest: str,
) -> LoraUpdate:
    """The update that a plan sends: the leading directions of each module, the best approximation
    of that rank.

    Args:
        found: the trained update.
        plan: a rank, 0 or KEEP for each of its modules.
        round_id: this round.
        identity: of the base model.
        held_digest: digest of the update that the edge holds; "" when it holds none.
    Raises:
        ModelError: the plan names other modules than were trained, or keeps some although the edge
            holds nothing.
    """
    if set(plan.ranks) != set(found):
        raise ModelError(
            "the rank plan must name every adapted module and no other; check the policy"
        )
    kept = frozenset(name for name, rank in plan.ranks.items() if rank == KEEP)
    if kept and not held_digest:
        raise ModelError(
            f"the rank plan keeps {len(kept)} modules, but the edge holds no update; check the "
            "policy"
        )
    factors = {
        name: cut(d.u, d.s, d.vt, min(rank, len(d.s)))
        for name, d in found.items()
        if isinstance(rank := plan.ranks[name], int) and rank > 0 and len(d.s)
    }
    return LoraUpdate(
        round_id=round_id,
        base_identity=identity,
        factors=factors,
        kept=kept,
        kept_from=held_digest if kept else None,
    )
