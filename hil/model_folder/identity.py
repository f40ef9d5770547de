"""The hash that names a base model on both sides of the link."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from hil.contract import BaseSpec, ModelError
from hil.model_folder.configuration import any_computation, expected_module_shapes
from hil.model_folder.weights import canonical_f16, shapes, tensors


def identity(folder: Path | str) -> str:
    """SHA-256 (64 hex digits) that names a base model on both sides of the link.

    Hashed are the canonical f16 tensors (name, shape, bytes; sorted by name), the configuration
    that decides the computation, and tokenizer.json byte by byte. The stored dtype, the sharding,
    the version of the configuration file and a stored copy of a tied lm_head make no difference.

    Raises:
        ModelError: whatever keeps the folder from being read or its model from being adapted; no
            tokenizer.json.
    """
    folder = Path(folder)
    settings = asdict(any_computation(folder))
    if not settings.get("others"):  # models of the plainest kind were named without it
        settings.pop("others", None)
    digest = hashlib.sha256(b"base model identity 1\n")
    digest.update(_canonical_json(settings))
    digest.update(hashlib.sha256(tokenizer_bytes(folder)).digest())
    for name, values in tensors(folder):
        digest.update(_canonical_json([name, list(values.shape)]))
        digest.update(canonical_f16(name, values).tobytes())
    return digest.hexdigest()


def tokenizer_bytes(folder: Path | str) -> bytes:
    """The folder's tokenizer.json.

    Raises:
        ModelError: the folder has none.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"'{folder}' lacks tokenizer.json; save the tokenizer into it with "
            "AutoTokenizer(...).save_pretrained"
        )
    return path.read_bytes()


def base_spec(folder: Path | str) -> BaseSpec:
    """Identity and adaptable projections of the folder's model.

    Raises:
        ModelError: as `identity`; or a projection is missing or of another shape than the
            configuration says.
    """
    return BaseSpec(identity=identity(folder), module_shapes=module_shapes(folder))


def module_shapes(folder: Path | str) -> dict[str, tuple[int, int]]:
    """Adaptable projections as (d_out, d_in), layer by layer, in the order of PROJECTIONS or
    OPT_PROJECTIONS.

    Raises:
        ModelError: a projection is missing or of another shape than the configuration says.
    """
    model, found = any_computation(folder), shapes(folder)
    wanted = expected_module_shapes(model)
    for module, shape in wanted.items():
        if found.get(f"{module}.weight") != shape:
            has = list(found.get(f"{module}.weight", ()))
            raise ModelError(
                f"'{folder}' does not fit its config.json: '{module}.weight' should be "
                f"{list(shape)} and is "
                f"{has or 'missing'}; copy the model folder again"
            )
    return wanted


def _canonical_json(value: object) -> bytes:
    return (
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
    )
