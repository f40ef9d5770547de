"""A low-rank update as singular directions, and its best approximation of smaller rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hil.contract import CodecError, LowRankFactors


def directions(
    a: NDArray[np.floating], b: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The singular value decomposition u · diag(s) · vt of b @ a, without ever forming that
    product.

    Thin QR of both factors leaves an r × r core, whose SVD is rotated back. Each column of u is
    signed so that its entry of largest magnitude (the first of equals) is positive. The last bits
    depend on how many threads BLAS runs with; pin it to one thread where runs must be equal bit for
    bit.

    Args:
        a: float[r, d_in].
        b: float[d_out, r].
    Returns:
        u float64[d_out, k], s float64[k] ≥ 0 and falling, vt float64[k, d_in], with k = min(r,
        d_out, d_in).
    Raises:
        CodecError: shapes that do not multiply, or a value that is not finite.
    Source: Golub and Van Loan, Matrix Computations, 4th ed., sections 5.2 (QR) and 8.6 (SVD).
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        raise CodecError(
            f"factors a {a.shape} and b {b.shape} are not [r, d_in] and [d_out, r] with r ≥ 1"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CodecError(
            "factors hold a value that is not finite; the training that made them has diverged"
        )
    q_b, r_b = np.linalg.qr(b.astype(np.float64))
    q_a, r_a = np.linalg.qr(a.T.astype(np.float64))
    core_u, s, core_vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    u, vt = q_b @ core_u, core_vt @ q_a.T
    peaks = np.abs(u).argmax(axis=0)
    sign = np.where(u[peaks, np.arange(len(s))] < 0, -1.0, 1.0)
    return u * sign, s, vt * sign[:, np.newaxis]


def cut(
    u: NDArray[np.float64], s: NDArray[np.float64], vt: NDArray[np.float64], rank: int
) -> LowRankFactors:
    """The leading `rank` directions in balanced form: b = u · sqrt(s), a = sqrt(s) · vt.

    No other update of that rank is closer to the whole one in the Frobenius norm.

    Args:
        u, s, vt: as directions() gives them.
        rank: 1 .. len(s).
    Raises:
        CodecError: a rank outside that range.
    Source: Eckart and Young, Psychometrika 1(3), 1936.
    """
    if not 1 <= rank <= len(s):
        raise CodecError(
            f"cannot cut to rank {rank}: the update has {len(s)} directions, ask for 1..{len(s)}"
        )
    root = np.sqrt(s[:rank])
    return LowRankFactors(
        a=(root[:, np.newaxis] * vt[:rank]).astype(np.float32),
        b=(u[:, :rank] * root).astype(np.float32),
    )
