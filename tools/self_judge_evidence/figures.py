"""Every figure of the judges and of what needs no judge, from benchmarks/results/self-judge.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cream_evidence.intervals import Estimate, over_seeds

from selfimprove.report.judge_tables import BASELINES
from selfimprove.report.summary import dig

from .collect import TRAINED, UNTRAINED, Run
from .runs import KINDS, SEEDS

MAIN, BEFORE, SHORTEST = "self-j", "untrained", "shortest"
# what scores answers -> what the page calls it
NAMES = {
    MAIN: "Self-J",
    "cosine-only": "cosine labels only",
    "self-evaluation-only": "self-evaluation labels only",
    "no-distillation": "no self-distillation",
    BEFORE: "untrained self-evaluation",
    SHORTEST: "shorter is better",
    **BASELINES,
}
# What can be had without training; one that scores by chance or by the gold is none of them.
PLAIN = (BEFORE, SHORTEST, *(name for name in BASELINES if name not in ("random", "oracle")))
# figure -> (what the page calls it, unit as in cream_evidence.tables); all but lengths times 100
FIGURES = {
    "pearson": ("Pearson", "accuracy"),
    "spearman": ("Spearman", "accuracy"),
    "kendall": ("Kendall", "accuracy"),
    "within": ("Spearman within prompts", "accuracy"),
    "auroc": ("AUROC", "accuracy"),
    "area": ("area", "accuracy"),
    "best_of_n": ("best of 4", "accuracy"),
    "length_controlled": ("best of 4, length-controlled", "accuracy"),
    "mean_length": ("mean length of the picked", "length"),
    "calibration": ("calibration error", "accuracy"),
}
# by seed: a value with the ends of its interval over prompts, nan where that is not known
BySeed = dict[int, tuple[float, float, float]]


class Results:
    """The runs. A figure is over the seeds that have it; a difference over those that have both sides."""

    def __init__(self, runs: Mapping[str, Mapping[str, Run]]) -> None:
        self.runs = {
            kind: {int(seed): run for seed, run in seeds.items() if "stopped" not in run}
            for kind, seeds in runs.items()
        }
        self.stopped = {
            kind: {int(seed): str(run["stopped"]) for seed, run in seeds.items() if "stopped" in run}
            for kind, seeds in runs.items()
        }

    def finished(self, kind: str) -> dict[int, Run]:
        return self.runs.get(kind, {})

    def whole(self, *kinds: str) -> bool:
        """Whether each of these kinds is finished, or was stopped, in every seed."""
        return all({*SEEDS} <= {*self.finished(kind), *self.stopped.get(kind, {})} for kind in kinds)

    def shared(self) -> dict[int, Run]:
        """By seed, the run from which is taken what all kinds share: Self-J's where it is there."""
        return {seed: run for kind in reversed(KINDS) for seed, run in sorted(self.finished(kind).items())}

    def names(self) -> list[str]:
        """All that have a figure, in the page's order."""
        return [name for name in NAMES if self.graded(name)]

    def graded(self, name: str) -> dict[int, dict[str, Any]]:
        """By seed, the `scores` of a judge, with its `calibration`, or those of a baseline."""
        if name == SHORTEST:
            runs = self.shared()
            return {seed: _shortest(_judged(runs[seed], TRAINED), one) for seed, one in self.graded("length").items()}
        if name in BASELINES:
            every = {seed: _judged(run, TRAINED).get("baselines", {}) for seed, run in self.shared().items()}
            return {seed: found[name] for seed, found in sorted(every.items()) if name in found}
        runs = self.shared() if name == BEFORE else self.finished(name)
        policy = UNTRAINED if name == BEFORE else TRAINED
        judged = {seed: _judged(run, policy) for seed, run in sorted(runs.items())}
        return {seed: one["scores"] | {"calibration": one["calibration"]} for seed, one in judged.items()}

    def values(self, name: str, figure: str) -> BySeed:
        found: dict[int, Any]
        if figure == "mean_length":
            found = {seed: {"value": dig(one, "best_of_n", "mean_length")} for seed, one in self.graded(name).items()}
        elif figure == "calibration":
            found = {seed: {"value": dig(one, "calibration", "error")} for seed, one in self.graded(name).items()}
        else:
            found = {seed: one.get(figure) for seed, one in self.graded(name).items()}
        return _known(found)

    def less(self, figure: str, than: str) -> BySeed:
        """Self-J's figure minus another's, over the same answers, with a paired interval where the runs hold one."""
        own = {seed: _judged(run, TRAINED) for seed, run in self.finished(MAIN).items()}
        best = figure in ("best_of_n", "length_controlled") and than in ("random", SHORTEST)
        if than in (*KINDS, BEFORE) or (than == SHORTEST and not best):
            first, second = self.values(MAIN, figure), self.values(than, figure)
            found: dict[int, Any] = {s: {"value": first[s][0] - second[s][0]} for s in first if s in second}
            if than == BEFORE and figure in ("spearman", "best_of_n"):
                for seed, one in found.items():
                    run = self.finished(MAIN)[seed]["evaluations"][TRAINED]
                    paired = (run["graded"]["spearman_paired"] if figure == "spearman" else run["paired"]) or {}
                    one |= {end: paired[end] for end in ("low", "high") if end in paired}
        elif best:
            found = {seed: dig(one, "scores", figure, f"minus_{than}") for seed, one in own.items()}
        else:
            found = {seed: dig(one, "less", than, figure) for seed, one in own.items()}
        return _known(found)

    def codes(self) -> list[str]:
        """Commit and device of the runs."""
        every = [run for seeds in self.runs.values() for run in seeds.values()]
        return sorted({f"{str(run['git'])[:7]} ({run['device']})" for run in every})


def mean_of(values: BySeed) -> Estimate | None:
    """Mean over seeds with Student's t interval over them, which for one seed has no ends; None without a seed."""
    return over_seeds([values[seed][0] for seed in sorted(values)]) if values else None


def of_one(value: tuple[float, float, float]) -> Estimate:
    """One seed's value with its interval over prompts."""
    return Estimate(*value, 1)


def _judged(run: Run, policy: str) -> dict[str, Any]:
    found: dict[str, Any] = run["evaluations"][policy]["graded"]
    return found


def _shortest(graded: dict[str, Any], longest: dict[str, Any]) -> dict[str, Any]:
    """What the runs tell of scoring by shortness: the other side of length, and the mean gold of each question's
    shortest answer. Its area they do not tell."""
    found = {
        figure: old and {"value": whole - old["value"], "low": whole - old["high"], "high": whole - old["low"]}
        for figure, whole in {"pearson": 0, "spearman": 0, "kendall": 0, "within": 0, "auroc": 1}.items()
        for old in [longest.get(figure)]
    }
    best = dig(graded, "baselines", "oracle", "best_of_n")
    return found | {"best_of_n": best and {"value": best["value"] - best["minus_shortest"]["value"]}}


def _known(found: Mapping[int, Any]) -> BySeed:
    nan = math.nan
    return {
        seed: (float(one["value"]), float(one.get("low", nan)), float(one.get("high", nan)))
        for seed, one in sorted(found.items())
        if one and one.get("value") is not None
    }
