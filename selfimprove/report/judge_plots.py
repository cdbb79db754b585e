"""The plots of policies as judges: what selective answering gains, calibration, best of N."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from selfimprove.report.events import Event
from selfimprove.report.figures import COLOURS, GREY, INK, by_suite, draw_points, label, points_of, policy_axis
from selfimprove.report.judge_tables import BASELINES, KEY, graded_of, judges_of
from selfimprove.report.summary import dig, number, numbers
from selfimprove.report.tables import as_list

_DASHES = {"length": "--", "shortness": "-", "likelihood": "-.", "random": ":", "oracle": "-"}


def risk_coverage(events: Sequence[Event]) -> Figure | None:
    """Mean gold of the kept by coverage, a line for each judge; of many policies the last ones."""
    suites = {suite: found for suite, found in graded_of(events).items() if _curves(found)}

    def draw(ax: Any, by_policy: dict[str, Event]) -> None:
        for index, (name, points) in enumerate(list(_curves(by_policy).items())[-len(COLOURS) :]):
            _line(ax, points, label(name), color=COLOURS[index])
        first = next(iter(by_policy.values()))
        for name, dashes in _DASHES.items():
            if points := _points(dig(first, KEY, "baselines", name, "curve")):
                colour = INK if name == "oracle" else GREY
                _line(ax, points, BASELINES[name], color=colour, linestyle=dashes, linewidth=1.1)
        ax.set_xlim(0, 1)
        ax.set_xlabel("coverage (share kept)")

    return by_suite(suites, draw, "mean gold of the kept", "gold", height=(0.9, 2.3))


def _curves(by_policy: dict[str, Event]) -> dict[str, list[list[float]]]:
    found = {policy: _points(dig(event, KEY, "scores", "curve")) for policy, event in by_policy.items()}
    return {policy: points for policy, points in found.items() if points}


def _points(curve: Any) -> list[list[float]]:
    return [found for one in as_list(curve) if len(found := numbers(one)) == 2]


def _line(ax: Any, points: Sequence[Sequence[float]], name: str, **style: Any) -> None:
    x, y = zip(*points, strict=True)
    ax.plot(x, y, label=name, **style)


def calibration(events: Sequence[Event]) -> Figure | None:
    """Mean gold by mean score of each bin, both from 0 to 1; of many policies the last ones."""
    suites: dict[str, dict[str, list[Any]]] = {}
    for suite, by_policy in graded_of(events).items():
        found = {policy: as_list(dig(event, KEY, "calibration", "bins")) for policy, event in by_policy.items()}
        if measured := {policy: bins for policy, bins in found.items() if bins}:
            suites[suite] = dict(list(measured.items())[-len(COLOURS) :])

    def draw(ax: Any, shown: dict[str, list[Any]]) -> None:
        ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        for index, (policy, bins) in enumerate(shown.items()):
            points = []
            for one in bins:
                score, gold, low, high = (number(dig(one, key)) for key in ("score", "gold", "low", "high"))
                if score is not None and gold is not None:
                    points.append((score, gold, low, high))
            draw_points(ax, points, COLOURS[index], label(policy), line=True)
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlabel("score, from 0 to 1")

    return by_suite(suites, draw, "mean gold, from 0 to 1", "gold", height=(0.7, 2.3))


def best_of_n(events: Sequence[Event]) -> Figure | None:
    """Mean gold of what each judge picks, and with length taken out of its scores (rings)."""

    def draw(ax: Any, by_policy: dict[str, Event]) -> None:
        judges = judges_of(by_policy)
        for index, (key, name) in enumerate((("best_of_n", "as scored"), ("length_controlled", "length-controlled"))):
            found = {judge: dig(figures, key) for judge, figures in judges.items()}
            points = points_of(list(judges), found, "value", 0.16 * (index - 0.5), scale=1)
            draw_points(ax, points, COLOURS[index], name, hollow=index > 0)
        policy_axis(ax, list(judges))
        ax.set_xlabel("picked by")

    return by_suite(graded_of(events), draw, "mean gold", "gold", height=(0.8, 2.3))
