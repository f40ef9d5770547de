"""The radios that [radio] kind = "pluto" names, as their driver wants to be told."""

from __future__ import annotations

from hil.contract import ConfigError
from hil.settings import Settings
from hil.settings.pluto import PlutoRadio
from radio.pluto.permission import Band, Permission
from radio.pluto.process import Pluto
from radio.pluto.settings import MAX_ATTENUATION_DB, PlutoSettings


def real_radio(settings: Settings, verb: str) -> PlutoRadio:
    """[radio], where two processes have to share the air. Raises ConfigError for a simulated one,
    or a recording."""
    if not isinstance(settings.radio, PlutoRadio):
        raise ConfigError(
            f"radio.kind = {settings.radio.kind!r}: {verb} needs a radio that another process "
            "hears; set radio.kind = "
            "'pluto', or use hil run"
        )
    if settings.radio.record:
        raise ConfigError(
            f"radio.record = true: {verb} has one end of the link only; use hil run or hil record"
        )
    return settings.radio


def open_transmitter(settings: PlutoRadio) -> Pluto:
    """The radio that transmits, not entered yet; its receiver is set alike, for one radio with its
    own echo."""
    return _pluto(settings, settings.uri, settings.tx_attenuation_db)


def open_receiver(settings: PlutoRadio) -> Pluto:
    """The radio that receives, not entered yet; it may transmit nothing."""
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
