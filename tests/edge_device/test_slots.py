"""The slot store: whichever write fails, the next start finds the old update or the new one,
whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_device.slots import MAX_FAILED_STARTS, SlotStore
from hil.contract import BaseSpec
from hil.system.whole_file import written_whole

SPEC = BaseSpec(
    identity="ab" * 32,
    module_shapes={
        "model.layers.0.self_attn.q_proj": (6, 4),
        "model.layers.0.self_attn.k_proj": (2, 4),
    },
)


class PowerCut(BaseException):
    """Ends the process, as far as the code under test can tell."""


def adapter_bytes(digest: str) -> bytes:
    return f"adapter of {digest}".encode()


def install(store: SlotStore, update, digest: str) -> None:
    def write(path: Path) -> None:
        with written_whole(path) as temporary:
            temporary.write_bytes(adapter_bytes(digest))

    store.flip(store.stage(update, digest, write))
    store.confirm()


def reopened(folder: Path, identity: str = SPEC.identity) -> SlotStore:
    return SlotStore(folder, base_identity=identity)


@pytest.fixture
def updates(make_update):
    return {
        name: make_update(SPEC, seed=seed, round_id=seed)
        for seed, name in enumerate(("old", "new", "third"))
    }


@pytest.fixture
def store(tmp_path, updates):
    """Holds "old", confirmed."""
    store = reopened(tmp_path)
    assert store.boot() is None
    install(store, updates["old"], "old")
    return store


def assert_holds(folder: Path, updates, digest: str) -> None:
    store = reopened(folder)
    slot = store.boot()
    assert slot is not None
    assert slot.digest == digest
    assert store.adapter_path(slot).read_bytes() == adapter_bytes(digest)
    held = store.update(slot)
    assert held.round_id == updates[digest].round_id
    assert held.factors.keys() == updates[digest].factors.keys()
    for module, factors in updates[digest].factors.items():
        np.testing.assert_array_equal(held.factors[module].a, factors.a)
        np.testing.assert_array_equal(held.factors[module].b, factors.b)


def test_what_was_installed_is_there_after_a_restart(tmp_path, store, updates):
    assert_holds(tmp_path, updates, "old")
    install(store, updates["new"], "new")
    assert_holds(tmp_path, updates, "new")
    install(store, updates["third"], "third")
    assert_holds(tmp_path, updates, "third")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("after", [False, True])
def test_power_cut_at_every_write(tmp_path, updates, monkeypatch, call, after):
    real = getattr(os, call)
    seen = []
    for cut_at in range(100):
        folder = tmp_path / str(cut_at)
        store = reopened(folder)
        store.boot()
        install(store, updates["old"], "old")
        calls = iter(range(10_000))

        def failing(*args, calls=calls, cut_at=cut_at, **kwargs):
            now = next(calls) == cut_at
            if now and not after:
                raise PowerCut
            real(*args, **kwargs)
            if now:
                raise PowerCut

        monkeypatch.setattr(os, call, failing)
        try:
            install(store, updates["new"], "new")
            cut = False
        except PowerCut:
            cut = True
        monkeypatch.setattr(os, call, real)
        slot = reopened(folder).boot()
        assert slot is not None
        assert_holds(folder, updates, slot.digest)
        seen.append(slot.digest)
        if not cut:
            break
    assert seen == sorted(seen, reverse=True)  # old, …, old, new, …, new
    assert len(seen) > 4
    assert seen[-1] == "new"
    assert seen[0] == "old"


def test_trial_that_was_not_confirmed_is_undone(tmp_path, store, updates):
    slot = store.stage(updates["new"], "new", lambda path: path.write_bytes(adapter_bytes("new")))
    store.flip(slot)
    assert store.active == slot
    assert_holds(tmp_path, updates, "old")


def test_rollback_goes_to_the_slot_before(tmp_path, store, updates):
    store.flip(
        store.stage(updates["new"], "new", lambda path: path.write_bytes(adapter_bytes("new")))
    )
    store.rollback()
    store.rollback()
    assert store.active is not None
    assert store.active.digest == "old"
    assert_holds(tmp_path, updates, "old")


def test_bare_base_is_a_state_like_others(tmp_path, store):
    store.flip(None)
    assert reopened(tmp_path).boot() is not None  # not confirmed
    store.flip(None)
    store.confirm()
    assert reopened(tmp_path).boot() is None


@pytest.mark.parametrize("suffix", ["gguf", "npz"])
def test_altered_file_is_noticed(tmp_path, store, updates, suffix):
    install(store, updates["new"], "new")
    assert store.active is not None
    path = tmp_path / f"{store.active.name}.{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert_holds(tmp_path, updates, "old")  # the slot before
    (tmp_path / f"{'ab'[store.active.name == 'a']}.{suffix}").unlink()
    assert reopened(tmp_path).boot() is None


def test_three_failed_starts_lead_to_the_bare_base(tmp_path, store):
    for _ in range(MAX_FAILED_STARTS):
        assert reopened(tmp_path).boot() is not None
    assert reopened(tmp_path).boot() is None
    assert reopened(tmp_path).boot() is None


def test_a_start_that_succeeds_is_not_counted(tmp_path, store):
    for _ in range(3 * MAX_FAILED_STARTS):
        again = reopened(tmp_path)
        assert again.boot() is not None
        again.started()


def test_update_of_another_base_is_not_used(tmp_path, store):
    assert reopened(tmp_path, identity="cd" * 32).boot() is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"format": 9}', '{"format": 1, "state": "confirmed"}']
)
def test_damaged_pointer_is_an_empty_store(tmp_path, store, updates, content):
    (tmp_path / "pointer.json").write_text(content)
    again = reopened(tmp_path)
    assert again.boot() is None
    install(again, updates["new"], "new")
    assert_holds(tmp_path, updates, "new")
