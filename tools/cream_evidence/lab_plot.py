"""The plot of the section on the lab model."""

from __future__ import annotations

from typing import Any

import matplotlib

from selfimprove.report.figures import COLOURS, GREY, STYLE, add_legend, new_figure

from .lab import STEPS, Lab
from .plots import TEXT_STYLE, svg_text

# What the claims of the accuracies are about; the others are in the table.
SHOWN = {
    "cream": "CREAM",
    "srlm": "SRLM",
    "random": "random pairs",
    "truth-40": "truth, 40% wrong",
    "verifier": "verifier",
}


def draw_lab(results: dict[str, Any]) -> dict[str, str]:
    """`lab.svg`: accuracy of M1 to M4 by method, one panel for each step size."""
    labs = {name: Lab(runs) for name, runs in results.items() if runs}
    if not labs:
        return {}
    with matplotlib.rc_context({**STYLE, **TEXT_STYLE}):
        figure, axes = new_figure(2.6 * len(labs), len(labs))
        figure.set_facecolor("white")
        for ax, (name, lab) in zip(axes, labs.items(), strict=True):
            for place, (method, title) in enumerate(SHOWN.items()):
                found = [lab.accuracy(method, f"M{number}") for number in (1, 2, 3, 4)] if lab.seeds(method) else []
                kept = [one for one in found if one]
                if len(kept) < 4:
                    continue
                values = [100 * one.value for one in kept]
                low, high = (
                    [100 * abs(end - one.value) for one, end in zip(kept, ends, strict=True)]
                    for ends in ([one.low for one in kept], [one.high for one in kept])
                )
                x = [number + 0.05 * (place - 2) for number in range(4)]
                ax.errorbar(x, values, [low, high], fmt="o-", color=COLOURS[place], capsize=3, label=title, linewidth=1)
            ax.set_title(STEPS[name], loc="right")
            ax.set_xticks(range(4), ["M1", "M2", "M3", "M4"])
            ax.set_ylim(0, 100)
            ax.axhline(0, color=GREY, linewidth=0.8)
            ax.set_ylabel("accuracy (%)")
            add_legend(ax)
        return {"lab.svg": svg_text(figure)}
