"""The sections of a recipe that several methods read: strict, so that an unknown key is an error. Those that name a
judge are in `judges.py`, those of one method in its own file, the recipe itself is in `recipe.py`. The texts under the
keys are what docs/keys.md says of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from selfimprove.data.sources import DataSource
from selfimprove.errors import InputError
from selfimprove.models.server import Server


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
    """Where the data come from: each a source, or a list of them. docs/recipes.md has the forms of rows that are
    read."""

    seed: Sources | None = None
    """Examples for SFT: `prompt` and `response`."""
    prompts: Sources | None = None
    """Prompts for the rounds. `answer` is optional and only measured, but for judges and rewards that compare with
    it."""
    pairs: Sources | None = None
    """`prompt`, `chosen`, `rejected`, and optionally `confidence` from 0 to 1."""
    held_out: Sources | None = None
    """Prompts with an `answer`, on which a threshold is chosen."""
    seed_limit: Positive | None = None
    """Only the first examples of `seed`."""
    prompts_per_round: Positive | None = None
    """Each round has its own slice of so many; by default all, divided by the rounds."""


class VllmOptions(Strict):
    """How the vLLM engine is run; nothing here changes a result beyond rounding."""

    adapters: Literal["auto", "merge", "hot"] = "auto"
    """Merged into the weights (`merge`, what the CPU does) or loaded beside the base (`hot`, what a GPU does)."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of the GPU's memory."""
    max_model_len: Positive | None = None
    """Tokens of prompt and response together; by default the model's context, at most 32,768."""


class ServerOptions(Strict):
    """An OpenAI-compatible server."""

    base_url: str
    """As `http://127.0.0.1:8000/v1`."""
    model: str
    """Its name there."""
    api_key_env: str | None = None
    """The name of the environment variable with the key, which is in no file, log or message."""
    timeout_s: float = 600.0
    """Seconds for one answer."""
    retries: int = 5
    """How often what failed is asked again, with back-off."""
    concurrency: int = 16
    """Requests at a time."""

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
    """How the responses are drawn that are judged or trained, by every backend; log-probs are of the policy without
    `top_k`, `min_p` and `repetition_penalty`. Suites have keys of their own."""

    backend: Literal["auto", "vllm", "transformers", "openai"] = "auto"
    """`auto` is vLLM where a tested version works on the device, else Transformers; `openai` is any server that gives
    token ids. A run keeps what it began with."""
    n: Positive = 5
    """Responses a prompt."""
    temperature: Annotated[float, Field(gt=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    """The likeliest tokens that may be drawn; 0: all."""
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The least probability of a token that may be drawn, as a share of the likeliest one's; 0: any."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """1: none."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end a response, and are cut off; for methods that train on texts."""
    max_new_tokens: Positive = 768
    """Tokens of a response; a longer one is truncated."""
    batch_tokens: Positive = 16384
    """Bound on rows x tokens of one batch; changes no result."""
    vllm: VllmOptions = VllmOptions()
    server: ServerOptions | None = None
    """For `openai`."""

    @property
    def shaping(self) -> dict[str, Any]:
        """What of `top_k`, `min_p`, `repetition_penalty` and `stop` is on."""
        names = ("top_k", "min_p", "repetition_penalty", "stop")
        off = {name: type(self).model_fields[name].default for name in names}
        return {name: value for name in names if (value := getattr(self, name)) != off[name]}

    @model_validator(mode="after")
    def _has_server(self) -> Self:
        if self.backend == "openai" and self.server is None:
            raise ValueError("backend openai needs `server`: {base_url: http://host:port/v1, model: its name there}")
        return self


class Lora(Strict):
    """A PEFT LoRA adapter."""

    r: Positive = 32
    alpha: Positive = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Acts in SFT, and in the training of a judge; not in DPO or RL."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """As PEFT takes it."""


class Optimisation(Strict):
    """What one training stage needs; `sft` may replace any of them for its stage."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """AdamW's, at its highest."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Positive = 32
    """Examples, pairs or samples of an update, over all processes."""
    warmup_ratio: Share = 0.1
    """Share of the updates in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to it."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"


class Training(Optimisation):
    """The main training stage. `micro_batch_size` and what follows it say how, not what: they change no result beyond
    rounding."""

    lora: Annotated[Lora | None, BeforeValidator(_as_lora)] = None
    """`true`, or its keys; without it the whole model is trained."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """DPO's beta."""
    max_length: Positive = 2048
    """Tokens of prompt and response together; what is longer is left out and counted, never cut."""
    truncated: Literal["keep", "drop"] = "keep"
    """`drop` leaves truncated responses out of the pairs."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU, float32 on the CPU."""
    micro_batch_size: Positive = 8
    """Rows computed at a time."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Less memory, more computation."""
    checkpoint_steps: Positive = 50
    """Updates between two checkpoints."""
    processes: Positive = 1
    """Data-parallel processes (docs/scaling.md)."""
    accelerate: str | None = None
    """An accelerate config file for as many processes (FSDP, ZeRO)."""
    report_to: tuple[str, ...] = ()
    """`tensorboard`, `trackio`, `wandb`: training curves also go there, into `logs` in the run's folder unless their
    environment variables say otherwise (wandb: `WANDB_MODE=offline` needs no login)."""


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
    """When a loop ends before its last round. `distinct`, `entropy` and `length` are the share by which that figure of
    a round's samples may leave round 1's, either way."""

    patience: Positive | None = None
    """So many policies in a row are below the best one on the `development` suite."""
    distinct: Annotated[float, Field(gt=0)] | None = None
    """Of distinct-2, as in `gates.min_distinct`."""
    entropy: Annotated[float, Field(gt=0)] | None = None
    """Of the mean -log p, in nats per token."""
    length: Annotated[float, Field(gt=0)] | None = None
    """Of the mean length, in tokens."""


class Gates(Strict):
    """Bounds of the invariants checked while a run goes on."""

    disabled: tuple[
        Literal[
            "rendering", "dpo_start", "sampler_agrees", "weights_moved", "consistency", "no_leak", "judge_health",
            "judge_learnt", "degeneration", "first_attempt", "change_rate", "copy_rate", "kl", "reward_coverage",
            "telling", "sampler_kl",
        ],
        ...,
    ] = ()  # fmt: skip
    """Gates that report and do not stop (docs/design.md)."""
    sampler_agrees: float | None = None
    """Mean absolute difference of the sampler's and the scorer's log-prob, in nats per token; by default 1e-3 in
    float32, 2e-2 in bfloat16."""
    max_missing: Share = 0.5
    """Share of scores or rewards that are missing."""
    max_ties: Share = 0.9
    """Share of pairs of a prompt's responses that are scored alike."""
    max_truncated: Share = 0.9
    """Share of responses cut off at `sampling.max_new_tokens`."""
    max_duplicates: Share = 0.98
    """Share of responses that an earlier one to the same prompt has token for token."""
    max_length_growth: Annotated[float, Field(gt=1)] = 10.0
    """How many times longer or shorter than round 1's the mean response may be."""
    min_distinct: Share = 0.1
    """Distinct-2 (the share of different ones among neighbouring pairs of tokens), as a share of round 1's."""
    max_first_attempt_drop: Share = 0.1
    """How far the share of right first attempts may fall below the base's, plus two standard errors: a worse first
    attempt makes a better second one."""
    min_change_rate: Share = 0.0
    """Share of second answers that differ from the first."""
    max_copy_rate: Share = 1.0
    """Share of second answers that are the first, token for token."""
    max_kl: Annotated[float, Field(gt=0)] = 1.0
    """KL to the base, in nats per token, in one turn; one that is not finite stops too."""
    min_telling: Share = 0.0
    """Share of prompts whose samples are rewarded differently."""
    max_sampler_kl: Annotated[float, Field(gt=0)] = 0.05
    """KL(sampler || trainer), in nats per token."""


INSTRUCTION = (
    "There might be an error in the answer above because of lack of understanding of the question. Please correct the "
    "error, if any, and rewrite the answer. Only output the final answer, in the same form."
)
