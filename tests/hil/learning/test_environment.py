"""Gymnasium environments over every runner, and that they charge what the loop charges."""

from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from cloud.model.base_model import open_base_model
from cloud.policies import plan_bits, uniform
from hil import codec
from hil.contract import KEEP, ConfigError, ModelError, RankPlan
from hil.learning.environment import (
    LiveRunner,
    RankEnv,
    RankVectorEnv,
    StreamRunner,
    SurrogateRunner,
    synthetic_tables,
)
from hil.learning.surrogate import synthetic_table
from hil.settings import Settings, load_settings, parse_settings
from radio.link import ModemLink

SHIPPED = Path(__file__).parents[3] / "hil.toml"
AIR = ["budget.scope=episode", "budget.airtime_s=0.2", "radio.channel.snr_db=18"]
KINDS = [
    {},
    {"project": True},
    {"action": "pace", "observation": "pace", "reward": "loss", "nats_per_s": 0.1},
    {"observation": "pace", "reward": "loss"},
]
SCARCE = parse_settings({"budget": {"airtime_s": 0.1, "scope": "episode"}}, source="test")


# ---------------------------------------------------------------------------------------- Gymnasium


@pytest.mark.parametrize("kind", KINDS)
def test_gymnasiums_own_check_has_nothing_to_say(kind):
    check_env(gymnasium.make("hil/Rank-v0", **kind).unwrapped)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_its_environments_give_one_by_one(kind):
    tables = synthetic_tables()[:3]
    batch = RankVectorEnv(4, tables=tables, settings=SCARCE, **kind)
    single = SyncVectorEnv(
        [lambda: RankEnv(tables=tables, settings=SCARCE, **kind)] * 4,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    assert batch.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert (batch.action_space, batch.observation_space) == (
        single.action_space,
        single.observation_space,
    )
    batch.action_space.seed(1)
    one, other = (env.reset(seed=3)[0] for env in (batch, single))
    np.testing.assert_array_equal(one, other)
    for _ in range(20):
        actions = batch.action_space.sample()
        one, other = batch.step(actions), single.step(actions)
        for ours, theirs in zip(one[:4], other[:4], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
        assert _rounded(one[4]) == _rounded(other[4])


def _rounded(info):
    """Nested info as plain, comparable values."""
    if isinstance(info, dict):
        return {key: _rounded(value) for key, value in info.items()}
    return [_rounded(v) if isinstance(v, np.ndarray) else round(float(v), 9) for v in info]


def test_equal_seeds_give_equal_episodes_and_others_do_not():
    def play(seed):
        env = gymnasium.make("hil/Rank-v0", project=True)
        env.action_space.seed(0)
        rows = [env.reset(seed=seed)[0]]
        rows += [np.append(env.step(env.action_space.sample())[0], 0)[:-1] for _ in range(8)]
        return np.stack(rows)

    np.testing.assert_array_equal(play(5), play(5))
    assert (play(5)[0] != play(6)[0]).any()


def test_a_vector_environment_is_made_by_its_name():
    envs = gymnasium.make_vec(
        "hil/Rank-v0", num_envs=6, action="pace", observation="pace", reward="loss"
    )
    assert isinstance(envs.unwrapped, RankVectorEnv)
    first, _ = envs.reset(seed=2)
    again, _ = envs.reset(seed=[2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(first, again)
    assert first.shape == (6, 17)


def test_kinds_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="choose one of ranks, pace"):
        RankEnv(action="power")
    with pytest.raises(ConfigError, match="choose surrogate or live"):
        RankEnv(fidelity="dream")
    with pytest.raises(ConfigError, match="only the surrogate"):
        RankVectorEnv(2, fidelity="live")


# ------------------------------------------------------------------------------ actions and rewards


class Spy(SurrogateRunner):
    """Remembers the plans."""

    def run(self, plan):
        self.plan = plan
        return super().run(plan)


def test_numbers_become_ranks_as_in_the_paper():
    runner = Spy([synthetic_table(np.random.default_rng(0), rounds=2, modules=5, r_max=9)], SCARCE)
    env = RankEnv(runner)
    env.reset(seed=0)
    # floor((x + 1)/2 (9 - 1)) + 1; what lies beyond -1..1 counts as the end
    env.step(np.array([-1.0, -0.74, 0.0, 0.99, 1.7], np.float32))
    assert list(runner.plan.ranks.values()) == [1, 2, 5, 8, 9]


@pytest.mark.parametrize("action", ["ranks", "pace"])
def test_plans_fit_the_budget_where_they_are_made_to(action):
    env = RankEnv(settings=SCARCE, action=action, project=True)
    env.action_space.seed(1)
    env.reset(seed=1)
    for _ in range(8):
        *_, info = env.step(env.action_space.sample())
        assert info["feasible"]


def test_a_larger_share_of_a_pooled_budget_and_cheaper_air_buy_more_bits():
    def bits(settings, share, price):
        env = RankEnv(action="pace", settings=settings)
        env.reset(seed=4)
        return env.step(np.array([share, price], np.float32))[4]["payload_bits"]

    pooled = parse_settings({"budget": {"scope": "episode", "airtime_s": 0.05}}, source="test")
    spent = [bits(pooled, share, -1.0) for share in (-1.0, -0.5, 0.0, 1.0)]
    assert spent[0] < spent[1] < spent[2] < spent[3]
    spent = [bits(Settings(), 0.0, price) for price in (1.0, 0.5, -1.0)]
    assert spent[0] < spent[1] < spent[2]


def test_rewards_are_those_of_the_paper_and_of_the_loss():
    paper, loss = RankEnv(settings=SCARCE), RankEnv(settings=SCARCE, reward="loss", nats_per_s=0.5)
    seen = set()
    for env in (paper, loss):
        env.reset(seed=1)
    for level in (-0.9, 1.0, -0.8, 1.0, 1.0):
        action = np.full(28, level, np.float32)
        _, paid, _, _, info = paper.step(action)
        _, priced, _, _, same = loss.step(action)
        cost = info["payload_bits"] / info["budget_bits"]
        seen.add(info["feasible"])
        assert info["feasible"] == (cost <= 1)
        assert paid == pytest.approx(-info["loss_nats"] - 0.1 * cost if cost <= 1 else -10.1 * cost)
        assert priced == pytest.approx(-same["excess_nats"] - 0.5 * same["airtime_s"])
        assert (same["airtime_s"] > 0) == (cost <= 1)
    assert seen == {True, False}


@pytest.mark.slow
def test_stable_baselines_learns_the_price():
    sb3 = pytest.importorskip("stable_baselines3")
    kind = {"action": "pace", "observation": "pace", "reward": "loss", "nats_per_s": 3.0}

    def reward(agent):
        envs = gymnasium.make_vec("hil/Rank-v0", num_envs=64, **kind)
        state, _ = envs.reset(seed=100)
        total = 0.0
        for _ in range(8):
            state, step, *_ = envs.step(agent.predict(state, deterministic=True)[0])
            total += step.mean()
        return total

    env = gymnasium.make("hil/Rank-v0", **kind)
    agent = sb3.PPO(
        "MlpPolicy", env, n_steps=128, n_epochs=5, learning_rate=5e-3, gamma=0.5, seed=0
    )
    before = reward(agent)
    agent.learn(768)
    assert reward(agent) > before + 0.2 * abs(before)


# ------------------------------------------------------------------------------ real forward passes


def test_streams_are_scored_by_what_the_edge_holds():
    table = synthetic_table(np.random.default_rng(5), rounds=3, modules=3, r_max=4)
    asked = []

    def score(round_id, held_round, held_rank):
        asked.append((round_id, held_round.tolist(), held_rank.tolist()))
        return 0.5 + round_id / 10, 1.5 - round_id / 10

    stream = SimpleNamespace(
        spec=SimpleNamespace(identity="0" * 64, module_shapes=table.module_shapes),
        **{
            name: getattr(table, name)
            for name in table.__slots__
            if name not in ("knots", "overhead_bits")
        },
    )
    rich = parse_settings({"budget": {"airtime_s": 9.0}}, source="test")
    runner = StreamRunner(stream, SimpleNamespace(score=score), rich)
    obs = runner.reset(0)
    modules = list(obs.module_shapes)
    assert obs.kfac.missing_if_kept == {}
    results = [runner.run(RankPlan(ranks=dict(zip(modules, (2, 0, 4), strict=True))))]
    obs = runner.observation
    assert obs.held == {modules[0]: 2, modules[2]: 4}
    assert obs.energy.missing_if_kept[modules[0]] == table.kept_energy[0, 0, 2, 1]
    assert [h.ranks for h in obs.history] == [obs.held]
    results.append(runner.run(RankPlan(ranks=dict(zip(modules, (KEEP, 3, KEEP), strict=True)))))
    results.append(runner.run(RankPlan(ranks=dict.fromkeys(modules, KEEP))))
    assert asked == [
        (0, [0, -1, 0], [2, 0, 4]),
        (1, [0, 1, 0], [2, 3, 4]),
        (2, [0, 1, 0], [2, 3, 4]),
    ]
    assert [(r.score, r.loss_nats) for r in results] == [(0.5, 1.5), (0.6, 1.4), (0.7, 1.3)]
    assert [r.base_loss_nats for r in results] == table.base_losses.tolist()
    assert [r.delivered for r in results] == [True, True, False]
    assert results[2].payload_bits == results[2].airtime_s == 0
    assert runner.observation is None
    with pytest.raises(ConfigError, match="reset"):
        runner.run(RankPlan(ranks=dict.fromkeys(modules, KEEP)))
    runner.reset(0)
    with pytest.raises(ModelError, match="name every adapted module"):
        runner.run(RankPlan(ranks={modules[0]: 1}))


# ----------------------------------------------------------------------------------- the whole loop


@pytest.fixture(scope="module")
def live(small_overrides, tmp_path_factory):
    """Three rounds of the loop with plans of every sort: results, observations, and what the loop
    left of each."""
    folder = tmp_path_factory.mktemp("live")
    # 8 bits: rounding is less than the tests' tolerances, and one block more is little of such a
    # payload's airtime
    overrides = [*small_overrides(folder), *AIR, "text.dwell=9", "codec.coefficient_bits=8"]
    overrides.append("model.base=default")  # the environments know its modules
    settings = load_settings(SHIPPED, overrides)
    with LiveRunner(settings, folder) as runner:
        seen, results, left = [runner.reset(0)], [], []
        modules = list(runner.module_shapes)
        plans = [
            uniform(seen[0], 2),
            RankPlan(ranks={m: KEEP if i % 2 else 1 + i % 3 for i, m in enumerate(modules)}),
            uniform(seen[0], 4),
        ]
        for plan in plans:
            results.append(runner.run(plan))
            seen.append(runner.observation)
            left.append(runner.last)
    return SimpleNamespace(
        settings=settings, modules=modules, seen=seen, results=results, left=left
    )


@pytest.mark.slow
def test_the_loop_charges_what_environments_charge(live):
    for obs, result, left in zip(live.seen, live.results, live.left, strict=False):
        assert result.payload_bits == plan_bits(obs, left.plan) == 8 * len(left.payload)
        assert result.parameters == left.parameters
        assert (result.feasible, result.delivered) == (True, True)
        link = ModemLink(round_trip_s=live.settings.simulated_radio.channel.feedback_delay_s)
        predicted_s = link.airtime_s(
            result.payload_bits, obs.channel.snr_db, obs.channel.bandwidth_hz
        )
        # the loop goes by the measured SNR less what it measures of fading, a few hundredths of a
        # dB here
        assert predicted_s == pytest.approx(left.predicted_airtime_s, rel=0.01)
        assert result.airtime_s == pytest.approx(predicted_s, rel=0.1)
        expected_bits = link.bits(
            obs.budget.airtime_s, obs.channel.snr_db, obs.channel.bandwidth_hz
        )
        assert obs.budget.bits == pytest.approx(expected_bits, rel=0.01)
        assert np.isfinite([result.loss_nats, result.base_loss_nats, result.full_loss_nats]).all()


@pytest.mark.slow
def test_the_loops_airtime_of_an_episode_is_one_pot(live):
    spent = np.cumsum([0.0, *(result.airtime_s for result in live.results)])
    for t, obs in enumerate(live.seen[:-1]):
        assert obs.budget.airtime_s == pytest.approx(3 * live.settings.budget.airtime_s - spent[t])
        assert obs.budget.rounds == 3 - t
    assert live.seen[-1] is None


@pytest.mark.slow
def test_the_loop_knows_what_the_edge_lacks(live):
    whole = [
        {name: d.u @ np.diag(d.s) @ d.vt for name, d in left.trained.directions.items()}
        for left in live.left
    ]
    first, second = (
        codec.decode(left.payload, open_base_model(live.settings.model.base).spec).factors
        for left in live.left[:2]
    )
    held = [{}, first, {name: second.get(name, first[name]) for name in live.modules}]
    for t, obs in enumerate(live.seen[:-1]):
        assert (
            set(obs.energy.missing_if_kept)
            == set(obs.kfac.missing_if_kept)
            == set(obs.held)
            == set(held[t])
        )
        for name in live.modules:
            size = np.square(whole[t][name]).sum()
            assert obs.energy.missing_if_sent[name][0] == pytest.approx(size, rel=0.02)
            # 8-bit codes of the directions stand between what was trained and what can be held
            assert obs.energy.missing_if_sent[name][-1] == pytest.approx(0, abs=1e-6 * size)
            assert (np.diff(obs.kfac.missing_if_sent[name]) <= 0).all()
            if name in held[t]:
                stale = np.square(whole[t][name] - held[t][name].b @ held[t][name].a).sum()
                assert obs.energy.missing_if_kept[name] == pytest.approx(
                    stale, rel=0.05, abs=0.002 * size
                )


@pytest.mark.slow
def test_the_loop_does_not_send_what_is_beyond_the_budget(small_overrides, tmp_path):
    tight = [
        *small_overrides(tmp_path),
        "model.base=default",
        "budget.airtime_s=0.01",
        "run.rounds=1",
    ]
    env = RankEnv(LiveRunner(load_settings(SHIPPED, tight), tmp_path))
    with env.runner:
        state, _ = env.reset(seed=0)
        assert state in env.observation_space
        _, reward, terminated, _, info = env.step(np.ones(28, np.float32))
    assert terminated
    assert not info["feasible"]
    assert not info["delivered"]
    assert env.runner.last.payload == b""
    assert info["loss_nats"] == info["base_loss_nats"]
    assert reward == pytest.approx(-10.1 * info["payload_bits"] / info["budget_bits"])
    assert env.runner.observation is None
