"""What a person sees in the terminal while a run goes on, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import rich.progress
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from selfimprove.report.events import Event
from selfimprove.report.narrow import NarrowTable
from selfimprove.report.outcome import before_after
from selfimprove.report.overall import Overall
from selfimprove.report.part import parts_of
from selfimprove.report.policies import terminal_table
from selfimprove.report.summary import dig, duration, evaluations_of, first_metric, text
from selfimprove.report.table import Table as Data
from selfimprove.report.text import printable, visible

__all__ = ["Progress", "before_after_table", "part_tables", "printable", "rounds_table"]


@dataclass
class _Task:
    name: str
    total: int | None
    unit: str
    started: float
    done: int = 0
    last_line: float = 0.0


class Progress:
    """Shows how far long steps are: a bar on a terminal, a plain line now and then in a log file; and how far the run
    is (`overall`): a line above the bar, the end of a step's last line.

    Everything goes to standard error, so that standard output stays free for results.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        live: bool | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True)
        # FORCE_COLOR makes rich take a CI log for a terminal, which a bar would fill with cursor movements
        is_terminal = self.console.is_interactive and self.console.file.isatty()
        self._live = is_terminal if live is None else live
        self._interval = interval
        self._clock = clock
        self._bars: rich.progress.Progress | None = None
        self.overall = Overall()

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "items") -> Iterator[Callable[[int], None]]:
        """Gives a function to call with the number of units just finished. Tasks may be nested."""
        task = _Task(name, total, unit, started=self._clock())
        if self._live:
            show = self._with_bar(task)
        else:
            self.note(name if total is None else f"{name}: {total} {unit}")
            task.last_line = task.started
            show = self._with_lines(task)
        ending = "stopped"
        try:
            with show as advance:
                yield advance
            ending = "done"
        finally:
            amount = f"{task.done}" if task.total in (None, task.done) else f"{task.done} of {task.total}"
            taken = duration(self._clock() - task.started)
            where = "" if self._live or not (line := self.overall.line()) else f" ({line})"
            self.note(f"{name}: {ending}, {amount} {unit} in {taken}{where}")

    def note(self, text: str) -> None:
        """Prints a line of plain text; `printable` is not needed, no markup in it is obeyed."""
        self.console.print(Text(visible(text)), soft_wrap=True)

    def step_reused(self, name: str) -> None:
        """Says that a finished step of an earlier start of this run is used as it is."""
        self.note(f"{name}: already done, reused")

    @contextmanager
    def _with_lines(self, task: _Task) -> Iterator[Callable[[int], None]]:
        def advance(units: int) -> None:
            task.done += units
            now = self._clock()
            finished = task.total is not None and task.done >= task.total
            if finished or now - task.last_line < self._interval:
                return
            task.last_line = now
            if task.total is None:
                self.note(f"{task.name}: {task.done} {task.unit}, {duration(now - task.started)} so far")
            else:
                share = 100 * task.done / max(task.total, 1)
                left = _time_left(task.done, task.total, now - task.started)
                self.note(f"{task.name}: {share:.0f}% ({task.done} of {task.total} {task.unit}), {left} left")

        yield advance

    @contextmanager
    def _with_bar(self, task: _Task) -> Iterator[Callable[[int], None]]:
        outermost = self._bars is None
        bars = self._bars or _Bars(lambda: self.overall.line(), self.console)
        if outermost:
            self._bars = bars
            bars.start()
        bar = bars.add_task(visible(task.name), total=task.total, unit=task.unit)

        def advance(units: int) -> None:
            task.done += units
            bars.advance(bar, units)

        try:
            yield advance
        finally:
            bars.remove_task(bar)
            if outermost:
                bars.stop()
                self._bars = None


class _Bars(rich.progress.Progress):
    """A bar for each task, as wide as there is room for, under the run's own line."""

    def __init__(self, line: Callable[[], str], console: Console) -> None:
        self._line = line
        name = rich.progress.TextColumn("{task.description}", markup=False)
        columns: list[rich.progress.ProgressColumn] = [name, _AmountColumn(), _TimeLeftColumn()]
        if console.width >= 80:
            columns[1:1] = [rich.progress.BarColumn(bar_width=20)]
            columns[-1:-1] = [rich.progress.TimeElapsedColumn()]
        super().__init__(*columns, console=console, transient=True)

    def get_renderables(self) -> Iterator[RenderableType]:
        if line := self._line():
            yield Text(line, style="bold")
        yield self.make_tasks_table(self.tasks)


class _AmountColumn(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> Text:
        total = "" if task.total is None else f"/{task.total:.0f}"
        return Text(f"{task.completed:.0f}{total} {task.fields['unit']}", no_wrap=True)


class _TimeLeftColumn(rich.progress.ProgressColumn):
    """From the average since the start: rich's own column forgets batches longer than 30 seconds ago."""

    def render(self, task: rich.progress.Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(f"{_time_left(task.completed, task.total, task.elapsed or 0.0)} left", no_wrap=True)


def _time_left(done: float, total: float, elapsed: float) -> str:
    if done <= 0:
        return "?"
    left = round(elapsed * max(total - done, 0) / done)
    return duration(left) if left >= 60 else f"{left} s"


def as_rich(table: Data) -> Table:
    """A table for a terminal of any width: it gives up its last columns where it is too wide."""
    found = NarrowTable(
        title=printable(table.title) or None, title_justify="left", box=None, pad_edge=False, collapse_padding=True
    )
    numbers = [all(_is_number(col.of(row)) for row in table.rows) for col in table.cols]
    right = {col.title for col, number in zip(table.cols, numbers, strict=True) if number}
    for place, (header, wide) in enumerate(zip(table.columns, table.wide, strict=True)):
        found.add_column(
            printable(header).replace(", ", ",\n"),
            justify="right" if header in right else "left",
            no_wrap=not wide and not place,
        )
    for row in table.cells:
        found.add_row(*map(printable, row))
    return found


def _is_number(value: Any) -> bool:
    """A number, one with its interval or error, or none."""
    return isinstance(value, int | float | None) or (isinstance(value, dict) and bool({"value", "mean"} & set(value)))


def rounds_table(events: Sequence[Event]) -> Table:
    """One row for each policy, at most 80 columns wide; `report.html` has the rest."""
    found = terminal_table(events)
    suite = next(iter(evaluations_of(events)), "")
    metric = first_metric(events)
    unit = " in %" if metric.unit else ""
    table = NarrowTable(
        title=printable(f"{suite}: {metric.name}{unit}, with 95% intervals") if suite else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0),
        collapse_padding=True,
    )
    for header in found.columns:
        if header == "policy":
            table.add_column("policy", overflow="ellipsis", no_wrap=True, max_width=13)
        elif header in (metric.name, "change"):  # these wrap before anything is cut off
            table.add_column(printable(header), justify="right", min_width=20 if header == "change" else None)
        else:
            table.add_column(header, justify="right", no_wrap=True)
    for row in found.cells:
        table.add_row(*(printable(cell) if cell else "-" for cell in row))
    said = {
        "C": "C: ranking consistency",
        "accepted\n%": "accepted: of the round's samples",
        "kept": "kept: distinct, capped",
        "right\n%": "right: labels that prefer the right answer",
        "|h|": "|h|: mean trained margin",
    }
    named = "; ".join(words for header, words in said.items() if header in found.columns)
    against = sorted({name for row in found.rows if (name := text(dig(row, "change", "against")))})
    change = f"change: paired, {'in points, ' if unit else ''}against {' or '.join(against)}. " if against else ""
    table.caption = printable(
        f"{change}{named[:1].upper()}{named[1:]}" + ("; of the round that made the policy." * bool(named))
    )
    return table


def before_after_table(events: Sequence[Event], most: int = 5) -> Table:
    """The first items that changed, before and after, in at most 80 columns."""
    found = before_after(events, most)
    table = Table(
        title=printable(found.title) if found else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    marks = {"before": "was", "after": "is"}
    cols = [col for col in found.cols if col.title] if found else []
    for col in cols:
        table.add_column(printable(col.title), overflow="fold", ratio=1)
    for row in found.rows:
        cells = []
        for col in cols:
            mark = row.get(marks.get(str(col.value), ""), "")
            sign = {"right": "[green]\u2713[/green] ", "wrong": "[red]\u2717[/red] "}.get(mark, "")
            said = " ".join(str(col.of(row)).split())
            cells.append(sign + printable(said if len(said) <= 120 else said[:119] + "\u2026"))
        table.add_row(*cells)
        table.add_section()
    return table


def part_tables(events: Sequence[Event]) -> list[Table]:
    """The first table of each part that is shown here too."""
    return [as_rich(part.tables[0]) for part in parts_of(events) if part.terminal and part.tables]
