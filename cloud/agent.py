"""The cloud half of the loop: text, fine-tuning, policy and codec; it never sees the edge's
model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloud.finetuning.directions import Directions, cut_update, leading, spectra
from cloud.finetuning.finetuner import Branch, FineTuner
from cloud.finetuning.given_adapter import start_from
from cloud.finetuning.importance import Curvature, curvature_of, residuals
from cloud.finetuning.scoring import score
from cloud.finetuning.training_state import load_state, save_state
from cloud.finetuning.trial import measure_plans, trial_examples
from cloud.finetuning.within_plan import within_plan
from cloud.model.base_model import BaseModel
from cloud.policies.registry import make_policy
from cloud.text.lexicon import measure_text
from cloud.text.sources import Domain, DomainSampler, Example
from hil import codec
from hil.contract import (
    KEEP,
    Budget,
    ChannelState,
    LowRankFactors,
    MeasuredLoss,
    RankPlan,
    Residuals,
    RoundObservation,
    RoundSummary,
    TextState,
)
from hil.settings import Settings
from hil.settings.policy import training_of, weighs_trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a round's training left.

    Attributes:
        text: how hard the text is.
        loss_nats: mean loss of the last quarter of the steps, per counted token.
        steps: number of steps that were taken.
        directions: module → the whole update.
        delivered: module → the same as an edge would decode it, had all of it been sent.
        curvature: module → curvature of the loss around it.
        trial: examples of the round's text that it did not train on.
        branch: the point from which its last steps can be taken again within a plan.
    """

    text: TextState
    loss_nats: float
    steps: int
    directions: Mapping[str, Directions]
    delivered: Mapping[str, LowRankFactors]
    curvature: Mapping[str, Curvature]
    trial: Sequence[Example]
    branch: Branch


@dataclass(frozen=True, slots=True)
class HeldModule:
    """What the edge holds of one module.

    Attributes:
        factors: as the edge decoded them.
        cut: leading directions of the whole update that was trained then, as many as were sent.
            `factors` differ from it where the last steps were taken again within the plan.
    """

    factors: LowRankFactors
    cut: LowRankFactors


class CloudHalf:
    """Text, fine-tuning, policy and codec.

    Args:
        settings: the run's settings.
        base: the base model.
        domains, stream: what cloud.text.loading.load_domains gives.
    Raises:
        ModelError: the model, or what training is to start from, cannot be loaded.
        ConfigError: the policy's settings do not fit.
    """

    def __init__(
        self, settings: Settings, base: BaseModel, domains: Mapping[str, Domain], stream: list[str]
    ) -> None:
        self._settings, self._base, self._stream = settings, base, stream
        seed = settings.run.seed
        self.policy = make_policy(settings.policy)
        self._target = codec.CodecTarget(coefficient_bits=settings.codec.coefficient_bits)
        self._samplers = {name: DomainSampler(domain, seed) for name, domain in domains.items()}
        self._score_sets = {name: domain.score_set for name, domain in domains.items()}
        self._method, rank = training_of(settings.policy)
        self._tuner = FineTuner(
            base, settings.model, settings.finetune, seed, method=self._method, target_rank=rank
        )
        # AdaLoRA and EVA train at their plan anyway.
        self._plan_steps = settings.finetune.plan_steps if self._method == "lora" else 0
        self.module_shapes = self._tuner.module_shapes
        self.history: list[RoundSummary] = []
        self._held: dict[str, HeldModule] = {}
        """Modules of the update that the edge last said it holds; empty while it holds none that
        was sent from here."""
        self._held_digest = ""
        """Digest of the payload behind that update; "" for the bare base model."""
        self._sent_cuts: dict[str, LowRankFactors] = {}
        """Module → HeldModule.cut of the payload encoded last; the edge may never get it."""
        if settings.finetune.start_from:
            start_from(self._tuner, Path(settings.finetune.start_from))
        if settings.finetune.resume_from:
            self._resume(Path(settings.finetune.resume_from))

    def domain_of(self, round_id: int) -> str:
        """Name of a round's domain; the stream starts again when it ends."""
        return self._stream[round_id % len(self._stream)]

    def train(self, round_id: int, on_step: Callable[[], None]) -> Trained:
        """Train one round at r_max, on the round's domain."""
        settings, name = self._settings.finetune, self.domain_of(round_id)
        examples = self._samplers[name].draw(settings.steps * settings.batch)
        text = measure_text(
            (e.text for e in examples),
            domain=name,
            lexicon=self._base.lexicon,
            count_pieces=self._base.count_pieces,
        )
        training = self._tuner.train(examples, on_step, branch_steps=self._plan_steps)
        found = self._tuner.model.directions()
        return Trained(
            text=text,
            loss_nats=training.loss_nats,
            steps=settings.steps,
            directions=found,
            delivered=self._delivered(round_id, found),
            curvature=curvature_of(self._tuner.model, examples, seed=self._tuner.steps_done),
            trial=trial_examples(self._samplers[name]) if self._method == "lora" else (),
            branch=training.branch,
        )

    def _delivered(
        self, round_id: int, found: Mapping[str, Directions]
    ) -> Mapping[str, LowRankFactors]:
        whole = RankPlan(
            ranks={name: min(len(d.s), self._settings.model.r_max) for name, d in found.items()}
        )
        identity = self._base.spec.identity
        update = cut_update(found, whole, round_id=round_id, identity=identity, held_digest="")
        return codec.decode(
            codec.encode(update, self._target, base=self._base.spec), self._base.spec
        ).factors

    def full_score(self, round_id: int) -> tuple[float, float]:
        """Score and loss in nats per token of the trained model itself, unquantised, on the round's
        score set."""
        return score(self._tuner.model, self._score_sets[self.domain_of(round_id)])

    def observe(
        self,
        round_id: int,
        trained: Trained,
        channel: ChannelState,
        budget: Budget,
        held: Mapping[str, int],
    ) -> RoundObservation:
        """All that the policy may look at.

        Args:
            round_id: number of the round.
            trained: what its training left.
            channel, budget: the link's state, and what may be spent on it.
            held: module → rank that the edge says it holds.
        """
        r_max = self._settings.model.r_max
        # What an update was cut from, not what training within the plan made of it: where that
        # makes up for what is missing, it lies further from the whole update, and lacks less.
        held_cuts = {module: part.cut for module, part in self._held.items()}
        kfac = residuals(trained.delivered, held_cuts, r_max, trained.curvature)
        return RoundObservation(
            round_id=round_id,
            channel=channel,
            text=trained.text,
            budget=budget,
            module_shapes=self.module_shapes,
            r_max=r_max,
            bits_per_direction=codec.bits_per_direction(self._base.spec, self._target),
            overhead_bits=codec.overhead_bits(self._base.spec, self._target),
            bits_per_module=codec.BITS_PER_MODULE,
            spectra=spectra(trained.directions, r_max),
            energy=residuals(trained.delivered, held_cuts, r_max),
            kfac=kfac,
            measured=self._measured(trained, kfac)
            if weighs_trials(self._settings.policy)
            else None,
            held=dict(held),
            history=tuple(self.history),
        )

    def _measured(self, trained: Trained, kfac: Residuals) -> MeasuredLoss:
        bits_each = codec.bits_per_direction(self._base.spec, self._target)
        bits = codec.bits_by_rank(
            [bits_each[module] for module in self.module_shapes], self._settings.model.r_max
        )
        sent = np.array([kfac.missing_if_sent[module] for module in self.module_shapes], np.float64)
        delivered = [trained.delivered[module] for module in self.module_shapes]
        return measure_plans(self._tuner, delivered, sent, bits, trained.trial)

    def encode(
        self,
        round_id: int,
        trained: Trained,
        plan: RankPlan,
        held_digest: str,
        on_step: Callable[[], None] = lambda: None,
    ) -> bytes:
        """The payload that a plan makes of the trained update.

        Args:
            round_id: number of the round.
            trained: what its training left.
            plan: the ranks; at least one module is sent.
            held_digest: digest of the update that the edge holds.
            on_step: called after every step within the plan.
        """
        ranks = {module: rank for module, rank in plan.ranks.items() if rank != KEEP and rank > 0}
        self._sent_cuts = cuts = {
            m: leading(trained.delivered[m], r) for m, r in ranks.items() if m in trained.delivered
        }
        found = trained.directions
        if self._plan_steps and cuts:
            kept = {
                module: part.factors
                for module, part in self._held.items()
                if plan.ranks[module] == KEEP
            }
            branch, trial = trained.branch, trained.trial
            within = within_plan(self._tuner, branch, cuts, kept, trial, on_step)
            found = {**found, **(within or {})}
        update = cut_update(
            found,
            plan,
            round_id=round_id,
            identity=self._base.spec.identity,
            held_digest=held_digest,
        )
        return codec.encode(update, self._target, base=self._base.spec, plan=plan)

    def confirm(self, payload: bytes, held_digest: str) -> None:
        """Note what the edge says that it holds, module by module: kept ones come from older
        payloads.

        Args:
            payload: the payload that was sent this round; empty for none.
            held_digest: digest of the payload whose update is active on the edge; of one that was
                never sent from here nothing is known.
        """
        if payload and codec.digest(payload) == held_digest:
            update = codec.decode(payload, self._base.spec)
            kept = {module: part for module, part in self._held.items() if module in update.kept}
            new = {
                module: HeldModule(factors, self._sent_cuts[module])
                for module, factors in update.factors.items()
            }
            self._held = {**kept, **new}
        elif held_digest != self._held_digest:
            self._held = {}
        self._held_digest = held_digest

    def save(self, path: Path) -> None:
        """Write what is needed to go on: LoRA, optimiser, and the place in every domain."""
        positions = {name: sampler.position for name, sampler in self._samplers.items()}
        save_state(self._tuner, path, {"positions": json.dumps(positions)})

    def _resume(self, path: Path) -> None:
        positions = json.loads(load_state(self._tuner, path).get("positions", "{}"))
        for name, sampler in self._samplers.items():
            sampler.position = positions.get(name, 0)
