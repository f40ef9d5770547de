"""The command line: hil VERB. A verb's package is imported when the verb runs."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer

from hil.contract import HilError
from hil.verbs import bench, controller, loop, radio

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for verbs in (loop, radio, controller):
    app.add_typer(verbs.app)
app.add_typer(bench.app, name="bench")


@app.callback()
def _hil() -> None:
    """Testbed for communication-aware remote fine-tuning: cloud, radio and a quantised edge model
    in one loop."""


def main() -> None:
    """Entry point: a HilError is one line and exit code 2."""
    # Both end a run in order, also where a script's "&" made the shell ignore the first for us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=True)
    except HilError as error:
        print(f"hil: {error}", file=sys.stderr)
        sys.exit(2)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
