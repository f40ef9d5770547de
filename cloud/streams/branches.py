"""A stream's rounds with their last steps taken within a plan, as the loop takes them.

What is sent depends on the plan then, so it cannot be stored with the stream: a plan's branch is
trained when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.finetuning.finetuner import FineTuner
from cloud.finetuning.within_plan import within_plan
from cloud.model.base_model import BaseModel
from cloud.streams.scorer import Held, held_factors, held_state
from cloud.streams.stream import round_texts, stream_finetune
from cloud.streams.stream_file import Stream
from hil.codec import CodecTarget, decode, digest, encode
from hil.contract import LoraUpdate

if TYPE_CHECKING:
    from hil.settings import Settings


class HeldScorer(Protocol):
    """Scores any factors on a round's score set."""

    def score_held(self, round_id: int, held: Held) -> tuple[float, float]:
        """Score and loss in nats per token."""
        ...


class StreamBranches:
    """The branches of one stream; whoever shares it shares what equal plans came to.

    Args:
        settings: the experiment, with finetune.plan_share above 0.
        base: the base model.
        stream: a "lora" stream of that experiment. It is trained once more, up to where the
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
            settings, base, stream.domains, text_seed=text_seed, train_seed=train_seed, tried=True
        )
        self._branches = [
            self._tuner.train(t.examples, branch_steps=finetune.plan_steps).branch
            for t in self._texts
        ]
        self._known: dict[Hashable, Held] = {}

    def after(self, round_id: int, kept: Held, ranks: Mapping[str, int]) -> Held:
        """What the edge holds when a round's plan has arrived.

        Args:
            round_id: a round of the stream.
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
        factors = {module: d.cut(d.rank) for module, d in found.items()}
        update = LoraUpdate(round_id=round_id, base_identity=spec.identity, factors=factors)
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
        scorer: scores the factors that come out of it.
        branches: the stream's.
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
