"""Several runs side by side: how their recipes differ, and what their policies came to on the items that they share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from selfimprove.errors import InputError
from selfimprove.recipe.recipe import flat_keys
from selfimprove.report.charts import dots
from selfimprove.report.evaluated import point
from selfimprove.report.events import FILE_NAME, Event, read_events
from selfimprove.report.outcome import first_and_kept
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, evaluations_of, metric_of, number, of_kind, policies_of, text
from selfimprove.report.table import Col, Table, as_list, count, duration, measured, shown, signed
from selfimprove.runs.folder import Run
from selfimprove.statistics import paired_difference

_OWN = ("output", "store")  # every run has its own
MISSING = "(not in it)"


@dataclass(frozen=True)
class Compared:
    """A run as it is compared: what it is called, its recipe's leaves by key, and its events."""

    name: str
    recipe: dict[str, Any]
    events: list[Event]


def read_runs(folders: Sequence[Path]) -> list[Compared]:
    """The runs, called by what of their paths tells them apart. Raises InputError for what is no run, or is measured
    nowhere."""
    if len({folder.resolve() for folder in folders}) < 2:
        raise InputError("compare: name at least two runs, for example runs/quickstart runs/random")
    found = []
    for folder, name in zip(folders, _names(folders), strict=True):
        recipe = Run(folder).read_recipe()
        file = folder / FILE_NAME
        if not file.is_file():
            raise InputError(f"{folder}: no {FILE_NAME} there: the run has not begun")
        found.append(Compared(name, flat_keys(recipe), read_events(file)))
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that all differ.

    >>> _names([Path("a/runs/one"), Path("b/runs/one"), Path("b/two")])
    ['a/runs/one', 'b/runs/one', 'b/two']
    >>> _names([Path("runs/one"), Path("runs/two")])
    ['one', 'two']
    """
    parts = [folder.resolve().parts if folder.name in ("", ".", "..") else folder.parts for folder in folders]
    for size in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-size:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def comparison(runs: Sequence[Compared]) -> tuple[list[str], list[Part]]:
    """The outcome in sentences, and the parts of a page: kept policies, recipes, time."""
    first, *others = runs
    rows = [row for suite in _suites(runs) for row in _kept_rows(suite, runs)]
    sentences = [_sentence(row, first) for row in rows if row["change"]]
    if not sentences:
        sentences = [f"{first.name} shares no suite with measured items with {', '.join(one.name for one in others)}."]
    return sentences, [part for part in (_quality(rows, first), _recipes(runs), _time(runs)) if part]


def _suites(runs: Sequence[Compared]) -> list[str]:
    return list(dict.fromkeys(suite for run in runs for suite in evaluations_of(run.events)))


def _kept(run: Compared, suite: str) -> Event | None:
    """The evaluation of the policy that the run kept, or of the last one that it measured."""
    by_policy = evaluations_of(run.events).get(suite, {})
    _, kept = first_and_kept(run.events, by_policy)
    return kept or next(iter(by_policy.values()), None)


def _kept_rows(suite: str, runs: Sequence[Compared]) -> list[dict[str, Any]]:
    base = _kept(runs[0], suite)
    rows = []
    for run in runs:
        event = _kept(run, suite)
        if event is not None:
            change = None if run is runs[0] or base is None else paired(base, event)
            rows.append(
                {"suite": suite, "run": run.name, "policy": text(event.get("policy")), "value": measured(event)}
                | {"metric": metric_of(event).name + metric_of(event).unit, "items": event.get("n"), "change": change}
                | {"start": measured(event, "paired")}
            )
    return rows


def paired(before: Event, after: Event) -> dict[str, Any] | None:
    """The difference of two evaluations over the items that both have a value for, with its 95% interval. Items are
    told by their digests; events without these are compared where both measured as many. None where nothing is shared,
    or the two are measured differently."""
    if metric_of(before) != metric_of(after):
        return None
    sides = [_by_item(event) for event in (before, after)]
    both = [item for item in sides[0] if item in sides[1]]
    values = [[side[item] for item in both] for side in sides]
    if not both:
        return None
    ends = [number(dig(after, "rating", end)) for end in ("low", "high")]
    bounds = (ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None
    difference, low, high = paired_difference(values[0], values[1], bounds=bounds)
    metric = metric_of(after)
    how = {"scale": metric.scale, "digits": metric.digits}
    return {"value": difference, "low": low, "high": high, "n": len(both), **how}


def _by_item(event: Event) -> dict[str, float]:
    values, items = as_list(event.get("values")), as_list(event.get("items"))
    named = items if len(items) == len(values) else [f"{len(values)}|{place}" for place in range(len(values))]
    return {text(item): value for item, value in zip(named, values, strict=True) if number(value) is not None}


def _sentence(row: dict[str, Any], first: Compared) -> str:
    points = " points" if row["change"]["scale"] == 100 else ""
    low, high = row["change"]["low"], row["change"]["high"]
    noise = "; not told from noise" if low <= 0 <= high else ""
    change = signed(row["change"]).replace(" [", f"{points} [")
    shared = f"with 95%, {row['change']['n']} shared items"
    return f"{row['suite']}: {row['run']} against {first.name} {change} {shared}{noise}."


def _recipes(runs: Sequence[Compared]) -> Part:
    """The keys whose values are not the same in all recipes."""
    keys = dict.fromkeys(key for run in runs for key in run.recipe if key.split(".")[0] not in _OWN)
    rows = [{"key": key} | {run.name: run.recipe.get(key, MISSING) for run in runs} for key in keys]
    values = [[row[run.name] for run in runs] for row in rows]  # where one says nothing and the other null is none
    told = [{repr(None if one == MISSING else one) for one in its} for its in values]
    different = [row for row, found in zip(rows, told, strict=True) if len(found) > 1]
    cols = [Col("key"), *(Col(run.name, itemgetter(run.name), _yaml) for run in runs)]
    return Part(
        "How do they differ?", "Keys of the recipes that are not the same.", tables=[Table("Recipes", different, cols)]
    )


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _quality(rows: Sequence[dict[str, Any]], first: Compared) -> Part:
    cols = [
        Col("suite"),
        Col("run"),
        Col("policy"),
        Col("metric"),
        Col("value [95%]", "value", shown),
        Col(f"change to {first.name} [95%]", "change", signed),
        Col("shared items", "change.n", count),
        Col("change to its own start [95%]", "start", signed),
        Col("items", show=count),
    ]
    chart = [
        drawn
        for row in rows
        if dig(row, "value", "scale") == 100
        for drawn in point(f"{row['run']} {row['policy']}", row["value"], scale=100, series=row["suite"])
    ]
    picture = dots("Kept policies", chart, "run and its policy", "share of items (%)", "Bars are 95% intervals.")
    note = "The policies that the runs kept. Changes are paired over the items that both runs measured."
    return Part(
        "Which is better?", note, [picture], [Table("Kept policies", rows, cols)], place="quality", terminal=True
    )


def _time(runs: Sequence[Compared]) -> Part:
    rows = []
    for run in runs:
        steps = [event for event in of_kind(run.events, "step") if not event.get("reused")]
        sums = {key: sum(number(event.get(key)) or 0.0 for event in steps) for key in ("seconds", "tokens")}
        rows.append({"run": run.name, "policies": len(policies_of(run.events)), **sums})
    tokens = Col("tokens", show=lambda value: f"{value:,.0f}" if value else "")
    cols = [Col("run"), Col("policies", show=count), Col("time of its own steps", "seconds", duration), tokens]
    note = "Steps that a run found finished are not counted."
    return Part("What did they take?", note, tables=[Table("Time and tokens", rows, cols)], place="cost")
