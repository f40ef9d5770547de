import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.finetuning.directions import leading
from cloud.policies import plan_bits, share_of
from cloud.policies.rules import BURST, ConstantPrice, SpectralGreedy, Waterfill, paced_price
from hil.codec import (
    BITS_PER_MODULE,
    CodecTarget,
    bits_per_direction,
    encode,
    overhead_bits,
)
from hil.contract import (
    KEEP,
    BaseSpec,
    ConfigError,
    Keep,
    LoraUpdate,
    LowRankFactors,
    ModelError,
    RankPolicy,
    Residuals,
    RoundObservation,
)
from tests.cloud.policies.observations import (
    SHAPE,
    assert_legal,
    in_an_episode,
    observations,
    observe,
    recount,
    with_losses,
)

seeded = settings(derandomize=True, deadline=None, max_examples=40)


def greedy_by_search(obs: RoundObservation) -> dict[str, int | Keep]:
    """Spectral greedy as one would say it: look at every module's next direction each time, and
    count afresh."""
    ranks: dict[str, int | Keep] = {m: KEEP if obs.held.get(m, 0) else 0 for m in obs.module_shapes}
    is_open = dict.fromkeys(ranks, True)
    while True:
        best, best_share = None, 0.0
        for module, rank in sorted(
            ranks.items(), key=lambda item: 0 if item[1] == KEEP else item[1]
        ):
            done = 0 if rank == KEEP else rank
            spectrum = obs.spectra[module].astype(float)[
                : min(obs.r_max, *obs.module_shapes[module])
            ]
            if is_open[module] and done < len(spectrum) and spectrum[done] > 0:
                share = spectrum[done] ** 2 / np.sum(spectrum**2)
                if share > best_share * (1 + 1e-12):
                    best, best_share = module, share
        if best is None:
            sends = any(rank != KEEP and rank > 0 for rank in ranks.values())
            return ranks if sends else dict.fromkeys(ranks, KEEP)
        now = ranks[best]
        richer = ranks | {best: 1 if now == KEEP else now + 1}
        if recount(obs, richer) <= obs.budget.bits:
            ranks = richer
        else:
            is_open[best] = False


@pytest.mark.slow
@seeded
@given(obs=observations())
def test_greedy_is_legal_and_affordable_and_nothing_that_it_left_open_fits(
    obs: RoundObservation,
) -> None:
    plan = SpectralGreedy("rank").plan(obs)
    assert_legal(plan, obs)
    bits = plan_bits(obs, plan)
    assert bits <= obs.budget.bits
    if plan.sends_nothing:
        return
    assert bits == recount(obs, plan.ranks)
    for module, rank in plan.ranks.items():
        if rank != KEEP:
            assert not (obs.held.get(module, 0) and rank == 0)
            if (
                0 < rank < min(obs.r_max, *obs.module_shapes[module])
                and obs.spectra[module][rank] > 0
            ):
                cheapest_richer = bits + obs.bits_per_direction[module]
                assert cheapest_richer > obs.budget.bits - (
                    256 if KEEP not in plan.ranks.values() else 0
                )


@pytest.mark.slow
@settings(seeded, max_examples=25)
@given(obs=observations().filter(lambda obs: len(obs.module_shapes) * obs.r_max <= 500))
def test_greedy_agrees_with_a_search_over_every_next_direction(obs: RoundObservation) -> None:
    assert SpectralGreedy("rank").plan(obs).ranks == greedy_by_search(obs)


# Shares of energy: p 0.64, 0.36; q 0.80, 0.20; r 0.50, 0.50. Order: q, p, r, r, p, q.
KNOWN = {"p": [4.0, 3.0], "q": [0.2, 0.1], "r": [50.0, 50.0]}


@pytest.mark.parametrize(
    ("budget_bits", "ranks"),
    [
        (0, {"p": KEEP, "q": KEEP, "r": KEEP}),
        (159, {"p": KEEP, "q": KEEP, "r": KEEP}),
        (160, {"p": 0, "q": 1, "r": 0}),
        (220, {"p": 1, "q": 1, "r": 0}),
        (280, {"p": 1, "q": 1, "r": 1}),
        (330, {"p": 1, "q": 1, "r": 2}),
        (380, {"p": 2, "q": 1, "r": 2}),
        (430, {"p": 2, "q": 2, "r": 2}),
        (10**9, {"p": 2, "q": 2, "r": 2}),
    ],
)
def test_greedy_by_hand(budget_bits: int, ranks: dict[str, int | Keep]) -> None:
    assert SpectralGreedy("rank").plan(observe(KNOWN, budget_bits)).ranks == ranks


def test_greedy_goes_by_relative_energy_and_not_by_energy_per_bit() -> None:
    prices = {"p": 50, "q": 400, "r": 50}
    assert SpectralGreedy("rank").plan(observe(KNOWN, 510, prices=prices)).ranks == {
        "p": 0,
        "q": 1,
        "r": 0,
    }


def test_greedy_skips_a_module_whose_next_direction_does_not_fit_and_goes_on_with_the_others() -> (
    None
):
    prices = {"p": 50, "q": 400, "r": 50}
    assert SpectralGreedy("rank").plan(observe(KNOWN, 509, prices=prices)).ranks == {
        "p": 2,
        "q": 0,
        "r": 2,
    }


@pytest.mark.parametrize(
    ("budget_bits", "ranks"),
    [
        # 100 + 60 + 256 for q and the digest of the kept r; then 60 for p, or where that is too
        # much 50 for q again.
        (415, {"p": KEEP, "q": KEEP, "r": KEEP}),
        (416, {"p": 0, "q": 1, "r": KEEP}),
        (465, {"p": 0, "q": 1, "r": KEEP}),
        (466, {"p": 0, "q": 2, "r": KEEP}),
        (475, {"p": 0, "q": 2, "r": KEEP}),
        (476, {"p": 1, "q": 1, "r": KEEP}),
    ],
)
def test_greedy_keeps_a_stale_module_and_pays_for_its_digest(
    budget_bits: int, ranks: dict[str, int | Keep]
) -> None:
    obs = observe(KNOWN, budget_bits, prices={"p": 50, "q": 50, "r": 1000}, held={"r": 1})
    assert SpectralGreedy("rank").plan(obs).ranks == ranks


@pytest.mark.parametrize(
    ("budget_bits", "ranks"),
    [
        # q would need 416 bits while p is kept; p goes out for 160, and with nothing kept r, r and
        # p follow to 320.
        (415, {"p": 2, "q": 0, "r": 2}),
        # q goes out for 416, p frees the digest (220), r, r and p follow to 380; q's second would
        # make 430.
        (416, {"p": 2, "q": 1, "r": 2}),
    ],
)
def test_greedy_has_the_digest_bits_back_once_nothing_is_kept(
    budget_bits: int, ranks: dict[str, int | Keep]
) -> None:
    assert SpectralGreedy("rank").plan(observe(KNOWN, budget_bits, held={"p": 1})).ranks == ranks


def test_greedy_never_sends_directions_without_energy() -> None:
    obs = observe(
        {"p": [1.0, 0.0], "zero": [0.0, 0.0], "stale": [0.0, 0.0]}, 10**6, held={"stale": 2}
    )
    assert SpectralGreedy("rank").plan(obs).ranks == {"p": 1, "zero": 0, "stale": KEEP}


def test_greedy_sends_no_more_directions_than_a_small_module_has() -> None:
    obs = observe({"p": [1.0, 1.0, 1.0, 1.0]}, 10**6, shapes={"p": (3, 64)})
    assert SpectralGreedy("rank").plan(obs).ranks == {"p": 3}


def test_greedy_breaks_ties_by_direction_and_then_by_module() -> None:
    spectra = {name: [1.0, 1.0, 1.0] for name in "pqr"}
    assert SpectralGreedy("rank").plan(observe(spectra, 100 + 3 * 10 + 4 * 50)).ranks == {
        "p": 2,
        "q": 1,
        "r": 1,
    }


def test_greedy_refuses_a_diverged_spectrum_by_name() -> None:
    with pytest.raises(ModelError, match="the spectrum of q is not finite"):
        SpectralGreedy("rank").plan(observe({"p": [1.0], "q": [float("nan")]}, 10**6))


@pytest.mark.parametrize(
    ("per", "budget_bits", "ranks"),
    [
        # Per parameter q (4x as large) comes last: 0.64, 0.5, 0.5, 0.36 over 128, then 0.8 and 0.2
        # over 512.
        ("parameter", 160, {"p": 1, "q": 0, "r": 0}),
        ("parameter", 380, {"p": 2, "q": 1, "r": 2}),
        # Expected losses saved per bit: p 6/60, 1/50; q 0.9/60, 0.05/50; r 3/60, 5/50, the latter
        # no more than 3/60.
        ("kfac", 160, {"p": 1, "q": 0, "r": 0}),
        ("kfac", 220, {"p": 1, "q": 0, "r": 1}),
        ("kfac", 270, {"p": 1, "q": 0, "r": 2}),
        ("kfac", 320, {"p": 2, "q": 0, "r": 2}),
        ("kfac", 380, {"p": 2, "q": 1, "r": 2}),
        ("kfac", 10**6, {"p": 2, "q": 2, "r": 2}),
    ],
)
def test_greedy_by_other_measures_by_hand(
    per: str, budget_bits: int, ranks: dict[str, int]
) -> None:
    losses = {"p": [9.0, 3.0, 2.0], "q": [1.0, 0.1, 0.05], "r": [9.0, 6.0, 1.0]}
    kfac = Residuals(
        missing_if_sent={module: np.array(curve, np.float32) for module, curve in losses.items()}
    )
    shapes = {"p": (64, 64), "q": (256, 256), "r": (64, 64)}
    obs = replace(observe(KNOWN, budget_bits, shapes=shapes), kfac=kfac)
    assert SpectralGreedy(per).plan(obs).ranks == ranks  # type: ignore[arg-type]


@pytest.mark.slow
@seeded
@given(obs=observations().map(with_losses), per=st.sampled_from(["parameter", "kfac"]))
def test_greedy_by_other_measures_is_legal_and_affordable(obs: RoundObservation, per: str) -> None:
    plan = SpectralGreedy(per).plan(obs)  # type: ignore[arg-type]
    assert_legal(plan, obs)
    assert plan_bits(obs, plan) <= obs.budget.bits


def test_greedy_by_kfac_counts_the_bits_that_a_module_costs_beside_its_directions() -> None:
    # p's first saves 6 for 60 bits, q's second 5.5 for 50.
    losses = {"p": [6.0, 0.0, 0.0], "q": [15.5, 5.5, 0.0]}
    kfac = Residuals(
        missing_if_sent={module: np.array(curve, np.float32) for module, curve in losses.items()}
    )
    obs = replace(observe({"p": [1.0, 1.0], "q": [1.0, 1.0]}, 220), kfac=kfac)
    assert SpectralGreedy("kfac").plan(obs).ranks == {"p": 0, "q": 2}


def test_greedy_by_kfac_stops_at_a_direction_that_saves_nothing() -> None:
    kfac = Residuals(missing_if_sent={"p": np.array([4.0, 2.0, 2.0, 0.0], np.float32)})
    obs = replace(observe({"p": [3.0, 2.0, 1.0]}, 10**6), kfac=kfac)
    assert SpectralGreedy("kfac").plan(obs).ranks == {"p": 1}


def waterfill_by_search(obs: RoundObservation) -> dict[str, int | Keep]:
    """The lowest of all levels that fits, each tried as one would say it."""
    worth = {
        module: np.square(obs.spectra[module][: min(shape)].astype(float)) / sum(shape)
        for module, shape in obs.module_shapes.items()
    }
    everything: dict[str, int | Keep] = dict.fromkeys(worth, KEEP)
    for level in sorted({float(x) for values in worth.values() for x in values if x > 0}):
        ranks: dict[str, int | Keep] = {
            module: int((values >= level).sum()) or (KEEP if obs.held.get(module, 0) else 0)
            for module, values in worth.items()
        }
        if recount(obs, ranks) <= obs.budget.bits:
            return ranks
    return everything


@pytest.mark.slow
@seeded
@given(obs=observations().filter(lambda obs: len(obs.module_shapes) * obs.r_max <= 500))
def test_waterfill_has_the_lowest_level_that_fits(obs: RoundObservation) -> None:
    assert Waterfill().plan(obs).ranks == waterfill_by_search(obs)


def test_waterfill_leaves_equal_directions_on_one_side_of_the_level() -> None:
    spectra = {"p": [2.0, 1.0], "q": [1.0, 0.5], "r": [1.0, 0.5]}
    by_budget = {
        bits: list(Waterfill().plan(observe(spectra, bits)).ranks.values())
        for bits in (159, 160, 329, 330)
    }
    assert by_budget == {159: [KEEP] * 3, 160: [1, 0, 0], 329: [1, 0, 0], 330: [2, 1, 1]}


def test_waterfill_weighs_modules_against_each_other_by_absolute_energy_per_parameter() -> None:
    shapes = {"p": (64, 64), "q": (256, 256), "r": (64, 64)}
    assert Waterfill().plan(observe(KNOWN, 269, shapes=shapes)).ranks == {"p": 0, "q": 0, "r": 2}
    spectra = {"p": [2.0], "q": [3.0]}  # 4 / 128 and 9 / 512
    assert Waterfill().plan(
        observe(spectra, 160, shapes={"p": (64, 64), "q": (256, 256)})
    ).ranks == {"p": 1, "q": 0}


# ------------------------------------------------------------------------------------------------
# price


LOSSES = Residuals(
    missing_if_sent={"p": np.array([8e-6, 4e-6, 1e-6, 1e-6]), "q": np.array([8e-6, 6e-6, 5e-6, 0])},
    missing_if_kept={"q": 1.5e-6},
)


@pytest.mark.parametrize(
    ("nats_per_mbit", "budget_bits", "ranks"),
    [
        (0.0, 10**6, {"p": 2, "q": 3}),
        # Keeping q for its 256 bits of digest would be dearer than sending it for 160.
        (0.005, 10**6, {"p": 2, "q": 3}),
        (0.0, 370, {"p": 2, "q": 3}),
        (
            0.0,
            369,
            {"p": 2, "q": 2},
        ),  # q's third is on the hull but too large; single ranks fill up
        (0.0, 0, {"p": KEEP, "q": KEEP}),
        (1.0, 10**6, {"p": KEEP, "q": KEEP}),
    ],
)
def test_constant_price_by_hand(
    nats_per_mbit: float, budget_bits: int, ranks: dict[str, int | Keep]
) -> None:
    obs = replace(observe(dict.fromkeys("pq", [1.0] * 3), budget_bits, held={"q": 1}), kfac=LOSSES)
    assert ConstantPrice(nats_per_mbit, feedback=False).plan(obs).ranks == ranks


@pytest.mark.parametrize("feedback", [False, True])
def test_in_an_episode_a_price_takes_its_share_at_most(feedback: bool) -> None:
    spectra = {f"m{i}": [3.0, 2.0, 1.0, 0.5] for i in range(20)}
    obs = in_an_episode(with_losses(observe(spectra, 5000)), 4, [])
    bits = plan_bits(obs, ConstantPrice(1e-9, feedback).plan(obs))
    share = 5000 / 4 * (BURST if feedback else 1)
    assert 0.9 * share < bits <= share


@pytest.mark.parametrize(
    ("airtimes_s", "left_s", "rounds", "factor"),
    [
        ([], 4.0, 4, 1.0),
        ([1.0, 1.0], 2.0, 2, 1.0),
        ([1.5, 1.5], 1.0, 2, math.e),
        ([0.0, 0.0], 4.0, 2, math.exp(-2.0)),
        ([2.0, 1.0, 1.0], 0.0, 1, 1.0),  # the last round
        ([5.0, 5.0], 1.0, 1, 1.0),  # a budget for each round
        ([0.0], 0.0, 3, 1.0),
        ([1.0] * 50, 0.0, 950, math.exp(20.0)),
    ],
)
def test_feedback_multiplies_the_price_by_e_for_each_share_ahead(
    airtimes_s: list[float], left_s: float, rounds: int, factor: float
) -> None:
    obs = in_an_episode(observe({"p": [1.0]}, 100), rounds, airtimes_s)
    obs = replace(obs, budget=replace(obs.budget, airtime_s=left_s))
    assert paced_price(obs, 0.3) == pytest.approx(0.3 * factor)


def test_feedback_is_the_step_by_step_rule_of_mirror_descent() -> None:
    rng, price, left_s, spent = np.random.default_rng(0), 0.2, 8.0, []
    for _ in range(6):
        airtime_s = float(rng.uniform(0, 1.3))
        price *= math.exp(airtime_s / (8.0 / 8) - 1)
        spent.append(airtime_s)
        left_s -= airtime_s
    obs = in_an_episode(observe({"p": [1.0]}, 100), 2, spent)
    assert paced_price(
        replace(obs, budget=replace(obs.budget, airtime_s=left_s)), 0.2
    ) == pytest.approx(price)


def test_feedback_plans_at_the_price_that_it_paces() -> None:
    spectra = {f"m{i}": [3.0, 2.0, 1.0, 0.5] for i in range(20)}
    obs = in_an_episode(with_losses(observe(spectra, 10**6)), 2, [1.9])
    steered, alone = (
        ConstantPrice(50.0, feedback=True),
        ConstantPrice(paced_price(obs, 50.0), feedback=False),
    )
    assert paced_price(obs, 50.0) > 60
    assert steered.plan(obs) == alone.plan(obs) != ConstantPrice(50.0, feedback=False).plan(obs)


# ------------------------------------------------------------------------------------------ every
# rule


RULES: list[RankPolicy] = [
    SpectralGreedy("rank"),
    SpectralGreedy("parameter"),
    SpectralGreedy("kfac"),
    Waterfill(),
    ConstantPrice(0.01, feedback=False),
    ConstantPrice(0.01, feedback=True),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


@every_rule
@settings(seeded, max_examples=12)
@given(obs=observations().map(with_losses), rounds=st.integers(1, 5))
def test_every_rule_is_legal_and_within_its_share(
    rule: RankPolicy, obs: RoundObservation, rounds: int
) -> None:
    obs = in_an_episode(obs, rounds, [0.5] * 3)
    plan = rule.plan(obs)
    assert_legal(plan, obs)
    share = share_of(obs, BURST if "feedback" in rule.name else 1.0).budget.bits
    assert plan_bits(obs, plan) <= share <= obs.budget.bits
    assert share < obs.budget.bits or rounds <= BURST or obs.budget.bits == 0


@every_rule
def test_only_what_weighs_expected_losses_asks_for_them(rule: RankPolicy) -> None:
    obs = observe(KNOWN, 400)
    if "K-FAC" in rule.name or "price" in rule.name:
        with pytest.raises(ModelError, match=r"carries no expected losses \(kfac\)"):
            rule.plan(obs)
    else:
        assert_legal(rule.plan(obs), obs)


@every_rule
def test_a_rule_refuses_what_is_not_finite(rule: RankPolicy) -> None:
    spectra = {"p": [1.0], "q": [float("nan")]}
    with pytest.raises(ModelError, match=r"not finite"):
        rule.plan(with_losses(observe(spectra, 10**6)))


@every_rule
def test_a_rule_plans_224_modules_of_16_directions_within_the_budget(rule: RankPolicy) -> None:
    rng = np.random.default_rng(1)
    spectra = {f"m{i}": sorted(rng.exponential(size=16).tolist(), reverse=True) for i in range(224)}
    obs = with_losses(
        observe(spectra, 100 + 224 * 10 + 224 * 12 * 50, shapes=dict.fromkeys(spectra, SHAPE))
    )
    plan = rule.plan(obs)
    assert not plan.sends_nothing
    assert plan_bits(obs, plan) <= obs.budget.bits


@pytest.mark.parametrize(
    ("nats_per_mbit", "feedback", "message"),
    [
        (-1.0, False, "price -1.0 nats/Mbit"),
        (math.nan, False, "price nan"),
        (0.0, True, "stays 0 whatever feedback"),
    ],
)
def test_a_price_that_cannot_be_is_refused(
    nats_per_mbit: float, feedback: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ConstantPrice(nats_per_mbit, feedback)


# ------------------------------------------------------------------------------------------- real
# bytes


@pytest.mark.parametrize("held", [{}, {"a": 2, "b": 1}])
def test_plan_bits_is_the_length_of_the_payload_that_the_codec_makes(held: dict[str, int]) -> None:
    rng, target = np.random.default_rng(3), CodecTarget(coefficient_bits=4)
    base = BaseSpec(identity="a" * 64, module_shapes={"a": (9, 13), "b": (13, 9), "c": (21, 5)})
    whole = {
        m: LowRankFactors(a=rng.standard_normal((4, i)), b=rng.standard_normal((o, 4)))
        for m, (o, i) in base.module_shapes.items()
    }
    obs = observe(
        {"a": [1.0] * 4, "b": [1.0] * 4, "c": [9.0, 1.0, 1.0, 1.0]},
        1200,
        prices=bits_per_direction(base, target),
        held=held,
        shapes=base.module_shapes,
        overhead_bits=overhead_bits(base, target),
        bits_per_module=BITS_PER_MODULE,
    )
    plan = SpectralGreedy("rank").plan(obs)
    kept = frozenset(module for module, rank in plan.ranks.items() if rank == KEEP)
    update = LoraUpdate(
        round_id=1,
        base_identity=base.identity,
        factors={
            m: leading(whole[m], rank)
            for m, rank in plan.ranks.items()
            if rank != KEEP and rank > 0
        },
        kept=kept,
        kept_from="b" * 64 if kept else None,
    )
    assert update.factors
    assert bool(kept) == bool(held)
    assert 8 * len(encode(update, target, base=base, plan=plan)) == plan_bits(obs, plan) <= 1200
