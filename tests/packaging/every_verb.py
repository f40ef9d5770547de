"""Every verb of the README's table, in its shortest form, from the wheel alone.

    python tests/packaging/every_verb.py [--keep FOLDER] [--only VERB] [--busy N]

Builds the wheel, installs it into an empty environment outside the clone, and runs each verb in an
empty folder on a terminal of 80 columns. It fails on a traceback, on a line of more than 80 columns
or on an unexpected exit code. It prints of each verb how long it took, its widest line, when its
first line came, the longest time without a sign, and when `hil run` had its first receipt. The
first run compiles the radio's kernels. Packages come from the sources that pip is configured to;
minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

from on_terminal import on_terminal  # noqa: E402 - beside this file

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 80
DEADLINE_S = 900
STREAM = (
    "streams.train=1 streams.select=1 streams.report=1 streams.seeds=1 streams.rounds=2 "
    "streams.steps=4 streams.items=8"
).split()
SMALL = [part for key in STREAM for part in ("--set", key)]
EMULATED = ["--config", "pluto_pair"]
"""Radios that `hil emulate-pluto` serves while a verb runs; {uri0} and {uri1} are theirs."""


@dataclass(frozen=True)
class Verb:
    """One verb as it is typed.

    Attributes:
        words: after "hil"; {run} is the first run's folder.
        codes: exit codes that are right.
        radios: emulated Plutos are served meanwhile.
        until: a line that begins so ends the verb, by Ctrl-C.
    """

    words: list[str]
    codes: tuple[int, ...] = (0,)
    radios: bool = False
    until: str = ""


VERBS = [
    Verb(["--version"]),
    Verb(["--help"]),
    Verb(["init", "trial"]),
    Verb(["check"]),
    Verb(["run", "--rounds", "1"]),
    Verb(["report", "{run}"]),
    Verb(["export", "{run}", "--format", "peft"]),
    Verb(["export", "{run}", "--format", "gguf"]),
    Verb(["send", "{run}/export-peft", "--budget-bits", "200000"]),
    Verb(["send", "{run}/export-peft"], codes=(0, 3)),
    Verb(["provision", "bundle"]),
    Verb(["edge", "--bundle", "bundle"], codes=(2,)),  # one line: the air is simulated
    Verb(["cloud"], codes=(2,)),
    Verb(["demo-pluto", "--rounds", "1"]),
    Verb(["emulate-pluto", "--nodes", "1"], codes=(0, 130), until="ip:"),
    Verb(["calibrate", "snr", "--quick", *EMULATED], codes=(0, 3), radios=True),
    Verb(["chaos", "--faults", "1"], codes=(0, 3)),
    Verb(["train", "ours", "--quick", "--steps", "200", *SMALL]),
    Verb(["eval", "--quick", "--policy", "largest", "--policy", "ours", *SMALL]),
    Verb(["record", "--out", "capture", "--bytes", "2000"]),
    Verb(["replay", "capture"]),
    Verb(["bench", "link", "--quick", "--only", "speed"], codes=(0, 3)),
    Verb(["bench", "controller", "--random-states", "1000", *SMALL], codes=(0, 3)),
    Verb(["bench", "pluto"], codes=(0, 3)),
    Verb(["bench", "edge"]),
    Verb(["bench", "training"]),
]


def main() -> int:
    """Build, install and run; the exit status is the number of faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="folder that keeps environment and logs")
    parser.add_argument("--only", help="a verb; else all of them")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute beside it")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="hil-every-verb-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lacking = set(documented_verbs()) - names_of(VERBS)
        faults = [f"{name}: in the README's table, not here" for name in sorted(lacking)]
        verbs = [verb for verb in VERBS if given.only in (None, verb.words[0])]
        walk = Walk(folder, installed(folder))
        with busy(given.busy):
            for verb in verbs:
                faults += walk.take(verb)
    finally:
        if given.keep is None:
            shutil.rmtree(folder)
    print(*faults, sep="\n")
    print(f"{len(verbs)} verbs, {len(faults)} faults")
    return len(faults)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that want a core each, as long as the block lasts."""
    with ExitStack() as stack:
        for _ in range(processes):
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.enter_context(loop)
            stack.callback(loop.kill)
        yield


def documented_verbs() -> list[str]:
    """Names of the verbs in the README's table: "run", "bench link", ..."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = []
    for row in re.findall(r"^\|(.*?)\|", text, re.MULTILINE):
        names += re.findall(r"`hil ((?:bench )?[a-z][a-z-]*)", row)
    return names


def names_of(verbs: list[Verb]) -> set[str]:
    """The same names, of what is run here."""
    return {" ".join(v.words[: 2 if v.words[0] == "bench" else 1]) for v in verbs}


def installed(folder: Path) -> Path:
    """The program `hil` of an environment with nothing but the wheel and its extras.

    The environment of an earlier call is taken as it is, without its compiled kernels.
    """
    venv = folder / "venv"
    program = venv / "bin" / "hil"
    if program.exists():
        for kernel in venv.rglob("*.nb[ic]"):
            kernel.unlink()
        return program
    wheels = folder / "wheel"
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT], folder)
    run([sys.executable, "-m", "venv", venv], folder)
    [wheel] = wheels.glob("*.whl")
    sources = [part for path in kept_wheels() for part in ("--find-links", path)]
    what = f"{wheel}[cloud,edge,pluto,eval]"
    limits = ["-c", ROOT / "constraints.txt"]
    began_s = time.monotonic()
    run([venv / "bin" / "python", "-m", "pip", "install", "-q", *sources, *limits, what], folder)
    print(f"installed {wheel.name} in {time.monotonic() - began_s:.0f} s", flush=True)
    return program


def kept_wheels() -> list[Path]:
    """Folders with a llama.cpp that the set-up of a clone has compiled."""
    sys.path[:0] = [str(ROOT / "setup")]
    from install import wheel_folder

    return [wheel_folder()]


def run(command: list[object], folder: Path) -> None:
    """A step that has to succeed."""
    subprocess.run([str(part) for part in command], cwd=folder, check=True, timeout=3600)


@dataclass
class Walk:
    """An empty folder outside the clone, and the verbs that are run in it."""

    folder: Path
    program: Path
    place: Path = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="walk-", dir=self.folder))
        own = {name: str(self.place / name) for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME")}
        taken_away = {"PYTHONPATH", "VIRTUAL_ENV", "COLUMNS", "NUMBA_CACHE_DIR"}
        kept = {name: value for name, value in os.environ.items() if name not in taken_away}
        self.environment = kept | own

    def take(self, verb: Verb) -> list[str]:
        """Run one verb; its faults, a line each."""
        words = [word.format(run=self._first_run()) for word in verb.words]
        with ExitStack() as stack:
            if verb.radios:
                uris = stack.enter_context(Serving(self))
                for key, uri in zip(("uri", "receive_uri"), uris, strict=True):
                    words += ["--set", f"radio.{key}={uri}"]
            receipt = _Receipt(self.place, verb.until)
            shown = on_terminal(
                [str(self.program), *words],
                columns=COLUMNS,
                folder=self.place,
                environment=self.environment,
                deadline_s=DEADLINE_S,
                enough=receipt.look,
            )
        title = f"hil {' '.join(verb.words)}"
        log = self.place / f"{len(list(self.place.glob('*.log'))):02d}-{verb.words[0]}.log"
        log.write_text(shown.text, encoding="utf-8")
        print(
            f"exit {shown.code:3}  {shown.took_s:6.1f} s  widest {len(shown.widest):3}  "
            f"first line {shown.first_s or 0:4.1f} s  quiet {shown.quiet_s:4.1f} s  {title}",
            *[f"  first receipt after {s:.0f} s" for s in receipt.seconds[:1]],
            sep="\n",
            flush=True,
        )
        faults = []
        if shown.code not in verb.codes:
            faults.append(f"exit {shown.code}: {shown.text.strip()[-300:]}")
        if "Traceback" in shown.text:
            faults.append("a traceback")
        if wide := too_wide(shown.lines):
            faults.append(f"more than {COLUMNS} columns: {wide[0]}")
        return [f"{title}: {fault}" for fault in faults]

    def _first_run(self) -> str:
        return next((str(p.relative_to(self.place)) for p in self.place.glob("runs/*-demo")), "")

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """A verb that goes on by itself; its output is a pipe."""
        return subprocess.Popen(
            [str(self.program), *words],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def too_wide(lines: list[str]) -> list[str]:
    """Lines that could be shorter: a path is never cut, so that it can be copied."""
    wide = [line for line in lines if len(line) > COLUMNS]
    return [line for line in wide if max(map(len, line.split())) < COLUMNS - len("records: ")]


class _Receipt:
    """Looks out for the first row of a new run, and for the line that ends a verb.

    Attributes:
        seconds: after which a row of a run was first on the disk.
    """

    def __init__(self, place: Path, until: str) -> None:
        self._place, self._until = place, until
        self._before = set(place.glob("runs/*/rounds.jsonl"))
        self._began_s = time.monotonic()
        self.seconds: list[float] = []

    def look(self, text: str) -> bool:
        """Whether the text has the line that ends the verb."""
        rows = set(self._place.glob("runs/*/rounds.jsonl")) - self._before
        if not self.seconds and any(row.stat().st_size for row in rows):
            self.seconds.append(time.monotonic() - self._began_s)
        return bool(self._until and re.search(rf"^{self._until}.*\n", text, re.MULTILINE))


class Serving:
    """Two emulated Plutos, as long as the block lasts; their URIs."""

    def __init__(self, walk: Walk) -> None:
        self._process = walk.start(["emulate-pluto", "--nodes", "2", *EMULATED])

    def __enter__(self) -> list[str]:
        lines = iter(self._process.stdout or ())
        uris: list[str] = []
        while len(uris) < 2:
            line = next(lines).strip()
            if line.startswith("ip:"):
                uris.append(line)
        return uris

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
