"""The plots of the report, as SVG to put inside a page: no pyplot, no display, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfimprove.reporting.events import Event
from selfimprove.reporting.figures import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    STYLE,
    add_legend,
    draw_boxes,
    label,
    new_figure,
    to_svg,
)
from selfimprove.reporting.summary import (
    dig,
    evaluations_of,
    number,
    numbers,
    of_kind,
    policies_of,
    round_number,
    rounds_of,
    text,
)


@dataclass
class Plot:
    """One figure of the report."""

    title: str
    note: str
    svg: Markup


def plots(events: Sequence[Event]) -> list[Plot]:
    """Every plot that there is data for."""
    drawers: list[tuple[str, str, Callable[[Sequence[Event]], Figure | None]]] = [
        ("Accuracy by policy", "Bars are 95% intervals.", _accuracy),
        (
            "Ranking consistency by round",
            "One value for each prompt. Dashed: 0.5, what two unrelated rankings agree on; solid: the mean.",
            _consistency,
        ),
        ("Reward of chosen and rejected by round", _BOXES, _rewards),
        ("Response length by round", "Means over the responses sampled in the round.", _lengths),
        ("Trained margin |h| by round", f"{_BOXES} Dot: the mean.", _margins),
        ("Training loss", "", _losses),
        ("Time by stage", "Steps reused from an earlier start of the run are not counted.", _times),
    ]
    found = []
    with matplotlib.rc_context(STYLE):
        for title, note, draw in drawers:
            figure = draw(events)
            if figure is not None:
                found.append(Plot(title, note, to_svg(figure, draw.__name__.strip("_"), title)))
    return found


_BOXES = "Boxes: the middle half and the median; whiskers: 5% to 95%."


def _accuracy(events: Sequence[Event]) -> Figure | None:
    policies = list(policies_of(events))
    suites = {
        suite: by_policy
        for suite, by_policy in evaluations_of(events).items()
        if any(number(e.get("value")) is not None for e in by_policy.values())
        and all(e.get("metric", "accuracy") == "accuracy" for e in by_policy.values())
    }
    if not suites:
        return None
    figure, (ax,) = new_figure(2.7)
    for index, (suite, by_policy) in enumerate(suites.items()):
        shift = 0.14 * (index - (len(suites) - 1) / 2)
        points = []
        for place, policy in enumerate(policies):
            value = number(dig(by_policy.get(policy), "value"))
            if value is not None:
                low, high = (number(by_policy[policy].get(end)) for end in ("low", "high"))
                points.append((place + shift, value, value if low is None else low, value if high is None else high))
        x = [point[0] for point in points]
        y = [100 * point[1] for point in points]
        below = [100 * max(value - low, 0) for _, value, low, _ in points]
        above = [100 * max(high - value, 0) for _, value, _, high in points]
        colour = COLOURS[index % len(COLOURS)]
        ax.errorbar(x, y, yerr=[below, above], fmt="o-", color=colour, capsize=3, label=label(suite))
    ax.set_xticks(range(len(policies)), [label(policy) for policy in policies])
    ax.set_xlim(-0.5, len(policies) - 0.5)
    ax.set_xlabel("policy")
    ax.set_ylabel("accuracy (%)")
    add_legend(ax)
    return figure


def _consistency(events: Sequence[Event]) -> Figure | None:
    rounds = [e for e in rounds_of(events) if numbers(dig(e, "consistency", "values"))]
    if not rounds:
        return None
    values = [numbers(dig(e, "consistency", "values")) for e in rounds]
    low = min(0.0, *(min(v) for v in values))
    high = max(1.0, *(max(v) for v in values))
    bins = round((high - low) / 0.05) + 1
    figure, axes = new_figure(0.7 + 1.15 * len(rounds), len(rounds))
    for ax, event, found in zip(axes, rounds, values, strict=True):
        # with five responses there are few possible values: bins around them, not between them
        ax.hist(found, bins=bins, range=(low - 0.025, high + 0.025), color=BLUE, alpha=0.75)
        ax.axvline(0.5, color=GREY, linestyle="--")
        mean = number(dig(event, "consistency", "mean"))
        if mean is not None:
            ax.axvline(mean, color=ORANGE)
        heading = f"round {round_number(event)}" + ("" if mean is None else f", mean {mean:.2f}")
        ax.set_title(heading, loc="left")
        ax.set_ylabel("prompts")
        ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.set_xlim(low - 0.03, high + 0.03)
        ax.tick_params(labelbottom=ax is axes[-1])
    measure = dig(rounds[-1], "consistency", "measure")
    axes[-1].set_xlabel("consistency of a prompt" + (f" ({label(measure)})" if measure else ""))
    return figure


def _rewards(events: Sequence[Event]) -> Figure | None:
    names = ("chosen", "rejected")
    rounds = [e for e in rounds_of(events) if any(numbers(dig(e, "rewards", name)) for name in names)]
    if not rounds:
        return None
    figure, (ax,) = new_figure(2.7)
    groups = {name: [numbers(dig(e, "rewards", name)) for e in rounds] for name in names}
    draw_boxes(ax, [round_number(e) for e in rounds], groups)
    ax.set_ylabel(f"reward ({label(dig(rounds[-1], 'rewards', 'unit') or 'nats')})")
    return figure


def _lengths(events: Sequence[Event]) -> Figure | None:
    lines = {"mean": "all", "chosen": "chosen", "rejected": "rejected"}
    rounds = [e for e in rounds_of(events) if any(number(dig(e, "lengths", k)) is not None for k in lines)]
    if not rounds:
        return None
    figure, (ax,) = new_figure(2.5)
    colours = {"mean": GREY, "chosen": BLUE, "rejected": ORANGE}
    for key, name in lines.items():
        found = [(place, number(dig(e, "lengths", key))) for place, e in enumerate(rounds)]
        points = [(place, value) for place, value in found if value is not None]
        if points:
            ax.plot([p for p, _ in points], [v for _, v in points], "o-", color=colours[key], label=name)
    ax.set_xticks(range(len(rounds)), [str(round_number(e)) for e in rounds])
    ax.set_xlim(-0.5, len(rounds) - 0.5)
    ax.set_xlabel("round")
    ax.set_ylabel(f"length ({label(dig(rounds[-1], 'lengths', 'unit') or 'tokens')})")
    add_legend(ax)
    return figure


def _margins(events: Sequence[Event]) -> Figure | None:
    rounds = [e for e in rounds_of(events) if numbers(dig(e, "margins", "values"))]
    if not rounds:
        return None
    figure, (ax,) = new_figure(2.5)
    values = [[abs(value) for value in numbers(dig(e, "margins", "values"))] for e in rounds]
    draw_boxes(ax, [round_number(e) for e in rounds], {"|h|": values}, means=True)
    ax.set_ylabel("trained margin |h| (nats)")
    ax.set_ylim(bottom=0)
    return figure


_LOSS_UNITS = {"sft": "SFT loss (nats per token)", "dpo": "DPO loss (nats per pair)"}


def _losses(events: Sequence[Event]) -> Figure | None:
    stages: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for event in of_kind(events, "training"):
        history = event.get("history")
        points = []
        for place, entry in enumerate(history if isinstance(history, list) else []):
            step, loss = number(dig(entry, "step")), number(dig(entry, "loss"))
            if loss is not None:
                points.append((float(place + 1) if step is None else step, loss))
        if points:
            stages.setdefault(text(event.get("stage")), {})[text(event.get("policy"))] = points
    if not stages:
        return None
    figure, axes = new_figure(0.3 + 2.2 * len(stages), len(stages))
    for ax, (stage, runs) in zip(axes, stages.items(), strict=True):
        for index, (policy, points) in enumerate(runs.items()):
            x, y = [step for step, _ in points], [loss for _, loss in points]
            marker = "o-" if len(points) == 1 else "-"
            ax.plot(x, y, marker, color=COLOURS[index % len(COLOURS)], label=label(policy))
        ax.set_xlabel("optimizer step")
        ax.set_ylabel(_LOSS_UNITS.get(stage, f"{label(stage)} loss"))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.legend(loc="upper right", ncols=2)
    return figure


def _times(events: Sequence[Event]) -> Figure | None:
    seconds: dict[str, dict[int, float]] = {}
    for event in of_kind(events, "step"):
        taken = number(event.get("seconds"))
        if taken and not event.get("reused"):
            by_round = seconds.setdefault(text(event.get("step")), {})
            by_round[round_number(event)] = by_round.get(round_number(event), 0.0) + taken
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
        ax.barh(range(len(seconds)), widths, 0.65, left=left, color=colour, label=f"round {round_}")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    ax.set_yticks(range(len(seconds)), [label(name) for name in seconds])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"time ({unit})")
    add_legend(ax)
    return figure
