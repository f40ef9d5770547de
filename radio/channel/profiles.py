"""Tapped delay lines of 3GPP TR 38.901: which echoes come when, and how strong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError

_Rows = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerDelayProfile:
    """The paths of a channel whose powers sum to 1.

    Attributes:
        delays_s: float64[n_paths], ≥ 0, of the scattered paths; a line of sight has delay 0.
        powers: float64[n_paths], mean powers of the scattered paths.
        sight_power: power of the line of sight, 0 without one.
    """

    delays_s: NDArray[np.float64]
    powers: NDArray[np.float64]
    sight_power: float

    @property
    def delay_spread_s(self) -> float:
        """Root mean square of the delays around their mean, weighted by power."""
        mean = float(self.powers @ self.delays_s)
        return math.sqrt(max(0.0, float(self.powers @ self.delays_s**2) - mean**2))


def power_delay_profile(
    name: str, delay_spread_s: float, k_factor_db: float | None = None
) -> PowerDelayProfile:
    """A profile whose delays are scaled so that it has exactly the delay spread asked for.

    Args:
        name: a key of SCATTERED: "flat" (one path) or "TDL-A" to "TDL-E".
        delay_spread_s: ≥ 0; without meaning for "flat".
        k_factor_db: power of the line of sight over all scattered power; None = the profile's own
            (D and E have one, the others none).

    Raises:
        ConfigError: for an unknown profile, or a negative delay spread.
    Source: 3GPP TR 38.901 §7.7.3 (scaling of delays) and §7.7.6 (of the K factor).
    """
    if name not in SCATTERED:
        raise ConfigError(f"channel profile is {name!r}; it must be one of {', '.join(SCATTERED)}")
    if not delay_spread_s >= 0:
        raise ConfigError(f"channel delay spread is {delay_spread_s} s; it must be at least 0")
    delays, powers_db = np.asarray(SCATTERED[name], np.float64).T
    powers = 10 ** (powers_db / 10)
    sight = 10 ** (_SIGHT_DB[name] / 10) if name in _SIGHT_DB else 0.0
    if k_factor_db is not None:
        sight = float(powers.sum()) * 10 ** (k_factor_db / 10)
    total = float(powers.sum()) + sight
    unit = PowerDelayProfile(delays_s=delays, powers=powers / total, sight_power=sight / total)
    scale = delay_spread_s / unit.delay_spread_s if unit.delay_spread_s else 0.0
    return PowerDelayProfile(
        delays_s=delays * scale, powers=unit.powers, sight_power=unit.sight_power
    )


_SIGHT_DB: Final = {"TDL-D": -0.2, "TDL-E": -0.03}
"""Power of the line of sight in dB, on the scale of SCATTERED."""

SCATTERED: Final[dict[str, _Rows]] = {
    "flat": ((0.0, 0.0),),
    "TDL-A": (
        (0.0000, -13.4), (0.3819, 0.0), (0.4025, -2.2), (0.5868, -4.0), (0.4610, -6.0),
        (0.5375, -8.2),
        (0.6708, -9.9), (0.5750, -10.5), (0.7618, -7.5), (1.5375, -15.9), (1.8978, -6.6),
        (2.2242, -16.7),
        (2.1718, -12.4), (2.4942, -15.2), (2.5119, -10.8), (3.0582, -11.3), (4.0810, -12.7),
        (4.4579, -16.2),
        (4.5695, -18.3), (4.7966, -18.9), (5.0066, -16.6), (5.3043, -19.9), (9.6586, -29.7),
    ),
    "TDL-B": (
        (0.0000, 0.0), (0.1072, -2.2), (0.2155, -4.0), (0.2095, -3.2), (0.2870, -9.8),
        (0.2986, -1.2),
        (0.3752, -3.4), (0.5055, -5.2), (0.3681, -7.6), (0.3697, -3.0), (0.5700, -8.9),
        (0.5283, -9.0),
        (1.1021, -4.8), (1.2756, -5.7), (1.5474, -7.5), (1.7842, -1.9), (2.0169, -7.6),
        (2.8294, -12.2),
        (3.0219, -9.8), (3.6187, -11.4), (4.1067, -14.9), (4.2790, -9.2), (4.7834, -11.3),
    ),
    "TDL-C": (
        (0.0000, -4.4), (0.2099, -1.2), (0.2219, -3.5), (0.2329, -5.2), (0.2176, -2.5),
        (0.6366, 0.0),
        (0.6448, -2.2), (0.6560, -3.9), (0.6584, -7.4), (0.7935, -7.1), (0.8213, -10.7),
        (0.9336, -11.1),
        (1.2285, -5.1), (1.3083, -6.8), (2.1704, -8.7), (2.7105, -13.2), (4.2589, -13.9),
        (4.6003, -13.9),
        (5.4902, -15.8), (5.6077, -17.1), (6.3065, -16.0), (6.6374, -15.7), (7.0427, -21.6),
        (8.6523, -22.8),
    ),
    "TDL-D": (
        (0.0000, -13.5), (0.0350, -18.8), (0.6120, -21.0), (1.3630, -22.8), (1.4050, -17.9),
        (1.8040, -20.1),
        (2.5960, -21.9), (1.7750, -22.9), (4.0420, -27.8), (7.9370, -23.6), (9.4240, -24.8),
        (9.7080, -30.0),
        (12.5250, -27.7),
    ),
    "TDL-E": (
        (0.0000, -22.03), (0.5133, -15.8), (0.5440, -18.1), (0.5630, -19.8), (0.5440, -22.9),
        (0.7112, -22.4),
        (1.9092, -18.6), (1.9293, -20.8), (1.9589, -22.6), (2.6426, -22.3), (3.7136, -25.6),
        (5.4524, -20.2),
        (12.0034, -29.8), (20.6519, -29.2),
    ),
}  # fmt: skip
"""Scattered paths as (delay in units of the delay spread, mean power in dB): TR 38.901, tables
7.7.2-1 to 7.7.2-5."""
