"""What a missing part of an update costs: its energy, and the loss expected from the curvature of
the model's output.

The curvature is the Fisher matrix of a module's weights, Kronecker-factored. An example whose
sampled labels have the gradient g_p at position p of a projection's output, for the input x_p, has
Σ_p g_p x_pᵀ as the gradient of its weights. Taken position by position, the Fisher matrix per
counted token is F = 1/N Σ x xᵀ ⊗ g gᵀ over all positions of all examples with N counted tokens. It
is replaced by the Kronecker product that has its partial traces,

    X = Σ ‖g‖² x xᵀ,  G = Σ ‖x‖² g gᵀ,  F ≈ X ⊗ G / (N Σ ‖x‖² ‖g‖²),

so positions that no counted token depends on weigh nothing. A missing E then costs ½ tr(G E X Eᵀ) /
(N Σ ‖x‖² ‖g‖²) nats per counted token.

Sources: Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate
Curvature, ICML 2015; Eschenhagen et al., Kronecker-Factored Approximate Curvature for Modern Neural
Network Architectures, NeurIPS 2023 (sum over positions); Tropp et al., Fixed-Rank Approximation of
a Positive-Semidefinite Matrix from Streaming Data, NeurIPS 2017 (sketch of large moments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cloud.finetuning.adapted_model import AdaptedModel
from cloud.model.encoding import EncodedExample
from cloud.text.sources import Example
from hil.contract import Floats, LowRankFactors, Residuals

MOMENT_EXAMPLES: Final = 128
"""Examples of a round that the moments are taken over."""
MOMENT_BATCH: Final = 32
"""Examples of one forward pass."""
RIDGE: Final = 1e-2
"""Added to a moment's diagonal, as a share of its mean: directions that these examples do not use
are not free."""
DENSE_LIMIT: Final = 2048
"""Widest projection whose moments are kept whole; of a wider one the leading part and the
diagonal."""
SKETCH_RANK: Final = 128
SKETCH_SURPLUS: Final = 32
"""Columns that a sketch has more than the directions it must find."""


# -----------------------------------------------------------------------------------------
# curvature


@dataclass(frozen=True, slots=True)
class Moment:
    """A second moment, ridge included: basis · core · basisᵀ + diag(diagonal).

    Attributes:
        core: float64[k, k].
        basis: float64[d, k], or None for the identity (k = d).
        diagonal: float64[d].
    """

    core: Floats
    basis: Floats | None
    diagonal: Floats

    def gram(self, rows: NDArray[np.floating]) -> Floats:
        """float64[n, n], the products row_i · M · row_jᵀ of float[n, d]."""
        exact = rows.astype(np.float64)
        inner = exact if self.basis is None else exact @ self.basis
        products: Floats = inner @ self.core @ inner.T + (exact * self.diagonal) @ exact.T
        return products


@dataclass(frozen=True, slots=True)
class Curvature:
    """The curvature of the loss in one module's weights.

    Attributes:
        x: moment of the module's input.
        g: moment of its output's gradient, scaled so that ½ tr(g E x Eᵀ) is in nats per counted
            token.
    """

    x: Moment
    g: Moment

    def inner(self, factors: LowRankFactors) -> Floats:
        """float64[r, r], ½ tr(g b_i a_i x a_jᵀ b_jᵀ) for all pairs of directions; its sum is the
        cost of all."""
        return 0.5 * self.g.gram(factors.b.T) * self.x.gram(factors.a)


class CurvatureRecorder:
    """Gathers the moments of all adapted modules over several forward passes.

    Args:
        modules: name → PEFT layer; what each adds to its base layer must need a gradient.
        seed: seed of the sampled labels and of the sketches.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module], seed: int) -> None:
        self._modules = modules
        self._generator = torch.Generator().manual_seed(seed)
        self._x: dict[str, _Sum] = {}
        self._g: dict[str, _Sum] = {}
        self._traces = dict.fromkeys(modules, 0.0)
        self._n_counted = 0

    def add(self, logits_of_batch: Callable[[], torch.Tensor], used: torch.Tensor) -> None:
        """Add one batch.

        Args:
            logits_of_batch: runs the model and returns the logits float[n, vocabulary] at the
                positions that count.
            used: bool[batch, length], positions that are neither padding nor after the last that
                counts.
        """
        inputs: dict[str, torch.Tensor] = {}
        outputs: dict[str, torch.Tensor] = {}
        handles = [
            module.register_forward_hook(_keep_in(inputs, outputs, name))
            for name, module in self._modules.items()
        ]
        try:
            with torch.enable_grad():
                logits = logits_of_batch()
        finally:
            for handle in handles:
                handle.remove()
        # Labels are the model's own: with the true ones it would not be the Fisher matrix.
        probabilities = torch.softmax(logits.detach().float().cpu(), dim=1)
        sampled = torch.multinomial(probabilities, 1, generator=self._generator)[:, 0].to(
            logits.device
        )
        loss = torch.nn.functional.cross_entropy(logits, sampled, reduction="sum")
        gradients = torch.autograd.grad(loss, list(outputs.values()))
        self._n_counted += len(logits)
        positions = used.flatten().to(logits.device)
        for name, gradient in zip(outputs, gradients, strict=True):
            self._add_module(name, _rows(inputs[name], positions), _rows(gradient, positions))

    def _add_module(self, name: str, x: torch.Tensor, g: torch.Tensor) -> None:
        norm_x, norm_g = torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(g, dim=1)
        for sums, rows, weights in ((self._x, x, norm_g), (self._g, g, norm_x)):
            if name not in sums:
                sums[name] = _Sum(rows.shape[1], rows.device, self._generator)
            sums[name].add(rows * weights[:, None])
        self._traces[name] += float((norm_x * norm_g).square().sum())

    def curvature(self) -> dict[str, Curvature]:
        """Module → its curvature; modules that no gradient ever reached cost nothing."""
        found: dict[str, Curvature] = {}
        for name in self._modules:
            scale = 1.0 / max(self._traces[name] * self._n_counted, 1e-300)
            found[name] = Curvature(self._x[name].moment(1.0), self._g[name].moment(scale))
        return found


def curvature_of(
    model: AdaptedModel, examples: Sequence[Example], *, seed: int
) -> dict[str, Curvature]:
    """Curvature of the loss in every adapted module, around the weights as they are trained now.

    Args:
        model: the model, as trained now.
        examples: the first MOMENT_EXAMPLES of them are used.
        seed: seed of the sampled labels and of the sketches.
    """
    recorder = CurvatureRecorder(model.layers, seed=seed)
    rows = sorted(model.encode(examples[:MOMENT_EXAMPLES]), key=lambda row: len(row[0]))
    for i in range(0, len(rows), MOMENT_BATCH):
        batch = rows[i : i + MOMENT_BATCH]
        lengths = torch.tensor([len(ids) for ids, _ in batch])
        # What is read at an example's last position is asked for by no loss.
        used = torch.arange(int(lengths.max())) < lengths[:, None] - 1
        recorder.add(partial(_logits, model, batch), used)
    return recorder.curvature()


def _logits(model: AdaptedModel, batch: Sequence[EncodedExample]) -> torch.Tensor:
    return model.counted(batch)[0]


def _keep_in(inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor], name: str) -> Any:
    def hook(
        _module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        inputs[name], outputs[name] = args[0].detach(), output

    return hook


def _rows(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    # Some layers see [batch, length, d], some [batch x length, d].
    return values.reshape(-1, values.shape[-1])[positions].float()


class _Sum:
    """Σ v vᵀ of the rows added: whole up to DENSE_LIMIT, else a sketch of it and its diagonal."""

    def __init__(self, d: int, device: torch.device, generator: torch.Generator) -> None:
        self._test: torch.Tensor | None = None
        if d > DENSE_LIMIT:
            drawn = torch.randn(d, SKETCH_RANK + SKETCH_SURPLUS, generator=generator)
            self._test = torch.linalg.qr(drawn).Q.to(device)
        self._sum = torch.zeros(d, d if self._test is None else self._test.shape[1], device=device)
        self._squares = torch.zeros(d, device=device)

    def add(self, rows: torch.Tensor) -> None:
        self._sum.addmm_(rows.T, rows if self._test is None else rows @ self._test)
        self._squares += rows.square().sum(dim=0)

    def moment(self, scale: float) -> Moment:
        total = self._sum.double().cpu().numpy() * scale
        squares: Floats = self._squares.double().cpu().numpy() * scale
        ridge = np.full(len(squares), RIDGE * squares.mean())
        if self._test is None:
            return Moment(total, None, ridge)
        vectors, values = _leading(total, self._test.double().cpu().numpy())
        rest = np.maximum(squares - np.square(vectors) @ values, 0.0)
        return Moment(np.diag(values), vectors, rest + ridge)


def _leading(sketch: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Leading eigenvectors float64[d, k] and eigenvalues of M, k = SKETCH_RANK, from M @ test
    (Nyström)."""
    shift = np.finfo(np.float32).eps * float(np.linalg.norm(sketch)) + 1e-300
    shifted = sketch + shift * test
    core = test.T @ shifted
    root = np.linalg.cholesky((core + core.T) / 2)
    vectors, singular, _ = np.linalg.svd(np.linalg.solve(root, shifted.T).T, full_matrices=False)
    return vectors[:, :SKETCH_RANK], np.maximum(np.square(singular[:SKETCH_RANK]) - shift, 0.0)


# -----------------------------------------------------------------------------------------
# residuals


def inner_products(factors: LowRankFactors, curvature: Curvature | None) -> Floats:
    """float64[r, r] over pairs of directions, whose sum is what all of them are worth.

    Args:
        factors: b = [b_1 … b_r] and a.
        curvature: their module's; None measures the squared Frobenius norm.
    """
    if curvature is not None:
        return curvature.inner(factors)
    a, b = factors.a.astype(np.float64), factors.b.astype(np.float64)
    energy: Floats = (b.T @ b) * (a @ a.T)
    return energy


def sent_curve(inner: Floats, r_max: int) -> NDArray[np.float32]:
    """float32[r_max + 1], what is missing when the leading r of all directions are sent.

    Cross terms can make one more direction worse by itself; the running minimum keeps such a rank
    from looking like progress. Directions beyond those that exist add nothing.
    """
    trailing = np.diagonal(inner[::-1, ::-1].cumsum(axis=0).cumsum(axis=1))[::-1]
    curve = np.concatenate([np.maximum(trailing, 0.0), np.zeros(r_max + 1)])[: r_max + 1]
    lowest: NDArray[np.float32] = np.minimum.accumulate(curve).astype(np.float32)
    return lowest


def held_curve(inner: Floats, n_held: int, r_max: int) -> NDArray[np.float32]:
    """float32[r_max + 1], what is missing when the edge holds the leading r directions of an
    earlier update.

    Args:
        inner: over the held update's n_held directions followed by those of the current one.
        n_held: how many are the held update's.
        r_max: a curve ends as it is when there are fewer held directions.
    """
    held, mixed, now = inner[:n_held, :n_held], inner[:n_held, n_held:], inner[n_held:, n_held:]
    leading = np.diagonal(held.cumsum(axis=0).cumsum(axis=1))
    missing = now.sum() + np.concatenate([[0.0], leading - 2.0 * mixed.sum(axis=1).cumsum()])
    curve: NDArray[np.float32] = np.maximum(missing, 0.0).astype(np.float32)
    return np.pad(curve, (0, r_max - n_held), mode="edge")


def residuals(
    current: Mapping[str, LowRankFactors],
    held: Mapping[str, LowRankFactors],
    r_max: int,
    curvature: Mapping[str, Curvature] | None = None,
) -> Residuals:
    """What a policy may know of the edge's lack, module by module.

    Args:
        current: the whole trained update; directions in falling order.
        held: what the edge holds; both before the codec, or both after it.
        r_max: length of the curves less one.
        curvature: measures the lack as expected loss; None: as energy.
    """
    sent: dict[str, NDArray[np.float32]] = {}
    kept: dict[str, float] = {}
    for name, factors in current.items():
        of_module = None if curvature is None else curvature[name]
        sent[name] = sent_curve(inner_products(factors, of_module), r_max)
        if name in held:
            inner = inner_products(joined([held[name], factors]), of_module)
            kept[name] = float(held_curve(inner, held[name].rank, held[name].rank)[-1])
    return Residuals(missing_if_sent=sent, missing_if_kept=kept)


def joined(parts: list[LowRankFactors]) -> LowRankFactors:
    """The directions of several updates of one module, one after another."""
    return LowRankFactors(
        a=np.concatenate([part.a for part in parts]),
        b=np.concatenate([part.b for part in parts], axis=1),
    )
