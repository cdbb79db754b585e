"""The plots of what suites measured: accuracy and its changes, ratings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from selfimprove.report.events import Event
from selfimprove.report.figures import (
    COLOURS,
    add_legend,
    by_suite,
    draw_points,
    label,
    new_figure,
    points_of,
    policy_axis,
)
from selfimprove.report.summary import dig, evaluations_of, in_rounds, number, policies_of


def ratings(events: Sequence[Event]) -> Figure | None:
    """All turns together and each turn by itself; one axes for each suite."""
    suites: dict[str, tuple[list[str], dict[str, dict[str, Any]]]] = {}
    for suite, by_policy in evaluations_of(events, "rating").items():
        policies = [policy for policy in policies_of(events) if policy in by_policy]
        lines: dict[str, dict[str, Any]] = {"all turns": dict(by_policy)}
        for policy in policies:
            turns = dig(by_policy[policy], "rating", "turns")
            for turn, figures in turns.items() if isinstance(turns, dict) else ():
                lines.setdefault(f"turn {turn}", {})[policy] = figures
        if any(number(dig(one, "value")) is not None for line in lines.values() for one in line.values()):
            suites[suite] = (policies, lines)

    def draw(ax: Any, found: tuple[list[str], dict[str, dict[str, Any]]]) -> None:
        policies, lines = found
        for index, (name, line) in enumerate(lines.items()):
            points = points_of(policies, line, "value", 0.14 * (index - (len(lines) - 1) / 2), scale=1)
            if points:
                colour = COLOURS[index % len(COLOURS)]
                draw_points(ax, points, colour, label(name), line=in_rounds(events), hollow=index > 0)
        policy_axis(ax, policies)

    return by_suite(suites, draw, "rating", height=(0.6, 2.2))


def rating_groups(events: Sequence[Event]) -> Figure | None:
    """A dot for each policy in every group; of many policies the last ones, as there are colours."""
    suites = evaluations_of(events, "rating")
    rated = [policy for policy in policies_of(events) if any(policy in by_policy for by_policy in suites.values())]
    rated = rated[-len(COLOURS) :]
    places: dict[tuple[str, str], dict[str, float]] = {}
    for suite, by_policy in suites.items():
        for policy in rated:
            groups = dig(by_policy.get(policy), "groups")
            for group, figures in groups.items() if isinstance(groups, dict) else ():
                value = number(dig(figures, "value"))
                if value is not None:
                    places.setdefault((suite, group), {})[policy] = value
    if not places:
        return None
    figure, (ax,) = new_figure(0.9 + 0.27 * len(places) + 0.1 * len(rated))
    for index, policy in enumerate(rated):
        # dots of equal ratings would hide each other on one height
        shift = 0.12 * (index - (len(rated) - 1) / 2)
        drawn = [(found[policy], place + shift) for place, found in enumerate(places.values()) if policy in found]
        if drawn:
            values, heights = zip(*drawn, strict=True)
            ax.plot(values, heights, "o", color=COLOURS[index], label=label(policy))
    names = [group if len(suites) == 1 else f"{suite}: {group}" for suite, group in places]
    ax.set_yticks(range(len(names)), [label(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("rating")
    add_legend(ax)
    return figure
