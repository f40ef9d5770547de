"""Is this bench usable? Every finding at once, each with its cure."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hil.config import Settings, load_settings
from hil.contract import HilError

MIN_FREE_BYTES = 500_000_000
_PACKAGES = ("torch", "transformers", "peft", "llama-cpp-python", "gguf", "paho-mqtt", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, whether it is usable, and what it is or how to cure it."""

    subject: str
    ok: bool
    text: str


def check_bench(config: Path, overrides: Sequence[str]) -> list[Finding]:
    """Look at configuration, libraries, disk, model, text, edge process and broker; a fault ends only its own line."""
    findings = [_libraries()]
    try:
        settings = load_settings(config, overrides)
    except HilError as error:
        return [Finding("configuration", False, str(error)), *findings]
    findings.insert(0, Finding("configuration", True, str(config)))
    looks: list[tuple[str, Callable[[Settings], str]]] = [
        ("disk", _disk),
        ("model", _model),
        ("text", _text),
        ("edge", _edge),
        ("control", _control),
    ]
    for subject, look in looks:
        try:
            findings.append(Finding(subject, True, look(settings)))
        except HilError as error:
            findings.append(Finding(subject, False, str(error)))
        except ImportError as error:
            findings.append(Finding(subject, False, f"{error}; type: make setup"))
    return findings


def _libraries() -> Finding:
    versions, missing = [], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("libraries", False, f"missing: {', '.join(missing)}; type: make setup")
    return Finding("libraries", True, ", ".join(versions))


def _disk(settings: Settings) -> str:
    free = shutil.disk_usage(Path.cwd()).free
    if free < MIN_FREE_BYTES:
        raise HilError(f"{free / 1e6:.0f} MB free here, at least {MIN_FREE_BYTES / 1e6:.0f} MB are needed; make room")
    return f"{free / 1e9:.1f} GB free"


def _model(settings: Settings) -> str:
    from cloud.base_model import open_base_model

    base = open_base_model(settings.model.base)
    return f"{base.folder.name}, identity {base.spec.identity[:12]}…, {len(base.spec.module_shapes)} projections"


def _text(settings: Settings) -> str:
    from cloud.text import load_domains

    domains, stream = load_domains(settings.text, settings.run.seed)
    return (
        f"{', '.join(f'{d.name} ({len(d.train)} examples)' for d in domains.values())}; stream of {len(stream)} rounds"
    )


def _edge(settings: Settings) -> str:
    from cloud.base_model import open_base_model
    from cloud.text import load_domains
    from edge_device.runtime import Runtime
    from hil.provision import cached_bundle

    base = open_base_model(settings.model.base)
    domains, _ = load_domains(settings.text, settings.run.seed)
    bundle = cached_bundle(base, [d.score_set for d in domains.values()], settings.edge)
    with Runtime(bundle.model_path) as runtime:
        return f"llama.cpp answers, {settings.edge.quant} ({bundle.model.types}), {runtime.memory_bytes / 1e6:.0f} MB"


def _control(settings: Settings) -> str:
    from hil.halves import open_buses

    with ExitStack() as stack:
        open_buses(settings.control, stack)
    return f"{settings.control.url} answers"
