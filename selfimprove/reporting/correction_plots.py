"""The plots of self-correction: accuracy of each turn, and how much of an attempt the next one changed."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from selfimprove.reporting.correction_tables import KEY, corrections_of, turns_of
from selfimprove.reporting.events import Event
from selfimprove.reporting.figures import COLOURS, add_legend, draw_points, label, new_figure, points_of, policy_axis
from selfimprove.reporting.summary import dig, in_rounds, numbers


def turns(events: Sequence[Event]) -> Figure | None:
    """Accuracy of each turn by policy; one axes for each suite."""
    suites = corrections_of(events)
    if not suites:
        return None
    figure, axes = new_figure(0.6 + 2.1 * len(suites), len(suites))
    for ax, (suite, by_policy) in zip(axes, suites.items(), strict=True):
        names = turns_of(by_policy)
        for index, turn in enumerate(names):
            found = {policy: dig(event, KEY, "turns", turn) for policy, event in by_policy.items()}
            points = points_of(list(by_policy), found, "value", 0.14 * (index - (len(names) - 1) / 2))
            if points:
                colour = COLOURS[index % len(COLOURS)]
                draw_points(ax, points, colour, f"Acc@t{turn}", line=in_rounds(events), hollow=index == 0)
        policy_axis(ax, list(by_policy))
        ax.set_ylabel("accuracy (%)" if len(suites) == 1 else f"{label(suite)} (%)")
        add_legend(ax)
    return figure


def edit_ratios(events: Sequence[Event]) -> Figure | None:
    """The share of items in each bin, a step line for each policy; of many policies the last ones."""
    suites = {}
    for suite, by_policy in corrections_of(events).items():
        counted = {policy: numbers(dig(event, KEY, "edit_ratio", "histogram")) for policy, event in by_policy.items()}
        shown = {policy: counts for policy, counts in counted.items() if sum(counts) > 0}
        if shown:
            suites[suite] = dict(list(shown.items())[-len(COLOURS) :])
    if not suites:
        return None
    figure, axes = new_figure(0.6 + 2.1 * len(suites), len(suites))
    for ax, (suite, shown) in zip(axes, suites.items(), strict=True):
        for index, (policy, counts) in enumerate(shown.items()):
            edges = [place / len(counts) for place in range(len(counts) + 1)]
            shares = [100 * one / sum(counts) for one in counts]
            ax.stairs(shares, edges, color=COLOURS[index], linewidth=1.8, label=label(policy), fill=len(shown) == 1)
        ax.set_xlim(0, 1)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("edit ratio")
        ax.set_ylabel("items (%)" if len(suites) == 1 else f"{label(suite)} (% of items)")
        add_legend(ax)
    return figure
