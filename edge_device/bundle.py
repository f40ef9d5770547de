"""The edge bundle: a folder with all that an edge needs, so that it can do without torch and any
conversion.

manifest.json       format, base identity, quantisation, tensor types, SHA-256 of every file
model.gguf          the quantised base model
score_sets/*.json   one file a domain, named by its SHA-256
probe.json          a small score set that every update must stand before it is installed
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edge_device.gguf_model import GgufModel, TypesReport, inspect
from hil.contract import ModelError, ScoreSet
from hil.system.whole_file import file_sha256, written_whole

_FORMAT: Final = 1
_CURE: Final = "make the bundle again with `hil provision`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An edge bundle whose files are what its manifest says.

    Attributes:
        folder: the bundle's folder.
        model_path: the quantised GGUF.
        model: description of the model, read from that file.
        quant: quantisation that was asked for, for example "Q4_K_M"; `model.types` tells what it
            came to.
        score_sets: name of the domain → score set.
        probe: the small set that every update is tried on.
    """

    folder: Path
    model_path: Path
    model: GgufModel
    quant: str
    score_sets: Mapping[str, ScoreSet]
    probe: ScoreSet

    def score_set(self, name: str) -> ScoreSet:
        """The set of a domain. Raises ModelError when the bundle has none of that name."""
        if name not in self.score_sets:
            known = ", ".join(sorted(self.score_sets))
            raise ModelError(
                f"the edge bundle '{self.folder}' has no score set '{name}' (it has {known}): "
                f"{_CURE}"
            )
        return self.score_sets[name]


def write_bundle(
    folder: Path,
    model_gguf: Path,
    *,
    quant: str,
    types: TypesReport,
    score_sets: Iterable[ScoreSet],
    probe: ScoreSet,
) -> Bundle:
    """Write a bundle and read it back; the manifest comes last, so an interrupted one is no bundle.

    Args:
        folder: made if it does not exist; a bundle in it is replaced.
        model_gguf: quantised model, copied (linked where the file system can).
        quant: name of the quantisation.
        types: its tensor types.
        score_sets: one score set a domain, under different names.
        probe: a small set for the trial of every update.
    Raises:
        ModelError: score sets without contents or with the same name, or a file that is no model of
            ours.
    """
    sets = list(score_sets)
    names = [score_set.name for score_set in sets]
    if len(set(names)) != len(names):
        raise ModelError(
            f"two score sets have the same name among {', '.join(sorted(names))}: rename one"
        )
    (folder / "score_sets").mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    with written_whole(folder / "model.gguf") as temporary:
        _place(model_gguf, temporary)
    paths = {score_set.name: f"score_sets/{score_set.digest}.json" for score_set in sets}
    _write(folder / "probe.json", _to_bytes(probe))
    for score_set in sets:
        _write(folder / paths[score_set.name], _to_bytes(score_set))
    for stray in (folder / "score_sets").glob("*.json"):
        if f"score_sets/{stray.name}" not in paths.values():
            stray.unlink()
    manifest = {
        "format": _FORMAT,
        "base_identity": inspect(folder / "model.gguf").spec.identity,
        "quant": quant,
        "types": asdict(types),
        "score_sets": paths,
        "sha256": {
            path: file_sha256(folder / path)
            for path in ("model.gguf", "probe.json", *paths.values())
        },
    }
    _write(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return load_bundle(folder)


def load_bundle(folder: Path) -> Bundle:
    """The bundle in a folder, every file checked against its hash.

    Raises:
        ModelError: no bundle, of another format, incomplete or altered; the message names the file.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise ModelError(
                f"'{folder}' is an edge bundle of format {manifest['format']}, not {_FORMAT}: "
                f"{_CURE}"
            )
        for path, expected in manifest["sha256"].items():
            if file_sha256(folder / path) != expected:
                raise ModelError(
                    f"'{folder / path}' is not what the bundle's manifest says: {_CURE}"
                )
        model = inspect(folder / "model.gguf")
        if model.spec.identity != manifest["base_identity"]:
            raise ModelError(
                f"'{folder}' has a model of another base than its manifest says: {_CURE}"
            )
        score_sets = {name: _read(folder / path) for name, path in manifest["score_sets"].items()}
        return Bundle(
            folder=folder,
            model_path=folder / "model.gguf",
            model=model,
            quant=str(manifest["quant"]),
            score_sets=score_sets,
            probe=_read(folder / "probe.json"),
        )
    except OSError as error:
        raise ModelError(
            f"'{folder}' is no edge bundle: {error.strerror}: '{error.filename}': {_CURE}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"'{folder}' is a damaged edge bundle ({error!r}): {_CURE}") from error


# -----------------------------------------------------------------------------------------------
# score sets


def _to_bytes(score_set: ScoreSet) -> bytes:
    if bool(score_set.questions) == bool(score_set.chunks):
        raise ModelError(
            f"score set '{score_set.name}' needs either questions or chunks of text, one of the two"
        )
    return score_set.to_bytes()


def _read(path: Path) -> ScoreSet:
    score_set = ScoreSet.of(json.loads(path.read_text(encoding="utf-8")))
    if any(not 0 <= q.answer < len(q.labels) for q in score_set.questions):
        raise ValueError(f"{path.name} has a question whose answer is not among its labels")
    return score_set


# ------------------------------------------------------------------------------------------------
# files


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
