"""Text → LoRA at r_max → singular directions → the update that a rank plan cuts out of them.

LoRA of peft on every adapted projection, trained at r_max whatever is sent (or AdaLoRA or EVA, which choose the ranks
themselves); it goes on from round to round, and each update is the total since the base. Label words and
language-model text share one loss: cross-entropy at the positions that count, so the large output matrix is applied to
those only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from cloud.base_model import BaseModel
from cloud.importance import MOMENT_EXAMPLES, Curvature, CurvatureRecorder
from cloud.peft_methods import (
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
from cloud.text import Example
from hil.codec import cut, directions
from hil.config import FinetuneSettings, ModelSettings
from hil.contract import KEEP, LoraUpdate, LowRankFactors, ModelError, RankPlan, ScoreSet
from hil.policy_settings import Method

EncodedExample = tuple[list[int], int]
"""Token ids of an example, and the position of the first one that counts in the loss."""

MOMENT_BATCH = 32
LENGTH_GROUP = 8
"""Batches over which examples are sorted by length."""
WARM_UP_STEPS = 10
"""Of every round: its text may be of another domain than the last one's."""
FINAL_RATE = 0.1
"""Share of the learning rate at a round's last step: what is sent is what the last steps have settled."""


@dataclass(frozen=True, slots=True)
class Directions:
    """The singular value decomposition of one module's update, scaling included.

    Attributes:
        u: float64[d_out, k]; s: float64[k], falling; vt: float64[k, d_in].
    """

    u: NDArray[np.float64]
    s: NDArray[np.float64]
    vt: NDArray[np.float64]


class FineTuner:
    """A LoRA on the base model, and its optimiser, over all rounds of a run.

    Args:
        base: the model to adapt.
        model: r_max and target modules.
        settings: steps, batch, learning rate.
        seed: of LoRA's initial values.
        method: "lora" at r_max, or a method of PEFT that chooses ranks: see cloud.peft_methods.
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
        torch.set_num_threads(settings.threads)
        torch.manual_seed(seed)
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base, self._settings, self._method = base, settings, method
        self._model = adapted_model(base.load(torch.device(device)), model, settings.alpha, method, target_rank)
        # Evaluation mode: a base model with dropout of its own could not be resumed bit for bit.
        self._model.eval()
        adapted = adapted_layers(self._model)
        self.module_shapes = {name: shape for name, shape in base.spec.module_shapes.items() if name in adapted}
        self._adalora = AdaLoraRounds(self._model) if method == "adalora" else None
        self._rate = settings.learning_rate * RATE_FACTORS[method]
        self.steps_done = 0
        self._set_up_optimiser()

    def _set_up_optimiser(self) -> None:
        self._parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        # A short memory of gradient sizes: after a domain is learnt they are tiny, and the next domain's are not.
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=self._rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    # ------------------------------------------------------------------------------------- training

    def train(self, examples: Sequence[Example], on_step: Callable[[], None] = lambda: None) -> float:
        """One round of training, a step a batch.

        Args:
            examples: in the order they are learnt; the last batch may be smaller.
            on_step: called after every step.
        Returns:
            Mean loss of the round's last quarter of steps, in nats per counted token.
        """
        batches = self._batches(examples)
        if self._method == "eva" and not self.steps_done:
            self._initialize_eva(batches)
        if self._adalora:
            self._adalora.start(len(batches))
        losses: list[float] = []
        for i, batch in enumerate(batches):
            decay = 1 - (1 - FINAL_RATE) * i / max(1, len(batches) - 1)
            warm_up = min(1.0, (i + 1) / WARM_UP_STEPS)
            for group in self._optimiser.param_groups:
                group["lr"] = self._rate * decay * warm_up
            loss = F.cross_entropy(*self._counted(batch))
            self._optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss + self._adalora.penalty() if self._adalora else loss)
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
            self._optimiser.step()
            if self._adalora:
                self._adalora.after_step(i + 1)
            self.steps_done += 1
            losses.append(loss.item())
            on_step()
        return float(np.mean(losses[-max(1, len(losses) // 4) :]))

    def _initialize_eva(self, batches: Sequence[Sequence[EncodedExample]]) -> None:
        inputs = []
        for batch in batches:
            ids, _ = padded(batch)
            lengths = torch.tensor([len(row) for row, _ in batch])
            inputs.append({"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()})
        initialize_eva(self._model, inputs)
        self._set_up_optimiser()

    def _batches(self, examples: Sequence[Example]) -> list[list[EncodedExample]]:
        """Encoded batches; within LENGTH_GROUP, examples of like length share one: less padding is computed."""
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
        """Score (share of right answers; NaN without labels) and loss in nats per token, as the edge defines them."""
        right, loss_sum, n_tokens = 0, 0.0, 0
        for i in range(0, len(score_set.questions), batch):
            asked = score_set.questions[i : i + batch]
            per_label = torch.stack(
                [
                    self._word_losses([Example(text="", prompt=q.prompt, label_word=q.labels[k]) for q in asked])
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
        self, updates: Sequence[Mapping[str, LowRankFactors]], examples: Sequence[Example], *, batch: int = MOMENT_BATCH
    ) -> list[float]:
        """Loss in nats per counted token with each of these updates in place of the trained one.

        Args:
            updates: module → factors of rank ≤ r_max, for every adapted module; of method "lora".
            examples: in any order.
            batch: examples of one forward pass.
        """
        rows = sorted(self._encode(examples), key=lambda row: len(row[0]))
        batches = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        adapted = adapted_layers(self._model)
        trained = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        found: list[float] = []
        try:
            for update in updates:
                for name, factors in update.items():
                    set_low_rank(adapted[name], factors)
                sums = [F.cross_entropy(*self._counted(rows), reduction="sum").item() for rows in batches]
                found.append(sum(sums) / sum(len(ids) - start for rows in batches for ids, start in rows))
        finally:
            for name, parameter in self._parameters.items():
                parameter.data.copy_(trained[name])
        return found

    def _word_losses(self, examples: Sequence[Example]) -> torch.Tensor:
        """Cross-entropy of each example's label word, summed over its pieces: float[len(examples)]."""
        rows = self._encode(examples)
        losses = F.cross_entropy(*self._counted(rows), reduction="none").cpu()
        owner = torch.tensor([i for i, (ids, start) in enumerate(rows) for _ in range(len(ids) - start)])
        return torch.zeros(len(rows)).index_add(0, owner, losses)

    def _encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        return encode_examples(self._base, examples, self._settings.max_tokens)

    def _counted(self, rows: Sequence[EncodedExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets at the positions that count; rows are padded on the right, where nothing attends."""
        ids, counted = padded(rows)
        device = self._model.device
        causal: Any = self._model.get_base_model()
        hidden = causal.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        logits = causal.lm_head(hidden[:, :-1][counted[:, 1:].to(device)])
        return cast(torch.Tensor, logits.float()), ids[:, 1:][counted[:, 1:]].to(device)

    def curvature(self, examples: Sequence[Example]) -> dict[str, Curvature]:
        """Curvature of the loss in every adapted module, around the weights as they are trained now.

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

    # ----------------------------------------------------------------------------------- the update

    def directions(self) -> dict[str, Directions]:
        """The trained update of every adapted module, in canonical order.

        Only directions that live: AdaLoRA's masked ones and EVA's modules of rank 0 have none.
        """
        adapted = adapted_layers(self._model)
        found: dict[str, Directions] = {}
        for name, (d_out, d_in) in self.module_shapes.items():
            if name in adapted and len((ab := low_rank(adapted[name]))[0]):
                found[name] = Directions(*directions(*ab))
            else:
                found[name] = Directions(np.zeros((d_out, 0)), np.zeros(0), np.zeros((0, d_in)))
        return found

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
        own = {"identity": self._base.spec.identity, "method": self._method, "steps_done": str(self.steps_done)}
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
            raise ModelError(f"fine-tuning state {path}: {error}; start without finetune.resume_from") from error
        if self._method == "eva" and metadata.get("method") == "eva":
            self._restore_eva(tensors)
        shapes = {f"value/{name}": p.shape for name, p in self._parameters.items()}
        saved = {key: value.shape for key, value in tensors.items() if key.startswith("value/")}
        if metadata.get("identity") != self._base.spec.identity or shapes != saved:
            raise ModelError(f"fine-tuning state {path}: made for another base model, method, r_max or target_modules")
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
        a = {key[len(opening) : -len(end)]: value for key, value in tensors.items() if key.endswith(end)}
        restore_eva(self._model, {name: value for name, value in a.items() if name in self.module_shapes})
        self._set_up_optimiser()


def encode_examples(base: BaseModel, examples: Sequence[Example], max_tokens: int) -> list[EncodedExample]:
    """Token ids of each example, and the position of the first one that counts in the loss.

    Args:
        base: gives the tokenizer.
        max_tokens: a longer labelled example loses its front, a longer text its end.
    """
    # Prompt and word are split as one text, as the edge does it: a tokenizer may merge across the seam.
    whole = base.tokenizer([e.prompt + e.label_word for e in examples])["input_ids"]
    prompts = base.tokenizer([e.prompt for e in examples])["input_ids"]
    rows: list[EncodedExample] = []
    for example, ids, prompt_ids in zip(examples, whole, prompts, strict=True):
        if example.label_word:
            pairs = zip(ids, prompt_ids, strict=False)
            start = next((i for i, (one, other) in enumerate(pairs) if one != other), len(prompt_ids))
            cut_off = max(0, len(ids) - max_tokens)
            rows.append((ids[cut_off:], start - cut_off))
        else:
            rows.append((ids[:max_tokens], 1))
    return rows


def padded(rows: Sequence[EncodedExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids int64[n, longest], zeros after each row's end, and bool[n, longest]: the tokens that count."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    counted = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, start) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        counted[i, start : len(row)] = True
    return ids, counted


def spectra(found: Mapping[str, Directions], r_max: int) -> dict[str, NDArray[np.float32]]:
    """Singular values of each module, float32[r_max], padded with zeros where a module is smaller than r_max."""
    return {name: np.pad(d.s, (0, r_max))[:r_max].astype(np.float32) for name, d in found.items()}


def cut_update(
    found: Mapping[str, Directions], plan: RankPlan, *, round_id: int, identity: str, held_digest: str
) -> LoraUpdate:
    """The update that a plan sends: the leading directions of each module, the best approximation of that rank.

    Args:
        found: the trained update.
        plan: a rank, 0 or KEEP for each of its modules.
        round_id: this round.
        identity: of the base model.
        held_digest: digest of the update that the edge holds; "" when it holds none.
    Raises:
        ModelError: the plan names other modules than were trained, or keeps some although the edge holds nothing.
    """
    if set(plan.ranks) != set(found):
        raise ModelError("the rank plan must name every adapted module and no other; check the policy")
    kept = frozenset(name for name, rank in plan.ranks.items() if rank == KEEP)
    if kept and not held_digest:
        raise ModelError(f"the rank plan keeps {len(kept)} modules, but the edge holds no update; check the policy")
    factors = {
        name: cut(d.u, d.s, d.vt, min(rank, len(d.s)))
        for name, d in found.items()
        if isinstance(rank := plan.ranks[name], int) and rank > 0 and len(d.s)
    }
    return LoraUpdate(
        round_id=round_id,
        base_identity=identity,
        factors=factors,
        kept=kept,
        kept_from=held_digest if kept else None,
    )
