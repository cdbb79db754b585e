"""What a study's runs measured, as one tidy table: a row for each arm, seed, policy and suite, and one over all seeds.

Columns: `value` with its 95% interval over `n` items; `minus_start`, against the first policy that the run measured
(`start`); `minus_placebo`, against the placebo arm at the same seed and round (of several placebo arms
`minus_placebo_NAME` each); `gap_to_oracle`, the oracle arm's value minus this one's; `share_of_oracle`, this arm's
change to the start as a share of the oracle's, where that is above 0. Differences are paired by seed and item over the
`_n` items that both sides have a value for. Rows with seed "all" have the mean over seeds and items, the interval of
the crossed bootstrap (`figures.py`) and two-sided p-values, which are not corrected for their number.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfimprove.errors import InputError
from selfimprove.report.events import FILE_NAME, Event, read_events
from selfimprove.report.summary import dig, number, of_kind, round_number
from selfimprove.statistics import bounds_of
from selfimprove.study.figures import Estimate, Matrix, crossed, crossed_ratio
from selfimprove.study.plan import Planned, Study

Row = dict[str, Any]
# Of one run: suite -> (round, place among the round's policies) -> what was measured.
Measured = dict[str, dict[tuple[int, int], Event]]
ALL = "all"
_PARTS = ("", "_low", "_high", "_n", "_seeds", "_p")


def measured(run: Planned) -> Measured:
    """The run's evaluations in their order. Raises InputError where they are without single values."""
    file = run.folder / FILE_NAME
    by_policy: dict[tuple[str, int, str], Event] = {}
    for event in of_kind(read_events(file), "evaluation") if file.is_file() else ():
        if not isinstance(event.get("values"), list):
            raise InputError(
                f"{file}: its evaluations hold no single `values`, so they were made by an older version: delete its "
                f"{FILE_NAME} and run again; finished steps are found"
            )
        by_policy[event["suite"], round_number(event), event["policy"]] = event
    found: Measured = {}
    for (suite, round_, _), event in by_policy.items():
        rounds = found.setdefault(suite, {})
        rounds[round_, sum(other == round_ for other, _ in rounds)] = event
    return found


def table(study: Study, found: Mapping[tuple[str, int], Measured]) -> list[Row]:
    """The rows, by suite, arm, round and seed; `found`: what each (arm, seed) measured so far."""
    rows = []
    for suite in dict.fromkeys(suite for one in found.values() for suite in one):
        for arm in study.arms:
            places = {key: None for (one, _), suites in found.items() if one == arm for key in suites.get(suite, {})}
            for place in sorted(places):
                made = [_row(study, found, suite, arm, place, seed) for seed in (*study.seeds, None)]
                rows += [row for row in made if row]
    return rows


def _row(
    study: Study,
    found: Mapping[tuple[str, int], Measured],
    suite: str,
    arm: str,
    place: tuple[int, int],
    seed: int | None,
) -> Row | None:
    """One row; `seed` None means all seeds."""
    seeds = study.seeds if seed is None else (seed,)

    def at(other: str, where: tuple[int, int] | None) -> dict[int, Event]:
        """What an arm measured at a place, by default its start, for the seeds that have it."""
        by_seed = {seed: found.get((other, seed), {}).get(suite, {}) for seed in seeds}
        return {seed: one[where or min(one)] for seed, one in by_seed.items() if one and (where or min(one)) in one}

    own, start = at(arm, place), at(arm, None)
    if not own:
        return None
    first = next(iter(own.values()))
    row = {
        "arm": arm,
        "seed": ALL if seed is None else seed,
        "round": place[0],
        "policy": first["policy"],
        "suite": suite,
    }
    row |= {"metric": first["metric"]} | _value(list(own.values())) | {"start": next(iter(start.values()))["policy"]}
    is_start = all(start[seed] is event for seed, event in own.items())
    row |= _fields("minus_start", None if is_start else _change(own, start), seed is None)
    for name, placebo in _placebos(study).items():
        other = at(placebo, place) if placebo and arm not in study.placebo else {}
        row |= _fields(name, _change(own, other), seed is None)
    best = at(study.oracle, place) if study.oracle and study.oracle != arm else {}
    row |= _fields("gap_to_oracle", _change(best, own), seed is None)
    share = None
    if best and study.oracle and not is_start:
        both = [seed for seed in own if seed in best]
        gain = _difference({seed: own[seed] for seed in both}, start)
        share = crossed_ratio(gain, _difference({seed: best[seed] for seed in both}, at(study.oracle, None)))
    return row | dict(zip((f"share_of_oracle{part}" for part in _PARTS[:3]), share or (None,) * 3, strict=True))


def _placebos(study: Study) -> dict[str, str | None]:
    """Column -> placebo arm; one empty column where there is none."""
    if len(study.placebo) < 2:
        return {"minus_placebo": next(iter(study.placebo), None)}
    return {f"minus_placebo_{name}": name for name in study.placebo}


def _values(events: Sequence[Event]) -> Matrix:
    """(seeds, items), NaN where a value is missing."""
    return np.array([[np.nan if v is None else v for v in event["values"]] for event in events], dtype=np.float64)


def _change(after: Mapping[int, Event], before: Mapping[int, Event]) -> Estimate | None:
    """`after` - `before` over the seeds of both, with its interval."""
    bounds = _bounds([*after.values(), *before.values()])
    return crossed(_difference(after, before), bounds=bounds and (bounds[0] - bounds[1], bounds[1] - bounds[0]))


def _bounds(events: Sequence[Event]) -> tuple[float, float] | None:
    """What a suite's values cannot leave: a rating's scale, or [0, 1] where all lie in it; None where nothing says."""
    low, high = (number(dig(event, "rating", end)) for event in events[:1] or [{}] for end in ("low", "high"))
    if low is not None and high is not None:
        return low, high
    return bounds_of([value for event in events for value in event["values"] if value is not None])


def _difference(after: Mapping[int, Event], before: Mapping[int, Event]) -> Matrix:
    """`after` - `before` for the seeds of both, (seeds, items); (0, 0) without any."""
    both = [seed for seed in after if seed in before]
    if not both:
        return np.empty((0, 0))
    return _values([after[seed] for seed in both]) - _values([before[seed] for seed in both])


def _value(events: Sequence[Event]) -> Row:
    if len(events) == 1:
        return {key: events[0][key] for key in ("value", "low", "high", "n")} | {"seeds": 1}
    values = _values(events)
    estimate = crossed(values, bounds=_bounds(events))
    if estimate is None:
        return {"value": None, "low": None, "high": None, "n": 0, "seeds": len(events)}
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "seeds": estimate.seeds,
    }


def _fields(name: str, found: Estimate | None, tested: bool) -> Row:
    if found is None:
        return dict.fromkeys(f"{name}{part}" for part in _PARTS)
    values = (found.value, found.low, found.high, found.n, found.seeds, found.p if tested else None)
    return dict(zip((f"{name}{part}" for part in _PARTS), values, strict=True))


def as_csv(rows: Sequence[Row]) -> str:
    """The table as text; a missing value is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
