"""A verb whose libraries are not installed says which extra brings them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hil.extras import MODULES, cure_of

ROOT = Path(__file__).parents[2]
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv = ["hil", *{arguments!r}]
from hil.cli import main
main()
"""


EVERYTHING = {module for modules in MODULES.values() for module in modules.split()}


def hil_without(hidden, arguments):
    """A verb in an environment that lacks these modules."""
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=hidden, arguments=arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "arguments", "line"),
    [
        (
            EVERYTHING,
            ["run"],
            "hil: run needs the extra 'cloud': pip install 'hil-lora-testbed[cloud,edge]'\n",
        ),
        (
            {"llama_cpp", "gguf", "psutil"},
            ["edge", "--bundle", "nowhere"],
            "hil: edge needs the extra 'edge': pip install 'hil-lora-testbed[edge]'\n",
        ),
        (
            {"pyarrow", "torch"},
            ["eval", "--quick"],
            "hil: eval needs the extra 'eval': pip install 'hil-lora-testbed[eval]'\n",
        ),
        (
            {"torch"},
            ["train"],
            "hil: train needs the extra 'cloud': pip install 'hil-lora-testbed[cloud,edge]'\n",
        ),
    ],
)
def test_a_missing_extra_is_one_line(hidden, arguments, line):
    done = hil_without(hidden, arguments)
    assert (done.returncode, done.stderr.splitlines(True)[-1]) == (2, line), done.stderr


@pytest.mark.slow
def test_what_lacks_every_extra_still_helps_and_writes_a_configuration(tmp_path):
    assert "run" in hil_without(EVERYTHING, ["--help"]).stdout
    assert hil_without(EVERYTHING, ["init", str(tmp_path)]).returncode == 0


def test_a_module_of_no_extra_is_a_bug_not_a_hint():
    assert cure_of(ModuleNotFoundError("No module named 'nowhere'", name="nowhere")) is None


def test_extras_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(MODULES) < set(project["optional-dependencies"])
