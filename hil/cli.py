"""The command line: hil VERB.

The first line is printed before anything large is imported, so only the standard library and files
that import nothing else may stand above main().
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Final

from hil import __version__
from hil.verbs.console.signs import mend_streams

if TYPE_CHECKING:
    import typer

BEGINNINGS: Final = {
    "run": "reading the configuration, opening the bench",
    "check": "looking at everything that a run needs",
    "init": "writing hil.toml",
    "report": "reading runs",
    "export": "reading the run",
    "send": "reading the configuration and the adapter",
    "cloud": "reading the configuration, opening the radio",
    "edge": "reading the configuration, opening the radio",
    "provision": "reading the configuration, opening the model",
    "demo-pluto": "starting broker, emulated Plutos, edge and cloud",
    "emulate-pluto": "starting software Plutos",
    "calibrate": "reading the configuration, opening the radios",
    "record": "reading the configuration, opening the radio",
    "replay": "reading the recording",
    "chaos": "starting emulated Plutos",
    "train": "reading the configuration, preparing the streams",
    "eval": "reading the configuration, preparing the streams",
    "bench": "preparing the measurement",
}
"""Verbs in the order of the help, and what each says that it does first."""

_interrupted = False


class Interrupted(KeyboardInterrupt):
    """The verb was interrupted.

    A class of its own, because Python kills itself by SIGINT at its end, whatever the exit code, if
    a plain KeyboardInterrupt ever went through code that was compiled from a string.
    """


def app() -> typer.Typer:
    """Every verb under its name."""
    import typer

    from hil.verbs import bench
    from hil.verbs.calibrate import calibrate
    from hil.verbs.chaos import chaos
    from hil.verbs.check import check
    from hil.verbs.cloud import cloud
    from hil.verbs.demo_pluto import demo_pluto
    from hil.verbs.edge import edge
    from hil.verbs.emulate_pluto import emulate_pluto
    from hil.verbs.evaluate import evaluate
    from hil.verbs.export import export
    from hil.verbs.init import init
    from hil.verbs.provision import provision
    from hil.verbs.record import record
    from hil.verbs.replay import replay
    from hil.verbs.report import report
    from hil.verbs.run import run
    from hil.verbs.send import send
    from hil.verbs.train import train

    # Plain help: quick to show, and readable on every console.
    verbs = typer.Typer(
        name="hil",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Fine-tune a language model remotely, over a radio, with the radio in the loop: a "
        "cloud trains, the update crosses the air, a quantised model on an edge device installs "
        "it. `hil run` shows it. `hil VERB --help` is the manual of a verb.",
        epilog="Exit codes: 0 fine; 1 a bug; 2 bench or configuration broken; 3 a requirement "
        "missed; 130 interrupted. `hil --version` prints the version.",
    )
    functions: tuple[Callable[..., None], ...] = (
        *(run, check, init, report, export, send, cloud, edge, provision),
        *(demo_pluto, emulate_pluto, calibrate, record, replay, chaos, train),
    )
    for function in functions:
        verbs.command()(function)
    verbs.command("eval")(evaluate)
    verbs.add_typer(bench.app, name="bench")
    return verbs


def main() -> None:
    """Run a verb, and end with its exit code; whatever goes wrong is one line on stderr."""
    global _interrupted
    _interrupted = False
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A script's "&" makes the shell ignore SIGINT for us, and nohup SIGHUP: only the second is
        # what the user wants.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    mend_streams()
    sys.exit(_exit_code(sys.argv[1:]))


def _exit_code(arguments: list[str]) -> int:
    try:
        return _ended(arguments)
    except BaseException as error:
        if _interrupted or isinstance(error, KeyboardInterrupt):
            # An import that was interrupted may end in any exception.
            return _said_interrupted()
        return _failed(error)


def _ended(arguments: list[str]) -> int:
    """The exit code of a verb that came to its end."""
    if not arguments:
        arguments = ["--help"]
    if arguments == ["--version"]:
        print(f"hil-lora-testbed {__version__}")
        return 0
    first = BEGINNINGS.get(arguments[0])
    if first and not {"--help", "--show-completion"}.intersection(arguments):
        print(f"hil {arguments[0]}: {first} ...", file=sys.stderr, flush=True)
    from typer.main import get_command

    code = get_command(app()).main(arguments, prog_name="hil", standalone_mode=False)
    return _said_interrupted() if code == 130 else int(code or 0)


def _failed(error: BaseException) -> int:
    """The exit code of a verb that ended with an exception, which is printed as one line."""
    gone = isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)
    if isinstance(error, SystemExit) and not gone:
        return error.code if isinstance(error.code, int) else 1
    if gone:
        # The reader of our output has gone; nothing may be printed at the end either.
        _silence()
        return 128 + signal.SIGPIPE
    from hil.verbs.console.endings import BENCH, BUG, bench_line, bug_line, complain

    if (line := bench_line(error)) is not None:
        complain(line)
        return BENCH
    show = getattr(error, "format_message", None)
    if show is not None:  # the words of the command line itself
        complain(f"{show()} (hil --help lists the verbs, hil VERB --help its options)")
        return BENCH
    complain(bug_line(error))
    return BUG


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End in order: KeyboardInterrupt goes through everything that is open."""
    global _interrupted
    if number == signal.SIGHUP:
        _silence()  # the terminal is gone
    _interrupted = True
    raise Interrupted


def _silence() -> None:
    import os

    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _said_interrupted() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to be interrupted
    print("hil: interrupted", file=sys.stderr)
    return 130


if __name__ == "__main__":
    main()
