"""GGUF files as files: what their header declares, checked against what is there.

A header is read without the tensor data, so a model of any size is looked at in milliseconds.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3; 2 has the same
layout).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFValueType,
)

from hil.contract import ModelError
from hil.rounding import ceil_div

Value = str | int | float | bool

_SCALARS: Final = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
    GGUFValueType.BOOL: "<?",
}
_MAX_DIMS: Final = 4


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header declares it.

    Attributes:
        shape: (rows, columns) as in numpy; the file has them the other way round.
        type: name of the ggml type, for example "F16" or "Q4_K".
        n_bytes: length of its data.
    """

    shape: tuple[int, ...]
    type: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and tensor table of a GGUF file.

    Attributes:
        values: key → scalar or string. Arrays are left out, but for their length, which stands
            under the key.
        tensors: name → what the header declares, in the file's order.
        file_bytes: length of the file.
    """

    values: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    file_bytes: int


def read_header(path: Path) -> GgufHeader:
    """The declarations of a GGUF file, after checking that the file is as long as it declares.

    Raises:
        ModelError: no such file, not GGUF, damaged, or shorter than its tensors need.
    """
    if not path.is_file():
        raise ModelError(f"'{path}' does not exist; make it from a model folder first")
    with path.open("rb") as file:
        reader = _Reader(file, path, path.stat().st_size)
        try:
            return _parse(reader)
        except (
            ValueError,
            KeyError,
            RecursionError,
        ) as error:  # an unknown type number, text that is not UTF-8
            raise reader.damaged(
                f"its header can't be read near byte {file.tell()} ({error})"
            ) from error


class _Reader:
    """Takes little-endian fields off the front of a file and never reads past its end."""

    def __init__(self, file: BinaryIO, path: Path, file_bytes: int) -> None:
        self.file, self.path, self.file_bytes = file, path, file_bytes

    def damaged(self, what: str) -> ModelError:
        return ModelError(f"'{self.path}' is damaged: {what}; delete it and make it again")

    def take(self, n_bytes: int) -> bytes:
        self._check(n_bytes)
        return self.file.read(n_bytes)

    def skip(self, n_bytes: int) -> None:
        self._check(n_bytes)
        self.file.seek(n_bytes, os.SEEK_CUR)

    def _check(self, n_bytes: int) -> None:
        needed = self.file.tell() + n_bytes
        if needed > self.file_bytes:
            raise self.damaged(
                f"its header goes on to byte {needed} at least, the file ends at {self.file_bytes}"
            )

    def number(self, code: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8")

    def value(self, kind: GGUFValueType) -> Value:
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind == GGUFValueType.ARRAY:
            return self._array_length()
        value: Value = struct.unpack(_SCALARS[kind], self.take(struct.calcsize(_SCALARS[kind])))[0]
        return value

    def _array_length(self) -> int:
        kind, count = GGUFValueType(self.number("<I")), self.number("<Q")
        if kind in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[kind]))
        elif kind == GGUFValueType.STRING:
            for _ in range(count):
                self.skip(self.number("<Q"))
        else:
            raise ValueError("an array of arrays")
        return count


def _parse(reader: _Reader) -> GgufHeader:
    if reader.file_bytes < 24 or reader.take(4) != b"GGUF":
        raise ModelError(f"'{reader.path}' is not a GGUF file; make one from a model folder")
    version = reader.number("<I")
    if version not in (2, 3):
        raise ModelError(
            f"'{reader.path}' is GGUF version {version}, 2 and 3 can be read; make it again"
        )
    n_tensors, n_values = reader.number("<Q"), reader.number("<Q")
    values: dict[str, Value] = {}
    for _ in range(n_values):
        key = reader.text()
        values[key] = reader.value(GGUFValueType(reader.number("<I")))
    tensors: dict[str, TensorInfo] = {}
    data_bytes = 0
    for _ in range(n_tensors):
        name, info, offset = _tensor_info(reader)
        tensors[name] = info
        data_bytes = max(data_bytes, offset + info.n_bytes)
    alignment = max(1, int(values.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)))
    declared = ceil_div(reader.file.tell(), alignment) * alignment + data_bytes
    if declared > reader.file_bytes:
        raise reader.damaged(f"it declares {declared} bytes and has {reader.file_bytes}")
    return GgufHeader(values, tensors, reader.file_bytes)


def _tensor_info(reader: _Reader) -> tuple[str, TensorInfo, int]:
    name = reader.text()
    n_dims = reader.number("<I")
    if n_dims > _MAX_DIMS:
        raise ValueError(f"tensor '{name}' has {n_dims} dimensions")
    shape = tuple(reversed([reader.number("<Q") for _ in range(n_dims)]))
    kind = GGMLQuantizationType(reader.number("<I"))
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return (
        name,
        TensorInfo(shape, kind.name, math.prod(shape) // block * block_bytes),
        reader.number("<Q"),
    )
