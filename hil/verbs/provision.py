"""`hil provision`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import DEFAULT_CONFIG, ConfigOption, SetOption, read_settings


def provision(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")],
    config: ConfigOption = DEFAULT_CONFIG,
    sets: SetOption = None,
) -> None:
    """Write everything that an edge device needs into one folder.

    The folder holds the quantised base model (GGUF), the questions and texts that updates are
    scored on, and a small text that every update is tried on first. Copy it to the edge, then
    start `hil edge --bundle DIR` there.

    Exit codes: 0 fine; 1 a bug; 2 the configuration or the model is broken; 130 interrupted.
    """
    settings = read_settings(config, sets)
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    screen.wait("loading PyTorch and transformers ...")
    from hil.loop.provision import provision as write

    with screen.waits_shown():
        bundle = write(settings, folder)
    screen.file("bundle", bundle.folder)
    screen.say(
        f"base model {bundle.model.spec.identity[:12]}, {bundle.quant}: {bundle.model.types}"
    )
    for name, score_set in bundle.score_sets.items():
        questions, texts = len(score_set.questions), len(score_set.chunks)
        screen.say(
            f"score set {name}: {f'{questions} questions' if questions else f'{texts} texts'}"
        )
