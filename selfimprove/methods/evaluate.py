"""No training: the recipe's suites on the given model. `selfimprove eval` is this method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.policy import Policy

if TYPE_CHECKING:
    from selfimprove.loop import Loop


def evaluate(loop: Loop) -> Policy:
    """Evaluates the given model and returns it unchanged."""
    loop.evaluate(loop.base_policy)
    return loop.base_policy
