"""Studies of speed: decoder, transmitter, receiver."""

from __future__ import annotations

from typing import Any, Final

from hil.benchmarks.link import speed
from hil.benchmarks.link.bars import Bar, Estimate, median, number
from hil.benchmarks.link.burst_trials import SAMPLE_RATE_HZ
from hil.benchmarks.link.study import Results, Summary, Task
from radio.modem import mcs

_SPEED_PLACES: Final = (3, 8, 13, 17)


def speed_tasks(quick: bool) -> list[Task]:
    """Decoder on one core and two; transmitter and receiver for one MCS of each modulation."""
    repeats = 5 if quick else 9
    tasks = [
        Task(speed.decoder_speed, {"blocks": 64, "threads": threads, "repeats": repeats})
        for threads in (1, 2)
    ]
    for place in _SPEED_PLACES:
        settings = {
            "place": place,
            "snr_db": mcs.MCS_TABLE[place].threshold_db + 1.5,
            "n_blocks": 32,
        }
        tasks.append(
            Task(
                speed.modem_speed,
                {**settings, "bursts": 2 if quick else 6, "repeats": repeats, "threads": 1},
            )
        )
    settings = {
        "place": _SPEED_PLACES[-1],
        "snr_db": mcs.MCS_TABLE[_SPEED_PLACES[-1]].threshold_db + 1.5,
        "n_blocks": 32,
    }
    tasks.append(
        Task(
            speed.modem_speed,
            {**settings, "bursts": 2 if quick else 6, "repeats": repeats, "threads": 2},
        )
    )
    return tasks


def speed_bars(results: Results) -> Summary:
    """Medians; how much faster than the air where samples are counted."""
    decoders, modems = results["speed"][:2], results["speed"][2:]
    bars = []
    for r, bar, reach in zip(decoders, (20.0, None), (None, 50.0), strict=True):
        note = f"{number(r['iterations'])} iterations on average"
        bars.append(
            _speed_bar(
                r,
                "bits_per_s",
                "decoder, R = 1/2, 1 dB above threshold",
                "Mbit/s",
                bar,
                reach,
                note,
            )
        )
    for r in modems:
        passed = f"{r['passed']} of {r['blocks']} blocks passed"
        two = r["threads"] > 1
        name = f"receive, everything, {r['name']}"
        bars.append(
            _speed_bar(
                r,
                "receive_samples_per_s",
                name,
                "MS/s",
                None if two else 2.0,
                4.0 if two else None,
                passed,
            )
        )
        if not two:
            bars.append(
                _speed_bar(
                    r, "transmit_samples_per_s", f"transmit, {r['name']}", "MS/s", 10.0, None, ""
                )
            )
    return bars, {"decoder": decoders, "modem": modems}


def _speed_bar(
    r: dict[str, Any],
    key: str,
    name: str,
    unit: str,
    bar: float | None,
    reach: float | None,
    note: str,
) -> Bar:
    """One thread: per second of its own computing, which other load does not slow; several: by the
    clock."""
    one = r["threads"] == 1
    by_cpu, by_clock = median(r[f"{key}_cpu"]), median(r[key])
    speed = by_cpu if one else by_clock
    notes = [
        note,
        f"{number(speed.figure / SAMPLE_RATE_HZ)} times real time at {SAMPLE_RATE_HZ / 1e6:g} MS/s"
        if unit == "MS/s"
        else "",
        f"by the clock {number(by_clock.figure / 1e6)} {unit}" if one else "by the clock",
        f"load average {r['started']['load_average']}",
    ]
    return Bar(
        study="speed",
        name=f"{name}, " + ("a core" if one else f"{r['threads']} threads"),
        estimate=Estimate(speed.figure / 1e6, speed.low / 1e6, speed.high / 1e6),
        unit=unit,
        trials=len(r[key]),
        of="timings",
        bar=bar,
        reach=reach,
        note="; ".join(part for part in notes if part),
    )
