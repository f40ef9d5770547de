"""The tensors of a Hugging Face model folder, one in memory at a time.

File format: https://huggingface.co/docs/safetensors (8 bytes of little-endian length, a JSON
header, raw data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import Floats32, ModelError
from hil.model_folder.configuration import config, has_tied_embeddings, read_json

_DTYPES: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER_BYTES: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """Place of one tensor: file, dtype of safetensors, shape, first byte."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def shapes(folder: Path | str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that `tensors` gives, from the files' headers alone, in the same
    order."""
    return {name: stored.shape for name, stored in _stored(Path(folder)).items()}


def tensors(folder: Path | str) -> Iterator[tuple[str, Floats32]]:
    """Every tensor of the model, sorted by name, one at a time.

    Left out is what the others and the configuration already fix: a tied lm_head and stored rotary
    frequencies.

    Yields:
        Name as Hugging Face has it, and float32 values.
    Raises:
        ModelError: no weights, a damaged file, or a dtype other than F32, F16 and BF16.
    """
    for name, stored in _stored(Path(folder)).items():
        yield name, load(name, stored)


def canonical_f16(name: str, values: Floats32) -> NDArray[np.float16]:
    """The tensor as little-endian f16, rounded to nearest even: the form that is hashed and that
    the edge holds.

    Raises:
        ModelError: NaN, infinity, or a value beyond f16 (65,504).
    """
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise ModelError(
            f"tensor '{name}' holds NaN, infinity or a value beyond ±65504, which f16 can't hold"
        )
    return half


def _stored(folder: Path) -> dict[str, Stored]:
    tied = has_tied_embeddings(config(folder))
    found: dict[str, Stored] = {}
    for path in _weight_files(folder):
        for name, stored in read_header(path).items():
            if name in found:
                raise ModelError(
                    f"tensor '{name}' is in both '{found[name].path}' and '{path}'; remove the "
                    "stray file"
                )
            found[name] = stored
    derived = [
        n for n in found if n.endswith("rotary_emb.inv_freq") or (tied and n == "lm_head.weight")
    ]
    return {name: found[name] for name in sorted(found.keys() - set(derived))}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors.index.json").is_file():
        weight_map = read_json(folder, "model.safetensors.index.json").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(
                f"'{folder}/model.safetensors.index.json' has no weight_map; copy the model "
                "folder again"
            )
        paths = [folder / Path(str(name)).name for name in sorted(set(weight_map.values()))]
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        if not path.is_file():
            raise ModelError(
                f"'{folder}' lacks {path.name}; copy the whole model folder (weights must be "
                "*.safetensors: "
                "save_pretrained writes them)"
            )
    return paths


def read_header(path: Path) -> dict[str, Stored]:
    """Name → place of every tensor in a safetensors file, checked against its length.

    Raises:
        ModelError: damaged, or a dtype other than F32, F16 and BF16.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or length > min(size_bytes - 8, _MAX_HEADER_BYTES):
            raise _damaged(
                path, f"it declares a header of {length} bytes and has {size_bytes} in all"
            )
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {
                name: _entry(path, name, entry, 8 + length, size_bytes)
                for name, entry in entries.items()
            }
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            *(OverflowError, RecursionError),
        ) as error:
            raise _damaged(path, f"its header can't be read ({error})") from error


def _entry(
    path: Path, name: str, entry: Mapping[str, Any], data_start: int, size_bytes: int
) -> Stored:
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    begin, end = (int(n) for n in entry["data_offsets"])
    if dtype not in _DTYPES:
        raise ModelError(
            f"tensor '{name}' in '{path}' is {dtype}; save the model as float32, float16 or "
            "bfloat16"
        )
    if (
        min((begin, *shape)) < 0
        or end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    ):
        raise _damaged(
            path, f"tensor '{name}' of shape {list(shape)} {dtype} is given {end - begin} bytes"
        )
    if data_start + end > size_bytes:
        raise _damaged(
            path, f"tensor '{name}' ends at byte {data_start + end}, the file at {size_bytes}"
        )
    return Stored(path, dtype, shape, data_start + begin)


def load(name: str, stored: Stored) -> Floats32:
    """The values of a stored tensor. Raises ModelError where the file ends early."""
    count = math.prod(stored.shape)
    raw = np.fromfile(stored.path, dtype=_DTYPES[stored.dtype], count=count, offset=stored.offset)
    if raw.size != count:
        raise _damaged(
            stored.path, f"tensor '{name}' ends early, after {raw.size} of {count} values"
        )
    if stored.dtype == "BF16":  # bfloat16 is the upper half of a float32
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.reshape(stored.shape).astype(np.float32, copy=False)


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"'{path}' is damaged: {what}; copy or download the model folder again")
