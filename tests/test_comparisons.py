"""Responses ranked two at a time, in both orders."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import selfimprove
from selfimprove.artefacts import Store, read_rows
from selfimprove.errors import InputError
from selfimprove.judging import comparisons
from selfimprove.judging.comparisons import won_shares
from selfimprove.judging.rubric import load_rubric
from selfimprove.loop.dry import walk
from selfimprove.loop.loop import Loop
from selfimprove.recipe.recipe import Recipe, load_recipe
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.shipped import recipe_file, recipes_folder

MakeRecipe = Callable[..., Recipe]


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(comparisons).failed == 0


def test_shares_by_hand() -> None:
    wins = {
        (0, 1): 0.9, (1, 0): 0.3,  # 0 beats 1 by (.9 + .7) / 2 = .8
        (0, 2): 0.6, (2, 0): 0.6,  # the order decides: .5
        (1, 2): None, (2, 1): 0.1,  # left out
    }  # fmt: skip
    verdicts = {pair: (value, None if value is not None else "cut") for pair, value in wins.items()}
    assert [value for value, _ in won_shares(3, verdicts)] == pytest.approx([0.65, 0.2, 0.5])
    assert won_shares(1, {}) == [(None, "there is no other response to compare it with")]


def test_a_loop_from_prompts_alone(tiny_recipe: MakeRecipe, tiny_data: Path) -> None:
    """The policy compares its own answers; no label and no seed example is read."""
    recipe = tiny_recipe(
        "iterative_dpo",
        rounds=1,
        data={"prompts": str(tiny_data / "prompts.jsonl"), "prompts_per_round": 4},
        iterative_dpo={"sft": False, "judge": {"kind": "rubric", "rubric": "pair-plain"}},
        evaluate=[],
    )
    selfimprove.run(recipe)
    assert (Path(recipe.output) / "policies" / "M1").is_dir()
    (judged,) = [folder for folder in (Path(recipe.output) / "steps").iterdir() if _questions(folder)]
    assert len(_questions(judged)) <= 4 * 3 * 2  # 4 prompts, 3 pairs of 3 responses, 2 orders


def _questions(step: Path) -> set[str]:
    """The ids of what a judge was asked in a step, if it was."""
    asked = step / "inputs" / "responses.arrow"
    return {row["prompt_id"] for row in read_rows(asked) if ">" in row["prompt_id"]} if asked.is_file() else set()


def test_what_it_takes_is_walked(tiny_recipe: MakeRecipe) -> None:
    """Six ordered pairs of three responses are asked about, each question with both texts in it."""
    recipe = tiny_recipe(
        "iterative_dpo",
        rounds=1,
        data={"prompts_per_round": 4},
        iterative_dpo={"sft": False, "judge": {"kind": "rubric", "rubric": "pair-plain"}},
        evaluate=[],
    )
    quiet = Progress(Console(quiet=True))
    loop = Loop(recipe, Store(Path(recipe.output) / "steps"), EventLog(Path(recipe.output), wait=True), quiet)
    found = walk(loop)
    (asked,) = [step.dry for step in found.steps if step.dry.plan and step.dry.plan.prompt > 200]
    assert len({row["prompt_id"] for row in asked.rows}) == 4 * 6 and not found.unknown


def test_the_shipped_recipe_reads_prompts_alone() -> None:
    recipe = load_recipe(str(recipe_file("smollm2-135m/prompts-only")))
    assert recipe.data.seed is None and not recipe.iterative_dpo.sft and recipe.iterative_dpo.judge.kind == "rubric"
    assert load_rubric(str(recipe.iterative_dpo.judge.rubric), [recipes_folder()]).options.of == "pair"


@pytest.mark.parametrize("method", ["score", "star"])
def test_a_reward_is_of_one_response(tiny_recipe: MakeRecipe, method: str) -> None:
    own: dict[str, Any] = {"training": {"batch_size": 6}, "evaluate": [], method: {"reward": "pair-plain"}}
    with pytest.raises(InputError, match="compares two responses; one that rates is needed"):
        selfimprove.run(tiny_recipe(method, **own))
