"""No training: the recipe's suites on the given models. `selfimprove eval` is this method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, task

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


@task(needs=Needs(suites=True), reads=("policies",), over="loop")
def evaluate(loop: Loop, options: None) -> Policy:
    """Evaluates the given model, then those under `policies`, each compared with the first; returns the first."""
    for place, policy in enumerate(loop.measured):
        loop.evaluator.evaluate(policy, place)
    return loop.base_policy
