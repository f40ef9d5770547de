"""Score sets as bytes: what two machines compare to know that they score by the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

from hil.contract import ScoreSet


def canonical(score_set: ScoreSet) -> bytes:
    """A score set as JSON in UTF-8: equal sets give equal bytes."""
    return json.dumps(
        asdict(score_set), sort_keys=True, ensure_ascii=False, separators=(",", ":")
    ).encode()


def digest_of(score_set: ScoreSet) -> str:
    """SHA-256 (hex) of a score set: equal sets have equal names everywhere."""
    return hashlib.sha256(canonical(score_set)).hexdigest()


def digest_of_all(score_sets: Iterable[ScoreSet]) -> str:
    """SHA-256 (hex) of several score sets of different names, whatever their order."""
    digests = sorted(digest_of(score_set) for score_set in score_sets)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
