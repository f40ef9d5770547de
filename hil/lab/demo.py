"""`hil demo-pluto`: cloud and edge as two processes on this machine, with a broker and emulated
Plutos between them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hil.radio_kinds.loopback_twin import Comparison, compare
from hil.radio_kinds.pluto_devices import real_radio
from hil.reporting.run_folder import Run, read_run
from hil.reporting.text_table import TextTable
from hil.settings import Settings, to_toml
from hil.system.helper_processes import (
    HelperError,
    HelperProcess,
    free_port,
    hil_command,
    mosquitto,
    wait_for_port,
)
from hil.system.waits import waiting_for

LOW_RATIO: Final = 0.7
"""A goodput below this share of the loopback's is remarked on."""
START_S: Final = 900.0
"""Set-up that takes longer hangs, also on a machine with much else to do."""
ROUND_S: Final = 900.0
"""A round that takes longer hangs."""
_PATIENCE_S: Final = 240.0
"""An answer of a radio or of the edge that takes longer does not come."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Result of a run over two processes.

    Attributes:
        run: the cloud's run.
        rounds: number of rounds that were asked for.
        comparisons: its rounds beside a simulated link, of those that sent something.
    """

    run: Run
    rounds: int
    comparisons: Sequence[Comparison]

    @property
    def complaints(self) -> list[str]:
        """The verdict that was missed, a sentence each; empty if every update arrived."""
        arrived = sum(row["edge.status"] in ("installed", "kept") for row in self.run.rows)
        if arrived == self.rounds:
            return []
        return [f"{arrived} of {self.rounds} updates arrived; see {self.run.folder / 'log.txt'}"]

    @property
    def remarks(self) -> list[str]:
        """Facts that a reader should know and that no verdict depends on."""
        poor = [str(c.round_id) for c in self.comparisons if c.airtime_ratio < LOW_RATIO]
        if not poor:
            return []
        return [
            f"round {', '.join(poor)}: goodput below {LOW_RATIO:g} of the simulated link's; "
            "emulated radios lose samples while the machine is busy"
        ]


def demo_pluto(settings: Settings, say: Say) -> Demo:
    """A whole run over two processes, and the same payloads over a simulated link.

    Every process that was started has ended when this returns or raises.

    Args:
        settings: the experiment; radio.uri, radio.receive_uri and control.url are filled in.
        say: called with each line that provision and cloud print, and with the addresses in use.

    Raises:
        ConfigError: the radio is simulated.
        HelperError: a process failed, hung or did not end by itself.
    """
    radio = real_radio(settings, "hil demo-pluto")
    with tempfile.TemporaryDirectory(prefix="hil-demo-") as scratch, ExitStack() as stack:
        joined, beside = _start_all(settings, Path(scratch), stack, say)
        config = Path(scratch) / "joined.toml"
        command = hil_command("cloud", "--config", str(config))
        cloud = stack.enter_context(
            HelperProcess("hil cloud", command, Path(scratch) / "cloud.log")
        )
        waiting_for(f"hil cloud: loading the model, then {settings.run.rounds} rounds")
        deadline = time.monotonic() + START_S + ROUND_S * settings.run.rounds
        for line in cloud.relay(deadline, beside):
            say(line)
    run = read_run(_folder_of(joined))
    waiting_for("sending the same payloads over a simulated link")
    comparisons = compare(run, radio, settings.run.seed)
    return Demo(run=run, rounds=settings.run.rounds, comparisons=comparisons)


def _start_all(
    settings: Settings, scratch: Path, stack: ExitStack, say: Say
) -> tuple[Settings, list[HelperProcess]]:
    """Start broker, radios and edge.

    Returns:
        The settings that join them, which also lie in joined.toml, and the processes that have to
        go on running.
    """
    deadline = time.monotonic() + START_S
    waiting_for("starting a broker and two emulated Plutos")
    port = free_port()
    broker = stack.enter_context(mosquitto(port, scratch))
    wait_for_port(broker, port, deadline)
    config = scratch / "config.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    command = hil_command("emulate-pluto", "--nodes", "2", "--config", str(config))
    plutos = stack.enter_context(
        HelperProcess("hil emulate-pluto", command, scratch / "plutos.log")
    )
    uris = list(_uris(plutos, 2, deadline))
    say(f"broker: port {port}; emulated Plutos: {', '.join(uris)}")
    joined = _joined(settings, uris, port)
    config = scratch / "joined.toml"
    config.write_text(to_toml(joined), encoding="utf-8")
    bundle = scratch / "bundle"
    waiting_for("hil provision: quantising the edge's model")
    command = hil_command("provision", str(bundle), "--config", str(config))
    with HelperProcess("hil provision", command, scratch / "provision.log") as provision:
        for line in provision.relay(deadline):
            say(line)
    folders = ("--bundle", str(bundle), "--state", str(scratch / "state"))
    command = hil_command("edge", *folders, "--config", str(config))
    edge = stack.enter_context(HelperProcess("hil edge", command, scratch / "edge.log"))
    return joined, [broker, plutos, edge]


def _joined(settings: Settings, uris: Sequence[str], port: int) -> Settings:
    """The experiment over these radios and this broker, patient with a busy machine."""
    radio, control = real_radio(settings, "hil demo-pluto"), settings.control
    patience_s = max(radio.patience_s, _PATIENCE_S)
    links = {"uri": uris[0], "receive_uri": uris[1], "patience_s": patience_s}
    broker = {
        "url": f"mqtt://127.0.0.1:{port}",
        "secrets_file": "",
        "timeout_s": max(control.timeout_s, _PATIENCE_S),
    }
    return settings.model_copy(
        update={
            "radio": radio.model_copy(update=links),
            "control": control.model_copy(update=broker),
        }
    )


def _uris(plutos: HelperProcess, n: int, deadline: float) -> Iterator[str]:
    """The addresses of emulated radios, among what their process prints."""
    while n:
        line = plutos.wait_for_line(deadline)
        if line.startswith("ip:"):
            n -= 1
            yield line


def _folder_of(joined: Settings) -> Path:
    """The run folder that holds these very settings, whatever else lies beside it.

    Only this run has the broker's port and the radios' addresses of this moment.

    Raises:
        HelperError: there is none.
    """
    out, wanted = Path(joined.run.out), to_toml(joined)
    for config in sorted(out.glob(f"*-{joined.run.name}*/config.toml"), reverse=True):
        if config.read_text(encoding="utf-8") == wanted:
            return config.parent
    raise HelperError(f"{out}: hil cloud ended without a run folder; run it alone to see why")


def table_of(demo: Demo) -> TextTable:
    """Goodput of every round over the radios beside a simulated link."""
    rows = [
        (
            str(c.round_id),
            f"{c.payload_bytes / 1e3:.1f}",
            f"{c.goodput_bps / 1e6:.2f}",
            f"{c.loopback_goodput_bps / 1e6:.2f}",
            f"{c.airtime_ratio:.2f}",
            f"{c.elapsed_goodput_bps / 1e6:.2f}",
            f"{c.loopback_elapsed_goodput_bps / 1e6:.2f}",
            f"{c.elapsed_ratio:.2f}",
        )
        for c in demo.comparisons
    ]
    return TextTable(
        title="Goodput over the radios and over a simulated link of the same SNR",
        heads=(
            "round",
            "payload kB",
            "by air time Mbit/s",
            "simulated Mbit/s",
            "ratio",
            "by elapsed time Mbit/s",
            "simulated Mbit/s",
            "ratio",
        ),
        rows=rows,
        notes=("Elapsed time depends on what else this machine does; air time hardly does.",),
    )
