"""Streams are trained in seconds here: their plans are tried on few examples."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def few_trial_examples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloud.finetuning.trial.TRIAL_EXAMPLES", 12)
        yield
