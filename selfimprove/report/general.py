"""The parts of every report: what was measured, what a method reported of its own, training, and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from selfimprove.report.charts import Chart, bars, dots, lines
from selfimprove.report.evaluated import point
from selfimprove.report.events import Event
from selfimprove.report.groups import groups
from selfimprove.report.outcome import before_after
from selfimprove.report.part import Maker, Part
from selfimprove.report.summary import (
    dig,
    evaluations_of,
    in_rounds,
    metric_of,
    number,
    numbers,
    of_kind,
    policies_of,
    round_number,
    stage_of,
    text,
)
from selfimprove.report.table import (
    Col,
    Table,
    as_dict,
    as_list,
    count,
    counts,
    decimals,
    duration,
    measured,
    percent,
    short,
    shown,
    signed,
)

_BARS = "Bars are 95% intervals."


def quality_part(events: Sequence[Event]) -> Part:
    """Every evaluation with its paired changes."""
    return Part(
        "Did it get better?",
        "Changes are paired: the same items, before and after.",
        [accuracies(events), _changes(events)],
        [
            before_after(events),
            _evaluations(events),
            groups("Accuracy by group", events, "accuracy"),
            groups("Other metrics by group", events, "other"),
        ],
        place="quality",
    )


def accuracies(events: Sequence[Event]) -> Chart:
    """A dot for each policy on every suite that measures a share of items solved, joined where policies follow."""
    suites = evaluations_of(events, "accuracy")
    rows = [
        row
        for suite, by_policy in suites.items()
        for policy in policies_of(events)
        for row in point(policy, by_policy.get(policy), scale=100, series=suite)
    ]
    metrics = dict.fromkeys(metric_of(event).name for found in suites.values() for event in found.values())
    return dots("Accuracy by policy", rows, "policy", f"{', '.join(metrics)} (%)", _BARS, joined=in_rounds(events))


def _changes(events: Sequence[Event]) -> Chart:
    """The policies of the rounds against the start and against the previous one, a panel for each suite."""
    rows: list[dict[str, Any]] = []
    suites = evaluations_of(events, "accuracy")
    for suite, by_policy in suites.items():
        made = [policy for policy, round_ in policies_of(events).items() if round_ > 0 and policy in by_policy]
        before = next((text(dig(by_policy[one], "paired", "against")) for one in made), "") or "the start"
        for key, name in (("paired", f"to {before}"), ("paired_previous", "to the previous policy")):
            panel = {"panel": suite} if len(suites) > 1 else {}
            for policy in made:
                pair = by_policy[policy].get(key)
                rows += point(policy, pair, "difference", scale=100, series=name, **panel)
    note = f"{_BARS} An interval that holds 0 shows no change."
    return dots("Change of accuracy, item by item", rows, "policy", "change (points)", note, at=[0])


def _evaluations(events: Sequence[Event]) -> Table:
    rows = [
        {
            "suite": suite,
            "metric": metric_of(event).name + metric_of(event).unit,
            **{key: event.get(key) for key in ("policy", "n", "failures", "policy_digest")},
            **{
                key: measured(event, where)
                for key, where in (("value", ""), ("change", "paired"), ("last", "paired_previous"))
            },
        }
        for suite, by_policy in evaluations_of(events).items()
        for policy in policies_of(events)
        if (event := by_policy.get(policy))
    ]
    return Table(
        "Evaluations",
        rows,
        [
            Col("suite"),
            Col("policy"),
            Col("metric"),
            Col("value [95%]", "value", shown),
            Col("change [95%]", "change", signed),
            Col("against", "change.against"),
            Col("change to previous [95%]", "last", signed),
            Col("previous", "last.against"),
            Col("items", "n", count),
            Col("failures", show=counts),
            Col("policy digest", "policy_digest", lambda digest: text(digest)[:12]),
        ],
    )


def figures_part(events: Sequence[Event]) -> Part:
    """What methods reported of their own (`Loop.report`): a table for each name, a row for each round."""
    tables = []
    for name in dict.fromkeys(text(event.get("name")) for event in of_kind(events, "figures")):
        rows = [event for event in of_kind(events, "figures") if event.get("name") == name]
        keys = dict.fromkeys(key for event in rows for key in as_dict(event.get("figures")))
        cols = [Col(key.replace("_", " "), partial(_reported, key), _figure) for key in keys]
        tables.append(Table(name, rows, [Col("round"), *cols]))
    return Part("What else did the method report?", tables=tables)


def _reported(key: str, row: Event) -> Any:
    return dig(row, "figures", key)


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_figure(one)}" for name, one in value.items())
    return short(value)


_LOSS = {"sft": ("Loss of the SFT", "SFT loss (nats per token)", ""),
         "dpo": ("Loss of the DPO", "DPO loss (nats per pair)",
                 "At the start ln 2 = 0.693, where a policy is its own loss reference.")}  # fmt: skip


def training_part(events: Sequence[Event]) -> Part:
    """The losses, and a row for each training."""
    rows = of_kind(events, "training")
    cols = [
        Col("stage", training_name),
        Col("policy"),
        Col("examples", show=count),
        Col("epochs", show=short),
        Col("steps", lambda row: dig(_last(row), "step"), count),
        # the loss of a policy gradient has no unit, and says nothing about what was learned
        Col("last loss, nats", lambda row: None if row.get("score_stage") else dig(_last(row), "loss"), decimals(4)),
        Col("time", "seconds", duration),
    ]
    charts = [_losses(rows, stage, *how) for stage, how in _LOSS.items()]
    return Part("Training", charts=charts, tables=[Table("Training stages", rows, cols)], place="training")


def training_name(event: Event) -> str:
    """What a training is called: `sft`, `dpo`, or a stage's number where it has several."""
    number_ = text(event.get("score_stage"))
    return {"1": "Stage I", "2": "Stage II", "": text(event.get("stage"))}.get(number_, f"stage {number_}")


def _last(row: Event) -> Any:
    return next(reversed(as_list(row.get("history"))), None)


def _losses(trainings: Sequence[Event], stage: str, title: str, y: str, note: str) -> Chart:
    rows: list[dict[str, Any]] = []
    for event in trainings:
        for place, entry in enumerate(as_list(event.get("history")) if event.get("stage") == stage else []):
            step, loss = number(dig(entry, "step")), number(dig(entry, "loss"))
            if loss is not None:
                rows.append({"x": step or place + 1, "y": loss, "series": text(event.get("policy"))})
    losses = [row["y"] for row in rows]
    # what hardly moves is drawn flat, and not as noise with eight decimals
    flat = bool(losses) and max(losses) - min(losses) < 0.01
    bounds = (min(losses) - 0.005, max(losses) + 0.005) if flat else (None, None)
    return lines(title, rows, "optimizer step", y, note, values=bounds)


def time_part(events: Sequence[Event]) -> Part:
    """Where the time went, by round and stage of the work."""
    steps = [event for event in of_kind(events, "step") if number(event.get("seconds")) and not event.get("reused")]
    return Part(
        "Where did the time go?",
        "Steps reused from an earlier start of the run are not counted. The floor is the time that a step's "
        "unavoidable matrix products take at this machine's speed; a share of 100% cannot be reached. Round 0 is "
        "what comes before the rounds. Tokens are those sampled or scored (with the prompts where they are "
        "sampled), or trained on.",
        [_times(steps), _floors(steps)],
        [_stages(steps), _engines(events)],
        place="cost",
    )


def _sums(steps: Iterable[Event]) -> dict[tuple[int, str], dict[str, float]]:
    """By (round, stage), as `_PARTS`; counted: seconds with tokens, floored: seconds with a floor."""
    sums: dict[tuple[int, str], dict[str, float]] = {}
    for event in steps:
        taken, floor, tokens = (number(event.get(key)) or 0.0 for key in ("seconds", "floor_seconds", "tokens"))
        one = sums.setdefault((round_number(event), stage_of(event)), dict.fromkeys(_PARTS, 0.0))
        found = (1.0, taken, tokens, taken if tokens else 0.0, floor, taken if floor else 0.0)
        for key, value in zip(_PARTS, found, strict=True):
            one[key] += value
    return sums


_PARTS = ("steps", "seconds", "tokens", "counted", "floor", "floored")


def _stages(steps: Sequence[Event]) -> Table:
    sums = _sums(steps)
    whole = sum(one["seconds"] for one in sums.values())
    order = {stage: place for place, (_, stage) in enumerate(sums)}
    rows = [
        one | {"round": round_, "stage": stage}
        | {"share": one["seconds"] / whole, "speed": one["counted"] and one["tokens"] / one["counted"]}
        | {"share of floor": one["floored"] and one["floor"] / one["floored"]}
        for (round_, stage), one in sorted(sums.items(), key=lambda item: (item[0][0], order[item[0][1]]))
    ]  # fmt: skip

    def many(value: float) -> str:
        return f"{value:,.0f}" if value else ""

    return Table(
        "Stages",
        rows,
        [
            Col("round"),
            Col("stage"),
            Col("steps", show=count),
            Col("time", "seconds", duration),
            Col("share of the run, %", "share", percent),
            Col("tokens", show=many),
            Col("tokens per second", "speed", many),
            Col("floor", show=lambda value: duration(value) if value else ""),
            Col(
                "share of the floor, %", "share of floor", lambda value: decimals(0, scale=100)(value) if value else ""
            ),
        ],
    )


def _round_name(round_: int) -> str:
    return f"round {round_}" if round_ else "before the rounds"


def _times(steps: Sequence[Event]) -> Chart:
    sums = _sums(steps)
    stages = dict.fromkeys(stage for _, stage in sums)
    longest = max(
        (sum(one["seconds"] for (_, its), one in sums.items() if its == stage) for stage in stages), default=0
    )
    unit, size = ("hours", 3600) if longest >= 7200 else ("minutes", 60) if longest >= 120 else ("seconds", 1)
    rows: list[dict[str, Any]] = [
        {"x": stage, "y": sums[round_, stage]["seconds"] / size, "series": _round_name(round_)}
        for round_ in sorted({round_ for round_, _ in sums})
        for stage in stages
        if (round_, stage) in sums
    ]
    floors = {stage: sum(one["floor"] for (_, its), one in sums.items() if its == stage) / size for stage in stages}
    rows += [{"x": stage, "tick": floor} for stage, floor in floors.items() if floor]
    note = "Tick across a bar: the floor, where it is known."
    return bars("Time by stage", rows, "", f"time ({unit})", note, across=True)


def _floors(steps: Sequence[Event]) -> Chart:
    rows = [
        {"x": stage, "y": 100 * one["floor"] / one["floored"], "series": _round_name(round_)}
        for (round_, stage), one in sorted(_sums(steps).items(), key=lambda item: item[0][0])
        if one["floored"]
    ]
    note = "Floor divided by time, in percent: higher is better."
    return dots("Share of the floor by stage", rows, "", "share of the floor (%)", note, across=True, values=(0, None))


def _engines(events: Sequence[Event]) -> Table:
    """What a sampling engine beside the loop took to get ready: `what` is "start", or "swap" of its weights."""
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for event in of_kind(events, "engine"):
        key = (text(event.get("backend")), text(event.get("version")), text(event.get("what")))
        seconds.setdefault(key, []).extend(numbers([event.get("seconds")]))
    rows = [
        {"engine": engine, "version": version, "what": what, "times": len(taken)}
        | {"mean": sum(taken) / len(taken), "longest": max(taken), "together": sum(taken)}
        for (engine, version, what), taken in seconds.items()
        if taken
    ]
    took = [Col(name, show=duration) for name in ("mean", "longest", "together")]
    return Table("Sampling engine", rows, [Col("engine"), Col("version"), Col("what"), Col("times"), *took])


GENERAL: tuple[Maker, ...] = (quality_part, figures_part, training_part, time_part)
