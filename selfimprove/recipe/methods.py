"""The sections of a recipe that one method alone reads, each under its method's name; see `recipe_sections.py`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selfimprove.recipe.judges import JudgeOptions, Reader, Reward
from selfimprove.recipe.sections import Positive, Share, Strict


class Cream(Strict):
    """CREAM's own options; see `selfimprove/methods/cream.py`."""

    measure: Literal["kendall", "kendall_b", "spearman", "top_order"] = "kendall"
    weight: Literal["avg", "dyn", "constant"] = "avg"
    constant: Share = 1.0
    first_round: Literal["likelihood", "sft_middle", "none"] = "likelihood"
    floor: bool = False


class IterativeDpo(Strict):
    """`dpo_reference`: the loss reference of every round, the current policy or the initial one (M1)."""

    judge: JudgeOptions = JudgeOptions(kind="implicit_reward")
    dpo_reference: Literal["current", "initial"] = "current"
    sft: bool = True


class ExpertIteration(Strict):
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
        if self.accept != "threshold" and (
            self.judge.rate is not None or (self.judge.kind == "random" and self.judge.of)
        ):
            raise ValueError("a `random` judge at a rate says which responses are accepted: take accept: threshold")
        if self.pairs and self.replay:
            raise ValueError("`replay` brings kept rows back, and `pairs` trains on pairs: leave one of them out")
        return self


class ScoreStage(Strict):
    """One stage of `score`: its optimizer updates (0 leaves it out) and, where not `training`'s, its learning rate.
    `base_first_attempts`: the share of samples whose first attempt is the base model's, read and not trained."""

    updates: Annotated[int, Field(ge=0)] = 1500
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    base_first_attempts: Share = 0.0


INSTRUCTION = (
    "There might be an error in the answer above because of lack of understanding of the question. Please correct the "
    "error, if any, and rewrite the answer. Only output the final answer, in the same form."
)


class Score(Strict):
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


class Star(Strict):
    """STaR and Pair-SFT on the policy's own traces; see `selfimprove/methods/star.py`.

    traces: `corrections` keeps those whose first attempt is wrong and second is right (STaR), `pairs` draws a right
    attempt of the same prompt to stand behind a wrong first one (Pair-SFT). right_to_right: right first attempts are
    kept too, with a right answer behind them. restart: every round trains the base model, not the last round's.
    """

    reward: Reward = Reward()
    instruction: Annotated[str, Field(min_length=1)] = INSTRUCTION
    traces: Literal["corrections", "pairs"] = "corrections"
    right_to_right: bool = False
    restart: bool = True
    most_per_prompt: Positive = 4


class SelfJudge(Strict):
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


class JudgeFile(Strict):
    """What `selfimprove judge` does with the responses of `data.prompts`; `reference`: the judge sees the reference."""

    judge: Reader = Reader()
    reference: bool = False


class Answer(Strict):
    """What `selfimprove answer` does; see `selfimprove/tasks/answer.py`.

    prompt: one prompt, instead of `data.prompts`. n: answers drawn for a prompt, by default 8 with a judge and 1
    without; temperature: by default 0.8, and 0 for one answer. threshold: the score below which the best answer is
    declined; or `data.held_out` and either the `precision` or the `coverage` that it is to have there, where `checker`
    says which answers are good.
    """

    judge: Reader | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    n: Positive | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = 256
    threshold: float | None = None
    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    coverage: Annotated[float, Field(gt=0, le=1)] | None = None
    checker: Literal["exact_match", "math"] = "exact_match"

    @model_validator(mode="after")
    def _declines_by_one_bound(self) -> Self:
        bounds = [self.threshold, self.precision, self.coverage]
        if sum(bound is not None for bound in bounds) > 1:
            raise ValueError("keep one of `threshold`, `precision` and `coverage`: each alone says what is declined")
        if self.judge is None and (any(bound is not None for bound in bounds) or (self.n or 1) > 1):
            raise ValueError(
                "to pick among `n` answers, or to decline below a `threshold`, needs a `judge` whose scores decide"
            )
        if (self.n or 8) > 1 and self.judge is not None and self.temperature == 0:
            raise ValueError("at `temperature` 0 all `n` answers to a prompt are the same; raise it, or set n to 1")
        return self

    @property
    def drawn(self) -> tuple[int, float]:
        """(n, temperature), with their defaults."""
        n = self.n or (8 if self.judge else 1)
        return n, (0.8 if n > 1 else 0.0) if self.temperature is None else self.temperature


class SelfLengthen(Strict):
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
