"""The stages of SCoRe's training, as a run wrote them down: a row for each update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import number, numbers, of_kind, text
from selfimprove.report.table import Show, with_error

# How many updates at each end of a stage a table shows.
END = 10
SECONDS = {"sampling": "sampling", "rewards": "rewards", "scoring": "scoring by the base", "training": "training"}
# A line of more points than a screen has pixels only makes the page larger.
_MOST_POINTS = 300
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    """A figure of an update: its name, its unit, and how it is shown."""

    name: str
    unit: str
    scale: float = 100
    digits: int = 1
    sign: bool = False

    @property
    def title(self) -> str:
        return self.name + (f", {self.unit}" if self.unit else "")

    @property
    def show(self) -> Show:
        return with_error(digits=self.digits, scale=self.scale, sign=self.sign)


FIGURES = {
    "accuracy/turn_1": Figure("Acc@t1", "%"),
    "accuracy/turn_2": Figure("Acc@t2", "%"),
    "delta": Figure("Delta", "points", sign=True),
    "reward/turn_1": Figure("reward, turn 1", "mean", 1, 3),
    "reward/turn_2": Figure("reward, turn 2", "mean", 1, 3),
    "incorrect_to_correct": Figure("wrong, then right", "%"),
    "correct_to_incorrect": Figure("right, then wrong", "%"),
    "change_rate": Figure("another answer", "%"),
    "copy_rate": Figure("copied whole", "%"),
    "edit_ratio": Figure("edit ratio", "", 1, 3),
    "kl/turn_1": Figure("KL, turn 1", "nats/token", 1, 4),
    "kl/turn_2": Figure("KL, turn 2", "nats/token", 1, 4),
    "reward_coverage": Figure("reward coverage", "%"),
    "truncated/turn_1": Figure("truncated, turn 1", "%"),
    "truncated/turn_2": Figure("truncated, turn 2", "%"),
    "tokens/turn_1": Figure("tokens, turn 1", "mean", 1, 1),
    "tokens/turn_2": Figure("tokens, turn 2", "mean", 1, 1),
    "clip_fraction/turn_1": Figure("clipped, turn 1", "% of tokens"),
    "clip_fraction/turn_2": Figure("clipped, turn 2", "% of tokens"),
    "informative": Figure("prompts to learn from", "%"),
    "sampler_kl": Figure("KL(sampler || trainer)", "nats/token", 1, 6),
    "sampler_ratio": Figure("largest ratio to the sampler", "", 1, 3),
    "grad_norm": Figure("gradient norm", "", 1, 3),
}


@dataclass(frozen=True)
class Stage:
    """A stage. `rows`: its history, one for each update; `start`: updates of the stages before it."""

    name: str
    policy: str
    base_accuracy: float | None
    seconds: float | None
    rows: list[dict[str, Any]]
    start: int

    def values(self, key: str) -> list[tuple[int, float]]:
        """(number of the update, counted over the stages from 1, value) of the rows that have one."""
        found = [(place, number(row.get(key))) for place, row in enumerate(self.rows, self.start + 1)]
        return [(place, value) for place, value in found if value is not None]

    def says_nothing(self, key: str) -> bool:
        """A reward that is the accuracy once more, and clipping where nothing was clipped."""
        name, _, turn = key.partition("/")
        if name == "reward":
            return self.values(key) == self.values(f"accuracy/{turn}")
        return name == "clip_fraction" and not any(value for _, value in self.values(key))


def stages_of(events: Sequence[Event]) -> list[Stage]:
    """The stages that have a history, in the order they were trained."""
    found: list[Stage] = []
    for event in of_kind(events, "training"):
        history = event.get("history") if event.get("stage") == "score" else None
        rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
        if rows := _by_update(rows):
            whose, start = text(event.get("policy")), sum(len(one.rows) for one in found)
            figures = number(event.get("base_accuracy")), number(event.get("seconds"))
            found.append(Stage(stage_name(event.get("score_stage")), whose, *figures, rows, start))
    return found


def _by_update(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each update: of several optimizer steps on one batch of samples only the first holds what the samples
    were like. Seconds add up; the rest of what every step says is a mean."""
    if not any("samples" in row for row in rows):
        return rows
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        if "samples" in row or not groups:
            groups.append([])
        groups[-1].append(row)
    found = []
    for group in groups:
        one = dict(group[0])
        for key in one if len(group) > 1 else ():
            if values := numbers([row.get(key) for row in group]):
                one[key] = sum(values) if key.startswith("seconds/") else sum(values) / len(values)
        found.append(one)
    return found


def stage_name(written: Any) -> str:
    """`Stage I`, `Stage II`, or whatever else an event calls it; `SCoRe` where it says nothing."""
    name = text(written).removeprefix("stage ")
    return {"1": "Stage I", "2": "Stage II", "": "SCoRe"}.get(name, f"stage {name}")


def ends_of(stage: Stage) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first and the last `END` rows; of a short stage its halves, so that no row is in both."""
    size = min(END, len(stage.rows) // 2)
    return (stage.rows[:size], stage.rows[-size:]) if size else ([], stage.rows)


def running_mean(points: Points) -> list[tuple[float, float]]:
    """The mean over a window around each point: a tenth of the points, at least five; shorter at the ends."""
    half = max(2, len(points) // 20)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    found = []
    for place, (x, _) in enumerate(points):
        low, high = max(0, place - half), min(len(points), place + half + 1)
        found.append((x, (sums[high] - sums[low]) / (high - low)))
    return found


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most about `most` points: means of neighbours, each at the mean of their places."""
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), max(size, 1))]
    return [tuple(sum(axis) / len(group) for axis in zip(*group, strict=True)) for group in groups]  # type: ignore[misc]
