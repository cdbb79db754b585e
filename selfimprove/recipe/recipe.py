"""Recipes: what a person writes to say what is to be run. Strict: an unknown key names the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, create_model, model_validator

from selfimprove.errors import InputError
from selfimprove.models.opening import NOT_THE_TEMPLATES, Opening
from selfimprove.recipe.contract import Method
from selfimprove.recipe.judges import JudgeOptions, Reward, SuiteChoice
from selfimprove.recipe.sections import Data, Gates, Positive, Sampling, Sft, Stop, Strict, Training, model_of
from selfimprove.recipe.strict_yaml import load_yaml
from selfimprove.registry import find, names
from selfimprove.shipped import recipe_file, recipes_folder

# A shell leaves the ~ of `output=~/x` where it is.
HomePath = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser()) if path.startswith("~") else path)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes


class Recipe(Strict):
    """One run, whole. `load_recipe` reads it from YAML; `selfimprove run` and `selfimprove.run` take it."""

    method: str
    """A method or a task by its name (docs/methods.md); your own as `file.py:function` beside the recipe,
    `module:function`, or the name that an installed package gives it (docs/write-a-method.md)."""
    model: str = "smollm2-135m-instruct"
    """Built-in name, hub id (`org/name@revision`), local model folder, PEFT adapter folder, or a run's policy
    (`runs/x`, `runs/x@M1`)."""
    output: HomePath
    """The run's folder; of a recipe in a file by default `runs/` and the file's name."""
    store: HomePath | None = None
    """Folder of the artefacts, by default `steps` in `output`; share one between variants of a run."""
    seed: Seed = 0
    """Of sampling noise, the order of training data, and the division of the prompts over the rounds."""
    rounds: Positive = 3
    """Rounds of sample, judge, train."""
    data: Data = Data()
    sampling: Sampling = Sampling()
    training: Training = Training()
    sft: Sft = Sft()
    judge: JudgeOptions | None = None
    """Who ranks or accepts the responses, for methods that read it. Where the method's own section has a `judge`, the
    two are the same."""
    evaluate: tuple[SuiteChoice, ...] = ()
    """Suites that every policy is measured with (docs/suites.md)."""
    evaluate_limit: Positive | None = None
    """Only the first items of every suite."""
    development: SuiteChoice | None = None
    """The suite that `keep: best` and `stop.patience` go by; none of those under `evaluate`."""
    policies: tuple[str, ...] = ()
    """Further policies to measure, each compared with `model`."""
    keep: Literal["last", "best"] = "last"
    """The policy that the run ends with; `best` is by the `development` suite."""
    stop: Stop = Stop()
    gates: Gates = Gates()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU where there is one."""
    trust_remote_code: bool = False
    """Runs the Python code in a model's folder, as Transformers does."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What every local model's chat template gets beside a conversation, as `enable_thinking: false`; part of the
    tokenizer's digest."""
    folder: str = Field(default=".", exclude=True)  # where relative data paths are looked for first

    contract: ClassVar[Method]  # what its method needs; of the class that `recipe_class` makes for that method

    @model_validator(mode="after")
    def _complete(self) -> Self:
        method, needs = self.contract, self.contract.needs
        for name in ("seed", "prompts", "pairs"):
            if getattr(needs, name) and getattr(self.data, name) is None:
                raise ValueError(f"method {self.method!r} needs `data.{name}`")
        if self.sampling.n < needs.responses:
            raise ValueError(
                f"`sampling.n` is {self.sampling.n}, and method {self.method!r} compares a prompt's responses: "
                f"{needs.responses} or more"
            )
        if needs.suites and not self.evaluate:
            raise ValueError(f"method {self.method!r} needs at least one suite under `evaluate`")
        if self.policies and "policies" not in method.reads:
            raise ValueError("`policies` (further ones to measure) belongs to method 'evaluate'")
        if self.keep == "best" and not self.development:
            raise ValueError("keep: best needs a `development` suite (never the one reported under `evaluate`)")
        if self.stop.patience and not self.development:
            raise ValueError("stop.patience needs a `development` suite (never the one reported under `evaluate`)")
        if self.development and self.development.suite in [one.suite for one in self.evaluate]:
            raise ValueError("`development` must not be one of the suites under `evaluate`")
        if taken := sorted(NOT_THE_TEMPLATES & self.chat_template_kwargs.keys()):
            raise ValueError(f"`chat_template_kwargs.{taken[0]}` is not the template's to read: leave it out")
        for stage, size in (("training", self.training.batch_size), ("sft", self.sft.batch_size)):
            if size is not None and size % self.training.processes:
                raise ValueError(
                    f"`{stage}.batch_size` ({size}) must be a multiple of `training.processes` "
                    f"({self.training.processes})"
                )
        for section in sorted(method.leaves & self.model_fields_set):
            raise ValueError(
                f"section `{section}` does nothing with method {self.method!r}: its settings are under `training`"
            )
        if self.sampling.stop and "sampling.stop" not in method.reads:
            raise ValueError(
                "`sampling.stop` is for self_lengthen, which trains on texts: the tokens of a response that a text "
                "ends have no end of turn to learn"
            )
        if method.suits:
            method.suits(self, self.options)
        if self.data.held_out is not None and "data.held_out" not in method.reads:
            raise ValueError("`data.held_out`, which a threshold is chosen on, does nothing but for method 'answer'")
        if self.judge is not None and "judge" not in method.reads:
            raise ValueError(
                "`judge` is for methods that rank or accept responses, and does nothing with method "
                f"{self.method!r}; a reward is a key of the method's section, a suite's "
                "judge a key of the suite"
            )
        return self

    @property
    def section(self) -> str:
        """The name of the method's own section."""
        return self.contract.name

    @property
    def options(self) -> Any:
        """The method's own section; None where it has none."""
        return getattr(self, self.section) if self.contract.options else None

    def ranked_by(self) -> JudgeOptions | None:
        """The judge that ranks the method's responses; None where it is the implicit reward, or nothing is ranked."""
        return self._own(JudgeOptions)[1] or self.judge

    @property
    def judge_key(self) -> str:
        """Where that judge stands in the recipe."""
        return "judge" if self.judge else f"{self.section}.{self._own(JudgeOptions)[0]}"

    @property
    def opening(self) -> Opening:
        return Opening(self.trust_remote_code, self.chat_template_kwargs)

    @property
    def oracle(self) -> bool:
        """Whether true labels decide what is trained, under that name."""
        judge = self.ranked_by()
        return judge is not None and judge.is_oracle

    def rewarded_by(self) -> Reward | None:
        """The reward of a method that has one."""
        return self._own(Reward)[1]

    @property
    def reward_key(self) -> str:
        """Where that reward stands in the recipe."""
        return f"{self.section}.{self._own(Reward)[0]}"

    def _own(self, kind: type[Any]) -> tuple[str, Any]:
        """Name and value of the field of the method's section that is of this type; ("", None) where there is none."""
        fields = (
            ((name, getattr(self.options, name)) for name in type(self.options).model_fields) if self.options else ()
        )
        return next(((name, value) for name, value in fields if isinstance(value, kind)), ("", None))

    def judges(self) -> list[JudgeOptions]:
        """The ranking judge, and the one behind it."""
        judge = self.ranked_by()
        return [one for one in (judge, judge.of if judge else None) if one]

    def search_folders(self) -> list[Path]:
        """Where relative paths are looked for: the recipe's folder, here, then what the package ships."""
        from selfimprove.shipped import recipes_folder

        return [Path(self.folder), Path.cwd(), recipes_folder()]

    def as_yaml(self) -> str:
        """The resolved recipe, every option written out; `load_recipe` reads it back."""
        unread = set(self.contract.leaves) | ({"judge"} - self.contract.reads)
        values = self.model_dump(mode="json", exclude=unread)
        for role in ("seed", "prompts", "pairs", "held_out"):
            for source in values["data"][role] or ():
                for name in ("config", "split", "revision", "file") if source["path"] else ():
                    del source[name]  # a local file has none, and says so when it is read
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def load_recipe(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe: a YAML file, the name of a shipped one (`quickstart`, `smollm2-135m/cream`), or its values.

    Args:
        recipe: path, name, or a dictionary as the YAML would give it; relative paths in that are looked for here.
        overrides: `key.sub=value` texts; the value is read as YAML.

    Raises:
        InputError: with the file, the key, what was found and what to do.
    """
    if isinstance(recipe, Mapping):
        values, where, folder = deepcopy(dict(recipe)), "recipe", Path()
    else:
        path = recipe_file(str(recipe))
        values, where, folder = _read(path), str(path), path.parent
    for override in overrides:
        _apply(values, override)
    return make_recipe(values, where=where, folder=folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{path}: not valid YAML: {at}{getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys; found {type(values).__name__}")
    return values


def make_recipe(values: dict[str, Any], where: str = "recipe", folder: Path = Path()) -> Recipe:
    """A checked recipe from plain values; `where` begins every error message."""
    if "folder" in values:
        raise InputError(f"{where}: unknown key `folder`; known here: {', '.join(_known_keys((), Recipe))}")
    # A key that says nothing is not given: an arm of a study, or a command line, can take a section back.
    said = {key: value for key, value in values.items() if value is not None or key in ("method", "model", "output")}
    values = {**said, "folder": str(folder)}
    if "output" not in values and where.endswith((".yaml", ".yml")):
        values["output"] = f"runs/{Path(where).stem}"
    cls = Recipe
    if isinstance(name := values.get("method"), str):
        contract = find("method", name, [folder, Path.cwd(), recipes_folder()], f"{where}: key `method`")
        if not isinstance(contract, Method):
            raise InputError(
                f"{where}: key `method`: {name!r} is no method: put `@selfimprove.method(...)` above the function"
            )
        cls, values = recipe_class(contract), _with_defaults(values, contract, where)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {_explain(one, values, cls)}" for one in error.errors())) from None


@lru_cache(maxsize=64)
def recipe_class(contract: Method) -> type[Recipe]:
    """The recipe of a method: with its own section, under its name."""
    if contract.options is None:
        cls: type[Recipe] = type("Recipe", (Recipe,), {"__module__": __name__})
    else:
        if contract.name in Recipe.model_fields:
            raise InputError(f"method {contract.name!r}: its section would have the name of another key; rename it")
        required = any(one.is_required() for one in contract.options.model_fields.values())
        default = ... if required else contract.options()
        cls = create_model("Recipe", __base__=Recipe, **{contract.name: (contract.options, default)})  # type: ignore[call-overload]
    cls.contract = contract
    return cls


def _with_defaults(values: dict[str, Any], contract: Method, where: str) -> dict[str, Any]:
    """The values with the method's own defaults, and `judge` in its section where that has one."""
    name = contract.name
    for key, default in contract.defaults.items():
        section, _, last = key.rpartition(".")
        if not section:
            values = {last: default, **values}
        elif isinstance(given := values.get(section) or {}, dict):
            values = {**values, section: {last: default, **given}}
    fields = contract.options.model_fields if contract.options else {}
    if values.get("judge") is not None and "judge" in fields and isinstance(own := values.get(name) or {}, dict):
        if "judge" in own:
            raise InputError(f"{where}: `judge` and `{name}.judge` are the same: keep one of them")
        values = {key: value for key, value in values.items() if key != "judge"} | {
            name: {**own, "judge": values["judge"]}
        }
    return values


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
        place[last] = load_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not valid YAML: {error}") from error


def _explain(error: Any, values: dict[str, Any], cls: type[Recipe]) -> str:
    """One validation error in words: the key, what was found, the nearest known key."""
    # A union adds its members' types to the place ("training.gradient_checkpointing.bool").
    location = [str(part) for part in error["loc"] if part not in ("bool", "str") and "[" not in str(part)]
    key = ".".join(location) or "recipe"
    if error["type"] == "extra_forbidden":
        if len(location) == 1 and location[0] in names("method"):
            return f"section `{location[0]}` does nothing with method {values.get('method')!r}"
        known = _known_keys(error["loc"][:-1], cls)
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
        return f"unknown key `{key}`; {hint}"
    if error["type"] == "missing":
        return f"key `{key}` is missing"
    found = error.get("input")
    shown = "" if isinstance(found, dict) else f"; found {found!r}"
    message = error["msg"].removeprefix("Value error, ")
    return f"key `{key}`: {message}{shown}" if location else message


def _known_keys(parents: Sequence[Any], cls: type[Recipe]) -> list[str]:
    """The keys of the model at a place in the recipe."""
    model: Any = cls
    for part in parents:
        field = getattr(model, "model_fields", {}).get(part) if isinstance(part, str) else None
        if field is None:
            continue
        model = model_of(field.annotation) or model
    return [name for name in getattr(model, "model_fields", {}) if name != "folder"]


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


def flat_keys(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a resolved recipe by their dotted keys.

    >>> flat_keys({"seed": 0, "sft": {"epochs": 2}})
    {'seed': 0, 'sft.epochs': 2}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat_keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
