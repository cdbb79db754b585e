"""Section `expert_iteration` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.recipe.sections import Positive, Share


class ExpertIteration(Options):
    """Expert iteration's own options; see `selfimprove/methods/expert_iteration/expert_iteration.py`.

    accept: of a round's finished responses `threshold` takes those that score `judge.right_from` or more, `best` a
    prompt's highest, `top_share` the highest `top_share` of all. Of a prompt's accepted ones at most `most_per_prompt`
    are kept, no two alike if `distinct`, and none if `mixed_only` and all of them were accepted. restart: every round
    trains the base model, or goes on with the current policy. replay: the share of earlier rounds' kept rows that is
    trained again. rows: what is trained, this round's kept rows, or (a control of equal compute) as many of round 1's.
    pairs: DPO on accepted against refused responses, with `training`'s settings, in the place of SFT with `sft`'s.
    """

    judge: JudgeOptions = JudgeOptions(kind="exact_match")
    accept: Literal["threshold", "best", "top_share"] = "threshold"
    top_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    most_per_prompt: Positive = 10
    distinct: bool = True
    mixed_only: bool = False
    restart: Literal["base", "current"] = "base"
    replay: Share = 0.0
    rows: Literal["each_round", "first_round"] = "each_round"
    pairs: bool = False

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
        if self.accept != "threshold" and self.judge.at_rate:
            raise ValueError("a `random` judge at a rate says which responses are accepted: take accept: threshold")
        if self.pairs and self.replay:
            raise ValueError("`replay` brings kept rows back, and `pairs` trains on pairs: leave one of them out")
        return self
