"""A step's rows: which belong to a shard, and what is refused of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from selfimprove.errors import RunFailed


def shard_of(items: list[Any], shard: int, size: int) -> list[Any]:
    """The items of one shard: fixed composition, so a resumed run repeats an undisturbed one."""
    return items[shard * size : (shard + 1) * size]


def by_prompt(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    return list(groups.values())


def refuse_non_finite(rows: list[dict[str, Any]], folder: Path) -> None:
    bad = [row for row in rows if row["log_prob"] is not None and not math.isfinite(row["log_prob"])]
    if bad:
        raise RunFailed(
            f"{len(bad)} of {len(rows)} log-probs are not finite (first: prompt {bad[0]['prompt_id']!r}, response "
            f"{bad[0]['index']}): the model's weights or its type overflow; try training.dtype=float32. Step: {folder}"
        )
