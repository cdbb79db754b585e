"""The page's plots: rank correlation by judge, and mean gold by coverage."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from cream_evidence.plots import TEXT_STYLE, svg_text
from matplotlib.figure import Figure

from selfimprove.report.figures import COLOURS, GREY, STYLE, add_legend, new_figure

from .figures import BEFORE, MAIN, SHORTEST, Results, mean_of

# what scores -> (name, colour, line)
LOOKS = {
    MAIN: ("Self-J", COLOURS[0], "-"),
    "cosine-only": ("cosine only", COLOURS[1], "-"),
    "self-evaluation-only": ("self-eval. only", COLOURS[2], "-"),
    "no-distillation": ("no distillation", COLOURS[3], "-"),
    BEFORE: ("untrained", COLOURS[4], "-"),
    SHORTEST: ("shorter", GREY, "-"),
    "length": ("longer", GREY, "--"),
    "likelihood": ("likelihood", GREY, "-."),
    "random": ("random", GREY, ":"),
    "oracle": ("oracle", "#24292f", "-"),
}
_GRID = np.linspace(0.02, 1, 50)


def draw(results: Results) -> dict[str, str]:
    """`spearman.svg` and `coverage.svg`; nothing without a run."""
    if not results.names():
        return {}
    with matplotlib.rc_context({**STYLE, **TEXT_STYLE}):
        return {"spearman.svg": svg_text(_spearman(results)), "coverage.svg": svg_text(_coverage(results))}


def _spearman(results: Results) -> Figure:
    every = {name: results.values(name, "spearman") for name in LOOKS if name not in ("random", "oracle")}
    shown = {name: values for name, values in every.items() if values}
    figure, (ax,) = new_figure(0.7 + 0.32 * len(shown))
    figure.set_facecolor("white")
    for place, (name, values) in enumerate(shown.items()):
        colour = LOOKS[name][1]
        mean = mean_of(values)
        assert mean
        for seed, (value, low, high) in values.items():
            y = place + 0.2 * (seed - 1)
            ax.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=1, alpha=0.45)
            ax.plot([100 * value], [y], "o", color=colour, markersize=4)
        ax.plot([100 * mean.value] * 2, [place - 0.35, place + 0.35], color=colour, linewidth=2.2)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(shown)), [LOOKS[name][0] for name in shown])
    ax.invert_yaxis()
    ax.set_xlabel("Spearman with gold, times 100")
    return figure


def _coverage(results: Results) -> Figure:
    figure, (ax,) = new_figure(3.8)
    figure.set_facecolor("white")
    for name, (shown, colour, dashes) in LOOKS.items():
        curves = [one["curve"] for one in results.graded(name).values() if one.get("curve")]
        if curves:
            width = 2.2 if name == MAIN else 1.2
            ax.plot(100 * _GRID, 100 * _mean(curves), dashes, color=colour, linewidth=width, label=shown)
    ax.set_xlim(0, 100)
    ax.set_xlabel("coverage (% of answers given)")
    ax.set_ylabel("right among those given (%)")
    add_legend(ax)
    return figure


def _mean(curves: list[Any]) -> np.ndarray:
    """Over seeds, whose coverages differ by what is missing: read between the points."""
    read = [np.interp(_GRID, *np.asarray(curve, dtype=float).T) for curve in curves]
    found: np.ndarray = np.mean(read, axis=0)
    return found
