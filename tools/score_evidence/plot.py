"""The page's plot: first against second attempts, one panel for each way to answer."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
from cream_evidence.plots import TEXT_STYLE, svg_text

from selfimprove.report.figures import COLOURS, GREY, STYLE, add_legend, new_figure

from .lab import BASE, SUITES, Lab, Term

_MARGIN = 5  # points about the outermost marks
# method -> (name, colour, marker): what the paper has in colour and round, ours and its variants by shape
LOOKS = {
    BASE: ("base", GREY, "s"),
    "score": ("SCoRe", COLOURS[0], "o"),
    "alpha-0": ("alpha 0", COLOURS[0], "v"),
    "stage-two-only": ("Stage II only", COLOURS[0], "^"),
    "multi-turn-rl": ("multi-turn RL", COLOURS[1], "o"),
    "single-turn-rl": ("single-turn RL", COLOURS[1], "D"),
    "star": ("STaR", COLOURS[2], "o"),
    "star-corrections": ("STaR, corr. only", COLOURS[2], "v"),
    "pair-sft": ("Pair-SFT", COLOURS[2], "D"),
    "base-first-attempts": ("base's first", COLOURS[3], "v"),
    "kl-sum": ("KL summed", COLOURS[3], "^"),
    "mean-mean": ("both averaged", COLOURS[3], "v"),
}


def draw(lab: Lab) -> dict[str, str]:
    """`lab.svg`; nothing without a run. Above the line second attempts are better than first ones.

    A cross is the 95% interval of the method's difference to the base, paired by seed, about the base's mean.
    """
    if not lab.methods():
        return {}
    with matplotlib.rc_context({**STYLE, **TEXT_STYLE}):
        figure, axes = new_figure(4.4 * len(SUITES), len(SUITES))
        figure.set_facecolor("white")
        for ax, (suite, title) in zip(axes, SUITES.items(), strict=True):
            _panel(ax, lab, suite)
            ax.set_xlabel(f"Acc@t1, {title} (%)")
            ax.set_ylabel("Acc@t2 (%)")
        add_legend(axes[0])
        return {"lab.svg": svg_text(figure)}


def _panel(ax: Any, lab: Lab, suite: str) -> None:
    marks = []
    for method in lab.methods():
        place, ends = [], []
        for figure in ("t1", "t2"):
            base = lab.estimate(suite, Term(BASE, figure))
            moved = lab.estimate(suite, Term(method, figure), Term(BASE, figure))
            if base and moved:
                place.append(100 * (base.value + moved.value))
                ends.append(0.0 if math.isnan(moved.high) else 100 * (moved.high - moved.value))
        if len(place) < 2:
            continue
        name, colour, marker = LOOKS[method]
        x, y = place
        ax.errorbar([x], [y], [ends[1]], [ends[0]], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.5)
        ax.plot([x], [y], marker, color=colour, markersize=7, label=name, linestyle="none")
        marks.append(place)
    # by the marks: with few seeds a cross is far longer than what separates them
    limits = [(min(one) - _MARGIN, max(one) + _MARGIN) for one in zip(*marks, strict=True)]
    if limits:
        ax.set_xlim(*limits[0])
        ax.set_ylim(*limits[1])
        ax.axline((50, 50), slope=1, linestyle="--", color=GREY, linewidth=0.8, zorder=0)
