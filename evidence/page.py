"""The evidence pages: `python evidence/page.py expert_iteration` writes docs/evidence/NAME.md and its pictures.

A page is a folder here: `page.md.j2`, and what it finds by its name: `study*.yaml`, the `results*.json` that
`selfimprove study` wrote for them (`study_judges`, `results_judges`), and, where figures are no means of items,
`figures.py` with a function `found()` that gives the page more names. `tests/test_evidence_pages.py` makes every page
again and compares.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import yaml
from jinja2 import Environment, StrictUndefined

from selfimprove.study.claims import judged, shown

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
        """The study's claims with what was found."""
        return judged(study["claims"], self.rows)


def found_in(folder: Path) -> Row:
    """What a page finds by its name."""
    found: Row = {}
    for path in (*sorted(folder.glob("*.yaml")), *sorted(folder.glob("results*.json"))):
        text = path.read_text(encoding="utf-8")
        found[path.stem.replace("-", "_")] = (
            yaml.safe_load(text) if path.suffix == ".yaml" else Results(json.loads(text))
        )
    return found


def page(name: str) -> tuple[str, dict[str, str]]:
    """The page's text and its pictures by name, from what its folder holds."""
    folder = HERE / name
    found, pictures = found_in(folder), {}
    if (folder / "figures.py").is_file():
        figures = importlib.import_module(f"{name}.figures")
        if hasattr(figures, "found"):
            found |= figures.found(found)
            pictures = figures.pictures()
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals |= {name: getattr(common, name) for name in ("shown", "each", "plain", "upper", "row", "head")}
    template = environment.from_string((folder / "page.md.j2").read_text(encoding="utf-8"))
    return template.render(**found), pictures


def names() -> list[str]:
    return sorted(path.parent.name for path in HERE.glob("*/page.md.j2"))


def main(chosen: Sequence[str]) -> None:
    for one in chosen or names():
        text, pictures = page(one)
        (PAGES / f"{one}.md").write_text(text, encoding="utf-8")
        for name, svg in pictures.items():
            (PAGES / one).mkdir(exist_ok=True)
            (PAGES / one / name).write_text(svg, encoding="utf-8")
        print(PAGES / f"{one}.md")


if __name__ == "__main__":
    main(sys.argv[1:])
