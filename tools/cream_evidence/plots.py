"""The page's plots as SVG files; the same results give the same bytes."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from selfimprove.report.figures import COLOURS, GREY, STYLE, add_legend, new_figure

from .claims import PAPER_TAU
from .figures import COMPARISONS, Results
from .intervals import Estimate
from .matrix import ARMS

TITLES = {"paper-beta": "beta 0.1, lr 8e-5", "shipped": "beta 0.4, lr 2.5e-5"}
SHORT = {"cream": "CREAM", "srlm": "SRLM", "constant": "c = 0.85", "random": "random pairs", "verifier": "verifier"}
_COLOUR = dict(zip(ARMS, COLOURS, strict=False))


def draw_all(results: Results) -> dict[str, str]:
    """File name to SVG text."""
    with matplotlib.rc_context({**STYLE, **TEXT_STYLE}):
        return {
            "accuracy.svg": svg_text(_accuracy(results)),
            "agreement.svg": svg_text(_agreement(results)),
            "labels.svg": svg_text(_labels(results)),
        }


TEXT_STYLE = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"), "#24292f"
)


def _panels(results: Results, height: float) -> tuple[Figure, list[tuple[str, Any]]]:
    settings = results.settings()
    figure, axes = new_figure(height * max(1, len(settings)), max(1, len(settings)))
    figure.set_facecolor("white")
    for ax, setting in zip(axes, settings, strict=False):
        ax.set_title(TITLES[setting], loc="right")
    return figure, list(zip(settings, axes, strict=False))


def _point(ax: Any, x: float, estimate: Estimate, arm: str, label: str, scale: float = 1) -> None:
    """The estimate with its interval, and each seed's value as a small ring beside it."""
    colour = _COLOUR[arm]
    value, low, high = (one * scale for one in (estimate.value, estimate.low, estimate.high))
    ax.errorbar([x], [value], [[value - low], [high - value]], fmt="o", color=colour, capsize=3, label=label)
    seeds = [one * scale for one in estimate.by_seed]
    ax.plot(
        [x + 0.06] * len(seeds), seeds, "o", color=colour, markerfacecolor="none", markersize=3, markeredgewidth=0.7
    )


def _places(arms: list[str]) -> dict[str, float]:
    """Where each arm stands beside the tick."""
    return {arm: 0.16 * (index - (len(arms) - 1) / 2) for index, arm in enumerate(arms)}


def _accuracy(results: Results) -> Figure:
    figure, panels = _panels(results, 2.6)
    for setting, ax in panels:
        arms = results.arms(setting)
        for arm, shift in _places(arms).items():
            for place, policy in enumerate(("M2", "M3")):
                estimate = results.change(setting, arm, policy)
                if estimate:
                    _point(ax, place + shift, estimate, arm, SHORT[arm] if place == 0 else "", 100)
        ax.axhline(0, color=GREY, linewidth=0.8)
        ax.set_xticks(range(2), ["M2", "M3"])
        ax.set_ylabel("change to M1 (points)")
        add_legend(ax)
    ends = [end for _, ax in panels for end in ax.get_ylim()]
    for _, ax in panels:
        ax.set_ylim(min(ends), max(ends))
    return figure


def _agreement(results: Results) -> Figure:
    figure, panels = _panels(results, 2.4)
    for setting, ax in panels:
        arms = [arm for arm in results.arms(setting) if arm in PAPER_TAU]
        for arm, shift in _places(arms).items():
            named = False
            for round_ in COMPARISONS:
                if estimate := results.tau(setting, arm, round_):
                    _point(ax, round_ + shift, estimate, arm, "" if named else SHORT[arm])
                    named = True
            ax.plot(
                [2.6, 3.4], [PAPER_TAU[arm]] * 2, "--", color=_COLOUR[arm], linewidth=1, label=f"paper, {SHORT[arm]}"
            )
        ax.set_xticks([1, 2, 3], ["M1, M1 half-way", "M2, M1", "M3, M2"])
        ax.set_xlim(0.5, 3.5)
        ax.set_ylim(-0.3, 1.02)
        ax.set_ylabel("tau, ties left out")
        add_legend(ax)
    return figure


def _labels(results: Results) -> Figure:
    figure, panels = _panels(results, 2.4)
    for setting, ax in panels:
        arms = [arm for arm in results.arms(setting) if arm != "verifier"]  # right by construction
        for arm, shift in _places(arms).items():
            for round_ in results.rounds(setting, arm):
                if estimate := results.labels(setting, arm, [round_]):
                    _point(ax, round_ + shift, estimate, arm, SHORT[arm] if round_ == 1 else "", 100)
        ax.axhline(50, color=GREY, linewidth=0.8)
        ax.set_xticks([1, 2])
        ax.set_xlabel("round")
        ax.set_ylim(0, 100)
        ax.set_ylabel("right labels (%)")
        add_legend(ax)
    return figure


def svg_text(figure: Figure) -> str:
    """The figure as SVG without its date and program, so that the same figure gives the same bytes."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", facecolor="white", metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
