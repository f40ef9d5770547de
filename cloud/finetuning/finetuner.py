"""A run's fine-tuning: text → LoRA at r_max, round after round.

Every adapted projection is trained at r_max, whatever is sent (AdaLoRA and EVA choose the ranks
themselves). Training goes on from round to round, and each update is the total since the base.
Label words and language-model text share one loss: cross-entropy at the positions that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from cloud.finetuning.adapted_model import AdaptedModel
from cloud.finetuning.peft_methods import METHODS, RATE_FACTORS, adapted_model
from cloud.model.base_model import BaseModel
from cloud.model.encoding import EncodedExample
from cloud.text.sources import Example
from hil.contract import LowRankFactors
from hil.settings import FinetuneSettings, ModelSettings
from hil.settings.policy import Method
from hil.system.threads import thread_count

LENGTH_GROUP = 8
"""Batches over which examples are sorted by length."""
BETAS = (0.9, 0.95)
"""AdamW's. A short memory of gradient sizes: after a domain is learnt they are tiny, and the next
domain's are not."""
WARM_UP_STEPS = 10
"""Steps at the start of every round over which the learning rate rises: its text may be of another
domain than the last one's."""
FINAL_RATE = 0.1
"""Share of the learning rate at a round's last step: what is sent is what the last steps have
settled."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a round's training stood some steps before its end.

    Attributes:
        factors: module → the whole update there; empty where no branch was asked for.
        batches: batches of the steps that were still to come.
    """

    factors: Mapping[str, LowRankFactors]
    batches: Sequence[Sequence[EncodedExample]]


@dataclass(frozen=True, slots=True)
class RoundTraining:
    """What a round of training came to.

    Attributes:
        loss_nats: mean loss of the last quarter of its steps, per counted token.
        branch: the point from which its last steps can be taken again.
    """

    loss_nats: float
    branch: Branch


class FineTuner:
    """A LoRA on the base model and its optimiser, over all rounds of a run.

    Args:
        base: the model to adapt.
        model: r_max and target modules.
        settings: steps, batch, learning rate.
        seed: seed of LoRA's initial values.
        method: "lora" at r_max, or a method of PEFT that chooses ranks: see
            cloud.finetuning.peft_methods.
        target_rank: average rank of "adalora" and "eva"; None for "lora".

    Attributes:
        model: the adapted model, as it is trained now.
        method: the argument.
        chooser: what the method does beside the training steps.
        optimiser: AdamW over all trained parameters.
        learning_rate: the highest of a round.
        steps_done: steps of all rounds so far.

    Raises:
        ModelError: the weights cannot be loaded, or the model lacks a target module.
        ConfigError: a target rank that does not fit the method.
    """

    def __init__(
        self,
        base: BaseModel,
        model: ModelSettings,
        settings: FinetuneSettings,
        seed: int,
        *,
        method: Method = "lora",
        target_rank: int | None = None,
    ) -> None:
        torch.manual_seed(seed)
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        base.check_targets(model.target_modules)
        self.method: Method = method
        self._batch = settings.batch
        peft = adapted_model(
            base.load(torch.device(device)), model, settings.alpha, method, target_rank
        )
        self.model = AdaptedModel(base, peft, settings.max_tokens, thread_count(settings.threads))
        self.chooser = METHODS[method](peft)
        self.learning_rate = settings.learning_rate * RATE_FACTORS[method]
        self.steps_done = 0
        self.set_up_optimiser()

    @property
    def module_shapes(self) -> Mapping[str, tuple[int, int]]:
        """Adapted modules in canonical order, as (d_out, d_in)."""
        return self.model.module_shapes

    def set_up_optimiser(self) -> None:
        """Begin with an empty optimiser, over the parameters that there are now."""
        self.model.find_parameters()
        self.optimiser = new_optimiser(self.model.parameters.values(), self.learning_rate)

    def train(
        self,
        examples: Sequence[Example],
        on_step: Callable[[], None] = lambda: None,
        *,
        branch_steps: int = 0,
    ) -> RoundTraining:
        """Take one round of training, a step a batch.

        Args:
            examples: in the order they are learnt; the last batch may be smaller.
            on_step: called after every step.
            branch_steps: so many steps before the end a branch begins; only of method "lora".
        """
        batches = self._batches(examples)
        if self.chooser.begin_round(batches, first=not self.steps_done):
            self.set_up_optimiser()
        begins = max(0, len(batches) - branch_steps)
        branch = Branch({}, batches[begins:])
        losses: list[float] = []
        for i, batch in enumerate(batches):
            if branch_steps and i == begins:
                branch = Branch(self.model.factors(), batches[begins:])
            rate = rate_at(self.learning_rate, i, len(batches), WARM_UP_STEPS)
            losses.append(take_step(self.model, batch, self.optimiser, rate, self.chooser.penalty))
            self.chooser.after_step(i + 1)
            self.steps_done += 1
            on_step()
        return RoundTraining(float(np.mean(losses[-max(1, len(losses) // 4) :])), branch)

    def _batches(self, examples: Sequence[Example]) -> list[list[EncodedExample]]:
        """Encoded batches; within LENGTH_GROUP, examples of like length share one: less padding is
        computed."""
        size = self._batch
        rows = self.model.encode(examples)
        order = np.random.default_rng([self.steps_done, len(rows)])
        batches: list[list[EncodedExample]] = []
        for start in range(0, len(rows), size * LENGTH_GROUP):
            group = sorted(rows[start : start + size * LENGTH_GROUP], key=lambda row: len(row[0]))
            of_group = [group[i : i + size] for i in range(0, len(group), size)]
            batches += [of_group[i] for i in order.permutation(len(of_group))]
        return batches


def new_optimiser(
    parameters: Iterable[torch.nn.Parameter], learning_rate: float
) -> torch.optim.AdamW:
    """AdamW as every fine-tuning here uses it, without weight decay."""
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=BETAS, weight_decay=0.0)


def rate_at(highest: float, step: int, steps: int, warm_up: int) -> float:
    """Learning rate of step 0..steps - 1: it rises over `warm_up` steps, and falls to FINAL_RATE of
    the highest."""
    return (
        highest * (1 - (1 - FINAL_RATE) * step / max(1, steps - 1)) * min(1.0, (step + 1) / warm_up)
    )


def take_step(
    model: AdaptedModel,
    batch: Sequence[EncodedExample],
    optimiser: torch.optim.Optimizer,
    rate: float,
    penalty: Callable[[], torch.Tensor | None] = lambda: None,
) -> float:
    """Take one step of training and give the batch's loss before it, in nats per counted token.

    Args:
        model: learns in place.
        batch: encoded examples.
        optimiser: it holds the parameters that learn.
        rate: learning rate of this step.
        penalty: what is added to the loss; None: nothing.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    n_counted = sum(len(ids) - start for ids, start in batch)

    def learn(rows: Sequence[EncodedExample]) -> float:
        loss = F.cross_entropy(*model.counted(rows), reduction="sum") / n_counted
        torch.autograd.backward(loss)
        return loss.item()

    losses = model.lanes.each(learn, parts_of(batch, model.lanes.count))
    added = penalty()
    if added is not None:
        torch.autograd.backward(added)
    learning: list[torch.Tensor] = []
    for group in optimiser.param_groups:
        learning += group["params"]
    torch.nn.utils.clip_grad_norm_(learning, 1.0)
    optimiser.step()
    return sum(losses)


def parts_of(batch: Sequence[EncodedExample], count: int) -> list[Sequence[EncodedExample]]:
    """A batch in up to `count` parts that follow one another and differ by one example at most."""
    ends = [len(batch) * (i + 1) // count for i in range(count)]
    return [batch[i:j] for i, j in zip([0, *ends], ends, strict=False) if i < j]
