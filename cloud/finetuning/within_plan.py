"""The last steps of a round taken within its plan: by the loop, and by streams that policies are
compared on.

The training at r_max does not know what will be sent. Some steps before a round's end a second
branch leaves it, which goes on over the same batches with nothing but what the plan sends
(FineTuner.train_within). Where a plan sends nearly everything there is nothing to learn from that,
and a fresh optimiser is a loss; so what the branch has come to is tried on the round's trial
examples beside the plain cut, and the better one is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.finetuning.directions import Directions
from cloud.finetuning.finetuner import Branch, FineTuner
from cloud.model.base_model import BaseModel
from cloud.streams.scorer import Held, held_factors, held_state
from cloud.streams.stream import round_texts, stream_finetune
from cloud.streams.stream_file import Stream
from cloud.text.sources import Example
from hil.codec import CodecTarget, decode, digest, encode
from hil.codec import cut as truncate
from hil.contract import CodecError, LoraUpdate, LowRankFactors

if TYPE_CHECKING:
    from hil.settings import Settings


class HeldScorer(Protocol):
    """Scores any factors on a round's score set."""

    def score_held(self, round_id: int, held: Held) -> tuple[float, float]:
        """Score and loss in nats per token."""
        ...


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
    except CodecError:  # the branch has diverged; the training at r_max has not
        return None
    before, after = tuner.losses_of([{**kept, **cut}, {**kept, **_factors(found)}], trial)
    return found if after < before else None


def _factors(found: Mapping[str, Directions]) -> dict[str, LowRankFactors]:
    return {module: truncate(d.u, d.s, d.vt, len(d.s)) for module, d in found.items()}


class StreamBranches:
    """The branches of one stream; whoever shares it shares what equal plans came to.

    Args:
        settings: with finetune.plan_share above 0.
        base: the base model.
        stream: of that experiment, of method "lora". It is trained once more, up to where the
            branches begin.
        text_seed, train_seed: that it was trained from.
    Raises:
        ModelError, TextError: as for the stream itself.
    """

    def __init__(
        self,
        settings: Settings,
        base: BaseModel,
        stream: Stream,
        *,
        text_seed: int,
        train_seed: int,
    ) -> None:
        finetune = stream_finetune(settings)
        self._target = CodecTarget(coefficient_bits=settings.codec.coefficient_bits)
        self._tuner = FineTuner(base, settings.model, finetune, train_seed)
        self.stream = stream
        self._texts = round_texts(
            settings, stream.domains, text_seed=text_seed, train_seed=train_seed, tried=True
        )
        self._branches = [
            self._tuner.train(t.examples, branch_steps=finetune.plan_steps).branch
            for t in self._texts
        ]
        self._known: dict[Hashable, Held] = {}

    def after(self, round_id: int, kept: Held, ranks: Mapping[str, int]) -> Held:
        """What the edge holds when a round's plan has arrived.

        Args:
            round_id: of the stream.
            kept: what it held before and keeps.
            ranks: module → rank ≥ 1 of what is sent; none of them is in `kept`.
        """
        if not ranks:
            return kept
        request = (
            round_id,
            tuple((m, key) for m, (key, _) in sorted(kept.items())),
            tuple(ranks.items()),
        )
        if request not in self._known:
            self._known[request] = {**kept, **self._sent(round_id, kept, ranks)}
        return self._known[request]

    def _sent(self, round_id: int, kept: Held, ranks: Mapping[str, int]) -> Held:
        modules = np.array([ranks.get(module, 0) for module in self.stream.modules])
        plain = held_factors(self.stream, np.where(modules > 0, round_id, -1), modules)
        cut, fixed = (
            {module: factors for module, (_, factors) in held.items()} for held in (plain, kept)
        )
        found = within_plan(
            self._tuner, self._branches[round_id], cut, fixed, self._texts[round_id].trial
        )
        if found is None:
            return plain
        spec = self.stream.spec
        update = LoraUpdate(round_id=round_id, base_identity=spec.identity, factors=_factors(found))
        payload = encode(update, self._target, base=spec)
        name = digest(payload)
        return {
            module: ((name, module), received)
            for module, received in decode(payload, spec).factors.items()
        }


class BranchScorer:
    """A scorer of one episode at a time, asked once in every round: what was sent has been trained
    within its plan.

    Args:
        scorer: of the factors that come out of it.
        branches: of the stream.
    """

    def __init__(self, scorer: HeldScorer, branches: StreamBranches) -> None:
        self._scorer, self._branches = scorer, branches
        self._held: Held = {}

    def score(
        self, round_id: int, held_round: NDArray[np.integer], held_rank: NDArray[np.integer]
    ) -> tuple[float, float]:
        """Score and loss (nats per token) after a round.

        Args:
            round_id: 0 begins an episode.
            held_round: int[M], the round that each module was sent in; -1 = it holds nothing.
            held_rank: int[M], its rank then; 0 = nothing.
        """
        of_round, rank = held_state(held_round, held_rank)
        now = dict(
            zip(
                self._branches.stream.modules,
                zip(of_round.tolist(), rank.tolist(), strict=True),
                strict=True,
            )
        )
        kept = {
            module: held for module, held in self._held.items() if 0 <= now[module][0] < round_id
        }
        sent = {module: r for module, (t, r) in now.items() if t == round_id}
        self._held = self._branches.after(round_id, kept, sent)
        return self._scorer.score_held(round_id, self._held)
