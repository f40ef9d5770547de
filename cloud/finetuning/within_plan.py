"""The last steps of a round taken within its plan.

The training at r_max does not know what will be sent. Some steps before a round's end a second
branch leaves it, which goes on over the same batches with nothing but what the plan sends. Where a
plan sends nearly everything there is nothing to learn from that, and a fresh optimiser is a loss;
so what the branch has come to is tried on the round's trial examples beside the plain cut, and the
better one is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cloud.finetuning.directions import Directions, leading
from cloud.finetuning.finetuner import Branch, FineTuner, new_optimiser, rate_at, take_step
from cloud.finetuning.peft_methods import low_rank
from cloud.finetuning.scoring import losses_of
from cloud.text.sources import Example
from hil.contract import LowRankFactors, ModelError

WARM_UP_STEPS = 3
"""Steps over which the learning rate rises: long enough for AdamW's moments to fill."""


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
        tuner: a "lora" training, after this round.
        branch: the round's branch.
        cut: module → leading directions of the whole update, as many as are sent; at least one
            module.
        kept: other modules → factors that the edge keeps.
        trial: examples that the round did not train on.
        on_step: called after every step.
    """
    ranks = {module: factors.rank for module, factors in cut.items()}
    try:
        found = train_within(tuner, branch, ranks, kept, on_step)
    except ModelError:  # the branch has diverged; the training at r_max has not
        return None
    trained = {module: d.cut(d.rank) for module, d in found.items()}
    before, after = losses_of(tuner.model, [{**kept, **cut}, {**kept, **trained}], trial)
    return found if after < before else None


def train_within(
    tuner: FineTuner,
    branch: Branch,
    ranks: Mapping[str, int],
    kept: Mapping[str, LowRankFactors],
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, Directions]:
    """Take a round's last steps again with only the ranks of a plan, so that what is sent learns to
    do without the rest.

    The training at r_max goes on afterwards as if nothing had been.

    Args:
        tuner: a "lora" training, after this round.
        branch: the round's branch; what is sent begins with its leading directions.
        ranks: module → rank 1..r_max that is sent; at least one.
        kept: other modules → factors that the edge holds and keeps; they stay as they are. A module
            in neither is bare.
        on_step: called after every step.
    Returns:
        Every module of `ranks` → its directions, as many as it has ranks.
    Raises:
        ModelError: it diverges.
    """
    model = tuner.model
    sent = {name: Directions.of(branch.factors[name]).cut(rank) for name, rank in ranks.items()}
    with model.set_aside():
        model.hold({**kept, **sent})
        # Directions beyond a rank are zero in both factors, and so are their gradients.
        optimiser = new_optimiser(model.train_only(sent), tuner.learning_rate)
        for i, batch in enumerate(branch.batches):
            rate = rate_at(tuner.learning_rate, i, len(branch.batches), WARM_UP_STEPS)
            take_step(model, batch, optimiser, rate)
            on_step()
        # Within the block, for what low_rank gives shares the memory of the parameters.
        layers = model.layers
        return {
            name: Directions.of(leading(low_rank(layers[name]), factors.rank))
            for name, factors in sent.items()
        }
