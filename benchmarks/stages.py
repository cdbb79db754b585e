"""What a benchmark records of a round: seconds, tokens and unavoidable work of each stage; their summary and table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from selfimprove.steps.floor import Size, Speed, Work, floor_seconds

# The stages in order; a side may lack some. "rest": pairing, digests, gates, events, and whatever else passes.
STAGES = ("load", "sample", "score", "train", "score after", "rest")
EVALUATION = "evaluate"
# Wall time, or (with one thread, on the CPU) the process's own time, which other programs disturb much less.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


@dataclass
class Stage:
    """One stage of one round. `tokens`: of every sequence, prompt included (sampling and evaluation: new tokens)."""

    seconds: float = 0.0
    tokens: int = 0
    work: list[Work] = field(default_factory=list)


@dataclass
class RoundTimes:
    """One repeat. `seconds` is the whole round's time, without the evaluation; `notes`: what was done."""

    stages: dict[str, Stage]
    seconds: float
    notes: dict[str, Any]

    def close(self) -> RoundTimes:
        """Puts what no stage accounts for into `rest`."""
        known = sum(stage.seconds for name, stage in self.stages.items() if name != EVALUATION)
        self.stages["rest"] = Stage(self.seconds - known)
        return self


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(repeats: Sequence[RoundTimes], size: Size, speed: Speed) -> dict[str, Any]:
    """Median, min and max over the repeats, floors (seconds) and the share of the floor in the median, by stage."""
    stages: dict[str, Any] = {}
    for name in (*STAGES, EVALUATION):
        found = [repeat.stages[name] for repeat in repeats if name in repeat.stages]
        if not found:
            continue
        seconds, tokens = spread([stage.seconds for stage in found]), found[0].tokens
        floor = sum(floor_seconds(work, size, speed) for work in found[0].work)
        stages[name] = {
            "seconds": seconds,
            "tokens": tokens,
            "tokens_per_second": tokens / seconds["median"] if tokens else None,
            "floor_seconds": floor or None,
            "share_of_floor": floor / seconds["median"] if floor else None,
        }
    floor = sum(stage["floor_seconds"] or 0 for name, stage in stages.items() if name != EVALUATION)
    rounds = spread([repeat.seconds for repeat in repeats])
    with_evaluation = [repeat.seconds + repeat.stages[EVALUATION].seconds for repeat in repeats]
    return {
        "stages": stages,
        "round_seconds": rounds,
        "round_and_evaluation_seconds": spread(with_evaluation),
        "floor_seconds": floor,
        "share_of_floor": floor / rounds["median"],
        "repeats": [
            {"seconds": {name: stage.seconds for name, stage in repeat.stages.items()}, **repeat.notes}
            for repeat in repeats
        ],
    }


def table(results: dict[str, Any]) -> Table:
    """Stages by row, the sides that were measured beside each other."""
    sides = [side for side in ("ours", "plain") if side in results]
    shown = Table(title=f"one round of CREAM, {results['settings']['model']}, {results['settings']['dtype']}")
    shown.add_column("stage", no_wrap=True)
    for side in sides:
        for header in (f"{side}: seconds", "tokens/s", "of floor"):
            shown.add_column(header, justify="right", no_wrap=True)
    for name in (*STAGES, EVALUATION):
        if any(name in results[side]["stages"] for side in sides):
            shown.add_row(name, *(cell for side in sides for cell in _cells(results[side]["stages"].get(name))))
    for title, key in (("round", "round_seconds"), ("round + evaluate", "round_and_evaluation_seconds")):
        cells = []
        for side in sides:
            share = f"{results[side]['share_of_floor']:.0%}" if key == "round_seconds" else ""
            cells += [_times(results[side][key]), "", share]
        shown.add_row(title, *cells, style="bold")
    if ratio := results.get("ratio"):
        shown.caption = (
            f"plain / ours: {ratio['round']:.2f} for the round, {ratio['round_and_evaluation']:.2f} with evaluation"
        )
    return shown


def _times(seconds: dict[str, float]) -> str:
    return f"{seconds['median']:.2f} ({seconds['min']:.2f}-{seconds['max']:.2f})"


def _cells(stage: dict[str, Any] | None) -> tuple[str, ...]:
    if stage is None:
        return "", "", ""
    rate, share = stage["tokens_per_second"], stage["share_of_floor"]
    return _times(stage["seconds"]), f"{rate:,.0f}" if rate else "", f"{share:.0%}" if share else ""
