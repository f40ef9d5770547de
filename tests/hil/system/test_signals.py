"""Signals that end a process in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from hil.system.signals import until_signalled


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Puts back what these tests change."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), until_signalled() as ended:  # noqa: PT012
        assert not ended.is_set()
        signal.raise_signal(number)
        assert ended.is_set()
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(number) == before


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with until_signalled() as ended:
        signal.raise_signal(signal.SIGHUP)
        assert not ended.is_set()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
