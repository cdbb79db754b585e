"""The documents: what is made from the code is as the code is, the methods' page is whole, every link has its end."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfimprove.registry import OURS, find

sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.make_docs import PAGES, anchor, keys_table, made

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
MARKDOWN = [name for name in FILES if name.endswith(".md")] or [
    str(one.relative_to(ROOT)) for one in DOCS.rglob("*.md")
]


@pytest.mark.parametrize("page", PAGES)
def test_what_is_made_from_the_code_is_as_the_code_is(page: str) -> None:
    assert (DOCS / page).read_text() == made(page), f"docs/{page} is not what the code says: run `make docs`"


def test_a_key_is_described_by_the_text_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keyed.py").write_text(
        "from typing import Annotated, Literal\nfrom pydantic import Field\n"
        "from selfimprove.recipe.sections import Strict\n"
        'class Keyed(Strict):\n    """Some."""\n\n    share: Annotated[float, Field(gt=0, lt=1)] | None = None\n'
        '    """Of a | b (arXiv 2410.12735),\n    see docs/scaling.md#memory; by default all."""\n'
        '    how: Literal["a", "b"] = "a"\n    most: Annotated[int, Field(ge=1)]\n    """Tokens."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from keyed import Keyed  # type: ignore[import-not-found]

    assert keys_table(Keyed, "keys.md").splitlines()[2:] == [
        "| `share` | above 0 to below 1 |  | Of a \\| b ([arXiv 2410.12735](https://arxiv.org/abs/2410.12735)), see "
        "[scaling](scaling.md#memory); by default all. |",
        "| `how` | `a`, `b` | `a` |  |",
        "| `most` | whole number, 1 or more | required | Tokens. |",
        "",
    ]


# ---- docs/methods.md

ROWS = {row[1]: row[0] for row in re.finditer(r"^\| \[`(\w+)`\].*$", (DOCS / "methods.md").read_text(), re.M)}


@pytest.mark.parametrize("name", OURS["method"])
def test_every_method_has_its_row(name: str) -> None:
    """With the papers that its module begins with, all of its recipes, and figures that its evidence has."""
    row, method = ROWS[name], find("method", name)
    about = inspect.getmodule(method.run).__doc__.partition("\n\n")[0]
    assert set(re.findall(r"\d{4}\.\d{5}", about)) <= set(re.findall(r"abs/(\d{4}\.\d{5})", row))
    recipes = {str(one.relative_to(ROOT)) for one in ROOT.glob("recipes/*/*.yaml")}
    own = {one for one in recipes if yaml.safe_load((ROOT / one).read_text())["method"] == name}
    assert own == set(re.findall(r"\(\.\./(recipes/[^)]+)\)", row))
    pages = re.findall(r"\((evidence/\w+\.md)\)", row)
    evidence = " ".join(" ".join((DOCS / page).read_text().split()) for page in pages)
    figures = re.findall(r"[-+]?[\d.]+ \[[-+\d., ]+\]", row)
    assert bool(figures) == bool(pages) == ("not measured" not in row and method.trains)
    assert [one for one in figures if one not in evidence] == [], f"not in {pages}: take what the evidence says now"


def test_no_row_is_of_a_method_that_is_not_there() -> None:
    assert set(ROWS) == set(OURS["method"])


# ---- links


def prose(name: str) -> str:
    """A page without its blocks of code."""
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"^    .*$", "", text, flags=re.M)


def anchors(name: str) -> list[str]:
    return [
        anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line)) for line in re.findall(r"^#+ (.+)$", prose(name), re.M)
    ]


def links(name: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)) if not re.match(r"\w+:", target)]


def ends(name: str) -> list[str]:
    """The files that a page links to, from the root of the repository."""
    found = [target.partition("#")[0] for target in links(name)]
    return [str(((ROOT / name).parent / path).resolve().relative_to(ROOT)) for path in found if path]


@pytest.mark.parametrize("name", MARKDOWN)
def test_every_link_has_its_end(name: str) -> None:
    for target in links(name):
        path, _, place = target.partition("#")
        end = (ROOT / name).parent / path if path else ROOT / name
        assert end.is_file(), f"{name}: {target}"  # a folder would be no page of the site
        if place:
            assert anchors(str(end.resolve().relative_to(ROOT))).count(place) == 1, f"{name}: {target}"


def test_the_site_has_every_page() -> None:
    def pages(nav: Any) -> list[str]:
        return [nav] if isinstance(nav, str) else [page for one in nav for page in pages(*one.values())]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(pages(site["nav"])) == sorted(name for name in MARKDOWN if re.match(r"docs/|[A-Z]+\.md", name))
    copied = re.search(r"cp -R (.*) build/pages", (ROOT / "Makefile").read_text())[1].split()
    linked = {path for name in pages(site["nav"]) for path in ends(name)}
    assert [path for path in linked if not any(path == one or path.startswith(f"{one}/") for one in copied)] == []


def test_documents_that_code_and_recipes_name_are_there() -> None:
    for name in FILES:
        if name.endswith((".py", ".yaml", ".md", ".j2")) and not name.startswith("tests/"):
            for page in re.findall(r"\bdocs/[a-z/_-]+\.(?:md|ipynb)\b", (ROOT / name).read_text(encoding="utf-8")):
                assert (ROOT / page).is_file(), f"{name} names {page}"
