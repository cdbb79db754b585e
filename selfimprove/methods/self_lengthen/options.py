"""Section `self_lengthen` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.sections import Positive


class SelfLengthen(Options):
    """Section `self_lengthen`."""

    language: Literal["en", "zh"] = "en"
    """Whose rules a text must keep, and the words of a length demand."""
    instructions: Annotated[int, Field(ge=0)] = 5000
    """New instructions a round, by self-instruct; 0: the round's prompts as they are."""
    instruct_tries: Positive = 10
    """How often what failed is asked again."""
    pool_restart: Positive = 500
    """After so many kept instructions the pool begins anew with the prompts."""
    suitable_words: Positive = 2000
    """The length that an instruction must be called suitable for."""
    initial: Positive = 2
    """The Generator's answers to an instruction."""
    initial_tries: Positive = 20
    """How often an answer that fails is drawn again."""
    extensions: Positive = 2
    """Longer versions of an answer."""
    extension_tries: Positive = 20
    """Tries for each of them."""
    micro_iterations: Positive = 3
    """How often a try lengthens the text."""
    growth: Annotated[float, Field(ge=1)] = 1.2
    """A longer version has more than so many times the answer's words."""
    drop_short: bool = True
    """Short texts are dropped at random after answers and after extensions; of very few texts all may go."""
    restart: bool = False
    """Each role is trained from the base in every round, not from its own adapter of the round before."""
    collect: Annotated[int, Field(ge=0)] = 0
    """So many new instructions (with `instructions: 0` prompts that no round has) the last Generator answers; the
    longest answer to each joins the final model's texts."""
    low: Positive = 2000
    """The least words of a text that the final model learns."""
    high: Positive = 8000
    """Words of a text that is too long for it."""
    step: Positive = 1000
    """Demands are rounded to so many words (in one case of five to twice as many)."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"`low` ({self.low}) must be below `high` ({self.high})")
        return self
