"""The cloud half's record of the edge: what is kept, replaced, dropped and never arrives."""

from collections.abc import Mapping

import numpy as np
import pytest

from cloud.agent import CloudHalf, Trained
from cloud.finetuning.directions import Directions
from cloud.finetuning.finetuner import Branch
from cloud.finetuning.importance import Curvature, Moment
from cloud.model.base_model import BaseModel
from cloud.text.loading import load_domains
from hil import codec
from hil.contract import (
    KEEP,
    Budget,
    ChannelState,
    Keep,
    LowRankFactors,
    RankPlan,
    RoundObservation,
    TextState,
)
from hil.settings import Settings, parse_settings

TEXT = TextState(
    domain="jargon40",
    lexical_entropy_bits=5.0,
    lexical_entropy=0.5,
    oov_rate=0.1,
    pieces_per_word=1.2,
)
CHANNEL = ChannelState(
    snr_db=5.0,
    snr_std_db=0.5,
    age_s=0.0,
    cfo_hz=0.0,
    bandwidth_hz=1e6,
    airtime_share=1.0,
    block_error_rate=0.0,
    goodput_bps=1e6,
)


def settings_of(policy: Mapping[str, object] | None = None, plan_share: float = 0.0) -> Settings:
    return parse_settings(
        {
            "text": {"stream": ["jargon40"], "train_examples": 120, "score_examples": 40},
            "model": {"r_max": 2},
            "finetune": {"steps": 4, "batch": 4, "threads": 1, "plan_share": plan_share},
            "policy": policy or {"kind": "largest"},
        },
        source="test",
    )


@pytest.fixture
def cloud(base: BaseModel) -> CloudHalf:
    settings = settings_of()
    return CloudHalf(settings, base, *load_domains(settings.text, 0, base.token_limit(64)))


def trained(cloud: CloudHalf, seed: int) -> Trained:
    """A round whose training came to random directions, with a curvature that measures ½ ‖ΔW‖²."""
    rng = np.random.default_rng(seed)
    found, curvature = {}, {}
    for name, (d_out, d_in) in cloud.module_shapes.items():
        a, b = rng.standard_normal((2, d_in)), rng.standard_normal((d_out, 2))
        found[name] = Directions.of(LowRankFactors(a=a, b=b))
        x, g = (Moment(np.eye(d), None, np.zeros(d)) for d in (d_in, d_out))
        curvature[name] = Curvature(x, g)
    return Trained(
        text=TEXT,
        loss_nats=1.0,
        steps=4,
        directions=found,
        delivered={name: d.cut(2) for name, d in found.items()},
        curvature=curvature,
        trial=(),
        branch=Branch({}, ()),
    )


def send(
    cloud: CloudHalf, round_id: int, ranks: Mapping[str, int | Keep], held_digest: str
) -> bytes:
    return cloud.encode(
        round_id, trained(cloud, round_id), RankPlan(ranks=dict(ranks)), held_digest
    )


def seen(cloud: CloudHalf, round_id: int) -> RoundObservation:
    budget = Budget(airtime_s=1.0, bits=10**6)
    return cloud.observe(round_id, trained(cloud, round_id), CHANNEL, budget, {})


def distance(now: LowRankFactors, then: LowRankFactors) -> float:
    """‖ΔW_now - ΔW_then‖², densely."""
    return float(np.linalg.norm(now.b @ now.a - then.b @ then.a) ** 2)


def test_what_the_edge_lacks_is_measured_against_the_cut_it_holds_module_by_module(
    cloud: CloudHalf,
) -> None:
    modules = list(cloud.module_shapes)
    kept, replaced, dropped, late = modules[:4]
    rest = dict.fromkeys(modules[4:], 0)
    first = send(cloud, 0, {kept: 1, replaced: 1, dropped: 1, late: 0, **rest}, "")
    cloud.confirm(first, codec.digest(first))
    assert set(seen(cloud, 1).kfac.missing_if_kept) == {kept, replaced, dropped}
    plan: dict[str, int | Keep] = {kept: KEEP, replaced: 2, dropped: 0, late: 1, **rest}
    second = send(cloud, 1, plan, codec.digest(first))
    cloud.confirm(second, codec.digest(second))
    obs = seen(cloud, 2)
    assert set(obs.kfac.missing_if_kept) == {kept, replaced, late}
    assert set(obs.energy.missing_if_kept) == {kept, replaced, late}
    now = trained(cloud, 2).delivered
    for module, (round_id, rank) in {kept: (0, 1), replaced: (1, 2), late: (1, 1)}.items():
        cut = trained(cloud, round_id).directions[module].cut(rank)
        lacks = distance(now[module], cut)
        assert obs.energy.missing_if_kept[module] == pytest.approx(lacks, rel=1e-4)
        assert obs.kfac.missing_if_kept[module] == pytest.approx(lacks / 2, rel=1e-4)


def test_a_payload_that_the_edge_did_not_install_changes_nothing(cloud: CloudHalf) -> None:
    modules = list(cloud.module_shapes)
    first = send(cloud, 0, dict.fromkeys(modules, 1), "")
    cloud.confirm(first, codec.digest(first))
    before = seen(cloud, 2).energy.missing_if_kept
    lost = send(cloud, 1, dict.fromkeys(modules, 2), codec.digest(first))
    cloud.confirm(lost, codec.digest(first))
    assert seen(cloud, 2).energy.missing_if_kept == before
    cloud.confirm(b"", codec.digest(first))
    assert seen(cloud, 2).energy.missing_if_kept == before


@pytest.mark.parametrize("digest", ["", "ab" * 32])
def test_an_edge_that_holds_something_else_holds_nothing_that_is_known(
    cloud: CloudHalf, digest: str
) -> None:
    first = send(cloud, 0, dict.fromkeys(cloud.module_shapes, 1), "")
    cloud.confirm(first, codec.digest(first))
    cloud.confirm(b"", digest)
    assert seen(cloud, 1).energy.missing_if_kept == {}


def test_modules_that_the_edge_keeps_are_what_the_others_are_trained_beside(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(plan_share=0.5)
    cloud = CloudHalf(settings, base, *load_domains(settings.text, 0, base.token_limit(64)))
    asked = []

    def within_plan(_tuner, _branch, cut, kept, *_):
        asked.append((set(cut), dict(kept)))

    monkeypatch.setattr("cloud.agent.within_plan", within_plan)
    stays, changes, goes = list(cloud.module_shapes)[:3]
    rest = dict.fromkeys(list(cloud.module_shapes)[3:], 0)
    first = send(cloud, 0, {stays: 1, changes: 1, goes: 1, **rest}, "")
    cloud.confirm(first, codec.digest(first))
    send(cloud, 1, {stays: KEEP, changes: 2, goes: 0, **rest}, codec.digest(first))
    assert [cut for cut, _ in asked] == [{stays, changes, goes}, {changes}]
    assert asked[0][1] == {}
    assert set(asked[1][1]) == {stays}
    decoded = codec.decode(first, base.spec).factors[stays]
    np.testing.assert_array_equal(asked[1][1][stays].a, decoded.a)
    np.testing.assert_array_equal(asked[1][1][stays].b, decoded.b)


@pytest.mark.slow
def test_a_method_that_trains_at_its_own_ranks_has_no_branch(base: BaseModel) -> None:
    payloads = []
    for share in (0.0, 0.5):
        settings = settings_of({"kind": "adalora", "rank": 2}, share)
        cloud = CloudHalf(settings, base, *load_domains(settings.text, 0, base.token_limit(64)))
        left = cloud.train(0, lambda: None)
        ranks = {name: d.rank for name, d in left.directions.items()}
        payloads.append(cloud.encode(0, left, RankPlan(ranks=ranks), ""))
    assert payloads[0] == payloads[1]
