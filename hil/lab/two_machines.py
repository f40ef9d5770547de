"""`hil demo-pluto`: cloud and edge as processes of their own on this machine, over a broker and
emulated Plutos."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
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

MIN_RATIO: Final = 0.7
"""Goodput over the radios may fall this far below the loopback's."""
START_S: Final = 60.0
ROUND_S: Final = 120.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the two processes came to.

    Attributes:
        folder: of the cloud's run.
        comparisons: its rounds beside the loopback.
        complaints: what is not as it should be; empty if all is well.
    """

    folder: Path
    comparisons: list[Comparison]
    complaints: list[str]


def demo_pluto(settings: Settings, say: Say) -> Demo:
    """Broker, emulated Plutos, edge and cloud: a whole run, and what the same link does without
    radios.

    Every process that was started is ended before this returns or raises.

    Args:
        settings: of the run; radio.uri, radio.receive_uri and control.url are filled in.
        say: hears each line of the cloud, and what happens.
    Raises:
        ConfigError: [radio] is simulated.
        HelperError: a process failed, missed its deadline or did not end by itself.
    """
    real_radio(settings, "hil demo-pluto")
    out = Path(settings.run.out)
    before = set(out.glob("*/"))
    with tempfile.TemporaryDirectory(prefix="hil-demo-") as scratch, ExitStack() as stack:
        config, beside = _start_all(settings, Path(scratch), stack, say)
        cloud = stack.enter_context(
            HelperProcess(
                "hil cloud",
                hil_command("cloud", "--config", str(config)),
                Path(scratch) / "cloud.log",
            )
        )
        say(f"hil cloud: {settings.run.rounds} rounds")
        deadline = time.monotonic() + START_S + ROUND_S * settings.run.rounds
        for line in cloud.relay(deadline, beside):
            say(line)
    folders = set(out.glob("*/")) - before
    if len(folders) != 1:
        raise HelperError(
            f"{out}: {len(folders)} new run folders, 1 expected; see what else writes there"
        )
    run = read_run(folders.pop())
    comparisons = compare(run, real_radio(settings, "hil demo-pluto"), settings.run.seed)
    return Demo(
        folder=run.folder,
        comparisons=comparisons,
        complaints=_complaints(run, settings, comparisons),
    )


def _start_all(
    settings: Settings, scratch: Path, stack: ExitStack, say: Say
) -> tuple[Path, list[HelperProcess]]:
    """Broker, radios, bundle and edge: the configuration that joins them, and what has to go on
    running."""
    deadline = time.monotonic() + 3 * START_S
    port = free_port()
    broker = stack.enter_context(mosquitto(port, scratch))
    wait_for_port(broker, port, deadline)
    config = scratch / "config.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    command = hil_command("emulate-pluto", "--nodes", "2", "--config", str(config))
    plutos = stack.enter_context(
        HelperProcess("hil emulate-pluto", command, scratch / "plutos.log")
    )
    uris = [plutos.wait_for_line(deadline) for _ in range(2)]
    say(f"broker on port {port}, emulated Plutos at {' and '.join(uris)}")
    joined = {
        "radio": settings.radio.model_copy(update={"uri": uris[0], "receive_uri": uris[1]}),
        "control": settings.control.model_copy(
            update={"url": f"mqtt://127.0.0.1:{port}", "secrets_file": ""}
        ),
    }
    config = scratch / "joined.toml"
    config.write_text(to_toml(settings.model_copy(update=joined)), encoding="utf-8")
    bundle = scratch / "bundle"
    command = hil_command("provision", str(bundle), "--config", str(config))
    with HelperProcess("hil provision", command, scratch / "provision.log") as provision:
        for line in provision.relay(deadline):
            say(line)
    state = scratch / "state"
    command = hil_command(
        "edge", "--bundle", str(bundle), "--state", str(state), "--config", str(config)
    )
    edge = stack.enter_context(HelperProcess("hil edge", command, scratch / "edge.log"))
    return config, [broker, plutos, edge]


def _complaints(run: Run, settings: Settings, comparisons: list[Comparison]) -> list[str]:
    rounds, delivered = (
        settings.run.rounds,
        sum(1 for row in run.rows if row["edge.status"] == "installed"),
    )
    gain = float(run.rows[-1]["edge.gain"]) if run.rows else 0.0
    found = []
    if len(run.rows) != rounds or delivered != rounds:
        found.append(f"{delivered} of {rounds} updates installed")
    if gain <= 0:
        found.append(f"the last round's gain is {gain:+.3f}")
    # by elapsed time it hangs on what else this machine does: for people, not for an exit code
    poor = [str(c.round_id) for c in comparisons if c.airtime_ratio < MIN_RATIO]
    if poor:
        found.append(f"goodput below {MIN_RATIO:g} of the loopback's in round {', '.join(poor)}")
    return found


def table_of(demo: Demo) -> TextTable:
    """Goodput of each round over the radios beside the loopback's."""
    rows = [
        (
            str(c.round_id),
            f"{c.payload_bytes / 1e3:.1f}",
            f"{c.snr_db:.1f}",
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
        title="Goodput in Mbit/s over the radios, and over the loopback at the same SNR",
        heads=(
            "round",
            "payload kB",
            "SNR dB",
            "by airtime",
            "loop-back",
            "ratio",
            "by elapsed time",
            "loop-back",
            "ratio",
        ),
        rows=rows,
        notes=("SNR is Es/N0 per used subcarrier, as the receiver measured it.",),
    )
