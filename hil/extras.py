"""What to type when a library of an optional part of the kit is missing."""

from __future__ import annotations

from typing import Final

MODULES: Final = {
    "cloud": "torch transformers peft safetensors tokenizers gymnasium",
    "edge": "llama_cpp gguf psutil",
    "pluto": "adi iio",
    "eval": "pyarrow",
}
"""Extra of the kit → the top-level modules that it brings, blanks between."""

_TYPED: Final = {"cloud": "cloud,edge"}
"""Extra → the extras to install together: a cloud also makes the edge's model, so it needs both."""


def cure_of(error: ModuleNotFoundError) -> str | None:
    """The extra that brings a missing module and how it is installed; None for any other module."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in MODULES.items():
        if module in modules.split():
            typed = _TYPED.get(extra, extra)
            return f"needs the extra '{extra}': pip install 'hil-lora-testbed[{typed}]'"
    return None
