"""How the plots of the report look, and how a figure becomes SVG inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from selfimprove.report.summary import dig, number
from selfimprove.report.text import visible

# Each has a contrast of at least 3.5 to white and to the page's dark background.
COLOURS = ["#2f7fd0", "#d9662b", "#1f9a6d", "#b565c9", "#a5841f", "#7a8794"]
BLUE, ORANGE, *_, GREY = COLOURS
INK = "#010203"  # replaced by currentColor, so that the page decides
_WIDTH = 4.9
Found = TypeVar("Found")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "selfimprove",
    "font.size": 10.5,  # a phone shows a plot at about its own size
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


def new_figure(height: float, rows: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for ax in axes:
        ax.set_facecolor("none")
    return figure, axes


def by_suite(
    suites: Mapping[str, Found],
    draw: Callable[[Any, Found], None],
    shown: str,
    unit: str | None = None,
    height: tuple[float, float] = (0.6, 2.1),
    least: int = 2,
) -> Figure | None:
    """One axes for each suite, which `draw(axes, found)` fills from what was found of the suite; None without a suite.

    Args:
        shown, unit: what the y axis says: `shown`, or where there are several suites the suite's name and `unit` (if
            None, `shown`).
        height: inches of the figure, and more for each suite.
        least: see `add_legend`.
    """
    if not suites:
        return None
    figure, axes = new_figure(height[0] + height[1] * len(suites), len(suites))
    for ax, (suite, found) in zip(axes, suites.items(), strict=True):
        draw(ax, found)
        ax.set_ylabel(shown if len(suites) == 1 else f"{label(suite)} ({unit or shown})")
        add_legend(ax, least)
    return figure


def label(value: Any, most: int = 28) -> str:
    """A name for a plot, short enough to leave room for the plot itself."""
    shown = visible(str(value))
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def add_legend(ax: Any, least: int = 2) -> None:
    """Above the axes, in as many columns as fit; nothing for fewer than `least` lines."""
    labels = ax.get_legend_handles_labels()[1]
    if len(labels) < least:
        return
    columns = max(1, min(len(labels), 56 // (max(map(len, labels)) + 6)))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0, handlelength=1.4)


def to_svg(figure: Figure, name: str, title: str) -> Markup:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # All plots share one page, so their ids must differ.
    svg = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" id="{name}">', svg)
    return Markup(svg.replace(INK, "currentColor").replace("<svg ", f'<svg aria-label="{title}" ', 1))


def draw_points(
    ax: Any,
    points: Sequence[tuple[float, float, float | None, float | None]],
    colour: str,
    name: str,
    *,
    line: bool = False,
    hollow: bool = False,
) -> None:
    """Values with their intervals: (x, value, low, high), joined by a line on request, as dots or as rings."""
    below = [0.0 if low is None else max(value - low, 0) for _, value, low, _ in points]
    above = [0.0 if high is None else max(high - value, 0) for _, value, _, high in points]
    ax.errorbar(
        [point[0] for point in points],
        [point[1] for point in points],
        yerr=[below, above],
        fmt="o" + ("--" if hollow else "-") * line,
        color=colour,
        markerfacecolor="none" if hollow else colour,
        elinewidth=1.6,
        capsize=3,
        label=name,
    )


def points_of(
    policies: Sequence[str], found: dict[str, Any], key: str, shift: float, scale: float = 100
) -> list[tuple[float, float, float | None, float | None]]:
    """(place on the axis, value, low, high), by default in percent, of every policy that has a value under `key`."""
    points = []
    for place, policy in enumerate(policies):
        value, low, high = (number(dig(found.get(policy), name)) for name in (key, "low", "high"))
        if value is not None:
            ends = [None if end is None else scale * end for end in (low, high)]
            points.append((place + shift, scale * value, ends[0], ends[1]))
    return points


def squeezed(name: str, most: int) -> str:
    """A name without its middle: policies of one run differ at the end, those of two runs at the start."""
    shown = visible(name)
    return shown if len(shown) <= most else f"{shown[: (most - 1) // 2]}…{shown[-(most // 2) :]}"


def policy_axis(ax: Any, policies: Sequence[str]) -> None:
    names = [label(policy) for policy in policies]
    # about 50 letters fit side by side; slanted, the names take height, which the figure gets
    if max(map(len, names), default=0) * len(names) > 50:
        names = [squeezed(policy, 18) for policy in policies]
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.figure.set_figheight(ax.figure.get_figheight() + 0.08 * max(map(len, names)))
    else:
        ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_xlabel("policy")


def place_labels(
    figure: Figure, ax: Any, points: Sequence[tuple[float, float, str]], obstacles: Sequence[tuple[float, float]]
) -> None:
    """Writes a name beside each (x, y, name), where it hides the fewest `obstacles` (x, y) and other names.

    To be called last: the places depend on the limits of the axes.
    """
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    dots = [ax.transData.transform(point) for point in (*obstacles, *((x, y) for x, y, _ in points))]
    frame = ax.get_window_extent()
    taken: list[Bbox] = []
    for x, y, name in points:
        shown = squeezed(name, 16)
        left, bottom = ax.transData.transform((x, y))
        width, height = 5.8 * len(shown) * unit, 10 * unit
        spots: list[tuple[int, int, Bbox, int, int]] = []
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            x0 = left + (across * 7 * unit) - width * (1 - across) / 2
            y0 = bottom + (up * 7 * unit) - height * (1 - up) / 2
            box = Bbox.from_extents(x0, y0, x0 + width, y0 + height)
            hidden = sum(box.contains(*dot) for dot in dots) + 3 * sum(box.overlaps(other) for other in taken)
            outside = not (frame.contains(x0, y0) and frame.contains(x0 + width, y0 + height))
            spots.append((hidden + 3 * outside, len(spots), box, across, up))
        *_, box, across, up = min(spots, key=lambda spot: spot[:2])
        taken.append(box)
        ax.annotate(
            shown,
            (x, y),
            xytext=(7 * across, 7 * up),
            textcoords="offset points",
            ha={-1: "right", 0: "center", 1: "left"}[across],
            va={-1: "top", 0: "center", 1: "bottom"}[up],
            fontsize=9.5,
        )


def round_axis(ax: Any, rounds: Sequence[int]) -> None:
    ax.set_xticks(range(len(rounds)), [str(number) for number in rounds])
    ax.set_xlim(-0.6, len(rounds) - 0.4)
    ax.set_xlabel("round")


def draw_boxes(ax: Any, rounds: list[int], groups: dict[str, list[list[float]]]) -> None:
    for index, (name, values) in enumerate(groups.items()):
        colour = COLOURS[index]
        shift = 0.36 * (index - (len(groups) - 1) / 2)
        drawn = [(place + shift, found) for place, found in enumerate(values) if found]
        if not drawn:
            continue
        line = {"color": colour}
        ax.boxplot(
            [found for _, found in drawn],
            positions=[place for place, _ in drawn],
            widths=0.3,
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour + "55", "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2.4},
            whiskerprops=line,
            capprops=line,
        )
        ax.plot([], [], color=colour, linewidth=5, label=name)
    round_axis(ax, rounds)
    add_legend(ax)
