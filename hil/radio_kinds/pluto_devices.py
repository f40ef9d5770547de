"""The devices behind radio.kind = "pluto": their settings, and what is loaded before they open."""

from __future__ import annotations

from typing import Final

from hil.contract import ConfigError
from hil.settings import Settings
from hil.settings.pluto import PlutoRadio
from radio.link import Adaptation
from radio.link.receiver import Receiver
from radio.link.sender import Sender
from radio.pluto.permission import Band, Permission
from radio.pluto.process import Pluto
from radio.pluto.settings import MAX_ATTENUATION_DB, PlutoSettings

_WARM_UP_RATE_HZ: Final = 1e6
_WARM_UP_SNR_DB: Final = 20.0


def real_radio(settings: Settings, verb: str) -> PlutoRadio:
    """The [radio] table of an experiment whose two processes share the air.

    Args:
        settings: the experiment.
        verb: the command that asks, for the message.

    Raises:
        ConfigError: the radio is simulated, or its samples are to be recorded.
    """
    if not isinstance(settings.radio, PlutoRadio):
        raise ConfigError(
            f"radio.kind = {settings.radio.kind!r}: {verb} needs a radio that another process "
            "hears; set radio.kind = 'pluto', or use hil run"
        )
    if settings.radio.record:
        raise ConfigError(
            f"radio.record = true: {verb} has one end of the link only; use hil run or hil record"
        )
    return settings.radio


def open_transmitter(settings: PlutoRadio) -> Pluto:
    """The transmitter, not open yet.

    Its own receiver gets the same settings: a single radio may hear its own echo.
    """
    return _pluto(settings, settings.uri, settings.tx_attenuation_db)


def open_receiver(settings: PlutoRadio) -> Pluto:
    """The receiver, not open yet; it has no permission to transmit."""
    return _pluto(
        settings, settings.receive_uri or settings.uri, MAX_ATTENUATION_DB, receives_only=True
    )


def _pluto(
    settings: PlutoRadio, uri: str, tx_attenuation_db: float, *, receives_only: bool = False
) -> Pluto:
    bands = () if receives_only else settings.allow.bands
    return Pluto(
        PlutoSettings(
            uri=uri,
            rate_hz=settings.rate_hz,
            tx_lo_hz=settings.lo_hz,
            rx_lo_hz=settings.receive_lo_hz,
            rx_gain_db=settings.rx_gain_db,
            tx_attenuation_db=tx_attenuation_db,
            loopback=settings.loopback,
        ),
        Permission(
            Band(low_hz=band.low_hz, high_hz=band.high_hz, max_dbm=band.max_dbm) for band in bands
        ),
        patience_s=settings.patience_s,
    )


def warm_up() -> None:
    """Send and receive one burst in memory, so that the modem's machine code is loaded.

    It takes about a second, once a process. Without it the first soundings of a run go unanswered:
    loading takes longer than the transmitter waits.
    """
    receiver = Receiver(epoch=0)
    sender = Sender(b"never on the air", session=0, adaptation=Adaptation(), snr_db=_WARM_UP_SNR_DB)
    for burst in sender.window(2**20, 0.0):
        receiver.feed(burst.iq, _WARM_UP_RATE_HZ)
        receiver.flush(_WARM_UP_RATE_HZ)
        if (answer := receiver.feedback()) is not None:
            sender.on_feedback(answer.pack())
