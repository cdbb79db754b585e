"""The figures on the lab model, from benchmarks/results/lab-cream*.json: raw values per seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .intervals import Estimate, drawn_seeds

RESULTS = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "results"
SEEDS = tuple(range(10))
LAST = "M4"
# file of results -> what the page calls its step size
STEPS = {"lab-cream": "large step", "lab-cream-small-step": "small steps"}
NAMES = {
    "cream": "CREAM (Kendall, avg)",
    "cream-likelihood": "CREAM, round 1 by M0's likelihood",
    "cream-likelihood-dyn": "CREAM, M0's likelihood and dyn (added later)",
    "cream-spearman": "CREAM, Spearman",
    "cream-top-order": "CREAM, TopOrder",
    "cream-dyn": "CREAM, dyn",
    "constant": "constant c = 0.6",
    "srlm": "SRLM (c = 1)",
    "random": "random pairs",
    "truth": "known truth, 0% of labels turned round",
    "truth-20": "known truth, 20% turned round",
    "truth-40": "known truth, 40% turned round",
    "verifier": "verifier (exact match)",
}

Run = dict[str, Any]


def load_lab() -> dict[str, Any]:
    """Both files of results, by name; a file that is not there has no runs."""
    files = {name: RESULTS / f"{name}.json" for name in STEPS}
    return {
        name: json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else {}
        for name, file in files.items()
    }


class Lab:
    """The runs of one step size. Figures are over the seeds finished in every method they need; None without one."""

    def __init__(self, runs: dict[str, dict[str, Run]]) -> None:
        self.runs = {
            name: {int(seed): run for seed, run in seeds.items() if "stopped" not in run}
            for name, seeds in runs.items()
        }

    def seeds(self, *methods: str) -> list[int]:
        return sorted(set.intersection(*({*self.runs.get(name, {})} for name in methods)))

    def whole(self, *methods: str) -> bool:
        return self.seeds(*methods) == list(SEEDS)

    def over(self, methods: Sequence[str], value: Callable[..., float | None]) -> Estimate | None:
        """Of one value per seed, made from the runs of these methods; a seed without one leaves all without."""
        values = [value(*(self.runs[name][seed] for name in methods)) for seed in self.seeds(*methods)]
        known = [one for one in values if one is not None]
        return drawn_seeds(known) if known and len(known) == len(values) else None

    def accuracy(self, method: str, policy: str) -> Estimate | None:
        return self.over([method], lambda run: accuracy(run, policy))

    def change(self, method: str, policy: str, since: str = "M1") -> Estimate | None:
        return self.over([method], lambda run: accuracy(run, policy) - accuracy(run, since))

    def difference(self, first: str, second: str, policy: str = LAST) -> Estimate | None:
        """Accuracy under `first` minus that under `second`, paired by seed: they share base, M1 and prompts."""
        return self.over([first, second], lambda a, b: accuracy(a, policy) - accuracy(b, policy))

    def tau(self, method: str, round: int = 3) -> Estimate | None:
        """Agreement with the previous model, tied pairs left out: in round 3, of M3 with M2."""
        return self.over([method], lambda run: _round(run, round).get("tau_untied"))

    def tau_difference(self, first: str, second: str) -> Estimate | None:
        return self.over([first, second], lambda a, b: _round(a, 3)["tau_untied"] - _round(b, 3)["tau_untied"])

    def wrong(self, method: str, rounds: Sequence[int] = (1, 2, 3)) -> Estimate | None:
        """Share of trained pairs whose chosen response is truly the worse one, pairs as good as each other left out."""
        return self.over([method], lambda run: _wrong(run, rounds))

    def equal(self, method: str) -> Estimate | None:
        """Share of trained pairs whose responses are as good as each other."""
        return self.over(
            [method],
            lambda run: sum(r["labels"]["equal"] for r in run["rounds"]) / sum(r["pairs"] for r in run["rounds"]),
        )

    def auroc(self, method: str, rounds: Sequence[int] = (1, 2, 3)) -> Estimate | None:
        """Probability that C_j is higher at a right label than at a wrong one, mean of those rounds that have one."""
        return self.over([method], lambda run: _auroc(run, rounds))

    def mean(self, method: str, round: int, key: str) -> float:
        """A figure of a round, mean over the seeds."""
        return float(np.mean([_round(run, round)[key] for run in self.runs[method].values()]))


def accuracy(run: Run, policy: str) -> float:
    return float(run["evaluations"]["lab-evaluation"][policy]["value"])


def _round(run: Run, number: int) -> dict[str, Any]:
    found: dict[str, Any] = run["rounds"][number - 1]
    return found


def _wrong(run: Run, rounds: Sequence[int]) -> float | None:
    labels = [_round(run, number)["labels"] for number in rounds]
    telling = sum(one["wrong"] + one["right"] for one in labels)
    return sum(one["wrong"] for one in labels) / telling if telling else None


def _auroc(run: Run, rounds: Sequence[int]) -> float | None:
    measured = [_round(run, number).get("prediction") for number in rounds]
    found = [one["auroc"] for one in measured if one]
    known = [one for one in found if one is not None]
    return sum(known) / len(known) if known else None
