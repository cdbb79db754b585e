"""The figures of SCoRe and its controls on the lab model, from benchmarks/results/lab-score.json."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from cream_evidence.intervals import Estimate, over_seeds

SEEDS = tuple(range(5))
GREEDY, SAMPLED = "lab-evaluation-turns", "lab-evaluation-sampled"
SUITES = {GREEDY: "greedy", SAMPLED: "temperature 1"}
BASE = "base"
# method of benchmarks/lab/score_methods.py -> what the page calls it
NAMES = {
    BASE: "the base",
    "score": "SCoRe",
    "alpha-0": "alpha 0",
    "stage-two-only": "Stage II only",
    "multi-turn-rl": "plain multi-turn RL",
    "single-turn-rl": "single-turn RL",
    "star": "STaR",
    "star-corrections": "STaR with corrections only",
    "pair-sft": "Pair-SFT",
    "base-first-attempts": "SCoRe with base first attempts",
    "kl-sum": "SCoRe with summed KL",
    "mean-mean": "SCoRe with both terms averaged",
}
# figure -> (what the page calls it, unit as in cream_evidence.tables)
FIGURES = {
    "t1": ("Acc@t1", "accuracy"),
    "t2": ("Acc@t2", "accuracy"),
    "delta": ("Delta", "points"),
    "i_to_c": ("i->c", "accuracy"),
    "c_to_i": ("c->i", "accuracy"),
    "copy": ("copies", "accuracy"),
    "kl_1": ("KL of turn 1", "h"),
    "kl_2": ("KL of turn 2", "h"),
}

Run = dict[str, Any]


class Term(NamedTuple):
    """A figure of a method's last policy; the base's is M0."""

    method: str
    figure: str


class Lab:
    """The runs. Every figure is over the seeds that have it in every method it needs."""

    def __init__(self, runs: dict[str, dict[str, Run]]) -> None:
        self.runs = {
            name: {int(seed): run for seed, run in seeds.items() if "stopped" not in run}
            for name, seeds in runs.items()
        }
        self.stopped = {
            name: {int(seed): str(run["stopped"]) for seed, run in seeds.items() if "stopped" in run}
            for name, seeds in runs.items()
        }

    def methods(self) -> list[str]:
        """The base and the methods with a finished run, in the page's order."""
        found = [name for name in NAMES if self.runs.get(name)]
        return [BASE, *found] if found else []

    def ran(self, *methods: str) -> bool:
        """Whether each of the methods has a run, finished or stopped."""
        return all(name == BASE or name in self.runs for name in methods)

    def decided(self, *methods: str) -> bool:
        """Whether each of the methods is finished, or was stopped, in every seed."""
        return all({*SEEDS} <= {*self._runs_of(name), *self.stopped.get(name, {})} for name in methods)

    def values(self, term: Term, suite: str) -> dict[int, float]:
        """One value per seed."""
        found = {seed: _value(run, term, suite) for seed, run in self._runs_of(term.method).items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, suite: str, plus: Term, minus: Term | None = None) -> Estimate | None:
        """Mean over seeds with Student's t interval; of a difference, paired by seed. None without a seed."""
        values = self.values(plus, suite)
        if minus:
            others = self.values(minus, suite)
            values = {seed: value - others[seed] for seed, value in values.items() if seed in others}
        return over_seeds([values[seed] for seed in sorted(values)]) if values else None

    def codes(self) -> dict[str, dict[str, list[int]]]:
        """By the commit that the runs were made with: the seeds of each method."""
        found: dict[str, dict[str, list[int]]] = {}
        for name in NAMES:
            for seed, run in sorted(self.runs.get(name, {}).items()):
                found.setdefault(str(run["git"])[:7], {}).setdefault(name, []).append(seed)
        return found

    def _runs_of(self, method: str) -> dict[int, Run]:
        """Of the base any run of the seed: all methods start from it, and it answers alike in all."""
        if method != BASE:
            return self.runs.get(method, {})
        return {seed: run for seeds in self.runs.values() for seed, run in seeds.items()}


def last_policy(names: Iterable[str]) -> str:
    """M2 of M0, M1, M2."""
    return max((name for name in names if re.fullmatch(r"M\d+", name)), key=lambda name: int(name[1:]))


def of_correction(found: dict[str, Any], figure: str) -> dict[str, Any] | None:
    """A figure of an evaluation's `self_correction`, with its own interval; None where nothing is known of it."""
    if figure in ("t1", "t2"):
        kept: dict[str, Any] | None = found["turns"].get(figure[1:])
    else:
        kept = found.get(figure)
    return kept if kept and kept.get("value") is not None else None


def _value(run: Run, term: Term, suite: str) -> float | None:
    if term.figure in ("kl_1", "kl_2"):  # at the end of the training, not of an evaluation
        last = run["stages"][-1]["last"] if run.get("stages") and term.method != BASE else {}
        key = f"turn_{term.figure[-1]}"
        known = f"accuracy/{key}" in last  # a turn that was not trained has a KL of 0 in the log
        return float(last[f"kl/{key}"]) if known else None
    policies = run["evaluations"].get(suite, {})
    if not policies:
        return None
    name = "M0" if term.method == BASE else last_policy(policies)
    found = of_correction(policies[name]["self_correction"], term.figure)
    return float(found["value"]) if found else None
