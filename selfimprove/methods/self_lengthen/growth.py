"""What the event `lengths` says of a round of Self-Lengthen: its texts' words, their growth, how much they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.data.words import different_runs, distinct_n, longest_repeat

if TYPE_CHECKING:
    from selfimprove.methods.self_lengthen.text import Extended, Text


_RUN = 4  # words of a run, as in distinct-4


def growth_figures(initial: Sequence[Text], extended: Sequence[Extended], wanted: float) -> dict[str, Any]:
    """Lengths in words of the answers and of the longer texts, one by one and summed up.

    growth: the median ratio of a text's words to its answer's. only_repetition: how many texts have not more than
    `wanted` times the different runs of four words of their answers: what they grew by, they had said before.
    `texts` and `pairs` have (words, different runs of four words, words of the longest repeated run) of each answer,
    and of the answer and the longer text of each pair.
    """
    pairs = [(_measured(one.initial), _measured(one.longer)) for one in extended]
    return {
        "initial": _lengths(initial),
        "extended": _lengths([one.longer for one in extended]),
        "growth": float(np.median([longer[0] / max(answer[0], 1) for answer, longer in pairs])),
        "only_repetition": sum(longer[1] <= wanted * answer[1] for answer, longer in pairs),
        "texts": [_measured(one) for one in initial],
        "pairs": pairs,
        "examples": [
            {"instruction": one.initial.instruction, "initial": one.initial.text, "longer": one.longer.text}
            for one in extended[:3]
        ],
    }


def _measured(text: Text) -> tuple[int, int, int]:
    return text.words, different_runs(text.text, _RUN), longest_repeat(text.text)


def _lengths(texts: Sequence[Text]) -> dict[str, Any]:
    words = [one.words for one in texts]
    return {
        "n": len(texts),
        "mean": float(np.mean(words)),
        "quantiles": [float(q) for q in np.quantile(words, (0.1, 0.25, 0.5, 0.75, 0.9))],
        "distinct_4": float(np.mean([distinct_n(one.text, _RUN) for one in texts])),
        "longest_repeat": float(np.mean([longest_repeat(one.text) for one in texts])),
    }
