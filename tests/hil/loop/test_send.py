"""`hil send`: an adapter crosses the air whole or cut; nothing that is wrong reaches the air."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cloud.finetuning.directions import Directions
from cloud.model.base_model import BaseModel, open_base_model
from edge_device.adapter import to_peft
from hil import codec
from hil.contract import ConfigError, ModelError
from hil.loop import send as sending
from hil.loop.send import directions_of, fitting_ranks, send
from hil.settings import load_settings
from tests.edge_device.random_updates import random_update

SHIPPED = Path(__file__).parents[3] / "hil.toml"


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return open_base_model("default")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """Mixed ranks of up to 70 on the model that ships, small enough to do no harm."""
    update = random_update(base.spec, ranks=(3, 0, 8, 70), size=0.02)
    folder = tmp_path_factory.mktemp("adapter")
    to_peft(update, folder, base_name=base.name)
    return folder


@pytest.fixture
def settings(small_overrides, tmp_path):
    return lambda *more: load_settings(
        SHIPPED, [*small_overrides(tmp_path), "model.base='default'", *more]
    )


@pytest.mark.slow
def test_an_adapter_is_installed_whole_and_scored_on_every_set(settings, adapter):
    sent = send(settings("budget.airtime_s=0.001", "radio.deadline_s=0.1"), adapter)
    assert sent.report.delivered
    assert sent.installed
    assert sent.ranks == sent.whole
    assert max(sent.ranks.values()) == 70
    assert sent.coefficient_bits == 8
    assert [receipt.score_set for receipt in sent.receipts] == ["jargon40", "http"]
    assert all(np.isfinite(r.gain) and r.gain != 0 for r in sent.receipts[1:])
    assert len({receipt.held_digest for receipt in sent.receipts}) == 1
    json.dumps(sent.as_json())


@pytest.mark.slow
def test_a_budget_is_kept_and_a_dead_channel_is_a_result(settings, adapter):
    sent = send(settings(), adapter, budget_bits=100_000)
    assert sent.installed
    assert 8 * sent.report.payload_bytes <= 100_000
    assert sum(sent.ranks.values()) < sum(sent.whole.values())
    dead = send(settings("radio.channel.snr_db=-25"), adapter, budget_bits=100_000)
    assert not dead.report.delivered
    assert [receipt.status for receipt in dead.receipts] == ["refused", "refused"]
    assert dead.receipts[0].reason
    json.dumps(dead.as_json())


def test_the_cut_is_the_best_that_fits(base):
    names = list(base.spec.module_shapes)[:3]
    rng = np.random.default_rng(2)
    found = {}
    for name, s in zip(names, ([9.0, 1.0], [5.0, 4.0, 3.0], [0.5]), strict=True):
        d_out, d_in = base.spec.module_shapes[name]
        u, _ = np.linalg.qr(rng.standard_normal((d_out, len(s))))
        v, _ = np.linalg.qr(rng.standard_normal((d_in, len(s))))
        found[name] = Directions(u, np.array(s), v.T)
    target = codec.CodecTarget(coefficient_bits=4)
    each = codec.bits_per_direction(base.spec, target)
    fixed = codec.overhead_bits(base.spec, target)
    for room in range(1, 7):  # of directions as wide as the widest
        budget = fixed + 2 * codec.BITS_PER_MODULE + room * max(each[name] for name in names)
        ranks = fitting_ranks(found, base.spec, target, budget)
        bits = fixed
        for name, rank in ranks.items():
            bits += rank * each[name] + (codec.BITS_PER_MODULE if rank else 0)
        assert bits <= budget
        assert ranks[names[0]] >= 1
        assert sum(ranks.values()) >= min(room, 5)
    with pytest.raises(ConfigError, match="not one direction fits; give at least"):
        fitting_ranks(found, base.spec, target, fixed)


@pytest.mark.slow
def test_nothing_that_is_wrong_reaches_the_air(settings, base, adapter, tmp_path, monkeypatch):
    def reached(*_: object) -> None:
        raise AssertionError("the bench was opened")

    monkeypatch.setattr(sending, "open_base_model", lambda name: base)
    monkeypatch.setattr(sending, "load_domains", reached)
    with pytest.raises(AssertionError, match="the bench was opened"):
        send(settings(), adapter)
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ModelError, match="is a DoRA"):
        send(settings(), folder)
    with pytest.raises(ModelError, match="is not a folder"):
        send(settings(), tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"norm .* edge\.max_frobenius is 0\.0001"):
        send(settings("edge.max_frobenius=0.0001"), adapter)
    wide = random_update(base.spec, ranks=(256,), size=0.02)
    to_peft(wide, tmp_path / "wide", base_name=base.name)
    with pytest.raises(ConfigError, match=r"rank 256 at .* takes 255; cut it with --budget-bits"):
        send(settings(), tmp_path / "wide")


def test_an_untrained_adapter_is_refused(base, tmp_path):
    update = random_update(base.spec, ranks=(2,), size=0.0)
    to_peft(update, tmp_path, base_name=base.name)
    with pytest.raises(ConfigError, match="changes nothing: it was saved before it was trained"):
        directions_of(tmp_path, base, 1e3)
