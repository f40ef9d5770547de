"""What every test folder shares: one thread, and a small experiment on the shipped model."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before numpy and torch are imported anywhere: small matrices lose by threads, tests run in a
# process a core, and figures must not depend on the number of threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
DEFAULT_MODEL = Path(__file__).parents[1] / "cloud" / "model" / "default"
# Caches and records of tests stay in the clone, away from the user's own.
_OWN = Path(__file__).parents[1] / ".cache"
os.environ |= {"XDG_CACHE_HOME": str(_OWN / "cache"), "XDG_DATA_HOME": str(_OWN / "data")}

# Under nohup the children of tests would not hear of a terminal that goes.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# An example may take its time where the computer has other work.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Real radios for tests/hardware; without them an emulated pair takes their place."""
    parser.addoption(
        "--pluto-uri", default="", help="URI of an ADALM-Pluto, for example ip:192.168.2.1"
    )
    parser.addoption(
        "--pluto-uri-2", default="", help="URI of a second one, for the tests of a pair"
    )


@pytest.fixture(scope="session")
def libiio() -> None:
    """Skips what needs the driver of real and emulated radios, where it is not installed."""
    if find_library("iio") is None:
        pytest.skip("needs libiio: apt-get install libiio0")
    if find_spec("adi") is None:
        pytest.skip("needs pyadi-iio: pip install 'hil-lora-testbed[pluto]'")


@pytest.fixture(scope="session")
def edge_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of quantised models for all tests."""
    return tmp_path_factory.mktemp("edge-cache")


@pytest.fixture(scope="session")
def shallow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the shipped model's first layer alone: a quarter of its work, at its full width."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("model") / "shallow"
    shutil.copytree(DEFAULT_MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": config["layer_types"][:1]}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    kept = {
        name: w for name, w in weights.items() if ".layers." not in name or ".layers.0." in name
    }
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def small_overrides(edge_cache: Path, shallow_model: Path) -> Callable[[Path], list[str]]:
    """Overrides that make hil.toml a matter of seconds."""

    def overrides(out: Path) -> list[str]:
        return [
            f"run.out='{out}'",
            "run.rounds=3",
            "text.stream=['jargon40', 'http']",
            "text.dwell=2",
            "text.train_examples=200",
            "text.score_examples=40",
            f"model.base='{shallow_model}'",
            "model.r_max=4",
            "finetune.steps=4",
            "finetune.batch=8",
            "finetune.threads=1",
            "finetune.plan_share=0",
            "budget.airtime_s=0.1",
            # the default sees that four steps of training are not worth their air
            "policy.kind=greedy",
            f"edge.cache='{edge_cache}'",
        ]

    return overrides
