"""Two slots for adapters and one pointer between them: whatever moment the power fails at, one
whole update is active.

A slot holds the adapter as llama.cpp takes it and the update it was made from. New contents go into
the slot that is not active; the pointer file then moves in one atomic step. Everything is checked
against its hash before it is used again, so a slot that was being overwritten when the power failed
is simply not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from hil.contract import LoraUpdate, LowRankFactors
from hil.system.whole_file import file_sha256, written_whole

MAX_FAILED_STARTS: Final = 3
"""Starts with an adapter that may fail in a row before the edge starts with the bare base model."""

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The contents of a slot, as the pointer file has them.

    Attributes:
        name: "a" or "b".
        digest: SHA-256 (hex) of the payload it came in.
        round_id: the round it came in.
        base_identity: the base model it belongs to.
        adapter_sha256, update_sha256: SHA-256 (hex) of the slot's two files.
    """

    name: str
    digest: str
    round_id: int
    base_identity: str
    adapter_sha256: str
    update_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """The state of the store; its file is the only thing that decides.

    Attributes:
        state: "trial" from the flip to a new slot until that is confirmed.
        active: slot in use; None for the bare base model.
        previous: slot to go back to.
        failed_starts: starts with the active slot that have begun and not been reported as done.
    """

    state: Literal["confirmed", "trial"] = "confirmed"
    active: Slot | None = None
    previous: Slot | None = None
    failed_starts: int = 0


class SlotStore:
    """The adapters of one edge, in one folder of its own.

    Args:
        folder: made if it does not exist.
        base_identity: the base model that is served; what belongs to another is not used.
    """

    def __init__(self, folder: Path, *, base_identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._base_identity = base_identity
        self._pointer = self._read_pointer()

    # ---------------------------------------------------------------------------------------------
    # reading

    @property
    def active(self) -> Slot | None:
        """The slot in use, on trial or confirmed; None for the bare base model."""
        return self._pointer.active

    def adapter_path(self, slot: Slot) -> Path:
        """The slot's file for llama.cpp."""
        return self._folder / f"{slot.name}.gguf"

    def update(self, slot: Slot) -> LoraUpdate:
        """The whole update of a slot, nothing kept from another."""
        factors: dict[str, LowRankFactors] = {}
        with np.load(self._update_path(slot.name), allow_pickle=False) as arrays:
            for module in dict.fromkeys(key.rpartition("/")[0] for key in arrays.files):
                factors[module] = LowRankFactors(a=arrays[f"{module}/a"], b=arrays[f"{module}/b"])
        return LoraUpdate(round_id=slot.round_id, base_identity=slot.base_identity, factors=factors)

    def _update_path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"

    def _whole(self, slot: Slot | None) -> bool:
        if slot is None or slot.base_identity != self._base_identity:
            return False
        hashes = {
            self.adapter_path(slot): slot.adapter_sha256,
            self._update_path(slot.name): slot.update_sha256,
        }
        return all(
            path.is_file() and file_sha256(path) == expected for path, expected in hashes.items()
        )

    # ---------------------------------------------------------------------------------------------
    # moving

    def boot(self) -> Slot | None:
        """The slot to start with, or None for the bare base model; counts as a failed start until
        `started`.

        A slot still on trial is given up for the one before it, and so is a slot whose files are
        not what they were.
        """
        pointer = self._pointer
        if pointer.state == "trial":
            pointer = Pointer(active=pointer.previous)
        if pointer.failed_starts >= MAX_FAILED_STARTS:
            pointer = Pointer()
        if not self._whole(pointer.active):
            pointer = Pointer(active=pointer.previous if self._whole(pointer.previous) else None)
        if pointer.active is not None:
            pointer = replace(pointer, failed_starts=pointer.failed_starts + 1)
        if pointer != self._pointer:
            self._move(pointer)
        return pointer.active

    def started(self) -> None:
        """The start that `boot` began has succeeded."""
        if self._pointer.failed_starts:
            self._move(replace(self._pointer, failed_starts=0))

    def stage(
        self, update: LoraUpdate, digest: str, write_adapter: Callable[[Path], object]
    ) -> Slot:
        """Write an update into the slot that is not active; nothing points there yet.

        Args:
            update: complete, nothing kept.
            digest: SHA-256 (hex) of the payload it came in.
            write_adapter: writes the file for llama.cpp, whole or not at all, and on disk when it
                returns.
        """
        name = "b" if self.active is not None and self.active.name == "a" else "a"
        adapter_path = self._folder / f"{name}.gguf"
        write_adapter(adapter_path)
        with written_whole(self._update_path(name)) as temporary, temporary.open("wb") as file:
            arrays = {f"{module}/a": factors.a for module, factors in update.factors.items()}
            arrays |= {f"{module}/b": factors.b for module, factors in update.factors.items()}
            np.savez(file, allow_pickle=False, **arrays)
        return Slot(
            name=name,
            digest=digest,
            round_id=update.round_id,
            base_identity=update.base_identity,
            adapter_sha256=file_sha256(adapter_path),
            update_sha256=file_sha256(self._update_path(name)),
        )

    def flip(self, slot: Slot | None) -> None:
        """Point at a staged slot (None: the bare base model), on trial; the one before stays until
        it is confirmed."""
        self._move(Pointer(state="trial", active=slot, previous=self._pointer.active))

    def confirm(self) -> None:
        """The active slot has stood its trial."""
        self._move(replace(self._pointer, state="confirmed"))

    def rollback(self) -> None:
        """Back to the slot before the flip; does nothing when none is on trial."""
        if self._pointer.state == "trial":
            self._move(Pointer(active=self._pointer.previous))

    # ----------------------------------------------------------------------------------------- the
    # pointer

    @property
    def _pointer_path(self) -> Path:
        return self._folder / "pointer.json"

    def _move(self, pointer: Pointer) -> None:
        with written_whole(self._pointer_path) as temporary:
            temporary.write_text(
                json.dumps({"format": _FORMAT, **asdict(pointer)}, indent=1), encoding="utf-8"
            )
        self._pointer = pointer

    def _read_pointer(self) -> Pointer:
        """The pointer in the file; that of an empty store if the file is missing or damaged."""
        try:
            content = json.loads(self._pointer_path.read_text(encoding="utf-8"))
            return _parse(content)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return Pointer()


def _parse(content: dict[str, Any]) -> Pointer:
    if content["format"] != _FORMAT or content["state"] not in ("confirmed", "trial"):
        raise ValueError("unknown pointer format")
    active, previous = (
        Slot(**content[key]) if content[key] else None for key in ("active", "previous")
    )
    return Pointer(
        state=content["state"],
        active=active,
        previous=previous,
        failed_starts=int(content["failed_starts"]),
    )
