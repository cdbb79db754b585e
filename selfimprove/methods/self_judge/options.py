"""Section `self_judge` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.sections import Share


class SelfJudge(Options):
    """Self-J's own options; see `selfimprove/methods/self_judge/self_judge.py`.

    rubric: what the judge is asked, with parser `digits` and a prompt that shows a reference. embedding: the sentence
    embedding of z2. self_evaluation: z1's weight in the label (1: it alone, 0: similarity alone). scaling: how both are
    brought to 0..9 over the training set. ce_reference, ce_plain, distillation: weights of the loss's three parts.
    restart: every round's judge is trained from the judged model, not from the judge before. held_out: the share of a
    round's prompts whose examples are not trained on but ranked by the judge. min_correlation: the run stops where
    Spearman's correlation with their labels is not above it; without it that is only said.
    """

    rubric: str = "self-judge"
    embedding: str = "all-minilm-l6-v2"
    self_evaluation: Share = 0.5
    scaling: Literal["ranks", "min_max"] = "ranks"
    ce_reference: Annotated[float, Field(ge=0)] = 1.0
    ce_plain: Annotated[float, Field(ge=0)] = 0.3
    distillation: Annotated[float, Field(ge=0)] = 2.0
    restart: bool = True
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    min_correlation: Annotated[float, Field(ge=-1, le=1)] | None = None

    @model_validator(mode="after")
    def _learns_to_judge_alone(self) -> Self:
        if not (self.ce_plain or (self.distillation and self.ce_reference)):
            raise ValueError(
                "nothing would teach the judge to do without the reference: `ce_plain` is 0, and so is `distillation`, "
                "or `ce_reference`, which teaches what is distilled"
            )
        return self
