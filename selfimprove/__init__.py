"""selfimprove: a language model generates, judges its own answers, trains on what it judged, and does it again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfimprove.models.policy import Policy
    from selfimprove.recipe.recipe import Recipe, load_recipe
    from selfimprove.runs.execute import run

# TRL's trainers report their use to the hub unless told otherwise; a person who wants that sets it to 0.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__all__ = ["Policy", "Recipe", "load_recipe", "run"]
_WHERE = {
    "Recipe": "recipe.recipe",
    "load_recipe": "recipe.recipe",
    "run": "runs.execute",
    "Policy": "models.policy",
}


def __getattr__(name: str) -> Any:
    # Importing torch and its friends takes seconds; `selfimprove ls` should not wait for them.
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"selfimprove.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'selfimprove' has no attribute {name!r}")
