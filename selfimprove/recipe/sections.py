"""The sections of a recipe that several methods read: strict, so that an unknown key is an error. Those that name a
judge are in `judge_sections.py`, those of one method in `method_sections.py`, the recipe itself is in `recipe.py`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from selfimprove.data.sources import DataSource
from selfimprove.errors import InputError
from selfimprove.models.server import Server
from selfimprove.registry import names, unknown


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
    """An OpenAI-compatible server, see `selfimprove/models/server.py`. The key is read from the environment variable
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
    """How responses are drawn. `backend`: `auto`, one of ours, of an installed package, or `file.py:thing`.
    `batch_tokens` bounds rows x tokens of one batch and changes no result. `top_k`, `min_p` (0: off),
    `repetition_penalty` (1: off), `stop` (texts that end a response): of what is sampled to be judged or trained, not
    of suites, which have their own."""

    backend: str = "auto"
    n: Positive = 5
    temperature: Annotated[float, Field(gt=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_new_tokens: Positive = 768
    batch_tokens: Positive = 16384
    vllm: VllmOptions = VllmOptions()
    server: ServerOptions | None = None

    @property
    def shaping(self) -> dict[str, Any]:
        """What of `top_k`, `min_p`, `repetition_penalty` and `stop` is on."""
        names = ("top_k", "min_p", "repetition_penalty", "stop")
        off = {name: type(self).model_fields[name].default for name in names}
        return {name: value for name in names if (value := getattr(self, name)) != off[name]}

    @field_validator("backend")
    @classmethod
    def _known(cls, backend: str) -> str:
        known = ["auto", *names("sampler")]
        if ":" not in backend and backend not in known:
            raise ValueError(unknown("sampler", backend, known))
        return backend

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


def model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := model_of(inner):
            return found
    return None


class Stop(Strict):
    """When a loop ends before its last round. `patience`: so many policies in a row are below the best one on the
    `development` suite. `distinct`, `entropy`, `length`: the share by which the samples' distinct-2, their mean -log p
    (nats per token) or their mean length (tokens) may leave those of round 1, either way."""

    patience: Positive | None = None
    distinct: Annotated[float, Field(gt=0)] | None = None
    entropy: Annotated[float, Field(gt=0)] | None = None
    length: Annotated[float, Field(gt=0)] | None = None


class Gates(Strict):
    """Bounds of the invariants checked while a run goes on; `disabled` lists those that report and do not stop."""

    disabled: tuple[
        Literal[
            "rendering", "dpo_start", "sampler_agrees", "weights_moved", "consistency", "no_leak", "judge_health",
            "judge_learnt", "degeneration", "first_attempt", "change_rate", "copy_rate", "kl", "reward_coverage",
            "telling", "sampler_kl",
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
    min_telling: Share = 0.0
    max_sampler_kl: Annotated[float, Field(gt=0)] = 0.05


INSTRUCTION = (
    "There might be an error in the answer above because of lack of understanding of the question. Please correct the "
    "error, if any, and rewrite the answer. Only output the final answer, in the same form."
)
