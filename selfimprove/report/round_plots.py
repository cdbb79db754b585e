"""The plots of what each round did: the agreement of its two rankings, rewards, margins and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfimprove.report.events import Event
from selfimprove.report.figures import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    add_legend,
    draw_boxes,
    draw_points,
    label,
    new_figure,
    round_axis,
)
from selfimprove.report.summary import dig, length_means, number, numbers, round_number, rounds_of, tau_of


def rank_correlation(events: Sequence[Event]) -> Figure | None:
    found = {round_number(e): tau for e in rounds_of(events) if (tau := tau_of(e)) and tau["values"]}
    if not found:
        return None
    figure, (ax,) = new_figure(2.7)
    most = max(max(Counter(tau["values"]).values()) for tau in found.values())
    for place, tau in enumerate(found.values()):
        # a few responses have few possible correlations: the area of a dot says how many prompts are there
        heights = Counter(round(value, 6) for value in tau["values"])
        areas = [160 * many / most for many in heights.values()]
        ax.scatter([place - 0.12] * len(heights), list(heights), s=areas, color=BLUE, alpha=0.55, linewidths=0)
    means = [(place + 0.16, tau["mean"], tau.get("low"), tau.get("high")) for place, tau in enumerate(found.values())]
    draw_points(ax, means, ORANGE, "mean, 95%", line=True)
    ax.scatter([], [], s=60, color=BLUE, alpha=0.55, linewidths=0, label="prompts")
    ax.axhline(0, color=GREY, linestyle="--", linewidth=1)
    round_axis(ax, list(found))
    ax.set_ylim(-1.1, 1.1)
    ax.set_ylabel("Kendall's tau")
    add_legend(ax)
    return figure


def consistency(events: Sequence[Event]) -> Figure | None:
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
        _mean_line(ax, event, number(dig(event, "consistency", "mean")), 2)
        ax.set_xlim(low - 0.03, high + 0.03)
        ax.tick_params(labelbottom=ax is axes[-1])
    measure = dig(rounds[-1], "consistency", "measure")
    axes[-1].set_xlabel("consistency of a prompt" + (f" ({label(measure)})" if measure else ""))
    return figure


def _mean_line(ax: Any, event: Event, mean: float | None, digits: int, counted: str = "prompts") -> None:
    if mean is not None:
        ax.axvline(mean, color=ORANGE)
    heading = f"round {round_number(event)}" + ("" if mean is None else f", mean {mean:.{digits}f}")
    ax.set_title(heading, loc="left")
    ax.set_ylabel(counted)
    ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def rewards(events: Sequence[Event]) -> Figure | None:
    names = ("chosen", "rejected")
    rounds = [e for e in rounds_of(events) if any(numbers(dig(e, "rewards", name)) for name in names)]
    if not rounds:
        return None
    figure, (ax,) = new_figure(2.7)
    groups = {name: [numbers(dig(e, "rewards", name)) for e in rounds] for name in names}
    draw_boxes(ax, [round_number(e) for e in rounds], groups)
    ax.set_ylabel(f"reward ({label(dig(rounds[-1], 'rewards', 'unit') or 'nats')})")
    return figure


def margins(events: Sequence[Event]) -> Figure | None:
    rounds = [e for e in rounds_of(events) if numbers(dig(e, "margins", "values"))]
    if not rounds:
        return None
    values = [numbers(dig(e, "margins", "values")) for e in rounds]
    # a few far values must not press all others into one bar
    far = max(sorted(abs(value) for found in values for value in found)[int(0.98 * sum(map(len, values))) :][0], 1e-9)
    figure, axes = new_figure(0.7 + 1.15 * len(rounds), len(rounds))
    for ax, event, found in zip(axes, rounds, values, strict=True):
        ax.hist([min(max(value, -far), far) for value in found], bins=31, range=(-far, far), color=BLUE, alpha=0.75)
        ax.axvline(0, color=GREY, linestyle="--")
        _mean_line(ax, event, sum(found) / len(found), 3, "pairs")
        ax.tick_params(labelbottom=ax is axes[-1])
    axes[-1].set_xlabel("trained margin h (nats)")
    return figure


def lengths(events: Sequence[Event]) -> Figure | None:
    rounds = [(round_number(e), means) for e in rounds_of(events) if (means := length_means(e))]
    if not rounds:
        return None
    figure, (ax,) = new_figure(2.5)
    for key, name, colour in (("mean", "all", GREY), ("chosen", "chosen", BLUE), ("rejected", "rejected", ORANGE)):
        points = [(place, means[key]) for place, (_, means) in enumerate(rounds) if key in means]
        if points:
            ax.plot([p for p, _ in points], [v for _, v in points], "o-", color=colour, label=name)
    round_axis(ax, [number_ for number_, _ in rounds])
    ax.set_ylabel("length (tokens)")
    add_legend(ax)
    return figure


def reward_by_length(events: Sequence[Event]) -> Figure | None:
    lines: dict[int, list[tuple[float, float, float | None, float | None]]] = {}
    unit = ""
    for event in rounds_of(events):
        bins = dig(event, "reward_by_length", "bins")
        for one in bins if isinstance(bins, list) else []:
            length, reward, low, high = (number(dig(one, key)) for key in ("length", "reward", "low", "high"))
            if length is not None and reward is not None:
                lines.setdefault(round_number(event), []).append((length, reward, low, high))
                unit = label(dig(event, "rewards", "unit") or "nats")
    if sum(map(len, lines.values())) < 2:
        return None
    figure, (ax,) = new_figure(2.7)
    for index, (round_, points) in enumerate(lines.items()):
        draw_points(ax, points, COLOURS[index % len(COLOURS)], f"round {round_}", line=True)
    ax.set_xlabel("length (tokens)")
    ax.set_ylabel(f"mean reward ({unit})")
    add_legend(ax)
    return figure
