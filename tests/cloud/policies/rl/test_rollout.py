"""PPO on Gymnasium's vector environments: what is learnt from, once each, and what does not fit."""

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from cloud.policies.rl.ppo import Ppo, PpoSettings
from cloud.policies.rl.rollout import Rollout, learn, to_box
from hil.contract import ConfigError


class _Counting(gym.Env[Any, Any]):
    """Shows (episode, step) whatever is done; even episodes are truncated after 2 steps, odd ones
    end after 3."""

    observation_space = Box(-1, 100, (2,))
    action_space = Box(np.array([0.0, -1.0], np.float32), np.array([4.0, 1.0], np.float32))
    acted: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.t += 1
        odd = self.episode % 2
        return (
            self._seen(),
            10.0 * self.episode + self.t,
            bool(odd and self.t == 3),
            bool(not odd and self.t == 2),
            {},
        )

    def _seen(self) -> NDArray[np.float32]:
        return np.array([self.episode, self.t], np.float32)


class _Watching(Ppo):
    """Keeps its rollouts instead of learning from them."""

    rollouts: list[Rollout]

    def update(self, rollout: Rollout) -> dict[str, float]:
        self.rollouts = [*getattr(self, "rollouts", []), rollout]
        return {}


@pytest.mark.parametrize(
    ("mode", "n_steps"), [(AutoresetMode.NEXT_STEP, 7), (AutoresetMode.SAME_STEP, 5)]
)
def test_each_step_is_learnt_from_once_and_resets_are_not(
    mode: AutoresetMode, n_steps: int
) -> None:
    """Two episodes: 5 steps; with a reset of its own each, 7."""
    agent = _Watching(2, 2, PpoSettings(n_steps=n_steps), seed=0)
    history = learn(agent, SyncVectorEnv([_Counting] * 3, autoreset_mode=mode), 30, seed=0)
    first, second = agent.rollouts
    for number, rollout in enumerate((first, second)):
        valid = rollout.column("valid")[:, 0]
        rows = {
            name: rollout.column(name)[valid, 0]
            for name in ("observations", "rewards", "dones", "bootstraps")
        }
        e = 2 * number
        assert rows["observations"].tolist() == [[e, 0], [e, 1], [e + 1, 0], [e + 1, 1], [e + 1, 2]]
        assert rows["rewards"].tolist() == [
            10 * e + 1,
            10 * e + 2,
            10 * e + 11,
            10 * e + 12,
            10 * e + 13,
        ]
        assert rows["dones"].tolist() == [False, True, False, False, True]
        cut = agent.value(np.array([[e, 2]], np.float32))[0]
        np.testing.assert_allclose(rows["bootstraps"], [0, cut, 0, 0, 0], rtol=1e-5)
    assert [entry["step"] for entry in history] == [15, 30]
    assert [entry["episodes"] for entry in history] == [6, 6]
    assert history[0]["episode_return"] == (1 + 2 + 11 + 12 + 13) / 2
    assert history[0]["episode_length"] == 2.5
    # An update takes in the valid rows alone.
    batch, _ = agent._batch(first)
    assert len(batch["returns"]) == 15


def test_an_episode_goes_on_into_the_next_rollout() -> None:
    agent = _Watching(2, 2, PpoSettings(n_steps=1), seed=0)
    history = learn(
        agent, SyncVectorEnv([_Counting], autoreset_mode=AutoresetMode.SAME_STEP), 2, seed=0
    )
    assert math.isnan(history[0]["episode_return"])
    assert history[1]["episode_return"] == 3.0
    following = agent.rollouts[0].last_value
    assert following is not None
    np.testing.assert_allclose(following, agent.value(np.array([[0, 1]], np.float32)), rtol=1e-6)


def test_actions_fill_the_box() -> None:
    box = Box(np.array([[0.0], [-1.0]], np.float32), np.array([[4.0], [1.0]], np.float32))
    corners = to_box(np.array([[-1, -1], [1, 1], [0, 0.5]], np.float32), box)
    assert corners.tolist() == [[[0.0], [-1.0]], [[4.0], [1.0]], [[2.0], [0.5]]]
    assert corners.dtype == np.float32


@pytest.mark.parametrize(
    ("space", "mode", "words"),
    [
        (Discrete(3), AutoresetMode.NEXT_STEP, "finite bounds"),
        (Box(-np.inf, 1, (1,)), AutoresetMode.NEXT_STEP, "finite bounds"),
        (Box(-1, 1, (1,)), AutoresetMode.DISABLED, "DISABLED"),
    ],
)
def test_environments_that_do_not_fit_are_refused(
    space: Any, mode: AutoresetMode, words: str
) -> None:
    class Odd(_Counting):
        action_space = space

    with pytest.raises(ConfigError, match=words):
        learn(Ppo(2, 1, seed=0), SyncVectorEnv([Odd], autoreset_mode=mode), 1)
