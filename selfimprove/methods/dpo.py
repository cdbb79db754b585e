"""DPO on given pairs (Rafailov et al., arXiv 2305.18290), with an optional confidence per pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.loop.data import responses_of
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, method

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


@method(needs=Needs(pairs=True))
def dpo(loop: Loop, options: None) -> Policy:
    """One DPO stage on `data.pairs`; the loss reference is the given model, scored once before training."""
    base = loop.base_policy
    loop.evaluate(base)
    pairs = loop.data.pairs
    policy = loop.dpo(base, pairs, reference=loop.log_probs(responses_of(pairs), base)).policy
    loop.evaluate(policy)
    return loop.kept(policy)
