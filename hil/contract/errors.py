"""The errors of the kit: every one is a HilError, and its text is one line for the user."""


class HilError(Exception):
    """The bench is broken or was told something impossible. One line: the thing, the value, the
    limit, the cure."""


class ConfigError(HilError):
    """hil.toml or an option asks for something that cannot be."""


class TextError(HilError):
    """A text source is missing, empty or has no such column."""


class ModelError(HilError):
    """A base model is missing, damaged or cannot be served by the edge."""


class DeviceError(HilError):
    """A radio or a child process does not do what it was told."""


class CalibrationError(HilError):
    """A measurement of the bench that cannot be made, or does not fit what it is used for."""


class CodecError(HilError):
    """Payload bytes that are not a valid update, and where they go wrong."""


class ControlError(HilError):
    """The control channel (MQTT or in-process) does not answer or refuses."""
