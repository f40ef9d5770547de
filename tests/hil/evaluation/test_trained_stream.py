"""A real stream is scored alike by the merged model and by llama.cpp, and is trained once only."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cloud.policies.baselines import FixedRank, LargestUniform
from cloud.streams.stream import Stream, cached_stream, stream_domains
from hil.evaluation.trained_stream import Bench, ScoreOn, StreamBench, open_stream_bench
from hil.settings import Settings, parse_settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shallow_model: Path) -> Settings:
    folder = tmp_path_factory.mktemp("streams")
    return parse_settings(
        {
            "model": {"base": str(shallow_model), "r_max": 4},
            "finetune": {"plan_share": 0.0},
            "streams": {
                "rounds": 2,
                "dwell": 1,
                "domains": ["jargon40", "mixed100"],
                "steps": 8,
                "batch": 8,
                "items": 8,
                "cache": str(folder / "streams"),
            },
            "edge": {"quant": "F16", "cache": str(folder / "edge")},
            "radio": {"channel": {"snr_db": 15.0}},
        },
        source="test",
    )


@pytest.fixture(scope="module")
def bench(settings: Settings) -> StreamBench:
    opened = open_stream_bench(settings, 5, 1, "lora", None, "cloud")
    assert isinstance(opened, StreamBench)
    return opened


@pytest.fixture(scope="module")
def stream(settings: Settings, bench: StreamBench) -> Stream:
    """The stream that the bench has trained; a step of training now would fail."""

    def forbidden() -> None:
        raise AssertionError("trained again")

    return cached_stream(
        settings, text_seed=5, train_seed=1, domains=stream_domains(settings, 5), on_step=forbidden
    )


@pytest.mark.slow
def test_anchors_are_what_the_stream_measured(bench: StreamBench, stream: Stream) -> None:
    for t, anchors in enumerate(bench.anchors):
        assert anchors.base_loss_nats == pytest.approx(stream.base_losses[t], rel=1e-6)
        assert anchors.full_loss_nats == pytest.approx(stream.full_losses[t], rel=1e-6)
        assert anchors.base_score == pytest.approx(stream.base_scores[t], nan_ok=True)
        assert anchors.full_loss_nats < anchors.base_loss_nats


@pytest.mark.slow
def test_a_round_that_sends_everything_reaches_its_anchor(
    bench: StreamBench, settings: Settings
) -> None:
    roomy = parse_settings({**settings.model_dump(), "budget": {"airtime_s": 20.0}}, source="test")
    runner = bench.runner(roomy)
    for t in range(2):
        obs = runner.reset(0) if t == 0 else runner.observation
        assert obs is not None
        result = runner.run(FixedRank(4).plan(obs))
        assert result.loss_nats == pytest.approx(bench.anchors[t].full_loss_nats, rel=1e-6)


@pytest.mark.slow
def test_llama_cpp_scores_the_same_states_alike(bench: StreamBench, settings: Settings) -> None:
    """With an f16 base both compute the same model; the losses agree to its rounding, anchors
    included."""
    pytest.importorskip("gguf")
    edge = open_stream_bench(settings, 5, 1, "lora", None, "edge")
    try:
        for ours, theirs in zip(bench.anchors, edge.anchors, strict=True):
            assert theirs.base_loss_nats == pytest.approx(ours.base_loss_nats, abs=0.01)
            assert theirs.full_loss_nats == pytest.approx(ours.full_loss_nats, abs=0.01)
        losses = []
        for one in (bench, edge):
            runner, policy = one.runner(settings), LargestUniform()
            runner.run(policy.plan(runner.reset(0)))
            assert runner.observation is not None
            losses.append(runner.run(policy.plan(runner.observation)).loss_nats)
        assert losses[0] == pytest.approx(losses[1], abs=0.01)
    finally:
        edge.close()
    assert not Path(edge._scorer._folder.name).exists()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("score_on", ["cloud", "edge"])
def test_a_bench_with_branches_scores_what_was_trained_within_the_plan(
    settings: Settings, score_on: ScoreOn
) -> None:
    """What a plan brings is another, what the scores lie between stays."""
    pytest.importorskip("gguf")
    data = settings.model_dump()
    longer = {
        **data,
        "streams": {
            **data["streams"],
            "steps": 24,
            "batch": 16,
        },
    }
    plain, within = (
        parse_settings({**longer, "finetune": {"plan_share": x}}, source="test") for x in (0.0, 0.5)
    )
    losses, anchors = [], []
    for one in (plain, within):
        with closing(open_stream_bench(one, 5, 1, "lora", None, score_on)) as opened:
            anchors.append([(a.base_loss_nats, a.full_loss_nats) for a in opened.anchors])
            losses.append(_second_round(opened, one))
    assert anchors[0] == anchors[1]
    assert losses[1] != losses[0]


@pytest.mark.slow
def test_a_method_that_trains_at_its_own_ranks_is_scored_as_it_is(settings: Settings) -> None:
    within = parse_settings(
        {**settings.model_dump(), "finetune": {"plan_share": 0.5}}, source="test"
    )
    losses = []
    for one in (settings, within):
        with closing(open_stream_bench(one, 5, 1, "adalora", 2, "cloud")) as opened:
            losses.append(_second_round(opened, one))
    assert losses[0] == losses[1]


def _second_round(bench: Bench, settings: Settings) -> float:
    runner, policy = bench.runner(settings), FixedRank(1)
    runner.run(policy.plan(runner.reset(0)))
    assert runner.observation is not None
    return runner.run(policy.plan(runner.observation)).loss_nats
