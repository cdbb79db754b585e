"""Evaluation suites: a YAML file in `eval/` (or anywhere), of one of the kinds of `suite_kinds.py`, and its items;
grading of short answers is pure."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError

from selfimprove.data.labelled import load_labelled_pairs
from selfimprove.data.scored import load_scored
from selfimprove.data.sources import DataSource, Prompt, load_prompts
from selfimprove.errors import InputError
from selfimprove.judging.checkers.code_tasks import QUESTIONS, program_of
from selfimprove.judging.checkers.constraints import read_constraints
from selfimprove.recipe.judges import Reader
from selfimprove.recipe.sections import ServerOptions
from selfimprove.recipe.strict_yaml import load_yaml
from selfimprove.registry import find, names
from selfimprove.shipped import shipped_suites, suites_folder
from selfimprove.suites.kind import Loaded, SuiteKind
from selfimprove.suites.suite_kinds import (
    CheckedSuite,
    GradedSuite,
    Judged,
    JudgeSuite,
    LengthSuite,
    MultipleChoice,
    Suite,
)


def kind_of(loaded: Loaded) -> SuiteKind:
    """The suite's kind."""
    return _kind(loaded.suite.kind, loaded.path)


def _kind(name: str, path: Path) -> SuiteKind:
    found = find("suite", name, [path.parent, Path.cwd()], f"{path}: not a suite: key `kind`")
    if not isinstance(found, SuiteKind):
        raise InputError(
            f"{path}: key `kind`: {name!r} is no kind of suites: put `@selfimprove.suite_kind(...)` above it"
        )
    return found


def load_suite(name: str, search: Sequence[Path] = (), change: Mapping[str, Any] | None = None) -> Loaded:
    """A suite and its items, by shipped name or by path (looked for in `search`); `change` replaces keys of its file.

    Raises InputError for a suite that is not there, whose file or data are wrong, or that has no item.
    """
    path = shipped_suites().get(name) or next((p for s in search if (p := s / name).is_file()), None)
    whole = change is not None and "kind" in change and "data" in change  # the recipe itself has the suite
    if whole and path is not None:
        raise InputError(f"evaluate: {name!r} is the name of a suite that is there ({path}); give yours another")
    if whole:
        path = next(iter(search), Path()) / f"{name} (in the recipe)"
    if path is None:
        close = difflib.get_close_matches(name, shipped_suites(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        looked = ", ".join(map(str, [*search, suites_folder()]))
        raise InputError(
            f"evaluate: no suite {name!r}; {hint}shipped: {', '.join(shipped_suites())}; or a YAML file's path "
            f"(looked in {looked})"
        )
    suite = _checked(path, {"name": name, **(change or {})}, {}) if whole else _parsed(path, dict(change or {}))
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
        values = load_yaml(path.read_text(encoding="utf-8"))
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
    of_data = {key: change[key] for key in ("fields", "where", "template") if key in change}
    if of_data:  # these alone change how the data are read
        change = {key: value for key, value in change.items() if key not in of_data}
        given = change.get("data", values.get("data"))
        read: dict[str, Any] = dict(given) if isinstance(given, dict) else {"path": given}
        for key, value in of_data.items():
            read[key] = {**read.get(key, {}), **value} if isinstance(value, dict) else value
        if "template" in of_data:
            read["fields"] = {role: name for role, name in read.get("fields", {}).items() if role != "prompt"}
        change = change | {"data": read}
    return _checked(path, values | change, change)


def _checked(path: Path, values: dict[str, Any], change: dict[str, Any]) -> Suite:
    """The suite of these keys, some of which `change` had; `path` is for messages."""
    if not isinstance(kind := values.get("kind"), str):
        known = ", ".join(names("suite"))
        raise InputError(f"{path}: not a suite: key `kind` must be one of {known}; found {kind!r}")
    options = _kind(kind, path).options
    try:
        return cast(Suite, options.model_validate(values))
    except ValidationError as error:
        raise InputError("\n".join(_explained(path, one, values, change) for one in error.errors())) from None


def _explained(path: Path, error: Any, values: dict[str, Any], change: dict[str, Any]) -> str:
    """One validation error in words, with the nearest known key."""
    place = [str(part) for part in error["loc"]]
    where = f"{path} (as changed by evaluate or the command line)" if place and place[0] in change else str(path)
    key = ".".join(place) or "kind"
    if error["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"data": DataSource, "judge": Reader, "judge.server": ServerOptions}
        model = parts.get(".".join(place[:-1]), _kind(values["kind"], path).options)
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
        if isinstance(suite, CheckedSuite):
            _check_row(suite, f"{path}: item {item.id!r}", item)
        needs_none = not _kind(suite.kind, path).answers or _brings_scores(suite)
        if item.answer is None and tests is None and not needs_none:
            raise InputError(f"{path}: item {item.id!r} has no answer")
        if isinstance(suite, MultipleChoice) and item.right_choice is None:
            raise InputError(f"{path}: item {item.id!r}: its answer {item.answer!r} is none of its choices")
        if item.later_turns and (isinstance(suite, LengthSuite) or not isinstance(suite, Judged)):
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


def _check_row(suite: CheckedSuite, where: str, item: Prompt) -> None:
    """InputError where a checker could not read what the item asks for."""
    if suite.checker == "constraints":
        read_constraints(item.row.get("constraints"), where)
    if suite.checker == "ifeval":
        from selfimprove.judging.checkers.ifeval import check_row

        check_row(item.row, where)


def graded(items: Sequence[Prompt], values: Sequence[float | None]) -> dict[str, dict[str, float]]:
    """Mean value and number of items by group; a missing value is in neither."""
    n, sums = Counter[str](), Counter[str]()
    for item, value in zip(items, values, strict=True):
        if value is not None:
            group = item.group or "all"
            n[group] += 1
            sums[group] += value  # type: ignore[assignment]
    return {group: {"value": sums[group] / n[group], "n": n[group]} for group in n}
