"""The last steps of a round taken within its plan.

The training at r_max does not know what will be sent. Some steps before a round's end a second
branch leaves it, which goes on over the same batches with nothing but what the plan sends
(FineTuner.train_within). Where a plan sends nearly everything there is nothing to learn from that,
and a fresh optimiser is a loss; so what the branch has come to is tried on the round's trial
examples beside the plain cut, and the better one is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cloud.finetuning.directions import Directions
from cloud.finetuning.finetuner import Branch, FineTuner
from cloud.text.sources import Example
from hil.contract import LowRankFactors, ModelError


def within_plan(
    tuner: FineTuner,
    branch: Branch,
    cut: Mapping[str, LowRankFactors],
    kept: Mapping[str, LowRankFactors],
    trial: Sequence[Example],
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, Directions] | None:
    """What a plan sends, trained within it; None if the plain cut loses no more on the trial
    examples, or it diverges.

    Args:
        tuner: of method "lora", as trained in this round.
        branch: of the round.
        cut: module → leading directions of the whole update, as many as are sent; at least one
            module.
        kept: other modules → factors that the edge keeps.
        trial: examples that the round did not train on.
        on_step: called after every step.
    """
    ranks = {module: factors.rank for module, factors in cut.items()}
    try:
        found = tuner.train_within(branch, ranks, kept, on_step)
    except ModelError:  # the branch has diverged; the training at r_max has not
        return None
    trained = {module: d.cut(d.rank) for module, d in found.items()}
    before, after = tuner.losses_of([{**kept, **cut}, {**kept, **trained}], trial)
    return found if after < before else None
