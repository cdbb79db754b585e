"""Self-J's labels: a response's own grade from two signals of the model itself. Pure (arXiv 2409.00935)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import rankdata

HIGHEST = 9


def combined_labels(
    self_evaluations: Sequence[float | None],
    similarities: Sequence[float | None],
    weight: float = 0.5,
    scaling: Literal["ranks", "min_max"] = "ranks",
) -> list[int | None]:
    """A digit, 0 to 9, for every response: weight z1 + (1 - weight) z2, rounded, both scaled over the whole set.

    The authors' figure draws the label as a sum of the two; how they are scaled, weighted and rounded could not be
    read, so all three are this project's choice. A signal of weight 0 is not needed; where one that is needed is
    missing, so is the label.

    Args:
        self_evaluations: z1, the expected digit of the model that read the reference too.
        similarities: z2, cosine of the response's and the reference's sentence embeddings.
        scaling: see `scaled`.

    Raises ValueError for a weight outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be between 0 and 1, found {weight}")
    parts = [(weight, scaled(self_evaluations, scaling)), (1 - weight, scaled(similarities, scaling))]
    used = [(share, values) for share, values in parts if share]
    total = sum(share * values for share, values in used)
    # Half a digit goes up, where Python's own rounding would take the even neighbour.
    return [None if np.isnan(value) else int(np.floor(value + 0.5)) for value in np.atleast_1d(total)]


def scaled(values: Sequence[float | None], scaling: Literal["ranks", "min_max"]) -> np.ndarray:
    """(n,) from 0 to 9, NaN where missing. `ranks`: evenly by rank, equal values alike; `min_max`: linear between the
    lowest and the highest. Where all are equal they say nothing: 4.5."""
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    known = np.isfinite(found)
    result = np.full(len(found), np.nan)
    if not known.any():
        return result
    raw = rankdata(found[known]) if scaling == "ranks" else found[known]
    low, high = (1.0, float(known.sum())) if scaling == "ranks" else (float(raw.min()), float(raw.max()))
    same = raw.min() == raw.max()
    result[known] = HIGHEST / 2 if same else HIGHEST * (raw - low) / (high - low)
    return result
