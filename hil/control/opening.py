"""The ends of the control channel that [control] of hil.toml asks for."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from hil.contract import ConfigError
from hil.control.bus import Bus, InProcessBus
from hil.control.messages import Role
from hil.control.mqtt import RECONNECT_TIMEOUT_S, MqttBus, connect
from hil.settings import ControlSettings

_IN_PROCESS = "inprocess:"
_CONNECT_S = 10.0


def open_buses(settings: ControlSettings, stack: ExitStack) -> tuple[Bus, Bus]:
    """Both ends of the control channel, (cloud, edge), closed with the stack.

    Raises:
        ControlError: the broker cannot be reached, or refuses.
    """
    if settings.url == _IN_PROCESS:
        cloud, edge = InProcessBus.pair(settings.device)
        return stack.enter_context(cloud), stack.enter_context(edge)
    return stack.enter_context(_connected(settings, "cloud")), stack.enter_context(
        _connected(settings, "edge")
    )


def open_bus(
    settings: ControlSettings, role: Role, *, reconnect_timeout_s: float = RECONNECT_TIMEOUT_S
) -> MqttBus:
    """One end at a broker, for a half that is a process of its own.

    Args:
        settings: [control].
        role: the half.
        reconnect_timeout_s: how long the broker may stay away once it was there.
    Raises:
        ConfigError: [control] names no broker.
        ControlError: the broker cannot be reached, or refuses.
    """
    if settings.url == _IN_PROCESS:
        raise ConfigError(
            f"control.url = {settings.url!r}: two processes meet at a broker; set control.url = "
            "'mqtt://host:1883'"
        )
    return _connected(settings, role, reconnect_timeout_s)


def _connected(
    settings: ControlSettings, role: Role, reconnect_timeout_s: float = RECONNECT_TIMEOUT_S
) -> MqttBus:
    secret = Path(settings.secrets_file).expanduser() if settings.secrets_file else None
    return connect(
        settings.url,
        role,
        settings.device,
        secret_path=secret,
        timeout_s=min(_CONNECT_S, settings.timeout_s),
        reconnect_timeout_s=reconnect_timeout_s,
        clean_start=True,
    )
