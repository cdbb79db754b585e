"""Some judged outputs as the report shows them: what was asked, what was written, and what the judge said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report.summary import text
from selfimprove.report.table import Table, as_list


@dataclass
class Side:
    """One text beside others: whose it is, a figure about it, whether it was the preferred one, and whether it is right
    where that is known."""

    name: str
    note: str
    text: str
    won: bool = False
    right: bool | None = None


@dataclass
class Judged:
    """`why` is the reason for which there is no verdict, empty where there is one; `text` says how the verdict came
    about, and `all` is every response that there was."""

    prompt: str
    figures: list[tuple[str, str]]
    why: str
    sides: list[Side]
    text: str = ""
    all: Table | None = None


@dataclass
class JudgedExamples:
    title: str
    examples: list[Judged]
    text: str = ""


def examples_of(
    rows: Sequence[dict[str, Any]], make: Callable[[dict[str, Any], dict[str, Any]], Judged], what: str
) -> list[JudgedExamples]:
    """The `examples` that evaluations brought with them (rows of `report/evaluated.py`), a group for each suite and
    policy."""
    found = []
    for row in rows:
        against = f" against {named}" if (named := text(row["own"].get("against"))) else ""
        made = [make(row, one) for one in as_list(row["own"].get("examples")) if isinstance(one, dict)]
        found.append(JudgedExamples(f"{what} of {row['policy']}{against} on {row['suite']}", made))
    return found


def words(value: Any) -> str:
    """A text; of several turns, one after another."""
    return "\n\n".join(text(one) for one in value) if isinstance(value, list) else text(value)
