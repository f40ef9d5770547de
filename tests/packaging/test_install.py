"""The set-up of a clone: where torch comes from, what is announced, what is compiled."""

import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "setup"))

import install  # noqa: E402 - a script, not of the package
import shown  # noqa: E402
from pip_progress import PipProgress  # noqa: E402

CPU, CUDA = "torch==2.13.0+cpu", "torch==2.13.0"
PAGE = "https://index.example/whl/cpu/torch/"
MACHINE = install.platform.machine()
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"


class FakePip(install.Environment):
    """A pip whose sources hold a CPU build of torch, or do not; remembers what it was asked."""

    def __init__(self, folder, *, has_cpu_build):
        super().__init__(folder)
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "has_cpu_build", has_cpu_build)

    def plan(self, requirements, *options):
        self.asked.append(list(requirements))
        return [] if self.has_cpu_build else None


def page_with(*wheels):
    links = "".join(
        f'<a href="{wheel.replace("+", "%2B")}#sha256=0">{wheel}</a>' for wheel in wheels
    )
    return f"<html><body>{links}</body></html>"


CPU_WHEEL = f"torch-2.13.0+cpu-{PYTHON}-{PYTHON}-manylinux_2_28_{MACHINE}.whl"


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")


def choose(pip, *, choice="cpu", page="", cpu_index="https://index.example/whl/cpu"):
    """choose_torch, and the pages that it asked for."""
    pages = []

    def ask(url):
        pages.append(url)
        return page

    return install.choose_torch(pip, CUDA, choice=choice, cpu_index=cpu_index, ask=ask), pages


def test_what_the_user_names_comes_first_and_nobody_else_is_asked(linux, tmp_path):
    pip = FakePip(tmp_path, has_cpu_build=True)
    assert choose(pip, page=page_with(CPU_WHEEL)) == ((CPU, ""), [])
    assert pip.asked == [[CPU]]


def test_then_the_cpu_index_is_asked_once(linux, tmp_path):
    pip = FakePip(tmp_path, has_cpu_build=False)
    address = f"{PAGE}{CPU_WHEEL.replace('+', '%2B')}#sha256=0"
    assert choose(pip, page=page_with(CPU_WHEEL)) == ((CPU, address), [PAGE])


@pytest.mark.parametrize(
    "page",
    [
        "",
        page_with(CPU_WHEEL.replace("2.13.0", "2.12.0")),
        page_with(CPU_WHEEL.replace(PYTHON, "cp27")),
        page_with(CPU_WHEEL.replace(MACHINE, "s390x")),
        page_with(CPU_WHEEL.replace("+cpu", "")),
    ],
    ids=["no answer", "another version", "another Python", "another processor", "not for CPUs"],
)
def test_without_a_cpu_build_torch_is_what_there_is(linux, tmp_path, page):
    assert choose(FakePip(tmp_path, has_cpu_build=False), page=page)[0] == (CUDA, "")


def test_cuda_is_a_choice_that_a_cpu_build_does_not_satisfy(linux, tmp_path):
    pip = FakePip(tmp_path, has_cpu_build=True)
    (requirement, page), pages = choose(pip, choice="cuda")
    assert (requirement, page, pages, pip.asked) == ("torch===2.13.0", "", [], [])


@pytest.mark.parametrize("version", ["2.13.0", "2.13.0+cpu", "2.13.0+cu130"])
def test_what_is_installed_stays(linux, tmp_path, version):
    (tmp_path / "lib/python3.11/site-packages" / f"torch-{version}.dist-info").mkdir(parents=True)
    pip = FakePip(tmp_path, has_cpu_build=True)
    assert choose(pip) == ((CUDA, ""), [])
    assert pip.asked == []


def test_elsewhere_than_on_linux_torch_has_no_cuda(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choose(FakePip(tmp_path, has_cpu_build=True)) == ((CUDA, ""), [])


def package(name, url="https://files.example/x.whl"):
    return install.Package(name, "1.0", url)


def test_the_announcement_adds_up_what_is_known():
    two = [package("torch"), package("numpy")]
    assert install.announcement(two, "cpu", [190_000_000, 20_000_000]) == (
        "2 packages, 210 MB to download"
    )
    assert "at least 190 MB" in install.announcement(two, "cpu", [190_000_000, None])
    assert install.announcement([], "cpu", []) == "all packages are here"


@pytest.mark.parametrize("name", ["nvidia-cublas", "cuda-toolkit", "triton"])
def test_cuda_by_accident_is_said_with_how_to_choose(name):
    with_cuda = [package("torch"), package(name)]
    text = install.announcement(with_cuda, "cpu", [500_000_000, 2_500_000_000])
    assert "3000 MB" in text
    assert "PIP_FIND_LINKS" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "PIP_FIND_LINKS" not in install.announcement(with_cuda, "cuda", [0, 0])


def test_a_local_wheel_needs_no_download(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "urlopen", lambda *_, **__: pytest.fail("asked for a file"))
    assert install.download_sizes([package("torch", tmp_path.as_uri())]) == [0]


def test_an_index_that_does_not_answer_leaves_the_size_open(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(install, "urlopen", refuse)
    assert install.download_sizes([package("torch")]) == [None]
    assert install.answer(PAGE) == ""


def test_a_page_is_read(monkeypatch):
    monkeypatch.setattr(install, "urlopen", lambda *_, **__: io.BytesIO(b"<a>wheel</a>"))
    assert install.answer(PAGE) == "<a>wheel</a>"


def test_the_demo_needs_no_tools_of_tests():
    demo = {re.split(r"[=<>!\[]", r)[0] for r in install.requirements_of(["cloud", "edge"])}
    assert {"torch", "llama-cpp-python", "numpy", "typer"} <= demo
    assert not demo & set("pyarrow pytest mypy ruff diffusers stable-baselines3".split())


def test_checks_bring_everything_once():
    found = install.requirements_of(["check"])
    assert len(found) == len(set(found))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    del extras["smollm2"]  # weights of a model, which no check needs
    wanted = {r for rs in extras.values() for r in rs}
    assert {r for r in wanted if not r.startswith(project["name"])} <= set(found)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("  [30/120] Building CXX object ggml.c.o", "25 %"),
        ("[ 50%] Building C object", "50 %"),
        ("Collecting llama-cpp-python==0.3.36", None),
    ],
)
def test_progress_is_read_from_ninja_and_make(line, status):
    assert install.compiled_share(line) == status


def test_pip_is_followed_where_it_says_nothing(tmp_path):
    """Of an environment with one package, two more are installed."""
    site = tmp_path / "lib/python3.11/site-packages"

    def install_one(name):
        (site / f"{name}-1.0.dist-info").mkdir(parents=True)
        (site / f"{name}-1.0.dist-info" / "INSTALLER").write_text("pip\n")

    install_one("six")
    os.utime(site / "six-1.0.dist-info" / "INSTALLER", (0, 0))
    told = PipProgress(tmp_path).status_of
    assert told("") is None
    assert told("Collecting numpy==2.2.0\n") == "looking for numpy"
    assert told("  Downloading numpy-2.2.0-cp311.whl (16 MB)\n") == "downloading numpy"
    assert told("Installing collected packages: mpmath, torch\n") == "0 of 2 ready, now mpmath"
    install_one("mpmath")
    assert told("") == "1 of 2 ready, now torch"
    install_one("torch")
    assert told("") == "2 of 2 ready"


def test_wheels_of_another_processor_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = install.wheel_folder()
    assert here.is_dir()
    assert install.wheel_folder() == here
    monkeypatch.setattr(install.platform, "machine", lambda: "riscv64")
    assert install.wheel_folder() != here


def test_without_a_network_one_line_says_what_to_type(tmp_path):
    log = tmp_path / "install.log"
    log.write_text("WARNING: Retrying: NewConnectionError\nERROR: No matching distribution\n")
    assert "PIP_FIND_LINKS=FOLDER" in install.complaint(log)
    log.write_text("ERROR: No matching distribution found for torch==9\n")
    assert install.complaint(log).startswith("pip: No matching distribution found for torch==9")


@pytest.mark.slow
def test_the_set_up_says_it_as_a_program(tmp_path):
    """A venv without any source: one line, exit code 2, no traceback."""
    done = subprocess.run(
        [sys.executable, ROOT / "setup/install.py", "edge", "--venv", tmp_path / "venv"],
        env={k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("set-up: pip: ")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "venv" / "install.log").exists()


def test_a_long_command_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shown, "PIPE_INTERVAL_S", 0.0)
    code = "print('[1/4] x', flush=True); print('[2/4] y', flush=True); raise SystemExit(3)"
    log = tmp_path / "log"
    status, output = shown.run_shown(
        [sys.executable, "-c", code],
        title="compiling",
        status_of=install.compiled_share,
        log=log,
        deadline_s=60,
    )
    assert status == 3
    assert output == log.read_text() == "[1/4] x\n[2/4] y\n"
    assert "compiling, 50 %" in capsys.readouterr().out


@pytest.mark.slow
def test_silence_is_passed_on_too(tmp_path):
    told = []
    shown.run_shown(
        [sys.executable, "-c", "import time; time.sleep(0.8); print('x')"],
        title="waiting",
        status_of=told.append,
        log=tmp_path / "log",
        deadline_s=60,
    )
    assert {"", "x\n"} == set(told)


def test_a_command_past_its_deadline_is_ended(tmp_path):
    status, _ = shown.run_shown(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        title="waiting",
        status_of=lambda _: None,
        log=tmp_path / "log",
        deadline_s=0.1,
    )
    assert status < 0
