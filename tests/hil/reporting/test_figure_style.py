"""Colours: readable on both pages, the same for a policy in every figure; matplotlib's import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
from matplotlib.colors import to_rgb

import hil
from hil.evaluation.grid import POLICIES, contestant
from hil.reporting.figure_style import (
    CYCLE,
    INK,
    PALETTE,
    POLICY_ORDER,
    TINT,
    policy_kind,
    policy_styles,
    text_on,
)
from hil.reporting.page import PAGE_COLOURS, STYLE_SHEET
from hil.settings.policy import AnyPolicy

Rgb = tuple[float, float, float]
FILLS = ("ground", "kept")  # what figures put under marks of their own


def luminance(colour: Rgb) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: Rgb, b: Rgb) -> float:
    """Contrast ratio as WCAG 2.2 defines it, 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def blended(over: Rgb, under: Rgb, opacity: float) -> Rgb:
    red, green, blue = (opacity * o + (1 - opacity) * u for o, u in zip(over, under, strict=True))
    return red, green, blue


def test_contrast_is_that_of_wcag() -> None:
    assert contrast(to_rgb("#000000"), to_rgb("#ffffff")) == pytest.approx(21)
    assert contrast(to_rgb("#777777"), to_rgb("#ffffff")) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_reads_on_its_page(dark: bool) -> None:
    def colour(table: Mapping[str, tuple[str, str]], name: str) -> Rgb:
        return to_rgb(table[name][dark])

    page = colour(PAGE_COLOURS, "page")
    for text in ("ink", "soft"):
        for under in ("page", "card", "bad"):
            assert contrast(colour(PAGE_COLOURS, text), colour(PAGE_COLOURS, under)) >= 4.5
    marks = [name for name in PALETTE if name not in (*FILLS, "hatch")]
    tints = [colour(PALETTE, name) for name in marks if PALETTE[name][0] in CYCLE]
    for name in marks:
        for under in (page, *(blended(tint, page, TINT) for tint in tints)):
            assert contrast(colour(PALETTE, name), under) >= 4.5, (name, dark)
    assert contrast(colour(PALETTE, "hatch"), colour(PALETTE, "kept")) >= 4.5


def test_the_page_defines_what_figures_name() -> None:
    light, dark = re.findall(r":root\{([^}]*)\}", STYLE_SHEET)
    for i, block in enumerate((light, dark)):
        found = dict(re.findall(r"--(\w+):(#\w{6})", block))
        assert found == {k: v[i] for k, v in {**PAGE_COLOURS, **PALETTE}.items()}
    used = set(re.findall(r"var\(--(\w+)\)", STYLE_SHEET))
    assert used <= {*PAGE_COLOURS, *PALETTE}
    assert INK not in {light for light, _ in PALETTE.values()}


def test_text_on_a_shade_reads() -> None:
    for shade in (i / 50 for i in range(51)):
        for ground in ((shade, shade, shade), (shade, 1 - shade, 0.3), (0.2, shade, 1 - shade)):
            assert contrast(to_rgb(text_on(ground)), ground) >= 4.5


def test_every_kind_of_policy_has_a_place_of_its_own() -> None:
    tables = get_args(AnyPolicy)
    kinds = {get_args(table.model_fields["kind"].annotation)[0] for table in tables}
    assert kinds - {"file"} == set(POLICY_ORDER)
    looks = [(style["color"], style["marker"]) for style in policy_styles(POLICY_ORDER).values()]
    assert len(set(looks)) == len(POLICY_ORDER)
    for text in POLICIES:
        one = contestant(text)
        assert policy_kind(one.name) == one.members[0].kind


def test_a_policy_looks_the_same_in_every_company() -> None:
    alone, among = policy_styles(["ours"]), policy_styles(["mine", "ppo", "ours", "largest"])
    assert alone["ours"] == among["ours"]
    assert len({(s["color"], s["marker"]) for s in among.values()}) == 4
    variants = policy_styles(["fixed 1", "fixed 4", "fixed 8"])
    assert len({s["color"] for s in variants.values()}) == 1
    assert len({s["linestyle"] for s in variants.values()}) == 3


# ----------------------------------------------------------------------------- matplotlib's import


def test_every_file_makes_the_import_safe_first() -> None:
    root = Path(hil.__file__).parents[1]
    found = []
    for folder in ("hil", "cloud", "radio", "edge_device", "calibration"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            direct = re.search(r"^(import|from) matplotlib", text, re.MULTILINE)
            if direct:
                safe = text.find("\nimport hil.reporting.matplotlib_setup")
                assert 0 <= safe < direct.start(), path
                found.append(path.name)
    assert "figure_style.py" in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, 0),
        ({"MPLBACKEND": "no such backend"}, 0),
        ({"HOME": "/dev/null"}, 1),
        ({"MPLCONFIGDIR": "/dev/null/nowhere"}, 1),
    ],
)
def test_matplotlib_is_imported_in_bad_surroundings(changed: dict[str, str], said: int) -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", "import hil.reporting.figure_style"],
        env=plain | changed,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == said, done.stderr
