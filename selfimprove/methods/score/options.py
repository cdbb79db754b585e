"""Section `score` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.judges import Reward
from selfimprove.recipe.sections import INSTRUCTION, Positive, Share, Strict


class ScoreStage(Strict):
    """One stage of `score`: its optimizer updates (0 leaves it out) and, where not `training`'s, its learning rate.
    `base_first_attempts`: the share of samples whose first attempt is the base model's, read and not trained."""

    updates: Annotated[int, Field(ge=0)] = 1500
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    base_first_attempts: Share = 0.0


class Score(Options):
    """SCoRe's own options; see `selfimprove/methods/score/score.py`.

    turns: 1 is single-turn RL. first_attempts: distinct first attempts of a prompt's `sampling.n` samples (by default
    as many). passes: optimizer steps on one batch of samples, with `clip_range` as PPO clips. truncated: `wrong` is
    rewarded 0, `left_out` is neither trained on nor in a baseline. keep: the last policy of a stage, or that of the
    checkpoint whose samples since the one before had the highest mean reward at the last turn. sampler_weights,
    sampler_cap: see `methods/score/sampler_weights.py`. redraw: so many times the prompts of an update whose samples
    were all rewarded alike are replaced by others (DAPO's dynamic sampling, arXiv 2503.14476, within a bound).
    keep_samples: of every so many updates the samples are kept in the step's folder, and of the last ones.
    """

    reward: Reward = Reward()
    instruction: Annotated[str, Field(min_length=1)] = INSTRUCTION
    stage_one: ScoreStage = ScoreStage()
    stage_two: ScoreStage = ScoreStage()
    turns: Literal[1, 2] = 2
    alpha: Annotated[float, Field(ge=0)] = 10.0
    beta1: Annotated[float, Field(ge=0)] = 0.01
    beta2: Annotated[float, Field(ge=0)] = 0.1
    kl: Literal["exact", "k2", "k3", "reward"] = "exact"
    kl_reduction: Literal["sum", "mean"] = "mean"
    policy_reduction: Literal["sum", "mean"] = "mean"
    sampler_weights: Literal["none", "token_truncate", "sequence_mask"] = "none"
    sampler_cap: Annotated[float, Field(ge=1)] = 3.0
    redraw: Annotated[int, Field(ge=0)] = 0
    keep_samples: Positive = 10
    whiten: bool = False
    second_baseline: Literal["prompt", "first_attempt"] = "prompt"
    first_attempts: Positive | None = None
    passes: Positive = 1
    clip_range: Annotated[float, Field(gt=0)] | None = None
    truncated: Literal["wrong", "left_out"] = "wrong"
    keep: Literal["last", "highest_reward"] = "last"
    share_prompt: bool | Literal["auto"] = "auto"
    probe_prompts: Positive = 64

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if not (self.stage_one.updates or self.stage_two.updates):
            raise ValueError("both stages have 0 updates: nothing would be trained")
        if self.turns == 1 and self.stage_one.updates:
            raise ValueError("Stage I trains the second turn: with `turns: 1` set stage_one.updates to 0")
        if self.turns == 1 and self.stage_two.base_first_attempts:
            raise ValueError("the base's first attempts are read by second ones: there are none with `turns: 1`")
        if self.clip_range is not None and self.passes == 1:
            raise ValueError("`clip_range` needs `passes` of 2 or more: in one pass every ratio is 1")
        if self.reward.kind == "reward_model" and self.truncated == "wrong":
            raise ValueError("a reward model's scores have no zero that means wrong: set `truncated: left_out`")
        if self.turns == 1 and self.first_attempts:
            raise ValueError("`first_attempts` shares them among second attempts: there are none with `turns: 1`")
        return self
