"""Every figure of the page: accuracies, agreement and labels from runs.json (SmolLM2: right or wrong per item, order
per prompt), and those of the lab model from benchmarks/results/lab-cream*.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import Estimate, by_verdict, crossed, dots, drawn_seeds, judged, nested, over_seeds, share

from selfimprove.statistics import wilson_interval
from selfimprove.study.picture import svg

HERE = Path(__file__).parent
RAW = HERE.parents[1] / "benchmarks" / "results"
NAMES = yaml.safe_load((HERE / "names.yaml").read_text(encoding="utf-8"))
ARMS = NAMES["arms"]
COMPARISONS = (1, 2, 3)  # of M1 with the middle of its SFT, M2 with M1, M3 with M2
PAPER_TAU = {"cream": 0.84, "srlm": -0.08}  # between M3 and M2, Llama-3
Run = dict[str, Any]


class Setting:
    """The runs of one setting; figures of an arm that has none are None."""

    def __init__(self, runs: Sequence[Run], name: str) -> None:
        self.title = NAMES["settings"][name]
        self.runs = [run for run in runs if run["setting"] == name]
        self.arms = [arm for arm in ARMS if self.of(arm)]

    def of(self, arm: str, *others: str) -> list[Run]:
        """The arm's runs, by seed, of the seeds that it shares with the other arms."""
        seeds = [{run["seed"] for run in self.runs if run["arm"] == one} for one in (arm, *others)]
        mine = [run for run in self.runs if run["arm"] == arm and all(run["seed"] in one for one in seeds)]
        return sorted(mine, key=lambda run: int(run["seed"]))

    def accuracy(self, arm: str, policy: str) -> Estimate:
        return crossed(_right(self.of(arm), policy))

    def change(self, arm: str, policy: str = "M3", since: str = "M1") -> Estimate | None:
        """Accuracy of `policy` minus that of `since`, paired by seed and item."""
        runs = self.of(arm)
        return crossed(_right(runs, policy) - _right(runs, since)) if runs else None

    def difference(self, first: str, second: str, policy: str = "M3") -> Estimate | None:
        """Accuracy under arm `first` minus that under `second`, paired by seed and item."""
        runs, others = self.of(first, second), self.of(second, first)
        return crossed(_right(runs, policy) - _right(others, policy)) if runs else None

    def tau(self, arm: str, number: int, ties: bool = False) -> Estimate | None:
        """Rank agreement with the previous model, mean over prompts: tau with tied pairs left out, or tau-a."""
        rows = [_taus(run, number, ties) for run in self.of(arm)]
        known = [row[np.isfinite(row)] for row in rows if row is not None]
        return nested(known) if known else None

    def last_tau(self, arm: str) -> Estimate | None:
        return self.tau(arm, COMPARISONS[-1])

    def last_tau_difference(self, first: str, second: str) -> Estimate | None:
        """Over the prompts where both are defined."""
        rows = []
        for one, other in zip(self.of(first, second), self.of(second, first), strict=True):
            a, b = (_taus(run, COMPARISONS[-1]) for run in (one, other))
            if a is None or b is None:
                return None
            if len({_agreement(run, COMPARISONS[-1])["prompts"] for run in (one, other)}) > 1:
                raise ValueError(f"{self.title}, seed {one['seed']}: {first} and {second} have other prompts")
            rows.append((a - b)[np.isfinite(a - b)])
        return nested(rows) if rows else None

    def tied(self, arm: str, number: int) -> Estimate | None:
        """Share of a prompt's response pairs that are tied, over seeds."""
        kept = [_agreement(run, number) for run in self.of(arm)]
        return over_seeds([1 - np.mean([int(u) for u in k["untied"].split()]) / k["pairs_per_prompt"] for k in kept])

    def models(self, arm: str, number: int) -> str:
        """Which models a comparison is of."""
        return str(_agreement(self.of(arm)[0], number)["models"])

    def labels(self, arm: str, rounds: Sequence[int] = (1, 2)) -> Estimate | None:
        """Share of right labels among telling pairs in these rounds, the seeds' counts taken together."""
        runs = [[one for one in run["rounds"] if one["round"] in rounds] for run in self.of(arm)]
        return share(*[[sum(one[key] for one in run) for run in runs] for key in ("labels_right", "labels_telling")])

    def over(self, arm: str, number: int, key: str) -> Estimate | None:
        """A round's figure, over seeds."""
        return over_seeds([run["rounds"][number - 1][key] for run in self.of(arm)])


def _right(runs: list[Run], policy: str) -> np.ndarray:
    """Right (1) or wrong (0), shape (seeds, items)."""
    return np.array([[int(one) for one in run["policies"][policy]["right"]] for run in runs])


def _agreement(run: Run, number: int) -> dict[str, Any]:
    """Of model `number` with the one before it, measured in that round; empty where it was not."""
    found = [one["agreement"] for one in run["rounds"] if one["round"] == number]
    return (found[0] if found else run["last_agreement"]) or {}


def _taus(run: Run, number: int, ties: bool = False) -> np.ndarray | None:
    """One value per prompt; nan where every pair is tied. None where no agreement was measured."""
    kept = _agreement(run, number)
    if not kept:
        return None
    order, untied = (np.array(kept[key].split(), dtype=float) for key in ("order", "untied"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(untied > 0, order / (kept["pairs_per_prompt"] if ties else untied), np.nan)


class Lab:
    """The lab's runs of one step size, over the seeds that are there in every method a figure needs."""

    def __init__(self, runs: dict[str, dict[str, Run]], title: str) -> None:
        self.title = title
        self.runs = {
            name: {int(seed): run for seed, run in sorted(seeds.items()) if "stopped" not in run}
            for name, seeds in runs.items()
        }
        self.methods = [name for name in NAMES["lab_methods"] if self.runs.get(name)]

    def _over(self, methods: Sequence[str], value: Callable[..., float | None]) -> Estimate | None:
        """Of one value per seed, made from the runs of these methods; a seed without one leaves all without."""
        seeds = sorted(set.intersection(*({*self.runs.get(name, {})} for name in methods)))
        values = [value(*(self.runs[name][seed] for name in methods)) for seed in seeds]
        known = [one for one in values if one is not None]
        return drawn_seeds(known) if known and len(known) == len(values) else None

    def accuracy(self, method: str, policy: str) -> Estimate | None:
        return self._over([method], lambda run: _accuracy(run, policy))

    def change(self, method: str, policy: str = "M4", since: str = "M1") -> Estimate | None:
        return self._over([method], lambda run: _accuracy(run, policy) - _accuracy(run, since))

    def difference(self, first: str, second: str, policy: str = "M4") -> Estimate | None:
        """Accuracy under `first` minus that under `second`, paired by seed: they share base, M1 and prompts."""
        return self._over([first, second], lambda a, b: _accuracy(a, policy) - _accuracy(b, policy))

    def tau(self, method: str) -> Estimate | None:
        """Agreement of M3 with M2, tied pairs left out."""
        return self._over([method], lambda run: run["rounds"][2].get("tau_untied"))

    def tau_difference(self, first: str, second: str) -> Estimate | None:
        return self._over([first, second], lambda a, b: a["rounds"][2]["tau_untied"] - b["rounds"][2]["tau_untied"])

    def wrong(self, method: str, rounds: Sequence[int] = (1, 2, 3)) -> Estimate | None:
        """Share of trained pairs whose chosen response is truly the worse one, pairs as good as each other left out."""
        return self._over([method], lambda run: _wrong(run, rounds))

    def equal(self, method: str) -> Estimate | None:
        """Share of trained pairs whose responses are as good as each other."""

        def of(run: Run) -> float:
            return float(sum(r["labels"]["equal"] for r in run["rounds"]) / sum(r["pairs"] for r in run["rounds"]))

        return self._over([method], of)

    def auroc(self, method: str, rounds: Sequence[int] = (1, 2, 3)) -> Estimate | None:
        """Probability that C_j is higher at a right label than at a wrong one, mean of those rounds that have one."""
        return self._over([method], lambda run: _auroc(run, rounds))

    def wrong_by_round(self, method: str) -> str:
        """In percent."""
        found = [self.wrong(method, [number]) for number in (1, 2, 3)]
        return ", ".join(f"{100 * one.value:.0f}" for one in found if one)

    def auroc_by_round(self, method: str) -> str:
        found = [self.auroc(method, [number]) for number in (1, 2, 3)]
        return ", ".join(f"{one.value:.2f}" if one else "-" for one in found) if any(found) else ""

    def mean(self, method: str, number: int, key: str) -> float:
        """A figure of a round, mean over the seeds."""
        return float(np.mean([run["rounds"][number - 1][key] for run in self.runs[method].values()]))


def _accuracy(run: Run, policy: str) -> float:
    return float(run["evaluations"]["lab-evaluation"][policy]["value"])


def _wrong(run: Run, rounds: Sequence[int]) -> float | None:
    labels = [run["rounds"][number - 1]["labels"] for number in rounds]
    telling = sum(one["wrong"] + one["right"] for one in labels)
    return sum(one["wrong"] for one in labels) / telling if telling else None


def _auroc(run: Run, rounds: Sequence[int]) -> float | None:
    measured = [run["rounds"][number - 1].get("prediction") for number in rounds]
    known = [one["auroc"] for one in measured if one and one["auroc"] is not None]
    return sum(known) / len(known) if known else None


def load() -> tuple[list[Setting], list[Lab]]:
    runs = list(json.loads((HERE / "runs.json").read_text(encoding="utf-8"))["runs"].values())
    labs = {name: json.loads((RAW / f"{name}.json").read_text(encoding="utf-8"))["runs"] for name in NAMES["steps"]}
    return [Setting(runs, name) for name in NAMES["settings"]], [Lab(labs[k], v) for k, v in NAMES["steps"].items()]


def found(given: dict[str, Any]) -> dict[str, Any]:
    settings, labs = load()
    every = [run for setting in settings for run in setting.runs]
    right = every[0]["policies"]["M0"]["right"]  # one model that answers greedily: seeds have no part in it
    judged_ = [judged(given["claims"]["claims"], one) for one in settings]
    lab_judged = [judged(given["claims"]["lab"], one) for one in labs]
    return {
        **{"settings": settings, "labs": labs, "arms": ARMS, "lab_methods": NAMES["lab_methods"]},
        **{"claims": judged_, "lab_claims": lab_judged, "comparisons": COMPARISONS},
        **{"verdicts": [by_verdict(one) for one in judged_], "lab_verdicts": [by_verdict(one) for one in lab_judged]},
        "base": Estimate(*wilson_interval(right.count("1"), len(right)), len(right)),
        "runs": len(every),
        "code": ", ".join(sorted({f"{str(run['git'])[:7]} ({run['device']})" for run in every})),
    }


def pictures() -> dict[str, str]:
    settings, labs = load()
    short = {arm: one["short"] for arm, one in ARMS.items()}
    accuracy = [
        (s.title, policy, short[arm], s.change(arm, policy))
        for s in settings
        for policy in ("M2", "M3")
        for arm in s.arms
    ]
    agreement = []
    for s in settings:
        for number in COMPARISONS:
            agreement += [
                (
                    s.title,
                    f"M{number}, M{number - 1}" if number > 1 else "M1, M1 half-way",
                    short[arm],
                    s.tau(arm, number),
                )
                for arm in PAPER_TAU
            ]
        agreement += [
            (s.title, "paper: M3, M2", short[arm], Estimate(tau, tau, tau, 1)) for arm, tau in PAPER_TAU.items()
        ]
    labels = [  # the verifier's are right by construction
        (s.title, f"round {number}", short[arm], s.labels(arm, [number]))
        for s in settings
        for number in (1, 2)
        for arm in s.arms
        if arm != "verifier"
    ]
    # what the claims of the accuracies are about; the others are in the table
    on_lab = {
        "cream": "CREAM",
        "srlm": "SRLM",
        "random": "random pairs",
        "truth-40": "truth, 40% wrong",
        "verifier": "verifier",
    }
    lab = [
        (one.title, f"M{n}", name, one.accuracy(method, f"M{n}"))
        for one in labs
        for n in (1, 2, 3, 4)
        for method, name in on_lab.items()
    ]
    return {
        "accuracy.svg": svg(dots(accuracy, "change to M1 (points)", 100), "Change of accuracy to M1"),
        "agreement.svg": svg(dots(agreement, "tau, ties left out"), "Ranking agreement"),
        "labels.svg": svg(dots(labels, "right labels (%)", 100, at=50), "Right labels"),
        "lab.svg": svg(dots(lab, "accuracy (%)", 100, seeds=False), "Accuracy on the lab model"),
    }
