"""The base model with low-rank adapters on it: its logits, and the update that it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel

from cloud.finetuning.directions import Directions, nothing
from cloud.finetuning.lanes import Lanes
from cloud.finetuning.peft_methods import PREFIX, adapted_layers, low_rank, set_low_rank
from cloud.model.base_model import BaseModel
from cloud.model.encoding import EncodedExample, encode_examples, padded
from cloud.text.sources import Example
from hil.contract import LowRankFactors


class AdaptedModel:
    """A base model and the adapters on it, always in evaluation mode: with dropout a training could
    not be resumed bit for bit.

    Args:
        base: the model that `peft` was made from.
        peft: what cloud.finetuning.peft_methods.adapted_model makes of it.
        max_tokens: longest example; see cloud.model.encoding.
        threads: number of threads that compute it.

    Attributes:
        lanes: compute parts of a batch, or several batches, side by side.
        module_shapes: adapted modules in canonical order, as (d_out, d_in).
        parameters: PEFT's name → parameter, of all that is trained.
    """

    def __init__(self, base: BaseModel, peft: PeftModel, max_tokens: int, threads: int = 1) -> None:
        self.base, self.peft = base, peft
        self.lanes = Lanes(threads, peft.device)
        self._max_tokens = max_tokens
        peft.eval()
        adapted = self.layers
        self.module_shapes = {
            name: shape for name, shape in base.spec.module_shapes.items() if name in adapted
        }
        self.find_parameters()

    def find_parameters(self) -> None:
        """Look anew for what is trained, after PEFT has put other adapters on the model."""
        self.parameters = {n: p for n, p in self.peft.named_parameters() if p.requires_grad}

    @property
    def layers(self) -> dict[str, Any]:
        """Module → PEFT layer, in no particular order; EVA's modules of rank 0 have none."""
        return adapted_layers(self.peft)

    # -------------------------------------------------------------------------------------- logits

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """Token ids of each example, and the position of the first one that counts."""
        return encode_examples(self.base, examples, self._max_tokens)

    def counted(self, rows: Sequence[EncodedExample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float[n, vocabulary] and targets int64[n] at the positions that count, so that the
        large output matrix is applied to those only."""
        # Rows are padded on the right, where nothing attends.
        ids, counted = padded(rows)
        device = self.peft.device
        causal: Any = self.peft.get_base_model()
        hidden = causal.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        logits = causal.lm_head(hidden[:, :-1][counted[:, 1:].to(device)])
        if (scaling := getattr(causal.config, "logits_scaling", 1.0)) != 1.0:  # Granite's
            logits = logits / scaling
        return cast(torch.Tensor, logits.float()), ids[:, 1:][counted[:, 1:]].to(device)

    # ---------------------------------------------------------------------------------- the update

    def directions(self) -> dict[str, Directions]:
        """The update of every adapted module, in canonical order.

        Only directions that live: AdaLoRA's masked ones and EVA's modules of rank 0 have none.
        """
        adapted = self.layers
        return {
            name: Directions.of(low_rank(adapted[name]) if name in adapted else nothing(*shape))
            for name, shape in self.module_shapes.items()
        }

    def factors(self) -> dict[str, LowRankFactors]:
        """A copy of every adapted module's update as it is trained."""
        adapted = self.layers
        found = {name: low_rank(adapted[name]) for name in self.module_shapes}
        return {name: LowRankFactors(a=f.a.copy(), b=f.b.copy()) for name, f in found.items()}

    def hold(self, update: Mapping[str, LowRankFactors]) -> None:
        """Replace what was trained by this update, of LoRA alone.

        Args:
            update: module → factors of rank ≤ r_max; a module that is not in it becomes bare.
        """
        adapted = self.layers
        for name, shape in self.module_shapes.items():
            set_low_rank(adapted[name], update.get(name, nothing(*shape)))

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """A block in which anything may be held or frozen; what was trained is back at its end."""
        trained = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data.copy_(trained[name])
                parameter.requires_grad_(True).grad = None

    def train_only(self, modules: Mapping[str, object]) -> list[torch.nn.Parameter]:
        """Freeze the adapters of all other modules, and give the parameters of these."""
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name.removeprefix(PREFIX).partition(".lora_")[0] in modules)
        return [p for p in self.parameters.values() if p.requires_grad]
