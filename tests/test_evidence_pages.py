"""The evidence pages that a study makes are what its results make."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from selfimprove.study.plan import load_study, planned

EVIDENCE = Path(__file__).parent.parent / "evidence"
PAGES = sorted(path.parent.name for path in EVIDENCE.glob("*/page.md.j2"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_results_make(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EVIDENCE)
    pages = importlib.import_module("page")
    text, pictures = pages.page(name)
    assert (pages.PAGES / f"{name}.md").read_text(encoding="utf-8") == text, "run evidence/page.py"
    for picture, svg in pictures.items():
        assert (pages.PAGES / name / picture).read_text(encoding="utf-8") == svg, "run evidence/page.py"


@pytest.mark.parametrize(
    "path", sorted(EVIDENCE.glob("*/study*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_study_s_arms_are_recipes_and_its_claims_are_of_its_table(path: Path) -> None:
    assert planned(load_study(path))
