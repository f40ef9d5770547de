"""A trained update as singular directions, and what a rank plan cuts out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hil.contract import KEEP, LoraUpdate, LowRankFactors, ModelError, RankPlan


@dataclass(frozen=True, slots=True)
class Directions:
    """The singular value decomposition u · diag(s) · vt of one module's update, scaling included.

    Attributes:
        u: float64[d_out, k]; each column is signed so that its entry of largest magnitude (the
            first of equals) is positive.
        s: float64[k] ≥ 0, falling.
        vt: float64[k, d_in].
    """

    u: NDArray[np.float64]
    s: NDArray[np.float64]
    vt: NDArray[np.float64]

    @property
    def rank(self) -> int:
        """Number of directions k."""
        return len(self.s)

    @classmethod
    def of(cls, factors: LowRankFactors) -> Self:
        """The decomposition of b @ a, without ever forming that product: k = min(r, d_out, d_in).

        Thin QR of both factors leaves an r × r core, whose SVD is rotated back. The last bits
        depend on how many threads BLAS runs with; pin it to one thread where runs must be equal bit
        for bit.

        Raises:
            ModelError: shapes that do not multiply, or a value that is not finite.
        Source: Golub and Van Loan, Matrix Computations, 4th ed., sections 5.2 (QR) and 8.6 (SVD).
        """
        a, b = factors.a, factors.b
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise ModelError(
                f"factors a {a.shape} and b {b.shape} are not [r, d_in] and [d_out, r]"
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ModelError(
                "factors hold a value that is not finite; the training that made them has diverged"
            )
        if not factors.rank:
            return cls(np.zeros((len(b), 0)), np.zeros(0), np.zeros((0, a.shape[1])))
        q_b, r_b = np.linalg.qr(b.astype(np.float64))
        q_a, r_a = np.linalg.qr(a.T.astype(np.float64))
        core_u, s, core_vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
        u, vt = q_b @ core_u, core_vt @ q_a.T
        peaks = np.abs(u).argmax(axis=0)
        sign = np.where(u[peaks, np.arange(len(s))] < 0, -1.0, 1.0)
        return cls(u * sign, s, vt * sign[:, np.newaxis])

    def cut(self, rank: int) -> LowRankFactors:
        """The leading directions in balanced form: b = u · sqrt(s), a = sqrt(s) · vt.

        No other update of that rank is closer to the whole one in the Frobenius norm.

        Args:
            rank: ≥ 0; all directions where there are fewer.
        Source: Eckart and Young, Psychometrika 1(3), 1936.
        """
        if rank < 0:
            raise ValueError(f"cannot cut to rank {rank}")
        root = np.sqrt(self.s[:rank])
        return LowRankFactors(
            a=(root[:, np.newaxis] * self.vt[:rank]).astype(np.float32),
            b=(self.u[:, :rank] * root).astype(np.float32),
        )


def leading(factors: LowRankFactors, rank: int) -> LowRankFactors:
    """The first `rank` directions of factors that are in falling order, or all where there are
    fewer."""
    return LowRankFactors(a=factors.a[:rank], b=factors.b[:, :rank])


def nothing(d_out: int, d_in: int) -> LowRankFactors:
    """The factors of a bare module: rank 0."""
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
        found: module → the trained update.
        plan: a rank, 0 or KEEP for each of its modules.
        round_id: the round that trained it.
        identity: the base model's identity.
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
        name: d.cut(rank)
        for name, d in found.items()
        if isinstance(rank := plan.ranks[name], int) and rank > 0 and d.rank
    }
    return LoraUpdate(
        round_id=round_id,
        base_identity=identity,
        factors=factors,
        kept=kept,
        kept_from=held_digest if kept else None,
    )
