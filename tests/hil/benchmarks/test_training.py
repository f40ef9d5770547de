"""The bench of a training step."""

from pathlib import Path

import psutil
import pytest

from hil.benchmarks import training
from hil.settings import load_settings


@pytest.mark.slow
def test_steps_are_timed_in_every_company_and_the_company_is_sent_home(
    small_overrides, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "STEPS", 3)
    company = []
    others = set(psutil.Process().children())

    def progress(done, total, what):
        company.append((done, total, what))
        if done:  # what the figure before was measured beside has ended
            assert set(psutil.Process().children()) <= others

    figures = training.bench(load_settings(Path("hil.toml"), small_overrides(tmp_path)), progress)
    assert company[0] == (0, 3, "beside 0 busy processes")
    assert company[-1] == (3, 3, "done")
    assert figures["threads"] == 1
    for loops in (0, 1, 4):
        assert figures[f"step_s_beside_{loops}"] > 0
    ratio = figures["step_s_beside_4"] / figures["step_s_beside_0"]
    assert figures["slowdown_beside_4"] == pytest.approx(ratio)


def test_busy_processes_are_busy_and_end_with_the_block():
    others = set(psutil.Process().children())
    with training._busy(2):
        children = set(psutil.Process().children()) - others
        assert len(children) == 2
        assert all(child.is_running() for child in children)
    assert not any(child.is_running() for child in children)


def test_busy_processes_end_when_the_block_fails():
    others = set(psutil.Process().children())
    children = []

    def interrupted():
        with training._busy(1):
            children.extend(set(psutil.Process().children()) - others)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(children) == 1
    assert not children[0].is_running()
