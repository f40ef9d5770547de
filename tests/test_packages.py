"""The halves stand alone: the cloud without llama.cpp, the edge without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EDGE_MODULES = 113
"""Modules of the kit that an edge process may load."""

HIDE = """
import importlib, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ImportError(name + " is hidden")
sys.meta_path.insert(0, Hidden())
"""
WALK = """
import pkgutil
def fail(name):
    raise
package = importlib.import_module({package!r})
names = [{package!r}]
for module in pkgutil.walk_packages(package.__path__, {package!r} + ".", fail):
    importlib.import_module(module.name)
    names.append(module.name)
print(*names)
"""


def _run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "hidden"),
    [
        ("cloud", {"llama_cpp", "gguf", "paho", "adi", "iio"}),
        (
            "edge_device",
            {"torch", "transformers", "peft", "tokenizers", "safetensors", "adi", "iio", "paho"},
        ),
        ("radio", {"torch", "llama_cpp", "gguf", "paho", "adi", "iio"}),
        ("calibration", {"torch", "llama_cpp", "gguf", "paho", "adi", "iio"}),
        ("hil.codec", {"torch", "llama_cpp", "gguf", "paho", "scipy"}),
        ("hil.contract", {"torch", "llama_cpp", "gguf", "paho", "scipy", "pydantic"}),
        ("hil.settings", {"torch", "llama_cpp", "gguf", "paho", "scipy", "numba"}),
    ],
)
def test_package_needs_only_its_own_libraries(package, hidden):
    loaded = _run(HIDE.format(hidden=hidden) + WALK.format(package=package))
    files = (ROOT / package.replace(".", "/")).rglob("*.py")
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert set(loaded) == {name.removesuffix(".__init__") for name in modules}  # none left out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "hidden"),
    [
        (
            "hil.loop.edge_process",
            {"torch", "transformers", "peft", "tokenizers", "safetensors", "cloud", "matplotlib"},
        ),
        ("hil.loop.cloud_process", {"llama_cpp", "gguf", "edge_device"}),
    ],
)
def test_each_process_does_without_what_the_other_needs(module, hidden):
    _run(HIDE.format(hidden=hidden) + f"importlib.import_module({module!r})")


@pytest.mark.slow
def test_an_edge_process_loads_no_torch_no_pictures_and_little_of_the_kit():
    loaded = _run("import sys, hil.loop.edge_process; print(*sys.modules)")
    assert not {"torch", "transformers", "peft", "matplotlib", "cloud"} & set(loaded)
    own = {"hil", "cloud", "radio", "edge_device", "calibration"}
    assert len([name for name in loaded if name.partition(".")[0] in own]) <= EDGE_MODULES
