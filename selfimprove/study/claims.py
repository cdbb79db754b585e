"""Claims of a study: what was expected, written down as data, and what the table says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from selfimprove.artefacts import write_file
from selfimprove.errors import InputError
from selfimprove.recipe.sections import Strict
from selfimprove.report.summary import between, metric_of
from selfimprove.study.figures import holm

Row = dict[str, Any]
FILE = "claims.json"
ALPHA = 0.05


class Claim(Strict):
    """`column` of the table, over all seeds, in the row of `arm` after `round` on `suite`, is said to lie above 0,
    below 0, or at 0 ("nothing"). policy: which one, where a round measures several; the last by default. decided: the
    day on which the claim was fixed."""

    claim: Annotated[str, Field(min_length=1)]
    arm: str
    round: Annotated[int, Field(ge=0)]
    suite: str
    column: str
    says: Literal["above", "below", "nothing"]
    policy: str = ""
    decided: date | None = None

    @property
    def key(self) -> str:
        """What makes it the same claim, whatever its words and its date."""
        return json.dumps([self.arm, self.round, self.suite, self.column, self.says, self.policy])


def row_of(rows: Sequence[Row], claim: Mapping[str, Any]) -> Row | None:
    """The row over all seeds that a claim is about; None where it was not measured."""
    keys, policy = ("arm", "round", "suite"), claim.get("policy")
    found = [row for row in rows if row["seed"] == "all" and all(row[key] == claim[key] for key in keys)]
    found = [row for row in found if policy in (None, "", row["policy"])]
    return found[-1] if found else None


def shown(row: Row, column: str) -> str:
    """`12.3 [10.1, 14.5]` in percent, or `+1.2 [+0.1, +2.3]` points; empty where there is nothing."""
    if row[column] is None:
        return ""
    metric = metric_of(row)
    low, high = ("low", "high") if column == "value" else (f"{column}_low", f"{column}_high")
    signed = column.startswith("minus")
    return between((row[column], row[low], row[high]), digits=metric.digits, scale=metric.scale, sign=signed)


def verdict(low: float, high: float, says: str, p: float = 0.0) -> str:
    """What a claim came to, from the 95% interval and Holm's p. That there is no difference ("nothing") no test can
    prove: it is contradicted, or not."""
    if says == "nothing":
        away = "up" if low > 0 else "down"
        return f"contradicted ({away})" if low > 0 or high < 0 else "not contradicted"
    if low <= 0 <= high:
        return "not told from noise"
    if (low > 0) != (says == "above"):
        return "contradicted"
    return "holds" if p < ALPHA else "holds alone, not with Holm"


def judged(claims: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[Row]:
    """Each claim with `value`, `low`, `high`, `found` (in words), `p` (Holm's, over all of them) and `verdict`.

    One that was not measured counts among the others with p = 1, so that it does not get easier to hold by leaving
    arms out.
    """
    found = [(claim, row_of(rows, claim)) for claim in claims]
    measured = [row if row and row.get(claim["column"]) is not None else None for claim, row in found]
    raw = [row[f"{one['column']}_p"] if row else None for (one, _), row in zip(found, measured, strict=True)]
    adjusted = holm([1.0 if p is None else p for p in raw])
    judged_ = []
    for (claim, _), row, p in zip(found, measured, adjusted, strict=True):
        column = claim["column"]
        value, low, high = (row[f"{column}{end}"] if row else None for end in ("", "_low", "_high"))
        said = "not run" if low is None or high is None else verdict(low, high, claim["says"], p)
        text = shown(row, column) if row else ""
        judged_.append({**claim, "value": value, "low": low, "high": high, "found": text, "p": p, "verdict": said})
    return judged_


def seen(folder: Path, claims: Sequence[Claim], measured: Sequence[str]) -> list[Row]:
    """`claims.json` of a study's folder, with the claims of this start: `first_seen`, when a start of the study had the
    claim first, and `measured_then`, the arms that had a result by then. One that left the study file after an arm
    was measured stays, as `dropped`. Raises InputError where the file is none of these."""
    file = folder / FILE
    try:
        before = {str(one["key"]): one for one in json.loads(file.read_text("utf-8"))} if file.is_file() else {}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not the list of claims that a study writes ({error}); it says when each claim was first seen: "
            "restore it, or delete it, and all claims count as written now"
        ) from error
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = []
    for claim in claims:
        old = before.pop(claim.key, {})
        since = {"first_seen": old.get("first_seen", now), "measured_then": old.get("measured_then", list(measured))}
        found.append({"key": claim.key, **claim.model_dump(mode="json"), **since})
    gone = [{**one, "dropped": one.get("dropped", now)} for one in before.values() if measured or one.get("dropped")]
    return found + gone


def write_claims(folder: Path, known: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Judges the claims that are still in the study file, and writes all of them; returns the judged ones."""
    kept = judged([one for one in known if "dropped" not in one], rows)
    if known:
        dropped = [one for one in known if "dropped" in one]
        write_file(folder / FILE, (json.dumps([*kept, *dropped], indent=1, allow_nan=False) + "\n").encode())
    return kept


def when(claim: Row) -> str:
    """When a claim was written, as far as it can be known: in words for the page; empty where nothing is known."""
    said = f"decided {claim['decided']}" if claim.get("decided") else ""
    if "measured_then" not in claim:
        return said
    if not claim["measured_then"]:
        return ", ".join(filter(None, [said, "before any result"]))
    own = "after this arm's results" if claim["arm"] in claim["measured_then"] else "after results of other arms"
    return ", ".join(filter(None, [said, f"first seen {claim['first_seen'][:10]} {own}"]))


def sentences(judged_claims: Sequence[Row]) -> list[str]:
    """One for each claim, for the terminal."""
    found = []
    for one in judged_claims:
        late = " (written after this arm's results)" if one["arm"] in one.get("measured_then", ()) else ""
        figures = f": {one['found']}, p {one['p']:.3f} (Holm)" if one["found"] else ""
        found.append(f"claim{late}: {one['claim']}: {one['verdict']}{figures}")
    return found
