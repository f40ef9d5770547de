"""pyadi-iio's Pluto as a client of emulated ones."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from typing import Any

from radio.emulator import EmulatedPlutos

_CONTEXTS: list[object] = []


@contextlib.contextmanager
def pyadi_client(plutos: EmulatedPlutos, node: int = 0) -> Iterator[Any]:
    """A client of one node; its buffers are gone at the end, its context only with
    let_contexts_go()."""
    sdr = importlib.import_module("adi").Pluto(plutos.uris[node])
    _CONTEXTS.append(sdr.ctx)
    try:
        yield sdr
    finally:
        sdr.rx_destroy_buffer()
        sdr.tx_destroy_buffer()


def let_contexts_go() -> None:
    """Drop the contexts of all clients, buffers first: one that outlives its context makes libiio
    end the process."""
    gc.collect()
    _CONTEXTS.clear()
