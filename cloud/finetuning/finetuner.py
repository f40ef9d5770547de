"""Text → LoRA at r_max → singular directions; and training within the ranks that a plan sends of
them.

LoRA of peft on every adapted projection, trained at r_max whatever is sent (or AdaLoRA or EVA,
which choose the ranks themselves); it goes on from round to round, and each update is the total
since the base. Label words and language-model text share one loss: cross-entropy at the positions
that count, so the large output matrix is applied to those only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from cloud.finetuning.directions import Directions, leading, nothing
from cloud.finetuning.importance import MOMENT_EXAMPLES, Curvature, CurvatureRecorder
from cloud.finetuning.peft_methods import (
    ADAPTER,
    PREFIX,
    RATE_FACTORS,
    AdaLoraRounds,
    adapted_layers,
    adapted_model,
    initialize_eva,
    low_rank,
    restore_eva,
    set_low_rank,
)
from cloud.model.base_model import BaseModel
from cloud.model.encoding import EncodedExample, encode_examples, model_inputs, padded
from cloud.text.sources import Example
from hil.contract import LowRankFactors, ModelError, ScoreSet
from hil.settings import FinetuneSettings, ModelSettings
from hil.settings.policy import Method
from hil.system.threads import thread_count

MOMENT_BATCH = 32
LENGTH_GROUP = 8
"""Batches over which examples are sorted by length."""
BETAS = (0.9, 0.95)
"""A short memory of gradient sizes: after a domain is learnt they are tiny, and the next domain's
are not."""
WARM_UP_STEPS = 10
"""Of every round: its text may be of another domain than the last one's."""
BRANCH_WARM_UP_STEPS = 3
"""Within a plan: long enough for AdamW's moments to fill."""
FINAL_RATE = 0.1
"""Share of the learning rate at a round's last step: what is sent is what the last steps have
settled."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a round's training stood some steps before its end.

    Attributes:
        factors: module → the whole update there; empty where no branch was asked for.
        batches: of the steps that were still to come.
    """

    factors: Mapping[str, LowRankFactors]
    batches: Sequence[Sequence[EncodedExample]]


@dataclass(frozen=True, slots=True)
class RoundTraining:
    """What a round of training came to.

    Attributes:
        loss_nats: mean loss of the last quarter of its steps, per counted token.
        branch: from which its last steps can be taken again.
    """

    loss_nats: float
    branch: Branch


class FineTuner:
    """A LoRA on the base model, and its optimiser, over all rounds of a run.

    Args:
        base: the model to adapt.
        model: r_max and target modules.
        settings: steps, batch, learning rate.
        seed: of LoRA's initial values.
        method: "lora" at r_max, or a method of PEFT that chooses ranks: see
            cloud.finetuning.peft_methods.
        target_rank: average rank of "adalora" and "eva"; None for "lora".
    Raises:
        ModelError: the weights cannot be loaded.
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
        torch.set_num_threads(thread_count(settings.threads))
        torch.manual_seed(seed)
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base, self._settings, self._method = base, settings, method
        self._model = adapted_model(
            base.load(torch.device(device)), model, settings.alpha, method, target_rank
        )
        # Evaluation mode: a base model with dropout of its own could not be resumed bit for bit.
        self._model.eval()
        adapted = adapted_layers(self._model)
        self.module_shapes = {
            name: shape for name, shape in base.spec.module_shapes.items() if name in adapted
        }
        self._adalora = AdaLoraRounds(self._model) if method == "adalora" else None
        self._rate = settings.learning_rate * RATE_FACTORS[method]
        self.steps_done = 0
        self._set_up_optimiser()

    def _set_up_optimiser(self) -> None:
        self._parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=self._rate, betas=BETAS, weight_decay=0.0
        )

    # ------------------------------------------------------------------------------------ training

    def train(
        self,
        examples: Sequence[Example],
        on_step: Callable[[], None] = lambda: None,
        *,
        branch_steps: int = 0,
    ) -> RoundTraining:
        """One round of training, a step a batch.

        Args:
            examples: in the order they are learnt; the last batch may be smaller.
            on_step: called after every step.
            branch_steps: so many steps before the end a branch begins; only of method "lora".
        """
        batches = self._batches(examples)
        if self._method == "eva" and not self.steps_done:
            self._initialize_eva(batches)
        if self._adalora:
            self._adalora.start(len(batches))
        begins = max(0, len(batches) - branch_steps)
        branch = Branch({}, batches[begins:])
        losses: list[float] = []
        for i, batch in enumerate(batches):
            if branch_steps and i == begins:
                branch = Branch(self._copied(), batches[begins:])
            rate = self._rate_at(i, len(batches), WARM_UP_STEPS)
            losses.append(
                self._learn(
                    batch, self._optimiser, rate, self._adalora.penalty if self._adalora else None
                )
            )
            if self._adalora:
                self._adalora.after_step(i + 1)
            self.steps_done += 1
            on_step()
        return RoundTraining(float(np.mean(losses[-max(1, len(losses) // 4) :])), branch)

    def _copied(self) -> dict[str, LowRankFactors]:
        adapted = adapted_layers(self._model)
        found = {name: low_rank(adapted[name]) for name in self.module_shapes}
        return {name: LowRankFactors(a=f.a.copy(), b=f.b.copy()) for name, f in found.items()}

    def train_within(
        self,
        branch: Branch,
        ranks: Mapping[str, int],
        kept: Mapping[str, LowRankFactors],
        on_step: Callable[[], None] = lambda: None,
    ) -> dict[str, Directions]:
        """A round's last steps, taken within the ranks of a plan: what is sent learns to do without
        the rest.

        The LoRA at r_max goes on afterwards as if nothing had been.

        Args:
            branch: of the round.
            ranks: module → rank 1..r_max that is sent; at least one. It begins with the branch's
                leading directions.
            kept: other modules → factors that the edge holds and keeps; they stay as they are. A
                module in neither is bare.
            on_step: called after every step.
        Returns:
            Every module of `ranks` → its directions, as many as it has ranks.
        """
        sent = {name: Directions.of(branch.factors[name]).cut(rank) for name, rank in ranks.items()}
        with self._set_aside():
            self._hold({**kept, **sent})
            # Directions beyond a rank are zero in both factors, and so are their gradients.
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(name.removeprefix(PREFIX).partition(".lora_")[0] in sent)
            moving = [p for p in self._parameters.values() if p.requires_grad]
            optimiser = torch.optim.AdamW(moving, lr=self._rate, betas=BETAS, weight_decay=0.0)
            for i, batch in enumerate(branch.batches):
                self._learn(
                    batch, optimiser, self._rate_at(i, len(branch.batches), BRANCH_WARM_UP_STEPS)
                )
                on_step()
            # Here, for what low_rank gives shares the memory of the parameters.
            adapted = adapted_layers(self._model)
            return {
                name: Directions.of(leading(low_rank(adapted[name]), factors.rank))
                for name, factors in sent.items()
            }

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """What is trained is as it was when the block ends, whatever was held in it."""
        trained = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data.copy_(trained[name])
                parameter.requires_grad_(True).grad = None

    def _hold(self, update: Mapping[str, LowRankFactors]) -> None:
        """Let the LoRA be this update; a module that is not in it is bare."""
        adapted = adapted_layers(self._model)
        for name, shape in self.module_shapes.items():
            set_low_rank(adapted[name], update.get(name, nothing(*shape)))

    def _rate_at(self, step: int, steps: int, warm_up: int) -> float:
        """Learning rate of a step: it rises at first, and falls to FINAL_RATE of its own."""
        return (
            self._rate
            * (1 - (1 - FINAL_RATE) * step / max(1, steps - 1))
            * min(1.0, (step + 1) / warm_up)
        )

    def _learn(
        self,
        batch: Sequence[EncodedExample],
        optimiser: torch.optim.Optimizer,
        rate: float,
        penalty: Callable[[], torch.Tensor] | None = None,
    ) -> float:
        """One step; the batch's loss before it."""
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(*self._counted(batch))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss + penalty() if penalty else loss)
        torch.nn.utils.clip_grad_norm_(
            [p for group in optimiser.param_groups for p in group["params"]], 1.0
        )
        optimiser.step()
        return loss.item()

    def _initialize_eva(self, batches: Sequence[Sequence[EncodedExample]]) -> None:
        initialize_eva(self._model, [model_inputs(batch) for batch in batches])
        self._set_up_optimiser()

    def _batches(self, examples: Sequence[Example]) -> list[list[EncodedExample]]:
        """Encoded batches; within LENGTH_GROUP, examples of like length share one: less padding is
        computed."""
        size = self._settings.batch
        rows = self._encode(examples)
        order = np.random.default_rng([self.steps_done, len(rows)])
        batches: list[list[EncodedExample]] = []
        for start in range(0, len(rows), size * LENGTH_GROUP):
            group = sorted(rows[start : start + size * LENGTH_GROUP], key=lambda row: len(row[0]))
            of_group = [group[i : i + size] for i in range(0, len(group), size)]
            batches += [of_group[i] for i in order.permutation(len(of_group))]
        return batches

    @torch.no_grad()
    def score(self, score_set: ScoreSet, *, batch: int = 64) -> tuple[float, float]:
        """Score (share of right answers; NaN without labels) and loss in nats per token, as the
        edge defines them."""
        right, loss_sum, n_tokens = 0, 0.0, 0
        for i in range(0, len(score_set.questions), batch):
            asked = score_set.questions[i : i + batch]
            per_label = torch.stack(
                [
                    self._word_losses(
                        [Example(text="", prompt=q.prompt, label_word=q.labels[k]) for q in asked]
                    )
                    for k in range(len(asked[0].labels))
                ]
            )
            answers = torch.tensor([q.answer for q in asked])
            right += int((per_label.argmin(0) == answers).sum())
            loss_sum += float(per_label[answers, torch.arange(len(asked))].sum())
            n_tokens += len(asked)
        for i in range(0, len(score_set.chunks), batch):
            chunks = [Example(text=c, prompt=c) for c in score_set.chunks[i : i + batch]]
            logits, targets = self._counted(self._encode(chunks))
            loss_sum += float(F.cross_entropy(logits, targets, reduction="sum"))
            n_tokens += len(targets)
        return right / n_tokens if score_set.questions else float("nan"), loss_sum / n_tokens

    @torch.no_grad()
    def losses_of(
        self,
        updates: Sequence[Mapping[str, LowRankFactors]],
        examples: Sequence[Example],
        *,
        batch: int = MOMENT_BATCH,
    ) -> list[float]:
        """Loss in nats per counted token with each of these updates in place of the trained one.

        Args:
            updates: module → factors of rank ≤ r_max; a module that is not in it is bare. Of method
                "lora".
            examples: in any order.
            batch: examples of one forward pass.
        """
        rows = sorted(self._encode(examples), key=lambda row: len(row[0]))
        batches = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        found: list[float] = []
        with self._set_aside():
            for update in updates:
                self._hold(update)
                sums = [
                    F.cross_entropy(*self._counted(rows), reduction="sum").item()
                    for rows in batches
                ]
                found.append(
                    sum(sums) / sum(len(ids) - start for rows in batches for ids, start in rows)
                )
        return found

    def _word_losses(self, examples: Sequence[Example]) -> torch.Tensor:
        """Cross-entropy of each example's label word, summed over its pieces:
        float[len(examples)]."""
        rows = self._encode(examples)
        losses = F.cross_entropy(*self._counted(rows), reduction="none").cpu()
        owner = torch.tensor(
            [i for i, (ids, start) in enumerate(rows) for _ in range(len(ids) - start)]
        )
        return torch.zeros(len(rows)).index_add(0, owner, losses)

    def _encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        return encode_examples(self._base, examples, self._settings.max_tokens)

    def _counted(self, rows: Sequence[EncodedExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets at the positions that count; rows are padded on the right, where
        nothing attends."""
        ids, counted = padded(rows)
        device = self._model.device
        causal: Any = self._model.get_base_model()
        hidden = causal.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        logits = causal.lm_head(hidden[:, :-1][counted[:, 1:].to(device)])
        return cast(torch.Tensor, logits.float()), ids[:, 1:][counted[:, 1:]].to(device)

    def curvature(self, examples: Sequence[Example]) -> dict[str, Curvature]:
        """Curvature of the loss in every adapted module, around the weights as they are trained
        now.

        Args:
            examples: the first MOMENT_EXAMPLES of them are used.
        """
        recorder = CurvatureRecorder(adapted_layers(self._model), seed=self.steps_done)
        rows = sorted(self._encode(examples[:MOMENT_EXAMPLES]), key=lambda row: len(row[0]))
        for i in range(0, len(rows), MOMENT_BATCH):
            batch = rows[i : i + MOMENT_BATCH]
            lengths = torch.tensor([len(ids) for ids, _ in batch])
            # What is read at an example's last position is asked for by no loss.
            used = torch.arange(int(lengths.max())) < lengths[:, None] - 1
            recorder.add(lambda rows=batch: self._counted(rows)[0], used)  # type: ignore[misc]
        return recorder.curvature()

    # ---------------------------------------------------------------------------------- the update

    def directions(self) -> dict[str, Directions]:
        """The trained update of every adapted module, in canonical order.

        Only directions that live: AdaLoRA's masked ones and EVA's modules of rank 0 have none.
        """
        adapted = adapted_layers(self._model)
        return {
            name: Directions.of(low_rank(adapted[name]) if name in adapted else nothing(*shape))
            for name, shape in self.module_shapes.items()
        }

    # -------------------------------------------------------------------------------------- resume

    def save(self, path: Path, extra: Mapping[str, str] | None = None) -> None:
        """Write LoRA, optimiser and step count; training goes on from it bit for bit (on a CPU).

        Args:
            path: a .safetensors file.
            extra: further text to keep beside it.
        """
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters.items():
            tensors[f"value/{name}"] = parameter.detach().clone()
            for key, value in self._optimiser.state[parameter].items():
                tensors[f"{key}/{name}"] = value.clone()
        own = {
            "identity": self._base.spec.identity,
            "method": self._method,
            "steps_done": str(self.steps_done),
        }
        save_file(tensors, path, metadata={**own, **(extra or {})})

    def load(self, path: Path) -> dict[str, str]:
        """Continue from a saved state and return its extra text.

        Raises:
            ModelError: no such file, or one of another base model, rank or set of modules.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"fine-tuning state {path}: {error}; start without finetune.resume_from"
            ) from error
        if self._method == "eva" and metadata.get("method") == "eva":
            self._restore_eva(tensors)
        shapes = {f"value/{name}": p.shape for name, p in self._parameters.items()}
        saved = {key: value.shape for key, value in tensors.items() if key.startswith("value/")}
        if metadata.get("identity") != self._base.spec.identity or shapes != saved:
            raise ModelError(
                f"fine-tuning state {path}: made for another base model, method, r_max or "
                "target_modules"
            )
        for name, parameter in self._parameters.items():
            parameter.data.copy_(tensors.pop(f"value/{name}"))
        for key, tensor in tensors.items():
            field, _, name = key.partition("/")
            state = self._optimiser.state[self._parameters[name]]
            state[field] = tensor if field == "step" else tensor.to(self._parameters[name].device)
        self.steps_done = int(metadata["steps_done"])
        return metadata

    def _restore_eva(self, tensors: Mapping[str, torch.Tensor]) -> None:
        opening, end = f"value/{PREFIX}", f".lora_A.{ADAPTER}.weight"
        a = {
            key[len(opening) : -len(end)]: value
            for key, value in tensors.items()
            if key.endswith(end)
        }
        restore_eva(
            self._model, {name: value for name, value in a.items() if name in self.module_shapes}
        )
        self._set_up_optimiser()
