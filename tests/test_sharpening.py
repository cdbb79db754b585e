"""SFT-Sharpening: the base's own best draws, kept by hand-computed rewards, and a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import selfimprove
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.errors import InputError, RunFailed
from selfimprove.methods.sharpening import best_of
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.terminal import Progress

MakeRecipe = Callable[..., Recipe]


def drawn(*finish: str) -> Responses:
    prompt = RenderedPrompt("p", (1, 2), "q")
    draws = [Response("p", i, (3 + i,), how, f"t{i}") for i, how in enumerate(finish)]
    return Responses({"p": prompt}, {"p": draws})


@pytest.mark.parametrize(
    ("finish", "rewards", "index"),
    [
        (("stop", "stop", "stop"), [-2.0, -0.5, -1.0], 1),
        (("stop", "length", "stop"), [-2.0, -0.5, -1.0], 2),  # a truncated one is never kept
        (("stop", "stop", "stop"), [None, -3.0, None], 1),  # missing is not low
        (("stop", "stop", "stop"), [-1.0, -1.0, -1.0], 0),  # equal: the first
    ],
)
def test_the_likeliest_finished_draw_is_kept(finish: tuple[str, ...], rewards: list[Any], index: int) -> None:
    kept, skipped = best_of(drawn(*finish), {"p": rewards})
    assert [one.index for _, one in kept] == [index] and not skipped


def test_a_prompt_without_a_usable_draw_is_counted_by_reason() -> None:
    assert best_of(drawn("length", "length"), {"p": [-1.0, -2.0]}) == ([], {"truncated": 1})
    assert best_of(drawn("stop", "stop"), {"p": [None, None]}) == ([], {"without_reward": 1})


def run(recipe: Recipe) -> Any:
    return selfimprove.run(recipe, Progress(Console(quiet=True)))


def test_every_round_trains_the_base_on_its_own_best_draws(tiny_recipe: MakeRecipe, writing_model: Path) -> None:
    recipe = tiny_recipe("sharpening", model=str(writing_model), rounds=2, sampling={"max_new_tokens": 40})
    result = run(recipe)
    trainings = [event for event in result.events if event["event"] == "training"]
    base = next(event for event in result.events if event["event"] == "run")["model_digest"]
    assert [event["start_digest"] for event in trainings] == [base, base]
    figures = [event["figures"] for event in result.events if event["event"] == "figures"]
    assert [one["prompts"] for one in figures] == [8, 8] and all(0 < one["kept"] <= 8 for one in figures)
    assert "sharpening" in (Path(recipe.output) / "report.html").read_text()


def test_its_judge_may_be_any_and_stand_at_the_top(tiny_recipe: MakeRecipe, writing_model: Path) -> None:
    recipe = tiny_recipe("sharpening", judge={"kind": "majority"})
    assert recipe.options.judge.kind == "majority" and recipe.judge is None
    assert recipe.sampling.temperature == 1
    with pytest.raises(InputError, match=r"`sampling\.n` is 1, and method 'sharpening' compares"):
        tiny_recipe("sharpening", sampling={"n": 1})


def test_a_model_that_never_ends_is_said(tiny_recipe: MakeRecipe) -> None:
    with pytest.raises(RunFailed, match="no draw is finished and has a reward"):
        run(tiny_recipe("sharpening", rounds=1, evaluate=[], sampling={"max_new_tokens": 1, "n": 2}))
