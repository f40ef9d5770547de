"""Which updates this edge takes: checks of the update itself, then of its effect in a trial.

llama.cpp loads an adapter with NaN without a word, and a malformed one can end its process. So
nothing reaches it unchecked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_device.gguf_model import GgufModel
from edge_device.runtime import ItemScores
from hil.contract import HilError, LoraUpdate, LowRankFactors

MAX_FACTOR: Final = 1e4
"""Largest magnitude of a factor's element: far from overflow in float32 products, and in f16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest update that an edge takes; [edge] of its hil.toml sets them.

    Attributes:
        max_rank: largest rank of a module, ≥ 1.
        max_frobenius: largest Frobenius norm of one module's ΔW, > 0. A weight matrix itself has
            about √d (32 at d = 1,024).
        max_rise_nats: largest rise of the loss over that of the bare base model, on the score set
            that the update is offered for, nats per token. Wide on purpose: a poor update is a
            result. Other texts do not count: an update that learnt to answer questions about one
            domain may lose any number of nats on prose and still be what was wanted.
    """

    max_rank: int = 64
    max_frobenius: float = 1e3
    max_rise_nats: float = 3.0


class UpdateRefused(HilError):  # noqa: N818 - the project's word for it, beside the receipt's status "refused"
    """An update that must not be installed, and why, in one line."""


def validate(
    update: LoraUpdate,
    model: GgufModel,
    limits: Limits,
) -> None:
    """Check an update before it is written for llama.cpp, which does not check it.

    It must be made for this base model. Each module must be one of the model's projections, with
    factors of the right shapes. Ranks are 1..max_rank, every value is finite with magnitude ≤
    MAX_FACTOR, and ‖ΔW‖ (Frobenius) ≤ max_frobenius.

    Args:
        update: the decoded update; it may keep modules.
        model: the base GGUF's description of itself.
        limits: the largest update that this edge takes.
    Raises:
        UpdateRefused: a check fails; the text names module, value and limit.
    """
    spec = model.spec
    if update.base_identity != spec.identity:
        raise UpdateRefused(
            f"the update is for base model {update.base_identity[:12]}…, this edge holds "
            f"{spec.identity[:12]}…: "
            "provision the edge again or choose the same base"
        )
    if bool(update.kept) != (update.kept_from is not None):
        raise UpdateRefused(
            "the update keeps modules and does not say of which update, or the other way round"
        )
    both = sorted(update.kept & update.factors.keys())
    if both:
        raise UpdateRefused(f"module '{both[0]}' is both sent and kept")
    for module in sorted(update.kept | update.factors.keys()):
        if module not in spec.module_shapes:
            raise UpdateRefused(f"module '{module[:80]}' is not a projection of this base model")
    for module, factors in update.factors.items():
        _validate_factors(module, factors, spec.module_shapes[module], limits)


def _validate_factors(
    module: str, factors: LowRankFactors, shape: tuple[int, int], limits: Limits
) -> None:
    a, b = factors.a, factors.b
    if a.dtype != np.float32 or b.dtype != np.float32 or a.ndim != 2 or b.ndim != 2:
        raise UpdateRefused(
            f"module '{module}': factors are {a.dtype}{a.shape} and {b.dtype}{b.shape}, not "
            "float32 2-d"
        )
    rank, (d_out, d_in) = a.shape[0], shape
    if not 1 <= rank <= limits.max_rank:
        raise UpdateRefused(
            f"module '{module}': rank {rank} is outside 1..{limits.max_rank} (edge.max_rank)"
        )
    if a.shape != (rank, d_in) or b.shape != (d_out, rank):
        raise UpdateRefused(
            f"module '{module}': factors are {list(b.shape)} and {list(a.shape)}, should be "
            f"{[d_out, rank]} and "
            f"{[rank, d_in]}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UpdateRefused(f"module '{module}': NaN or infinity among its values")
    largest = float(max(np.abs(a).max(), np.abs(b).max()))
    if largest > MAX_FACTOR:
        raise UpdateRefused(
            f"module '{module}': a value of {largest:.3g} is beyond ±{MAX_FACTOR:g}"
        )
    norm = frobenius_norm(factors)
    if norm > limits.max_frobenius:
        raise UpdateRefused(
            f"module '{module}': its update has norm {norm:.3g}, edge.max_frobenius is "
            f"{limits.max_frobenius:g}"
        )


def frobenius_norm(factors: LowRankFactors) -> float:
    """‖b @ a‖ (Frobenius) from the r × r Gram matrices: tr(bᵀb · aaᵀ) is its square."""
    a, b = factors.a.astype(np.float64), factors.b.astype(np.float64)
    return float(np.sqrt(max(0.0, np.sum((b.T @ b) * (a @ a.T)))))


def check_effect(probe: ItemScores, base_probe: ItemScores) -> None:
    """Check that an update changes what the model computes.

    Args:
        probe, base_probe: scores of the probe set with the update and of the bare base model.
    Raises:
        UpdateRefused: they are equal bit for bit.
    """
    if np.array_equal(probe.nats, base_probe.nats):
        raise UpdateRefused(
            "the update changes nothing on the probe set, but its factors are not zero"
        )


def check_loss(scores: ItemScores, base: ItemScores, score_set: str, limits: Limits) -> None:
    """Check that the loss with an update rises by at most limits.max_rise_nats.

    Args:
        scores, base: scores of the same set with the update and of the bare base model.
        score_set: the set's name.
        limits: the largest update that this edge takes.
    Raises:
        UpdateRefused: it rises by more, or is not a number.
    """
    rise = scores.loss_nats_per_token - base.loss_nats_per_token
    if not rise <= limits.max_rise_nats:
        raise UpdateRefused(
            f"the loss on {score_set} rises by {rise:.2f} nats with this update, "
            f"edge.max_rise_nats is {limits.max_rise_nats:g}"
        )
