"""Text → LoRA at r_max → singular directions → the update that a rank plan cuts out of them.

Plain LoRA of peft on every adapted projection, trained at r_max whatever is sent; it goes on from round to round, and
each update is the total since the base. Label words and language-model text share one loss: cross-entropy at the
positions that count, so the large output matrix is applied to those only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from cloud.base_model import BaseModel
from cloud.text import Example
from hil.codec import cut, directions
from hil.config import FinetuneSettings, ModelSettings
from hil.contract import KEEP, LoraUpdate, ModelError, RankPlan, ScoreSet

EncodedExample = tuple[list[int], int]
"""Token ids of an example, and the position of the first one that counts in the loss."""

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
    Raises:
        ModelError: the weights cannot be loaded.
    """

    def __init__(self, base: BaseModel, model: ModelSettings, settings: FinetuneSettings, seed: int) -> None:
        torch.set_num_threads(settings.threads)
        torch.manual_seed(seed)
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base, self._settings = base, settings
        config = LoraConfig(
            r=model.r_max,
            lora_alpha=settings.alpha,  # type: ignore[arg-type] # declared int, but only ever divided by r
            target_modules=list(model.target_modules),
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            # peft still asks transformers by the attribute's old name.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            self._model = cast(PeftModel, get_peft_model(base.load(torch.device(device)), config))
        self._model.train()
        self._parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        # A short memory of gradient sizes: after a domain is learnt they are tiny, and the next domain's are not.
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.steps_done = 0
        self.module_shapes = {name: base.spec.module_shapes[name] for name, _ in self._adapted()}

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
        losses: list[float] = []
        for i, batch in enumerate(batches):
            decay = 1 - (1 - FINAL_RATE) * i / max(1, len(batches) - 1)
            warm_up = min(1.0, (i + 1) / WARM_UP_STEPS)
            for group in self._optimiser.param_groups:
                group["lr"] = self._settings.learning_rate * decay * warm_up
            loss = F.cross_entropy(*self._counted(batch))
            self._optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
            self._optimiser.step()
            self.steps_done += 1
            losses.append(loss.item())
            on_step()
        return float(np.mean(losses[-max(1, len(losses) // 4) :]))

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
        self._model.eval()
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
        self._model.train()
        return right / n_tokens if score_set.questions else float("nan"), loss_sum / n_tokens

    def _word_losses(self, examples: Sequence[Example]) -> torch.Tensor:
        """Cross-entropy of each example's label word, summed over its pieces: float[len(examples)]."""
        rows = self._encode(examples)
        losses = F.cross_entropy(*self._counted(rows), reduction="none").cpu()
        owner = torch.tensor([i for i, (ids, start) in enumerate(rows) for _ in range(len(ids) - start)])
        return torch.zeros(len(rows)).index_add(0, owner, losses)

    def _encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Token ids of each example, and the position of the first one that counts in the loss."""
        limit = self._settings.max_tokens
        # Prompt and word are split as one text, as the edge does it: a tokenizer may merge across the seam.
        whole = self._base.tokenizer([e.prompt + e.label_word for e in examples])["input_ids"]
        prompts = self._base.tokenizer([e.prompt for e in examples])["input_ids"]
        rows: list[EncodedExample] = []
        for example, ids, prompt_ids in zip(examples, whole, prompts, strict=True):
            if example.label_word:
                pairs = zip(ids, prompt_ids, strict=False)
                start = next((i for i, (one, other) in enumerate(pairs) if one != other), len(prompt_ids))
                cut_off = max(0, len(ids) - limit)
                rows.append((ids[cut_off:], start - cut_off))
            else:
                rows.append((ids[:limit], 1))
        return rows

    def _counted(self, rows: Sequence[EncodedExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and targets at the positions that count; rows are padded on the right, where nothing attends."""
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        counted = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, (row, start) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            counted[i, start : len(row)] = True
        device = self._model.device
        causal: Any = self._model.get_base_model()
        hidden = causal.model(input_ids=ids.to(device)).last_hidden_state
        logits = causal.lm_head(hidden[:, :-1][counted[:, 1:].to(device)])
        return cast(torch.Tensor, logits.float()), ids[:, 1:][counted[:, 1:]].to(device)

    # ----------------------------------------------------------------------------------- the update

    def directions(self) -> dict[str, Directions]:
        """The trained update of every adapted module, in canonical order."""
        found: dict[str, Directions] = {}
        for name, module in self._adapted():
            a = module.lora_A["default"].weight.detach().cpu().numpy()
            b = module.lora_B["default"].weight.detach().cpu().numpy() * module.scaling["default"]
            found[name] = Directions(*directions(a, b))
        return found

    def _adapted(self) -> Iterator[tuple[str, Any]]:
        by_name = {
            name.removeprefix("base_model.model."): module
            for name, module in self._model.named_modules()
            if isinstance(module, LoraLinear)
        }
        for name in self._base.spec.module_shapes:
            if name in by_name:
                yield name, by_name[name]

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
        own = {"identity": self._base.spec.identity, "steps_done": str(self.steps_done)}
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
        shapes = {f"value/{name}": p.shape for name, p in self._parameters.items()}
        saved = {key: value.shape for key, value in tensors.items() if key.startswith("value/")}
        if metadata.get("identity") != self._base.spec.identity or shapes != saved:
            raise ModelError(f"fine-tuning state {path}: made for another base model, r_max or target_modules")
        for name, parameter in self._parameters.items():
            parameter.data.copy_(tensors.pop(f"value/{name}"))
        for key, tensor in tensors.items():
            field, _, name = key.partition("/")
            state = self._optimiser.state[self._parameters[name]]
            state[field] = tensor if field == "step" else tensor.to(self._parameters[name].device)
        self.steps_done = int(metadata["steps_done"])
        return metadata


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
        if isinstance(rank := plan.ranks[name], int) and rank > 0
    }
    return LoraUpdate(
        round_id=round_id,
        base_identity=identity,
        factors=factors,
        kept=kept,
        kept_from=held_digest if kept else None,
    )
