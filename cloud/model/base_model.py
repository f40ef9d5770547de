"""The base model of the cloud: the shipped default, one that a Python package carries, a folder,
or a name on the Hugging Face hub."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from cloud.model.packaged import PACKAGED, packaged_folder
from cloud.text.lexicon import as_in_text, load_lexicon, words
from cloud.text.token_limit import Spans, TokenLimit
from hil.contract import BaseSpec, ModelError
from hil.model_folder import base_spec

# A bar of its own for every model that is loaded would break up the lines of a run.
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

DEFAULT_MODEL = Path(__file__).parent / "default"
DEFAULT_NAME = "hil-lora-testbed-default"
"""Name of the model that ships, as others read it."""


@dataclass(frozen=True)
class BaseModel:
    """A model folder, its tokenizer, its identity and the words that it knows.

    Attributes:
        name: what exports and reports call it: never a path of this machine.
        folder: Hugging Face folder with config.json, *.safetensors and tokenizer.json.
        spec: identity and shapes of the modules that may be adapted.
        tokenizer: the folder's tokenizer, by transformers.
    """

    name: str
    folder: Path
    spec: BaseSpec
    tokenizer: PreTrainedTokenizerBase

    @property
    def names(self) -> tuple[str, str]:
        """What an adapter for it may call it: its name, or that of its folder."""
        return self.name, self.folder.resolve().name

    @cached_property
    def lexicon(self) -> frozenset[str]:
        """Words seen in pretraining, from lexicon.txt beside the model.

        A model that brings no such list knows the words that are one piece of its vocabulary, with
        a leading blank where their script has blanks.
        """
        path = self.folder / "lexicon.txt"
        if path.exists():
            return load_lexicon(path)
        pieces = (
            self.tokenizer.convert_tokens_to_string([piece]) for piece in self.tokenizer.get_vocab()
        )
        return frozenset(
            word
            for piece in pieces
            if words(word := piece.strip().lower()) == [word] and as_in_text(word) == piece.lower()
        )

    def count_pieces(self, word: str) -> int:
        """Number of tokenizer pieces of a word as it stands in a text."""
        return len(self.tokenizer(word, add_special_tokens=False)["input_ids"])

    def token_limit(self, max_tokens: int) -> TokenLimit:
        """The limit of finetune.max_tokens, measured with this model's tokenizer."""

        def spans(texts: Sequence[str]) -> list[Spans]:
            found = self.tokenizer(list(texts), return_offsets_mapping=True, verbose=False)
            return cast(list[Spans], found["offset_mapping"])

        return TokenLimit(spans=spans, max_tokens=max_tokens)

    def check_targets(self, projections: Sequence[str]) -> None:
        """Check that the model has every one of these projections ("q_proj", ...).

        Raises:
            ModelError: it lacks some, as OPT lacks what the default `model.target_modules` names
                for Llama.
        """
        has = list(dict.fromkeys(name.rpartition(".")[2] for name in self.spec.module_shapes))
        if lacking := [name for name in projections if name not in has]:
            raise ModelError(
                f"model {self.folder}: it has no {', '.join(lacking)}; "
                f"choose model.target_modules from {', '.join(has)}"
            )

    def load(self, device: torch.device) -> PreTrainedModel:
        """The model in float32 on a device, ready for LoRA.

        Raises:
            ModelError: its weights cannot be loaded.
        """
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"model {self.folder}: {_first_line(error)}") from error
        return cast(PreTrainedModel, model.to(device))


def open_base_model(name: str) -> BaseModel:
    """The base model by "default", a name of PACKAGED, a folder, or a hub name, without loading its
    weights into memory.

    Raises:
        ModelError: there is no model, it is damaged, or its architecture is neither one that the
            edge serves nor OPT.
    """
    folder = _folder(name)
    spec = base_spec(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {folder}: no usable tokenizer: {_first_line(error)}") from error
    return BaseModel(_name(name, folder), folder, spec, tokenizer)


def _name(given: str, folder: Path) -> str:
    if given == "default":
        return DEFAULT_NAME
    if given in PACKAGED:
        return PACKAGED[given].title
    return folder.resolve().name if Path(given).exists() else given


def _folder(name: str) -> Path:
    if name == "default":
        return DEFAULT_MODEL
    if name in PACKAGED:
        return packaged_folder(name)
    path = Path(name)
    if path.exists() or name.startswith((".", "/")) or name.count("/") != 1:
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = ["*.json", "*.safetensors", "lexicon.txt"]
            return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {name!r}: neither a folder nor to be had from the hub: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
