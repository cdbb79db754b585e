"""What a person sees in the terminal while a run goes on, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import rich.progress
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from selfimprove.report.events import Event
from selfimprove.report.narrow import NarrowTable
from selfimprove.report.outcome import before_after
from selfimprove.report.overall import Overall
from selfimprove.report.score_stages import END, stage_rows
from selfimprove.report.summary import duration, evaluations_of, first_metric, policy_rows
from selfimprove.report.text import printable, visible

__all__ = ["Progress", "before_after_table", "printable", "rounds_table", "stages_table"]


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


def rounds_table(events: Sequence[Event]) -> Table:
    """One row for each policy, at most 80 columns wide; `report.html` has the rest."""
    rows = policy_rows(events)
    suite = next(iter(evaluations_of(events)), "")
    metric = first_metric(events)
    unit = " in %" if metric.unit else ""
    against = sorted({row.against for row in rows if row.against})
    table = NarrowTable(
        title=printable(f"{suite}: {metric.name}{unit}, with 95% intervals") if suite else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0),
        collapse_padding=True,
    )
    table.add_column("policy", overflow="ellipsis", no_wrap=True, max_width=13)
    for header in (metric.name, "change"):  # these wrap before anything is cut off
        table.add_column(printable(header), justify="right", min_width=20 if header == "change" else None)
    shown = {
        "C": [row.consistency for row in rows],
        "accepted\n%": [row.accepted for row in rows],
        "kept": [row.kept for row in rows],
        "pairs": [row.pairs for row in rows],
        "right\n%": [row.right_share for row in rows],
        "|h|": [row.margin for row in rows],
        "length\ntokens": [row.length for row in rows],
    }
    shown = {header: cells for header, cells in shown.items() if any(cells)}
    for header in shown:
        table.add_column(header, justify="right", no_wrap=True)
    for place, row in enumerate(rows):
        cells = (row.value, row.change, *(column[place] for column in shown.values()))
        table.add_row(printable(row.policy), *(printable(cell) if cell else "-" for cell in cells))
    said = {
        "C": "C: ranking consistency",
        "accepted\n%": "accepted: of the round's samples",
        "kept": "kept: distinct, capped",
    }
    said |= {"right\n%": "right: labels that prefer the right answer", "|h|": "|h|: mean trained margin"}
    named = "; ".join(text for header, text in said.items() if header in shown)
    change = f"change: paired, {'in points, ' if unit else ''}against {' or '.join(against)}. " if against else ""
    table.caption = printable(
        f"{change}{named[:1].upper()}{named[1:]}" + ("; of the round that made the policy." * bool(named))
    )
    return table


def before_after_table(events: Sequence[Event], most: int = 5) -> Table:
    """The first items that changed, before and after, in at most 80 columns."""
    title, found = before_after(events, most)
    table = Table(
        title=printable(title) if found.rows else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    texts = [place for place, column in enumerate(found.columns) if column]
    for place in texts:
        table.add_column(printable(found.columns[place]), overflow="fold", ratio=1)
    for row in found.rows:
        cells = []
        for place in texts:
            mark = row[place + 1] if place + 1 < len(row) and place + 1 not in texts else ""
            sign = {"right": "[green]\u2713[/green] ", "wrong": "[red]\u2717[/red] "}.get(mark, "")
            shown = " ".join(row[place].split())
            cells.append(sign + printable(shown if len(shown) <= 120 else shown[:119] + "\u2026"))
        table.add_row(*cells)
        table.add_section()
    return table


def stages_table(events: Sequence[Event]) -> Table:
    """A line for each stage of SCoRe, at most 80 columns wide: what its last samples were like."""
    rows = stage_rows(events)
    table = NarrowTable(
        title="SCoRe's training, in %" if rows else None,
        title_justify="left",
        caption=f"Means of the last {END} updates' own samples (of a stage of fewer than {2 * END}, its second half) ± "
        "one standard error; no evaluation. KL: nats per token to the base, turn 1 / turn 2.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0),
        collapse_padding=True,
    )
    table.add_column("stage", overflow="ellipsis", no_wrap=True, max_width=9)
    table.add_column("policy", overflow="ellipsis", no_wrap=True, max_width=8)
    for header in ("updates", "Acc@t1", "Acc@t2", "Delta", "copied", "KL"):  # these wrap before anything is cut off
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(*(printable(cell) if cell else "-" for cell in row))
    return table
