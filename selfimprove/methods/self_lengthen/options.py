"""Section `self_lengthen` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.sections import Positive


class SelfLengthen(Options):
    """Self-Lengthen's own options; see `selfimprove/methods/self_lengthen/self_lengthen.py`.

    language: whose rules a text must keep. instructions: new ones a round by self-instruct, in at most `instruct_tries`
    tries from a pool that begins anew every `pool_restart`; 0 takes the round's prompts as they are. initial: answers
    to each, extensions: longer versions of each, with their tries; micro_iterations: how often one grows. growth:
    how many times the words of the answer it must have. low, high: words of what the final model learns, with length
    demands in steps of `step` words (in one case of five of twice as many). restart: each role is trained from the base
    in every round, not from its own adapter of the round before. collect: so many new instructions the last Generator
    answers, each with its longest answer for the final model.
    """

    language: Literal["en", "zh"] = "en"
    instructions: Annotated[int, Field(ge=0)] = 5000
    instruct_tries: Positive = 10
    pool_restart: Positive = 500
    suitable_words: Positive = 2000
    initial: Positive = 2
    initial_tries: Positive = 20
    extensions: Positive = 2
    extension_tries: Positive = 20
    micro_iterations: Positive = 3
    growth: Annotated[float, Field(ge=1)] = 1.2
    drop_short: bool = True
    restart: bool = False
    collect: Annotated[int, Field(ge=0)] = 0
    low: Positive = 2000
    high: Positive = 8000
    step: Positive = 1000

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"`low` ({self.low}) must be below `high` ({self.high})")
        return self
