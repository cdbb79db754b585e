"""Recipes and suites that come with the package: in the source tree when editable, inside the wheel otherwise."""

from __future__ import annotations

import difflib
from pathlib import Path

from selfimprove.errors import InputError

_PACKAGE = Path(__file__).parent
# The recipe that `selfimprove run quickstart` means; other short names must be unique.
_PREFERRED = "smollm2-135m"


def _folder(name: str) -> Path:
    for place in (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise InputError(f"the package's {name}/ folder is missing from {_PACKAGE}; install selfimprove again")


def recipes_folder() -> Path:
    return _folder("recipes")


def suites_folder() -> Path:
    return _folder("eval")


def shipped_recipes() -> dict[str, Path]:
    """Name (`smollm2-135m/cream`) to file."""
    root = recipes_folder()
    return {str(p.relative_to(root).with_suffix("")): p for p in sorted(root.glob("*/*.yaml"))}


def shipped_suites() -> dict[str, Path]:
    """Name to file of every shipped evaluation suite."""
    return {p.stem: p for p in sorted(suites_folder().glob("*.yaml"))}


def recipe_file(name: str) -> Path:
    """The file a recipe argument means: a path, `model/recipe`, or a short name such as `quickstart`."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = shipped_recipes()
    if name in known:
        return known[name]
    short = [full for full in known if full.endswith(f"/{name}")]
    for full in (f"{_PREFERRED}/{name}", *short[:1]):
        if full in known:
            return known[full]
    if path.is_dir():
        raise InputError(f"{name}: is a folder; give a recipe's YAML file")
    candidates = [*known, *(full.split("/")[1] for full in known)]
    close = difflib.get_close_matches(name, candidates, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    raise InputError(f"{name}: no such file and no shipped recipe of this name; {hint}`selfimprove ls` lists them")


def made_by(path: str) -> str:
    """Which shipped recipe makes what a path of an earlier run means (`runs/x`, `runs/x/judge`), in words for the end
    of a message; empty where none does."""
    import yaml

    for name, file in shipped_recipes().items():
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        output = str(recipe.get("output", "")) if isinstance(recipe, dict) else ""
        if output and Path(path).is_relative_to(output):
            short = name.split("/")[1]
            return f"; `selfimprove run {short if recipe_file(short) == file else name}` makes it"
    return ""
