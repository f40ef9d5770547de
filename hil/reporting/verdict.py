"""A run's verdict: `--require "delivered>=0.9,gain>0"` held against the rounds of the run."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hil.contract import ConfigError

DEFAULT: Final = "delivered>=1"
"""At least one round was delivered."""

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_COUNTED: Final = ("installed", "delivered")
_QUANTITIES: Final = (*_COUNTED, "gain", "score")
_TERM: Final = re.compile(r"\s*([a-z]+)\s*(>=|<=|==|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")
_ALLOWED: Final = (
    f"a term is {'|'.join(_QUANTITIES)}, then one of {' '.join(_COMPARISONS)}, then a number, for "
    f"example {DEFAULT}; terms are joined by commas; none asks for nothing"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One condition on a run.

    Attributes:
        quantity: "installed" or "delivered", which count rounds, or "gain" or "score".
        comparison: one of >= <= == > <.
        limit: right-hand side.
    """

    quantity: str
    comparison: str
    limit: float

    @property
    def is_share(self) -> bool:
        """True if the limit is a share of all rounds rather than a number of rounds."""
        return self.quantity in _COUNTED and self.limit < 1

    def __str__(self) -> str:
        return f"{self.quantity}{self.comparison}{self.limit:g}"


def parse_requirement(text: str) -> tuple[Term, ...]:
    """The conditions that an expression names; none for "none".

    Args:
        text: terms `installed|delivered|gain|score OP number`, joined by commas. OP is one of
            >= <= == > <.
    Raises:
        ConfigError: a term cannot be read.
    """
    if text.strip() == "none":
        return ()
    terms = []
    for part in text.split(","):
        found = _TERM.fullmatch(part)
        if found is None or found[1] not in _QUANTITIES:
            raise ConfigError(f"--require {text}: cannot read {part.strip()!r}; {_ALLOWED}")
        terms.append(Term(quantity=found[1], comparison=found[2], limit=float(found[3])))
    return tuple(terms)


def missed(terms: Sequence[Term], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The conditions that a run does not meet, a sentence each; empty if it meets them all.

    * `installed` counts the rounds whose update the edge installed; `delivered` counts the rounds
      whose payload arrived whole, and those in which the plan sent nothing. A limit below 1 is a
      share of all rounds, any other a number of rounds.
    * `score` and `gain` are those of the last round, so they judge the model that the edge ends
      up with. A score is a share of right answers, 0..1; the gain is the score minus the untouched
      model's, or on plain text the loss that was saved, in nats per token. A figure that was not
      measured meets no condition.

    Args:
        terms: see parse_requirement.
        rows: the run's rounds, as in rounds.jsonl.
    """
    found = []
    for term in terms:
        value = _value(term, rows)
        if math.isnan(value):
            found.append(f"{term} is required; {term.quantity} was not measured")
        elif not _COMPARISONS[term.comparison](value, term.limit):
            found.append(f"{term} is required; {_in_words(term, value, len(rows))}")
    return found


def _value(term: Term, rows: Sequence[Mapping[str, Any]]) -> float:
    if term.quantity in _COUNTED:
        counts = _installed if term.quantity == "installed" else _delivered
        number = sum(counts(row) for row in rows)
        if term.is_share:
            return number / len(rows) if rows else 0.0
        return float(number)
    last = rows[-1].get(f"edge.{term.quantity}") if rows else None
    return float(last) if isinstance(last, int | float) else math.nan


def _installed(row: Mapping[str, Any]) -> bool:
    return bool(row.get("edge.status") == "installed")


def _delivered(row: Mapping[str, Any]) -> bool:
    return bool(row.get("edge.status") == "kept") or row.get("link.delivered") is True


def _in_words(term: Term, value: float, n_rounds: int) -> str:
    if term.quantity not in _COUNTED:
        return f"the last round's {term.quantity} is {value:.4g}"
    number = round(value * n_rounds) if term.is_share else round(value)
    return f"{number} of {n_rounds} rounds {'were' if number != 1 else 'was'} {term.quantity}"
