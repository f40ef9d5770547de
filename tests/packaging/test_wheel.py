"""What the wheel carries, and that it is enough in a folder with nothing else in it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="the build's own package: pip install hatchling")

ROOT = Path(__file__).parents[2]
PACKAGES = ("hil", "cloud", "radio", "edge_device", "calibration")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel of this clone, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    [wheel] = folder.glob("hil_lora_testbed-*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def hil(site, folder, *arguments):
    """A verb of the unpacked wheel, out of a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hil.cli", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_every_file_of_the_packages_is_in_it(site):
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [path for path in listed if not (site / path).exists()] == []


@pytest.mark.slow
def test_configurations_are_copied_by_the_build(site):
    carried = site / "hil" / "configurations"
    for source in (ROOT / "hil.toml", *(ROOT / "configs").glob("*.toml")):
        assert (carried / source.name).read_bytes() == source.read_bytes()


@pytest.mark.slow
def test_all_packages_are_typed(site):
    assert all((site / package / "py.typed").exists() for package in PACKAGES)


@pytest.mark.slow
def test_the_version_is_one(site, tmp_path):
    version = hil(site, tmp_path, "--version").stdout.split()[-1]
    assert (site / f"hil_lora_testbed-{version}.dist-info").is_dir()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.slow
def test_what_is_read_beside_the_code_is_found(site, tmp_path):
    """The experiment, the default model, the table of schemes, the LDPC base graphs, weights."""
    code = (
        "from pathlib import Path\n"
        "from cloud.model.base_model import DEFAULT_MODEL, open_base_model\n"
        "from cloud.policies import airllm\n"
        "from hil.settings.loading import load_settings\n"
        "from radio.ldpc.tables import lifted\n"
        "from radio.modem.mcs import MCS_TABLE\n"
        "assert load_settings(Path('hil.toml')).run.name == 'demo'\n"
        f"assert Path(airllm.__file__).is_relative_to({str(site)!r})\n"
        f"assert DEFAULT_MODEL.is_relative_to({str(site)!r}) and MCS_TABLE\n"
        "assert lifted(1, 8) and lifted(2, 8)\n"
        "assert open_base_model('default').spec.identity\n"
        "assert (airllm.SHIPPED / 'airllm.safetensors').exists()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_init_writes_the_experiment_and_check_reads_a_shipped_one(site, tmp_path):
    assert hil(site, tmp_path, "init").returncode == 0
    assert (tmp_path / "hil.toml").read_bytes() == (ROOT / "hil.toml").read_bytes()
    refused = hil(site, tmp_path, "run", "--config", "nowhere")
    assert refused.returncode == 2
    assert "pluto_pair" in refused.stderr
