"""The page's plots: words by round, and words asked for and written."""

from __future__ import annotations

import matplotlib
import numpy as np
from cream_evidence.plots import TEXT_STYLE, svg_text
from matplotlib.figure import Figure

from selfimprove.report.figures import BLUE, COLOURS, GREY, ORANGE, STYLE, add_legend, new_figure

from .figures import ANSWERS, LONGER, WORDS, Results


def draw(results: Results) -> dict[str, str]:
    """`words.svg` and `asked.svg`; nothing without a run."""
    if not results.runs:
        return {}
    with matplotlib.rc_context({**STYLE, **TEXT_STYLE}):
        return {"words.svg": svg_text(_words(results)), "asked.svg": svg_text(_asked(results))}


def _words(results: Results) -> Figure:
    figure, (ax,) = new_figure(2.8)
    figure.set_facecolor("white")
    for shift, kind, colour in ((-0.16, ANSWERS, BLUE), (0.16, LONGER, ORANGE)):
        for number in results.rounds:
            by_seed = results.texts(number, kind)
            every = np.concatenate([one[:, WORDS] for one in by_seed.values()])
            low, first, middle, third, high = np.quantile(every, (0.1, 0.25, 0.5, 0.75, 0.9))
            x = number + shift
            ax.plot([x, x], [low, high], color=colour, linewidth=1.2)
            ax.plot([x, x], [first, third], color=colour, linewidth=7, alpha=0.55, solid_capstyle="butt")
            name = kind if number == results.rounds[0] else None
            ax.plot([x], [middle], "o", color=colour, markeredgecolor="white", label=name)
            means = [one[:, WORDS].mean() for one in by_seed.values()]
            ax.plot([x + 0.09] * len(means), means, "_", color=GREY, markersize=8)
    ax.set_xticks(results.rounds, [f"round {number}" for number in results.rounds])
    ax.set_ylim(0)
    ax.set_ylabel("words")
    add_legend(ax)
    return figure


def _asked(results: Results) -> Figure:
    roles = results.roles
    figure, axes = new_figure(0.5 + 1.75 * len(roles), len(roles))
    figure.set_facecolor("white")
    most = max(item["words"] for run in results.runs.values() for items in run["suite"].values() for item in items)
    for ax, role, colour in zip(axes, roles, COLOURS, strict=False):
        items = [item for run in results.runs.values() for item in run["suite"][role]]
        top = max(item["asked"] for item in items)
        ax.plot([0, top], [0, top], color=GREY, linewidth=1)
        for finished, mark in ((True, "o"), (False, "x")):
            some = [item for item in items if item["finished"] == finished]
            ax.plot([one["asked"] for one in some], [one["words"] for one in some], mark, color=colour, markersize=3.5)
        ax.set_ylim(0, 1.05 * most)
        ax.set_title(role, loc="right")
        ax.set_ylabel("written")
    axes[-1].set_xlabel("words asked for (of a range its middle)")
    return figure
