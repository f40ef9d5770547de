"""Multipath that was measured or traced: impulse responses of a NumPy file."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hil.contract import ConfigError
from radio.channel.fading import DelayLine

MAX_DELAY_S: Final = 100e-6
"""Longest delay behind the first path: 30 km further."""
_SIONNA_AXES: Final = "[rx, rx antennas, tx, tx antennas, paths, times]"
_UNEVEN: Final = 1e-3
"""Share of a step by which times may stray from even steps before the gains are drawn anew."""

_MAX_STRETCH: Final = 10
"""Even steps for each of uneven times, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpulseResponses:
    """Impulse responses at even steps of time.

    Attributes:
        delays_s: float64[paths], ≥ 0, behind the first path.
        gains: complex64[times, paths].
        step_s: time from one to the next; 1 where there is one alone.
    """

    delays_s: NDArray[np.float64]
    gains: NDArray[np.complex64]
    step_s: float

    @property
    def mean_power(self) -> float:
        """Power of all paths together, mean over time."""
        return float(np.mean(np.sum(np.abs(self.gains.astype(np.complex128)) ** 2, axis=1)))


class RecordedDelayLine(DelayLine):
    """Echoes as recorded: gains are drawn straight from response to response; behind the last, the
    first follows."""

    def __init__(
        self, responses: ImpulseResponses, *, sample_rate_hz: float, keep_gain: bool = False
    ) -> None:
        """A channel whose time starts at the first response.

        Args:
            responses: what was recorded.
            sample_rate_hz: rate of the samples.
            keep_gain: leave the mean power as it is; False: bring it to 1.
        """
        scale = 1.0 if keep_gain else responses.mean_power**-0.5
        self._gains = np.asarray(responses.gains * scale, np.complex64)
        self._step_s = responses.step_s
        super().__init__(responses.delays_s, responses.step_s, sample_rate_hz)

    def gains(self, t_s: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Gains complex64[n, n_paths] at times of the channel."""
        whole, part = np.divmod(t_s / self._step_s, 1.0)
        here = whole.astype(np.int64) % len(self._gains)
        low, high = self._gains[here], self._gains[(here + 1) % len(self._gains)]
        return np.asarray(low + (high - low) * part[:, np.newaxis], np.complex64)

    def mean_gain_db(self, begin_s: float, end_s: float) -> float:
        """Power of all paths together, mean over some time of the channel."""
        gains = self.gains(np.linspace(begin_s, end_s, 65))
        power = float(np.mean(np.sum(np.abs(gains) ** 2, axis=1, dtype=np.float64)))
        return 10 * math.log10(max(power, 1e-30))


def read_responses(path: Path) -> ImpulseResponses:
    """Impulse responses of a .npz file.

    It holds either `a` complex[paths, times] and `tau_s` float[paths], or Sionna's `a` and `tau` of
    one antenna pair; and, where there is more than one time, `rate_hz` (responses a second) or
    `time_s` float[times]. Paths of Sionna with a negative delay do not exist.

    Raises:
        ConfigError: it cannot be read, or its arrays do not fit.
    """
    arrays = _load(path)
    if "a" not in arrays or ("tau_s" in arrays) == ("tau" in arrays):
        raise ConfigError(
            f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; it must hold a and tau_s, or "
            "Sionna's a and tau"
        )
    a, name = arrays["a"], "tau_s" if "tau_s" in arrays else "tau"
    tau = arrays[name]
    if name == "tau":
        a, tau = _one_antenna_pair(a, tau, path)
    if not np.iscomplexobj(a) or a.ndim != 2 or 0 in a.shape:
        raise ConfigError(f"{path}: a is {_kind(a)}; it must be complex[paths, times]")
    if tau.shape != a.shape[:1] or tau.dtype.kind not in "fiu":
        raise ConfigError(
            f"{path}: {name} is {_kind(tau)}; it must have a number for each of the {len(a)} paths"
        )
    if name == "tau":
        a, tau = a[tau >= 0], tau[tau >= 0]
    gains, delays_s = a.astype(np.complex64), tau.astype(np.float64)
    if not (np.isfinite(gains).all() and np.isfinite(delays_s).all() and gains.any()):
        raise ConfigError(f"{path}: a or {name} is not finite, or no path has any gain")
    delays_s = delays_s - delays_s.min()
    if delays_s.max() > MAX_DELAY_S:
        raise ConfigError(
            f"{path}: {name} reaches {delays_s.max():g} s behind the first path; at most "
            f"{MAX_DELAY_S:g} s: leave out later paths, and give delays in seconds"
        )
    return _evenly(gains, delays_s, arrays, path)


def _load(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ConfigError(f"{path}: one array; impulse responses are a .npz of several")
            wanted = {"a", "tau", "tau_s", "rate_hz", "time_s"}
            return {name: file[name] for name in file.files if name in wanted}
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; name a .npz file") from error
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        SyntaxError,
        MemoryError,
        OverflowError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: not a .npz file of numbers ({reason}); save it anew") from error


def _one_antenna_pair(
    a: NDArray[Any], tau: NDArray[Any], path: Path
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sionna's arrays without their axes of length 1."""
    pairs = a.shape[:-2], tau.shape[:-1]
    if a.ndim not in (6, 7) or tau.ndim < 3 or any(n != 1 for pair in pairs for n in pair):
        raise ConfigError(
            f"{path}: a is {_kind(a)}, tau {_kind(tau)}; of Sionna's a {_SIONNA_AXES} and its tau "
            "all axes but paths and times must be 1: save one antenna pair"
        )
    return a.reshape(a.shape[-2:]), tau.reshape(-1)


def _evenly(
    gains: NDArray[np.complex64],
    delays_s: NDArray[np.float64],
    arrays: Mapping[str, NDArray[Any]],
    path: Path,
) -> ImpulseResponses:
    """Responses at even steps of time; gains complex64[paths, times]."""
    n = gains.shape[1]
    step_s = 1.0
    if n > 1 and ("rate_hz" in arrays) == ("time_s" in arrays):
        raise ConfigError(
            f"{path}: a has {n} times; the file must also hold rate_hz (responses a second) or "
            f"time_s[{n}], and only one of them"
        )
    if n > 1 and "rate_hz" in arrays:
        rate = arrays["rate_hz"]
        if rate.size != 1 or rate.dtype.kind not in "fiu" or not 0 < float(rate.ravel()[0]) < 1e12:
            raise ConfigError(f"{path}: rate_hz is {_kind(rate)}; it must be one positive number")
        step_s = 1 / float(rate.ravel()[0])
    elif n > 1:
        times = arrays["time_s"]
        fits = times.shape == (n,) and times.dtype.kind in "fiu" and np.isfinite(times).all()
        if not fits or not (np.diff(times) > 0).all():
            raise ConfigError(f"{path}: time_s is {_kind(times)}; it must be {n} rising times")
        times = times.astype(np.float64) - float(times[0])
        step_s = float(np.median(np.diff(times)))
        steps = int(times[-1] / step_s + 0.5) + 1
        if steps > _MAX_STRETCH * n:
            raise ConfigError(f"{path}: time_s has gaps; give times at nearly even steps")
        even = np.arange(steps) * step_s
        if len(even) != n or np.abs(even - times).max() > _UNEVEN * step_s:
            gains = np.array([np.interp(even, times, one) for one in gains], np.complex64)
    return ImpulseResponses(delays_s=delays_s, gains=np.ascontiguousarray(gains.T), step_s=step_s)


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype}{list(array.shape)}"
