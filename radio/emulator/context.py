"""The XML that tells a client what an emulated Pluto consists of, written from the table of
attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import quoteattr

from radio.emulator.attributes import DEVICES, Channel, Device

VERSION: Final = (0, 24, "v0.24  ")
"""Major and minor version and tag of the libiio that the server speaks like; the tag needs seven
characters."""

_CONTENTS: Final = {
    "context": "(context-attribute | device)*",
    "context-attribute": "EMPTY",
    "device": "(channel | attribute | debug-attribute | buffer-attribute)*",
    "channel": "(scan-element?, attribute*)",
    "scan-element": "EMPTY",
    "attribute": "EMPTY",
    "debug-attribute": "EMPTY",
    "buffer-attribute": "EMPTY",
}
_REQUIRED: Final = {
    "context": ("name",),
    "context-attribute": ("name", "value"),
    "device": ("id",),
    "channel": ("id", "type"),
    "scan-element": ("index", "format"),
    "attribute": ("name",),
    "debug-attribute": ("name",),
    "buffer-attribute": ("name",),
}
_OPTIONAL: Final = {
    "context": ("description", "version-major", "version-minor", "version-git"),
    "device": ("name", "label"),
    "channel": ("name",),
    "scan-element": ("scale",),
    "attribute": ("filename",),
}


def _document_type() -> str:
    """The grammar of the document; libxml2 complains about a document that brings none."""
    rules = [f"<!ELEMENT {element} {contents}>" for element, contents in _CONTENTS.items()]
    for optional, kind in ((_REQUIRED, "#REQUIRED"), (_OPTIONAL, "#IMPLIED")):
        for element, names in optional.items():
            rules += [f"<!ATTLIST {element} {name} CDATA {kind}>" for name in names]
    return f"<!DOCTYPE context [{''.join(rules)}]>"


def _tag(element: str, attributes: Mapping[str, object], contents: str = "") -> str:
    written = "".join(f" {name}={quoteattr(str(value))}" for name, value in attributes.items())
    return f"<{element}{written}>{contents}</{element}>" if contents else f"<{element}{written}/>"


def _channel(channel: Channel) -> str:
    head = {"id": channel.channel_id, "type": "input" if channel.direction == "in" else "output"}
    if channel.name:
        head["name"] = channel.name
    contents = "".join(
        _tag("attribute", {"name": a.name, "filename": a.file}) for a in channel.attributes
    )
    if channel.scan_index is not None:
        contents = (
            _tag("scan-element", {"index": channel.scan_index, "format": channel.scan_format})
            + contents
        )
    return _tag("channel", head, contents)


def _device(device: Device) -> str:
    contents = "".join(_channel(channel) for channel in device.channels)
    contents += "".join(_tag("attribute", {"name": a.name}) for a in device.attributes)
    contents += "".join(_tag("debug-attribute", {"name": a.name}) for a in device.debug_attributes)
    return _tag("device", {"id": device.device_id, "name": device.name}, contents)


def context_xml(serial: str) -> str:
    """The description of a Pluto with this serial number; its model says that it is emulated."""
    major, minor, tag = VERSION
    head = {
        "name": "local",
        "description": "a Pluto in software",
        "version-major": major,
        "version-minor": minor,
        "version-git": tag.strip(),
    }
    facts = {
        "hw_model": "emulated ADALM-Pluto",
        "hw_serial": serial,
        "fw_version": "emulated",
        "ad9361-phy,model": "ad9364",
    }
    contents = "".join(
        _tag("context-attribute", {"name": name, "value": value}) for name, value in facts.items()
    )
    contents += "".join(_device(device) for device in DEVICES)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>{_document_type()}{_tag("context", head, contents)}'
    )
