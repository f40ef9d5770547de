"""The diffusion model against diffusers' DDIM scheduler, a Gaussian's exact score, and a mixture
that it learns."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy.stats import norm

from cloud.policies.rl.refiner import Ddim, DdimSettings, Schedule, sample_ddim
from hil.contract import ModelError
from tests.cloud.adam import adam_moves

SMALL = DdimSettings(hidden=64, time_embedding=32, learning_rate=1e-3)


def _diffusers_ddim(**options: object):  # type: ignore[no-untyped-def]
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the independent sampler")
    return diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        **options,
    )


def _tensors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------ against diffusers


@pytest.mark.slow
def test_noise_levels_and_steps_are_those_of_diffusers() -> None:
    theirs = _diffusers_ddim()
    torch.testing.assert_close(
        Schedule().alphas_cumprod(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7
    )
    for n in (1, 7, 50, 1000):
        theirs.set_timesteps(n)
        assert Schedule().timesteps(n) == theirs.timesteps.tolist()


def test_evenly_spaced_steps_are_those_of_diffusers_but_for_rounding() -> None:
    theirs = _diffusers_ddim(timestep_spacing="linspace")
    theirs.set_timesteps(50)
    ours = Schedule(spacing="linspace").timesteps()
    assert ours[0] == 999
    assert ours[-1] == 0
    assert np.abs(np.subtract(ours, theirs.timesteps.numpy())).max() <= 1


def test_noise_is_added_as_diffusers_adds_it() -> None:
    x, noise, t = (
        _tensors(1, 64, 5),
        _tensors(2, 64, 5),
        torch.arange(0, 1000, 16)[:64].clamp(max=999),
    )
    x, noise = x[: len(t)], noise[: len(t)]
    expected = _diffusers_ddim().add_noise(x, noise, t)
    torch.testing.assert_close(Schedule().add_noise(x, noise, t), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5])
def test_every_step_is_the_one_of_diffusers(eta: float, clip: bool, scale: float) -> None:
    """Their step from our state, at each of our states, so that errors cannot cancel."""
    ddim = Ddim(6, 3, DdimSettings(hidden=32, schedule=Schedule(eta=eta, clip_x0=clip)), seed=0)
    theirs = _diffusers_ddim(clip_sample=clip)
    theirs.set_timesteps(50)
    condition, start, fresh = _tensors(3, 8, 3), _tensors(4, 8, 6), _tensors(5, 50, 8, 6)
    states: list[torch.Tensor] = []
    absent = torch.ones(8, dtype=torch.bool)

    def guided(x: torch.Tensor, t: int) -> torch.Tensor:
        steps = torch.full((8,), t)
        without = ddim.model(x, steps, condition, absent)
        return without + scale * (ddim.model(x, steps, condition) - without)

    def recording(x: torch.Tensor, i: int) -> torch.Tensor:
        states.append(x)
        return guided(x, int(theirs.timesteps[i]))

    with torch.no_grad():
        end = sample_ddim(recording, start, ddim.settings.schedule, step_noise=fresh)
        for i, (t, now) in enumerate(zip(theirs.timesteps, states, strict=True)):
            following = states[i + 1] if i + 1 < 50 else end
            step = theirs.step(
                guided(now, int(t)), int(t), now, eta=eta, variance_noise=fresh[i] if eta else None
            )
            size = max(1.0, now.abs().max().item())
            torch.testing.assert_close(following, step.prev_sample, rtol=0, atol=1e-5 * size)
        sampled = ddim.sample(condition, scale, noise=start, step_noise=fresh)
    # Guidance inside the model, with its shared embeddings, is the guidance spelt out here.
    torch.testing.assert_close(sampled, end.clamp(-1, 1), rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------- known
# distributions


def _gaussian_score(
    mean: float, std: float, schedule: Schedule, n: int
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """Expected noise in x when clean vectors are N(mean, std²): x is jointly Gaussian with its
    noise."""
    levels, steps = schedule.alphas_cumprod().double(), schedule.timesteps(n)

    def predict(x: torch.Tensor, i: int) -> torch.Tensor:
        left = levels[steps[i]]
        variance = left * std**2 + 1 - left
        return (1 - left).sqrt() * (x - left.sqrt() * mean) / variance

    return predict


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_the_exact_score_of_a_gaussian_gives_that_gaussian(spacing: str) -> None:
    """DDIM maps the standard normal's quantiles to those of N(0.3, 0.2²), the closer the more steps
    it takes."""
    schedule = Schedule(clip_x0=False, spacing=spacing)  # type: ignore[arg-type]
    levels = torch.linspace(0.02, 0.98, 49, dtype=torch.float64).numpy()
    start = torch.from_numpy(norm.ppf(levels)).unsqueeze(1)
    errors = []
    for n in (10, 50, 250, 1000):
        found = sample_ddim(_gaussian_score(0.3, 0.2, schedule, n), start, schedule, n_steps=n)
        errors.append(float(np.abs(found[:, 0].numpy() - norm.ppf(levels, 0.3, 0.2)).max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.05
    assert errors[3] < 0.005


def test_fresh_noise_leaves_the_distribution_as_it_is() -> None:
    schedule = Schedule(clip_x0=False, eta=1.0)
    predict = _gaussian_score(0.3, 0.2, schedule, 1000)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    found = sample_ddim(predict, start, schedule, n_steps=1000, generator=generator)
    assert found.mean().item() == pytest.approx(0.3, abs=4 * 0.2 / math.sqrt(4000))
    assert found.std().item() == pytest.approx(0.2, rel=4 / math.sqrt(2 * 4000))
    # With eta = 1 where it starts is all but forgotten; with eta = 0 it decides everything.
    assert abs(float(np.corrcoef(start[:, 0], found[:, 0])[0, 1])) < 0.1


MEANS = torch.tensor([[-0.5, -0.2], [0.4, 0.5]])
STDS = torch.tensor([[0.08, 0.16], [0.12, 0.08]])
SHARE = 0.3
"""Of the first component."""


@pytest.fixture(scope="module")
def mixture() -> Ddim:
    """Learnt from two Gaussians in the plane, the condition says which one."""
    ddim = Ddim(
        2, 2, DdimSettings(hidden=64, time_embedding=32, ema=0.995, condition_drop=0.3), seed=0
    )
    generator = torch.Generator().manual_seed(1)
    n_steps = 1500
    for i in range(n_steps):
        ddim.optimiser.param_groups[0]["lr"] = 4e-3 * (1 - i / n_steps)
        which = (torch.rand(256, generator=generator) >= SHARE).long()
        x = MEANS[which] + STDS[which] * torch.randn(256, 2, generator=generator)
        ddim.train_step(x, torch.eye(2)[which], generator=generator)
    return ddim


@pytest.mark.slow
@pytest.mark.parametrize("component", [0, 1])
def test_the_conditional_model_gives_the_component_that_is_asked_for(
    mixture: Ddim, component: int
) -> None:
    found = mixture.sample(
        torch.eye(2)[[component]].expand(1000, 2), generator=torch.Generator().manual_seed(2)
    )
    torch.testing.assert_close(found.mean(0), MEANS[component], rtol=0, atol=0.03)
    torch.testing.assert_close(found.std(0), STDS[component], rtol=0.2, atol=0)


@pytest.mark.slow
def test_without_the_condition_both_components_come_in_their_shares(mixture: Ddim) -> None:
    anything = torch.eye(2)[[0]].expand(1000, 2)
    found = mixture.sample(anything, 0.0, generator=torch.Generator().manual_seed(3))
    first = found.sum(1) < 0.1
    assert first.double().mean().item() == pytest.approx(SHARE, abs=0.05)
    for component, members in enumerate((found[first], found[~first])):
        torch.testing.assert_close(members.mean(0), MEANS[component], rtol=0, atol=0.05)
        torch.testing.assert_close(members.std(0), STDS[component], rtol=0.25, atol=0)


# ------------------------------------------------------------------------------------------
# training


def test_weights_decide_what_is_learnt() -> None:
    """Rows of weight 0 leave no trace: the same gradient as a batch in which they hold something
    else."""
    x, condition, weights = (
        _tensors(1, 8, 4).clamp(-1, 1),
        _tensors(2, 8, 3),
        torch.tensor([1.0, 0.0] * 4),
    )
    other = torch.where(weights.unsqueeze(1) > 0, x, -x)
    ends = []
    for batch in (x, other):
        ddim = Ddim(4, 3, SMALL, seed=0)
        ddim.train_step(batch, condition, weights)
        ends.append(ddim.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    ddim = Ddim(4, 3, SMALL, seed=0)
    losses = [
        ddim.loss(x, condition, w, torch.Generator().manual_seed(5))
        for w in (None, torch.full((8,), 2.5))
    ]
    assert losses[1].item() == pytest.approx(2.5 * losses[0].item(), rel=1e-6)


def test_steps_are_those_of_adam() -> None:
    x, condition = _tensors(1, 16, 4).clamp(-1, 1), _tensors(2, 16, 3)
    ddim = Ddim(4, 3, SMALL, seed=0)
    parameter = ddim.model.outlet[2].weight
    before, gradients = parameter.detach().double().numpy().copy(), []
    ddim.optimiser.register_step_pre_hook(
        lambda *_: gradients.append(parameter.grad.double().numpy().copy())
    )
    for _ in range(6):
        ddim.train_step(x, condition)
    moves = adam_moves(gradients, [1e-3] * 6, (0.9, 0.999), 1e-8)
    np.testing.assert_allclose(parameter.detach().numpy() - before, moves, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("null", ["zero", "learnt"])
def test_the_null_condition(null: str) -> None:
    """Zero: the absent condition is the vector of zeros. Learnt: it is another one, and training
    moves it."""
    ddim = Ddim(4, 3, DdimSettings(hidden=32, null=null, condition_drop=1.0), seed=0)  # type: ignore[arg-type]
    x, t, condition = _tensors(1, 5, 4), torch.arange(5), _tensors(2, 5, 3)
    absent = ddim.model(x, t, condition, torch.ones(5, dtype=torch.bool))
    zeros = ddim.model(x, t, torch.zeros(5, 3))
    assert torch.equal(absent, zeros) is (null == "zero")
    before = ddim.model.null.detach().clone()
    ddim.train_step(x, condition)
    assert torch.equal(ddim.model.null, before) is (null == "zero")
    # Every condition was dropped, so its values had no part in it.
    again = Ddim(4, 3, ddim.settings, seed=0)
    again.train_step(x, -condition)
    assert torch.equal(again.model.outlet[2].weight, ddim.model.outlet[2].weight)


def test_a_resumed_model_goes_on_bit_by_bit() -> None:
    x, condition = _tensors(1, 16, 4).clamp(-1, 1), _tensors(2, 16, 3)
    settings = DdimSettings(
        hidden=32, ema=0.9, null="learnt", schedule=Schedule(eta=0.5, spacing="linspace")
    )
    first = Ddim(4, 3, settings, seed=7)
    for _ in range(3):
        first.train_step(x, condition)
    stored = load(save(first.state_dict()))
    second = Ddim(4, 3, settings, seed=0)
    second.load_state_dict(stored)
    for _ in range(3):
        assert first.train_step(x, condition) == second.train_step(x, condition)
    assert torch.equal(first.sample(condition, 1.5), second.sample(condition, 1.5))
    ends = (first.state_dict(), second.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_seed_alone_decides_and_torch_s_own_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    models = [Ddim(4, 3, SMALL, seed=seed) for seed in (1, 1, 2)]
    for model in models:
        model.train_step(_tensors(1, 8, 4), _tensors(2, 8, 3))
    samples = [model.sample(torch.zeros(5, 3)) for model in models]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert max(sample.abs().max().item() for sample in samples) <= 1.0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"n_steps is 1001.*1000"):
        Schedule().timesteps(1001)
    with pytest.raises(ValueError, match="eta is 1"):
        sample_ddim(lambda x, i: x, torch.zeros(1, 1), Schedule(eta=1.0))
    with pytest.raises(ModelError, match="does not belong"):
        Ddim(4, 2, SMALL, seed=0).load_state_dict(Ddim(4, 3, SMALL, seed=0).state_dict())
