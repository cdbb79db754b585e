"""The plot of Self-Lengthen's rounds: words of the texts that each kept."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from selfimprove.report.events import Event
from selfimprove.report.figures import BLUE, ORANGE, add_legend, new_figure
from selfimprove.report.lengthening_tables import rounds_of_texts
from selfimprove.report.summary import dig, numbers, round_number
from selfimprove.report.tables import as_list


def words_by_round(events: Sequence[Event]) -> Figure | None:
    """Median, middle half and 10% to 90% of the answers and of the longer texts, by round."""
    found = [
        (round_number(event) + shift, key, quantiles)
        for event in rounds_of_texts(events)
        for key, shift in (("initial", -0.14), ("extended", 0.14))
        if len(quantiles := numbers(as_list(dig(event, key, "quantiles")))) == 5
    ]
    if not found:
        return None
    figure, (ax,) = new_figure(2.6)
    for key, name, colour in (("initial", "answers", BLUE), ("extended", "longer texts", ORANGE)):
        rows = [(x, quantiles) for x, which, quantiles in found if which == key]
        for x, (low, first, _, third, high) in rows:
            ax.plot([x, x], [low, high], color=colour, linewidth=1.2)
            ax.plot([x, x], [first, third], color=colour, linewidth=7, alpha=0.55, solid_capstyle="butt")
        ax.plot([x for x, _ in rows], [quantiles[2] for _, quantiles in rows], "o", color=colour, label=name)
    rounds = sorted({round(x) for x, _, _ in found})
    ax.set_xticks(rounds, [f"round {number}" for number in rounds])
    ax.set_xlim(rounds[0] - 0.6, rounds[-1] + 0.6)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("words")
    add_legend(ax)
    return figure
