"""The table of the judges, from answers.json alone: `python evidence/self_judge/figures.py` writes results.json.

Spearman, AUROC and the pick of each prompt's answers are no means of items, so the crossed bootstrap of seeds and items
(`selfimprove/study/figures.py`) is written out here: each draw takes seeds and prompts anew, a prompt with all its
answers, and has the mean over its seeds of the figure; differences are of the same draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfimprove.evaluation.judge_scores import Graded, auroc, best_of_n, spearman
from selfimprove.study.figures import p_value

DRAWS = 2000
LESS = ("untrained", "likelihood", "cosine", "gold")
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
    """A row for each arm, figure and seed, and one over the seeds that have all arms of the first one ("all")."""
    arms = list(next(iter(answers.values()))["scores"])
    whole = [seed for seed, one in answers.items() if set(arms) <= set(one["scores"])]
    rows = []
    for seeds in [*([seed] for seed in whole), whole]:
        drawn = _drawn([answers[seed] for seed in seeds], arms, draws)
        for figure in FIGURES:
            for arm in arms:
                row = {"arm": arm, "round": 0, "policy": "", "suite": figure, "metric": "accuracy"}
                row["seed"] = int(seeds[0]) if seeds is not whole else "all"
                row |= _fields("", drawn[figure, arm])
                for other in LESS:
                    both = arm != other and (figure, other) in drawn
                    less = drawn[figure, arm] - drawn[figure, other] if both else None
                    row |= _fields(f"minus_{other}", less)
                rows.append(row)
    return rows


def _drawn(seeds: list[Mapping[str, Any]], arms: list[str], draws: int) -> dict[tuple[str, str], Floats]:
    """(draws + 1,) of each figure and arm, the first of the answers as they are."""
    count = 1 + max(max(one["prompts"]) for one in seeds)
    rows_of = [[np.flatnonzero(np.array(one["prompts"]) == p) for p in range(count)] for one in seeds]
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str], list[float]] = {(figure, arm): [] for figure in FIGURES for arm in arms}
    for draw in range(draws + 1):
        chosen, prompts = np.arange(len(seeds)), np.arange(count)
        if draw:
            chosen, prompts = rng.integers(len(seeds), size=len(seeds)), rng.integers(count, size=count)
        values: dict[tuple[str, str], list[float]] = {key: [] for key in found}
        for seed in chosen:
            own = seeds[seed]
            rows = np.concatenate([rows_of[seed][p] for p in prompts])
            numbers = np.repeat(np.arange(count), [len(rows_of[seed][p]) for p in prompts])
            graded = Graded(numbers, np.array(own["gold"], dtype=float)[rows], np.zeros(len(rows)), count)
            for figure, arm in found:
                values[figure, arm].append(FIGURES[figure](np.array(own["scores"][arm])[rows], graded))
        for key, each in values.items():
            found[key].append(float(np.mean(each)))
    return {key: np.array(each) for key, each in found.items()}


def _fields(name: str, drawn: Floats | None) -> dict[str, float | None]:
    value, low, high, p = (
        name or "value",
        f"{name}_low".lstrip("_"),
        f"{name}_high".lstrip("_"),
        f"{name}_p".lstrip("_"),
    )
    if drawn is None:
        return dict.fromkeys((value, low, high, p))
    ends = np.percentile(drawn[1:], [2.5, 97.5])
    return {value: float(drawn[0]), low: float(ends[0]), high: float(ends[1]), p: p_value(drawn[1:])}


if __name__ == "__main__":
    here = Path(__file__).parent
    rows = table(json.loads((here / "answers.json").read_text(encoding="utf-8")))
    (here / "results.json").write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
