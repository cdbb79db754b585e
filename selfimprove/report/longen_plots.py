"""The plots of long texts: how well their lengths are met, and words written by words asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from selfimprove.report.events import Event
from selfimprove.report.figures import COLOURS, GREY, by_suite, draw_points, label, points_of, policy_axis
from selfimprove.report.longen_tables import KEY, KINDS, lengths_of
from selfimprove.report.summary import dig, in_rounds, number
from selfimprove.report.tables import as_list


def scores(events: Sequence[Event]) -> Figure | None:
    """The score of each kind of demand by policy, one axes for each suite."""

    def draw(ax: Any, by_policy: dict[str, Event]) -> None:
        for index, (kind, name) in enumerate(KINDS.items()):
            found = {policy: dig(event, KEY, "kinds", kind) for policy, event in by_policy.items()}
            shift = 0.14 * (index - (len(KINDS) - 1) / 2)
            if points := points_of(list(by_policy), found, "value", shift, scale=1):
                draw_points(ax, points, COLOURS[index], name, line=in_rounds(events))
        policy_axis(ax, list(by_policy))
        ax.set_ylim(-0.03, 1.03)

    return by_suite(lengths_of(events), draw, "length score", height=(0.8, 2.3))


def words(events: Sequence[Event]) -> Figure | None:
    """A dot for each text, one axes for each suite; of many policies the last ones, as there are colours."""

    def draw(ax: Any, by_policy: dict[str, Event]) -> None:
        shown = {policy: _texts(event) for policy, event in list(by_policy.items())[-len(COLOURS) :]}
        most = max((asked for texts in shown.values() for asked, _, _ in texts), default=1.0)
        for index, (policy, texts) in enumerate(shown.items()):
            shift = 0.012 * most * (index - (len(shown) - 1) / 2)  # many texts were asked for in the same length
            for ended in (True, False):
                x = [asked + shift for asked, _, finished in texts if finished is ended]
                y = [written for _, written, finished in texts if finished is ended]
                colours = {"facecolors": COLOURS[index] if ended else "none", "edgecolors": COLOURS[index]}
                ax.scatter(x, y, 12, linewidths=0.8, label=label(policy) if ended else None, **colours)
        ax.plot([0, most], [0, most], color=GREY, linestyle="--", linewidth=1)
        ax.set_xlim(0, 1.05 * most)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("words asked for")

    return by_suite(lengths_of(events), draw, "words written", height=(0.8, 2.6))


def _texts(event: Event) -> list[tuple[float, float, bool]]:
    """(words asked for, words written, whether it ended as far as is known) of every text."""
    found = []
    for one in as_list(dig(event, KEY, "items")):
        asked, written = number(dig(one, "asked")), number(dig(one, "words"))
        if asked is not None and written is not None:
            found.append((asked, written, dig(one, "finished") is not False))
    return found
