"""One line says where a run is: what is known, and nothing that is not."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from selfimprove.recipe.recipe import Recipe
from selfimprove.report.overall import Overall
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.folder import Run


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_run_before_it_says_the_step_alone() -> None:
    overall = Overall(clock=Clock())
    assert overall.line() == ""
    overall.begin("sample M0")
    assert overall.line() == "step 1"
    overall.finish("sample M0|ab", 3.0)
    overall.finish("sample M0|ab", 3.0)  # a run that goes on walks through it once more
    overall.round, overall.rounds = 1, 2
    overall.begin("DPO M0 to M1")
    overall.figures = {"loss": 0.6931, "margin": 0.125, "grad_norm": 3.0}
    assert overall.line() == "round 1 of 2, step 2, loss 0.693, margin +0.12"


def test_time_left_is_the_earlier_runs_at_this_runs_speed() -> None:
    clock = Clock()
    overall = Overall([("a", 10.0), ("b", 20.0), ("b", 100.0), ("c", 30.0)], clock)
    overall.begin("a")
    assert overall.line() == "step 1 of 4, 2 min 40 s left"
    clock.now = 4.0
    assert overall.line() == "step 1 of 4, 2 min 36 s left"
    overall.finish("a|1", 20.0)  # twice as slow as before
    assert overall.seconds_left() == (20 + 100 + 30) * 2
    overall.begin("b")
    clock.now = 400.0
    assert overall.seconds_left() == 0, "late, and not less than nothing"
    overall.finish("b|1", None)  # reused: says nothing of the speed
    assert overall.seconds_left() == (100 + 30) * 2
    for place, label in enumerate(("b", "c", "more")):
        overall.begin(label)
        overall.finish(f"{label}|{place}2", 200.0)
    assert overall.line() == "step 5", "a run that takes another way has neither"


def test_a_second_seed_knows_its_steps_and_a_training_its_loss(tiny_recipe: Callable[..., Recipe]) -> None:
    said = []
    for seed, output in ((0, "first"), (1, "second"), (1, "second")):
        recipe = tiny_recipe("iterative_dpo", rounds=1, seed=seed)
        recipe = recipe.model_copy(update={"output": f"{recipe.output}-{output}"})
        console = Console(file=io.StringIO(), width=500)
        result = run(recipe, Progress(console))
        assert not list(result.folder.rglob("latest.json")), "it is no part of a step"
        said.append(console.file.getvalue())  # type: ignore[attr-defined]
    steps = re.findall(r"done, .*\((?:round 1 of 1, )?step (\d+)( of \d+)?", said[0])
    assert [int(one) for one, _ in steps] == list(range(1, len(steps) + 1)) and not any(of for _, of in steps)
    steps = re.findall(r"done, .*\((?:round 1 of 1, )?step (\d+) of (\d+), .* left", said[1])
    assert steps and {int(of) for _, of in steps} == {len(steps)} and int(steps[-1][0]) == len(steps)
    trained = next(line for line in said[0].splitlines() if re.match(r"DPO M\d to M\d: done, ", line))
    assert re.search(r"\(round 1 of 1, step \d+, loss \d\.\d{3}, margin [+-]\d\.\d\d\)$", trained), trained
    assert ": done, " not in said[2] and said[2].count("already done, reused") >= len(steps)


def test_only_a_finished_run_of_the_same_recipe_counts(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe("sft")
    result = run(recipe, Progress(Console(file=io.StringIO())))
    place = Run(result.folder.with_name("other"))
    other = recipe.model_copy(update={"output": str(place.folder), "seed": 7})
    found = place.before(other)
    assert [label for label, _ in found] == [one["label"] for one in result.events if one["event"] == "step"]
    assert place.before(other.model_copy(update={"evaluate_limit": 1})) == []
    events = result.folder / "metrics.jsonl"
    whole = events.read_text()
    events.write_text("".join(line for line in whole.splitlines(True) if '"event": "done"' not in line))
    assert place.before(other) == []
    events.write_text("{broken\n" + whole)
    assert place.before(other) == []


@pytest.mark.parametrize("width", [40, 60, 100])
def test_the_line_stands_over_the_bar_and_no_row_is_cut_or_wrapped(width: int) -> None:
    output = io.StringIO()
    progress = Progress(Console(file=output, force_terminal=True, width=width, height=20), live=True)
    progress.overall = Overall([("instructions with M1", 99.0)] * 18)
    progress.overall.begin("instructions with M1")
    progress.overall.figures = {"loss": 0.41, "margin": 0.3}
    with progress.task("instructions with M1", total=204, unit="responses") as advance:
        advance(10)
        assert progress._bars is not None
        progress._bars.refresh()
        shown = [str(line) for line in progress.console.render_lines(progress._bars.get_renderable(), pad=False)]
    assert len(shown) == (3 if width == 40 else 2)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    assert "step 1 of 18" in plain and "10/204" in plain
    assert all(len(line) <= width for line in re.split(r"[\r\n]", plain) if "done, " not in line)
    assert ("━" in plain) == (width >= 80)
