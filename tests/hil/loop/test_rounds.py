"""The closed loop: what a run leaves behind, that it repeats, and that a bad channel does not hurt
it."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from cloud.model.base_model import open_base_model
from edge_device.runtime import Runtime
from hil.contract import ConfigError
from hil.loop.export import export_run
from hil.loop.provision import f16_model
from hil.loop.rounds import Watcher, run
from hil.radio_kinds.round_radio import LinkRadio, RoundRadio
from hil.reporting.run_folder import comparable, read_run
from hil.settings import load_settings
from radio.modem.mcs import MCS_TABLE

SHIPPED = Path(__file__).parents[3] / "hil.toml"
SHARE = 0.8


@pytest.fixture(scope="module")
def go(small_overrides, tmp_path_factory):
    """Runs the small experiment with further overrides, and reads what it left."""

    def run_with(*overrides, config=SHIPPED):
        small = [*small_overrides(tmp_path_factory.mktemp("runs")), f"radio.airtime_share={SHARE}"]
        own = small if config == SHIPPED else []
        return read_run(run(load_settings(config, [*own, *overrides]), Watcher()))

    return run_with


@pytest.fixture(scope="module")
def first(go):
    return go()


@pytest.mark.slow
def test_every_round_is_installed_and_scored(first):
    assert first.manifest["outcome"] == "finished"
    assert [row["edge.status"] for row in first.rows] == ["installed"] * 3
    assert [row["text.domain"] for row in first.rows] == ["jargon40", "jargon40", "http"]
    for row in first.rows:
        assert row["edge.held_digest"] == row["payload.sha256"]
        by_mcs = {scheme: row.get(f"link.blocks_by_mcs.{scheme.name}", 0) for scheme in MCS_TABLE}
        assert sum(by_mcs.values()) == row["link.blocks_sent"]
        in_blocks = sum(blocks * 8448 / scheme.code_rate for scheme, blocks in by_mcs.items())
        assert row["link.bits_on_air"] == pytest.approx(in_blocks, rel=1e-3)
        assert row["link.bits_on_air"] > 8 * row["payload.bytes"]
        assert 8 * row["payload.bytes"] <= row["budget.bits"]
        assert row["channel.airtime_share"] == SHARE
        assert row["budget.airtime_s"] == pytest.approx(0.1 * SHARE)
        assert abs(row["channel.snr_db"] - row["truth.snr_db"]) < 1
        assert abs(row["channel.cfo_hz"] - row["truth.cfo_hz"]) < 200
    labelled, prose = first.rows[0], first.rows[2]
    assert labelled["edge.gain"] == pytest.approx(
        labelled["edge.score"] - labelled["edge.base_score"]
    )
    assert np.isnan(prose["edge.score"])
    assert prose["edge.gain"] == pytest.approx(
        prose["edge.base_loss_nats_per_token"] - prose["edge.loss_nats_per_token"], abs=1e-6
    )


@pytest.mark.slow
def test_parameters_sent_are_those_of_the_plan(first):
    shapes = open_base_model(
        load_settings(first.folder / "config.toml").model.base
    ).spec.module_shapes
    for row in first.rows:
        ranks = {
            key.removeprefix("plan.rank."): value
            for key, value in row.items()
            if key.startswith("plan.rank.")
        }
        assert set(ranks) == set(shapes)
        expected = sum(
            rank * sum(shapes[module]) for module, rank in ranks.items() if rank != "keep"
        )
        assert row["payload.parameters"] == expected


@pytest.mark.slow
def test_one_seed_gives_equal_rounds_and_another_does_not(first, go):
    assert comparable(go().rows) == comparable(first.rows)
    assert comparable(go("run.seed=1", "run.rounds=1").rows) != comparable(first.rows[:1])


@pytest.mark.slow
def test_a_run_can_be_repeated_from_its_own_config(first, go):
    assert comparable(go(config=first.folder / "config.toml").rows) == comparable(first.rows)


@pytest.mark.slow
def test_mqtt_carries_the_same_run(first, go, start_broker):
    broker = start_broker()
    over_mqtt = go(f"control.url='{broker.url}'", f"control.secrets_file='{broker.secret}'")
    assert comparable(over_mqtt.rows) == comparable(first.rows)


@pytest.fixture(scope="module")
def control(go):
    return go("run.deliver=false", "run.rounds=2")


@pytest.mark.slow
def test_a_run_that_delivers_nothing_gains_exactly_nothing(control):
    for row in control.rows:
        assert (row["edge.status"], row["payload.bytes"], row["link.bits_on_air"]) == ("kept", 0, 0)
        assert (row["edge.gain"], row["edge.gain_std_error"]) == (0.0, 0.0)
        assert row["edge.held_digest"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snr_db", "why"), [(-10.0, "the slowest MCS needs"), (-25.0, "was answered")]
)
def test_an_unusable_channel_keeps_the_last_update_and_ends(go, snr_db, why):
    faded = go(f"radio.channel.snr_db={{kind='steps', values=[20.0, {snr_db}]}}")
    good, bad, again = faded.rows
    assert good["edge.status"] == again["edge.status"] == "installed"
    assert bad["edge.status"] == "refused"
    assert bad["edge.reason"].startswith("link unusable: ")
    assert why in bad["edge.reason"]
    assert bad["edge.held_digest"] == good["edge.held_digest"] != ""
    assert bad["link.delivered"] is False
    assert bad["link.blocks_sent"] == 0
    assert (bad["channel.snr_db"] == good["channel.snr_db"]) == (
        why == "was answered"
    )  # else it was measured


@pytest.mark.slow
def test_the_rounds_of_an_episode_share_their_airtime(go):
    """What a round leaves over is the later rounds'; airtime_share does not cut it."""
    rows = go("budget.scope=episode").rows
    left_s = 3 * 0.1
    for row in rows:
        assert row["budget.airtime_s"] == pytest.approx(left_s)
        assert row["link.airtime_s"] > 0
        left_s -= row["link.airtime_s"]
    assert [row["budget.rounds"] for row in rows] == [3, 2, 1]


@pytest.mark.slow
def test_an_update_that_is_installed_counts_as_delivered_though_its_last_answer_was_lost(
    go, monkeypatch
):
    deliver = LinkRadio.deliver

    def unanswered_at_the_end(radio, payload, sounding):
        report = deliver(radio, payload, sounding)
        return replace(report, delivered=False, reason="no answer", prefix_bytes=0)

    monkeypatch.setattr(LinkRadio, "deliver", unanswered_at_the_end)
    first, second = go("run.rounds=2").rows
    assert first["edge.status"] == "installed"
    assert (first["link.delivered"], first["link.reason"]) == (True, "")
    assert first["link.prefix_bytes"] == first["payload.bytes"] > 0
    assert second["channel.goodput_bps"] == first["link.goodput_bps"] > 0


def unanswered(sounding):
    nothing = dict.fromkeys(
        ("snr_db", "snr_std_db", "flat_snr_db", "cfo_hz", "measured_at_s"), float("nan")
    )
    return replace(sounding, reason="none of 2 sounding bursts was answered", **nothing)


@pytest.fixture
def lose_sounding(monkeypatch):
    """Lets the answers to a round's sounding get lost, although its channel is as good as ever."""

    def lose(of_round):
        sound, count = RoundRadio.sound, itertools.count()

        def faulty(radio):
            return unanswered(sound(radio)) if next(count) == of_round else sound(radio)

        monkeypatch.setattr(RoundRadio, "sound", faulty)

    return lose


@pytest.mark.slow
def test_a_round_without_an_answer_is_planned_by_the_last_measurement(go, lose_sounding):
    lose_sounding(1)
    good, silent, again = go().rows
    assert [row["edge.status"] for row in (good, silent, again)] == ["installed"] * 3
    assert silent["channel.snr_db"] == good["channel.snr_db"] != again["channel.snr_db"]
    assert silent["budget.bits"] == good["budget.bits"]
    assert again["channel.age_s"] == pytest.approx(good["channel.age_s"])
    assert silent["channel.age_s"] > 2 * good["channel.age_s"]
    assert silent["link.airtime_s"] > 0


@pytest.mark.slow
def test_before_the_first_answer_a_round_is_planned_as_on_the_worst_link(go, lose_sounding):
    lose_sounding(0)
    silent, good = go("run.rounds=2").rows
    assert np.isnan(silent["channel.snr_db"])
    assert 0 < silent["budget.bits"] < good["budget.bits"]
    assert 0 < 8 * silent["payload.bytes"] <= silent["budget.bits"]
    assert silent["edge.status"] == good["edge.status"] == "installed"


@pytest.mark.slow
def test_a_link_that_never_answers_is_tried_and_offers_nothing(go):
    dead = go("radio.channel.snr_db=-25", "run.rounds=2")
    for row in dead.rows:
        assert row["edge.status"] == "refused"
        assert row["edge.reason"].startswith("link unusable: ")
        assert (row["link.blocks_sent"], row["edge.held_digest"]) == (0, "")


@pytest.mark.slow
def test_a_fading_after_the_sounding_is_a_result(go):
    # -6 dB: the sounding is answered, but the robust mode carries no such payload within the
    # deadline.
    faded = go(
        "radio.channel.snr_db=-6",
        "policy.kind=fixed",
        "policy.rank=4",
        "radio.deadline_s=0.3",
        "run.rounds=1",
    )
    [row] = faded.rows
    assert row["edge.status"] == "refused"
    assert row["edge.reason"] == "the update did not arrive"
    assert row["link.reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy", [["policy.kind=fixed", "policy.rank=2"], ["policy.kind=largest"]]
)
def test_uniform_policies_run(go, policy):
    run_ = go(*policy, "run.rounds=1", "codec.coefficient_bits=4", "edge.quant=Q8_0")
    assert run_.rows[0]["edge.status"] == "installed"
    assert len({value for key, value in run_.rows[0].items() if key.startswith("plan.rank.")}) == 1


@pytest.mark.slow
def test_the_default_policy_sends_what_is_worth_its_air(go):
    trained = ("finetune.steps=20", "finetune.batch=16", "run.rounds=1", "policy.kind=ours")
    cheap, dear = (go(*trained, f"policy.nats_per_s={price}").rows[0] for price in (0.001, 1000))
    assert cheap["edge.status"] == "installed"
    assert (dear["edge.status"], dear["payload.bytes"]) == ("kept", 0)


@pytest.mark.slow
def test_training_within_the_plan_costs_the_same_air_and_sends_something_else(first, go):
    within = go("finetune.plan_share=0.5")
    for plain, row in zip(first.rows, within.rows, strict=True):
        assert row["edge.status"] == "installed"
        assert row["payload.bytes"] == plain["payload.bytes"]
        assert (
            row["finetune.loss_nats"] == plain["finetune.loss_nats"]
        )  # the training at r_max does not see it
    assert [row["payload.sha256"] for row in within.rows] != [
        row["payload.sha256"] for row in first.rows
    ]


@pytest.mark.slow
def test_fine_tuning_goes_on_from_an_earlier_run(first, go):
    state = first.folder / "finetune.safetensors"
    further = go(f"finetune.resume_from='{state}'", "run.rounds=1")
    assert comparable(further.rows) != comparable(first.rows[:1])
    assert further.rows[0]["finetune.loss_nats"] != first.rows[0]["finetune.loss_nats"]


@pytest.mark.slow
def test_exports_are_the_update_that_the_edge_holds(go, tmp_path):
    folder = go("model.base=default", "run.rounds=1").folder
    peft_folder = export_run(folder, "peft", tmp_path / "peft")
    exported = json.loads((peft_folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert exported["base_model_name_or_path"] == "hil-lora-testbed-default"
    gguf = export_run(folder, "gguf", tmp_path / "adapter.gguf")
    base = open_base_model("default")
    ids = base.tokenizer("report: the valve was quite broken.\nverdict:")["input_ids"]
    settings = load_settings(folder / "config.toml")
    with Runtime(f16_model(base, settings.edge)) as runtime:
        plain = runtime.logits(ids)
        runtime.swap(gguf)
        served = runtime.logits(ids)
    tuned = PeftModel.from_pretrained(base.load(torch.device("cpu")), str(peft_folder)).eval()
    expected = tuned(input_ids=torch.tensor([ids])).logits[0].detach().numpy()
    assert np.abs(served - expected).max() < 0.02
    assert np.abs(served - plain).max() > 0.2


@pytest.mark.slow
def test_export_without_an_update_is_refused(control):
    with pytest.raises(ConfigError, match="the edge holds no update at its end"):
        export_run(control.folder, "peft")


@pytest.mark.slow
def test_an_interrupted_run_leaves_a_readable_folder_that_was_named_at_the_start(
    small_overrides, tmp_path
):
    settings = load_settings(SHIPPED, small_overrides(tmp_path))
    named = []

    def start(folder):
        named.append((folder, read_run(folder).manifest["outcome"], len(read_run(folder).rows)))

    def stop(row):
        if row["round.id"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, Watcher(on_start=start, on_round=stop))
    [folder] = tmp_path.iterdir()
    assert named == [(folder, "running", 0)]
    left = read_run(folder)
    assert left.manifest["outcome"] == "interrupted"
    assert len(left.rows) == 2
    assert json.loads((folder / "manifest.json").read_text())["seeds"] == {"run": 0}
