"""Recipes: what a person writes to say what is to be run. Strict: an unknown key names the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
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
from selfimprove.shipped import recipe_file


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


class Data(Strict):
    """Where the data come from: a path, `hub: ...`, or a list of them (see docs/recipes.md)."""

    seed: Sources | None = None
    prompts: Sources | None = None
    pairs: Sources | None = None
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
    n: Annotated[int, Field(ge=2)] = 5
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


class Cream(Strict):
    """CREAM's own options; see `selfimprove/methods/cream.py`."""

    measure: Literal["kendall", "kendall_b", "spearman", "top_order"] = "kendall"
    weight: Literal["avg", "dyn", "constant"] = "avg"
    constant: Share = 1.0
    first_round: Literal["likelihood", "sft_middle", "none"] = "likelihood"
    floor: bool = False


class Prices(Strict):
    """What a server asks for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    currency: str = "USD"


class Reader(Strict):
    """A language model that reads a rubric: a policy (`model`) or one behind a `server`, which may be any that speaks
    OpenAI's chat protocol. Raise `version` when what the server serves changed under the same name: what it judged
    before is then judged again. `log_probs`: of so many first tokens a server is asked for, where the rubric reads
    labels; 0 reads what was written."""

    rubric: str | None = None
    model: str | None = None
    server: ServerOptions | None = None
    version: int = 1
    log_probs: Annotated[int, Field(ge=0, le=20)] = 20
    prices: Prices | None = None

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


class IterativeDpo(Strict):
    """`dpo_reference`: the loss reference of every round, the current policy or the initial one (M1)."""

    judge: JudgeOptions = JudgeOptions(kind="implicit_reward")
    dpo_reference: Literal["current", "initial"] = "current"
    sft: bool = True


def said_of(error: Any, model: type[BaseModel]) -> str:
    """A validation error in words that do not show what was found: it may be a key in the wrong place."""
    place = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        return f"key `{'.'.join(place) or 'judge'}`: {error['msg'].removeprefix('Value error, ')}"
    inner: Any = model
    for part in place[:-1]:
        inner = _model_of(inner.model_fields[part].annotation) or inner
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
            "degeneration",
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


class Recipe(Strict):
    """One run, whole. `load_recipe` reads it from YAML; `selfimprove run` and `selfimprove.run` take it."""

    method: Literal["sft", "dpo", "iterative_dpo", "srlm", "cream", "evaluate", "evaluate_judge"]
    model: str = "smollm2-135m-instruct"
    output: str
    store: str | None = None
    seed: int = 0
    rounds: Positive = 3
    data: Data = Data()
    sampling: Sampling = Sampling()
    training: Training = Training()
    sft: Sft = Sft()
    cream: Cream = Cream()
    iterative_dpo: IterativeDpo = IterativeDpo()
    evaluate: tuple[SuiteChoice, ...] = ()
    evaluate_limit: Positive | None = None
    development: str | None = None
    policies: tuple[str, ...] = ()
    keep: Literal["last", "best"] = "last"
    gates: Gates = Gates()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False
    folder: str = Field(default=".", exclude=True)  # where relative data paths are looked for first

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needs = {
            "sft": ("seed",),
            "dpo": ("pairs",),
            "iterative_dpo": ("prompts",),
            "evaluate": (),
            "evaluate_judge": (),
        }
        for name in needs.get(self.method, ("seed", "prompts")):
            if getattr(self.data, name) is None:
                raise ValueError(f"method {self.method!r} needs `data.{name}`")
        if self.method.startswith("evaluate") and not self.evaluate:
            raise ValueError(f"method {self.method!r} needs at least one suite under `evaluate`")
        if self.policies and self.method != "evaluate":
            raise ValueError("`policies` (further ones to measure) belongs to method 'evaluate'")
        if self.method == "iterative_dpo" and self.iterative_dpo.sft and self.data.seed is None:
            raise ValueError("iterative_dpo begins with SFT on `data.seed`: give it, or set iterative_dpo.sft=false")
        if self.keep == "best" and not self.development:
            raise ValueError("keep: best needs a `development` suite (never the one reported under `evaluate`)")
        if self.development and self.development in [one.suite for one in self.evaluate]:
            raise ValueError("`development` must not be one of the suites under `evaluate`")
        for stage, size in (("training", self.training.batch_size), ("sft", self.sft.batch_size)):
            if size is not None and size % self.training.processes:
                raise ValueError(
                    f"`{stage}.batch_size` ({size}) must be a multiple of `training.processes` "
                    f"({self.training.processes})"
                )
        if self.method == "sft" and "sft" in self.model_fields_set:
            raise ValueError("section `sft` does nothing with method 'sft': its settings are under `training`")
        for section in ("cream", "iterative_dpo"):
            if section in self.model_fields_set and section != self.method:
                raise ValueError(f"section `{section}` does nothing with method {self.method!r}")
        return self

    def search_folders(self) -> list[Path]:
        """Where relative paths are looked for: the recipe's folder, here, then what the package ships."""
        from selfimprove.shipped import recipes_folder

        return [Path(self.folder), Path.cwd(), recipes_folder()]

    def as_yaml(self) -> str:
        """The resolved recipe, every option written out; `load_recipe` reads it back."""
        other_methods = {"cream", "iterative_dpo"} - {self.method} | ({"sft"} & {self.method})
        values = self.model_dump(mode="json", exclude=other_methods)
        for role in ("seed", "prompts", "pairs"):
            for source in values["data"][role] or ():
                for name in ("config", "split", "revision", "file") if source["path"] else ():
                    del source[name]  # a local file has none, and says so when it is read
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe: a YAML file, or the name of a shipped one (`quickstart`, `smollm2-135m/cream`).

    Args:
        recipe: path or name.
        overrides: `key.sub=value` texts; the value is read as YAML.

    Raises:
        InputError: with the file, the key, what was found and what to do.
    """
    path = recipe_file(str(recipe))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{path}: not valid YAML: {where}{getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys; found {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    return make_recipe(values, where=str(path), folder=path.parent)


def make_recipe(values: dict[str, Any], where: str = "recipe", folder: Path = Path()) -> Recipe:
    """A checked recipe from plain values; `where` begins every error message."""
    if "folder" in values:
        raise InputError(f"{where}: unknown key `folder`; known here: {', '.join(_known_keys(()))}")
    values = {**values, "folder": str(folder)}
    if "output" not in values and where.endswith((".yaml", ".yml")):
        values["output"] = f"runs/{Path(where).stem}"
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {_explain(one, values)}" for one in error.errors())) from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: expected key=value, for example training.learning_rate=1e-4")
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not valid YAML: {error}") from error


def _explain(error: Any, values: dict[str, Any]) -> str:
    """One validation error in words: the key, what was found, the nearest known key."""
    # A union adds its members' types to the place ("training.gradient_checkpointing.bool").
    location = [str(part) for part in error["loc"] if part not in ("bool", "str") and "[" not in str(part)]
    key = ".".join(location) or "recipe"
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
        return f"unknown key `{key}`; {hint}"
    if error["type"] == "missing":
        return f"key `{key}` is missing"
    found = error.get("input")
    shown = "" if isinstance(found, dict) else f"; found {found!r}"
    message = error["msg"].removeprefix("Value error, ")
    return f"key `{key}`: {message}{shown}" if location else message


def _known_keys(parents: Sequence[Any]) -> list[str]:
    """The keys of the model at a place in the recipe."""
    model: Any = Recipe
    for part in parents:
        field = getattr(model, "model_fields", {}).get(part) if isinstance(part, str) else None
        if field is None:
            continue
        model = _model_of(field.annotation) or model
    return [name for name in getattr(model, "model_fields", {}) if name != "folder"]


def _model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _model_of(inner):
            return found
    return None


def changed_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`key: old -> new` for every leaf that differs between two resolved recipes."""
    lines = []
    for key in [*old, *(k for k in new if k not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
