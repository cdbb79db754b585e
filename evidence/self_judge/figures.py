"""The table of the judges, from answers.json alone: `python evidence/self_judge/figures.py` writes results.json.

Spearman, AUROC and the pick of each prompt's answers are no means of items, so the crossed bootstrap of seeds and items
(`selfimprove/study/figures.py`) is written out here: each draw takes seeds and prompts anew, a prompt with all its
answers, and has the mean over its seeds of the figure; differences are of the same draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfimprove.study.figures import p_value
from selfimprove.suites.judge_scores import Graded, auroc, best_of_n, spearman

DRAWS = 2000
LESS = ("untrained", "likelihood", "cosine", "gold", "chance")
Floats = NDArray[np.float64]


def _rank(scores: Floats, answers: Graded) -> float:
    found = spearman(scores, answers.gold)
    return 0.0 if found is None else found  # all alike


def _auroc(scores: Floats, answers: Graded) -> float:
    found = auroc(scores, answers.gold >= 1)
    return 0.5 if found is None else found


def _best(scores: Floats, answers: Graded) -> float:
    return float(np.nanmean(best_of_n(scores, answers)[0]))


FIGURES: dict[str, Callable[[Floats, Graded], float]] = {"spearman": _rank, "auroc": _auroc, "best of 4": _best}


def table(answers: Mapping[str, Mapping[str, Any]], draws: int = DRAWS) -> list[dict[str, Any]]:
    """A row for each figure, arm and seed, and one over the arm's seeds ("all"); differences over the seeds of both.
    Those of the figure "labels" are no judge's: labels against the truth, by the weight of the own grades (`arm`)."""
    drawn = {int(seed): _drawn(one, draws) for seed, one in answers.items()}
    rows = []
    for figure in FIGURES:
        for arm in dict.fromkeys(arm for found in drawn.values() for _, arm in found):
            own = {seed: found[figure, arm] for seed, found in sorted(drawn.items()) if (figure, arm) in found}
            for name, seeds in [*((seed, [seed]) for seed in own), ("all", list(own))]:
                row = {"arm": arm, "round": 0, "policy": "", "suite": figure, "metric": "accuracy", "seed": name}
                row |= _fields("", [own[seed] for seed in seeds])
                for other in LESS:
                    both = [seed for seed in seeds if arm != other and (figure, other) in drawn[seed]]
                    row |= _fields(f"minus_{other}_", [own[seed] - drawn[seed][figure, other] for seed in both])
                rows.append(row)
    for seed, one in answers.items():
        for weight, value in one["labels"].items():
            rows.append({"arm": weight, "round": 0, "policy": "", "suite": "labels", "seed": int(seed), "value": value})
    return rows


def _drawn(seed: Mapping[str, Any], draws: int) -> dict[tuple[str, str], Floats]:
    """(draws + 1,) of each figure and arm, the first of the answers as they are; every seed has the same prompts in
    the same draw."""
    prompts, gold = np.array(seed["prompts"]), np.array(seed["gold"], dtype=float)
    scores = {arm: np.array(values) for arm, values in seed["scores"].items()}
    scores |= {"chance": np.zeros(len(gold)), "truth": gold}
    count = 1 + int(prompts.max())
    rows_of = [np.flatnonzero(prompts == prompt) for prompt in range(count)]
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str], list[float]] = {(figure, arm): [] for figure in FIGURES for arm in scores}
    for draw in range(draws + 1):
        chosen = rng.integers(count, size=count) if draw else np.arange(count)
        rows = np.concatenate([rows_of[prompt] for prompt in chosen])
        numbers = np.repeat(np.arange(count), [len(rows_of[prompt]) for prompt in chosen])
        graded = Graded(numbers, gold[rows], np.zeros(len(rows)), count)
        for figure, arm in found:
            found[figure, arm].append(FIGURES[figure](scores[arm][rows], graded))
    return {key: np.array(each) for key, each in found.items()}


def _fields(name: str, seeds: Sequence[Floats]) -> dict[str, float | None]:
    """The mean over seeds, its interval and p, from each seed's draws."""
    keys = (name.rstrip("_") or "value", f"{name}low", f"{name}high", f"{name}p", f"{name}seeds")
    if not seeds:
        return dict.fromkeys(keys)
    each = np.stack(seeds)
    chosen = np.random.default_rng(1).integers(len(each), size=(len(each), each.shape[1] - 1))
    means = np.take_along_axis(each[:, 1:], chosen, axis=0).mean(axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    p = p_value(means) if name else None
    return dict(zip(keys, (float(each[:, 0].mean()), float(low), float(high), p, len(each)), strict=True))


if __name__ == "__main__":
    here = Path(__file__).parent
    rows = table(json.loads((here / "answers.json").read_text(encoding="utf-8")))
    (here / "results.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
