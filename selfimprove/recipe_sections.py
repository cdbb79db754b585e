"""The sections of a recipe that several methods read: strict, so that an unknown key is an error. `method_sections.py`
has those of one method, `recipe.py` the recipe itself."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from selfimprove.data.sources import DataSource
from selfimprove.errors import InputError
from selfimprove.sampling.server import Server


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _as_sources(value: Any) -> Any:
    return [_as_source(item) for item in value] if isinstance(value, list) else [_as_source(value)]


def _as_lora(value: Any) -> Any:
    return {True: {}, False: None}.get(value, value) if isinstance(value, bool) else value


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(_as_sources), Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Normalize = Literal["lower", "strip", "final_period", "after_answer"]


class Data(Strict):
    """Where the data come from: a path, `hub: ...`, or a list of them (see docs/recipes.md)."""

    seed: Sources | None = None
    prompts: Sources | None = None
    pairs: Sources | None = None
    held_out: Sources | None = None
    seed_limit: Positive | None = None
    prompts_per_round: Positive | None = None


class VllmOptions(Strict):
    """How the vLLM engine is run; nothing here changes a result beyond rounding. `adapters`: merged into the weights
    (`merge`, what the CPU does) or loaded beside the base (`hot`, what a GPU does); `gpu_memory`: its share of the
    GPU's; `max_model_len`: tokens of prompt and response together, by default the model's context, at most 32,768."""

    adapters: Literal["auto", "merge", "hot"] = "auto"
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.85
    max_model_len: Positive | None = None


class ServerOptions(Strict):
    """An OpenAI-compatible server, see `selfimprove/sampling/server.py`. The key is read from the environment variable
    that `api_key_env` names."""

    base_url: str
    model: str
    api_key_env: str | None = None
    timeout_s: float = 600.0
    retries: int = 5
    concurrency: int = 16

    @model_validator(mode="after")
    def _usable(self) -> Self:
        try:
            self.connection("server")
        except InputError as error:
            raise ValueError(str(error)) from error
        return self

    def connection(self, where: str = "judge.server") -> Server:
        """The server itself; `where` is the key that messages name."""
        return Server(**self.model_dump(), where=where)


class Sampling(Strict):
    """How responses are drawn. `batch_tokens` bounds rows x tokens of one batch and changes no result."""

    backend: Literal["auto", "vllm", "transformers", "openai"] = "auto"
    n: Positive = 5
    temperature: Annotated[float, Field(gt=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_new_tokens: Positive = 768
    batch_tokens: Positive = 16384
    vllm: VllmOptions = VllmOptions()
    server: ServerOptions | None = None

    @model_validator(mode="after")
    def _has_server(self) -> Self:
        if self.backend == "openai" and self.server is None:
            raise ValueError("backend openai needs `server`: {base_url: http://host:port/v1, model: its name there}")
        return self


class Lora(Strict):
    """A PEFT LoRA adapter; `target_modules` as PEFT takes it."""

    r: Positive = 32
    alpha: Positive = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_modules: str | tuple[str, ...] = "all-linear"


class Optimisation(Strict):
    """What one training stage needs; `sft` may replace any of them for its stage."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Positive = 32
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"


class Training(Optimisation):
    """The main training stage. The last six keys say how, not what: they change no result beyond rounding."""

    lora: Annotated[Lora | None, BeforeValidator(_as_lora)] = None
    beta: Annotated[float, Field(gt=0)] = 0.1
    max_length: Positive = 2048
    truncated: Literal["keep", "drop"] = "keep"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    micro_batch_size: Positive = 8
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    checkpoint_steps: Positive = 50
    processes: Positive = 1
    accelerate: str | None = None
    report_to: tuple[str, ...] = ()


class Sft(Strict):
    """The SFT stage of a method that has one: what is given here replaces `training`'s."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    epochs: Annotated[float, Field(gt=0)] = 5.0
    batch_size: Positive | None = None
    warmup_ratio: Share | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] | None = None


class Prices(Strict):
    """What a server asks for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    currency: str = "USD"


class Reader(Strict):
    """A language model that reads a rubric: a policy (`model`) or one behind a `server`, which may be any that speaks
    OpenAI's chat protocol. A rubric's folder may have its own model in it (`runs/x/judge`): then it is enough, and its
    path alone may stand for the whole section. Raise `version` when what the server serves changed under the same name:
    what it judged before is then judged again. `log_probs`: of so many first tokens a server is asked for, where the
    rubric reads labels or digits; 0 reads what was written."""

    rubric: str | None = None
    model: str | None = None
    server: ServerOptions | None = None
    version: int = 1
    log_probs: Annotated[int, Field(ge=0, le=20)] = 20
    prices: Prices | None = None

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


class JudgeOptions(Reader):
    """A judge for `iterative_dpo`; see `selfimprove/judging/judges.py`. Raise `version` too when your function's code
    changes."""

    kind: Literal[
        "implicit_reward",
        "likelihood",
        "exact_match",
        "majority",
        "reward_model",
        "rubric",
        "function",
        "random",
    ]
    function: str | None = None

    @model_validator(mode="after")
    def _needs(self) -> Self:
        needed = {"reward_model": "model", "rubric": "rubric", "function": "function"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {self.kind!r} needs `{needed}`")
        return self


class Reward(Reader):
    """What is right: the reward of `score` and `star`, 1 or 0 but for a function, a reward model and a rubric.

    `exact_match` (after `normalize`) and `math` (math-verify) compare with the prompt's answer, `code` runs the data's
    `tests` in the sandbox (at most `seconds`), `function` is the user's `module:function(prompt, response, answer)`,
    `reward_model` and `rubric` are read by `model` (a rubric also by `server`, or by the model in its own folder). From
    `right_from` on, a reward counts as a right answer in what is reported; scores of a reward model or a rubric have no
    such place of their own, and a judge's folder alone (`reward: runs/x/judge`) has the middle of its scale, 4.5. A
    truncated answer is worth 0 like any wrong one, whatever else a function gives. Raise `version` when your function's
    code changes.
    """

    kind: Literal["exact_match", "math", "code", "function", "reward_model", "rubric"] = "exact_match"
    normalize: tuple[Literal["lower", "strip", "final_period", "after_answer"], ...] = (
        "lower",
        "strip",
        "final_period",
    )
    tests: Literal["humaneval", "mbpp"] | None = None
    seconds: Annotated[float, Field(gt=0)] = 10.0
    function: str | None = None
    right_from: float = 0.5

    @model_validator(mode="after")
    def _needs(self) -> Self:
        needed = {"code": "tests", "function": "function", "reward_model": "model", "rubric": "rubric"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {self.kind!r} needs `{needed}`")
        if self.kind in ("reward_model", "rubric") and "right_from" not in self.model_fields_set:
            raise ValueError(
                f"kind {self.kind!r} needs `right_from`: the score from which on an answer is called right"
            )
        return self


def model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := model_of(inner):
            return found
    return None


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
    """A suite to evaluate with: a shipped name or a YAML file, and what replaces keys of that file. Bare text is the
    name alone; any other key beside `suite` is a key of the suite (see docs/evaluation.md)."""

    suite: str
    change: dict[str, Any] = {}

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


class Gates(Strict):
    """Bounds of the invariants checked while a run goes on; `disabled` lists those that report and do not stop."""

    disabled: tuple[
        Literal[
            "rendering", "dpo_start", "sampler_agrees", "weights_moved", "consistency", "no_leak", "judge_health",
            "degeneration", "first_attempt", "change_rate", "copy_rate", "kl", "reward_coverage",
        ],
        ...,
    ] = ()  # fmt: skip
    sampler_agrees: float | None = None
    max_missing: Share = 0.5
    max_ties: Share = 0.9
    max_truncated: Share = 0.9
    max_duplicates: Share = 0.98
    max_length_growth: Annotated[float, Field(gt=1)] = 10.0
    min_distinct: Share = 0.1
    max_first_attempt_drop: Share = 0.1
    min_change_rate: Share = 0.0
    max_copy_rate: Share = 1.0
    max_kl: Annotated[float, Field(gt=0)] = 1.0
