"""The edge bundle, made from a base model and a text: the quantised GGUF and the score sets."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from cloud.model.base_model import BaseModel, open_base_model
from cloud.text.loading import load_domains
from edge_device.bundle import Bundle, load_bundle, write_bundle
from edge_device.gguf_conversion import convert, quantise
from hil.contract import ModelError, ScoreSet
from hil.settings import EdgeSettings, Settings
from hil.system.waits import waiting_for

PROBE_ITEMS = 16
"""Items of the small set that every update must stand before it is installed."""

_log = logging.getLogger(__name__)


def provision(settings: Settings, folder: Path) -> Bundle:
    """Write the edge bundle of these settings into a folder.

    Raises:
        ModelError: the base model is missing, damaged, or cannot be served by the edge.
        TextError: the text cannot be read.
    """
    base = open_base_model(settings.model.base)
    limit = base.token_limit(settings.finetune.max_tokens)
    domains, _ = load_domains(settings.text, settings.run.seed, limit)
    return build_bundle(base, [d.score_set for d in domains.values()], settings.edge, folder)


def cached_bundle(base: BaseModel, score_sets: list[ScoreSet], edge: EdgeSettings) -> Bundle:
    """The bundle from the cache, made when it is not there or not whole."""
    sets = json.dumps([asdict(s) for s in score_sets], sort_keys=True)
    key = hashlib.sha256(f"{base.spec.identity} {edge.quant} {sets}".encode()).hexdigest()[:16]
    folder = edge.cache_folder / f"bundle-{key}"
    if folder.exists():
        try:
            return load_bundle(folder)
        except ModelError as error:
            _log.warning("%s", error)
            shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside and moved over: other runs may share the cache.
    with TemporaryDirectory(dir=folder.parent) as making:
        bundle = build_bundle(base, score_sets, edge, Path(making) / "bundle")
        try:
            bundle.folder.rename(folder)
        except OSError:
            _log.info("another run has made %s meanwhile", folder)
    return load_bundle(folder)


def build_bundle(
    base: BaseModel, score_sets: list[ScoreSet], edge: EdgeSettings, folder: Path
) -> Bundle:
    """Convert and quantise the base model, and write the bundle."""
    f16 = f16_model(base, edge)
    quantised = f16.with_name(f"{f16.stem}-{edge.quant}.gguf")
    waiting_for(f"quantising the edge's model to {edge.quant}, once")
    types = quantise(
        f16, quantised, edge.quant, timeout_s=max(600.0, edge.timeout_s), n_threads=edge.threads
    )
    _log.info("edge model %s: %s", edge.quant, types)
    return write_bundle(
        folder,
        quantised,
        quant=edge.quant,
        types=types,
        score_sets=score_sets,
        probe=_probe(score_sets),
    )


def f16_model(base: BaseModel, edge: EdgeSettings) -> Path:
    """The base model as an f16 GGUF in the cache, converted when it is not there."""
    path = edge.cache_folder / f"{base.spec.identity[:16]}.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        waiting_for("converting the base model to GGUF, once")
        convert(base.folder, path)
    return path


def _probe(score_sets: Iterable[ScoreSet]) -> ScoreSet:
    """A few plain texts out of all score sets in turn, prompts of questions included."""
    texts = [[*s.chunks, *(q.prompt for q in s.questions)] for s in score_sets]
    turns: list[str] = []
    for i in range(PROBE_ITEMS):
        turns += (text[i] for text in texts if i < len(text))
    return ScoreSet(name="probe", chunks=tuple(turns[:PROBE_ITEMS]))
