"""Set-up of .venv for `make`: the packages of a few extras, each from the smallest source.

    python3 setup/install.py cloud edge --torch cpu --cpu-index https://…/whl/cpu

torch for Linux is on PyPI with CUDA: 3 GB with its libraries. Unless CUDA is asked for, torch is
the CPU build of the sources that pip is configured to (PIP_FIND_LINKS, PIP_INDEX_URL, pip.conf);
else of PyTorch's own index, which is asked once; else whatever there is, after a line about its
size. llama.cpp is compiled once for all clones: the wheel is kept in the user's cache. Standard
library alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request, urlopen

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from pip_progress import PipProgress  # noqa: E402 - beside this file
from shown import run_shown  # noqa: E402

from hil.rounding import ceil_div  # noqa: E402 - of a clone that is not installed yet
from hil.system.threads import usable_cores  # noqa: E402
from hil.user_folders import cache_folder  # noqa: E402

CONSTRAINTS: Final = ROOT / "constraints.txt"
INDEX_PATIENCE_S: Final = 5.0
"""How long an index may take to answer a question that is not vital."""
DOWNLOAD_DEADLINE_S: Final = 4 * 3600.0
LLAMA: Final = "llama-cpp-python"
LLAMA_CORE_MINUTES: Final = 10
"""Time that one core takes to compile llama.cpp: a server of 2 cores took 5 to 7 minutes."""
# llama.cpp without its tools, examples and server: builds in two thirds of the time.
LLAMA_FLAGS: Final = (
    "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF "
    "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_COMMON=OFF"
)
_TORCH_OF_VENV: Final = "lib/python3*/site-packages/torch-*.dist-info"
_OFFLINE: Final = re.compile(
    "NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|name resolution|is unreachable"
)


class SetupError(Exception):
    """What keeps the set-up from going on, and what to type."""


@dataclass(frozen=True)
class Package:
    """One package that pip is going to fetch."""

    name: str
    version: str
    url: str

    @property
    def is_source(self) -> bool:
        """Whether it has to be built here."""
        return not urlsplit(self.url).path.endswith(".whl")


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and how its pip is asked.

    Attributes:
        folder: the environment's.
        sources: options of pip beside its configuration ("--find-links", ...).
    """

    folder: Path
    sources: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """File that holds everything that pip has said."""
        return self.folder / "install.log"

    def command(self, *arguments: str) -> list[str]:
        """The command line of its pip."""
        return [
            *(str(self.folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"),
            *arguments,
        ]

    def plan(self, requirements: Sequence[str], *options: str) -> list[Package] | None:
        """What pip would fetch for the requirements; None if they cannot be met.

        Nothing but metadata is fetched: of wheels without a metadata file of their own, ranges.
        """
        report_file = self.folder / "plan.json"
        status, _ = run_shown(
            self.command(
                *("install", "--dry-run", "-qq", "--report", str(report_file)),
                *("--use-feature=fast-deps", "--retries", "1", "--timeout", "15"),
                *(*self.sources, *options, *requirements),
            ),
            title="asking the package index",
            status_of=lambda _: None,
            log=self.log,
            deadline_s=1800,
        )
        if status:
            return None
        report = json.loads(report_file.read_text(encoding="utf-8"))
        return [
            Package(
                name=item["metadata"]["name"].lower().replace("_", "-"),
                version=item["metadata"]["version"],
                url=item["download_info"]["url"],
            )
            for item in report["install"]
        ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Set up what the command line asks for; a SetupError is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("extras", nargs="+", help="extras of the package: cloud, edge, test, ...")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cpu-index", default="", help="index of CPU builds of torch; asked once")
    given = parser.parse_args(arguments)
    try:
        install(given.venv, given.extras, torch=given.torch, cpu_index=given.cpu_index)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        sys.exit(2)


def install(venv: Path, extras: Sequence[str], *, torch: str, cpu_index: str) -> None:
    """Install the packages of these extras into an environment; what is there already stays."""
    prepare(venv)
    wheels = wheel_folder()
    environment = Environment(venv, ("--find-links", str(wheels), "-c", str(CONSTRAINTS)))
    environment.log.unlink(missing_ok=True)
    requirements = requirements_of(extras)
    torch_requirement = next((r for r in requirements if r.startswith("torch==")), None)
    if torch_requirement:
        requirements.remove(torch_requirement)
        chosen, wheel = choose_torch(
            environment, torch_requirement, choice=torch, cpu_index=cpu_index
        )
        requirements.insert(0, chosen)
        if wheel:  # a page of our own: pip would read the index's anew for every package
            page = venv / "torch.html"
            page.write_text(f'<a href="{wheel}">torch</a>', encoding="utf-8")
            environment = Environment(venv, (*environment.sources, "--find-links", str(page)))
    packages = environment.plan(requirements)
    if packages is None:
        raise SetupError(complaint(environment.log))
    print(announcement(packages, torch, download_sizes(packages)), flush=True)
    for package in packages:
        if package.name == LLAMA and package.is_source:
            build_llama(environment, package, wheels)
    fetch(environment, packages)


def prepare(venv: Path) -> None:
    """Make the environment if it is missing, with a pip that reads metadata alone in a dry run."""
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making the environment {venv}", flush=True)
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(venv)], capture_output=True, check=False, timeout=300
        )
        if made.returncode:
            raise SetupError("no venv module: type  sudo apt-get install python3-venv")
    asked = [str(python), "-m", "pip", "--disable-pip-version-check"]
    said = subprocess.run([*asked, "--version"], capture_output=True, text=True, check=True)
    major, minor = map(int, said.stdout.split()[1].split(".")[:2])
    if (major, minor) < (25, 3):  # without an index the old one reads local wheels as well
        print("fetching a newer pip", flush=True)
        subprocess.run(
            [*asked, "install", "-qq", "--retries", "1", "--upgrade", "pip>=25.3"],
            capture_output=True,
            check=False,
            timeout=300,
        )


def requirements_of(extras: Sequence[str]) -> list[str]:
    """What the kit and these extras of pyproject.toml require, extras of extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, met = list(extras), set[str]()
    found = list(project["dependencies"])
    while waiting:
        extra = waiting.pop(0)
        if extra in met:
            continue
        met.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
            if own:
                waiting += own[1].split(",")
            else:
                found.append(requirement)
    return found


def choose_torch(
    environment: Environment,
    requirement: str,
    *,
    choice: str,
    cpu_index: str,
    ask: Callable[[str], str] = lambda url: answer(url),
) -> tuple[str, str]:
    """The requirement of torch to install, and its wheel's address ("": pip's own sources have it).

    Args:
        requirement: "torch==1.2.3".
        choice: "cpu" or "cuda".
        cpu_index: address of PyTorch's CPU index; "": it is not asked.
        ask: the text of a page, "" without an answer.
    """
    version = requirement.partition("==")[2]
    installed = [path.stem.split("-")[1] for path in environment.folder.glob(_TORCH_OF_VENV)]
    if choice == "cuda":
        return f"torch==={version}", ""  # "==" would be content with a CPU build
    if sys.platform != "linux" or any(v.partition("+")[0] == version for v in installed):
        return requirement, ""
    cpu = f"torch=={version}+cpu"
    if environment.plan([cpu], "--no-deps", "--only-binary", ":all:") is not None:
        return cpu, ""
    page = f"{cpu_index.rstrip('/')}/torch/" if cpu_index else ""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = rf"torch-{re.escape(version)}\+cpu-{python}-[\w.-]*{platform.machine()}\.whl"
    for link in re.findall(r'href="([^"]*)"', ask(page) if page else ""):
        if re.search(wheel, unquote(link)):
            return cpu, urljoin(page, link)
    return requirement, ""


def answer(url: str) -> str:
    """The text of a page; "" if the page does not come in INDEX_PATIENCE_S."""
    texts: list[str] = []

    def ask() -> None:
        try:
            with urlopen(url, timeout=INDEX_PATIENCE_S) as page:  # noqa: S310 - of the Makefile
                texts.append(page.read().decode(errors="replace"))
        except (OSError, ValueError):
            return

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(INDEX_PATIENCE_S)  # a slow name server or a trickle ends here, too
    return texts[0] if texts else ""


def download_sizes(packages: Sequence[Package]) -> list[int | None]:
    """Bytes of each package that has to be fetched; 0 for a local file, None if nobody says."""

    def size(package: Package) -> int | None:
        if urlsplit(package.url).scheme == "file":
            return 0
        try:
            asked = Request(package.url, method="HEAD")  # noqa: S310 - an address from pip
            with urlopen(asked, timeout=INDEX_PATIENCE_S) as answer:  # noqa: S310
                return int(answer.headers["Content-Length"])
        except (OSError, ValueError, TypeError):
            return None

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(size, packages))


def announcement(packages: Sequence[Package], torch: str, sizes: Sequence[int | None]) -> str:
    """What is going to be fetched, how large it is, and, for CUDA by accident, how to choose."""
    if not packages:
        return "all packages are here"
    known_mb = sum(size or 0 for size in sizes) / 1e6
    bound = "at least " if None in sizes else ""
    text = f"{len(packages)} packages, {bound}{known_mb:.0f} MB to download"
    cuda = any(p.name.startswith(("nvidia-", "cuda-")) or p.name == "triton" for p in packages)
    if cuda and torch == "cpu":
        text += (
            "\n  torch comes with CUDA, since no source has its CPU build. To choose another,"
            "\n  press Ctrl-C: make demo PIP_FIND_LINKS=FOLDER (or PIP_EXTRA_INDEX_URL=ADDRESS)"
        )
    return text


def wheel_folder() -> Path:
    """The user's folder for compiled wheels of this processor; a home may be shared by several."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        instructions = re.search(r"^(flags|Features)\s*:.*$", text, re.MULTILINE)
    except OSError:
        instructions = None
    key = f"{LLAMA_FLAGS} {platform.machine()} {instructions[0] if instructions else ''}"
    folder = cache_folder() / "wheels" / hashlib.sha256(key.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build_llama(environment: Environment, package: Package, wheels: Path) -> None:
    """Compile llama.cpp into a wheel that later environments find; pip's own cache comes first."""
    cores = usable_cores()
    minutes = ceil_div(LLAMA_CORE_MINUTES, cores)
    title = f"compiling llama.cpp, about {minutes} minutes on {cores} cores"
    print(title, flush=True)
    status, _ = run_shown(
        environment.command(
            *("wheel", "--verbose", "--no-deps", "--wheel-dir", str(wheels)),
            *(*environment.sources, f"{package.name}=={package.version}"),
        ),
        title="compiling llama.cpp",
        status_of=compiled_share,
        log=environment.log,
        deadline_s=2 * 3600.0,
        environment=os.environ | {"CMAKE_ARGS": LLAMA_FLAGS},
    )
    if status:
        raise SetupError(
            f"llama.cpp does not compile: {environment.log}; "
            "without a C++ compiler, type  sudo apt-get install build-essential"
        )


def compiled_share(line: str) -> str | None:
    """How far a compilation is, from ninja's "[12/345] ..." or make's "[ 12%] ..."."""
    if steps := re.search(r"\[(\d+)/(\d+)\]", line):
        return f"{100 * int(steps[1]) // int(steps[2])} %"
    share = re.search(r"\[ *(\d+)%\]", line)
    return f"{share[1]} %" if share else None


def fetch(environment: Environment, packages: Sequence[Package]) -> None:
    """Install exactly these packages, and the clone itself as it lies here."""
    exactly = [f"{package.name}=={package.version}" for package in packages]
    status, _ = run_shown(
        environment.command(
            *("install", "--no-deps", "--progress-bar", "off", *environment.sources),
            *(*exactly, "--editable", str(ROOT)),
        ),
        title="installing packages",
        status_of=PipProgress(environment.folder).status_of,
        log=environment.log,
        deadline_s=DOWNLOAD_DEADLINE_S,
    )
    if status:
        raise SetupError(complaint(environment.log))


def complaint(log: Path) -> str:
    """Why pip gave up, and what to type."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if _OFFLINE.search(text):
        return (
            "no package index answers. Offline, name a folder of wheels: "
            "make PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER"
        )
    errors = re.findall(r"^ERROR: (.*)$", text, re.MULTILINE)
    return f"pip: {errors[0] if errors else 'it gave up'} All it said: {log}"


if __name__ == "__main__":
    main()
