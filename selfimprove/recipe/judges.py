"""The sections of a recipe that name a judge: who reads, ranks, rewards or measures."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_serializer, model_validator

from selfimprove.recipe.sections import Normalize, ServerOptions, Share, Strict, model_of


class Prices(Strict):
    """What a server asks for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    currency: str = "USD"


class Reader(Strict):
    """A language model that reads a rubric: a policy (`model`) or one behind a `server`. A rubric's folder may have its
    own model in it (`runs/x/judge`): then it is enough, and its path alone may stand for the whole section."""

    rubric: str | None = None
    """A shipped rubric's name, or a folder (`selfimprove ls`)."""
    model: str | None = None
    """A policy, as `model` of a recipe; or, for `reward_model`, a sequence classifier."""
    server: ServerOptions | None = None
    """In the place of `model`: any that speaks OpenAI's chat protocol."""
    version: int = 1
    """Raise it when what the server serves, or what your function imports, changed under the same name: all is then
    judged again."""
    log_probs: Annotated[int, Field(ge=0, le=20)] = 20
    """Of so many first tokens a server is asked for, where the rubric reads labels or digits; 0 reads what was
    written."""
    prices: Prices | None = None
    """What a run cost is then shown."""

    @model_validator(mode="before")
    @classmethod
    def _folder_alone(cls, values: Any) -> Any:
        if not isinstance(values, str):
            return values
        own = {"kind": "rubric", "right_from": 4.5}  # the middle of a digit's 0 to 9
        return {"rubric": values} | {key: value for key, value in own.items() if key in cls.model_fields}

    @model_validator(mode="after")
    def _one_reader(self) -> Self:
        if self.model is not None and self.server is not None:
            raise ValueError("keep one of `model` (a policy, read here) and `server`")
        return self


class _Scores(Reader):
    """What decides about a response, in whatever way."""

    function: str | None = None
    """`file.py:function` beside the recipe, or `module:function`."""
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")
    """What `exact_match` does to answer and reference."""
    tests: Literal["humaneval", "mbpp"] | None = None
    """For `code`: the tests of the data, run in the sandbox."""
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """What a program or a function may take for one response."""
    right_from: float = 0.5
    """The score from which on a response is right."""

    def _needs_one(self, kind: str) -> None:
        needed = {"code": "tests", "function": "function", "reward_model": "model", "rubric": "rubric"}.get(kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {kind!r} needs `{needed}`")


JudgeKind = Literal[
    "implicit_reward",
    "likelihood",
    "exact_match",
    "math",
    "code",
    "constraints",
    "majority",
    "reward_model",
    "rubric",
    "function",
    "random",
    "incorrect",
    "format",
    "oracle",
]


class JudgeOptions(_Scores):
    """A judge of responses. Bare text is a kind (`constraints`), your function (`checker.py:good`) or a judge's folder
    (`runs/x/judge`). What each kind does: docs/recipes.md#judges."""

    kind: JudgeKind
    """See docs/recipes.md#judges."""
    rate: Share | None = None
    """For `random`: the share of the finished responses that scores 1."""
    of: JudgeOptions | None = None
    """For `random`: the judge that finds as many right. For `incorrect`: the judge whose wrong answers are taken for
    right ones. For `oracle`: the judge that knows the truth."""

    @model_validator(mode="before")
    @classmethod
    def _bare_text(cls, values: Any) -> Any:
        if values in get_args(JudgeKind):
            return {"kind": values}
        if isinstance(values, str) and ":" in values and not values.startswith((".", "/", "~")):
            return {"kind": "function", "function": values}
        return values

    @model_validator(mode="after")
    def _needs(self) -> Self:
        self._needs_one(self.kind)
        if self.kind == "incorrect" and self.of is None:
            raise ValueError("kind 'incorrect' needs `of`: the judge whose wrong answers are taken for right ones")
        if self.kind == "oracle" and self.of is None:
            raise ValueError("kind 'oracle' needs `of`: the judge that knows the truth, such as {kind: exact_match}")
        if self.of is not None and self.kind not in ("random", "incorrect", "oracle"):
            raise ValueError(f"`of` belongs to the kinds 'random', 'incorrect' and 'oracle', not to {self.kind!r}")
        if self.of is not None and self.of.of is not None:
            raise ValueError("`of` names a judge that has no `of` of its own")
        if self.rate is not None and (self.kind != "random" or self.of is not None):
            raise ValueError("`rate` belongs to kind 'random', which takes one of `rate` and `of`")
        return self

    @property
    def bounded(self) -> bool:
        """Whether `right_from` means something for its scores as it stands."""
        if self.of is not None:
            return self.of.bounded
        unbounded = ("implicit_reward", "likelihood", "reward_model", "rubric", "majority")
        return self.kind not in unbounded or "right_from" in self.model_fields_set

    @property
    def accepts_from(self) -> float:
        """The score from which on a response is right: an oracle's scores are those of the judge behind it."""
        return self.of.right_from if self.kind == "oracle" and self.of else self.right_from

    @property
    def label(self) -> str:
        """For people: the kind, and what it reads, runs or stands for."""
        named = {"rubric": self.rubric, "reward_model": self.model, "function": self.function}.get(self.kind)
        if self.of is not None:
            links = {"random": "random, at the rate of", "incorrect": "what is wrong for", "oracle": "oracle:"}
            return f"{links[self.kind]} {self.of.label}"
        return " ".join(filter(None, [self.kind.replace("_", " "), named]))

    @property
    def is_oracle(self) -> bool:
        return self.kind == "oracle"


class Reward(_Scores):
    """What is right: the reward of a response, 1 or 0 but for a function, a reward model and a rubric. The kinds are
    those of judges that decide by themselves (docs/recipes.md#judges).

    A judge's folder alone (`reward: runs/x/judge`) has the middle of its scale as `right_from`, 4.5; any other
    `reward_model` or `rubric` needs one. A truncated answer is worth 0 like any wrong one, whatever else a function
    gives.
    """

    kind: Literal["exact_match", "math", "code", "function", "reward_model", "rubric"] = "exact_match"

    @model_validator(mode="after")
    def _needs(self) -> Self:
        self._needs_one(self.kind)
        if self.kind in ("reward_model", "rubric") and "right_from" not in self.model_fields_set:
            raise ValueError(
                f"kind {self.kind!r} needs `right_from`: the score from which on an answer is called right"
            )
        return self


def said_of(error: Any, model: type[BaseModel]) -> str:
    """A validation error in words that do not show what was found: it may be a key in the wrong place."""
    place = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        return f"key `{'.'.join(place) or 'judge'}`: {error['msg'].removeprefix('Value error, ')}"
    inner: Any = model
    for part in place[:-1]:
        inner = model_of(inner.model_fields[part].annotation) or inner
    close = difflib.get_close_matches(place[-1], inner.model_fields, n=1, cutoff=0.5)
    hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(inner.model_fields)}"
    return f"unknown key `{'.'.join(place)}`; {hint}"


class SuiteChoice(Strict):
    """A suite to evaluate with, and what replaces keys of it. Bare text is the name alone; any other key beside `suite`
    is a key of the suite (docs/suites.md)."""

    suite: str
    """A shipped name or a YAML file; or, with `kind` and `data` beside it, the name of a suite that stands in the
    recipe whole."""
    change: dict[str, Any] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"suite": value}
        if isinstance(value, dict) and not isinstance(value.get("change"), dict):
            return {"suite": value.get("suite"), "change": {k: v for k, v in value.items() if k != "suite"}}
        return value

    @model_validator(mode="after")
    def _judge_is_one(self) -> Self:
        """Now, since a recipe is written to disk and a key must not be."""
        if isinstance(judge := self.change.get("judge"), dict):
            try:
                Reader.model_validate(judge)
            except ValidationError as error:
                raise ValueError("; ".join(f"judge: {said_of(one, Reader)}" for one in error.errors())) from None
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {"suite": self.suite, **self.change} if self.change else self.suite
