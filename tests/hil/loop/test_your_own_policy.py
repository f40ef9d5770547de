"""The code in docs/your-own-policy.md runs as it stands there and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cloud.policies import plan_bits
from cloud.policies.baselines import LargestUniform
from cloud.policies.registry import load_policy_file
from hil.contract import RankPolicy
from hil.learning.runners import RoundResult, SurrogateRunner
from hil.learning.stream_table import synthetic_table
from hil.settings import Settings, parse_settings

DOCUMENT = Path(__file__).parents[3] / "docs" / "your-own-policy.md"


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """Policy in a file, training script, policy around what was trained."""
    found = re.findall(
        r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    assert len(found) == 3
    return found


def _written(folder: Path, code: str, name: str) -> RankPolicy:
    (folder / "policy.py").write_text(code)
    return load_policy_file(f"{folder}/policy.py:{name}")


def _episode(policy: RankPolicy, settings: Settings) -> list[RoundResult]:
    runner = SurrogateRunner([synthetic_table(np.random.default_rng(3), rounds=8)], settings)
    obs, results = runner.reset(0), []
    while obs is not None:
        plan = policy.plan(obs)
        results.append(runner.run(plan))
        assert results[-1].payload_bits == plan_bits(obs, plan)
        obs = runner.observation  # type: ignore[assignment]
    return results


@pytest.mark.parametrize("scope", ["round", "episode"])
def test_the_thrifty_policy_is_feasible_and_thrifty(
    tmp_path: Path, blocks: list[str], scope: str
) -> None:
    settings = parse_settings(
        {"budget": {"scope": scope}, "radio": {"channel": {"snr_db": 12.0}}, "run": {"rounds": 8}},
        source="test",
    )
    own = _episode(_written(tmp_path, blocks[0], "Thrifty"), settings)
    largest = _episode(LargestUniform(), settings)
    assert all(result.feasible for result in own)
    assert 0 < sum(r.payload_bits for r in own) < sum(r.payload_bits for r in largest)
    assert any(rank == "keep" for r in own for rank in r.ranks.values())

    def cost(results: list[RoundResult]) -> float:
        return sum(r.loss_nats + 0.05e-6 * r.payload_bits for r in results)

    assert cost(own) < cost(largest)


def test_a_tight_budget_is_kept(tmp_path: Path, blocks: list[str]) -> None:
    settings = parse_settings({"radio": {"channel": {"snr_db": -4.0}}}, source="test")
    results = _episode(_written(tmp_path, blocks[0], "Thrifty"), settings)
    assert all(result.feasible for result in results)
    assert max(r.payload_bits / r.budget_bits for r in results) > 0.5  # and used


@pytest.mark.slow
def test_what_stable_baselines_learns_plans_in_the_loop(
    tmp_path: Path,
    blocks: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("stable_baselines3")
    monkeypatch.chdir(tmp_path)
    assert len(blocks[1].strip().splitlines()) <= 20
    exec(compile(blocks[1].replace("20_000", "256"), "script", "exec"), {})  # noqa: S102 - the document's own code
    assert "reward of an episode" in capsys.readouterr().out
    results = _episode(_written(tmp_path, blocks[2], "Learnt"), Settings())
    assert len(results) == 8
    assert all(result.feasible for result in results)
