"""The update that an edge holds at the end of a run, in the forms that others read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cloud.model.base_model import open_base_model
from edge_device.adapter import to_peft, write_adapter
from edge_device.gguf_model import inspect
from edge_device.slots import SlotStore
from hil.contract import ConfigError
from hil.loop.provision import f16_model
from hil.settings import load_settings


def export_run(folder: Path, form: Literal["peft", "gguf"], out: Path | None = None) -> Path:
    """Write the last installed update of a run; gives the path of what was written.

    Args:
        folder: the run's folder.
        form: "peft": a folder for PeftModel.from_pretrained; "gguf": a file for llama-server
            --lora.
        out: target; export-peft/ or export.gguf in the run's folder by default.
    Returns:
        What was written.
    Raises:
        ConfigError: not a run folder, or the edge held no update at its end.
    """
    settings = load_settings(folder / "config.toml")
    base = open_base_model(settings.model.base)
    store = SlotStore(folder / "edge", base_identity=base.spec.identity)
    slot = store.active
    if slot is None:
        raise ConfigError(
            f"run {folder}: the edge holds no update at its end, there is nothing to export"
        )
    update = store.update(slot)
    if form == "peft":
        target = out or folder / "export-peft"
        to_peft(update, target, base_name=base.name)
        return target
    target = out or folder / "export.gguf"
    write_adapter(update, inspect(f16_model(base, settings.edge)), target)
    return target
