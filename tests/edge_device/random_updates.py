"""Random updates of small models."""

from __future__ import annotations

import numpy as np

from hil.contract import BaseSpec, LoraUpdate, LowRankFactors

RANKS = (3, 0, 8, 1, 16, 4, 0, 64)
Q0, K0, DOWN1 = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj",
    "model.layers.1.mlp.down_proj",
)


def random_update(
    spec: BaseSpec, *, ranks: tuple[int, ...] = RANKS, size: float = 0.3, seed: int = 3
) -> LoraUpdate:
    """An update whose norm is `size` of a random base weight's, module by module; ranks in turn, 0
    = left out."""
    rng = np.random.default_rng(seed)
    factors = {}
    for index, (module, (d_out, d_in)) in enumerate(spec.module_shapes.items()):
        if rank := ranks[index % len(ranks)]:
            a = rng.standard_normal((rank, d_in), dtype=np.float32)
            b = rng.standard_normal((d_out, rank), dtype=np.float32) * np.float32(
                size / (d_in * rank) ** 0.5
            )
            factors[module] = LowRankFactors(a=a, b=b)
    return LoraUpdate(round_id=1, base_identity=spec.identity, factors=factors)
