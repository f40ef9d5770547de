"""Every verb of the README's table, in its shortest form, from the wheel alone.

    python tests/packaging/every_verb.py [--keep FOLDER]

Builds the wheel, installs it into an empty environment outside the clone, and runs each verb in an
empty folder on a terminal of 80 columns. It fails on a traceback, on a line of more than 80 columns
or on an unexpected exit code, and prints how long each verb took and when `hil run` had its first
receipt. Packages come from the sources that pip is configured to; minutes.
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
from dataclasses import dataclass, field
from pathlib import Path

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
    Verb(["provision", "bundle"]),
    Verb(["edge", "--bundle", "bundle"], codes=(2,)),  # one line: it needs a broker
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
    Verb(["bench", "edge"], codes=(0, 3)),
]


def main() -> int:
    """Build, install and run; the exit status is the number of verbs with a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="folder to work in, made new and kept")
    keep = parser.parse_args().keep
    folder = keep or Path(tempfile.mkdtemp(prefix="hil-every-verb-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lacking = [name for name in documented_verbs() if name not in names_of(VERBS)]
        faults = [f"{name}: in the README's table, not here" for name in lacking]
        bench = Walk(folder, install(folder))
        for verb in VERBS:
            faults += bench.take(verb)
    finally:
        if keep is None:
            shutil.rmtree(folder)
    print(*faults, sep="\n")
    print(f"{len(VERBS)} verbs, {len(faults)} faults")
    return len(faults)


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


def install(folder: Path) -> Path:
    """An environment with nothing but the wheel and its extras; its program `hil`."""
    wheels = folder / "wheel"
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT], folder)
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    [wheel] = wheels.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    sources = [part for path in kept_wheels() for part in ("--find-links", path)]
    what = f"{wheel}[cloud,edge,pluto,eval]"
    limits = ["-c", ROOT / "constraints.txt"]
    began_s = time.monotonic()
    run([python, "-m", "pip", "install", "-q", *sources, *limits, what], folder)
    print(f"installed {wheel.name} in {time.monotonic() - began_s:.0f} s", flush=True)
    return folder / "venv" / "bin" / "hil"


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
        self.place = self.folder / "elsewhere"
        self.place.mkdir()
        own = {name: str(self.folder / name) for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME")}
        taken_away = {"PYTHONPATH", "VIRTUAL_ENV"}
        kept = {name: value for name, value in os.environ.items() if name not in taken_away}
        self.environment = kept | own | {"COLUMNS": str(COLUMNS)}

    def take(self, verb: Verb) -> list[str]:
        """Run one verb; its faults, a line each."""
        title = f"hil {' '.join(verb.words)}"
        words = [word.format(run=self._first_run()) for word in verb.words]
        log = self.folder / f"{len(list(self.folder.glob('*.log'))):02d}-{verb.words[0]}.log"
        began_s = time.monotonic()
        if verb.radios:
            with Serving(self) as uris:
                links = ["--set", f"radio.uri={uris[0]}", "--set", f"radio.receive_uri={uris[1]}"]
                code, receipt_s = self._run([*words, *links], log, verb.until)
        else:
            code, receipt_s = self._run(words, log, verb.until)
        took_s = time.monotonic() - began_s
        receipt = f", first receipt after {receipt_s:.0f} s" if receipt_s else ""
        print(f"{took_s:6.1f} s  exit {code}  {title}{receipt}", flush=True)
        text = log.read_text(encoding="utf-8", errors="replace")
        faults = [] if code in verb.codes else [f"exit {code}: {text.strip()[-300:]}"]
        if "Traceback" in text:
            faults.append("a traceback")
        wide = [line for line in text.splitlines() if len(line) > COLUMNS]
        if wide:
            faults.append(f"{len(wide)} lines of more than {COLUMNS} columns, first: {wide[0]}")
        return [f"{title}: {fault}" for fault in faults]

    def _first_run(self) -> str:
        return next((str(p.relative_to(self.place)) for p in self.place.glob("runs/*-demo")), "")

    def _run(self, words: list[str], log: Path, until: str) -> tuple[int, float | None]:
        """Exit code of a verb, and when the first round of a new run was on the disk."""
        before = set(self.place.glob("runs/*/rounds.jsonl"))
        receipt_s = None
        began_s = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            process = self.start(words, file)
            while process.poll() is None:
                time.sleep(0.1)
                elapsed_s = time.monotonic() - began_s
                rows = set(self.place.glob("runs/*/rounds.jsonl")) - before
                if receipt_s is None and any(row.stat().st_size for row in rows):
                    receipt_s = elapsed_s
                text = log.read_text(encoding="utf-8", errors="replace")
                if until and re.search(rf"^{until}.*\n", text, re.MULTILINE):
                    process.send_signal(signal.SIGINT)
                    until = ""
                if elapsed_s > DEADLINE_S:
                    process.kill()
        return process.returncode, receipt_s

    def start(self, words: list[str], output: object) -> subprocess.Popen[str]:
        """A verb that goes on by itself."""
        return subprocess.Popen(
            [str(self.program), *words],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,  # type: ignore[arg-type]  # an open file
            stderr=subprocess.STDOUT,
            text=True,
        )


class Serving:
    """Two emulated Plutos, as long as the block lasts; their URIs."""

    def __init__(self, walk: Walk) -> None:
        self._process = walk.start(["emulate-pluto", "--nodes", "2", *EMULATED], subprocess.PIPE)

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
