"""Section `score` of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.contract import Options
from selfimprove.recipe.judges import Reward
from selfimprove.recipe.sections import INSTRUCTION, Positive, Share, Strict


class ScoreStage(Strict):
    """One stage of `score`."""

    updates: Annotated[int, Field(ge=0)] = 1500
    """Optimizer updates; 0 leaves the stage out."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """By default `training`'s."""
    base_first_attempts: Share = 0.0
    """Share of samples whose first attempt is the base model's, read and not trained."""


class Score(Options):
    """Section `score`. It has two stages and no rounds; `training.batch_size` counts samples an update (of two attempts
    each), and `training.epochs` does nothing. `sampling.top_p` stays 1, and nothing else shapes the samples."""

    reward: Reward = Reward()
    """What is right."""
    instruction: Annotated[str, Field(min_length=1)] = INSTRUCTION
    """The second turn's text, the same whether the first answer was right or wrong; take your suite's."""
    stage_one: ScoreStage = ScoreStage()
    stage_two: ScoreStage = ScoreStage()
    turns: Literal[1, 2] = 2
    """1: single-turn RL (Stage II alone)."""
    alpha: Annotated[float, Field(ge=0)] = 10.0
    """Stage II's bonus: y2 learns from r2 + alpha (r2 - r1)."""
    beta1: Annotated[float, Field(ge=0)] = 0.01
    """Weight of KL(policy to base), but for Stage I's on y1."""
    beta2: Annotated[float, Field(ge=0)] = 0.1
    """Weight of Stage I's KL on y1."""
    kl: Literal["exact", "k2", "k3", "reward"] = "exact"
    """`exact`: over the whole vocabulary at every position. From the sampled tokens alone: `k2`, `k3` (with importance
    weights), `reward` (the log-ratio as a reward to go, the only one that counts later positions)."""
    kl_reduction: Literal["sum", "mean"] = "mean"
    """`mean`: over all tokens of that turn in the batch; `sum`: over a response's tokens, then the mean of responses,
    the formula as written. Like `policy_reduction`'s, it keeps the formula's ratio of reward to KL; `check` prints the
    betas in force."""
    policy_reduction: Literal["sum", "mean"] = "mean"
    """As `kl_reduction`."""
    sampler_weights: Literal["none", "token_truncate", "sequence_mask"] = "none"
    """Weights of the policy gradient by the trainer's to the sampler's probabilities: `token_truncate` (cut at the
    cap), `sequence_mask` (an answer above the cap is left out)."""
    sampler_cap: Annotated[float, Field(ge=1)] = 3.0
    """The cap of those weights."""
    redraw: Annotated[int, Field(ge=0)] = 0
    """So many times the prompts of an update whose samples were all rewarded alike give way to others (DAPO's dynamic
    sampling, arXiv 2503.14476, within a bound)."""
    keep_samples: Positive = 10
    """Of every so many updates, and of the last 10, the samples stay in the step's folder (`samples/`: text, ids,
    reward, advantage)."""
    whiten: bool = False
    """Divides advantages by their spread, which cancels or distorts `alpha`."""
    second_baseline: Literal["prompt", "first_attempt"] = "prompt"
    """The baseline of y2: the prompt's other samples, or those with the same y1."""
    first_attempts: Positive | None = None
    """Distinct first attempts of a prompt, by default `sampling.n`; 1: one, with n second ones. It divides n."""
    passes: Positive = 1
    """Optimizer steps on one batch of samples."""
    clip_range: Annotated[float, Field(gt=0)] | None = None
    """PPO's clipping, for more than one pass."""
    truncated: Literal["wrong", "left_out"] = "wrong"
    """What is truncated is rewarded 0, or neither trained on nor in a baseline."""
    keep: Literal["last", "highest_reward"] = "last"
    """Of a stage: the last policy, or that of the checkpoint whose samples since the one before had the highest mean
    reward at the last turn."""
    share_prompt: bool | Literal["auto"] = "auto"
    """A prompt is computed once for its samples (`auto`: not under gradient checkpointing); how, not what."""
    probe_prompts: Positive = 64
    """Prompts on which the base and each stage's policy are measured."""

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
