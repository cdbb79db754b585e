"""Evaluation suites: a YAML file in `eval/` (or anywhere) and its items; grading of short answers is pure."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from selfimprove.data.labelled import LabelledPair, load_labelled_pairs
from selfimprove.data.scored import Scored, load_scored
from selfimprove.data.sources import DataSource, Prompt, load_prompts
from selfimprove.errors import InputError
from selfimprove.evaluation.code_tasks import QUESTIONS, program_of
from selfimprove.recipe_sections import Normalize, Reader, ServerOptions
from selfimprove.shipped import shipped_suites, suites_folder

Source = Annotated[DataSource, BeforeValidator(lambda v: {"path": v} if isinstance(v, str) else v)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Suite(BaseModel):
    """What every suite has: where its items come from, and how many of them count (`limit`: the first)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    data: Source
    description: str = ""
    limit: Positive | None = None


class _Generated(_Suite):
    """How answers are drawn. `temperatures` replaces the temperature for the items of a group."""

    max_new_tokens: Positive = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    temperatures: dict[str, Annotated[float, Field(ge=0)]] = {}


class ExactMatch(_Generated):
    """An answer is right if it equals the reference after the normalisation of both."""

    kind: Literal["exact_match"]
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")


class MultipleChoice(_Generated):
    """`by: likelihood`: the choice with the highest log-likelihood (`score`: summed, or per token) is the answer.
    `by: generation`: the choices are shown with numbers, and the answer is read from what is written."""

    kind: Literal["multiple_choice"]
    by: Literal["likelihood", "generation"] = "likelihood"
    score: Literal["summed", "per_token"] = "per_token"


class _Checked(_Generated):
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


class _Judged(_Generated):
    """A judge reads the answers. A larger share of missing verdicts than `max_missing` ends the evaluation."""

    judge: Reader | None = None
    rubric: str = "alpaca-eval"
    max_missing: Share = 0.1


class PreferenceSuite(_Judged):
    """A judge says which of two answers is the better one.

    `against`: `baseline` (the outputs that the data hold), `base` (the run's own model, before any training), a file
    of outputs (.json or .jsonl with `instruction` and `output`), or a policy. `order` in which the judge sees the two:
    `random` (a coin an instruction, AlpacaEval's own) or `both` (asked twice and averaged).
    """

    kind: Literal["preference"]
    against: str = "baseline"
    order: Literal["random", "both"] = "random"


class RatingSuite(_Judged):
    """A judge gives each answer a number."""

    kind: Literal["rating"]
    rubric: str = "mt-bench-single"


class LengthSuite(_Judged):
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


class JudgeSuite(_Suite):
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
    | SelfCorrection
    | GradedSuite
    | PreferenceSuite
    | RatingSuite
    | LengthSuite
    | JudgeSuite
)
_KINDS: dict[str, type[_Suite]] = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(Suite)}
_ADAPTER: TypeAdapter[Suite] = TypeAdapter(Annotated[Suite, Field(discriminator="kind")])


@dataclass(frozen=True)
class Loaded:
    """A suite and its items: `every` one for the leak gate, and those within its limit, which are asked. `scored`: the
    responses that the data bring with them."""

    suite: Suite
    path: Path
    every: list[Prompt]
    items: list[Prompt]
    pairs: list[LabelledPair]
    scored: list[Scored] = field(default_factory=list)


def load_suite(name: str, search: Sequence[Path] = (), change: Mapping[str, Any] | None = None) -> Loaded:
    """A suite and its items, by shipped name or by path (looked for in `search`); `change` replaces keys of its file.

    Raises InputError for a suite that is not there, whose file or data are wrong, or that has no item.
    """
    path = shipped_suites().get(name) or next((p for s in search if (p := s / name).is_file()), None)
    if path is None:
        close = difflib.get_close_matches(name, shipped_suites(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        looked = ", ".join(map(str, [*search, suites_folder()]))
        raise InputError(
            f"evaluate: no suite {name!r}; {hint}shipped: {', '.join(shipped_suites())}; or a YAML file's path "
            f"(looked in {looked})"
        )
    suite = _parsed(path, dict(change or {}))
    # What the person changed stands where they are; the rest beside the suite's file.
    places = [*search, path.parent] if change and "data" in change else [path.parent, *search]
    try:
        pairs = load_labelled_pairs(suite.data, places) if isinstance(suite, JudgeSuite) else []
        given, scored = load_scored(suite.data, places) if _brings_scores(suite) else ([], [])
        every = given if scored or isinstance(suite, JudgeSuite) else load_prompts(suite.data, places)
    except InputError as error:
        if not suite.data.hub:
            raise
        raise InputError(
            f"{suite.name}: {error}\nFrom a file with the same columns: `--data FILE`, or `data: FILE` beside `suite` "
            "in a recipe"
        ) from error
    _check_items(suite, path, every)
    return Loaded(suite, path, every, every[: suite.limit], pairs[: suite.limit], scored)


def _parsed(path: Path, change: dict[str, Any]) -> Suite:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a suite: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a suite: a mapping of keys is needed, found {type(values).__name__}")
    if isinstance(change.get("data"), str):  # another place for the same columns
        given = values.get("data")
        kept = given if isinstance(given, dict) else {}
        change = change | {
            "data": {key: kept[key] for key in ("fields", "template", "where") if key in kept}
            | {"path": change["data"]}
        }
    values |= change
    if (kind := values.get("kind")) not in _KINDS:
        close = difflib.get_close_matches(str(kind), _KINDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{path}: not a suite: key `kind` must be one of {', '.join(_KINDS)}; found {kind!r}{hint}")
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise InputError("\n".join(_explained(path, one, values, change) for one in error.errors())) from None


def _explained(path: Path, error: Any, values: dict[str, Any], change: dict[str, Any]) -> str:
    """One validation error in words, with the nearest known key."""
    place = [str(part) for part in error["loc"]]
    place = place[1:] if place and place[0] in _KINDS else place  # the kind is the first part of every place
    where = f"{path} (as changed by evaluate or the command line)" if place and place[0] in change else str(path)
    key = ".".join(place) or "kind"
    if error["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"data": DataSource, "judge": Reader, "judge.server": ServerOptions}
        model = parts.get(".".join(place[:-1]), _KINDS[values["kind"]])
        known = [name for name in model.model_fields if name != "kind"]
        close = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        of = f"here ({'.'.join(place[:-1])})" if place[:-1] else f"for kind {values['kind']}"
        hint = f"did you mean `{close[0]}`?" if close else f"known {of}: {', '.join(known)}"
        return f"{where}: unknown key `{key}`; {hint}"
    found = error.get("input")
    shown = "" if isinstance(found, dict) or place[:1] == ["judge"] else f"; found {found!r}"  # a key may be there
    return f"{where}: not a suite: key `{key}`: {error['msg'].removeprefix('Value error, ')}{shown}"


def _brings_scores(suite: Suite) -> bool:
    return isinstance(suite, GradedSuite) and suite.checker == "score"


def _check_items(suite: Suite, path: Path, items: Sequence[Prompt]) -> None:
    tests = getattr(suite, "tests", None)
    for item in items:
        if isinstance(suite, GradedSuite) and suite.reference and item.answer is None and not item.references:
            raise InputError(f"{path}: item {item.id!r} has no answer to show as the reference (`reference: true`)")
        needs_none = isinstance(suite, _Judged) or _brings_scores(suite)
        if item.answer is None and tests is None and not needs_none:
            raise InputError(f"{path}: item {item.id!r} has no answer")
        if isinstance(suite, MultipleChoice) and item.right_choice is None:
            raise InputError(f"{path}: item {item.id!r}: its answer {item.answer!r} is none of its choices")
        if item.later_turns and (isinstance(suite, LengthSuite) or not isinstance(suite, _Judged)):
            raise InputError(f"{path}: item {item.id!r} has several turns, which only a judge can read")
        if len(item.later_turns) > 1:
            raise InputError(
                f"{path}: item {item.id!r} has {1 + len(item.later_turns)} turns; judges' prompts show two at most"
            )
        if tests is not None:
            try:
                QUESTIONS[tests](item.row)
                program_of(tests, item.row, "")
            except (KeyError, TypeError, ValueError) as error:
                why = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{path}: item {item.id!r} is no task of {tests}: {why}") from error


def normalized(text: str, steps: Sequence[str]) -> str:
    """The text as it is compared. `after_answer`: what follows the last "Answer:" (CREAM's evaluation)."""
    text = unicodedata.normalize("NFKC", text)
    for step in steps:
        if step == "after_answer":
            text = re.split(r"answer\s*:", text, flags=re.IGNORECASE)[-1]
        elif step == "lower":
            text = text.lower()
        elif step == "strip":
            text = " ".join(text.split())
        elif step == "final_period":
            text = text.strip().removesuffix(".")
    return text.strip()


def exact_match(text: str, answer: str, steps: Sequence[str] = ("lower", "strip", "final_period")) -> bool:
    """Whether an answer is the reference, after the same normalisation of both."""
    return normalized(text, steps) == normalized(answer, steps)


def graded(items: Sequence[Prompt], values: Sequence[float | None]) -> dict[str, dict[str, float]]:
    """Mean value and number of items by group; a missing value is in neither."""
    n, sums = Counter[str](), Counter[str]()
    for item, value in zip(items, values, strict=True):
        if value is not None:
            group = item.group or "all"
            n[group] += 1
            sums[group] += value  # type: ignore[assignment]
    return {group: {"value": sums[group] / n[group], "n": n[group]} for group in n}
