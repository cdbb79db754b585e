"""The evidence for Self-Lengthen: figures and verdicts with values computed by hand, a real run, the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_jsonl
from rich.console import Console

import selfimprove
from selfimprove.errors import InputError, RunFailed
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.terminal import Progress

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from evidence_self_lengthen import main  # noqa: E402
from self_lengthen_evidence import collect as collector  # noqa: E402
from self_lengthen_evidence.figures import ANSWERS, LONGER, RUNS_OF_FOUR, WORDS, Results, score, words  # noqa: E402
from self_lengthen_evidence.page import claims, load, page_text, write_page  # noqa: E402

DOCS = ROOT / "docs" / "evidence"


def item(asked: int, written: int, value: float, finished: bool = True) -> dict[str, Any]:
    return {
        **{"id": f"{asked}", "kind": "about" if asked < 100 else "below", "asked": asked, "words": written},
        **{"score": value, "distinct_4": 1.0, "longest_repeat": 0 if finished else 12, "finished": finished},
    }


def one_run(more: int) -> dict[str, Any]:
    """Two rounds: answers grow by `more` words, of two longer texts one only repeats itself."""

    def round_of(extra: int) -> dict[str, Any]:
        answers = [[20 + extra, 17 + extra, 1], [40 + extra, 37 + extra, 2]]
        longer = [[60 + extra, 57 + extra, 3], [80 + extra, 40, 9]]
        filters = {"initial": {"wanted": 3, "kept": 2, "rejected": {"unfinished": 4}}}
        return {"texts": answers, "pairs": list(zip(answers, longer, strict=True)), "filters": filters}

    suite = {
        "untrained": [item(60, 200, 0.0, False), item(200, 100, 0.5)],
        "generator 1": [item(60, 100, 0.2), item(200, 150, 0.5)],
        "generator 2": [item(60, 210, 0.2), item(200, 110 + more, 0.5)],
        "final": [item(60, 70, 1.0), item(200, 190, 0.9)],
    }
    return {
        **{"git": "abcdefgh", "device": "cpu", "backend": "vllm", "warnings": ["A 4-bit conversion."], "growth": 1.2},
        **{"rounds": {"1": round_of(0), "2": round_of(more)}, "training_seconds": {}, "suite": suite},
    }


def made_up() -> dict[str, Any]:
    return {str(seed): one_run(8 + seed) for seed in collector.SEEDS}


def test_figures_by_hand() -> None:
    results = Results(made_up())
    first = results.mean_words(1, ANSWERS)
    more = results.more_words(ANSWERS)
    assert first and more and (first.value, first.low) == (30, 30)  # the same in every seed
    half = 4.3027 * 1 / 3**0.5  # t(.975, 2 degrees); 8, 9 and 10 have a standard deviation of 1
    assert (more.value, more.low) == pytest.approx((9, 9 - half), abs=1e-3)
    assert results.mean_words(1, LONGER).value == 70  # type: ignore[union-attr]
    assert results.growth(1, WORDS).value == (60 / 20 + 80 / 40) / 2  # type: ignore[union-attr]
    # 57 of 17 different runs are growth; 40 of 37 are not 1.2 times as many
    assert results.growth(1, RUNS_OF_FOUR).value == pytest.approx((57 / 17 + 40 / 37) / 2)  # type: ignore[union-attr]
    assert results.only_repetition(1) == (3, 6)
    assert results.filter(1, "initial") == (9, 6, {"unfinished": 12})
    assert results.mean("final", score).value == pytest.approx(0.95)
    assert results.mean("final", score, "below").value == pytest.approx(0.9)
    assert results.less("generator 2", "untrained", words).by_seed == (14, 14.5, 15)
    assert results.follows("untrained").value == pytest.approx(-1)  # type: ignore[union-attr]
    assert results.follows("final").value == pytest.approx(1)  # type: ignore[union-attr]


def test_verdicts_follow_from_the_intervals() -> None:
    assert [number for number, *_ in claims(Results(made_up()))] == [*"123456"]
    runs = made_up()
    assert "fewer texts unfinished (6). Of 12 longer" in " ".join(page_text(Results(runs)).split())
    for one in runs["1"]["suite"]["final"]:  # then it is a half fewer, a half more, a half fewer
        one["finished"] = False
    flat = " ".join(page_text(Results(runs)).split())
    assert "**Holds**: the Generator's answers are longer in round 2" in flat
    assert "**Cannot be told apart**: the final model leaves fewer texts unfinished (6)." in flat


def test_the_page_says_what_the_figures_say(tmp_path: Path) -> None:
    text = write_page(tmp_path, {"runs": made_up()}).read_text()
    flat = " ".join(text.split())
    assert "nan" not in text and "All 3 seeds are finished." in text and "A 4-bit conversion." in flat
    assert "Of 12 longer texts 6 grew by repetition alone." in flat
    assert "| 1 | initial | 9 | 6 |" in text and "unfinished: 12" in text
    assert {file.name for file in (tmp_path / "self_lengthen").iterdir()} == {"words.svg", "asked.svg"}
    assert max(map(len, (line for line in text.splitlines() if not line.startswith("|")))) <= 120


def test_a_page_of_nothing_and_of_one_seed_is_a_page(tmp_path: Path) -> None:
    assert "Seeds finished, of 3: none." in write_page(tmp_path, load(tmp_path / "none.json")).read_text()
    text = page_text(Results({"0": one_run(8)}))
    assert "nan" not in text and "**Not finished**" in " ".join(text.split()) and "**Holds**" not in text


def test_a_run_that_stops_does_not_keep_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(recipe: Recipe) -> None:
        if recipe.seed == 1:
            raise RunFailed("no disk")

    monkeypatch.setattr(collector, "run", fake)
    assert collector.run_all(tmp_path) == [1]
    assert "seed 1 stopped: no disk" in capsys.readouterr().out


def test_collecting_a_run(
    lengthen_recipe: Callable[..., Recipe],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queries = [
        {"type": kind, "constraint": text, "query": f"Say it in {text}."}
        for kind, text in (("about", "5 words"), ("range", "3-9 words"), ("above", "4 words"), ("below", "8 words"))
    ]
    write_jsonl(tiny_data / "queries.jsonl", queries)
    suite = {"name": collector.SUITE, "kind": "length", "data": "queries.jsonl", "max_new_tokens": 24}
    (tiny_data / "suite.yaml").write_text(yaml.safe_dump(suite))

    def make(seed: int, folder: Path) -> Recipe:
        return lengthen_recipe(seed=seed, output=str(folder), evaluate=["suite.yaml"])

    monkeypatch.setattr(collector, "recipe_of", make)
    folder, file = tmp_path / "run", tmp_path / "results.json"
    selfimprove.run(make(0, folder), Progress(Console(quiet=True)))
    assert main(["--results", str(file), "collect", f"0={folder}"]) == 0
    found = json.loads(file.read_text())["runs"]["0"]
    assert [*found["suite"]] == ["untrained", "generator 1", "final"]
    assert [len(items) for items in found["suite"].values()] == [4, 4, 4]
    only = found["rounds"]["1"]
    assert len(only["texts"]) == only["filters"]["initial"]["kept"] > 0
    assert len(only["pairs"]) == only["filters"]["extended"]["kept"] > 0
    assert all(longer[0] > answer[0] for answer, longer in only["pairs"])
    assert main(["--results", str(file), "page", "--docs", str(tmp_path)]) == 0
    assert "nan" not in (tmp_path / "self_lengthen.md").read_text()

    assert main(["--results", str(file), "collect", f"1={folder}"]) == 1
    assert "is not seed 1" in capsys.readouterr().err
    metrics = folder / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines(keepends=True) if '"event": "done"' not in line]
    metrics.write_text("".join(lines))
    with pytest.raises(RunFailed, match="not finished"):
        collector.one_run(0, folder)


def test_names_of_runs() -> None:
    assert collector.named_runs(["2=runs/x"]) == {2: Path("runs/x")}
    for wrong in ("x=runs/x", "0=", "0"):
        with pytest.raises(InputError, match="SEED=RUN_FOLDER"):
            collector.named_runs([wrong])


def test_committed_page_is_what_results_give(tmp_path: Path) -> None:
    assert write_page(tmp_path, load()).read_text() == (DOCS / "self_lengthen.md").read_text()
