"""The channel over a burst, fitted to Zadoff-Chu symbols and pilots: few delays, slow in time, both
chosen by evidence.

25 symbols in a row show every used subcarrier once, so that their pilots together weigh as much as
one Zadoff-Chu symbol. Both are projected on a basis of short delays, and each coordinate is fitted
by a polynomial in time. Which window of delays and which degree: the ones whose unexplained energy,
in units of noise, plus a price for each coefficient is lowest (Akaike's criterion with a slightly
higher price).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from radio.modem import delay_basis, ofdm

_PRICE: Final = 3.0
"""Energy in units of noise that a coefficient must explain; noise alone gives it 1."""

_DEGREES: Final = 2.5
"""Largest degree over the root of the number of intervals: beyond, evenly spaced values leave its
ends loose."""
_CHOICE: Final = 4.0
"""Coefficients' worth of error that the choice adds; measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFit:
    """The channel and how well it is known.

    Attributes:
        gain: complex64[n, 200], of every symbol.
        share_subcarrier, share_symbol: float[200] and float[n]; their product is the estimate's
            error variance in units of the noise on a subcarrier.
        coefficients: complex numbers that were fitted.
    """

    gain: ofdm.Grid
    share_subcarrier: NDArray[np.float64]
    share_symbol: NDArray[np.float64]
    coefficients: int


def gather(pilots: ofdm.Grid, first: int = 0) -> tuple[ofdm.Grid, NDArray[np.intp]]:
    """Pilots of 25 symbols each as values of all 200 subcarriers.

    Args:
        pilots: complex64[n, 8], n ≥ 25, divided by what was sent.
        first: number of the first symbol in its burst.

    Returns:
        complex64[groups, 200]; and intp[groups], each one's first row. The last group overlaps the
        one before it unless 25 divides n.
    """
    period, n = ofdm.PILOT_PERIOD, len(pilots)
    firsts = np.arange(0, n - period + 1, period)
    if n % period:
        firsts = np.append(firsts, n - period)
    symbols = firsts[:, None] + np.arange(period)
    whole = np.empty((len(firsts), ofdm.N_USED), np.complex64)
    np.put_along_axis(
        whole,
        ofdm.PILOTS[(first + symbols) % period].reshape(len(firsts), -1),
        pilots[symbols].reshape(len(firsts), -1),
        axis=1,
    )
    return whole, firsts


def fit_channel(long_symbols: ofdm.Grid, pilots: ofdm.Grid, noise_variance: float) -> ChannelFit:
    """The channel of a burst whose phase and delay stand still.

    Args:
        long_symbols: complex64[n_long, 200], Zadoff-Chu symbols divided by what was sent.
        pilots: complex64[n, 8], likewise.
        noise_variance: noise on a subcarrier, > 0.
    """
    if len(pilots) < ofdm.PILOT_PERIOD:
        return _fit_static(long_symbols, pilots, noise_variance)
    whole, firsts = gather(pilots)
    n_long, n = len(long_symbols), len(pilots)
    rows = np.concatenate([long_symbols.mean(axis=0)[None], whole]) @ delay_basis.whole().conj()
    # a burst's time runs from -1 to 1; symbol 0 is at 0 and the Zadoff-Chu symbols lie before it
    begin = -n_long * ofdm.N_FFT / ofdm.SYMBOL_SAMPLES
    times = np.concatenate([[begin / 2], firsts + (ofdm.PILOT_PERIOD - 1) / 2])
    # a last group that overlaps counts for what it adds
    news = np.diff(firsts, prepend=-ofdm.PILOT_PERIOD) / ofdm.PILOT_PERIOD
    weights = np.sqrt(np.concatenate([[n_long], news]))

    def centred(time: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2 * (time - begin) / (n - begin) - 1

    degree = min(len(firsts) - 1, int(_DEGREES * (len(firsts) - 1) ** 0.5))
    columns, mixing = np.linalg.qr(weights[:, None] * chebyshev.chebvander(centred(times), degree))
    coordinates = columns.T @ (weights[:, None] * rows)
    energy = float(np.sum((weights[:, None] * np.abs(rows)) ** 2))
    kept = _degree(coordinates, energy, noise_variance)
    basis = _window(coordinates[: kept + 1], noise_variance)
    inside = coordinates @ (basis.conj().T @ delay_basis.whole()).T
    energy = float(
        np.sum(np.abs(weights[:, None] * (rows @ (basis.conj().T @ delay_basis.whole()).T)) ** 2)
    )
    kept = _degree(inside, energy, noise_variance)
    over_time = np.linalg.solve(
        mixing[: kept + 1, : kept + 1].T,
        chebyshev.chebvander(centred(np.arange(n, dtype=np.float64)), kept).T,
    ).T
    responses = (inside[: kept + 1] @ basis.T).astype(np.complex64)
    return ChannelFit(
        gain=over_time.astype(np.complex64) @ responses,
        share_subcarrier=_chosen(basis) * np.sum(np.abs(basis) ** 2, axis=1).astype(np.float64),
        share_symbol=np.sum(over_time**2, axis=1),
        coefficients=(kept + 1) * basis.shape[1],
    )


def _degree(coordinates: NDArray[np.complex128], energy: float, noise_variance: float) -> int:
    """Degree in time with the best balance of what it explains of `energy` and what it costs."""
    explained = np.cumsum(np.sum(np.abs(coordinates) ** 2, axis=1))
    price = _PRICE * coordinates.shape[1] * np.arange(1, len(coordinates) + 1)
    return int(np.argmin((energy - explained) / noise_variance + price))


def _window(coordinates: NDArray[np.complex128], noise_variance: float) -> delay_basis.Basis:
    """Basis of the delay window with the best such balance, for coordinates complex[n, rank of the
    whole basis]."""
    stacked, begins, ranks = delay_basis.window_coordinates()
    energy = np.sum(np.abs(coordinates @ stacked.T) ** 2, axis=0)
    explained = np.add.reduceat(energy, begins)
    best = int(np.argmin(-explained / noise_variance + _PRICE * len(coordinates) * ranks))
    return delay_basis.windows()[best]


def _chosen(basis: delay_basis.Basis) -> float:
    """Factor on the estimate's error because its window was chosen by the same values."""
    return 1.0 + _CHOICE / float(basis.shape[1])


def _fit_static(long_symbols: ofdm.Grid, pilots: ofdm.Grid, noise_variance: float) -> ChannelFit:
    """The channel of a burst too short to change, by weighted least squares."""
    n_long, n = len(long_symbols), len(pilots)
    mean = long_symbols.mean(axis=0)
    basis = _window(n_long**0.5 * (mean @ delay_basis.whole().conj())[None], noise_variance)
    seen = basis[ofdm.pilot_places(n).ravel()].astype(np.complex128)
    normal = n_long * np.eye(basis.shape[1]) + seen.conj().T @ seen
    right = n_long * (basis.conj().T @ mean) + seen.conj().T @ pilots.ravel()
    gain = basis @ np.linalg.solve(normal, right)
    error = np.einsum("kr,rs,ks->k", basis, np.linalg.inv(normal), basis.conj()).real
    return ChannelFit(
        gain=np.tile(gain.astype(np.complex64), (n, 1)),
        share_subcarrier=_chosen(basis) * error.astype(np.float64),
        share_symbol=np.ones(n),
        coefficients=basis.shape[1],
    )
