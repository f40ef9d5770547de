from collections.abc import Callable, Mapping

import numpy as np
import pytest

from hil.contract import BaseSpec, LoraUpdate, LowRankFactors

SHAPES = {
    "model.layers.0.self_attn.q_proj": (12, 12),
    "model.layers.0.self_attn.k_proj": (7, 12),
    "model.layers.0.mlp.gate_proj": (21, 12),
    "model.layers.0.mlp.down_proj": (12, 21),
    "model.layers.1.self_attn.q_proj": (12, 12),
}
MakeUpdate = Callable[..., LoraUpdate]


@pytest.fixture(scope="session")
def base() -> BaseSpec:
    return BaseSpec(identity="0123456789abcdef" * 4, module_shapes=SHAPES)


def random_factors(shape: tuple[int, int], rank: int, rng: np.random.Generator) -> LowRankFactors:
    """Balanced singular directions in falling order, as the cloud sends them."""
    d_out, d_in = shape
    a, b = rng.standard_normal((rank, d_in)), rng.standard_normal((d_out, rank))
    u, s, vt = np.linalg.svd(b @ a, full_matrices=False)
    root = np.sqrt(s[:rank])
    return LowRankFactors(
        a=(root[:, np.newaxis] * vt[:rank]).astype(np.float32),
        b=(u[:, :rank] * root).astype(np.float32),
    )


@pytest.fixture(scope="session")
def make_update(base: BaseSpec) -> MakeUpdate:
    """Makes an update of `base` from module → rank, as balanced singular directions."""

    def make(
        ranks: Mapping[str, int],
        *,
        kept: frozenset[str] = frozenset(),
        round_id: int = 3,
        seed: int = 0,
    ) -> LoraUpdate:
        rng = np.random.default_rng(seed)
        return LoraUpdate(
            round_id=round_id,
            base_identity=base.identity,
            factors={
                module: random_factors(base.module_shapes[module], rank, rng)
                for module, rank in ranks.items()
            },
            kept=kept,
            kept_from="f0" * 32 if kept else None,
        )

    return make
