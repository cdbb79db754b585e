"""Every figure of the rounds' texts and of the suite, from benchmarks/results/self-lengthen.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cream_evidence.intervals import Estimate, over_seeds
from scipy import stats

from .collect import SEEDS, Run

WORDS, RUNS_OF_FOUR, REPEAT = range(3)  # of a measured text, see selfimprove/methods/self_lengthen/growth.py
ANSWERS, LONGER = "answers", "longer texts"


class Results:
    """The finished runs by seed."""

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self.runs = {int(seed): run for seed, run in runs.items()}
        self.rounds = sorted({int(number) for run in self.runs.values() for number in run["rounds"]})
        self.roles = list(dict.fromkeys(role for run in self.runs.values() for role in run["suite"]))
        items = [item for run in self.runs.values() for items in run["suite"].values() for item in items]
        self.kinds = list(dict.fromkeys(item["kind"] for item in items))

    @property
    def whole(self) -> bool:
        return {*SEEDS} <= {*self.runs}

    def texts(self, number: int, kind: str) -> dict[int, np.ndarray]:
        """By seed, (words, different runs of four words, longest repeated run) of each text of a round."""
        found = {seed: run["rounds"].get(str(number)) for seed, run in self.runs.items()}
        return {
            seed: np.array(one["texts"] if kind == ANSWERS else [longer for _, longer in one["pairs"]], dtype=float)
            for seed, one in found.items()
            if one
        }

    def pairs(self, number: int) -> dict[int, np.ndarray]:
        """By seed, shape (pairs, 2, 3): answer and longer text."""
        found = {seed: run["rounds"].get(str(number)) for seed, run in self.runs.items()}
        return {seed: np.array(one["pairs"], dtype=float) for seed, one in found.items() if one}

    def mean_words(self, number: int, kind: str) -> Estimate | None:
        return _over([one[:, WORDS].mean() for one in self.texts(number, kind).values()])

    def more_words(self, kind: str) -> Estimate | None:
        """Mean words in the last round minus those in the first."""
        first, last = (self.texts(number, kind) for number in (self.rounds[0], self.rounds[-1]))
        return _over([last[seed][:, WORDS].mean() - first[seed][:, WORDS].mean() for seed in first if seed in last])

    def growth(self, number: int, unit: int) -> Estimate | None:
        """Median over pairs of how many times the answer's words, or different runs of four, a longer text has."""
        each = [np.median(one[:, 1, unit] / np.maximum(one[:, 0, unit], 1)) for one in self.pairs(number).values()]
        return _over([float(one) for one in each])

    def only_repetition(self, number: int) -> tuple[int, int]:
        """Pairs whose different runs of four words did not grow as their words had to, and all pairs."""
        wanted = {seed: run["growth"] for seed, run in self.runs.items()}
        found = self.pairs(number)
        grown = [one[:, 1, RUNS_OF_FOUR] > wanted[seed] * one[:, 0, RUNS_OF_FOUR] for seed, one in found.items()]
        return sum(int((~one).sum()) for one in grown), sum(map(len, grown))

    def filter(self, number: int, what: str) -> tuple[int, int, Counter[str]]:
        """Texts wanted and kept, and what was rejected over all tries, by reason; all seeds together."""
        wanted, kept, rejected = 0, 0, Counter[str]()
        for run in self.runs.values():
            one = run["rounds"].get(str(number), {}).get("filters", {}).get(what)
            if one:
                wanted, kept = wanted + one["wanted"], kept + one["kept"]
                rejected.update(one["rejected"])
        return wanted, kept, rejected

    def table(self, role: str, value: Callable[[dict[str, Any]], float], kind: str | None = None) -> np.ndarray:
        """Shape (seeds, items): a value of each of the suite's items, or of those of one kind of demand."""
        rows = [run["suite"][role] for _, run in sorted(self.runs.items())]
        return np.array([[value(item) for item in row if kind in (None, item["kind"])] for row in rows], dtype=float)

    def mean(self, role: str, value: Callable[[dict[str, Any]], float], kind: str | None = None) -> Estimate:
        """Over the seeds' means of the items."""
        return over_seeds([float(row.mean()) for row in self.table(role, value, kind)])

    def less(self, role: str, than: str, value: Callable[[dict[str, Any]], float]) -> Estimate:
        """Paired by seed and item; over the seeds' means."""
        return over_seeds([float(row.mean()) for row in self.table(role, value) - self.table(than, value)])

    def follows(self, role: str) -> Estimate | None:
        """Spearman's correlation of the words asked for and written, over a seed's items; None where in some seed all
        texts are of one length."""
        asked, written = (self.table(role, lambda item, key=key: item[key]) for key in ("asked", "words"))
        if any(len(set(row)) == 1 for row in written):
            return None
        return _over([float(stats.spearmanr(*one).statistic) for one in zip(asked, written, strict=True)])

    def follows_more(self, role: str, than: str) -> Estimate | None:
        own, other = self.follows(role), self.follows(than)
        return own and other and _over([a - b for a, b in zip(own.by_seed, other.by_seed, strict=True)])

    def codes(self) -> list[str]:
        """Commit, device and sampler of the runs."""
        return sorted({f"{str(run['git'])[:7]} ({run['device']}, {run['backend']})" for run in self.runs.values()})


def score(item: dict[str, Any]) -> float:
    return float(item["score"])


def words(item: dict[str, Any]) -> float:
    return float(item["words"])


def unfinished(item: dict[str, Any]) -> float:
    return float(not item["finished"])


def repeats(item: dict[str, Any]) -> float:
    """Whether a run of ten words occurs twice, which the filter takes for repetition."""
    return float(item["longest_repeat"] >= 10)


def _over(values: list[float]) -> Estimate | None:
    return over_seeds(values) if values else None
