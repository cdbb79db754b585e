"""`ls`: what is shipped, and the runs of a folder with what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from selfimprove.cli.status import events_of, state_of
from selfimprove.errors import InputError, SelfImproveError
from selfimprove.judging.rubric import load_rubric, shipped_rubrics
from selfimprove.report.outcome import outcome_sentences
from selfimprove.report.summary import of_kind, text
from selfimprove.report.table import Col, Table
from selfimprove.runs.folder import Run
from selfimprove.shipped import shipped_recipes, shipped_suites


def shipped_tables() -> dict[str, Table]:
    """Recipes, suites and rubrics, a table each."""
    recipes = [{"recipe": name, **yaml.safe_load(path.read_text())} for name, path in shipped_recipes().items()]
    suites = [{"suite": name, **yaml.safe_load(path.read_text())} for name, path in shipped_suites().items()]
    rubrics = [{"rubric": name} | load_rubric(name, ()).options.model_dump() for name in shipped_rubrics()]
    about = Col("about", lambda row: " ".join(text(row.get("description")).split()))
    return {
        "recipes": Table("", recipes, [Col("recipe"), Col("method"), Col("model")]),
        "suites": Table("", suites, [Col("suite"), about]),
        "rubrics": Table("", rubrics, [Col("rubric"), Col("of"), about]),
    }


def runs_below(folder: Path) -> list[dict[str, Any]]:
    """The runs in a folder and its subfolders, the newest last. One that cannot be read says why in its `state`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `selfimprove run quickstart` makes runs/quickstart")
    files = [
        path for path in folder.glob("**/recipe.yaml") if ".partial-" not in str(path) and path.parent.name != "steps"
    ]
    rows = []
    for file in sorted(files, key=lambda path: path.stat().st_mtime):
        run = Run(file.parent)
        row: dict[str, Any] = {"run": str(file.parent)}
        try:
            recipe, events = run.read_recipe(), events_of(file.parent)
            started = text(next(reversed(of_kind(events, "run")), {}).get("time"))[:16].replace("T", " ")
            row |= {"method": recipe.get("method"), "model": recipe.get("model"), "started": started}
            row |= {"state": state_of(run.holder(), events), "outcome": " ".join(outcome_sentences(events)[:1])}
        except SelfImproveError as error:
            row["state"] = f"cannot be read: {error}"
        rows.append(row)
    return rows


def runs_table(rows: list[dict[str, Any]]) -> Table:
    return Table("", rows, [Col("run"), Col("state"), Col("outcome"), Col("method"), Col("model"), Col("started")])
