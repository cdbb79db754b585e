"""The evidence pages made from a study: `python evidence/page.py expert_iteration` writes docs/evidence/NAME.md.

A page is a folder here: `study*.yaml`, the `results*.json` that `python -m selfimprove.study` wrote for them, and
`page.md.j2`, which finds each by its name (`study_judges`, `results_judges`). `tests/test_evidence_pages.py` makes
every page again and compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from selfimprove.report.summary import between, metric_of
from selfimprove.study.figures import holm

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "evidence"
Row = dict[str, Any]


class Results:
    """One study's rows, as a page asks for them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def row(self, arm: str, round: int, suite: str, seed: int | str = "all", policy: str = "") -> Row:
        """The one row of an arm after a round (round 0 may hold M0 and M1: say which `policy`); KeyError where it was
        not measured."""
        found = [
            row
            for row in self.rows
            if (row["arm"], row["round"], row["suite"], row["seed"]) == (arm, round, suite, seed)
            and policy in ("", row["policy"])
        ]
        if len(found) != 1:
            raise KeyError(f"{len(found)} rows of {arm}, round {round}, {suite}, seed {seed}")
        return found[0]

    def seeds(self) -> list[int]:
        return sorted({row["seed"] for row in self.rows if row["seed"] != "all"})

    def show(
        self, arm: str, round: int, suite: str, column: str = "value", seed: int | str = "all", policy: str = ""
    ) -> str:
        """`12.3 [10.1, 14.5]` in percent, or points with their sign; empty where there is nothing."""
        return shown(self.row(arm, round, suite, seed, policy), column)

    def claims(self, study: Row) -> list[Row]:
        """The study's claims with what was found: Holm's p, and the verdict in words. One whose arm was not run counts
        as p = 1 among the others."""
        arms = {row["arm"] for row in self.rows}
        rows = [one["arm"] in arms and self.row(one["arm"], one["round"], one["suite"]) for one in study["claims"]]
        found = list(zip(study["claims"], rows, strict=True))
        adjusted = holm([row[f"{one['column']}_p"] if row else 1.0 for one, row in found])
        return [
            {**one, "found": shown(row, one["column"]), "p": p, "verdict": verdict(row, one, p)}
            if row
            else {**one, "found": "", "p": p, "verdict": "not run"}
            for (one, row), p in zip(found, adjusted, strict=True)
        ]


def shown(row: Row, column: str) -> str:
    if row[column] is None:
        return ""
    metric = metric_of(row)
    low, high = ("low", "high") if column == "value" else (f"{column}_low", f"{column}_high")
    signed = column.startswith("minus")
    return between((row[column], row[low], row[high]), digits=metric.digits, scale=metric.scale, sign=signed)


def verdict(row: Row, claim: Row, p: float) -> str:
    """What a claim came to. That there is no difference ("nothing") no test can prove: it is contradicted, or not."""
    low, high = row[f"{claim['column']}_low"], row[f"{claim['column']}_high"]
    if claim["says"] == "nothing":
        away = "up" if low > 0 else "down"
        return f"contradicted ({away})" if low > 0 or high < 0 else "not contradicted"
    if low <= 0 <= high:
        return "not told from noise"
    if (low > 0) != (claim["says"] == "above"):
        return "contradicted"
    return "holds" if p < 0.05 else "holds alone, not with Holm"


def page(name: str) -> str:
    """The page's text, from what its folder holds."""
    folder = HERE / name
    found: dict[str, Any] = {}
    for path in (*sorted(folder.glob("study*.yaml")), *sorted(folder.glob("results*.json"))):
        text = path.read_text(encoding="utf-8")
        found[path.stem.replace("-", "_")] = (
            yaml.safe_load(text) if path.suffix == ".yaml" else Results(json.loads(text))
        )
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string((folder / "page.md.j2").read_text(encoding="utf-8"))
    return template.render(**found)


def names() -> list[str]:
    return sorted(path.parent.name for path in HERE.glob("*/page.md.j2"))


if __name__ == "__main__":
    for one in sys.argv[1:] or names():
        (PAGES / f"{one}.md").write_text(page(one), encoding="utf-8")
        print(PAGES / f"{one}.md")
