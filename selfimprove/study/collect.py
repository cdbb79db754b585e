"""What a study's runs measured, as one tidy table: a row for each arm, seed, policy and suite, and one over all seeds.

Columns: `value` with its 95% interval over `n` items; `minus_start`, against the first policy that the run measured
(`start`); `minus_placebo`, against the placebo arm at the same seed and round (of several placebo arms
`minus_placebo_NAME` each), and `beats_placebo`, what its interval says: yes, no or not told; `gap_to_oracle`, the
oracle arm's value minus this one's; `share_of_oracle`, this arm's change to the start as a share of the oracle's, where
that is above 0. Differences are paired by seed and item over the `_n` items that both sides have a value for. Rows with
seed "all" have the mean over seeds and items, the interval of the crossed bootstrap (`figures.py`) and two-sided
p-values, which are not corrected for their number. Rows of a seed end, in results.json, with the items' single `values`
(null where one is missing) and what they were made from (`made`), so that another study can take them in (`included`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from selfimprove.artefacts import digest_of
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
    events = read_events(file) if file.is_file() else []
    made = made_from(run) | {"finished": events[-1]["event"] == "done"} if events else None
    by_policy: dict[tuple[str, int, str], Event] = {}
    for event in of_kind(events, "evaluation"):
        if not isinstance(event.get("values"), list):
            raise InputError(
                f"{file}: its evaluations hold no single `values`, so they were made by an older version: delete its "
                f"{FILE_NAME} and run again; finished steps are found"
            )
        by_policy[event["suite"], round_number(event), event["policy"]] = {**event, "made": made}
    found: Measured = {}
    for (suite, round_, _), event in by_policy.items():
        rounds = found.setdefault(suite, {})
        rounds[round_, sum(other == round_ for other, _ in rounds)] = event
    return found


def made_from(run: Planned, inputs: Mapping[str, str] | None = None) -> dict[str, str]:
    """Short digests of what decides a run's results: its inputs (model, data, judge, suites; `inputs`, or what the run
    had) and its recipe, whatever the place, the number of the run and the version of the program's steps."""
    file = run.folder / "inputs.json"
    had = inputs or (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {})
    recipe = yaml.safe_load(run.recipe.as_yaml())
    kept = {key: value for key, value in had.items() if key != "the program's steps"}
    return {
        "inputs": digest_of(kept)[:16],
        "recipe": digest_of({key: value for key, value in recipe.items() if key not in ("output", "store")})[:16],
    }


def check_items(found: Mapping[tuple[str, int], Measured]) -> None:
    """Raises InputError where runs measured a suite with other numbers of items: they are paired item by item."""
    first: dict[str, tuple[int, tuple[str, int]]] = {}
    for name, suites in found.items():
        for suite, places in suites.items():
            for event in places.values():
                n, other = first.setdefault(suite, (len(event["values"]), name))
                if len(event["values"]) != n:
                    raise InputError(
                        f"{suite}: {name[0]}, seed {name[1]} has {len(event['values'])} items and {other[0]}, seed "
                        f"{other[1]} has {n}: arms are compared item by item, so leave one of the two out"
                    )


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
    placebos: dict[str, str | None] = {**study.placebo_columns()} or {"minus_placebo": None}
    for name, placebo in placebos.items():
        other = at(placebo, place) if placebo and arm not in study.placebo else {}
        row |= _fields(name, _change(own, other), seed is None)
        row[name.replace("minus", "beats", 1)] = None if is_start else beats(row, name)
    best = at(study.oracle, place) if study.oracle and study.oracle != arm else {}
    row |= _fields("gap_to_oracle", _change(best, own), seed is None)
    share = None
    if best and study.oracle and not is_start:
        both = [seed for seed in own if seed in best]
        gain = _difference({seed: own[seed] for seed in both}, start)
        share = crossed_ratio(gain, _difference({seed: best[seed] for seed in both}, at(study.oracle, None)))
    row |= dict(zip((f"share_of_oracle{part}" for part in _PARTS[:3]), share or (None,) * 3, strict=True))
    return row if seed is None else row | _single(first)


def _single(event: Event) -> Row:
    """Of one seed's row what no other column says: every item's value, the scale, and what the run was made from."""
    values = [int(value) if value is not None and value == int(value) else value for value in event["values"]]
    low, high = (number(dig(event, "rating", end)) for end in ("low", "high"))
    scale = None if low is None or high is None else {"low": low, "high": high}
    return {"values": values, "rating": scale, "made": event.get("made")}


def beats(row: Row, column: str) -> str | None:
    """Whether an arm is above its placebo, by the interval of their difference: yes, no, or not told; None without."""
    if row[column] is None:
        return None
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return "yes" if low > 0 else "no" if high < 0 else "not told"


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


def included(study: Study, files: Sequence[Path]) -> dict[tuple[str, int], Measured]:
    """What other starts of the study measured, by (arm, seed), of finished runs; of two files the first that has one.
    Raises InputError where a file is no results.json, or one without single values."""
    found: dict[tuple[str, int], Measured] = {}
    for file in files:
        new: dict[tuple[str, int], Measured] = {}
        for row in read_results(file):
            if row["seed"] == ALL or row["arm"] not in study.arms or row["seed"] not in study.seeds:
                continue
            if not isinstance(row.get("values"), list):
                raise InputError(
                    f"{file}: its rows hold no single `values`, so an older version wrote it: a study can take in only "
                    "what has them; run those seeds again (finished steps are found), or leave the file out"
                )
            if not all(value is None or (number(value) is not None) for value in row["values"]):
                raise InputError(
                    f"{file}: {row['arm']}, seed {row['seed']}: `values` are numbers, or null where missing"
                )
            if not (row.get("made") or {}).get("finished"):
                continue
            rounds = new.setdefault((row["arm"], row["seed"]), {}).setdefault(row["suite"], {})
            rounds[row["round"], sum(other == row["round"] for other, _ in rounds)] = row
        found = new | found
    return found


def read_results(file: Path) -> list[Row]:
    """The rows of a results.json. Raises InputError."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as a study's results.json ({error})") from error
    needed = {"arm", "seed", "round", "policy", "suite", "metric", "value", "low", "high", "n"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise InputError(
            f"{file}: not a study's results.json, which is a list of rows with `arm`, `seed`, `value`, ..."
        )
    return rows


def as_json(rows: Sequence[Row]) -> str:
    """results.json: a row a line."""
    return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The table as text; a missing value is an empty cell."""
    text = io.StringIO()
    columns = [key for key in (rows[0] if rows else ()) if key not in ("values", "rating", "made")]
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
