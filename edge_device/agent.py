"""The edge itself: payload bytes in, a receipt out, and always a model that answers.

A payload is decoded, checked and written into a free slot; it stands its trial in the running model
process while that goes on answering with the update before; then one pointer moves. Whatever fails,
the update before stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

import numpy as np

from edge_device.acceptance import Limits, UpdateRefused, check_effect, check_loss, validate
from edge_device.adapter import write_adapter
from edge_device.bundle import Bundle
from edge_device.runtime import BASE, ItemScores, LoadedAdapter, Runtime, RuntimeSettings
from edge_device.slots import Slot, SlotStore
from hil import codec
from hil.contract import (
    CodecError,
    DeviceError,
    LoraUpdate,
    ModelError,
    Receipt,
    ReceiptStatus,
    ScoreSet,
)

_NOTHING_HELD: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldUpdate:
    """The update that an edge holds.

    Attributes:
        digest: SHA-256 (hex) of the payload it came in; "" for the bare base model.
        ranks: module → rank; modules without an update are absent.
    """

    digest: str
    ranks: Mapping[str, int]


class EdgeAgent:
    """An edge device: the bundle's model behind a supervised process, and the updates it takes.

    Args:
        bundle: the edge bundle, see `edge_device.bundle`.
        state_dir: folder of installed updates; no other process may use it.
        settings: threads and deadlines of the model process.
        limits: the largest update that it takes.

    Raises:
        ModelError: llama.cpp cannot load the bundle's model.
        DeviceError: the model process does not start.
    """

    def __init__(
        self,
        bundle: Bundle,
        state_dir: Path,
        *,
        settings: RuntimeSettings | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.bundle = bundle
        self._limits = limits or Limits()
        self._scores: dict[tuple[str, str], ItemScores] = {}  # (held digest, score set) → scores
        self._slots = SlotStore(state_dir, base_identity=bundle.model.spec.identity)
        self.runtime = Runtime(bundle.model_path, settings=settings)
        try:
            self._base_probe = self.runtime.score(bundle.probe, adapter=BASE)
            self._boot()
        except BaseException:
            self.runtime.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the model process; what is installed stays on disk."""
        self.runtime.close()

    def _boot(self) -> None:
        slot = self._slots.boot()
        if slot is not None:
            try:
                self.runtime.swap(self._slots.adapter_path(slot))
            except (ModelError, DeviceError):
                self._drop()
        self._slots.started()

    def _drop(self) -> None:
        self._slots.flip(None)
        self._slots.confirm()

    # ------------------------------------------------------------------------------- what is held

    def held_update(self) -> HeldUpdate:
        """The update in use, for the cloud to plan with."""
        slot = self._held()
        if slot is None:
            return HeldUpdate(digest=_NOTHING_HELD, ranks={})
        factors = self._slots.update(slot).factors
        return HeldUpdate(
            digest=slot.digest, ranks={module: f.rank for module, f in factors.items()}
        )

    def _held(self) -> Slot | None:
        # The runtime gives an adapter up when no child starts with it any more; the store must not
        # claim it then.
        if self._slots.active is not None and self.runtime.active_adapter is None:
            self._drop()
        return self._slots.active

    def _held_digest(self) -> str:
        slot = self._held()
        return _NOTHING_HELD if slot is None else slot.digest

    # ---------------------------------------------------------------------------------------------
    # applying

    def apply(
        self, round_id: int, payload: bytes | None, score_set: str, *, failure: str = ""
    ) -> Receipt:
        """Install a payload and score the active model; a payload that cannot be installed is
        refused, never raised.

        Raises:
            ModelError: the bundle has no such score set.
            DeviceError: the model process cannot be brought back, or the disk cannot be written.
        """
        scored = self.bundle.score_set(score_set)
        status, reason, swap_ms = self._taken(payload, scored, failure)
        return self._receipt(round_id, status, reason, scored, swap_ms)

    def confirm(self, round_id: int, score_set: str) -> Receipt:
        """The receipt for an update that is held already, however it came here: nothing is
        installed again.

        Raises:
            ModelError, DeviceError: as apply.
        """
        return self._receipt(round_id, "installed", "", self.bundle.score_set(score_set), 0.0)

    def _taken(
        self, payload: bytes | None, scored: ScoreSet, failure: str
    ) -> tuple[ReceiptStatus, str, float]:
        """Status and reason of a payload, and the milliseconds that requests waited."""
        if payload is None:
            return ("refused", failure, 0.0) if failure else ("kept", "", 0.0)
        digest = codec.digest(payload)
        if digest == self._held_digest():
            return "installed", "", 0.0  # the same payload again
        try:
            return "installed", "", self._install(payload, digest, scored)
        except (CodecError, ModelError, DeviceError, UpdateRefused) as error:
            self.runtime.ping()  # raises if it is the bench that is broken, not the payload
            return "refused", str(error), 0.0
        except OSError as error:
            raise DeviceError(
                f"the edge cannot write its slots: {error}: free some disk space"
            ) from error

    def _install(self, payload: bytes, digest: str, scored: ScoreSet) -> float:
        """Install a payload; gives the milliseconds that requests waited."""
        model = self.bundle.model
        update = self._composed(codec.decode(payload, model.spec))
        validate(update, model, self._limits)
        if not update.factors:
            return self._switch(None, None)
        slot = self._slots.stage(update, digest, lambda path: write_adapter(update, model, path))
        loaded = self.runtime.load(self._slots.adapter_path(slot))
        try:
            scores = self._try(loaded, scored)
            swap_ms = self._switch(slot, loaded)
        except BaseException:
            self.runtime.discard(loaded)
            raise
        self._scores = {
            key: value for key, value in self._scores.items() if key[0] == _NOTHING_HELD
        }
        self._scores[digest, scored.name] = scores
        return swap_ms

    def _composed(self, update: LoraUpdate) -> LoraUpdate:
        """The update with the modules it keeps filled in from the one that is held."""
        if not update.kept:
            return update
        slot = self._held()
        if slot is None or slot.digest != update.kept_from:
            holds = "the bare base model" if slot is None else f"{slot.digest[:12]}…"
            raise UpdateRefused(
                f"the edge holds another update ({holds}) than the one to keep modules of "
                f"({update.kept_from:.12}…): "
                "send all modules"
            )
        held = self._slots.update(slot).factors
        kept = {module: held[module] for module in update.kept if module in held}
        return replace(update, factors={**update.factors, **kept}, kept=frozenset(), kept_from=None)

    def _try(self, loaded: LoadedAdapter, scored: ScoreSet) -> ItemScores:
        """Scores of an update that passes its trial."""
        check_effect(self.runtime.score(self.bundle.probe, adapter=loaded.name), self._base_probe)
        scores = self.runtime.score(scored, adapter=loaded.name)
        check_loss(scores, self._score(_NOTHING_HELD, scored), scored.name, self._limits)
        return scores

    def _switch(self, slot: Slot | None, loaded: LoadedAdapter | None) -> float:
        """Point at the new slot and answer with it, or stay with the old one; milliseconds that
        requests were held."""
        before = self.runtime.active_adapter
        self._slots.flip(slot)
        try:
            held_up_ms = self.runtime.activate(loaded)
            self._slots.confirm()
        except BaseException:
            self._slots.rollback()
            if self.runtime.active_adapter != before:
                self.runtime.swap(before)
            raise
        return held_up_ms

    # ---------------------------------------------------------------------------------------------
    # scoring

    def _score(self, digest: str, score_set: ScoreSet) -> ItemScores:
        """Scores of the held update, or of the bare base; measured once, because equal input gives
        equal bits."""
        key = digest, score_set.name
        if key not in self._scores:
            scores = self.runtime.score(
                score_set, **({"adapter": BASE} if digest == _NOTHING_HELD else {})
            )
            self._scores[key] = scores
        return self._scores[key]

    def _receipt(
        self, round_id: int, status: ReceiptStatus, reason: str, score_set: ScoreSet, swap_ms: float
    ) -> Receipt:
        digest = self._held_digest()
        scores, base = self._score(digest, score_set), self._score(_NOTHING_HELD, score_set)
        gain, gain_std_error = paired_gain(scores, base)
        return Receipt(
            round_id=round_id,
            status=status,
            reason=reason,
            held_digest=digest,
            score_set=score_set.name,
            n_scored=len(scores.nats),
            score=_share(scores.correct),
            loss_nats_per_token=scores.loss_nats_per_token,
            base_score=_share(base.correct),
            base_loss_nats_per_token=base.loss_nats_per_token,
            gain=gain,
            gain_std_error=gain_std_error,
            swap_ms=swap_ms,
        )


def paired_gain(scores: ItemScores, base: ItemScores) -> tuple[float, float]:
    """Gain of an update over the base model on a score set, and its standard error.

    With labels: the mean of the differences d in {-1, 0, 1} of right answers, and std(d) / sqrt(n).
    With text: the chunks are clusters of tokens, so the loss saved per token is the ratio Σ d / Σ t
    of nats saved d and tokens t, and its standard error sqrt(n / (n - 1) · Σ (d - ratio · t)²) / Σ
    t. One item alone has no standard error: NaN, or 0 when nothing differs.

    Args:
        scores, base: scores of the same items with the update and without.
    Source: Cochran, Sampling Techniques, 3rd ed., 1977, section 6.3 (ratio estimate).
    """
    if len(scores.correct):
        difference = scores.correct.astype(np.float64) - base.correct.astype(np.float64)
        weight = np.ones(len(difference))
    else:
        difference, weight = base.nats - scores.nats, scores.tokens.astype(np.float64)
    n = len(difference)
    gain = float(difference.sum() / weight.sum())
    if not difference.any():
        return 0.0, 0.0
    if n == 1:
        return gain, math.nan
    residual = difference - gain * weight
    return gain, float(np.sqrt(n / (n - 1) * np.sum(residual**2)) / weight.sum())


def _share(correct: np.typing.NDArray[np.bool_]) -> float:
    return float(correct.mean()) if len(correct) else math.nan
