"""Puts hil.toml and configs/ into the wheel, where hil.settings.shipped finds them."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfigurationsHook(BuildHookInterface):
    """A step of the build: an editable installation reads them in the clone, so it gets none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every configuration to the files that the wheel carries."""
        if version != "editable":
            root = Path(self.root)
            for source in (root / "hil.toml", *(root / "configs").glob("*.toml")):
                build_data["force_include"][str(source)] = f"hil/configurations/{source.name}"
