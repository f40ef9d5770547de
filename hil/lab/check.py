"""Is this bench usable? Every finding at once, each with its cure."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hil.contract import HilError
from hil.extras import cure_of
from hil.settings import Settings, load_settings
from hil.settings.radio import LoopbackRadio
from hil.system.waits import waiting_for

MIN_FREE_BYTES = 500_000_000
_EDGE_PACKAGES = ("llama-cpp-python", "gguf", "paho-mqtt", "numpy", "scipy")
_PACKAGES = ("torch", "transformers", "peft", *_EDGE_PACKAGES)
_SLOW = ("model", "edge", "control", "radio")


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check: its subject, whether it is usable, and what it is or how to cure it."""

    subject: str
    ok: bool
    text: str


def check_bench(
    config: Path, overrides: Sequence[str], *, bundle: Path | None = None
) -> list[Finding]:
    """Findings about everything that a run needs; a fault ends only its own check.

    Args:
        config, overrides: the experiment.
        bundle: folder of an edge device that has nothing else: model and score sets are looked for
            there.
    """
    findings = [_libraries(_EDGE_PACKAGES if bundle else _PACKAGES)]
    try:
        settings = load_settings(config, overrides)
    except HilError as error:
        return [Finding("configuration", False, str(error)), *findings]
    findings.insert(0, Finding("configuration", True, str(config)))
    looks: list[tuple[str, Callable[[Settings], str]]] = [("disk", _disk)]
    if bundle is None:
        looks += [("model", _model), ("text", _text), ("edge", _edge)]
    else:
        looks += [("edge", lambda _: _bundle(bundle))]
    looks += [("control", _control), ("radio", _radio), ("calibration", _calibration)]
    for subject, look in looks:
        if subject in _SLOW:
            waiting_for(f"looking at the {subject}")
        try:
            findings.append(Finding(subject, True, look(settings)))
        except HilError as error:
            findings.append(Finding(subject, False, str(error)))
        except ModuleNotFoundError as error:
            findings.append(Finding(subject, False, cure_of(error) or str(error)))
    return findings


def _libraries(packages: Sequence[str]) -> Finding:
    versions, missing = [], []
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "libraries",
            False,
            f"missing: {', '.join(missing)}; type: pip install 'hil-lora-testbed[cloud,edge]'",
        )
    return Finding("libraries", True, ", ".join(versions))


def _disk(settings: Settings) -> str:
    free = shutil.disk_usage(Path.cwd()).free
    if free < MIN_FREE_BYTES:
        raise HilError(
            f"{free / 1e6:.0f} MB free here, at least {MIN_FREE_BYTES / 1e6:.0f} MB are needed; "
            "make room"
        )
    return f"{free / 1e9:.1f} GB free"


def _model(settings: Settings) -> str:
    from cloud.model.base_model import open_base_model

    base = open_base_model(settings.model.base)
    return (
        f"{base.folder.name}, identity {base.spec.identity[:12]}…, "
        f"{len(base.spec.module_shapes)} projections"
    )


def _text(settings: Settings) -> str:
    from cloud.model.base_model import open_base_model
    from cloud.text.loading import load_domains, notes_of

    limit = open_base_model(settings.model.base).token_limit(settings.finetune.max_tokens)
    domains, stream = load_domains(settings.text, settings.run.seed, limit)
    sizes = (
        f"{d.name} ({len(d.train):,} examples to train on, "
        f"{len(d.score_set.questions or d.score_set.chunks):,} to score on)"
        for d in domains.values()
    )
    return "; ".join([", ".join(sizes), *notes_of(domains), f"stream of {len(stream)} rounds"])


def _edge(settings: Settings) -> str:
    from cloud.model.base_model import open_base_model
    from cloud.text.loading import load_domains
    from edge_device.runtime import Runtime
    from hil.loop.provision import cached_bundle

    base = open_base_model(settings.model.base)
    limit = base.token_limit(settings.finetune.max_tokens)
    domains, _ = load_domains(settings.text, settings.run.seed, limit)
    bundle = cached_bundle(base, [d.score_set for d in domains.values()], settings.edge)
    with Runtime(bundle.model_path) as runtime:
        return (
            f"llama.cpp answers, {settings.edge.quant} ({bundle.model.types}), "
            f"{runtime.memory_bytes / 1e6:.0f} MB"
        )


def _control(settings: Settings) -> str:
    from hil.control.opening import open_buses

    with ExitStack() as stack:
        open_buses(settings.control, stack)
    return f"{settings.control.url} answers"


def _bundle(folder: Path) -> str:
    from edge_device.bundle import load_bundle
    from edge_device.runtime import Runtime

    bundle = load_bundle(folder)
    with Runtime(bundle.model_path) as runtime:
        return (
            f"llama.cpp answers, {bundle.quant} ({bundle.model.types}), "
            f"{runtime.memory_bytes / 1e6:.0f} MB; "
            f"score sets {', '.join(bundle.score_sets)}"
        )


def _radio(settings: Settings) -> str:
    from hil.lab import check_radio

    radio = settings.radio
    if isinstance(radio, LoopbackRadio):
        try:
            plugged = "; ".join(check_radio.usb_contexts()) or "none is plugged in"
            return f"simulated; for real ones: {check_radio.libraries()}, {plugged}"
        except HilError as error:
            return f"simulated; real ones would not work yet: {error}"
    versions = check_radio.libraries()
    found = check_radio.radios([radio.uri, radio.receive_uri or radio.uri])
    bands = ", ".join(
        f"{b.low_hz / 1e6:g}-{b.high_hz / 1e6:g} MHz up to {b.max_dbm:g} dBm"
        for b in radio.allow.bands
    )
    return f"{found}; {versions}; allowed to transmit: {bands or 'nowhere'}"


def _calibration(settings: Settings) -> str:
    from calibration.store import load
    from hil.lab import check_radio

    radio = settings.radio
    if isinstance(radio, LoopbackRadio):
        return (
            "none needed: the air is simulated, thresholds were measured in loopback "
            "(radio/modem/mcs_table.json)"
        )
    found = check_radio.describe(radio.receive_uri or radio.uri)
    now_utc = datetime.now(UTC)
    known = load(
        settings.calibration.records_folder,
        serial=found["hw_serial"],
        lo_hz=radio.receive_lo_hz,
        rate_hz=radio.rate_hz,
        emulated="emulated" in found["hw_model"],
        now_utc=now_utc,
        max_age_h=settings.calibration.max_age_h,
    )
    age_h = (
        max((now_utc - record.measured_at).total_seconds() for record in known.records.values())
        / 3600
    )
    measured = f"{len(known.records)} quantities of {found['hw_serial']}, oldest {age_h:.1f} h"
    return "; ".join([measured, *known.warnings])
