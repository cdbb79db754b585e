"""Every figure of the page, from results.json: accuracies, changes, differences, agreement, labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from selfimprove.statistics import wilson_interval

from .intervals import Estimate, crossed, nested, over_seeds, share
from .matrix import SEEDS, SETTINGS

LAST = "M3"
COMPARISONS = (1, 2, 3)  # of M1 with the middle of its SFT, M2 with M1, M3 with M2

Run = dict[str, Any]


class Results:
    """results.json. Figures are over the seeds finished in every arm they need, and None where there is none."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.runs: list[Run] = list(values["runs"].values())
        self.missing: dict[str, str] = dict(values["missing"])

    def seeds(self, setting: str, *arms: str) -> list[int]:
        """The seeds finished in every one of these arms, in order."""
        found = [{run["seed"] for run in self.runs if (run["setting"], run["arm"]) == (setting, arm)} for arm in arms]
        return sorted(set.intersection(*found))

    def of(self, setting: str, arm: str, *others: str) -> list[Run]:
        """The arm's runs, in order of the seeds it shares with the other arms."""
        runs = {run["seed"]: run for run in self.runs if (run["setting"], run["arm"]) == (setting, arm)}
        return [runs[seed] for seed in self.seeds(setting, arm, *others)]

    def whole(self, setting: str, *arms: str) -> bool:
        """Whether every seed of these arms is finished."""
        return self.seeds(setting, *arms) == list(SEEDS)

    def settings(self) -> list[str]:
        """The settings in which at least one run is finished."""
        return [setting for setting in SETTINGS if self.arms(setting)]

    def arms(self, setting: str) -> list[str]:
        """The arms of a setting with at least one finished run."""
        return [arm for arm in SETTINGS[setting][1] if self.seeds(setting, arm)]

    def rounds(self, setting: str, arm: str) -> list[int]:
        return [one["round"] for one in self.of(setting, arm)[0]["rounds"]]

    def accuracy(self, setting: str, arm: str, policy: str) -> Estimate | None:
        runs = self.of(setting, arm)
        return crossed(_right(runs, policy)) if runs else None

    def base_accuracy(self) -> Estimate:
        """M0's, by Wilson: it is one model and answers greedily, so seeds have no part in it."""
        right = self.runs[0]["policies"]["M0"]["right"]
        return Estimate(*wilson_interval(right.count("1"), len(right)), len(right))

    def change(self, setting: str, arm: str, policy: str, since: str = "M1") -> Estimate | None:
        """Accuracy of `policy` minus that of `since`, paired by seed and item."""
        runs = self.of(setting, arm)
        return crossed(_right(runs, policy) - _right(runs, since)) if runs else None

    def difference(self, setting: str, first: str, second: str, policy: str) -> Estimate | None:
        """Accuracy under arm `first` minus that under `second`, paired by seed and item."""
        runs, others = self.of(setting, first, second), self.of(setting, second, first)
        return crossed(_right(runs, policy) - _right(others, policy)) if runs else None

    def tau(self, setting: str, arm: str, round: int, ties: bool = False) -> Estimate | None:
        """Rank agreement with the previous model, mean over prompts: tau-a, or tau with tied pairs left out."""
        rows = [_taus(run, round, ties) for run in self.of(setting, arm)]
        known = [row[np.isfinite(row)] for row in rows if row is not None]
        return nested(known) if known else None

    def tau_difference(self, setting: str, first: str, second: str, round: int, ties: bool = False) -> Estimate | None:
        """tau under `first` minus tau under `second`, over the prompts where both are defined."""
        rows = []
        for one, other in zip(self.of(setting, first, second), self.of(setting, second, first), strict=True):
            a, b = _taus(one, round, ties), _taus(other, round, ties)
            if a is None or b is None:
                return None
            if _agreement(one, round)["prompts"] != _agreement(other, round)["prompts"]:
                raise ValueError(f"{setting}, seed {one['seed']}: {first} and {second} have other prompts")
            rows.append((a - b)[np.isfinite(a - b)])
        return nested(rows) if rows else None

    def ties(self, setting: str, arm: str, number: int) -> Estimate | None:
        """Share of a prompt's response pairs that are tied, over seeds."""
        kept = [_agreement(run, number) for run in self.of(setting, arm)]
        if not kept or not all(kept):
            return None
        return over_seeds([1 - np.mean([int(u) for u in k["untied"].split()]) / k["pairs_per_prompt"] for k in kept])

    def compared(self, setting: str, *arms: str) -> int:
        """The last comparison that every finished seed of these arms has."""
        runs = [run for arm in arms for run in self.of(setting, arm)]
        return max((one for one in COMPARISONS if all(_agreement(run, one) for run in runs)), default=1)

    def models(self, setting: str, arm: str, number: int) -> str:
        """Which models a comparison is of."""
        return str(_agreement(self.of(setting, arm)[0], number)["models"])

    def labels(self, setting: str, arm: str, rounds: list[int]) -> Estimate | None:
        """Share of right labels among telling pairs in these rounds, the seeds' counts taken together."""
        runs = [[one for one in run["rounds"] if one["round"] in rounds] for run in self.of(setting, arm)]
        return share(*[[sum(one[key] for one in run) for run in runs] for key in ("labels_right", "labels_telling")])

    def per_seed(self, setting: str, arm: str, round: int, key: str) -> Estimate | None:
        """A round's figure, over seeds; None where a seed has none."""
        values = [_round(run, round)[key] for run in self.of(setting, arm)]
        return over_seeds(values) if values and None not in values else None


def _right(runs: list[Run], policy: str) -> np.ndarray:
    """Right (1) or wrong (0), shape (seeds, items)."""
    return np.array([[int(one) for one in run["policies"][policy]["right"]] for run in runs])


def _round(run: Run, number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in run["rounds"] if one["round"] == number)
    return found


def _agreement(run: Run, number: int) -> dict[str, Any]:
    """Of model `number` with the one before it, measured in that round; after the last round by `compare`."""
    found = [one["agreement"] for one in run["rounds"] if one["round"] == number]
    return (found[0] if found else run["last_agreement"]) or {}


def _taus(run: Run, round: int, ties: bool) -> np.ndarray | None:
    """One value per prompt; nan where every pair is tied. None where no agreement was measured."""
    kept = _agreement(run, round)
    if not kept:
        return None
    order, untied = (np.array(kept[key].split(), dtype=float) for key in ("order", "untied"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(untied > 0, order / (kept["pairs_per_prompt"] if ties else untied), np.nan)
