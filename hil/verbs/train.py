"""`hil train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hil.verbs.console.options import (
    CONTROLLER_CONFIG,
    QUICK_STREAMS,
    ConfigOption,
    QuickOption,
    SetOption,
    WorkersOption,
    read_settings,
)

_QUICK_STEPS = 2_000

_LearnersArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[LEARNER]...",
        help="ours, ppo, airllm or airllm-published; all of them if none is named.",
    ),
]
_OutOption = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Where results go; work that was begun there goes on."),
]
_StepsOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Environment steps; else as each learner needs."),
]
_SeedsOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Seeds of each learner; else streams.seeds."),
]


def train(
    learners: _LearnersArgument = None,
    config: ConfigOption = CONTROLLER_CONFIG,
    sets: SetOption = None,
    out: _OutOption = Path("runs/train"),
    steps: _StepsOption = None,
    seeds: _SeedsOption = None,
    workers: WorkersOption = 0,
    quick: QuickOption = False,
) -> None:
    """Train the controllers that learn.

    First fine-tunes streams of text once and keeps them, then trains each learner on them. The
    best weights of each are written to DIR/LEARNER.safetensors. Hours in full; minutes with
    --quick.

    Exit codes: 0 fine; 1 a bug; 2 the configuration is broken; 130 interrupted (start again with
    the same DIR to go on).
    """
    settings = read_settings(config, [*(sets or []), *(QUICK_STREAMS if quick else ())])
    from hil.verbs.console.terminal import Screen

    screen = Screen()
    screen.wait("loading PyTorch and transformers ...")
    from hil.learning.learners import kinds_of
    from hil.learning.train import chosen_entries
    from hil.learning.train import train as train_learners

    kinds = kinds_of(learners or [])
    with screen.at_work("training the first stream or learner") as bar:
        entries = train_learners(
            settings,
            kinds,
            out,
            steps=min(steps or _QUICK_STEPS, _QUICK_STEPS) if quick else steps,
            seeds=1 if quick else seeds or settings.streams.seeds,
            workers=workers,
            on_progress=bar.count,
        )
    chosen_of = chosen_entries(entries)
    for kind in kinds:
        chosen = chosen_of[kind]
        screen.file(kind, out / f"{kind}.safetensors")
        screen.say(
            f"  seed {chosen['seed']} at step {chosen['step']}: excess {-chosen['reward']:.4f} "
            f"nats at {chosen['mbit']:.3f} Mbit a round"
        )
