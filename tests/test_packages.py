"""The halves stand alone: the cloud without llama.cpp, the edge without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HIDE = """
import importlib, pkgutil, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ImportError(name + " is hidden")
sys.meta_path.insert(0, Hidden())
package = importlib.import_module({package!r})
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module({package!r} + "." + module.name)
"""


@pytest.mark.parametrize(
    ("package", "hidden"),
    [
        ("cloud", {"llama_cpp", "gguf", "paho", "adi", "iio"}),
        (
            "edge_device",
            {"torch", "transformers", "peft", "tokenizers", "safetensors", "adi", "iio"},
        ),
        ("radio", {"torch", "llama_cpp", "gguf", "paho", "adi", "iio"}),
        ("calibration", {"torch", "llama_cpp", "gguf", "paho", "adi", "iio"}),
        ("hil.codec", {"torch", "llama_cpp", "gguf", "paho", "scipy"}),
    ],
)
def test_package_needs_only_its_own_libraries(package, hidden):
    code = HIDE.format(package=package, hidden=hidden)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
