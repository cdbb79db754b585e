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
    """What every suite has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    """One of the kinds below; your own as `file.py:kind` beside the suite (docs/write-a-method.md)."""
    name: str
    """What reports call it."""
    data: Source
    """Where the items come from."""
    description: str = ""
    """A line for `selfimprove ls`."""
    limit: Positive | None = None
    """The first items."""


class Generated(SuiteOptions):
    """How answers are drawn."""

    max_new_tokens: Positive = 256
    """Tokens of an answer; a longer one is truncated."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    temperatures: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Replaces the temperature for the items of a group: `{writing: 0.7}`."""


class ExactMatch(Generated):
    """An answer is right if it equals the reference after the normalisation of both."""

    kind: Literal["exact_match"]
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")
    """What is done to answer and reference."""


class MultipleChoice(Generated):
    """Questions with `choices`."""

    kind: Literal["multiple_choice"]
    by: Literal["likelihood", "generation"] = "likelihood"
    """`likelihood`: the choice whose text has the highest log-likelihood is the answer; `generation`: the choices are
    shown with numbers, and the answer is read from what is written."""
    score: Literal["summed", "per_token", "per_character"] = "per_token"
    """The log-likelihood of a choice: summed (lm-eval's `acc`), over its tokens, or over its characters (lm-eval's
    `acc_norm`)."""


class _Checked(Generated):
    """A checker reads the answers."""

    max_missing: Share = 0.1
    """A larger share of answers that cannot be checked ends the evaluation."""


class Math(_Checked):
    """An answer is right if math-verify finds it equal to the reference: the data's `answer`, or what stands behind
    "####" in it (GSM8K)."""

    kind: Literal["math"]


class Code(_Checked):
    """A program is right if it passes its item's tests, in a sandbox: pass@k, from `n` programs an item."""

    kind: Literal["code"]
    tests: Literal["humaneval", "mbpp"]
    """Whose form the items have."""
    n: Positive = 1
    """Programs drawn an item."""
    k: Positive = 1
    """Of pass@k."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """What one program may take."""

    @model_validator(mode="after")
    def _several_differ(self) -> Self:
        if self.k > self.n:
            raise ValueError(f"pass@{self.k} needs at least so many programs an item; `n` is {self.n}")
        if self.n > 1 and not (self.temperature or self.temperatures):
            raise ValueError(f"{self.n} programs an item are all the same at temperature 0; set `temperature`")
        return self


class CheckedSuite(_Checked):
    """A program decides about each answer."""

    kind: Literal["checked"]
    checker: Literal["constraints", "ifeval", "function"] = "constraints"
    """The `constraints` of the item's row, IFEval's instructions, or your `function`."""
    function: str | None = None
    """`file.py:function` beside the suite, or `module:function`."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """What the function may take for one answer."""
    right_from: float = 0.5
    """The function's score from which on an answer is right."""

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
    """The first turn asks; each later one shows the policy its own attempts and an `instruction`."""

    kind: Literal["self_correction"]
    instruction: Annotated[str, Field(min_length=1)]
    """What each later turn says; it does not say whether the attempts were right."""
    feedback: Annotated[str, Field(min_length=1)] | None = None
    """Self-Refine (arXiv 2303.17651): an instruction by which the policy first writes what is to be said about its
    attempt; only then comes `instruction`."""
    feedback_new_tokens: Positive | None = None
    """Tokens of that; by default `max_new_tokens`."""
    turns: Annotated[int, Field(ge=2)] = 2
    """Attempts an item."""
    checker: Literal["exact_match", "math", "code"] = "exact_match"
    """What is right, as in the suites of that kind."""
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")
    """For `exact_match`."""
    tests: Literal["humaneval", "mbpp"] | None = None
    """For `code`."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """What one program may take."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Besides the turns, then greedy: so many first attempts with one correction each at `temperature` vote against
    twice as many first ones."""

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
    """A judge reads the answers."""

    judge: Reader | None = None
    """Who reads; a judge's folder (`runs/x/judge`) may stand for the whole."""
    rubric: str = "alpaca-eval"
    """What it reads, where `judge` does not say."""
    max_missing: Share = 0.1
    """A larger share of missing verdicts ends the evaluation."""


class PreferenceSuite(Judged):
    """A judge says which of two answers is the better one."""

    kind: Literal["preference"]
    against: str = "baseline"
    """The opponent: `baseline` (the outputs that the data hold), `base` (the run's own model, before any training), a
    file of outputs (.json or .jsonl with `instruction` and `output`), or a policy."""
    order: Literal["random", "both"] = "random"
    """In which the judge sees the two: a coin an instruction (AlpacaEval's own), or both, averaged."""


class RatingSuite(Judged):
    """A judge gives each answer a number."""

    kind: Literal["rating"]
    rubric: str = "mt-bench-single"


class LengthSuite(Judged):
    """Texts whose length the query demands: `type` (about, range, above, below) and `constraint` (its words) of each
    row, as in LonGen. Without a `judge` of their quality only lengths are measured."""

    kind: Literal["length"]
    rubric: str = "longen-quality"

    @model_validator(mode="after")
    def _judge_reads_the_rubric(self) -> Self:
        if self.judge is None and (extra := {"rubric", "max_missing"} & self.model_fields_set):
            raise ValueError(f"{', '.join(sorted(extra))}: for a `judge` of the texts' quality; name one")
        return self


class GradedSuite(_Checked):
    """The policy is measured as a judge: it reads the `rubric`, and its scores are held against what responses are
    worth."""

    kind: Literal["graded"]
    checker: Literal["exact_match", "math", "score"] = "exact_match"
    """What responses are worth: right or wrong as in the suites of that kind; `score`: each row of the data brings a
    `response` and its own `score`, and nothing is sampled."""
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")
    """For `exact_match`."""
    answers_of: str = "base"
    """Whose responses, and whose likelihoods: `base` (the run's own model, before any training), or any model."""
    samples: Positive = 4
    """Responses an item."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    rubric: str = "self-judge"
    """What the policy reads as a judge."""
    reference: bool = False
    """The judge sees the item's reference."""
    good_from: float = 1.0
    """The worth from which on a response is good."""

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
    """Who is measured; a judge's folder (`runs/x/judge`) may stand for the whole."""
    rubric: str = "alpaca-eval"
    """What it reads, where `judge` does not say."""
    max_missing: Share = 0.1
    """A larger share of missing verdicts ends the evaluation."""


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
