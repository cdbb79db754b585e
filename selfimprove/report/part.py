"""A part of a report: what it answers, and the charts and tables that answer it. Methods and suites list theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from selfimprove import registry
from selfimprove.errors import InputError
from selfimprove.report.charts import Chart
from selfimprove.report.events import Event
from selfimprove.report.judged_examples import JudgedExamples
from selfimprove.report.summary import of_kind, text
from selfimprove.report.table import Table

Place = Literal["quality", "method", "judges", "training", "cost"]


@dataclass(frozen=True)
class Part:
    """A part of a report. What is empty is left out, of it and it itself.

    Attributes:
        title: the question that it answers.
        text: what has to be known to read it.
        tables: the first one stands open, the others folded.
        examples: judged responses, to read.
        outcome: a sentence for the first lines of page and terminal.
        notes: what these events add to the text.
        place: parts come in the order of `Place`.
        terminal: its first table is also printed at the end of a run.
    """

    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[JudgedExamples] = field(default=())
    outcome: str = ""
    notes: Sequence[str] = ()
    place: Place = "method"
    terminal: bool = False

    def __post_init__(self) -> None:
        for name, used in (
            ("charts", [chart for chart in self.charts if chart.rows]),
            ("tables", [table for table in self.tables if table]),
            ("examples", [group for group in self.examples if group.examples]),
        ):
            object.__setattr__(self, name, used)

    def __bool__(self) -> bool:
        return bool(self.charts or self.tables or self.examples)

    def values(self) -> dict[str, Any]:
        """The part for programs: rows as they were measured, not as they are shown."""
        charts = [{"title": one.title, "x": one.x, "y": one.y, "rows": list(one.rows)} for one in self.charts]
        return {"title": self.title, "charts": charts, "tables": {one.title: one.values() for one in self.tables}}


# Makes a part of a run's events; an empty one where they have nothing for it.
Maker = Callable[[Sequence[Event]], Part]


def parts_of(events: Sequence[Event], general: Sequence[Maker] = ()) -> list[Part]:
    """The parts that there is anything for: the general ones, those of the kinds of suites, and those of the methods
    that the events are of."""
    makers = [*general, *_of_suites(), *_of_methods(events)]
    found = [part for maker in dict.fromkeys(makers) if (part := maker(events))]
    order = get_args(Place)
    return sorted(found, key=lambda part: order.index(part.place))


def _of_suites() -> list[Maker]:
    kinds = [registry.find("suite", name) for name in registry.names("suite")]
    return [maker for kind in kinds for maker in kind.report]


def _of_methods(events: Sequence[Event]) -> list[Maker]:
    found: list[Maker] = []
    for run in of_kind(events, "run"):
        search = (Path(text(run.get("beside"))), Path())  # the recipe's folder, for a file of the user's
        try:
            found += registry.find("method", text(run.get("method")), search).report
        except (InputError, AttributeError):  # a file of the user's that is no longer there
            continue
    return found
