"""hil.toml as validated tables."""

from hil.settings.experiment import (
    BudgetSettings,
    CalibrationSettings,
    CodecSettings,
    ControlSettings,
    DefaultText,
    EdgeSettings,
    EnvironmentSettings,
    FileText,
    FinetuneSettings,
    HubText,
    ModelSettings,
    RunSettings,
    Settings,
    StreamsSettings,
)
from hil.settings.loading import load_settings, parse_settings, read_toml, to_toml

__all__ = [
    "BudgetSettings",
    "CalibrationSettings",
    "CodecSettings",
    "ControlSettings",
    "DefaultText",
    "EdgeSettings",
    "EnvironmentSettings",
    "FileText",
    "FinetuneSettings",
    "HubText",
    "ModelSettings",
    "RunSettings",
    "Settings",
    "StreamsSettings",
    "load_settings",
    "parse_settings",
    "read_toml",
    "to_toml",
]
