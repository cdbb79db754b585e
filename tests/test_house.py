"""The house: imports go down, no method is known outside its folder, and every registered name is what it says."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from pathlib import Path

import pytest

import selfimprove
from selfimprove import registry
from selfimprove.recipe.contract import Method
from selfimprove.recipe.judge_kind import JudgeKind
from selfimprove.recipe.judges import Reward
from selfimprove.steps.kind import StepKind

PACKAGE = Path(selfimprove.__file__).parent
# From the ground up; those of one floor do not import each other. docs/design.md draws them.
FLOORS = [
    {"errors", "quiet", "registry", "statistics", "artefacts", "shipped"},
    {"models"},
    {"report"},
    {"data"},
    {"gates"},
    {"recipe"},
    {"steps"},
    {"scoring", "sampling", "training"},
    {"inference"},
    {"judging"},
    {"suites"},
    {"loop"},
    {"methods", "tasks", "runs"},
    {"study"},
    {"cli"},
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
GROUND = FLOORS[0]  # its modules may use each other
FACES = ("__init__", "__main__")  # they hand names on
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ("__init__.py",))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The package's modules that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "selfimprove":
            below = (node.module or "").split(".")[1:]
            found |= {below[0]} if below else {alias.name for alias in node.names if alias.name in FLOOR}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("selfimprove.")}
    return found


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in FILES} - set(FACES) == set(FLOOR)
    assert len([path for path in PACKAGE.glob("*.py") if path.stem not in FACES]) <= 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    if own in FACES:
        return
    for other in imports_of(path):
        same = other == own or (other in GROUND and own in GROUND)
        assert same or FLOOR[other] < FLOOR[own], f"{path.relative_to(PACKAGE)} imports {other}, which is not below it"


def test_no_method_imports_another() -> None:
    shared = {"ranked"}
    methods = PACKAGE / "methods"
    for path in methods.rglob("*.py"):
        own = path.relative_to(methods).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfimprove.methods."):
                other = (node.module or "").split(".")[2]
                assert other in {own, *shared}, f"{own} imports {other}"


def test_nothing_outside_the_methods_asks_for_a_methods_name() -> None:
    """No comparison with a recipe's `method`, and no `recipe.<section>` of one method."""
    names = set(registry.OURS["method"])
    for path in FILES:
        if room(path) in ("methods", "tasks", "registry"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(PACKAGE)}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Compare):
                equal = any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops)
                sides = [node.left, *(node.comparators if equal else [])]  # `":" in recipe.method` asks for no name
                assert not any(isinstance(one, ast.Attribute) and one.attr == "method" for one in sides), where
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "recipe":
                assert node.attr not in names - {"evaluate"}, where


@pytest.mark.parametrize("name", registry.OURS["method"])
def test_every_method_meets_its_contract(name: str) -> None:
    found = registry.find("method", name)
    assert isinstance(found, Method) and found.name == name
    assert found.run.__doc__ and (found.run.__module__ or "").startswith("selfimprove.")
    assert found.trains == found.run.__module__.startswith("selfimprove.methods.")
    assert found.options is None or found.options.__doc__


@pytest.mark.parametrize("name", registry.OURS["judge"])
def test_every_judge_meets_its_contract(name: str) -> None:
    found = registry.find("judge", name)
    assert isinstance(found, JudgeKind) and found.name == name and callable(found.run)
    assert found.of or not (found.needs_of or found.link), "what the judge behind it is to it"
    assert not found.needs or found.needs in Reward.model_fields


@pytest.mark.parametrize("name", registry.OURS["sampler"])
def test_every_sampler_is_found(name: str) -> None:
    assert list(inspect.signature(registry.find("sampler", name)).parameters) == ["options", "execution", "folder"]


def test_no_kind_of_judge_is_known_but_in_the_judges_own_files() -> None:
    """No comparison with a judge's or a reward's kind by name where a look-up would do."""
    for path in FILES:
        if room(path) != "judging":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "kind":
                named = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
                assert not set(named) & set(registry.OURS["judge"]), f"{path.name}, line {node.lineno}"


@pytest.mark.parametrize("name", registry.OURS["step"])
def test_every_step_kind_is_found(name: str) -> None:
    found = registry.find("step", name)
    assert isinstance(found, StepKind) and found.dry, "check says what it takes"


def test_the_floors_are_those_of_the_design_page() -> None:
    drawn = (PACKAGE.parent / "docs" / "design.md").read_text()
    places = [drawn.index(f"`{sorted(floor)[0]}`") for floor in reversed(FLOORS)]
    assert all(upper < lower for upper, lower in pairwise(places))
