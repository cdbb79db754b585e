"""Section `expert_iteration` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.recipe.sections import Positive, Share


class ExpertIteration(Options):
    """Section `expert_iteration`."""

    judge: JudgeOptions = JudgeOptions(kind="exact_match")
    """Who decides."""
    accept: Literal["threshold", "best", "top_share"] = "threshold"
    """Of a round's finished responses: those that score `judge.right_from` or more, a prompt's highest, or the highest
    `top_share` of all."""
    top_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """For `accept: top_share`."""
    most_per_prompt: Positive = 10
    """Of a prompt's accepted responses at most so many are kept."""
    distinct: bool = True
    """No two of them are alike but for case and white space."""
    mixed_only: bool = False
    """None of them where all of the prompt's were accepted."""
    restart: Literal["base", "current"] = "base"
    """Every round trains the base, or goes on with the policy that sampled."""
    replay: Share = 0.0
    """The share of every earlier round's kept rows that is trained again."""
    rows: Literal["each_round", "first_round"] = "each_round"
    """What is trained: this round's kept rows, or (a control of equal compute) as many of round 1's."""
    pairs: bool = False
    """DPO on accepted against refused responses of the same samples, with `training`'s settings, in the place of SFT
    with `sft`'s."""

    @model_validator(mode="after")
    def _accepts(self) -> Self:
        if self.accept == "threshold" and not self.judge.bounded:
            raise ValueError(
                f"accept: threshold needs `judge.right_from`: scores of kind {self.judge.kind!r} have no place of "
                "their own from which on a response is right; give it, or take accept: best or top_share"
            )
        if self.accept != "top_share" and self.top_share != ExpertIteration.model_fields["top_share"].default:
            raise ValueError("`top_share` is for accept: top_share")
        if self.rows == "first_round" and (self.replay or self.pairs):
            raise ValueError("`rows: first_round` trains round 1's rows by SFT: leave `replay` and `pairs` out")
        if self.accept != "threshold" and (
            self.judge.rate is not None or (self.judge.kind == "random" and self.judge.of)
        ):
            raise ValueError("a `random` judge at a rate says which responses are accepted: take accept: threshold")
        if self.pairs and self.replay:
            raise ValueError("`replay` brings kept rows back, and `pairs` trains on pairs: leave one of them out")
        return self
