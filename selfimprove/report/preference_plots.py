"""The plots of pairwise preferences: win rates, how they go with length, and how far their judge can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from selfimprove.report.events import Event
from selfimprove.report.figures import (
    COLOURS,
    GREY,
    add_legend,
    draw_points,
    label,
    new_figure,
    place_labels,
    points_of,
    policy_axis,
)
from selfimprove.report.summary import dig, evaluations_of, in_rounds, judge_evaluations_of, number, policies_of, text


def _suites(events: Sequence[Event]) -> dict[str, dict[str, Event]]:
    """The suites with at least one win rate."""
    return {
        suite: by_policy
        for suite, by_policy in evaluations_of(events, "preference").items()
        if any(number(event.get("value")) is not None for event in by_policy.values())
    }


def _names(suite: str, suites: dict[str, dict[str, Event]]) -> tuple[str, str]:
    """What the dots and the rings of a suite are called."""
    return ("win rate", "LC win rate") if len(suites) == 1 else (label(suite), f"{label(suite)}, LC")


def win_rates(events: Sequence[Event]) -> Figure | None:
    """A colour for each suite; dots are win rates, rings length-controlled ones."""
    suites = _suites(events)
    if not suites:
        return None
    policies = [policy for policy in policies_of(events) if any(policy in found for found in suites.values())]
    figure, (ax,) = new_figure(3.0)
    ax.axhline(50, color=GREY, linestyle="--", linewidth=1)
    step = min(0.12, 0.5 / len(suites))
    for index, (suite, by_policy) in enumerate(suites.items()):
        colour = COLOURS[index % len(COLOURS)]
        shift = step * (2 * index - len(suites) + 0.5)
        controlled = {policy: dig(event, "preference", "length_controlled") for policy, event in by_policy.items()}
        for place, (name, found) in enumerate(zip(_names(suite, suites), (by_policy, controlled), strict=True)):
            points = points_of(policies, found, "value", shift + step * place)
            if points:
                draw_points(ax, points, colour, name, line=in_rounds(events), hollow=place == 1)
    policy_axis(ax, policies)
    ax.set_ylabel("win rate (%)")
    add_legend(ax)
    return figure


def win_rates_by_length(events: Sequence[Event]) -> Figure | None:
    """Each policy at the mean length of its outputs, its win rate and the length-controlled one joined by a line."""
    suites = _suites(events)
    figure, (ax,) = new_figure(3.0 + 0.25 * len(suites))
    named: list[tuple[float, float, str]] = []
    filled: list[tuple[float, float]] = []
    opponents: dict[tuple[str, float, str], None] = {}
    for index, (suite, by_policy) in enumerate(suites.items()):
        colour = COLOURS[index % len(COLOURS)]
        dots, rings = [], []
        for policy in policies_of(events):
            event = by_policy.get(policy)
            length, value = number(dig(event, "preference", "mean_length")), number(dig(event, "value"))
            controlled = number(dig(event, "preference", "length_controlled", "value"))
            opponent = number(dig(event, "preference", "against_mean_length"))
            if length is None or value is None:
                continue
            dots.append((length, 100 * value))
            named.append((length, 100 * value, policy))
            if controlled is not None:
                rings.append((length, 100 * controlled))
                ax.plot([length] * 2, [100 * value, 100 * controlled], color=colour, linewidth=1, alpha=0.6)
                filled += [(length, 100 * (value + (controlled - value) * part / 8)) for part in range(1, 9)]
            if opponent is not None:
                against = text(dig(event, "preference", "against")) or "the opponent"
                opponents.setdefault((against, opponent, colour if len(suites) > 1 else GREY))
        for points, name, face in zip((dots, rings), _names(suite, suites), (colour, "none"), strict=True):
            if points:
                x, y = zip(*points, strict=True)
                ax.plot(x, y, "o", color=colour, markerfacecolor=face, label=name)
    if not named:
        return None
    ax.axhline(50, color=GREY, linestyle="--", linewidth=1)
    for _, length, colour in opponents:
        ax.axvline(length, color=colour, linestyle="dotted", linewidth=1.6)
    for name in dict.fromkeys(against for against, _, _ in opponents):
        ax.plot([], [], color=GREY, linestyle="dotted", label=f"mean length of {label(name)}")
    ax.margins(0.12)
    ax.set_xlabel("mean length (characters)")
    ax.set_ylabel("win rate (%)")
    add_legend(ax, least=1)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    filled += [(left + (right - left) * part / 60, 50) for part in range(61)]
    filled += [(length, low + (high - low) * part / 30) for _, length, _ in opponents for part in range(31)]
    place_labels(figure, ax, named, filled)
    return figure


_JUDGE_SERIES: list[tuple[str, tuple[str, ...], str, bool]] = [
    ("accuracy", ("accuracy",), "o", False),
    ("agreement with people", ("human", "judge"), "s", False),
    ("ceiling", ("human", "ceiling"), "s", True),
    ("flips with the order", ("flip_rate",), "o", True),
]


def judges(events: Sequence[Event]) -> Figure | None:
    """One row for each measured judge, its name above the row: names of judges are too long for an axis."""
    rows: list[tuple[str, list[Any]]] = []
    for event in judge_evaluations_of(events):
        found = [dig(event, *keys) for _, keys, _, _ in _JUDGE_SERIES]
        if any(number(dig(one, "value")) is not None for one in found):
            name = label(text(event.get("judge")), 36)
            rows.append((f"{name} on {label(text(event.get('data')), 18)}" if event.get("data") else name, found))
    if not rows:
        return None
    figure, (ax,) = new_figure(1.1 + 0.75 * len(rows))
    # not across the names
    ax.vlines(
        [50] * len(rows),
        *zip(*((place - 0.18, place + 0.45) for place, _ in enumerate(rows)), strict=True),
        color=GREY,
        linestyle="--",
        linewidth=1,
    )
    for index, (name, _, marker, hollow) in enumerate(_JUDGE_SERIES):
        drawn = [
            (place, 100 * value, number(dig(found[index], "low")), number(dig(found[index], "high")))
            for place, (_, found) in enumerate(rows)
            if (value := number(dig(found[index], "value"))) is not None
        ]
        if not drawn:
            continue
        below = [0.0 if low is None else max(value - 100 * low, 0) for _, value, low, _ in drawn]
        above = [0.0 if high is None else max(100 * high - value, 0) for _, value, _, high in drawn]
        ax.errorbar(
            [value for _, value, _, _ in drawn],
            [place + 0.16 * index - 0.1 for place, *_ in drawn],
            xerr=[below, above],
            fmt=marker,
            color=COLOURS[index],
            markerfacecolor="none" if hollow else COLOURS[index],
            capsize=3,
            label=name,
        )
    for place, (name, _) in enumerate(rows):
        ax.text(0.5, place - 0.34, name, fontsize=9.5, va="center")
    ax.set_yticks([])
    ax.set_ylim(len(rows) - 0.5, -0.6)
    ax.set_xlim(0, 100)
    ax.set_xlabel("share of the pairs (%)")
    add_legend(ax, least=1)
    return figure
