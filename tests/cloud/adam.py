"""Adam by its paper (Kingma and Ba, ICLR 2015, algorithm 1), for tests of whatever uses it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def adam_moves(
    gradients: Sequence[NDArray[np.float64]],
    rates: Sequence[float],
    betas: tuple[float, float],
    eps: float,
) -> NDArray[np.float64]:
    """How far a parameter moves in all, from the gradient and the learning rate of every step."""
    m = v = moved = np.zeros_like(gradients[0])
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        moved = moved - rate * m_hat / (np.sqrt(v_hat) + eps)
    return moved
