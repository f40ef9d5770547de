"""What the link needs: payload to airtime and back, from the frame layout and the calibrated table
of schemes.

Counted: one sounding burst, preamble, prefix, pilots and header of every burst, repair blocks, and
the copies of lost blocks. Not counted: waiting for feedback, which is no airtime; but the longer
the wait, the more repair blocks are sent to do without it. Everything takes arrays: an experiment
asks many times.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hil.contract import ConfigError, Floats
from radio.link import repair
from radio.link.adaptation import UNUSABLE
from radio.link.burst_size import blocks_per_burst, sounding_samples
from radio.modem import framing, mcs

_LOSSES: Final = tuple(mcs.TARGET_LOSS**copies for copies in (1, 2, 3))
"""What the sender expects of one, two and three copies of a block where a scheme is used as
meant."""
_STRIDE: Final = 10_000
"""Above the blocks of any window with repair blocks."""
_ROUND_TRIP_STEP: Final = 4096
"""Samples to which a round trip is rounded before the repair blocks are counted."""

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Costs:
    """Samples that blocks of one layout take, by the place of the scheme: arrays [18].

    Attributes:
        long: whether they are long blocks.
        per_burst: blocks in a full burst.
        head, full, per_block: samples of a burst's head, of a full burst, and of one block.
    """

    long: bool
    per_burst: Places
    head: NDArray[np.int64]
    full: NDArray[np.int64]
    per_block: Floats

    def airtime_samples(
        self, source: Floats, copies: Floats, place: Places, round_trip_samples: int
    ) -> Floats:
        """Samples of the bursts that bring this many source blocks across, each sent `copies` times
        on average."""
        few = np.minimum(source, repair.MAX_SOURCE_BLOCKS).astype(np.intp)
        first_window = np.where(
            source == few, _first_window(self.long, round_trip_samples)[0][place, few], 0
        )
        blocks = np.maximum(source * copies, first_window)
        return np.asarray(
            np.ceil(blocks / self.per_burst[place]) * self.head[place]
            + blocks * self.per_block[place]
        )

    def source_blocks(
        self, samples: Floats, copies: Floats, place: Places, round_trip_samples: int
    ) -> Floats:
        """Whole source blocks that this many samples bring across."""
        bursts = np.floor(samples / self.full[place])
        rest = np.maximum(samples - bursts * self.full[place] - self.head[place], 0)
        blocks = bursts * self.per_burst[place] + rest / self.per_block[place] + 1e-9
        many = np.floor(blocks / copies)
        # one search for all schemes: each row of the table lies a stride above the one before
        rows = _first_window(self.long, round_trip_samples)[1]
        found = np.searchsorted(
            rows, np.minimum(blocks, _STRIDE - 1) + _STRIDE * place, side="right"
        )
        few = found - (repair.MAX_SOURCE_BLOCKS + 1) * place - 1
        return np.asarray(np.where(few < repair.MAX_SOURCE_BLOCKS, np.minimum(few, many), many))


def _costs(long: bool) -> _Costs:
    layout, places = _LAYOUTS[long], range(len(mcs.MCS_TABLE))
    per_burst = [blocks_per_burst(entry, layout) for entry in mcs.MCS_TABLE]
    head, full = (
        np.array([framing.burst_samples(n, mcs.MCS_TABLE[k], layout) for k, n in counts])
        for counts in (((k, 0) for k in places), enumerate(per_burst))
    )
    return _Costs(long, np.array(per_burst, np.intp), head, full, (full - head) / per_burst)


_LAYOUTS: Final = (framing.SHORT, framing.LONG)
_SHORT, _LONG = _costs(False), _costs(True)


@lru_cache(maxsize=16)
def _first_window(long: bool, round_trip_samples: int) -> tuple[Places, Places]:
    """Blocks that the first window holds for 0..MAX_SOURCE_BLOCKS source blocks, int[18,
    MAX_SOURCE_BLOCKS + 1], and the same rows, rising, one behind another.
    """
    costs = _LONG if long else _SHORT
    sent = np.zeros((len(mcs.MCS_TABLE), repair.MAX_SOURCE_BLOCKS + 1), np.intp)
    for place in range(len(sent)):
        wait, block = round_trip_samples + float(costs.head[place]), float(costs.per_block[place])
        for n in range(1, sent.shape[1]):
            plan = repair.plan(n, _LOSSES, block, wait, most_spare=repair.repair_blocks_of(n))
            sent[place, n] = plan.copies * (n + plan.spare)
    sent = np.maximum.accumulate(sent, axis=1)
    return sent, (sent + _STRIDE * np.arange(len(sent))[:, None]).ravel()


def _chosen(snr_db: Floats, margin_db: float, table: mcs.LossTable) -> tuple[Places, Floats]:
    """Place of the scheme, and copies of a block until one passes: infinite on an unusable channel.

    Copies that the receiver adds up count: two are 3 dB, three 5 dB.
    """
    snr = np.nan_to_num(snr_db, nan=-np.inf)
    place = table.fastest(snr - margin_db)
    n = np.arange(1, 4).reshape(-1, *[1] * snr.ndim)
    lost = table.loss_at(place, snr + 10 * np.log10(n))
    copies = np.divide(n, 1 - lost, out=np.full(lost.shape, np.inf), where=lost < 1).min(axis=0)
    return place, np.where(lost[1] <= UNUSABLE, copies, np.inf)


def _rounded(round_trip_s: float, rate: Floats) -> int:
    """Samples of a round trip; rates of one question lie close together."""
    return _ROUND_TRIP_STEP * round(round_trip_s * float(np.mean(rate)) / _ROUND_TRIP_STEP)


def airtime_s(
    payload_bytes: ArrayLike,
    snr_db: ArrayLike,
    sample_rate_hz: ArrayLike,
    *,
    margin_db: float = 0.0,
    round_trip_s: float = 0.0,
    table: mcs.LossTable = mcs.LOOPBACK,
) -> Floats:
    """Expected airtime of a payload in seconds, sounding included; infinite on a channel that
    carries nothing.

    Args:
        payload_bytes: ≥ 1.
        snr_db: measured Es/N0 per used subcarrier; NaN, no measurement, carries nothing.
        sample_rate_hz: > 0.
        margin_db: the adaptation's, taken off before the MCS is chosen.
        round_trip_s: wait for an answer.
        table: block losses of every scheme, as calibrated.

    Raises:
        ConfigError: for a payload or a sample rate that is not positive.
    """
    size, snr, rate = np.broadcast_arrays(
        *(np.asarray(x, np.float64) for x in (payload_bytes, snr_db, sample_rate_hz))
    )
    if np.any(size < 1) or np.any(rate <= 0):
        raise ConfigError(
            f"airtime of {size.min():g} bytes at {rate.min():g} samples/s; both must be positive"
        )
    place, copies = _chosen(snr, margin_db, table)
    usable = np.isfinite(copies)
    wait, copies = _rounded(round_trip_s, rate), np.where(usable, copies, 1)
    short, long = (
        costs.airtime_samples(np.ceil(size / layout.block_payload_bytes), copies, place, wait)
        for costs, layout in zip((_SHORT, _LONG), _LAYOUTS, strict=True)
    )
    samples = np.where(size <= framing.SHORT_PAYLOAD_BYTES, short, long) + sounding_samples(snr)
    return np.asarray(np.where(usable, samples / rate, np.inf))[()]


def payload_bits(
    airtime_s: ArrayLike,
    snr_db: ArrayLike,
    sample_rate_hz: ArrayLike,
    *,
    margin_db: float = 0.0,
    round_trip_s: float = 0.0,
    table: mcs.LossTable = mcs.LOOPBACK,
) -> NDArray[np.int64]:
    """Payload bits that the link expects to deliver within an airtime, sounding included; a whole
    number of blocks.

    Args:
        airtime_s: ≥ 0.
        snr_db: measured Es/N0 per used subcarrier; NaN, no measurement, carries nothing.
        sample_rate_hz: > 0.
        margin_db: the adaptation's.
        round_trip_s: wait for an answer.
        table: block losses of every scheme, as calibrated.

    Raises:
        ConfigError: for a negative airtime or a sample rate that is not positive.
    """
    seconds, snr, rate = np.broadcast_arrays(
        *(np.asarray(x, np.float64) for x in (airtime_s, snr_db, sample_rate_hz))
    )
    if not np.all(seconds >= 0) or np.any(rate <= 0):
        raise ConfigError(
            f"payload for {seconds.min():g} s at {rate.min():g} samples/s; airtime >= 0, rate > 0"
        )
    place, copies = _chosen(snr, margin_db, table)
    room = np.maximum(np.minimum(seconds * rate, 1e15) - sounding_samples(snr), 0)
    wait = _rounded(round_trip_s, rate)
    short, long = (
        layout.block_payload_bytes * costs.source_blocks(room, copies, place, wait)
        for costs, layout in zip((_SHORT, _LONG), _LAYOUTS, strict=True)
    )
    size = np.where(long > 0, long, np.minimum(short, framing.SHORT_PAYLOAD_BYTES))
    return np.asarray(8 * np.minimum(size, framing.MAX_PAYLOAD_BYTES)).astype(np.int64)[()]
