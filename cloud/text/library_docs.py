"""Prose of the Python standard library that runs this program: docstrings, comments and the
built-in help topics.

Offline text with a real vocabulary. It differs between Python versions, so it carries a hash and no
test holds exact values of it. A few packages are held out of the base model's pretraining: they are
the language-model domains.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

HELD_OUT = ("asyncio", "email", "http", "logging", "unittest", "xml")
"""Packages that no pretraining sees; each may serve as a domain, also joined by "+"."""

# Separate packages or removed in some distributions and versions, and tests, which are hardly
# prose.
_SKIPPED = {
    "tkinter",
    "idlelib",
    "lib2to3",
    "distutils",
    "test",
    "tests",
    "site-packages",
    "dist-packages",
}
_C_MODULES = (
    "builtins math cmath itertools _collections _functools _operator time _struct array binascii "
    "zlib select _socket "
    "_io sys posix errno _datetime _random _heapq _bisect _json _pickle mmap unicodedata signal "
    "gc marshal _thread"
).split()


@cache
def package_prose(package: str) -> tuple[str, ...]:
    """Paragraphs of one held-out package, file by file in sorted order.

    Raises:
        KeyError: the package is not one of HELD_OUT.
    """
    if package not in HELD_OUT:
        raise KeyError(package)
    paragraphs: list[str] = []
    for path in sorted((_library() / package).rglob("*.py")):
        if _wanted(path):
            paragraphs += _prose_of_file(path)
    return tuple(paragraphs)


@cache
def pretraining_prose() -> tuple[str, ...]:
    """Paragraphs of everything else: help topics, modules' docstrings and comments, and help of C
    modules."""
    paragraphs: list[str] = []
    topics = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        paragraphs += _paragraphs(topics[name])
    for path in sorted(_library().rglob("*.py")):
        if _wanted(path) and path.relative_to(_library()).parts[0] not in HELD_OUT:
            paragraphs += _prose_of_file(path)
    for name in _C_MODULES:
        paragraphs += _prose_of_c_module(name)
    return tuple(dict.fromkeys(paragraphs))


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _wanted(path: Path) -> bool:
    parts = path.relative_to(_library()).parts
    # pydoc_data is read as data above; config-* holds build files.
    return not (_SKIPPED & set(parts)) and not parts[0].startswith(
        ("config-", "pydoc_data", "encodings")
    )


def _prose_of_file(path: Path) -> Iterator[str]:
    """Docstrings, then comment blocks, of one module; files that do not parse give nothing."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, UnicodeDecodeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _paragraphs(ast.get_docstring(node) or "")
    block: list[str] = []
    last_line = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last_line + 1:
                yield from _paragraphs("\n".join(block))
                block = []
            block.append(token.string.lstrip("#! "))
            last_line = token.start[0]
    yield from _paragraphs("\n".join(block))


def _prose_of_c_module(name: str) -> Iterator[str]:
    try:
        module = importlib.import_module(name)
    except ImportError:  # for example posix on another system
        return
    owners = [module, *(v for _, v in sorted(vars(module).items()) if isinstance(v, type))]
    for owner in owners:
        documented = [
            owner,
            *(value for _, value in sorted(vars(owner).items()) if callable(value)),
        ]
        for item in documented:
            doc = getattr(item, "__doc__", None)
            if isinstance(doc, str):
                yield from _paragraphs(doc)


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs of at least six words that are mostly letters, blanks joined."""
    for block in re.split(r"\n\s*\n", textwrap.dedent(text)):
        line = " ".join(block.split())
        letters = sum(c.isalpha() or c == " " for c in line)
        if line.count(" ") >= 5 and letters >= 0.75 * len(line):
            yield line
