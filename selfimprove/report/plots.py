"""The plots of the report, as SVG to put inside a page: no pyplot, no display, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from selfimprove.report import (
    correction_plots,
    evaluation_plots,
    judge_plots,
    longen_plots,
    preference_plots,
)
from selfimprove.report.events import Event
from selfimprove.report.figures import STYLE, to_svg


@dataclass
class Plot:
    """One figure of the report, and the part of the page that it belongs to."""

    part: str
    title: str
    note: str
    svg: Markup


_BARS = "Bars are 95% intervals."
Drawer = Callable[[Sequence[Event]], Figure | None]


def plots(events: Sequence[Event]) -> list[Plot]:
    """Every plot that there is data for."""
    drawers: list[tuple[str, str, str, Drawer]] = [
        (
            "self_correction",
            "Accuracy of each turn",
            f"{_BARS} Ring: the first attempt.",
            correction_plots.turns,
        ),
        (
            "self_correction",
            "How much of the first attempt changed",
            "Edit distance divided by both lengths, in ten bins: at the left, copies and small edits.",
            correction_plots.edit_ratios,
        ),
        (
            "graded",
            "Answering less: mean gold by coverage",
            "Highest scores kept first. At the right everything is kept, which is what a random choice is worth.",
            judge_plots.risk_coverage,
        ),
        ("graded", "Best of N by judge", f"{_BARS} Ring: length taken out of the scores.", judge_plots.best_of_n),
        (
            "graded",
            "Calibration of the scores",
            f"Mean gold in bins of the score. {_BARS} Dashed: a score that means what it says.",
            judge_plots.calibration,
        ),
        (
            "length_following",
            "Length score by kind of demand",
            f"{_BARS} 1: the length is within the demand's bounds.",
            longen_plots.scores,
        ),
        (
            "length_following",
            "Words written by words asked for",
            "One dot for each text; ring: it did not end. Of a range its middle is what was asked for. Dashed: as long "
            "as asked for.",
            longen_plots.words,
        ),
        (
            "preference",
            "Win rate by policy",
            f"{_BARS} LC: length-controlled. Dashed: 50%, as good as the opponent.",
            preference_plots.win_rates,
        ),
        (
            "preference",
            "Win rate by mean length",
            "From a dot to its ring: what length control takes or gives. A policy that wins by length stands far right "
            "with its ring far below. Intervals are in the plot by policy.",
            preference_plots.win_rates_by_length,
        ),
        ("rating", "Rating by policy", _BARS, evaluation_plots.ratings),
        ("rating", "Rating by group", "Means; how many rated answers is in the table.", evaluation_plots.rating_groups),
        (
            "judge",
            "The judge's verdicts",
            f"{_BARS} Dashed: 50%, what guessing gets right. Ceiling: people's agreement among themselves. Fewer "
            "flips are better.",
            preference_plots.judges,
        ),
    ]
    found = []
    with matplotlib.rc_context(STYLE):
        for place, (part, title, note, draw) in enumerate(drawers):
            figure = draw(events)
            if figure is not None:
                found.append(Plot(part, title, note, to_svg(figure, f"plot{place}", title)))
    return found
