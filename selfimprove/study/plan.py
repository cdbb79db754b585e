"""The study file, strict as a recipe, and the recipes that it means: every arm with every seed."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from selfimprove.errors import InputError
from selfimprove.recipe.judges import said_of
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.recipe.sections import Strict
from selfimprove.recipe.strict_yaml import load_yaml
from selfimprove.shipped import recipe_file
from selfimprove.study.claims import Claim

_OWN = ("seed", "output", "store")  # the study gives these to every run

Seed = Annotated[int, Field(ge=0)]
Changes = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Study(Strict):
    """Arms x seeds of one recipe.

    recipe: a shipped name or a path (looked for beside the study file first). overrides: changes of the recipe for
    every arm; arms: by name, an arm's own changes. A mapping changes the keys it has, but one with `kind` (a judge, a
    reward) replaces the whole; so does what stands under a dotted key (`expert_iteration.judge`). placebo: the
    arms that a gain is held against. oracle: the arm that has the true labels. claims: see `Claim`. include: files
    `results.json` of other starts of this study (looked for beside the study file first): their finished runs are not
    run here.
    """

    recipe: str
    output: str
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    overrides: Changes = Field(default={})
    arms: Annotated[dict[str, Changes], Field(min_length=1)]
    placebo: Names = ()
    oracle: str | None = None
    claims: tuple[Claim, ...] = ()
    include: Names = ()
    file: str = Field(default="study", exclude=True)  # begins every error message

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.arms:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"an arm's name becomes a folder's: letters, digits, - and _ only; found {name!r}")
        for key, names in (("placebo", self.placebo), ("oracle", (self.oracle,) if self.oracle else ())):
            for name in names:
                if name not in self.arms:
                    raise ValueError(f"`{key}` names no arm: {name!r}; {nearest(name, self.arms, 'arms')}")
        if self.oracle in self.placebo:
            raise ValueError(f"{self.oracle!r} cannot be both `placebo` and `oracle`")
        for key, given in (("seeds", self.seeds), ("placebo", self.placebo)):
            if len(set(given)) < len(given):
                raise ValueError(f"`{key}`: one of them is there twice; found {list(given)}")
        for place, claim in enumerate(self.claims):
            where, columns = f"`claims[{place}]` ({claim.claim!r})", self.columns(claim.arm)
            if claim.arm not in self.arms:
                raise ValueError(f"{where}: no arm {claim.arm!r}; {nearest(claim.arm, self.arms, 'arms')}")
            if claim.column not in columns:
                hint = nearest(claim.column, columns, f"arm {claim.arm!r} has")
                raise ValueError(f"{where}: no column {claim.column!r} to claim anything of; {hint}")
            if claim.key in [one.key for one in self.claims[:place]]:
                raise ValueError(f"{where}: says of the same row and column what a claim before it says")
        return self

    def placebo_columns(self) -> dict[str, str]:
        """Column of the table -> placebo arm."""
        if len(self.placebo) == 1:
            return {"minus_placebo": self.placebo[0]}
        return {f"minus_placebo_{name}": name for name in self.placebo}

    def columns(self, arm: str) -> list[str]:
        """The differences that an arm's rows have."""
        placebos = [] if arm in self.placebo else list(self.placebo_columns())
        return ["minus_start", *placebos, *(["gap_to_oracle"] if self.oracle not in (None, arm) else [])]


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """What to say of a name that is not known."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{what}: {', '.join(names)}"


@dataclass(frozen=True)
class Planned:
    """One run of the study."""

    arm: str
    seed: int
    recipe: Recipe

    @property
    def folder(self) -> Path:
        return Path(self.recipe.output)


def load_study(file: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Reads a study file; `overrides` are `key.sub=value` texts that replace its keys, with YAML's values.

    Raises InputError with the file, the key, what was found and what to do.
    """
    path = Path(file).expanduser()
    values = _mapping(path, "a study")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise InputError(f"override {override!r}: expected key=value, for example seeds=[0]")
        try:
            values = merged(values, {key: load_yaml(text)})
        except yaml.YAMLError as error:
            raise InputError(f"override {override!r}: the value is not valid YAML: {error}") from error
    if "file" in values:
        raise InputError(f"{path}: unknown key `file`; known here: {', '.join(_known())}")
    try:
        return Study.model_validate({"output": f"studies/{path.stem}", **values, "file": str(path)})
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {_explain(one)}" for one in error.errors())) from None


def _known() -> list[str]:
    return [name for name in Study.model_fields if name != "file"]


def _explain(error: Any) -> str:
    where, place = "", error["loc"]
    model: type[Strict] = Study
    if place[:1] == ("claims",) and len(place) > 1:
        where, model, place = f"`claims[{place[1]}]`: ", Claim, place[2:]
    error = {**error, "loc": place}
    if not place:
        return where + str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where}key `{place[0]}` is missing"
    if error["type"] != "extra_forbidden":
        return f"{where}{said_of(error, model)}; found {error.get('input')!r}"
    if not where and place[0] in Recipe.model_fields:
        return f"unknown key `{place[0]}`; a key of the recipe goes under `overrides`, or under an arm"
    return where + said_of(error, model).replace(", file", "")


def planned(study: Study) -> list[Planned]:
    """Every run, seed by seed and arm by arm; all runs share the steps below `output`. Raises InputError."""
    path = beside(study, study.recipe)
    path = path if path.is_file() else recipe_file(study.recipe)
    values = _mapping(path, "a recipe")
    output = Path(study.output)
    runs = []
    for seed in study.seeds:
        for arm, changes in study.arms.items():
            where = f"{study.file}: arm {arm!r} of {path}"
            for key, given in (("overrides", study.overrides), (f"arms.{arm}", changes)):
                if taken := [name for name in _OWN if name in given]:
                    raise InputError(
                        f"{study.file}: `{key}.{taken[0]}`: the study itself gives every run its {taken[0]}"
                    )
            own = {"seed": seed, "output": str(output / "runs" / f"{arm}-seed{seed}"), "store": str(output / "steps")}
            changed = merged(merged(values, study.overrides), changes)
            recipe = make_recipe({**changed, **own}, where=where, folder=path.parent)
            if recipe.contract.over == "inference":
                raise InputError(f"{where}: method {recipe.method!r} measures no policy: there is nothing to compare")
            if not recipe.evaluate:
                raise InputError(f"{where}: key `evaluate` is empty: name at least one suite, or nothing is compared")
            runs.append(Planned(arm, seed, recipe))
    return runs


def beside(study: Study, name: str) -> Path:
    """A file that the study names: beside the study file if it is there, else as it is named."""
    path = Path(study.file).parent / Path(name).expanduser()
    return path if path.is_file() else Path(name).expanduser()


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes`, as `Study` says.

    >>> merged({"sft": {"epochs": 1, "batch_size": 4}}, {"sft": {"epochs": 2}, "a.b": {"c": 1}})
    {'sft': {'epochs': 2, 'batch_size': 4}, 'a': {'b': {'c': 1}}}
    >>> merged({"judge": {"kind": "random", "rate": 0.5}}, {"judge": {"kind": "math"}})
    {'judge': {'kind': 'math'}}
    """
    found = copy.deepcopy(dict(values))
    for key, value in changes.items():
        *parents, last = str(key).split(".")
        place = found
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        if isinstance(value, dict) and not parents and "kind" not in value:
            old = place.get(last)
            place[last] = merged(old if isinstance(old, dict) else {}, value)
        else:
            place[last] = copy.deepcopy(value)
    return found


def _mapping(path: Path, what: str) -> dict[str, Any]:
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: {what} is a mapping of keys; found {type(values).__name__}")
    return values
