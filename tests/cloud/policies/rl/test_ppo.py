"""PPO against Stable-Baselines3 (advantages, losses, gradient steps, learnt returns), known optima,
and resumption."""

import json
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from safetensors.torch import load, save
from scipy import integrate, stats

from cloud.policies.rl.ppo import Ppo, PpoSettings, ppo_loss
from cloud.policies.rl.rollout import Act, RewardScale, Rollout, gae, learn, to_box
from hil.contract import ModelError
from tests.cloud.adam import adam_moves

D, A = 3, 2
"""Entries of observation and action where a test needs no particular ones."""


def _sb3() -> Any:
    return pytest.importorskip(
        "stable_baselines3", reason="stable-baselines3 is the independent implementation"
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _random_rollout(
    agent: Ppo, rng: np.random.Generator, t: int, n: int
) -> tuple[Rollout, NDArray[np.float32]]:
    """Observations and rewards at random, episodes that end, some of them truncated; and the
    bootstraps [T, N]."""
    rollout, bootstraps = Rollout(), np.zeros((t, n), np.float32)
    for i in range(t):
        observation = rng.normal(size=(n, D)).astype(np.float32)
        done = rng.random(n) < 0.2
        bootstraps[i] = np.where(done & (rng.random(n) < 0.5), rng.normal(size=n), 0.0)
        rollout.add(
            observation, agent.act(observation), rng.normal(size=n), done, bootstrap=bootstraps[i]
        )
    rollout.last_value = rng.normal(size=n).astype(np.float32)
    return rollout, bootstraps


def test_steps_are_those_of_adam_as_sb3_sets_it_up() -> None:
    settings = PpoSettings(update_epochs=6, minibatches=1, learning_rate=1e-3)
    agent = Ppo(D, A, settings, seed=0)
    rollout, _ = _random_rollout(agent, np.random.default_rng(0), 12, 4)
    parameter = agent.model.log_std
    before, gradients = parameter.detach().double().numpy().copy(), []
    agent.optimiser.register_step_pre_hook(
        lambda *_: gradients.append(parameter.grad.double().numpy().copy())
    )
    agent.update(rollout)
    assert len(gradients) == 6
    moves = adam_moves(gradients, [1e-3] * 6, (0.9, 0.999), 1e-5)
    np.testing.assert_allclose(parameter.detach().numpy() - before, moves, rtol=1e-3, atol=1e-6)


# --------------------------------------------------------------------- against Stable-Baselines3


@pytest.mark.parametrize("seed", range(3))
def test_advantages_are_those_of_sb3(seed: int) -> None:
    _sb3()
    from stable_baselines3.common.buffers import RolloutBuffer

    rng = np.random.default_rng(seed)
    t, n = 40, 6
    rewards, values = (rng.normal(size=(t, n)).astype(np.float32) for _ in range(2))
    dones, truncated = rng.random((t, n)) < 0.2, rng.random((t, n)) < 0.5
    ends = np.where(dones & truncated, rng.normal(size=(t, n)), 0.0).astype(np.float32)
    last = rng.normal(size=n).astype(np.float32)
    buffer = RolloutBuffer(
        t, Box(-1, 1, (1,)), Box(-1, 1, (1,)), "cpu", gae_lambda=0.9, gamma=0.97, n_envs=n
    )
    starts = np.zeros(n)
    for i in range(t):
        # Stable-Baselines3 adds the value of a truncated episode's end to its last reward.
        reward = rewards[i] + 0.97 * ends[i]
        value = torch.from_numpy(values[i])
        buffer.add(np.zeros((n, 1)), np.zeros((n, 1)), reward, starts, value, torch.zeros(n))
        starts = dones[i]
    buffer.compute_returns_and_advantage(torch.from_numpy(last), dones[-1])
    advantages, returns = gae(
        rewards, values, dones, last, gamma=0.97, gae_lambda=0.9, bootstrap=ends
    )
    np.testing.assert_allclose(
        advantages, buffer.advantages, rtol=0, atol=1e-6 * np.abs(buffer.advantages).max()
    )
    np.testing.assert_allclose(
        returns, buffer.returns, rtol=0, atol=1e-6 * np.abs(buffer.returns).max()
    )


def _sb3_twin(agent: Ppo, env: Any, *, n_steps: int, batch: int) -> Any:
    """Stable-Baselines3's PPO with our agent's network, weights and settings."""
    sb3 = _sb3()
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    widths, size = agent.settings.hidden, agent.observation_size

    class Trunk(BaseFeaturesExtractor):
        def __init__(self, space: Box) -> None:
            super().__init__(space, widths[-1])
            layers: list[torch.nn.Module] = []
            for inputs, outputs in zip((size, *widths[:-1]), widths, strict=True):
                layers += [
                    torch.nn.Linear(inputs, outputs),
                    torch.nn.LayerNorm(outputs),
                    torch.nn.Mish(),
                ]
            self.layers = torch.nn.Sequential(*layers)

        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return self.layers(observation)  # type: ignore[no-any-return]

    s = agent.settings
    twin = sb3.PPO(
        "MlpPolicy",
        env,
        learning_rate=s.learning_rate,
        n_steps=n_steps,
        batch_size=batch,
        n_epochs=s.update_epochs,
        gamma=s.gamma,
        gae_lambda=s.gae_lambda,
        clip_range=s.clip_coef,
        ent_coef=s.ent_coef,
        vf_coef=s.vf_coef,
        max_grad_norm=s.max_grad_norm,
        policy_kwargs={
            "net_arch": [],
            "features_extractor_class": Trunk,
            "share_features_extractor": False,
        },
        seed=0,
        device="cpu",
    )
    twin.set_logger(Logger(folder=None, output_formats=[]))
    for (_, theirs), (_, ours) in zip(_weights(twin.policy), _weights(agent.model), strict=True):
        theirs.data.copy_(ours.data)
    return twin


def _weights(network: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters in one order for both: standard deviation, actor, critic; the name is ours or
    theirs."""
    named = dict(network.named_parameters())
    groups = (
        ("log_std",),
        ("actor", "features_extractor", "pi_features_extractor"),
        ("action_net",),
        ("critic", "vf_features_extractor"),
        ("value_net",),
    )
    return [(name, p) for group in groups for name, p in named.items() if name.startswith(group)]


class _Silent(gym.Env[Any, Any]):
    """Spaces only."""

    observation_space = Box(-10, 10, (D,))
    action_space = Box(-1, 1, (A,))


@pytest.mark.parametrize("epochs", [1, 3])
def test_losses_and_gradient_steps_are_those_of_sb3(epochs: int) -> None:
    t, n = 16, 4
    settings = PpoSettings(
        hidden=(16, 8),
        squash="none",
        norm_reward=False,
        update_epochs=epochs,
        minibatches=1,
        ent_coef=0.01,
    )
    agent = Ppo(D, A, settings, seed=1)
    rollout, bootstraps = _random_rollout(agent, np.random.default_rng(2), t, n)
    twin = _sb3_twin(agent, _vec_env(_Silent, n), n_steps=t, batch=t * n)
    # Moved away from the policy that acted, so that ratios differ from 1 and some are clipped.
    with torch.no_grad():
        agent.model.actor[-1].bias += 0.2
        twin.policy.action_net.bias += 0.2
    buffer, starts = twin.rollout_buffer, np.ones(n)
    for i in range(t):
        buffer.add(
            rollout.column("observations")[i],
            rollout.column("latents")[i],
            rollout.column("rewards")[i] + settings.gamma * bootstraps[i],
            starts,
            torch.from_numpy(rollout.column("values")[i]),
            torch.from_numpy(rollout.column("log_probs")[i]),
        )
        starts = rollout.column("dones")[i]
    assert rollout.last_value is not None
    buffer.compute_returns_and_advantage(torch.from_numpy(rollout.last_value), starts)
    twin.train()
    logged, ours = twin.logger.name_to_value, agent.update(rollout)
    assert ours["policy_loss"] == pytest.approx(logged["train/policy_gradient_loss"], abs=1e-5)
    assert ours["value_loss"] == pytest.approx(logged["train/value_loss"], rel=1e-5)
    assert -ours["entropy"] == pytest.approx(logged["train/entropy_loss"], rel=1e-5)
    assert ours["clip_fraction"] == pytest.approx(logged["train/clip_fraction"], abs=1e-6)
    assert ours["clip_fraction"] > 0.05
    assert ours["explained_variance"] == pytest.approx(logged["train/explained_variance"], abs=1e-5)
    if epochs == 1:
        assert ours["approx_kl"] == pytest.approx(logged["train/approx_kl"], abs=1e-6)
    for (name, w), (_, theirs) in zip(_weights(agent.model), _weights(twin.policy), strict=True):
        torch.testing.assert_close(
            w, theirs, rtol=0, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_the_density_of_a_tanh_gaussian_is_that_of_sb3_and_torch() -> None:
    _sb3()
    from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

    agent = Ppo(D, A, PpoSettings(squash="tanh"), seed=0)
    mean, latent = (torch.randn(50, A, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    with torch.no_grad():
        agent.model.log_std.copy_(torch.tensor([-0.7, 0.2]))
        ours, action = agent.model.log_prob(mean, latent), agent.model.action(latent)
        theirs = SquashedDiagGaussianDistribution(A).proba_distribution(mean, agent.model.log_std)
        # They add 1e-6 under the logarithm.
        torch.testing.assert_close(ours, theirs.log_prob(action, latent), rtol=0, atol=1e-3)
        normal = torch.distributions.Normal(mean.double(), agent.model.log_std.double().exp())
        squashed = torch.distributions.TransformedDistribution(
            normal, [torch.distributions.TanhTransform()]
        )
        expected = squashed.log_prob(latent.double().tanh()).sum(-1).float()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    far = agent.model.log_prob(torch.full((1, A), 30.0), torch.full((1, A), 30.0))
    assert torch.isfinite(far).all()


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -2.0), (0.4, -0.5), (-1.5, 0.0), (2.5, 0.4)])
def test_the_entropy_of_a_tanh_gaussian_is_the_integral(mean: float, log_std: float) -> None:
    agent = Ppo(D, 1, PpoSettings(log_std=log_std), seed=0)
    normal = stats.norm(mean, math.exp(log_std))

    def integrand(u: float) -> float:
        density = normal.pdf(u)
        return -float(density * (normal.logpdf(u) - 2 * math.log(1 / math.cosh(u))))

    std = math.exp(log_std)
    expected, _ = integrate.quad(integrand, mean - 9 * std, mean + 9 * std, epsabs=1e-9, limit=200)
    assert agent.model.entropy(torch.tensor([[mean]])).item() == pytest.approx(expected, abs=1e-3)


def test_the_reward_scale_is_that_of_sb3() -> None:
    _sb3()
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    rng = np.random.default_rng(0)
    t, n, gamma = 300, 4, 0.9
    rewards, dones = rng.normal(2.0, 3.0, (t, n)).astype(np.float32), rng.random((t, n)) < 0.1

    class Scripted(gym.Env[Any, Any]):
        observation_space = Box(-1, 1, (1,))
        action_space = Box(-1, 1, (1,))

        def __init__(self, i: int) -> None:
            self.i, self.t = i, 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            reward, done = float(rewards[self.t, self.i]), bool(dones[self.t, self.i])
            self.t += 1
            return np.zeros(1, np.float32), reward, done, False, {}

    theirs = VecNormalize(
        DummyVecEnv([lambda i=i: Scripted(i) for i in range(n)]), norm_obs=False, gamma=gamma
    )
    theirs.reset()
    for _ in range(t):
        theirs.step(np.zeros((n, 1)))
    ours, valid = RewardScale(gamma), np.ones((t // 3, n), bool)
    for part in range(3):
        rows = slice(part * t // 3, (part + 1) * t // 3)
        scaled = ours(rewards[rows], dones[rows], valid)
    # Theirs starts from a pseudo-count of 1e-4.
    assert ours.variance == pytest.approx(float(theirs.ret_rms.var), rel=1e-4)
    np.testing.assert_allclose(scaled[-1], theirs.normalize_reward(rewards[-1]), rtol=1e-4)


# ----------------------------------------------------------------------------- what is learnt


class _Bandit(gym.Env[Any, Any]):
    """One step: the best action is linear in what is seen; the optimum is 0."""

    observation_space = Box(-1, 1, (2,))
    action_space = Box(-1, 1, (2,))
    optimum = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.seen, {}

    def step(self, action: Any) -> Any:
        x, y = self.seen
        best = np.array([0.5 * x - 0.2 * y + 0.2, 0.6 * y - 0.1])
        return self.seen, -float(np.square(action - best).sum()), True, False, {}


class _PointMass(gym.Env[Any, Any]):
    """Bring a mass on a line to rest at 0 within 20 steps, at quadratic cost; the force is limited
    but suffices."""

    steps = 20
    observation_space = Box(-20, 20, (3,))
    action_space = Box(-2, 2, (1,))
    dynamics = np.array([[1.0, 0.3], [0.0, 1.0]])
    force = np.array([[0.045], [0.3]])
    state_cost = np.diag([1.0, 0.1])
    force_cost = 0.5

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state, self.t = self.np_random.uniform(-1, 1, 2) * (1.0, 0.5), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        cost = self.state @ self.state_cost @ self.state + self.force_cost * float(action[0]) ** 2
        self.state, self.t = (
            self.dynamics @ self.state + self.force[:, 0] * float(action[0]),
            self.t + 1,
        )
        return self._seen(), -cost, self.t == self.steps, False, {}

    def _seen(self) -> NDArray[np.float32]:
        return np.array([*self.state, 2 * self.t / self.steps - 1], np.float32)


def _best_gains() -> list[NDArray[np.float64]]:
    """Optimal feedback of the point mass step by step, by Riccati's recursion."""
    m, gains = _PointMass, []
    value = np.zeros((2, 2))
    for _ in range(m.steps):
        gain = (m.force.T @ value @ m.dynamics) / (m.force_cost + m.force.T @ value @ m.force)
        value = m.state_cost + m.dynamics.T @ value @ (m.dynamics - m.force @ gain)
        gains.append(gain[0])
    return gains[::-1]


def _mean_return(
    make: Callable[[], gym.Env[Any, Any]], policy: Callable[[Any], Any], episodes: int = 50
) -> float:
    """Over the same episodes for every policy, side by side; all of them are equally long."""
    envs, total = [make() for _ in range(episodes)], 0.0
    seen = [env.reset(seed=10_000 + i)[0] for i, env in enumerate(envs)]
    done = False
    while not done:
        results = [
            env.step(action) for env, action in zip(envs, policy(np.stack(seen)), strict=True)
        ]
        seen, done = [r[0] for r in results], all(r[2] for r in results)
        total += sum(float(r[1]) for r in results)
    return total / episodes


SEEDS = range(5)
ENVS = 32


def _vec_env(make: Callable[[], gym.Env[Any, Any]], n: int) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([make] * n)


def _ours(make: Any, settings: PpoSettings, steps: int, seed: int) -> float:
    venv = SyncVectorEnv([make] * ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = Ppo(*make.observation_space.shape, *make.action_space.shape, settings, seed=seed)
    learn(agent, venv, steps, seed=1000 * seed)
    return _mean_return(
        make, lambda o: to_box(agent.act(o, deterministic=True).action, make.action_space)
    )


def _theirs(make: Any, settings: PpoSettings, steps: int, seed: int) -> float:
    """The same first weights, but other noise; returns in the environment's own scale of
    actions."""
    box = make.action_space

    def scaled() -> gym.Env[Any, Any]:
        return gym.wrappers.RescaleAction(make(), np.float32(-1.0), np.float32(1.0))

    agent = Ppo(*make.observation_space.shape, *box.shape, settings, seed=100 + seed)
    batch = ENVS * settings.n_steps // settings.minibatches
    twin = _sb3_twin(agent, _vec_env(scaled, ENVS), n_steps=settings.n_steps, batch=batch)
    twin.set_random_seed(seed)
    twin.learn(steps)
    return _mean_return(scaled, lambda o: twin.predict(o, deterministic=True)[0])


LEARN: dict[Any, tuple[int, PpoSettings]] = {
    _Bandit: (
        4096,
        PpoSettings(hidden=(32,), n_steps=8, learning_rate=3e-3, norm_reward=False, ent_coef=0.0),
    ),
    _PointMass: (
        8960,
        PpoSettings(
            hidden=(32, 32), n_steps=20, learning_rate=3e-3, norm_reward=False, ent_coef=0.0
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", LEARN)
def test_returns_after_learning_are_those_of_sb3(make: Any) -> None:
    """Same network, settings and steps: the means over five seeds differ by no more than their 99 %
    interval."""
    _sb3()
    steps, settings = LEARN[make]
    settings = PpoSettings(**{**_fields(settings), "squash": "none"})
    ours, theirs = ([f(make, settings, steps, seed) for seed in SEEDS] for f in (_ours, _theirs))
    spread = math.sqrt((np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / len(SEEDS))
    assert abs(np.mean(ours) - np.mean(theirs)) < stats.t.ppf(0.995, 2 * len(SEEDS) - 2) * spread
    if make is _Bandit:  # doing nothing gives -0.27
        assert min(ours) > -0.015
    else:  # doing nothing gives -24.2
        gains = _best_gains()
        best = _mean_return(
            make, lambda o: -o[:, :2] @ gains[round((o[0, 2] + 1) * make.steps / 2)][:, None]
        )
        assert best == pytest.approx(-1.630, abs=0.001)
        # how near a seed comes hangs on the processor's rounding: 1.20 and 1.28 times the best were
        # seen as the worst
        assert 1.5 * best < min(ours) <= max(ours) < best


@pytest.mark.slow
def test_tanh_finds_the_bandit_s_optimum() -> None:
    steps, settings = LEARN[_Bandit]
    assert min(_ours(_Bandit, settings, steps, seed) for seed in SEEDS[:2]) > -0.015


def _fields(settings: PpoSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in PpoSettings.__dataclass_fields__}


def test_the_unit_of_rewards_does_not_matter_when_they_are_scaled() -> None:
    ends = []
    for unit in (1.0, 1000.0):
        agent = Ppo(D, A, PpoSettings(norm_reward=True), seed=0)
        rollout, rng = Rollout(), np.random.default_rng(1)
        for _ in range(20):
            seen = rng.normal(size=(4, D)).astype(np.float32)
            rollout.add(seen, agent.act(seen), unit * rng.normal(size=4), np.ones(4, bool))
        agent.update(rollout)
        ends.append(agent.model.actor[-1].weight.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6)


# -------------------------------------------------------------------------------------- the agent


def test_a_resumed_agent_goes_on_bit_by_bit() -> None:
    first = Ppo(D, A, PpoSettings(hidden=(16,)), seed=3)
    first.update(_random_rollout(first, np.random.default_rng(1), 12, 4)[0])
    stored = load(save(first.state_dict()))
    second = Ppo.described(json.loads(json.dumps(first.description())))
    second.load_state_dict(stored)
    assert second.settings == first.settings
    for agent in (first, second):
        agent.update(_random_rollout(agent, np.random.default_rng(2), 12, 4)[0])
    ends = (first.state_dict(), second.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    # What was stored is a copy: learning on has not touched it.
    assert not torch.equal(stored["model.log_std"], first.model.log_std)


def test_a_seed_alone_decides_and_torch_s_own_generator_is_left_alone() -> None:
    state, seen = torch.get_rng_state(), np.zeros((5, D), np.float32)
    acts = []
    for seed in (1, 1, 2):
        agent = Ppo(D, A, seed=seed)
        agent.update(_random_rollout(agent, np.random.default_rng(0), 8, 2)[0])
        acts.append(agent.act(seen).latent)
    assert np.array_equal(acts[0], acts[1])
    assert not np.array_equal(acts[0], acts[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("squash", ["tanh", "none"])
def test_acting_without_exploration_is_the_mean_and_draws_nothing(squash: str) -> None:
    agent = Ppo(D, A, PpoSettings(squash=squash, log_std=0.5), seed=0)  # type: ignore[arg-type]
    seen = np.random.default_rng(0).normal(size=(400, D)).astype(np.float32)
    before = agent.generator.get_state()
    act = agent.act(seen, deterministic=True)
    assert torch.equal(agent.generator.get_state(), before)
    with torch.no_grad():
        np.testing.assert_array_equal(
            act.action, agent.model.action(agent.model.mean(torch.from_numpy(seen))).numpy()
        )
    drawn = agent.act(seen)
    assert np.abs(drawn.action).max() <= 1.0
    assert np.abs(drawn.latent).max() > 1.5
    assert (drawn.latent - act.latent).std() == pytest.approx(math.exp(0.5), rel=0.1)


def test_an_open_episode_without_its_last_value_is_refused() -> None:
    rollout = Rollout()
    nothing = np.zeros((1, A), np.float32), np.zeros(1, np.float32)
    act = Act(nothing[0], nothing[0], nothing[1], nothing[1])
    rollout.add(np.zeros((1, D), np.float32), act, np.zeros(1), np.array([False]))
    with pytest.raises(ValueError, match="last_value"):
        Ppo(D, A, seed=0).update(rollout)


def test_weights_of_another_size_are_refused() -> None:
    with pytest.raises(ModelError, match="does not belong"):
        Ppo(D, A, seed=0).load_state_dict(Ppo(D + 1, A, seed=0).state_dict())


def test_a_single_step_is_learnt_from_without_nan() -> None:
    """One advantage has no deviation to be divided by."""
    one = torch.ones(1)
    loss = ppo_loss(
        one.log(),
        one,
        one,
        old_log_prob=one.log(),
        advantages=3 * one,
        returns=2 * one,
        settings=PpoSettings(),
    )
    assert loss.policy.item() == -3.0
    assert loss.value.item() == 1.0
