"""The kinds of evaluation suites, strict, and where every key of a suite's file is described."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from selfimprove.data.sources import DataSource
from selfimprove.recipe.judges import Reader
from selfimprove.recipe.sections import Normalize

Source = Annotated[DataSource, BeforeValidator(lambda v: {"path": v} if isinstance(v, str) else v)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class SuiteOptions(BaseModel):
    """What every suite has: where its items come from, and how many of them count (`limit`: the first)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    name: str
    data: Source
    description: str = ""
    limit: Positive | None = None


class Generated(SuiteOptions):
    """How answers are drawn. `temperatures` replaces the temperature for the items of a group."""

    max_new_tokens: Positive = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    temperatures: dict[str, Annotated[float, Field(ge=0)]] = {}


class ExactMatch(Generated):
    """An answer is right if it equals the reference after the normalisation of both."""

    kind: Literal["exact_match"]
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")


class MultipleChoice(Generated):
    """`by: likelihood`: the choice whose text has the highest log-likelihood is the answer (`score`: summed, lm-eval's
    `acc`; over its characters, lm-eval's `acc_norm`; or over its tokens).
    `by: generation`: the choices are shown with numbers, and the answer is read from what is written."""

    kind: Literal["multiple_choice"]
    by: Literal["likelihood", "generation"] = "likelihood"
    score: Literal["summed", "per_token", "per_character"] = "per_token"


class _Checked(Generated):
    """A checker reads the answers. A larger share that it cannot check than `max_missing` ends the evaluation."""

    max_missing: Share = 0.1


class Math(_Checked):
    """An answer is right if math-verify finds it equal to the reference: the data's `answer`, or what stands behind
    "####" in it (GSM8K)."""

    kind: Literal["math"]


class Code(_Checked):
    """A program is right if it passes its item's tests, in a sandbox. pass@k, from `n` programs drawn an item."""

    kind: Literal["code"]
    tests: Literal["humaneval", "mbpp"]
    n: Positive = 1
    k: Positive = 1
    seconds: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _several_differ(self) -> Self:
        if self.k > self.n:
            raise ValueError(f"pass@{self.k} needs at least so many programs an item; `n` is {self.n}")
        if self.n > 1 and not (self.temperature or self.temperatures):
            raise ValueError(f"{self.n} programs an item are all the same at temperature 0; set `temperature`")
        return self


class CheckedSuite(_Checked):
    """A program decides about each answer. `checker`: the `constraints` of the item's row, IFEval's instructions
    (`ifeval`), or your `function` (`file.py:function` or `module:function`, at most `seconds` an answer), from whose
    score `right_from` on an answer is right."""

    kind: Literal["checked"]
    checker: Literal["constraints", "ifeval", "function"] = "constraints"
    function: str | None = None
    seconds: Annotated[float, Field(gt=0)] = 10.0
    right_from: float = 0.5

    @model_validator(mode="before")
    @classmethod
    def _function_alone(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("function") and "checker" not in values:
            return {**values, "checker": "function"}
        return values

    @model_validator(mode="after")
    def _function_is_there(self) -> Self:
        if (self.checker == "function") != (self.function is not None):
            raise ValueError("checker function needs `function` (file.py:function), and no other checker takes it")
        return self


class SelfCorrection(_Checked):
    """The first turn asks; each later one shows the policy its own attempts and an `instruction` that does not say
    whether they were right. `checker`: what is right, as in the suites of that kind. `samples`: besides the turns, then
    greedy, so many first attempts with one correction each at `temperature` vote against twice as many first ones.

    `feedback` (Self-Refine, arXiv 2303.17651): an instruction by which the policy first writes what is to be said
    about its attempt, in at most `feedback_new_tokens` (by default `max_new_tokens`); only then comes `instruction`.
    """

    kind: Literal["self_correction"]
    instruction: Annotated[str, Field(min_length=1)]
    feedback: Annotated[str, Field(min_length=1)] | None = None
    feedback_new_tokens: Positive | None = None
    turns: Annotated[int, Field(ge=2)] = 2
    checker: Literal["exact_match", "math", "code"] = "exact_match"
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")
    tests: Literal["humaneval", "mbpp"] | None = None
    seconds: Annotated[float, Field(gt=0)] = 10.0
    samples: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.checker == "code") != (self.tests is not None):
            raise ValueError("checker code needs `tests` (humaneval or mbpp), and no other checker takes it")
        if self.feedback_new_tokens and self.feedback is None:
            raise ValueError("`feedback_new_tokens` belongs to `feedback`, the instruction that asks for it")
        if self.samples and self.checker == "code":
            raise ValueError("`samples` vote for the most frequent answer, and programs are seldom equal: leave it out")
        if self.samples and not (self.temperature or self.temperatures):
            raise ValueError(f"{self.samples} samples an item are all the same at temperature 0; set `temperature`")
        return self


class Judged(Generated):
    """A judge reads the answers. A larger share of missing verdicts than `max_missing` ends the evaluation."""

    judge: Reader | None = None
    rubric: str = "alpaca-eval"
    max_missing: Share = 0.1


class PreferenceSuite(Judged):
    """A judge says which of two answers is the better one.

    `against`: `baseline` (the outputs that the data hold), `base` (the run's own model, before any training), a file
    of outputs (.json or .jsonl with `instruction` and `output`), or a policy. `order` in which the judge sees the two:
    `random` (a coin an instruction, AlpacaEval's own) or `both` (asked twice and averaged).
    """

    kind: Literal["preference"]
    against: str = "baseline"
    order: Literal["random", "both"] = "random"


class RatingSuite(Judged):
    """A judge gives each answer a number."""

    kind: Literal["rating"]
    rubric: str = "mt-bench-single"


class LengthSuite(Judged):
    """Texts whose length the query demands: `type` (about, range, above, below) and `constraint` (its words) of each
    row, as in LonGen. `judge`: who scores their quality by the `rubric`; without one only lengths are measured."""

    kind: Literal["length"]
    rubric: str = "longen-quality"

    @model_validator(mode="after")
    def _judge_reads_the_rubric(self) -> Self:
        if self.judge is None and (extra := {"rubric", "max_missing"} & self.model_fields_set):
            raise ValueError(f"{', '.join(sorted(extra))}: for a `judge` of the texts' quality; name one")
        return self


class GradedSuite(_Checked):
    """The policy is measured as a judge: it reads the suite's `rubric`, and its scores are held against what responses
    are worth.

    `checker`: what they are worth, right or wrong as in the suites of that kind; `score`: each row of the data brings a
    `response` and its own `score`, and nothing is sampled. Else `samples` responses an item are drawn from the model
    `answers_of` (`base`: the run's own, before any training). Likelihoods are that model's in any case. `reference`:
    the judge sees the item's reference. A response is good from a gold of `good_from`.
    """

    kind: Literal["graded"]
    checker: Literal["exact_match", "math", "score"] = "exact_match"
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")
    answers_of: str = "base"
    samples: Positive = 4
    temperature: Annotated[float, Field(ge=0)] = 1.0
    rubric: str = "self-judge"
    reference: bool = False
    good_from: float = 1.0

    @model_validator(mode="after")
    def _sampled_or_given(self) -> Self:
        sampling = {"samples", "max_new_tokens", "temperature", "top_p", "temperatures", "normalize"}
        if self.checker == "score" and (extra := sampling & self.model_fields_set):
            raise ValueError(f"checker score takes the data's responses; leave {', '.join(sorted(extra))} out")
        if self.samples > 1 and not (self.temperature or self.temperatures):
            raise ValueError(f"{self.samples} samples an item are all the same at temperature 0; set `temperature`")
        return self


class JudgeSuite(SuiteOptions):
    """Pairs of answers with a known better one, to measure a judge with: `selfimprove eval judge`."""

    kind: Literal["judge"]
    judge: Reader | None = None
    rubric: str = "alpaca-eval"
    max_missing: Share = 0.1


Suite = (
    ExactMatch
    | MultipleChoice
    | Math
    | Code
    | CheckedSuite
    | SelfCorrection
    | GradedSuite
    | PreferenceSuite
    | RatingSuite
    | LengthSuite
    | JudgeSuite
)
