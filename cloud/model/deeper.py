"""A deeper model from a shallow one, to see how the kit behaves with many projections without
pretraining anything.

Behind every layer come copies of it whose output projections are zero: they add nothing until they
are fine-tuned, so that the deep model computes what the shallow one does (block expansion: Wu et
al., "LLaMA Pro", ACL 2024).

    python -m cloud.model.deeper --out DIR --times 8
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cloud.model.base_model import DEFAULT_MODEL
from hil.contract import ConfigError

_LAYER = re.compile(r"(.*\.layers\.)(\d+)(\..*)")
_RESIDUAL_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
_COPIED = ("generation_config.json", "lexicon.txt", "tokenizer.json", "tokenizer_config.json")


def deepen(source: Path, out: Path, times: int) -> None:
    """Write the folder of a model with `times` as many layers that computes the same.

    Args:
        source: folder with config.json and one model.safetensors, of a Llama-like model.
        out: folder to make.
        times: ≥ 1.

    Raises:
        ConfigError: `times` is below 1.
    """
    if times < 1:
        raise ConfigError(f"{times} layers made of each; give at least 1")
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config["num_hidden_layers"] *= times
    kinds: list[str] = []
    for kind in config["layer_types"]:
        kinds += times * [kind]
    config["layer_types"] = kinds
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(
        _repeated(load_file(source / "model.safetensors"), times),
        out / "model.safetensors",
        {"format": "pt"},
    )
    for name in _COPIED:
        shutil.copyfile(source / name, out / name)


def _repeated(
    tensors: dict[str, NDArray[np.float16]], times: int
) -> dict[str, NDArray[np.float16]]:
    deep = {}
    for name, values in tensors.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            deep[name] = values
            continue
        for copy in range(times):
            silent = copy > 0 and name.endswith(_RESIDUAL_OUTPUTS)
            deep[f"{layer[1]}{int(layer[2]) * times + copy}{layer[3]}"] = (
                np.zeros_like(values) if silent else values
            )
    return deep


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cloud.model.deeper", description=deepen.__doc__
    )
    parser.add_argument(
        "--base", type=Path, default=DEFAULT_MODEL, help="folder of the shallow model"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the deep one")
    parser.add_argument("--times", type=int, default=8, help="layers made of each")
    options = parser.parse_args(arguments)
    deepen(options.base, options.out, options.times)


if __name__ == "__main__":
    main()
