"""Rounds to plan for, made up: by hand, or drawn at random."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from hil.contract import (
    KEEP,
    Budget,
    ChannelState,
    Keep,
    RankPlan,
    Residuals,
    RoundObservation,
    RoundSummary,
    TextState,
)

SHAPE = (64, 64)
TEXT = TextState(
    domain="d", lexical_entropy_bits=5.0, lexical_entropy=0.5, oov_rate=0.1, pieces_per_word=1.5
)


def observe(
    spectra: Mapping[str, list[float]],
    budget_bits: int,
    *,
    prices: Mapping[str, int] | None = None,
    held: Mapping[str, int] | None = None,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    overhead_bits: int = 100,
    bits_per_module: int = 10,
    snr_db: float = 10.0,
) -> RoundObservation:
    """A round in which each direction costs 50 bits, unless said otherwise."""
    channel = ChannelState(
        snr_db=snr_db,
        snr_std_db=1.0,
        age_s=0.1,
        cfo_hz=0.0,
        bandwidth_hz=1e6,
        airtime_share=1.0,
        block_error_rate=0.0,
        goodput_bps=float("nan"),
    )
    return RoundObservation(
        round_id=1,
        channel=channel,
        text=TEXT,
        budget=Budget(airtime_s=1.0, bits=budget_bits),
        module_shapes=shapes or dict.fromkeys(spectra, SHAPE),
        r_max=max(len(spectrum) for spectrum in spectra.values()),
        bits_per_direction=prices or dict.fromkeys(spectra, 50),
        overhead_bits=overhead_bits,
        bits_per_module=bits_per_module,
        spectra={module: np.array(spectrum, np.float32) for module, spectrum in spectra.items()},
        held=held or {},
    )


@st.composite
def observations(draw: st.DrawFn) -> RoundObservation:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, r_max = draw(st.sampled_from([1, 2, 7, 28, 224])), draw(st.sampled_from([1, 2, 8, 16, 64]))
    names = [f"m{i}" for i in range(n)]
    spectra = -np.sort(-np.exp(rng.normal(0, 2, (n, r_max))), axis=1) * rng.choice(
        [0, 1, 1e-3, 1e3], (n, 1)
    )
    prices = {name: int(price) for name, price in zip(names, rng.integers(1, 5000, n), strict=True)}
    everything = 500 + n * 40 + r_max * sum(prices.values())
    budget_bits = draw(st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 2.0])) * everything
    return observe(
        {name: list(row) for name, row in zip(names, spectra, strict=True)},
        int(budget_bits),
        prices=prices,
        shapes={
            name: (int(a), int(b))
            for name, a, b in zip(names, *rng.integers(1, 99, (2, n)), strict=True)
        },
        held={
            name: int(rank)
            for name, rank in zip(names, rng.integers(0, 3, n), strict=True)
            if rng.random() < 0.7
        },
        overhead_bits=500,
        bits_per_module=40,
        snr_db=draw(st.sampled_from([float("nan"), -5.0, 15.0])),
    )


def with_losses(obs: RoundObservation, seed: int = 0) -> RoundObservation:
    """The round with expected losses: the energy that is missing, each module on a scale of its
    own."""
    rng = np.random.default_rng(seed)
    sent, kept = {}, {}
    for module, spectrum in obs.spectra.items():
        missing = np.append(np.cumsum(np.square(spectrum[::-1], dtype=np.float64))[::-1], 0.0)
        sent[module] = (10 ** rng.uniform(-3, 0) * missing).astype(np.float32)
        if obs.held.get(module, 0):
            kept[module] = float(sent[module][0] * rng.uniform(0.1, 1.5))
    return replace(obs, kfac=Residuals(missing_if_sent=sent, missing_if_kept=kept))


def in_an_episode(obs: RoundObservation, rounds: int, airtimes_s: list[float]) -> RoundObservation:
    """The round with a budget that must last `rounds` rounds, after past rounds that took these
    airtimes."""
    past = [
        RoundSummary(
            round_id=i,
            domain="d",
            ranks={},
            payload_bits=0,
            airtime_s=airtime_s,
            score=0.5,
            loss_nats_per_token=1.0,
            accepted=True,
        )
        for i, airtime_s in enumerate(airtimes_s)
    ]
    return replace(obs, budget=replace(obs.budget, rounds=rounds), history=tuple(past))


def recount(obs: RoundObservation, ranks: Mapping[str, int | Keep]) -> int:
    """Payload bits of a plan that sends something."""
    sent = {module: rank for module, rank in ranks.items() if isinstance(rank, int) and rank > 0}
    directions_bits = sum(obs.bits_per_direction[module] * rank for module, rank in sent.items())
    kept = any(not isinstance(rank, int) for rank in ranks.values())
    return obs.overhead_bits + len(sent) * obs.bits_per_module + directions_bits + 256 * kept


def assert_legal(plan: RankPlan, obs: RoundObservation) -> None:
    """Every module once and in order, with a rank that it has, or kept."""
    assert list(plan.ranks) == list(obs.module_shapes)
    for module, rank in plan.ranks.items():
        assert rank == KEEP or 0 <= rank <= min(obs.r_max, *obs.module_shapes[module])
