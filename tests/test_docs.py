"""README and docs/ name only what exists: links, files, modules, verbs, options and keys."""

import importlib.util
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel

from hil import cli
from hil.contract import Budget, ChannelState, LinkReport, Receipt, TextState
from hil.settings.loading import Settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("hil", "cloud", "radio", "edge_device", "calibration", "configs", "docs", "tests")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# ------------------------------------------------------------------------------------------------
# what a page holds


def code_of(text: str) -> list[str]:
    """Lines of fenced and indented code blocks that are typed or shown, diagrams left out."""
    lines: list[str] = []
    fence = None
    for line in text.splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```")
        elif fence is not None and fence != "mermaid":
            lines.append(line)
        elif fence is None and re.match(r" {4,}\S", line):
            lines.append(line[4:])
    return lines


def spans_of(text: str) -> list[str]:
    """Code spans outside code blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]


def anchors_of(page: Path) -> set[str]:
    """Names by which the headings of a page are linked."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links whose file or heading is not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve()
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


def missing_files(text: str) -> list[str]:
    """Paths in code spans that begin like a folder of the repository and lead nowhere."""
    paths = [span for span in spans_of(text) if re.fullmatch(r"[\w.-]+(/[\w.*-]*)+", span)]
    paths = [path for path in paths if not re.search(r"-v\d+$", path)]  # Gymnasium's names
    return [path for path in paths if path.partition("/")[0] in ROOMS and not list(ROOT.glob(path))]


def missing_modules(text: str) -> list[str]:
    """Modules that `python -m` is to run, or that begin like a package of the kit, and are none."""
    code = "\n".join([*code_of(text), *spans_of(text)])
    names = re.findall(r"python -m ((?:hil|cloud|radio|edge_device|calibration)[\w.]*)", code)
    names += re.findall(
        r"^\s*(?:from|import) ((?:hil|cloud|radio|edge_device|calibration)[\w.]*)", code, re.M
    )
    names += [
        span for span in spans_of(text) if re.fullmatch(rf"(?:{'|'.join(ROOMS[:5])})(\.\w+)+", span)
    ]
    return [name for name in names if not _is_module(name) and not _is_key_or_file(name)]


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _is_key_or_file(name: str) -> bool:
    """A key of hil.toml, a column of rounds.jsonl, or a file at the root: `radio.kind`,
    `radio.outages`, `hil.toml`."""
    return (ROOT / name).exists() or name in _columns() | _dotted_keys()


def unknown_verbs(text: str) -> list[str]:
    """`hil VERB` and its options, where the command line knows no such thing."""
    verbs = typer.main.get_command(cli.app())
    unknown = []
    for line in [*code_of(text), *spans_of(text)]:
        for call in re.findall(r"(?:^|[\s|&;])hil ([a-z][^#|&;]*)", f" {line}"):
            words = call.split()
            command: Any = verbs
            while words and hasattr(command, "commands"):
                name = words.pop(0)
                if not re.fullmatch(r"[a-z][a-z-]*", name):
                    break
                if name not in command.commands:
                    unknown.append(f"hil {name}")
                    break
                command = command.commands[name]
            else:
                known = {option for param in command.params for option in param.opts} | {"--help"}
                options = re.findall(r"(?<=\s)--[a-z][a-z-]*", f" {' '.join(words)}")
                unknown += [f"hil {command.name} {o}" for o in options if o not in known]
    return unknown


# ------------------------------------------------------------------------------------------------
# what the program has


def tables_in(annotation: Any) -> list[type[BaseModel]]:
    """Tables of settings that a key may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in tables_in(part)]


def kind_of(table: type[BaseModel]) -> str:
    """The kind that a table is of, "" where there is one kind only."""
    field = table.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""


def keys_of_schema() -> dict[tuple[str, str, str], Any]:
    """(table, kind, key) → field; a value that moves from round to round is a table of its own."""
    found: dict[tuple[str, str, str], Any] = {}

    def walk(path: str, table: type[BaseModel]) -> None:
        kind = kind_of(table)
        for name, field in table.model_fields.items():
            inner = tables_in(field.annotation)
            if name != "kind":
                found.setdefault((path, kind, name), field)
            for other in inner:
                moving = "constant" in map(kind_of, inner)
                walk("" if moving else f"{path}.{name}", other)

    for name, field in Settings.model_fields.items():
        for table in tables_in(field.annotation):
            walk(name, table)
    return found


def rows_of_page(text: str) -> dict[tuple[str, str, str], tuple[str, str, str]]:
    """(table, kind, key) → default, range and meaning, as docs/configuration.md has them."""
    rows: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    path = kind = ""
    for line in text.splitlines():
        if line.startswith("#"):
            path = (re.findall(r"`\[([\w.]+)\]`", line) or [""])[0]
            kind = (re.findall(r'`kind = "(\w+)"`', line) or [""])[0]
        elif line.startswith("| `"):
            key, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 3, line
            rows[path, kind, key.strip("`")] = (cells[0], cells[1], cells[2].rstrip(" |"))
    return rows


def default_of(field: Any) -> str:
    """A key's default as the page writes it; "" where it is a table."""
    if tables_in(field.annotation):
        return ""
    if field.is_required():
        return "required"
    return "the preset's" if field.default is None else f"`{toml(field.default)}`"


def toml(value: Any) -> str:
    """A value on one line, as a TOML file has it."""
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}"
    return json.dumps(value, ensure_ascii=False)


def range_of(field: Any) -> str:
    """A number's limits or a choice's values as the page writes them; "" for anything else."""
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(f"`{toml(choice)}`" for choice in choices)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{signs[name]} {'2^63' if limit == 2**63 else f'{limit:,.10g}'}"
        for name, limit in _limits(field)
    )


def _limits(field: Any) -> list[tuple[str, float]]:
    found = []
    for rule in field.metadata:
        found += [(n, getattr(rule, n)) for n in ("ge", "gt", "le", "lt") if hasattr(rule, n)]
    return found


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Values of a key that takes no others."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return _choices(parts[0]) if len(parts) == 1 else ()


def _dotted_keys() -> set[str]:
    return {f"{path}.{name}" for path, _, name in keys_of_schema()} | {
        f"{path}.kind" for path, kind, _ in keys_of_schema() if kind
    }


def _columns() -> set[str]:
    """Names in the first column of the glossary."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (.+?) \|", page, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


# ------------------------------------------------------------------------------------------------
# tests


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(encoding="utf-8"), page.parent) == []


@each_page
def test_files_modules_and_verbs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_files(text) == []
    assert missing_modules(text) == []
    assert unknown_verbs(text) == []


def test_what_does_not_exist_is_found() -> None:
    text = (
        "[a](docs/nowhere.md) [b](README.md#no-such-heading) [c](hil.toml)\n"
        "`hil/contract/records.py` `radio/nowhere.py` `cloud.nowhere` `hil.contract` `radio.kind`\n"
        "`hil fly` `hil run --high`\n"
        "\n    python -m hil.nowhere && hil bench wings\n    hil bench link --quick\n"
    )
    assert broken_links(text, ROOT) == ["docs/nowhere.md", "README.md#no-such-heading"]
    assert missing_files(text) == ["radio/nowhere.py"]
    assert missing_modules(text) == ["hil.nowhere", "cloud.nowhere"]
    assert unknown_verbs(text) == ["hil wings", "hil fly", "hil run --high"]


def test_the_changelog_names_the_modules_of_today() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = text.partition("### Renamed: modules")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `.+? \| (.+) \|$", table, flags=re.MULTILINE)
    assert len(rows) > 20
    missing = []
    for row in rows:
        package = ""
        for name in spans_of(row):
            if "/" in name:
                missing += [] if (ROOT / name).is_dir() else [name]
                continue
            package = name.rpartition(".")[0] if "." in name else package
            full = name.removesuffix(".*") if "." in name else f"{package}.{name}"
            missing += [] if _is_module(full) else [full]
    assert missing == []


def test_the_readme_is_short_and_fits_a_terminal() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert [line for line in code_of(text) if len(line) > 80] == []


def test_every_page_stands_in_the_index() -> None:
    linked = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / "docs" / "README.md").read_text())
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(linked)


def test_every_verb_stands_in_the_readme() -> None:
    verbs: Any = typer.main.get_command(cli.app())
    text = README.read_text(encoding="utf-8")
    assert [verb for verb in verbs.commands if f"`hil {verb}" not in text] == []


def test_the_configuration_page_has_every_key_with_default_and_range() -> None:
    schema = keys_of_schema()
    page = rows_of_page((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    assert sorted(page) == sorted(schema)
    wrong = []
    for key, field in schema.items():
        default, limits, meaning = page[key]
        expected, within = default_of(field), range_of(field)
        if (expected and default != expected) or (within and limits != within) or not meaning:
            wrong.append((key, expected, within))
    assert wrong == []


def test_the_glossary_has_every_column_of_a_round() -> None:
    records = {
        "text": TextState,
        "channel": ChannelState,
        "budget": Budget,
        "link": LinkReport,
        "edge": Receipt,
    }
    columns = {f"{name}.{field.name}" for name, kind in records.items() for field in fields(kind)}
    elsewhere = {"link.blocks_by_mcs", "edge.round_id", "edge.swap_ms"}
    assert sorted(columns - elsewhere - _columns()) == []
