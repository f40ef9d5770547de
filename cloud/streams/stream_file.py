"""A stream of rounds as a record, and as one file of the cache."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hil.codec import decode
from hil.contract import BaseSpec, LowRankFactors, ScoreSet, TextState
from hil.settings.policy import Method
from hil.system.whole_file import written_whole

FORMAT: Final = 2
"""The files' format; a file of another one is trained anew."""

Curves = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """T rounds of training over M adapted modules at ranks up to R.

    Attributes:
        digest: names the stream: hash of all that decides it.
        spec: the base model's identity and shapes.
        module_shapes: adapted modules in canonical order, as (d_out, d_in).
        r_max: R.
        max_tokens: longest score item.
        method, target_rank: how it was trained; a rank only for "adalora" and "eva".
        domains, texts, score_sets: one a round.
        base_scores, base_losses: float64[T], nothing delivered; scores are NaN for a language-model
            set.
        full_scores, full_losses: float64[T], all of the round's own directions delivered.
        spectra: float32[T, M, R], singular values.
        sent_energy, sent_kfac: float32[T, M, R + 1], what is missing when r directions of the round
            are sent.
        kept_energy, kept_kfac: float32[T, M, R + 1, T], [sent in, module, r, now]: what is missing
            now when the edge holds r directions sent in another round; NaN for a round that is
            still to come.
        trial_missing, trial_excess: float64[T, K], every round's MeasuredLoss; of another method
            than "lora" what is expected, as nothing is tried.
        payloads: every round's whole update as the codec encodes it.
    """

    digest: str
    spec: BaseSpec
    module_shapes: Mapping[str, tuple[int, int]]
    r_max: int
    max_tokens: int
    method: Method
    target_rank: int | None
    domains: tuple[str, ...]
    texts: tuple[TextState, ...]
    score_sets: tuple[ScoreSet, ...]
    base_scores: NDArray[np.float64]
    base_losses: NDArray[np.float64]
    full_scores: NDArray[np.float64]
    full_losses: NDArray[np.float64]
    spectra: Curves
    sent_energy: Curves
    sent_kfac: Curves
    kept_energy: Curves
    kept_kfac: Curves
    trial_missing: NDArray[np.float64]
    trial_excess: NDArray[np.float64]
    payloads: tuple[bytes, ...] = field(repr=False)

    @property
    def n_rounds(self) -> int:
        """T."""
        return len(self.domains)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the adapted modules, in canonical order."""
        return tuple(self.module_shapes)

    @property
    def base_identity(self) -> str:
        """Identity of the base model that it was trained on."""
        return self.spec.identity

    def factors(self, round_id: int) -> Mapping[str, LowRankFactors]:
        """A round's whole update as the edge decodes it; modules without any direction are
        absent."""
        return _decoded(self.payloads[round_id], _Spec(self.spec))


@dataclass(frozen=True, eq=False)
class _Spec:
    """A base model's spec as part of a cache's key: equal by identity."""

    spec: BaseSpec

    def __hash__(self) -> int:
        return hash(self.spec.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Spec) and other.spec.identity == self.spec.identity


@lru_cache(maxsize=64)
def _decoded(payload: bytes, base: _Spec) -> Mapping[str, LowRankFactors]:
    return decode(payload, base.spec).factors


# ----------------------------------------------------------------------------------------------
# file

SCORES: Final = ("base_scores", "base_losses", "full_scores", "full_losses")
_ARRAYS: Final = (
    *SCORES,
    "spectra",
    "sent_energy",
    "sent_kfac",
    "kept_energy",
    "kept_kfac",
    "trial_missing",
    "trial_excess",
)


def write_stream(path: Path, stream: Stream) -> None:
    """Write a stream's file; nobody ever reads half of one."""
    sets = {score_set.name: asdict(score_set) for score_set in stream.score_sets}
    about = {
        "format": FORMAT,
        "digest": stream.digest,
        "modules": list(stream.modules),
        "r_max": stream.r_max,
        "max_tokens": stream.max_tokens,
        "method": stream.method,
        "target_rank": stream.target_rank,
        "domains": stream.domains,
        "texts": [asdict(text) for text in stream.texts],
        "score_sets": sets,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {name: getattr(stream, name) for name in _ARRAYS}
    entries["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    for t, payload in enumerate(stream.payloads):
        entries[f"payload_{t}"] = np.frombuffer(payload, np.uint8)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **entries)


def read_stream(path: Path, spec: BaseSpec, digest: str) -> Stream | None:
    """The stream in a file; None when there is none, it is damaged, or not the one asked for."""
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        payloads = tuple(arrays.pop(f"payload_{t}").tobytes() for t in range(len(about["domains"])))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    if about["format"] != FORMAT or about["digest"] != digest or set(arrays) != set(_ARRAYS):
        return None
    sets = {name: ScoreSet.of(entry) for name, entry in about["score_sets"].items()}
    return Stream(
        digest=digest,
        spec=spec,
        module_shapes={name: spec.module_shapes[name] for name in about["modules"]},
        r_max=about["r_max"],
        max_tokens=about["max_tokens"],
        method=about["method"],
        target_rank=about["target_rank"],
        domains=tuple(about["domains"]),
        texts=tuple(TextState(**entry) for entry in about["texts"]),
        score_sets=tuple(sets[name] for name in about["domains"]),
        payloads=payloads,
        **arrays,
    )
