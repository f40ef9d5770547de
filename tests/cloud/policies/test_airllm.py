"""AirLLM: the way from a vector to ranks, its two learners in turns, its files, and the policies
that plan with it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv

from cloud.finetuning.finetuner import FineTuner
from cloud.model.base_model import open_base_model
from cloud.policies import plan_bits
from cloud.policies.airllm import (
    AirLlmAgent,
    AirLlmPolicy,
    AirLlmSettings,
    PpoRankPolicy,
    decode_ranks,
    encode_ranks,
    save_ppo,
    state_of,
    train_airllm,
)
from cloud.policies.rl.airllm_agent import Replay, reward_weights
from cloud.policies.rl.ppo import Ppo, PpoSettings
from cloud.policies.rl.refiner import DdimSettings, Schedule
from cloud.policies.rl.rollout import Rollout, learn
from cloud.policies.rl.weights import read_weights
from cloud.policies.state import paper_state, situation_of
from cloud.text.sources import Example
from hil.codec import BITS_PER_MODULE, CodecTarget, bits_per_direction, overhead_bits
from hil.contract import (
    BaseSpec,
    Budget,
    ChannelState,
    ConfigError,
    ModelError,
    Residuals,
    RoundObservation,
    TextState,
)
from hil.model_folder import OptComputation, expected_module_shapes
from hil.settings import FinetuneSettings, ModelSettings, load_settings
from radio.link import ShannonLink

torch.set_num_threads(1)

R_MAX = 16
BEST = np.array([2, 4, 12, 8, 15])
M = len(BEST)

SMALL = AirLlmSettings(
    ppo=PpoSettings(hidden=(64,), learning_rate=1e-3, ent_coef=0.01, n_steps=20, norm_reward=False),
    ddim=DdimSettings(
        hidden=64, null="zero", learning_rate=1e-3, schedule=Schedule(sample_steps=5)
    ),
    replay_size=2000,
)
"""The paper's but for networks, rates and sampling steps that suit a test's seconds."""


class RankBandit(VectorEnv):
    """Pays minus the mean distance of the ranks from BEST, whatever the observation says."""

    def __init__(self, n_envs: int, n_steps: int = 8) -> None:
        self.num_envs, self.n_steps = n_envs, n_steps
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = Box(0, 1, (4 + M,), np.float32)
        self.single_action_space = Box(-1, 1, (M,), np.float32)

    def _look(self):
        return self._rng.random((self.num_envs, 4 + M), np.float32)

    def reset(self, *, seed=None, options=None):
        self._rng, self._step = np.random.default_rng(seed), 0
        return self._look(), {}

    def step(self, action):
        self._step += 1
        reward = -np.abs(decode_ranks(action, R_MAX) - BEST).mean(axis=1)
        done = np.full(self.num_envs, self._step == self.n_steps)
        return self._look(), reward, done, np.zeros_like(done), {}


class NothingPays(RankBandit):
    """Keeps the ranks of the last step."""

    def step(self, action):
        self.ranks = decode_ranks(action, R_MAX)
        observation, reward, *rest = super().step(action)
        return observation, np.zeros_like(reward), *rest


class UnequalEpisodes(RankBandit):
    """Environment i ends its episode after i + 1 steps, each of which pays 1; what comes after pays
    100."""

    def step(self, action):
        self._step += 1
        last = 1 + np.arange(self.num_envs)
        done = self._step == last
        return self._look(), np.where(self._step <= last, 1.0, 100.0), done, np.zeros_like(done), {}


# ------------------------------------------------------------------------------------- ranks as a
# vector


def test_decoding_is_the_papers_formula():
    assert decode_ranks(np.array([-1.0, -0.9, -0.72, -0.71, 0.0, 0.99, 1.0]), 8).tolist() == [
        1,
        1,
        1,
        2,
        4,
        7,
        8,
    ]
    assert decode_ranks(np.array([-7.0, 7.0]), 64).tolist() == [1, 64]
    assert decode_ranks(np.array([-1.0, 0.3, 1.0]), 1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("r_max", [1, 2, 8, 16, 63, 64])
def test_every_rank_survives_the_way_to_float32_and_back(r_max):
    ranks = np.arange(1, r_max + 1)
    assert decode_ranks(encode_ranks(ranks, r_max), r_max).tolist() == ranks.tolist()


def test_replay_weights_follow_the_reward_and_stay_within_limits():
    rewards = np.array([-3.0, -1.0, 1.0, 3.0], np.float32)
    z = 3 / math.sqrt(5)
    np.testing.assert_allclose(
        reward_weights(rewards, 0.1), [1 - 0.1 * z, 1 - 0.1 * z / 3, 1 + 0.1 * z / 3, 1 + 0.1 * z]
    )
    np.testing.assert_array_equal(reward_weights(rewards, 1e6), np.float32([0.1, 0.1, 10, 10]))
    np.testing.assert_array_equal(reward_weights(np.full(4, -2.5, np.float32), 0.1), np.ones(4))


def test_defaults_are_the_papers():
    agent = AirLlmAgent(M, 64, seed=0)
    ppo, ddim = agent.ppo.settings, agent.ddim.settings
    assert (ppo.learning_rate, ppo.clip_coef, ppo.gae_lambda, ppo.gamma) == (1e-4, 0.2, 0.95, 0.99)
    assert (ppo.update_epochs, ppo.ent_coef, ppo.vf_coef, ppo.max_grad_norm) == (4, 0.01, 0.5, 1.0)
    assert (ddim.hidden, ddim.blocks, ddim.time_embedding, ddim.condition_drop) == (512, 2, 64, 0.1)
    assert (ddim.schedule.train_steps, ddim.schedule.sample_steps, ddim.schedule.eta) == (
        1000,
        50,
        0,
    )
    assert torch.count_nonzero(agent.ddim.model.null) == 0
    s = agent.settings
    assert (s.coarse_size, s.guidance_scale, s.refiner_updates, s.refiner_batch) == (16, 1.5, 4, 64)


# ----------------------------------------------------------------------------------------------
# learning


def _mean_reward(agent: AirLlmAgent) -> float:
    env = RankBandit(64)
    observation = env.reset(seed=99)[0]
    return float(env.step(agent.act(observation, torch.Generator().manual_seed(3)))[1].mean())


@pytest.mark.slow
def test_learns_what_a_bandit_pays_for():
    agent = AirLlmAgent(M, R_MAX, replace(SMALL, imitate="vector"), seed=0)
    before = _mean_reward(agent)
    history = train_airllm(agent, RankBandit(16), 4000, seed=0)
    uniform = -np.abs(np.arange(1, R_MAX + 1)[:, np.newaxis] - BEST).mean()
    assert _mean_reward(agent) > max(before, uniform) + 1.2
    assert history[-1]["reward"] > history[0]["reward"] + 1.0
    assert history[-1]["step"] == agent.steps == 4096


@pytest.mark.slow
def test_imitating_ranks_sinks_where_imitating_vectors_stays():
    """Nothing is paid for, so what moves the mean rank is imitation itself."""
    mean = {}
    for imitate in ("ranks", "vector"):
        agent = AirLlmAgent(M, R_MAX, replace(SMALL, imitate=imitate, replay_size=512), seed=1)
        env = NothingPays(32)
        train_airllm(agent, env, 2000, seed=0)
        mean[imitate] = env.ranks.mean()
    assert mean["ranks"] < mean["vector"] - 1.0


@pytest.mark.slow
def test_the_refiner_gives_what_its_coarse_action_asks_for():
    """High coarse[0] has come with high ranks of the even modules, low coarse[0] with the
    opposite."""
    agent = AirLlmAgent(
        M, R_MAX, replace(SMALL, ppo=replace(SMALL.ppo, learning_rate=1e-9)), seed=2
    )
    rng, signs = np.random.default_rng(0), np.array([1, -1, 1, -1, 1], np.float32)
    for _ in range(6):
        observation = rng.random((64, 4 + M), np.float32)
        act, _ = agent.explore(observation)
        rollout = Rollout()
        rollout.add(observation, act, rng.random(64), np.ones(64, bool))
        agent.update(rollout, 0.7 * np.sign(act.action[:, :1]) * signs[np.newaxis, np.newaxis])
    act, vectors = agent.explore(rng.random((256, 4 + M), np.float32))
    clear = np.abs(act.action[:, 0]) > 0.2
    agreeing = np.sign(vectors[clear]) == np.sign(act.action[clear, :1]) * signs
    assert clear.sum() > 100
    assert agreeing.mean() > 0.9


def test_an_ended_episode_is_not_learnt_from_twice():
    agent = AirLlmAgent(M, R_MAX, SMALL, seed=0)
    [entry] = train_airllm(agent, UnequalEpisodes(4), 1, seed=0)
    assert entry["step"] == agent.steps == len(agent.replay) == 1 + 2 + 3 + 4
    assert entry["reward"] == 1.0
    assert entry["episode_return"] == 10 / 4


def test_the_replay_forgets_the_oldest_first():
    replay = Replay(5, (1, 1))
    for i in range(4):
        values = np.float32([2 * i, 2 * i + 1])
        replay.add(values[:, np.newaxis], -values[:, np.newaxis], 10 * values)
    coarse, vectors, rewards = replay.draw(99, torch.Generator().manual_seed(0))
    assert sorted(coarse[:, 0].tolist()) == [3, 4, 5, 6, 7]
    np.testing.assert_array_equal(vectors, -coarse)
    np.testing.assert_array_equal(rewards, 10 * coarse[:, 0])


def test_an_environment_of_another_size_is_named():
    with pytest.raises(
        ConfigError, match=r"AirLLM for 3 modules needs .* Box\(-1, 1, \(3,\)\), .* has \(9,\)"
    ):
        train_airllm(AirLlmAgent(3, R_MAX, SMALL, seed=0), RankBandit(2), 10, seed=0)


# ------------------------------------------------------------------------------------------------
# files


@pytest.mark.slow
def test_a_saved_agent_goes_on_bit_for_bit(tmp_path):
    settings = replace(SMALL, replay_size=80, replay_warm_up=32)
    straight, stopped = (AirLlmAgent(M, R_MAX, settings, seed=4) for _ in range(2))
    env = RankBandit(4)
    train_airllm(straight, env, 128, seed=7)
    train_airllm(stopped, RankBandit(4), 64, seed=7)
    stopped.save(tmp_path / "agent.safetensors")
    resumed = AirLlmAgent.load(tmp_path / "agent.safetensors")
    assert resumed.settings == straight.settings
    train_airllm(resumed, RankBandit(4), 128, seed=7)
    straight.save(tmp_path / "straight.safetensors")
    resumed.save(tmp_path / "resumed.safetensors")
    # not the bytes of the files: the order of safetensors' metadata is not fixed
    (about_one, one), (about_other, other) = (
        read_weights(tmp_path / f"{name}.safetensors", "airllm") for name in ("straight", "resumed")
    )
    assert about_one == about_other
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_shipped_weights_act_alike_and_are_small(tmp_path):
    agent, path = AirLlmAgent(28, R_MAX, seed=5), tmp_path / "weights.safetensors"
    agent.save_weights(path)
    assert path.stat().st_size < 2_000_000
    loaded = AirLlmAgent.load(path)
    assert (loaded.n_modules, loaded.r_max) == (28, R_MAX)
    observation = np.random.default_rng(0).random((8, 32), np.float32)
    one, other = (a.act(observation, torch.Generator().manual_seed(1)) for a in (agent, loaded))
    assert np.abs(one - other).max() < 0.05
    assert np.mean(decode_ranks(one, R_MAX) == decode_ranks(other, R_MAX)) > 0.9


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "ppo.safetensors"
    save_ppo(path, Ppo(4 + M, M, PpoSettings(hidden=(8,)), seed=0), R_MAX)
    with pytest.raises(
        ModelError, match=r"ppo\.safetensors: of kind 'ppo', not 'airllm'; .*`hil train airllm`"
    ):
        AirLlmPolicy(str(path))
    path.write_bytes(b"\x08")
    with pytest.raises(ModelError, match=r"ppo\.safetensors: .*`hil train ppo`"):
        PpoRankPolicy(str(path))


# ----------------------------------------------------------------------------------------------
# policies


def observe(
    budget_bits: int, *, round_id: int = 3, n_modules: int = M, kfac: bool = False
) -> RoundObservation:
    modules = [f"m{i}" for i in range(n_modules)]
    curve = np.linspace(1, 0, R_MAX + 1, dtype=np.float32)
    return RoundObservation(
        round_id=round_id,
        channel=ChannelState(
            snr_db=math.nan if kfac else 7.0,
            snr_std_db=1.0,
            age_s=0.1,
            cfo_hz=0.0,
            bandwidth_hz=1e6,
            airtime_share=0.6,
            block_error_rate=0.0,
            goodput_bps=math.nan,
        ),
        text=TextState(
            domain="d",
            lexical_entropy_bits=5,
            lexical_entropy=0.5,
            oov_rate=0.1,
            pieces_per_word=1.5,
        ),
        budget=Budget(airtime_s=1.0, bits=budget_bits),
        module_shapes={m: (64, 6) if m == "m2" else (64, 64) for m in modules},
        r_max=R_MAX,
        bits_per_direction=dict.fromkeys(modules, 50),
        overhead_bits=100,
        bits_per_module=10,
        spectra={m: np.ones(R_MAX, np.float32) for m in modules},
        kfac=Residuals(missing_if_sent=dict.fromkeys(modules, curve)) if kfac else Residuals(),
        held={"m1": 8},
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of policies that have learnt a little, so that ranks differ."""
    folder = tmp_path_factory.mktemp("weights")
    agent = AirLlmAgent(M, R_MAX, SMALL, seed=0)
    train_airllm(agent, RankBandit(16), 400, seed=0)
    assert agent.steps > SMALL.replay_warm_up
    agent.save_weights(folder / "airllm.safetensors")
    ppo = Ppo(4 + M, M, PpoSettings(hidden=(64,), learning_rate=1e-2, n_steps=8), seed=0)
    learn(ppo, RankBandit(16), 800, seed=0)
    save_ppo(folder / "ppo.safetensors", ppo, R_MAX)
    return folder


def test_the_state_is_the_papers_with_and_without_expected_losses():
    for kfac in (False, True):
        with_losses = observe(1000, kfac=kfac)
        if not kfac:
            zeros = np.zeros(R_MAX + 1, np.float32)
            with_losses = replace(
                with_losses,
                kfac=Residuals(missing_if_sent=dict.fromkeys(with_losses.module_shapes, zeros)),
            )
        np.testing.assert_array_equal(
            state_of(observe(1000, kfac=kfac)), paper_state(situation_of(with_losses))
        )
    np.testing.assert_allclose(state_of(observe(1000))[0], [0.6, 0.6, 0.5, 0.1, 0, 0.5, 0, 0, 0])


@pytest.mark.slow
def test_a_projected_plan_is_feasible_and_an_unprojected_one_is_the_agents(weights):
    path = str(weights / "airllm.safetensors")
    projected, published = AirLlmPolicy(path), AirLlmPolicy(path, project=False)
    assert (projected.name, published.name) == ("AirLLM projected", "AirLLM")
    whole = published.plan(observe(0))
    assert whole.ranks["m2"] <= 6
    assert all(1 <= rank <= R_MAX for rank in whole.ranks.values())
    assert plan_bits(observe(0), whole) > 1000
    for budget in (0, 200, 500, 1000, 100_000):
        assert plan_bits(observe(budget), projected.plan(observe(budget))) <= budget
    assert projected.plan(observe(100_000)) == whole
    agent = AirLlmAgent.load(weights / "airllm.safetensors")
    vector = agent.act(state_of(observe(0)), torch.Generator().manual_seed(3))[0]
    assert (
        list(whole.ranks.values())
        == np.minimum(decode_ranks(vector, R_MAX), [16, 16, 6, 16, 16]).tolist()
    )


@pytest.mark.slow
def test_the_round_alone_fixes_the_noise(weights):
    policy = AirLlmPolicy(str(weights / "airllm.safetensors"))
    first = policy.plan(observe(100_000, round_id=5))
    others = [policy.plan(observe(100_000, round_id=i)) for i in range(6)]
    assert others[5] == first
    assert any(other != first for other in others[:5])


@pytest.mark.slow
def test_ppo_alone_plans_its_mean_action_within_the_budget(weights):
    policy = PpoRankPolicy(str(weights / "ppo.safetensors"))
    ranks = np.array(list(policy.plan(observe(100_000)).ranks.values()))
    assert np.abs(ranks - np.minimum(BEST, [16, 16, 6, 16, 16])).mean() < 3
    for budget in (0, 200, 1000):
        assert plan_bits(observe(budget), policy.plan(observe(budget))) <= budget


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "kind"), [(AirLlmPolicy, "airllm"), (PpoRankPolicy, "ppo")])
def test_a_model_with_other_modules_is_named(weights, policy, kind):
    with pytest.raises(
        ModelError, match=rf"for {M} modules, the model has 7; .*`hil train {kind}`"
    ):
        policy(str(weights / f"{kind}.safetensors")).plan(observe(1000, n_modules=7))


# -------------------------------------------------------------------------------- the paper's own
# model


@pytest.fixture(scope="module")
def opt(tmp_path_factory):
    """A tiny OPT with random weights and the default model's tokenizer."""
    from transformers import OPTConfig, OPTForCausalLM

    tokenizer = open_base_model("default").tokenizer
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("opt")
    OPTForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return open_base_model(str(folder))


def test_opt_is_trained_with_lora_on_all_six_projections(opt):
    names = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    settings = FinetuneSettings(steps=2, batch=4, threads=1, device="cpu", learning_rate=0.01)
    tuner = FineTuner(opt, ModelSettings(r_max=4, target_modules=names), settings, seed=0)
    assert list(tuner.module_shapes.items()) == list(opt.spec.module_shapes.items())
    assert [name.rpartition(".")[2] for name in tuner.module_shapes] == 2 * names
    question = [
        Example(text="signal", prompt="report: the signal is strong.\nverdict:", label_word=" good")
    ] * 4
    losses = [tuner.train(question).loss_nats for _ in range(6)]
    assert losses[-1] < losses[0] - 0.01
    found = tuner.model.directions()
    assert [(d.u.shape[0], d.vt.shape[1]) for d in found.values()] == list(
        opt.spec.module_shapes.values()
    )
    assert all(d.s[0] > 0 for d in found.values())


def test_llamas_default_targets_are_refused_for_opt(opt):
    opt.check_targets(["fc1", "q_proj"])
    with pytest.raises(
        ModelError,
        match=r"has no o_proj, gate_proj, up_proj, down_proj; choose .* out_proj, fc1, fc2",
    ):
        opt.check_targets(ModelSettings().target_modules)


def test_the_papers_experiment_leaves_room_for_the_papers_ranks():
    """884,880 parameters of 32 bits a rank, in a second of 100 MHz at the capacity of -5, 0, 5, 10
    and 15 dB."""
    settings = load_settings(Path(__file__).parents[3] / "configs" / "airllm_opt1.3b_sst2.toml")
    sizes = {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24}
    shapes = expected_module_shapes(
        OptComputation(**sizes, num_attention_heads=32, vocab_size=50272)
    )
    base = BaseSpec(identity="0" * 64, module_shapes=shapes)
    target = CodecTarget(coefficient_bits=settings.codec.coefficient_bits)
    fixed = overhead_bits(base, target) + len(shapes) * BITS_PER_MODULE
    link = ShannonLink(efficiency=settings.environment.efficiency)
    snr_db, bandwidth_hz = (
        settings.simulated_radio.channel.snr_db.values,
        settings.simulated_radio.bandwidth_hz.value,
    )
    room = link.bits(settings.budget.airtime_s, snr_db, bandwidth_hz) - fixed
    assert (room // sum(bits_per_direction(base, target).values())).tolist() == [1, 3, 7, 12, 17]


@pytest.mark.parametrize(("project", "name"), [(True, "AirLLM projected"), (False, "AirLLM")])
def test_the_shipped_weights_of_either_way_are_of_this_kind(project, name):
    policy = AirLlmPolicy(project=project)
    assert policy.name == name
    assert (policy._agent.n_modules, policy._agent.r_max) == (28, 16)
    assert policy._agent.steps > 0
