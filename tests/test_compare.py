"""Runs side by side, and the lists: for people, and as JSON for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import selfimprove
from selfimprove.errors import InputError
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.terminal import Progress
from selfimprove.runs.compare import comparison, paired, read_runs

MakeRecipe = Callable[..., Recipe]
ENV = {**os.environ, "PYTHONPATH": str(Path(selfimprove.__file__).parents[1])}  # in a work tree, its own package


def command(*words: str, folder: Path, code: int = 0) -> str:
    run = [sys.executable, "-c", "from selfimprove.cli import main; main()", *words]
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder, env=ENV, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def evaluated(values: list[float | None], items: list[str] | None, **more: Any) -> dict[str, Any]:
    return {"event": "evaluation", "suite": "s", "policy": "M1", "values": values, "metric": "accuracy"} | (
        {"items": items, **more} if items is not None else more
    )


def test_only_shared_items_are_compared() -> None:
    found = paired(evaluated([1, 0, 1], ["a", "b", "c"]), evaluated([0, 1, None, 1], ["c", "b", "a", "d"]))
    assert found is not None and found["n"] == 2 and found["value"] == pytest.approx(0.0)
    assert paired(evaluated([1], ["a"]), evaluated([1], ["b"])) is None
    assert paired(evaluated([1], ["a"]), evaluated([1], ["a"], metric="rating")) is None
    older = paired(evaluated([0, 0], None), evaluated([1, 1], None))
    assert older is not None and older["value"] == 1 and paired(evaluated([0], None), evaluated([1, 1], None)) is None


_MADE: list[Path] = []


@pytest.fixture
def two_runs(tiny_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if _MADE:  # once for all tests, which only read them
        return _MADE[0]
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-5), ("fast", 1e-2)):
        recipe = tiny_recipe("sft", output=str(folder / "runs" / name), training={"learning_rate": rate})
        selfimprove.run(recipe, Progress(Console(quiet=True)))
    _MADE.append(folder)
    return folder


def test_two_runs_are_compared_in_the_terminal_on_a_page_and_as_json(two_runs: Path) -> None:
    said = command("compare", "runs/slow", "runs/fast", folder=two_runs)
    assert "fast against slow" in said and "shared items" in said and "training.learning_rate" in said
    page = (two_runs / "compare.html").read_text()
    assert "slow and fast compared" in page and "<svg" in page and "Which is better?" in page and "Gates" not in page
    found = json.loads(command("compare", "runs/slow", "runs/fast", "--json", folder=two_runs))
    (keys,) = [part["tables"]["Recipes"] for part in found["parts"] if "Recipes" in part["tables"]]
    assert {"key": "training.learning_rate", "slow": 1e-5, "fast": 1e-2} in keys
    assert not any(row["key"] == "output" for row in keys)


def test_what_is_no_run_is_said(two_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name at least two runs"):
        read_runs([two_runs / "runs" / "slow"] * 2)
    assert "no recipe.yaml there" in command("compare", "runs/slow", "nothing", folder=two_runs, code=2)
    assert "no such folder" in command("ls", "runs", folder=tmp_path, code=2)
    assert "expected recipes, suites, rubrics, runs" in command("ls", "recipe", folder=tmp_path, code=2)


def test_runs_that_share_no_suite_are_said_to(two_runs: Path) -> None:
    runs = read_runs([two_runs / "runs" / "slow", two_runs / "runs" / "fast"])
    for event in runs[1].events:
        event |= {"suite": "another"} if event["event"] == "evaluation" else {}
    sentences, _ = comparison(runs)
    assert sentences == ["slow shares no suite with measured items with fast."]


def test_runs_are_listed_with_what_came_of_them(two_runs: Path) -> None:
    rows = json.loads(command("ls", "runs", "--json", folder=two_runs))["runs"]
    assert [row["run"] for row in rows] == ["runs/slow", "runs/fast"]
    assert all(row["state"] == "finished" and row["outcome"].startswith("tiny: M0") for row in rows)
    (two_runs / "runs" / "broken").mkdir(exist_ok=True)
    (two_runs / "runs" / "broken" / "recipe.yaml").write_text("a: [")
    assert "cannot be read" in command("ls", "runs", folder=two_runs)


def test_status_and_doctor_speak_json(two_runs: Path) -> None:
    found = json.loads(command("status", "runs/fast", "--json", folder=two_runs))
    assert found["state"] == "finished" and found["outcome"] and found["under way"] == []
    assert all(
        step["files"] == "whole" and (two_runs / "runs/fast/steps" / step["folder"]).is_dir() for step in found["steps"]
    )
    assert {"what", "found", "note", "good"} <= set(json.loads(command("doctor", "--json", folder=two_runs))[0])
    shipped = json.loads(command("ls", "--json", folder=two_runs))
    assert set(shipped) == {"recipes", "suites", "rubrics"} and any(
        row["recipe"] == "smollm2-135m/quickstart" for row in shipped["recipes"]
    )


def test_check_speaks_json(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = tiny_recipe("sft", output=str(tmp_path / "run"))
    (Path(recipe.folder) / "tiny.yaml").write_text(recipe.as_yaml())
    found = json.loads(command("check", "tiny.yaml", "--json", folder=Path(recipe.folder)))
    assert found["fits"] is True and found["tokens"]["trained"] > 0 and found["memory"] and not found["not known"]
    assert not (tmp_path / "run").exists()
