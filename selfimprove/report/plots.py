"""The plots of the report, as SVG to put inside a page: no pyplot, no display, the same bytes every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from selfimprove.report import (
    lengthening_plots,
    round_plots,
    score_plots,
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


_BOXES = "Boxes: the middle half and the median; whiskers: 5% to 95%."
_BARS = "Bars are 95% intervals."
Drawer = Callable[[Sequence[Event]], Figure | None]


def plots(events: Sequence[Event]) -> list[Plot]:
    """Every plot that there is data for."""
    drawers: list[tuple[str, str, str, Drawer]] = [
        (
            "lengths",
            "Words by round",
            "Of the texts that were kept. Dot: the median; bar: the middle half; line: 10% to 90%.",
            lengthening_plots.words_by_round,
        ),
        (
            "agreement",
            "Rank correlation of two successive models",
            "A larger dot: more prompts. Dashed: 0, unrelated rankings.",
            round_plots.rank_correlation,
        ),
        (
            "agreement",
            "Ranking consistency by round",
            "One value for each prompt. Dashed: 0.5, what two unrelated rankings agree on; solid: the mean.",
            round_plots.consistency,
        ),
        ("rewards", "Reward of chosen and rejected by round", _BOXES, round_plots.rewards),
        (
            "rewards",
            "Trained margin h by round",
            "One value for each pair; the farthest 2% are in the outermost bars. Dashed: 0; solid: the mean.",
            round_plots.margins,
        ),
        ("length", "Response length by round", "Means over the round's responses and pairs.", round_plots.lengths),
        (
            "length",
            "Reward by length",
            f"Mean reward in bins of length. {_BARS[:-1]} over prompts.",
            round_plots.reward_by_length,
        ),
        *(("score", *one) for one in score_plots.DRAWERS),
    ]
    found = []
    with matplotlib.rc_context(STYLE):
        for place, (part, title, note, draw) in enumerate(drawers):
            figure = draw(events)
            if figure is not None:
                found.append(Plot(part, title, note, to_svg(figure, f"plot{place}", title)))
    return found
