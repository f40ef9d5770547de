"""The cloud, and an edge that is a process of its own, joined by emulated radios and a real broker:
rounds, faults."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hil.contract import ConfigError, ControlError
from hil.loop.cloud_process import run_cloud
from hil.loop.edge_process import run_edge
from hil.loop.provision import provision
from hil.loop.rounds import Watcher
from hil.reporting.run_folder import Run, read_run
from hil.settings import Settings, load_settings
from radio.emulator import EmulatedPlutos
from radio.emulator.clock import RealTime
from radio.emulator.ether import Ether, NodeSpec

pytestmark = pytest.mark.usefixtures("libiio")

ROOT = Path(__file__).parents[3]
RUN_EDGE = """
import logging, sys
from pathlib import Path
from hil.settings import load_settings
from hil.loop.edge_process import run_edge
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
run_edge(load_settings(Path(sys.argv[1]), sys.argv[4:]), Path(sys.argv[2]), Path(sys.argv[3]))
"""
START_S = END_S = 40.0
MAX_EDGE_BYTES = 350e6
MAX_MODEL_PROCESS_BYTES = 100e6


class Edge:
    """`hil edge` in a process, and those that it starts."""

    def __init__(self, config: list[str], bundle: Path, folder: Path) -> None:
        self.bundle = bundle
        self._command = [
            sys.executable,
            "-c",
            RUN_EDGE,
            str(ROOT / "hil.toml"),
            str(bundle),
            str(folder / "state"),
        ]
        self._command += config
        self._log = folder / "edge.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.family: list[psutil.Process] = []

    def start(self) -> None:
        """Returns when it listens."""
        seen = self.log().count(" listens at ")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stderr=log)
        deadline = time.monotonic() + START_S
        while self.log().count(" listens at ") == seen:
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        self.family = [
            parent := psutil.Process(self._process.pid),
            *parent.children(recursive=True),
        ]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status; all of its processes are gone then."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(END_S)
        self._process = None
        _, alive = psutil.wait_procs(self.family, timeout=END_S)
        for process in alive:
            process.kill()
        assert not alive
        return code

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


@dataclasses.dataclass
class Pair:
    """Two machines on one: what each is told, and what goes wrong on demand."""

    settings: Settings
    plutos: EmulatedPlutos
    broker: Any
    edge: Edge

    def run(
        self, *, rounds: int = 1, on_stage: Callable[[int, str], None] = lambda i, stage: None
    ) -> Run:
        of_run = self.settings.run.model_copy(update={"rounds": rounds})
        settings = self.settings.model_copy(update={"run": of_run})
        return read_run(run_cloud(settings, Watcher(on_stage=on_stage)))


@pytest.fixture(scope="module")
def pair(
    small_overrides: Callable[[Path], list[str]],
    start_broker: Callable[[], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("two")
    broker = start_broker()
    ether = Ether([NodeSpec(ppm=0.0), NodeSpec(ppm=3.0)], clock=RealTime(), seed=0)
    with EmulatedPlutos(ether) as plutos:
        config = [
            *small_overrides(folder / "runs"),
            "text.stream=['jargon40']",
            "radio.kind=pluto",
            f"radio.uri='{plutos.uris[0]}'",
            f"radio.receive_uri='{plutos.uris[1]}'",
            "radio.allow.bands=[{low_hz = 2.4e9, high_hz = 2.4835e9, max_dbm = -10.0}]",
            f"control.url='{broker.url}'",
            f"control.secrets_file='{broker.secret}'",
        ]
        settings = load_settings(ROOT / "hil.toml", config)
        bundle = provision(settings, folder / "bundle").folder
        edge = Edge(config, bundle, folder)
        edge.start()
        try:
            yield Pair(settings, plutos, broker, edge)
        finally:
            edge.end()


def installed(run: Run) -> bool:
    return all(
        row["edge.status"] == "installed" and row["edge.held_digest"] == row["payload.sha256"] != ""
        for row in run.rows
    )


@pytest.mark.slow
def test_two_rounds_and_how_large_the_edge_is(pair: Pair) -> None:
    run = pair.run(rounds=2)
    assert installed(run)
    assert len(run.rows) == 2
    for row in run.rows:
        assert row["link.delivered"] is True
        assert abs(row["link.cfo_hz"] - -3e-6 * 2.45e9) < 50
    assert any("emulated-0" in line for line in run.manifest["emulated"])
    assert run.manifest["simulated"] == []
    parent, *children = pair.edge.family
    held_bytes = [process.memory_full_info().pss for process in pair.edge.family]
    assert len(children) == 2
    assert sum(held_bytes) < MAX_EDGE_BYTES, held_bytes
    for process in pair.edge.family:
        mapped = " ".join(file.path for file in process.memory_maps())
        assert "/torch/" not in mapped
        assert ("/llvmlite/" in mapped) == (
            process == parent
        )  # what compiles the modem costs 100 MB a process
        if "/llama_cpp/" in mapped:
            assert process.memory_full_info().pss < MAX_MODEL_PROCESS_BYTES
    assert (
        sum(
            "/llama_cpp/" in " ".join(f.path for f in process.memory_maps())
            for process in pair.edge.family
        )
        == 1
    )


@pytest.mark.slow
def test_broker_radio_and_edge_go_away_and_come_back(pair: Pair) -> None:
    """Each in a round of its own, and the run goes on."""
    outages_before = pair.edge.log().count("lost")

    def on_stage(round_id: int, stage: str) -> None:
        if (round_id, stage) == (0, "training"):
            pair.broker.kill()
            pair.broker.start()
        elif (round_id, stage) == (1, "sending"):
            pair.plutos.faults[1].vanish(1.0)
        elif (round_id, stage) == (2, "training"):
            pair.edge.end(signal.SIGKILL)
            pair.edge.start()

    run = pair.run(rounds=3, on_stage=on_stage)
    assert installed(run)
    assert len(run.rows) == 3
    assert pair.edge.log().count("lost") > outages_before


@pytest.mark.slow
def test_a_cloud_that_was_killed_leaves_an_edge_for_the_next(pair: Pair) -> None:
    class Killed(BaseException):
        pass

    def die(round_id: int, stage: str) -> None:
        if stage == "installing and scoring":
            raise Killed

    with pytest.raises(Killed):
        pair.run(on_stage=die)
    assert installed(pair.run())


@pytest.mark.slow
def test_an_edge_of_another_experiment_is_named(pair: Pair) -> None:
    text = pair.settings.text.model_copy(update={"score_examples": 30})
    other = dataclasses.replace(pair, settings=pair.settings.model_copy(update={"text": text}))
    with pytest.raises(ControlError, match=r"^score sets: .*; provision the edge again"):
        other.run()
    slower = pair.settings.radio.model_copy(update={"rate_hz": 0.9e6})
    other = dataclasses.replace(pair, settings=pair.settings.model_copy(update={"radio": slower}))
    with pytest.raises(
        ControlError, match=r"^radio\.rate_hz: the edge has 1000000\.0, the cloud 900000\.0"
    ):
        other.run()


@pytest.mark.slow
def test_two_processes_need_a_radio_and_a_broker(pair: Pair, tmp_path: Path) -> None:
    simulated = load_settings(ROOT / "hil.toml")
    alone = pair.settings.model_copy(update={"control": simulated.control})
    for settings, message in (
        (simulated, "radio.kind = 'loopback'"),
        (alone, "control.url = 'inprocess:'"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_edge(settings, pair.edge.bundle, tmp_path)
        out = settings.run.model_copy(update={"out": str(tmp_path)})
        with pytest.raises(ConfigError, match=message):
            run_cloud(settings.model_copy(update={"run": out}), Watcher())


@pytest.mark.slow
def test_the_edge_ends_in_order(pair: Pair) -> None:
    """The last test: it leaves none."""
    assert pair.edge.end(signal.SIGINT) == 0
    assert pair.edge.log().splitlines()[-1] == "hil.loop.edge_process ends"
    pair.edge.start()
    assert pair.edge.end(signal.SIGTERM) == 0
