"""What plans of a round really leave missing: a few of them tried by forward passes on the round's
own text.

The curvature orders plans well, but its scale differs by orders of magnitude from round to round:
where the model is sure of its answers, a whole update seems to be worth next to nothing. So some
plans of the kind the allocator makes are tried, from nothing to everything, on examples that the
round did not train on. A rising line through what they come to turns expected nats into real ones,
and only then can one round's bits be weighed against another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from cloud.finetuning.directions import leading
from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.scoring import losses_of
from cloud.policies.allocator import allocate
from cloud.text.sources import DomainSampler, Example
from hil.contract import Floats, Ints, LowRankFactors, MeasuredLoss

TRIAL_EXAMPLES: Final = 128
TRIAL_CHARACTERS: Final = 16_000
"""What plans are tried on: so many examples, or fewer long ones of so many characters in all."""
TRIAL_DIRECTIONS: Final = (1 / 2, 1, 2, 4, 8)
"""Directions a module, on average, of the plans that are tried; nothing and everything are tried
too. The first few carry most of what a round has learnt: a line that begins at many would promise
it all for hardly a bit."""
LEAST_RANK: Final = 16
"""An r_max below it is tried at the same shares of its whole update as this one."""
TRIALS: Final = len(TRIAL_DIRECTIONS) + 2


def trial_examples(sampler: DomainSampler) -> list[Example]:
    """The next examples of a domain, few where they are long; a round's training goes on after
    them."""
    start, drawn = sampler.position, sampler.draw(TRIAL_EXAMPLES)
    ends = np.cumsum([len(e.prompt) + len(e.label_word) for e in drawn])
    n = max(1, int(np.searchsorted(ends, TRIAL_CHARACTERS, side="right")))
    sampler.position = start + min(n, len(drawn))
    return drawn[:n]


def measure_plans(
    tuner: FineTuner,
    delivered: Sequence[LowRankFactors],
    sent: Floats,
    bits: Ints,
    examples: Sequence[Example],
) -> MeasuredLoss:
    """Expected and real loss of plans from everything to nothing, on an edge that held nothing
    before.

    Args:
        tuner: a "lora" training of M modules, after this round.
        delivered: [M], the whole update as an edge would decode it.
        sent: float[M, R + 1], nats expected to be missing when r directions are sent.
        bits: int[M, R + 1], payload bits of r directions of a module.
        examples: text of the round's domain.
    """
    plans = trial_plans(sent, bits)
    updates = [
        {
            name: leading(factors, rank)
            for name, factors, rank in zip(
                tuner.module_shapes, delivered, plan.tolist(), strict=True
            )
        }
        for plan in plans
    ]
    missing = np.take_along_axis(sent[np.newaxis], plans[..., np.newaxis], axis=2)[..., 0].sum(
        axis=1
    )
    return loss_line(missing, np.array(losses_of(tuner.model, updates, examples)))


def trial_plans(sent: Floats, bits: Ints) -> Ints:
    """int[TRIALS, M]: ranks of the plans that are tried, the whole update first and nothing last.

    Args:
        sent: float[M, R + 1], nats expected to be missing when r directions are sent.
        bits: int[M, R + 1].
    """
    whole, r_max = int(bits[:, -1].sum()), bits.shape[1] - 1
    shares = [directions / max(r_max, LEAST_RANK) for directions in reversed(TRIAL_DIRECTIONS)]
    cut = [fresh_plan(sent, bits, int(whole * share)) for share in shares]
    return np.stack([np.full(len(bits), r_max), *cut, np.zeros(len(bits), np.int64)])


def loss_line(missing: Floats, losses: Floats) -> MeasuredLoss:
    """A rising line through tried plans.

    Args:
        missing: float[K], expected; the first is of the plan that the others' losses are above.
        losses: float[K], nats per token.
    """
    order = np.argsort(missing, kind="stable")
    excess = isotonic_regression((losses - losses[0])[order]).x
    x = missing[order] - missing[order[0]]
    return MeasuredLoss(missing=np.maximum.accumulate(x), excess=np.maximum(excess, 0.0))


def fresh_plan(sent: NDArray[np.floating], bits: Ints, budget_bits: int) -> Ints:
    """int[M]: the allocator's ranks within a budget where the edge holds nothing; all 0 where
    nothing fits.

    Args:
        sent: float[M, R + 1], what is missing when r directions are sent.
        bits: int[M, R + 1], payload bits of r directions.
        budget_bits: bits for the directions alone.
    """
    choice = best_options(sent.astype(np.float64), np.full(len(bits), np.inf), bits, budget_bits)
    return np.where(choice == bits.shape[1], 0, choice)


def best_options(sent: Floats, kept: Floats, bits: Ints, budget_bits: int) -> Ints:
    """int[M]: the allocator's option of every module, bits.shape[1] = keep, at no other cost than
    the directions'."""
    damage = np.concatenate([sent, kept[:, np.newaxis]], axis=1)[np.newaxis]
    bits_of_option = np.concatenate([bits, np.zeros((len(bits), 1), np.int64)], axis=1)
    choice: Ints = allocate(damage, bits_of_option, 0, budget_bits)[0]
    return choice
