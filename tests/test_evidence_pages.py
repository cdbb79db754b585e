"""The evidence pages that a study makes are what its results make."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from selfimprove.study.plan import load_study, planned

EVIDENCE = Path(__file__).parent.parent / "evidence"
PAGES = sorted(path.parent.name for path in EVIDENCE.glob("*/page.md.j2"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_results_make(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EVIDENCE)
    pages = importlib.import_module("page")
    assert (pages.PAGES / f"{name}.md").read_text(encoding="utf-8") == pages.page(name), "run evidence/page.py"


@pytest.mark.parametrize(
    "path", sorted(EVIDENCE.glob("*/study*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_study_s_arms_are_recipes_and_its_claims_name_them(path: Path) -> None:
    study = load_study(path)
    assert planned(study)
    for claim in yaml.safe_load(path.read_text(encoding="utf-8")).get("claims", ()):
        assert claim["arm"] in study.arms and claim["says"] in ("above", "below", "nothing")


def test_verdicts_follow_interval_and_holm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EVIDENCE)
    pages = importlib.import_module("page")

    def said(low: float, high: float, says: str, p: float = 0.01) -> str:
        return str(pages.verdict({"x_low": low, "x_high": high}, {"column": "x", "says": says}, p))

    assert said(0.1, 0.3, "above") == "holds" and said(0.1, 0.3, "above", 0.2) == "holds alone, not with Holm"
    assert said(-0.1, 0.3, "above") == "not told from noise" and said(-0.3, -0.1, "above") == "contradicted"
    assert said(-0.3, -0.1, "below") == "holds" and said(0.1, 0.3, "below") == "contradicted"
    assert said(-0.1, 0.1, "nothing") == "not contradicted"
    assert said(0.1, 0.2, "nothing") == "contradicted (up)" and said(-0.2, -0.1, "nothing") == "contradicted (down)"
