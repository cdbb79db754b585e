"""SIGKILL at ten random moments: the run goes on and ends with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kill_and_resume import kill_and_compare

from selfimprove.recipe.recipe import Recipe


@pytest.mark.parametrize("seed", [0])
def test_ten_kills_end_with_the_undisturbed_weights(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, seed: int
) -> None:
    recipe = tiny_recipe(
        "cream",
        rounds=2,
        training={"checkpoint_steps": 2, "batch_size": 2},
        sft={"epochs": 3},
        cream={"first_round": "sft_middle"},
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.as_yaml())
    killed, undisturbed = kill_and_compare(str(file), tmp_path / "work", 10, 8.0, seed, [])
    assert killed == undisturbed
