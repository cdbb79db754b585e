"""The plots of SCoRe's training by update, its stages one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfimprove.report.events import Event
from selfimprove.report.figures import BLUE, COLOURS, GREY, ORANGE, add_legend, label, new_figure
from selfimprove.report.score_stages import FIGURES, SECONDS, Stage, stages_of

Points = Sequence[tuple[float, float]]

# A line of more points than a screen has pixels only makes the page larger.
_MOST_POINTS = 300
_PALE = 0.3


def accuracies(events: Sequence[Event]) -> Figure | None:
    figure = _lines(events, "accuracy (%)", {"accuracy/turn_1": "Acc@t1", "accuracy/turn_2": "Acc@t2"})
    bases = [stage.base_accuracy for stage in stages_of(events) if stage.base_accuracy is not None]
    if figure is not None and bases:
        # both stages start from one base
        ax = figure.axes[0]
        ax.axhline(100 * bases[-1], color=GREY, linestyle=(0, (5, 3)), label="the base's Acc@t1")
        add_legend(ax)
    return figure


def delta(events: Sequence[Event]) -> Figure | None:
    figure = _lines(events, "Delta (points)", {"delta": "Delta"})
    if figure is not None:
        figure.axes[0].axhline(0, color=GREY, linestyle="--", linewidth=1)
    return figure


def transitions(events: Sequence[Event]) -> Figure | None:
    names = {"incorrect_to_correct": "wrong, then right", "correct_to_incorrect": "right, then wrong"}
    return _lines(events, "samples (%)", names, bottom=0)


def changes(events: Sequence[Event]) -> Figure | None:
    return _lines(
        events, "second attempts (%)", {"change_rate": "another answer", "copy_rate": "copied whole"}, bottom=0
    )


def edit_ratio(events: Sequence[Event]) -> Figure | None:
    return _lines(events, "edit ratio", {"edit_ratio": "edit ratio"}, bottom=0)


def divergence(events: Sequence[Event]) -> Figure | None:
    return _lines(events, "KL (nats per token)", _by_turn("kl"), bottom=0)


def coverage(events: Sequence[Event]) -> Figure | None:
    return _lines(events, "answers with a reward (%)", {"reward_coverage": "reward coverage"}, near=(90, 100.5))


def truncation(events: Sequence[Event]) -> Figure | None:
    return _lines(events, "truncated (%)", _by_turn("truncated"), bottom=0)


def tokens(events: Sequence[Event]) -> Figure | None:
    return _lines(events, "length (tokens)", _by_turn("tokens"), bottom=0)


def gradient(events: Sequence[Event]) -> Figure | None:
    return _lines(events, "gradient norm", {"grad_norm": "gradient norm"}, bottom=0)


def clipping(events: Sequence[Event]) -> Figure | None:
    """None where nothing was clipped, as without PPO's passes."""
    keys = _by_turn("clip_fraction")
    return _lines(events, "clipped tokens (%)", keys, bottom=0) if _says_something(events, keys) else None


def rewards(events: Sequence[Event]) -> Figure | None:
    """None where the reward is 1 or 0, and so the accuracy."""
    keys = _by_turn("reward")
    return _lines(events, "mean reward", keys) if _says_something(events, keys) else None


def _says_something(events: Sequence[Event], keys: Iterable[str]) -> bool:
    return any(not stage.says_nothing(key) for stage in stages_of(events) for key in keys)


def seconds(events: Sequence[Event]) -> Figure | None:
    """Shares of an update's time, stacked: running means over the updates."""
    stages = stages_of(events)
    if not any(stage.values(f"seconds/{part}") for stage in stages for part in SECONDS):
        return None
    figure, (ax,) = new_figure(2.7)
    start = 0
    for stage in stages:
        taken = [
            [dict(stage.values(f"seconds/{part}")).get(place, 0.0) for part in SECONDS] for place in _places(stage)
        ]
        sums = [sum(row) for row in taken]
        kept = [place for place, whole in enumerate(sums) if whole > 0]
        if kept:
            smooth = [
                running_mean([(start + place + 1, 100 * taken[place][part] / sums[place]) for place in kept])
                for part in range(len(SECONDS))
            ]
            thin = [thinned(points) for points in smooth]
            x, heights = [x for x, _ in thin[0]], [[y for _, y in points] for points in thin]
            if len(x) == 1:  # an area of one point has no width
                x, heights = [x[0] - 0.5, x[0] + 0.5], [[one[0]] * 2 for one in heights]
            labels = [f"_{name}" if start else name for name in SECONDS.values()]
            ax.stackplot(x, heights, labels=labels, colors=COLOURS[: len(SECONDS)], alpha=0.85, linewidth=0)
        start += len(stage.rows)
    ax.set_ylim(0, 100)
    ax.set_ylabel("time (%)")
    _update_axis(ax, stages)
    add_legend(ax)
    return figure


def _by_turn(key: str) -> dict[str, str]:
    return {f"{key}/turn_{turn}": f"turn {turn}" for turn in (1, 2)}


def _lines(
    events: Sequence[Event],
    what: str,
    keys: dict[str, str],
    bottom: float | None = None,
    near: tuple[float, float] | None = None,
) -> Figure | None:
    """A pale and a bold line for each key. `bottom`: where the axis starts, whatever the values;
    `near`: what it shows at least, and where it ends."""
    stages = stages_of(events)
    if not any(stage.values(key) for stage in stages for key in keys):
        return None
    figure, (ax,) = new_figure(2.7)
    for (key, name), colour in zip(keys.items(), (BLUE, ORANGE), strict=False):
        start, named = 0, False
        for stage in stages:
            points = [(start + place + 1, FIGURES[key].scale * value) for place, value in stage.values(key)]
            if points:
                _draw(ax, points, colour, "_" if named else name)
                named = True
            start += len(stage.rows)
    ax.set_ylabel(what)
    if bottom is not None:
        # from the axis, and not from the lowest value, the highest one keeps its distance to the frame
        highest = max(FIGURES[key].scale * value for stage in stages for key in keys for _, value in stage.values(key))
        ax.set_ylim(bottom, bottom + 1.06 * (highest - bottom) if highest > bottom else bottom + 1)
    if near is not None:
        ax.set_ylim(min(ax.get_ylim()[0], near[0]), near[1])
    _update_axis(ax, stages)
    add_legend(ax)
    return figure


def _draw(ax: Any, points: Points, colour: str, name: str) -> None:
    few = "o" if len(points) < 20 else ""
    for shown, look in (
        (thinned(points), {"alpha": _PALE, "linewidth": 1.0, "marker": few, "markersize": 3, "label": "_"}),
        (thinned(running_mean(points)), {"linewidth": 2.0, "label": name, "marker": "o" if len(points) == 1 else ""}),
    ):
        ax.plot([x for x, _ in shown], [y for _, y in shown], color=colour, **look)


def running_mean(points: Points) -> list[tuple[float, float]]:
    """The mean over a window around each point: a tenth of the points, at least five; shorter at the ends."""
    half = max(2, len(points) // 20)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    found = []
    for place, (x, _) in enumerate(points):
        low, high = max(0, place - half), min(len(points), place + half + 1)
        found.append((x, (sums[high] - sums[low]) / (high - low)))
    return found


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most about `most` points: means of neighbours, each at the mean of their places."""
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), max(size, 1))]
    return [tuple(sum(axis) / len(group) for axis in zip(*group, strict=True)) for group in groups]  # type: ignore[misc]


def _places(stage: Stage) -> range:
    return range(len(stage.rows))


def _update_axis(ax: Any, stages: Sequence[Stage]) -> None:
    """Updates counted over all stages, with a line where the next one starts."""
    start = 0
    for stage in stages:
        if start:
            ax.axvline(start + 0.5, color=GREY, linestyle=":", linewidth=1.2)
        if len(stages) > 1:
            middle = start + 0.5 + len(stage.rows) / 2
            ax.annotate(
                label(stage.name),
                (middle, 0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -20),  # below the numbers, where no line runs
                textcoords="offset points",
                ha="center",
                va="top",
                color=GREY,
                fontsize=9.5,
            )
        start += len(stage.rows)
    ax.set_xlim(0.5, start + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    one = len(stages) == 1
    ax.set_xlabel("update" if one else "update, counted over the stages", labelpad=4 if one else 16)


# Title, note, and what draws it, in the order in which a training is judged.
DRAWERS: list[tuple[str, str, Callable[[Sequence[Event]], Figure | None]]] = [
    ("Accuracy of each attempt", "Dashed: the base's first attempt.", accuracies),
    ("Delta = Acc@t2 - Acc@t1", "Above 0 the second attempt is better.", delta),
    ("Mean reward", "", rewards),
    ("What became of the first attempt", "", transitions),
    (
        "Changed and copied",
        "A second turn that collapses copies more and more.",
        changes,
    ),
    ("Edit ratio", "0: a copy; towards 1: nothing in common.", edit_ratio),
    ("KL to the base, per turn", "Stage I should hold turn 1 near 0.", divergence),
    ("Truncated answers", "", truncation),
    ("Length of the answers", "", tokens),
    ("Reward coverage", "Below 100% the checker itself failed.", coverage),
    ("Gradient norm", "Before it is clipped.", gradient),
    ("Clipped tokens", "The share whose ratio left the clip range.", clipping),
    ("Where an update's time went", "Shares, running means over the updates.", seconds),
]
