"""How a reward goes with the length of what it rewards: the bias that self-rewarding loops are known for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

_BINS = 6
_RESAMPLES = 1000


def reward_by_length(groups: Sequence[Sequence[tuple[float, int]]]) -> dict[str, Any] | None:
    """Spearman's rank correlation of reward and length over all responses, and the mean reward in bins of length.

    Args:
        groups: (reward, length in tokens) of each prompt's responses.

    Returns:
        `value`, `low`, `high`: the correlation with its 95% interval; `bins`: dicts of `n`, `length` (mean), and
        `reward` (mean) with `low` and `high`. None where rewards or lengths are constant.

    The bootstrap draws prompts, not responses: responses to one prompt are no independent evidence. Ranks are taken
    once, over the responses that there are.
    """
    groups = [group for group in groups if group]
    rewards = np.array([reward for group in groups for reward, _ in group], dtype=float)
    lengths = np.array([length for group in groups for _, length in group], dtype=float)
    if not groups or np.ptp(rewards) == 0 or np.ptp(lengths) == 0:
        return None
    prompt = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    x, y = (_standard(stats.rankdata(values)) for values in (lengths, rewards))
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, _BINS + 1)))
    place = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(len(edges) - 2, 0))
    inside = [place == number for number in range(len(edges) - 1)]
    columns = [np.ones_like(x), x, y, x * x, y * y, x * y]
    columns += [column for mask in inside for column in (mask.astype(float), mask * rewards)]
    by_prompt = np.stack([np.bincount(prompt, column, len(groups)) for column in columns], axis=1)
    whole, drawn = by_prompt.sum(axis=0)[None], _redrawn(by_prompt)
    bins = []
    for number, mask in enumerate(inside):
        if mask.any():
            low, high = _interval(_mean_reward(drawn, number))
            bins.append(
                {
                    "n": int(mask.sum()),
                    "length": float(lengths[mask].mean()),
                    "reward": float(rewards[mask].mean()),
                    "low": low,
                    "high": high,
                }
            )
    low, high = _interval(_correlation(drawn))
    return {"value": float(_correlation(whole)[0]), "low": low, "high": high, "bins": bins}


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1, so that sums of squares lose no digits."""
    return (values - values.mean()) / values.std()


def _redrawn(by_prompt: np.ndarray) -> np.ndarray:
    """Column sums over prompts drawn with replacement, shape (resamples, columns). The same ones every time."""
    dice, prompts, batch = np.random.default_rng(0), len(by_prompt), 100
    shares = np.full(prompts, 1 / prompts)
    return np.concatenate([dice.multinomial(prompts, shares, batch) @ by_prompt for _ in range(_RESAMPLES // batch)])


def _correlation(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = sums[:, :6].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)), -1, 1)


def _mean_reward(sums: np.ndarray, number: int) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, 7 + 2 * number] / sums[:, 6 + 2 * number]


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """The middle 95%; nothing where a resample more often than not cannot say (one prompt, an almost empty bin)."""
    known = values[np.isfinite(values)]
    if len(known) < len(values) / 2:
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
