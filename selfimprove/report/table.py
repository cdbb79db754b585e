"""Tables as data: rows as they were measured, and columns that say where a value stands and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from selfimprove.report.events import plain
from selfimprove.report.summary import count, dig, duration, fixed, metric_of, numbers, rate, text, with_interval
from selfimprove.statistics import mean_and_error

Show = Callable[[Any], str]


@dataclass(frozen=True)
class Col:
    """A column.

    Attributes:
        title: its header, with the unit.
        value: where a row has it: a key, `a.b` for one within another, or a function of the row. By default the title.
        show: the value as text, empty where there is none.
        by_row: instead of `show`, where rows have units of their own.
    """

    title: str
    value: str | Callable[[Any], Any] = ""
    show: Show = text
    by_row: Callable[[Any], Show] | None = None

    def of(self, row: Any) -> Any:
        """The row's value; None where it has none."""
        return self.value(row) if callable(self.value) else dig(row, *(self.value or self.title).split("."))

    def cell(self, row: Any) -> str:
        """The value as text."""
        return (self.by_row(row) if self.by_row else self.show)(self.of(row))


@dataclass(frozen=True)
class Table:
    """Rows and columns. A column that no row has anything for is not shown.

    Attributes:
        title: what the rows are.
        rows: mappings, or whatever the columns read.
        printed: it stands in the terminal too, where suites are measured (`report/beside.py`).
    """

    title: str = ""
    rows: Sequence[Any] = ()
    cols: Sequence[Col] = field(default=())
    printed: bool = False

    @cached_property
    def _shown(self) -> list[tuple[Col, list[str]]]:
        every = [(col, [col.cell(row) for row in self.rows]) for col in self.cols]
        return [(col, cells) for col, cells in every if any(cells)]

    @property
    def columns(self) -> list[str]:
        """The headers of what is shown."""
        return [col.title for col, _ in self._shown]

    @property
    def cells(self) -> list[list[str]]:
        """What is shown, as text, row by row."""
        return [[cells[place] for _, cells in self._shown] for place, _ in enumerate(self.rows)]

    @property
    def wide(self) -> list[bool]:
        """Of each column, whether it holds sentences or lines, which are to be wrapped."""
        return [any(len(cell) > 60 or "\n" in cell for cell in cells) for _, cells in self._shown]

    @property
    def names(self) -> int:
        """How many of its first columns hold text, which says whose a row is; at least one, and not all."""
        texts = [all(isinstance(col.of(row), str | None) for row in self.rows) for col, _ in self._shown[:-1]]
        return max((*texts, False).index(False), 1)

    def values(self) -> list[dict[str, Any]]:
        """The same as numbers, for programs; NaN as None."""
        return [{col.title: plain(col.of(row)) for col, _ in self._shown} for row in self.rows]

    def __bool__(self) -> bool:
        return bool(self._shown)


def short(value: Any) -> str:
    """Four significant digits of a fraction, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def counts(value: Any) -> str:
    """`reason: 3, other: 1` from {reason: count}."""
    return ", ".join(f"{text(reason)}: {short(found)}" for reason, found in as_dict(value).items())


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def decimals(digits: int, *, scale: float = 1, sign: bool = False) -> Show:
    """Shows a number with so many decimals."""
    return partial(fixed, digits=digits, scale=scale, sign=sign)


def interval(key: str = "value", *, digits: int = 1, scale: float = 1, sign: bool = False) -> Show:
    """Shows `12.3 [10.1, 14.5]` from {key, low, high}."""
    return partial(with_interval, key=key, digits=digits, scale=scale, sign=sign)


def with_error(*, digits: int = 1, scale: float = 1, sign: bool = False) -> Show:
    """Shows `41.2 ± 1.3` from {mean, error}, the error only where there is one."""

    def show(value: Any) -> str:
        mean, error = fixed(dig(value, "mean"), digits, scale=scale, sign=sign), dig(value, "error")
        return mean if error is None or not mean else f"{mean} ± {fixed(error, digits, scale=scale)}"

    return show


def mean_of(rows: Sequence[Any], key: str) -> dict[str, float | None] | None:
    """{mean, error} of the rows' numbers under `key`, as `with_error` shows it; None where there are none."""
    found = numbers([row.get(key) for row in rows])
    return dict(zip(("mean", "error"), mean_and_error(found), strict=True)) if found else None


def bounded(found: tuple[float, float, float]) -> dict[str, float]:
    """{value, low, high}, as `interval` shows it."""
    return dict(zip(("value", "low", "high"), found, strict=True))


def measured(event: Any, where: str = "") -> dict[str, Any] | None:
    """What an evaluation event has (its value, or a paired change of it), with what `shown` must know of its metric."""
    metric = metric_of(event)
    found = dig(event, where) if where else event
    if not isinstance(found, dict):
        return None
    kept = {key: found.get(key) for key in ("low", "high", "against")}
    return kept | {
        "value": found.get("difference" if where else "value"),
        "scale": metric.scale,
        "digits": metric.digits,
    }


def shown(value: dict[str, Any] | None, sign: bool = False) -> str:
    """`12.3 [10.1, 14.5]`, in percent where the metric is a share."""
    return with_interval(value, "value", digits=value["digits"], scale=value["scale"], sign=sign) if value else ""


def signed(value: dict[str, Any] | None) -> str:
    """`+2.1 [-0.3, +4.5]`, in points where the metric is a share."""
    return shown(value, sign=True)


points = interval("difference", scale=100, sign=True)
percent = decimals(1, scale=100)

__all__ = [
    "Col", "Show", "Table", "as_dict", "as_list", "bounded", "count", "counts", "decimals", "duration", "interval",
    "mean_of", "measured", "percent", "points", "rate", "short", "shown", "signed", "with_error",
]  # fmt: skip
