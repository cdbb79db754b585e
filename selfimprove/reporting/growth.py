"""What the event `lengths` says of a round of Self-Lengthen: its texts' words, their growth, how much they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.data.lengthen import distinct_n, longest_repeat

if TYPE_CHECKING:
    from selfimprove.lengthening import Extended, Text


def growth_figures(initial: Sequence[Text], extended: Sequence[Extended]) -> dict[str, Any]:
    """Lengths in words of the answers and of the longer texts; growth: the median ratio of a text to its answer."""
    growth = [one.longer.words / max(one.initial.words, 1) for one in extended]
    return {
        "initial": _lengths(initial),
        "extended": _lengths([one.longer for one in extended]),
        "growth": float(np.median(growth)),
        "examples": [
            {"instruction": one.initial.instruction, "initial": one.initial.text, "longer": one.longer.text}
            for one in extended[:3]
        ],
    }


def _lengths(texts: Sequence[Text]) -> dict[str, Any]:
    words = [one.words for one in texts]
    return {
        "n": len(texts),
        "mean": float(np.mean(words)),
        "quantiles": [float(q) for q in np.quantile(words, (0.1, 0.25, 0.5, 0.75, 0.9))],
        "distinct_4": float(np.mean([distinct_n(one.text, 4) for one in texts])),
        "longest_repeat": float(np.mean([longest_repeat(one.text) for one in texts])),
    }
