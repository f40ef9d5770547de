"""What counts as sound samples."""

from __future__ import annotations

import numpy as np

from hil.contract import IQ, DeviceError


def require_samples(iq: IQ, where: str) -> None:
    """Return if the samples can be processed.

    Raises:
        DeviceError: for no samples, another shape than [n], or a value that is not finite.
    """
    if iq.ndim != 1 or len(iq) == 0:
        raise DeviceError(
            f"{where}: samples of shape {iq.shape}; expected one row with at least one sample"
        )
    if not np.isfinite(iq.view(np.float32) if iq.dtype == np.complex64 else iq).all():
        raise DeviceError(
            f"{where}: samples are not finite (NaN or infinite); check gain and driver"
        )


def require_transmittable(iq: IQ, where: str) -> None:
    """Return if the samples can be sent.

    Raises:
        DeviceError: as require_samples, and for a magnitude above full scale 1.0.
    """
    require_samples(iq, where)
    peak = float(np.abs(iq).max())
    if peak > 1.0:
        raise DeviceError(
            f"{where}: magnitude {peak:.3g} above full scale 1.0; scale the samples down"
        )
