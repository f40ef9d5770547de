"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.radio.emulator.pyadi_client import let_contexts_go


@pytest.fixture(scope="module")
def contexts_go_last() -> Iterator[None]:
    """A buffer that some traceback holds on to must not outlive its context."""
    yield
    let_contexts_go()
