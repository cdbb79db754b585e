"""The plots of self-correction: accuracy of each turn, and how much of an attempt the next one changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from selfimprove.report.correction_tables import KEY, corrections_of, turns_of
from selfimprove.report.events import Event
from selfimprove.report.figures import COLOURS, by_suite, draw_points, label, points_of, policy_axis
from selfimprove.report.summary import dig, in_rounds, numbers


def turns(events: Sequence[Event]) -> Figure | None:
    """Accuracy of each turn by policy; one axes for each suite."""

    def draw(ax: Any, by_policy: dict[str, Event]) -> None:
        names = turns_of(by_policy)
        for index, turn in enumerate(names):
            found = {policy: dig(event, KEY, "turns", turn) for policy, event in by_policy.items()}
            points = points_of(list(by_policy), found, "value", 0.14 * (index - (len(names) - 1) / 2))
            if points:
                colour = COLOURS[index % len(COLOURS)]
                draw_points(ax, points, colour, f"Acc@t{turn}", line=in_rounds(events), hollow=index == 0)
        policy_axis(ax, list(by_policy))

    return by_suite(corrections_of(events), draw, "accuracy (%)", "%")


def edit_ratios(events: Sequence[Event]) -> Figure | None:
    """The share of items in each bin, a step line for each policy; of many policies the last ones."""
    suites = {}
    for suite, by_policy in corrections_of(events).items():
        counted = {policy: numbers(dig(event, KEY, "edit_ratio", "histogram")) for policy, event in by_policy.items()}
        shown = {policy: counts for policy, counts in counted.items() if sum(counts) > 0}
        if shown:
            suites[suite] = dict(list(shown.items())[-len(COLOURS) :])

    def draw(ax: Any, shown: dict[str, list[float]]) -> None:
        for index, (policy, counts) in enumerate(shown.items()):
            edges = [place / len(counts) for place in range(len(counts) + 1)]
            shares = [100 * one / sum(counts) for one in counts]
            ax.stairs(shares, edges, color=COLOURS[index], linewidth=1.8, label=label(policy), fill=len(shown) == 1)
        ax.set_xlim(0, 1)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("edit ratio")

    return by_suite(suites, draw, "items (%)", "% of items")
