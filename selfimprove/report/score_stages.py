"""The stages of SCoRe's training, as a run wrote them down, and their figures as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import fixed, number, numbers, of_kind, text

# How many updates at each end of a stage a table and the terminal show.
END = 10
SECONDS = {"sampling": "sampling", "rewards": "rewards", "scoring": "scoring by the base", "training": "training"}


@dataclass(frozen=True)
class Figure:
    """A column of the history: its name, its unit, and how it is written."""

    name: str
    unit: str
    scale: float = 100
    digits: int = 1
    sign: bool = False


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
    """One of SCoRe's stages, as a run wrote it down; `rows` is its history, one for each update."""

    name: str
    policy: str
    base_accuracy: float | None
    seconds: float | None
    rows: list[dict[str, Any]]

    def values(self, key: str) -> list[tuple[int, float]]:
        """(place of the update from 0, value) of the rows that have one."""
        found = [(place, number(row.get(key))) for place, row in enumerate(self.rows)]
        return [(place, value) for place, value in found if value is not None]

    def says_nothing(self, key: str) -> bool:
        """A reward that is the accuracy once more, and clipping where nothing was clipped."""
        name, _, turn = key.partition("/")
        if name == "reward":
            return self.values(key) == self.values(f"accuracy/{turn}")
        return name == "clip_fraction" and not any(value for _, value in self.values(key))


def stages_of(events: Sequence[Event]) -> list[Stage]:
    """The stages that have a history, in the order they were trained."""
    found = []
    for event in of_kind(events, "training"):
        history = event.get("history")
        rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
        rows = _by_update(rows)
        if event.get("stage") == "score" and rows:
            found.append(
                Stage(
                    stage_name(event),
                    text(event.get("policy")),
                    number(event.get("base_accuracy")),
                    number(event.get("seconds")),
                    rows,
                )
            )
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


def stage_name(event: Event) -> str:
    """`Stage I`, `Stage II`, or whatever else the event calls it; `SCoRe` where it says nothing."""
    written = text(event.get("score_stage"))
    return {"1": "Stage I", "2": "Stage II", "": "SCoRe"}.get(written, f"stage {written}")


def ends_of(stage: Stage) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first and the last `END` rows; of a short stage its halves, so that no row is in both."""
    size = min(END, len(stage.rows) // 2)
    return (stage.rows[:size], stage.rows[-size:]) if size else ([], stage.rows)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and its standard error from the spread of the updates; None for fewer than two."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def shown_mean(rows: Sequence[dict[str, Any]], key: str) -> str:
    """`41.2 ± 1.3`, or empty where no row has the figure."""
    how = FIGURES[key]
    values = numbers([row.get(key) for row in rows])
    if not values:
        return ""
    mean, error = mean_and_error(values)
    shown = fixed(mean, how.digits, scale=how.scale, sign=how.sign)
    return shown if error is None else f"{shown} ± {fixed(error, how.digits, scale=how.scale)}"


def stage_rows(events: Sequence[Event]) -> list[list[str]]:
    """The terminal's line of each stage, means of its last updates: stage, policy, updates, Acc@t1, Acc@t2, Delta,
    copied whole, KL of both turns."""
    found = []
    for stage in stages_of(events):
        _, last = ends_of(stage)
        cells = [shown_mean(last, key) for key in ("accuracy/turn_1", "accuracy/turn_2", "delta")]
        copied = numbers([row.get("copy_rate") for row in last])
        kl = [numbers([row.get(f"kl/turn_{turn}") for row in last]) for turn in (1, 2)]
        found.append(
            [
                stage.name,
                stage.policy,
                str(len(stage.rows)),
                *cells,
                fixed(sum(copied) / len(copied), 1, scale=100) if copied else "",
                " / ".join(f"{sum(values) / len(values):.3f}" for values in kl if values),
            ]
        )
    return found
