"""Supervised fine-tuning on given examples: the first stage of the other methods, alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, method

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


@method(needs=Needs(seed=True), leaves=("sft",))
def sft(loop: Loop, options: None) -> Policy:
    """Cross-entropy on the response tokens of `data.seed`; prompt and padding are never trained."""
    base = loop.base_policy
    loop.evaluate(base)
    policy = loop.sft(base)
    loop.evaluate(policy)
    return loop.kept(policy)
