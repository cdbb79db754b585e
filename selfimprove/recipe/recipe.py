"""Recipes: what a person writes to say what is to be run. Strict: an unknown key names the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from selfimprove.errors import InputError
from selfimprove.models.opening import NOT_THE_TEMPLATES, Opening
from selfimprove.recipe.judges import JudgeOptions, Reward, SuiteChoice
from selfimprove.recipe.methods import (
    Answer,
    Cream,
    ExpertIteration,
    IterativeDpo,
    JudgeFile,
    Score,
    SelfJudge,
    SelfLengthen,
    Star,
)
from selfimprove.recipe.sections import Data, Gates, Positive, Sampling, Sft, Stop, Strict, Training, model_of
from selfimprove.recipe.strict_yaml import load_yaml
from selfimprove.shipped import recipe_file

# A shell leaves the ~ of `output=~/x` where it is.
HomePath = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser()) if path.startswith("~") else path)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes
_Method = Literal[
    "sft", "dpo", "expert_iteration", "iterative_dpo", "srlm", "cream", "score", "star", "self_judge", "self_lengthen",
    "evaluate", "evaluate_judge", "evaluate_responses", "judge_file", "answer",
]  # fmt: skip
# What only the method of that name reads.
_METHOD_SECTIONS = (
    "cream",
    "expert_iteration",
    "iterative_dpo",
    "score",
    "star",
    "self_judge",
    "self_lengthen",
    "judge_file",
    "answer",
)
# Whose `judge` may stand at the top of the recipe, in fewer words.
_JUDGED = ("iterative_dpo", "expert_iteration")
_UNLABELLED = "rubric, reward_model, function, constraints, likelihood, majority"
# Those that rank by the implicit reward, or by `judge` in its place.
_SELF_REWARDED = ("cream", "srlm")


class Recipe(Strict):
    """One run, whole. `load_recipe` reads it from YAML; `selfimprove run` and `selfimprove.run` take it."""

    method: _Method
    model: str = "smollm2-135m-instruct"
    output: HomePath
    store: HomePath | None = None
    seed: Seed = 0
    rounds: Positive = 3
    data: Data = Data()
    sampling: Sampling = Sampling()
    training: Training = Training()
    sft: Sft = Sft()
    judge: JudgeOptions | None = None
    cream: Cream = Cream()
    expert_iteration: ExpertIteration = ExpertIteration()
    iterative_dpo: IterativeDpo = IterativeDpo()
    score: Score = Score()
    star: Star = Star()
    self_judge: SelfJudge = SelfJudge()
    self_lengthen: SelfLengthen = SelfLengthen()
    judge_file: JudgeFile = JudgeFile()
    answer: Answer = Answer()
    evaluate: tuple[SuiteChoice, ...] = ()
    evaluate_limit: Positive | None = None
    development: SuiteChoice | None = None
    policies: tuple[str, ...] = ()
    keep: Literal["last", "best"] = "last"
    stop: Stop = Stop()
    gates: Gates = Gates()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    folder: str = Field(default=".", exclude=True)  # where relative data paths are looked for first

    @model_validator(mode="before")
    @classmethod
    def _method_defaults(cls, values: Any) -> Any:
        """Where a recipe does not say otherwise: SCoRe samples at temperature 1 from the whole distribution, and Self-J
        has one round."""
        if isinstance(values, dict) and values.get("method") in ("score", "star"):
            given = values.get("sampling") or {}
            if isinstance(given, dict):
                values = {**values, "sampling": {"temperature": 1.0, "top_p": 1.0, **given}}
        if isinstance(values, dict) and values.get("method") == "self_judge":
            values = {"rounds": 1, **values}
        return values

    @model_validator(mode="before")
    @classmethod
    def _judge_of_its_section(cls, values: Any) -> Any:
        """`judge` is the judge of the method's section in fewer words."""
        if isinstance(values, dict) and values.get("method") in _JUDGED and values.get("judge") is not None:
            method = values["method"]
            section = values.get(method) or {}
            if isinstance(section, dict):
                if "judge" in section:
                    raise ValueError(f"`judge` and `{method}.judge` are the same: keep one of them")
                values = {**values, "judge": None, method: {**section, "judge": values["judge"]}}
        return values

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needs = {
            "sft": ("seed",),
            "dpo": ("pairs",),
            **dict.fromkeys(
                ("expert_iteration", "iterative_dpo", "score", "star", "self_judge", "self_lengthen", "judge_file"),
                ("prompts",),
            ),
            **dict.fromkeys(("answer", "evaluate", "evaluate_judge", "evaluate_responses"), ()),
        }
        for name in needs.get(self.method, ("seed", "prompts")):
            if getattr(self.data, name) is None:
                raise ValueError(f"method {self.method!r} needs `data.{name}`")
        if self.sampling.n < 2 and self.method in ("iterative_dpo", "srlm", "cream", "score", "star"):
            raise ValueError(f"`sampling.n` is 1, and method {self.method!r} compares a prompt's responses: 2 or more")
        if self.method.startswith("evaluate") and not self.evaluate:
            raise ValueError(f"method {self.method!r} needs at least one suite under `evaluate`")
        if self.policies and self.method != "evaluate":
            raise ValueError("`policies` (further ones to measure) belongs to method 'evaluate'")
        if self.method == "iterative_dpo" and self.iterative_dpo.sft and self.data.seed is None:
            raise ValueError(
                "iterative_dpo begins with SFT on `data.seed`: give it, or set iterative_dpo.sft=false with a judge "
                f"that needs no labels: {_UNLABELLED} (`selfimprove cp smollm2-135m/prompts-only` has one)"
            )
        judge = self.iterative_dpo.judge
        if self.method == "iterative_dpo" and not self.iterative_dpo.sft and judge.kind == "implicit_reward":
            raise ValueError(
                "without SFT the implicit reward of every response is 0 in round 1, as the policy is still the model: "
                f"give `iterative_dpo.judge` a kind that needs no labels: {_UNLABELLED}"
            )
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
        if self.method == "sft" and "sft" in self.model_fields_set:
            raise ValueError("section `sft` does nothing with method 'sft': its settings are under `training`")
        if self.method == "expert_iteration" and self.sampling.n < 2 and self.expert_iteration.pairs:
            raise ValueError("`sampling.n` is 1, and `expert_iteration.pairs` compares a prompt's responses: 2 or more")
        if self.sampling.stop and self.method != "self_lengthen":
            raise ValueError(
                "`sampling.stop` is for self_lengthen, which trains on texts: the tokens of a response that a text "
                "ends have no end of turn to learn"
            )
        if self.method == "score":
            self._suits_score()
        if self.method == "answer":
            self._suits_answer()
        elif self.data.held_out is not None:
            raise ValueError("`data.held_out`, which a threshold is chosen on, does nothing but for method 'answer'")
        if self.judge is not None and self.method not in _SELF_REWARDED:
            raise ValueError(
                "`judge` is for cream, srlm, iterative_dpo and expert_iteration, and does nothing with method "
                f"{self.method!r}; a reward is `score.reward` or `star.reward`, a suite's judge a key of the suite"
            )
        for section in _METHOD_SECTIONS:
            if section in self.model_fields_set and section != self.method:
                raise ValueError(f"section `{section}` does nothing with method {self.method!r}")
        return self

    def _suits_score(self) -> None:
        """What a policy gradient needs of the other sections."""
        rows, n = self.training.batch_size, self.sampling.n
        if rows % (n * self.training.processes):
            raise ValueError(
                f"`training.batch_size` ({rows} samples an update) must be a multiple of `sampling.n` ({n} samples a "
                f"prompt) times `training.processes` ({self.training.processes})"
            )
        if self.score.first_attempts and n % self.score.first_attempts:
            raise ValueError(f"`sampling.n` ({n}) must be a multiple of `score.first_attempts`")
        if self.score.sampler_weights != "none" and self.sampling.temperature != 1:
            raise ValueError("`score.sampler_weights` needs `sampling.temperature` 1, where samplers give log-probs")
        if self.sampling.top_p != 1:
            raise ValueError("`sampling.top_p` must be 1: the policy that is trained is the one that is sampled from")
        if shaped := next(iter(self.sampling.shaping), None):
            raise ValueError(f"`sampling.{shaped}` must be off: the policy that is trained is the one sampled from")
        if self.sampling.backend == "openai":
            raise ValueError(
                "`sampling.backend`: a server cannot be given new weights every update; vllm, transformers"
            )
        if self.training.truncated != "keep":
            raise ValueError("`training.truncated` is about preference pairs; see `score.truncated`")

    def _suits_answer(self) -> None:
        """Something to answer, and held-out prompts where a threshold is to be chosen."""
        if (self.answer.prompt is None) == (self.data.prompts is None):
            raise ValueError("method 'answer' needs one of `data.prompts` and `answer.prompt`")
        chosen = self.answer.precision is not None or self.answer.coverage is not None
        if chosen and self.data.held_out is None:
            raise ValueError("a threshold for a `precision` or a `coverage` is chosen on `data.held_out`: give it")
        if self.data.held_out is not None and not chosen:
            raise ValueError("`data.held_out` needs `answer.precision` or `answer.coverage`: what to choose by")

    def ranked_by(self) -> JudgeOptions | None:
        """The judge that ranks the method's responses; None where it is the implicit reward, or nothing is ranked."""
        if self.method == "expert_iteration":
            return self.expert_iteration.judge
        return self.iterative_dpo.judge if self.method == "iterative_dpo" else self.judge

    @property
    def opening(self) -> Opening:
        return Opening(self.trust_remote_code, self.chat_template_kwargs)

    @property
    def trains_samples(self) -> bool:
        """Whether its SFT is on the policy's own samples."""
        return self.method == "star" or (self.method == "expert_iteration" and not self.expert_iteration.pairs)

    @property
    def oracle(self) -> bool:
        """Whether true labels decide what is trained, under that name."""
        judge = self.ranked_by()
        return judge is not None and judge.is_oracle

    def rewarded_by(self) -> Reward | None:
        """The reward of a method that has one."""
        return {"score": self.score.reward, "star": self.star.reward}.get(self.method)

    def uses(self, kind: str) -> bool:
        """Whether the ranking judge, or the one behind it, is of this kind."""
        judge = self.ranked_by()
        return judge is not None and kind in (judge.kind, judge.of.kind if judge.of else None)

    def search_folders(self) -> list[Path]:
        """Where relative paths are looked for: the recipe's folder, here, then what the package ships."""
        from selfimprove.shipped import recipes_folder

        return [Path(self.folder), Path.cwd(), recipes_folder()]

    def as_yaml(self) -> str:
        """The resolved recipe, every option written out; `load_recipe` reads it back."""
        other_methods = set(_METHOD_SECTIONS) - {self.method} | ({"sft"} & {self.method})
        if self.method not in _SELF_REWARDED:
            other_methods.add("judge")
        values = self.model_dump(mode="json", exclude=other_methods)
        for role in ("seed", "prompts", "pairs", "held_out"):
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
        values = load_yaml(path.read_text(encoding="utf-8"))
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
    # A key that says nothing is not given: an arm of a study, or a command line, can take a section back.
    said = {key: value for key, value in values.items() if value is not None or key in ("method", "model", "output")}
    values = {**said, "folder": str(folder)}
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
        place[last] = load_yaml(text)
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
