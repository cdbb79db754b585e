"""The plots of the report, as SVG to put inside a page: no pyplot, no display, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfimprove.report import (
    correction_plots,
    evaluation_plots,
    judge_plots,
    longen_plots,
    preference_plots,
)
from selfimprove.report.events import Event
from selfimprove.report.figures import COLOURS, INK, STYLE, add_legend, label, new_figure, to_svg
from selfimprove.report.summary import dig, number, of_kind, round_number, stage_of, text


@dataclass
class Plot:
    """One figure of the report, and the part of the page that it belongs to."""

    part: str
    title: str
    note: str
    svg: Markup


_BARS = "Bars are 95% intervals."
Drawer = Callable[[Sequence[Event]], Figure | None]


def plots(events: Sequence[Event]) -> list[Plot]:
    """Every plot that there is data for."""
    drawers: list[tuple[str, str, str, Drawer]] = [
        ("accuracy", "Accuracy by policy", _BARS, evaluation_plots.accuracy),
        (
            "accuracy",
            "Change of accuracy, item by item",
            f"{_BARS} An interval that holds 0 shows no change.",
            evaluation_plots.changes,
        ),
        (
            "self_correction",
            "Accuracy of each turn",
            f"{_BARS} Ring: the first attempt.",
            correction_plots.turns,
        ),
        (
            "self_correction",
            "How much of the first attempt changed",
            "Edit distance divided by both lengths, in ten bins: at the left, copies and small edits.",
            correction_plots.edit_ratios,
        ),
        (
            "graded",
            "Answering less: mean gold by coverage",
            "Highest scores kept first. At the right everything is kept, which is what a random choice is worth.",
            judge_plots.risk_coverage,
        ),
        ("graded", "Best of N by judge", f"{_BARS} Ring: length taken out of the scores.", judge_plots.best_of_n),
        (
            "graded",
            "Calibration of the scores",
            f"Mean gold in bins of the score. {_BARS} Dashed: a score that means what it says.",
            judge_plots.calibration,
        ),
        (
            "length_following",
            "Length score by kind of demand",
            f"{_BARS} 1: the length is within the demand's bounds.",
            longen_plots.scores,
        ),
        (
            "length_following",
            "Words written by words asked for",
            "One dot for each text; ring: it did not end. Of a range its middle is what was asked for. Dashed: as long "
            "as asked for.",
            longen_plots.words,
        ),
        (
            "preference",
            "Win rate by policy",
            f"{_BARS} LC: length-controlled. Dashed: 50%, as good as the opponent.",
            preference_plots.win_rates,
        ),
        (
            "preference",
            "Win rate by mean length",
            "From a dot to its ring: what length control takes or gives. A policy that wins by length stands far right "
            "with its ring far below. Intervals are in the plot by policy.",
            preference_plots.win_rates_by_length,
        ),
        ("rating", "Rating by policy", _BARS, evaluation_plots.ratings),
        ("rating", "Rating by group", "Means; how many rated answers is in the table.", evaluation_plots.rating_groups),
        (
            "judge",
            "The judge's verdicts",
            f"{_BARS} Dashed: 50%, what guessing gets right. Ceiling: people's agreement among themselves. Fewer "
            "flips are better.",
            preference_plots.judges,
        ),
        ("training", "Loss of the SFT", "", partial(_losses, stage="sft")),
        (
            "training",
            "Loss of the DPO",
            "At the start ln 2 = 0.693, where a policy is its own loss reference.",
            _losses,
        ),
        ("time", "Time by stage", "Tick across a bar: the floor, where it is known.", _times),
        ("time", "Share of the floor by stage", "Floor divided by time, in percent: higher is better.", _floors),
    ]
    found = []
    with matplotlib.rc_context(STYLE):
        for place, (part, title, note, draw) in enumerate(drawers):
            figure = draw(events)
            if figure is not None:
                found.append(Plot(part, title, note, to_svg(figure, f"plot{place}", title)))
    return found


_LOSS_UNITS = {"sft": "SFT loss (nats per token)", "dpo": "DPO loss (nats per pair)"}


def _losses(events: Sequence[Event], stage: str = "dpo") -> Figure | None:
    runs: dict[str, list[tuple[float, float]]] = {}
    for event in of_kind(events, "training"):
        history = event.get("history") if event.get("stage") == stage else None
        points = []
        for place, entry in enumerate(history if isinstance(history, list) else []):
            step, loss = number(dig(entry, "step")), number(dig(entry, "loss"))
            if loss is not None:
                points.append((float(place + 1) if step is None else step, loss))
        if points:
            runs[text(event.get("policy"))] = points
    if not runs:
        return None
    figure, (ax,) = new_figure(2.5)
    for index, (policy, points) in enumerate(runs.items()):
        x, y = [step for step, _ in points], [loss for _, loss in points]
        ax.plot(x, y, "o-" if len(points) < 20 else "-", color=COLOURS[index % len(COLOURS)], label=label(policy))
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(_LOSS_UNITS[stage])
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    low, high = ax.get_ylim()
    if high - low < 0.01:  # what hardly moves is drawn flat, and not as noise with eight decimals
        ax.set_ylim((low + high) / 2 - 0.005, (low + high) / 2 + 0.005)
    add_legend(ax, least=1)
    return figure


def _times(events: Sequence[Event]) -> Figure | None:
    seconds: dict[str, dict[int, float]] = {}
    floors: dict[str, float] = {}
    for event in of_kind(events, "step"):
        taken, floor = number(event.get("seconds")), number(event.get("floor_seconds"))
        if taken and not event.get("reused"):
            by_round = seconds.setdefault(stage_of(event), {})
            by_round[round_number(event)] = by_round.get(round_number(event), 0.0) + taken
            if floor:
                floors[stage_of(event)] = floors.get(stage_of(event), 0.0) + floor
    if not seconds:
        return None
    longest = max(sum(by_round.values()) for by_round in seconds.values())
    unit, size = ("hours", 3600) if longest >= 7200 else ("minutes", 60) if longest >= 120 else ("seconds", 1)
    rounds = sorted({round_ for by_round in seconds.values() for round_ in by_round})
    figure, (ax,) = new_figure(0.9 + 0.34 * len(seconds))
    left = [0.0] * len(seconds)
    for index, round_ in enumerate(rounds):
        widths = [by_round.get(round_, 0.0) / size for by_round in seconds.values()]
        colour = COLOURS[index % len(COLOURS)]
        ax.barh(range(len(seconds)), widths, 0.65, left=left, color=colour, label=_round_name(round_))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, stage in enumerate(seconds):
        if stage in floors:
            ax.plot([floors[stage] / size] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=2.5)
    ax.set_yticks(range(len(seconds)), [label(name) for name in seconds])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"time ({unit})")
    add_legend(ax)
    return figure


def _floors(events: Sequence[Event]) -> Figure | None:
    stages: dict[str, dict[int, tuple[float, float]]] = {}
    for event in of_kind(events, "step"):
        taken, floor = number(event.get("seconds")), number(event.get("floor_seconds"))
        if taken and floor and not event.get("reused"):
            by_round = stages.setdefault(stage_of(event), {})
            before = by_round.get(round_number(event), (0.0, 0.0))
            by_round[round_number(event)] = (before[0] + floor, before[1] + taken)
    if not stages:
        return None
    figure, (ax,) = new_figure(0.9 + 0.34 * len(stages))
    rounds = sorted({round_ for by_round in stages.values() for round_ in by_round})
    for index, round_ in enumerate(rounds):
        found = [(place, by_round[round_]) for place, by_round in enumerate(stages.values()) if round_ in by_round]
        shift = 0.12 * (index - (len(rounds) - 1) / 2)
        shares, places = [100 * floor / taken for _, (floor, taken) in found], [place + shift for place, _ in found]
        ax.plot(shares, places, "o", color=COLOURS[index % len(COLOURS)], label=_round_name(round_))
    ax.set_yticks(range(len(stages)), [label(name) for name in stages])
    ax.set_ylim(len(stages) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("share of the floor (%)")
    add_legend(ax)
    return figure


def _round_name(round_: int) -> str:
    return f"round {round_}" if round_ else "before the rounds"
