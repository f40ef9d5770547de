"""Studies of the receiver's front: bursts found, false alarms, carrier offset, SNR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy import stats

from hil.benchmarks.link import burst_trials
from hil.benchmarks.link.bars import Bar, Estimate, number, quantile, rate, rms
from hil.benchmarks.link.study import Results, Summary, Task, finite
from hil.rounding import ceil_div
from radio.modem import mcs

# -------------------------------------------------------------------------------------------------
# acquisition

_DETECTION_DB: Final = {
    False: (-6, -5, -4, -3, -2, -1, 0, 2, 5, 10, 20),
    True: (-13, -12, -11, -10, -9, -8, -6.5, -5),
}


def detection_tasks(quick: bool) -> list[Task]:
    """Soundings at many SNRs behind both preambles."""
    bursts = 150 if quick else 1000
    shown = {False: (-3, 0, 5), True: (-8, -5)} if quick else _DETECTION_DB
    tasks = []
    for robust, levels in shown.items():
        for snr_db in levels:
            settings = {"snr_db": float(snr_db), "bursts": bursts, "robust": robust}
            tasks.append(Task(burst_trials.acquire, settings, 1 + 2 * robust))
    return tasks


def detection_bars(results: Results) -> Summary:
    """Shares found and read, and the carrier offset's error."""
    rows = {(r["robust"], r["snr_db"]): r for r in results["detection"]}

    def found(robust: bool, snr_db: float, bar: float | None, reach: float | None) -> Bar:
        r = rows[robust, snr_db]
        return Bar(
            study="detection",
            name=f"{'robust bursts' if robust else 'bursts'} found at {snr_db:g} dB, any CFO and "
            "delay",
            estimate=rate(r["found"], r["bursts"]),
            trials=r["bursts"],
            of="bursts",
            bar=bar,
            reach=reach,
            note=f"within {burst_trials.TIMING_TOLERANCE} samples and a quarter subcarrier; "
            f"headers read: {number(r['read'] / r['bursts'])}",
        )

    bars = [
        found(False, 0.0, 0.99, None),
        found(False, -3.0, None, 0.99),
        found(True, -5.0, 0.95, None),
        found(True, -8.0, None, 0.95),
    ]
    at_5_db = rows[False, 5.0]
    for name, errors, bar, reach in (
        ("from the preamble", at_5_db["cfo_errors"], 0.01, 0.005),
        ("at the end of the burst", at_5_db["final_cfo_errors"], None, None),
    ):
        bars.append(
            Bar(
                study="detection",
                name=f"CFO error at 5 dB, rms, {name}",
                estimate=rms(errors),
                unit="subcarriers",
                trials=len(errors),
                of="bursts",
                bar=bar,
                reach=reach,
                higher=False,
            )
        )
    curve = [
        {
            "robust": r["robust"],
            "snr_db": r["snr_db"],
            "bursts": r["bursts"],
            "found": r["found"],
            "read": r["read"],
            "cfo_rms": finite(rms(r["cfo_errors"]).figure),
            "final_cfo_rms": finite(rms(r["final_cfo_errors"]).figure),
        }
        for r in results["detection"]
    ]
    return bars, {"points": curve}


_FALSE_ALARMS: Final = {"noise": 30_000_000, "tone": 10_000_000, "ofdm64": 10_000_000}
_SOURCES: Final = {
    "noise": "noise",
    "tone": "a CW tone",
    "ofdm64": "another OFDM system (64 subcarriers)",
}


def false_alarm_tasks(quick: bool) -> list[Task]:
    """Noise, tones and another system's OFDM."""
    tasks = []
    for source, in_all in _FALSE_ALARMS.items():
        n = in_all // 10 if quick else in_all
        settings = {"source": source, "samples": min(n, 5_000_000)}
        tasks += [Task(burst_trials.false_alarms, settings, 2)] * ceil_div(n, 5_000_000)
    return tasks


def false_alarm_bars(results: Results) -> Summary:
    """Preambles believed and headers passed where nobody sent."""
    bars = []
    for source, words in _SOURCES.items():
        own = [r for r in results["false-alarms"] if r["source"] == source]
        samples = sum(r["samples"] for r in own)
        for what, key, bar in (
            ("preambles believed", "found", 0.0 if source == "noise" else None),
            ("headers whose CRC passed", "read", 0.0),
        ):
            n = sum(r[key] for r in own)
            low, high = (
                float(stats.chi2.ppf(p, 2 * m)) / 2 if m else 0.0
                for p, m in ((0.025, n), (0.975, n + 1))
            )
            bars.append(
                Bar(
                    study="false-alarms",
                    name=f"{what} in {words}",
                    estimate=Estimate(n, low, high),
                    trials=samples,
                    of="samples",
                    bar=bar,
                    higher=False,
                )
            )
    return bars, {}


# ------------------------------------------------------------------------------------------------
# SNR

_SNR_BLOCKS: Final = 4
_SNR_MARGIN_DB: Final = 1.0
_BLIND: Final = ((9, 5.0), (2, -7.0))
"""Place in the table and SNR: 64-QAM of which only headers pass; QPSK of which nothing does."""


def snr_tasks(quick: bool) -> list[Task]:
    """Bursts of the fastest MCS that passes at each SNR, and some of which nothing passes."""
    levels = [-5, -3, 0, 15, 30] if quick else [-5, -4, -3, -2, -1, *range(0, 31, 3)]
    bursts = 20 if quick else 150
    tasks = []
    for snr_db in levels:
        fitting = [
            k for k, m in enumerate(mcs.MCS_TABLE) if m.threshold_db + _SNR_MARGIN_DB <= snr_db
        ]
        place = max([k for k in fitting if snr_db >= 0 or mcs.MCS_TABLE[k].robust], default=0)
        n = bursts if snr_db >= 0 else 2 * bursts if quick else 200
        settings = {"snr_db": float(snr_db), "place": place, "blocks": _SNR_BLOCKS, "bursts": n}
        tasks.append(Task(burst_trials.estimate_snr, settings, 8 / mcs.MCS_TABLE[place].efficiency))
    for place, level in _BLIND:
        settings = {
            "snr_db": level,
            "place": place,
            "blocks": _SNR_BLOCKS,
            "bursts": 1000 if not quick else 100,
        }
        tasks.append(Task(burst_trials.estimate_blind, settings, 5))
    return tasks


def snr_bars(results: Results) -> Summary:
    """Error and coverage of the data-aided estimate, and whether one is there when no block
    passes."""
    levels, blind = results["snr"][: -len(_BLIND)], results["snr"][-len(_BLIND) :]
    bars = []
    for name, own, bar, reach in (
        ("0..30 dB", [r for r in levels if r["snr_db"] >= 0], 0.5, 0.25),
        ("-5..-1 dB, robust", [r for r in levels if r["snr_db"] < 0], 1.0, None),
    ):
        error = np.concatenate([np.asarray(r["error_db"], float) for r in own])
        std = np.concatenate([np.asarray(r["std_db"], float) for r in own])
        aided = np.concatenate([np.asarray(r["aided"], bool) for r in own])
        sent = sum(r["bursts"] for r in own)
        covered = int((np.abs(error[aided]) <= std[aided]).sum())
        n_aided = int(aided.sum())
        cover = rate(covered, n_aided)
        bars += [
            Bar(
                study="snr",
                name=f"SNR error, data-aided, 99 % of bursts, {name}",
                estimate=quantile(np.abs(error[aided]), 0.99),
                unit="dB",
                trials=sent,
                of="bursts",
                bar=bar,
                reach=reach,
                higher=False,
                note=f"of {sent} bursts {n_aided} gave a data-aided estimate; mean error "
                f"{number(float(error[aided].mean())) if n_aided else '-'} dB",
            ),
            Bar(
                study="snr",
                name=f"SNR sigma, distance of its coverage from 68.3 %, {name}",
                estimate=Estimate(abs(cover.figure - 0.683)),
                trials=n_aided,
                of="bursts",
                bar=None,
                reach=0.05,
                higher=False,
                note=f"coverage {number(cover.figure)} [{number(cover.low)}, {number(cover.high)}]",
            ),
        ]
    return [*bars, *_blind_bars(blind)], {
        "levels": [{**r, "name": mcs.MCS_TABLE[r["place"]].name} for r in levels]
    }


def _blind_bars(blind: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Bursts of which no block passes: by whether the header did, which is known data as well."""
    rows: list[tuple[Any, ...]] = []
    for r in blind:
        rows += zip(*(r[k] for k in ("error_db", "std_db", "aided", "read")), strict=True)
    present = sum(math.isfinite(error) and std > 0 for error, std, _, _ in rows)
    unread = [row for row in rows if not row[3]]
    flagged = sum(not aided for _, _, aided, _ in unread)
    levels = ", ".join(f"{level:g} dB" for _, level in _BLIND)
    return [
        Bar(
            study="snr",
            name="no block passes: an estimate with its sigma is there",
            estimate=rate(present, len(rows)),
            trials=len(rows),
            of="bursts",
            bar=1.0,
            note=f"found bursts at {levels}; 99 % of errors within "
            f"{number(quantile([abs(row[0]) for row in rows], 0.99).figure)} dB, sigma covers "
            f"{number(rate(sum(abs(e) <= s for e, s, _, _ in rows), len(rows)).figure)}",
        ),
        Bar(
            study="snr",
            name="neither block nor header passes: the estimate is flagged",
            estimate=rate(flagged, len(unread)),
            trials=len(unread),
            of="bursts",
            bar=1.0,
            note="from preamble alone; a header that passes is known data and counts as data-aided",
        ),
    ]
