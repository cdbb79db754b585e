"""What the report and the terminal table both show, taken from the events of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report.events import Event


def of_kind(events: Sequence[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]


def dig(value: Any, *keys: str) -> Any:
    """`value[key1][key2]...`, or None where something on the way is missing or null."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def numbers(value: Any) -> list[float]:
    """The finite numbers in a list; nothing when it is no list."""
    found = [number(item) for item in value] if isinstance(value, list) else []
    return [item for item in found if item is not None]


def text(value: Any) -> str:
    return "" if value is None else str(value)


def fixed(value: Any, digits: int = 1, *, scale: float = 1, sign: bool = False) -> str:
    """A number with so many decimals; empty when there is none."""
    found = number(value)
    if found is None:
        return ""
    # `+ 0.0` after rounding turns -0.0 into 0.0
    return f"{round(found * scale, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def count(value: Any) -> str:
    return fixed(value, 0)


def with_interval(source: Any, key: str, *, digits: int = 1, scale: float = 1, sign: bool = False) -> str:
    """`12.3 [10.1, 14.5]` from {key, low, high}."""
    value = fixed(dig(source, key), digits, scale=scale, sign=sign)
    low, high = (fixed(dig(source, end), digits, scale=scale, sign=sign) for end in ("low", "high"))
    return f"{value} [{low}, {high}]" if value and low and high else value


def between(
    figures: tuple[float, float, float] | None, *, digits: int = 1, scale: float = 1, sign: bool = False
) -> str:
    """`12.3 [10.1, 14.5]` from (value, low, high)."""
    named = dict(zip(("value", "low", "high"), figures, strict=True)) if figures else None
    return with_interval(named, "value", digits=digits, scale=scale, sign=sign)


def duration(seconds: Any) -> str:
    """`2 h 05 min`, `3 min 20 s` or `4.1 s`."""
    found = number(seconds)
    if found is None:
        return ""
    if found < 59.95:
        return f"{found:.1f} s"
    whole = round(found)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(found / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def round_number(event: Event) -> int:
    return int(number(event.get("round")) or 0)


def rounds_of(events: Sequence[Event]) -> list[Event]:
    """The `round` events in order; of two for the same round, the later one."""
    return [event for _, event in sorted({round_number(e): e for e in of_kind(events, "round")}.items())]


def evaluations_of(events: Sequence[Event], kind: str | None = None) -> dict[str, dict[str, Event]]:
    """suite -> policy -> evaluation, on request only of one `kind` of metric (see `Metric`).

    The first suite is the one that was evaluated first. A second metric on the same suite (pass@1 and pass@5) stands
    beside it as "suite, metric": neither may take the other's place.
    """
    suites: dict[str, dict[str, Event]] = {}
    firsts: dict[str, str] = {}
    for event in of_kind(events, "evaluation"):
        suite, metric = text(event.get("suite")), metric_of(event)
        first = firsts.setdefault(suite, metric.name)
        if kind in (None, metric.kind):
            name = suite if metric.name == first else f"{suite}, {metric.name}"
            suites.setdefault(name, {})[text(event.get("policy"))] = event
    return suites


@dataclass(frozen=True)
class Metric:
    """What an evaluation measures. `kind` is "accuracy" (a share of items solved), "preference", "rating", "graded"
    (the gold of what a judge picks), "length_following" or "other"; `scale` makes percentages of shares and leaves the
    rest as it is."""

    name: str
    kind: str
    scale: float
    digits: int

    @property
    def unit(self) -> str:
        """ ", %" for a column's header, empty for what is no share."""
        return ", %" if self.scale == 100 else ""


def metric_of(evaluation: Any) -> Metric:
    """The metric of an evaluation event; events without one are accuracies."""
    name = text(dig(evaluation, "metric")) or "accuracy"
    if name == "accuracy" or name.startswith("pass@"):
        return Metric(name, "accuracy", 100, 1)
    if name == "win rate":
        return Metric(name, "preference", 100, 1)
    if name == "rating":
        return Metric(name, "rating", 1, 2)
    if name == "best of N":
        return Metric(name, "graded", 1, 3)
    if name == "length score":
        return Metric(name, "length_following", 1, 3)
    # only shares are shown as percentages; what another metric counts is not known here
    return Metric(name, "other", 1, 3)


def first_metric(events: Sequence[Event]) -> Metric:
    """The metric of the first suite, which the tables with one row for each policy show."""
    by_policy = next(iter(evaluations_of(events).values()), {})
    return metric_of(next(iter(by_policy.values()), None))


def judge_evaluations_of(events: Sequence[Event]) -> list[Event]:
    """The measurements of judges on labelled pairs; of two for the same judge and data, the later one."""
    keys = ("judge", "rubric", "data", "order")
    found = {tuple(text(event.get(key)) for key in keys): event for event in of_kind(events, "judge_evaluation")}
    return list(found.values())


def rate(value: Any) -> str:
    """A share in percent: `12.3 [10.1, 14.5]` from {value, low, high}, `12.3` from a number."""
    return with_interval(value, "value", scale=100) if isinstance(value, dict) else fixed(value, scale=100)


def total(counts: Any) -> int:
    """The sum of a {reason: count}."""
    return int(sum(numbers(list(counts.values())))) if isinstance(counts, dict) else 0


def policies_of(events: Sequence[Event]) -> dict[str, int]:
    """Every policy with the round that made it, M0 and M1 (both round 0) before M2."""
    found: dict[str, int] = {}
    for event in events:
        policy = event.get("policy")
        if event["event"] in ("evaluation", "training", "round") and isinstance(policy, str):
            found.setdefault(policy, round_number(event))
    return dict(sorted(found.items(), key=lambda item: (item[1], _natural(item[0]))))


def in_rounds(events: Sequence[Event]) -> bool:
    """Whether the policies follow one another, so that a line may join them; some may just be compared."""
    return any(round_ > 0 for round_ in policies_of(events).values())


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def tau_of(event: Event) -> dict[str, Any] | None:
    """Kendall's tau between a round's two rankings: `mean`, `low`, `high` and the prompts' `values`.

    Older runs wrote only the consistency down, which with the measure `kendall` is (tau + 1) / 2.
    """
    written = dig(event, "rankings", "tau")
    if number(dig(written, "mean")) is not None:
        return dict(written)
    found = dig(event, "consistency")
    if dig(found, "measure") != "kendall" or number(dig(found, "mean")) is None:
        return None
    known = {key: number(found.get(key)) for key in ("mean", "low", "high")}
    tau: dict[str, Any] = {key: None if value is None else 2 * value - 1 for key, value in known.items()}
    return tau | {"values": [2 * value - 1 for value in numbers(found.get("values"))]}


def length_means(event: Event) -> dict[str, float]:
    """Mean length of all responses of a round (`mean`), of its chosen and of its rejected ones, as far as known."""
    found = {}
    for key in ("mean", "chosen", "rejected"):
        value = dig(event, "lengths", key)
        each = numbers(value) if isinstance(value, list) else numbers([value])
        if each:
            found[key] = sum(each) / len(each)
    return found


STAGES = {
    "sample": "sampling",
    "log_probs": "scoring",
    "sft": "SFT",
    "dpo": "DPO",
    "score": "SCoRe",
    "similarity": "similarity",
    "judge": "training of the judge",
    "reward_model": "reward model",
    "function": "judge function",
    "ask_server": "judging",
    "verify_math": "checking",
    "verify_code": "running programs",
    "rewards": "checking",
}


def stage_of(step: Event) -> str:
    """What a step was for, in words; events from before it stood there have it in the step's name and label. A suite
    that is scored and not sampled counts as scoring."""
    if purpose := text(step.get("purpose")):
        return purpose
    kind, name = text(step.get("step")), text(step.get("label"))
    if kind == "sample" and name and not name.startswith(("sample ", "second attempts ")):
        return "judging" if name.endswith(")") else "evaluation"
    return STAGES.get(kind, kind)
