"""The runs behind the evidence for CREAM: the matrix, the suite, the collector, on the tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.data.sources import Prompt
from selfimprove.errors import RunFailed
from selfimprove.judging.agreement import kendall_tau_a
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import read_events
from selfimprove.report.summary import of_kind, rounds_of
from selfimprove.suites.suite_kinds import ExactMatch
from selfimprove.suites.suites import load_suite

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from cream_evidence import collect as collector
from cream_evidence.matrix import Cell, compare_last, matrix, run_matrix, write_suite

BACKEND = ("sampling.backend=transformers",)


def test_pair_counts_by_hand() -> None:
    # 1<2<3 against 1<3<2: two pairs alike, one opposite
    assert collector.pair_counts([1, 2, 3], [1, 3, 2]) == (1, 3)
    # the last two are one response: their pair is tied on both sides, five of six are left, all alike
    assert collector.pair_counts([1, 2, 3, 3], [4, 5, 6, 6]) == (5, 5)
    assert collector.pair_counts([1, 1], [2, 2]) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_pair_counts_give_the_methods_tau(scores: list[tuple[int, int]]) -> None:
    first, second = (np.array(side, dtype=float) for side in zip(*scores, strict=True))
    order, _ = collector.pair_counts(first, second)
    assert order / (len(scores) * (len(scores) - 1) / 2) == pytest.approx(kendall_tau_a(first, second))


def test_answers_are_graded_as_the_evaluation_does() -> None:
    suite = load_suite("words").suite
    items = [Prompt(str(number), (), answer="cats") for number in range(4)]
    rows = [
        {"prompt_id": "0", "text": " Cats.", "finish": "stop"},
        {"prompt_id": "1", "text": "cats", "finish": "length"},
        {"prompt_id": "2", "text": "cat", "finish": "stop"},
    ]
    assert collector.right_items(suite, items, rows) == [True, False, False, False]


def test_matrix_is_the_one_that_was_fixed(tmp_path: Path) -> None:
    cells = matrix()
    assert len({cell.name for cell in cells}) == len(cells) == 21
    assert [cell.name for cell in cells[:2]] == ["paper-beta-cream-seed2", "paper-beta-srlm-seed2"]
    for cell in cells:
        recipe = cell.load(tmp_path)
        step = (8e-5, 0.1) if cell.setting == "paper-beta" else (2.5e-5, 0.4)
        assert (recipe.training.learning_rate, recipe.training.beta) == step
        assert (recipe.seed, recipe.rounds, recipe.data.prompts_per_round) == (cell.seed, 2, 66)
        assert [one.suite for one in recipe.evaluate] == [str(tmp_path / "suite" / "words-103-300.yaml")]
        assert recipe.store == str(tmp_path / "store")
        if cell.arm in ("cream", "constant"):
            weight = ("avg", None) if cell.arm == "cream" else ("constant", 0.85)
            assert (recipe.cream.weight, recipe.cream.constant if weight[1] else None) == weight
        if cell.arm in ("random", "verifier"):
            assert recipe.iterative_dpo.judge.kind == {"random": "random", "verifier": "exact_match"}[cell.arm]


def test_suite_is_the_last_198_items(tmp_path: Path) -> None:
    write_suite(tmp_path)
    cut = load_suite(str(tmp_path / "suite" / "words-103-300.yaml"), [tmp_path])
    shipped = load_suite("words")
    assert [(item.id, item.answer, item.messages) for item in cut.items] == [
        (item.id, item.answer, item.messages) for item in shipped.items[102:]
    ]
    assert isinstance(cut.suite, ExactMatch) and isinstance(shipped.suite, ExactMatch)
    assert (cut.suite.normalize, cut.suite.max_new_tokens) == (shipped.suite.normalize, shipped.suite.max_new_tokens)


@pytest.fixture
def tiny_cells(tiny_recipe: Callable[..., Recipe], tiny_data: Path) -> list[Cell]:
    """CREAM and SRLM on the tiny model, and one run that is not made."""
    cells = []
    for arm in ("cream", "srlm"):
        options = {"cream": {"first_round": "sft_middle"}} if arm == "cream" else {}
        file = tiny_data / f"{arm}.yaml"
        file.write_text(tiny_recipe(arm, **options).as_yaml())
        cells.append(Cell("paper-beta", arm, 2, str(file), BACKEND))
    return [*cells, Cell("paper-beta", "srlm", 3, str(tiny_data / "srlm.yaml"), BACKEND)]


def test_collect_on_a_tiny_run(tiny_cells: list[Cell], tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    assert run_matrix(folder, tiny_cells[:2]) == []
    results = collector.collect(folder, tiny_cells)
    assert set(results["runs"]) == {"paper-beta-cream-seed2", "paper-beta-srlm-seed2"}
    assert results["missing"] == {"paper-beta-srlm-seed3": "not started"}
    collector.write_results(tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    # Another machine's part keeps these, and replaces none that it has itself.
    earlier = {"runs": {**results["runs"], tiny_cells[0].name: "old", tiny_cells[2].name: "kept"}, "missing": {}}
    both = collector.collect(folder, tiny_cells, earlier)
    assert both == {"runs": {**results["runs"], tiny_cells[2].name: "kept"}, "missing": {}}

    for cell in tiny_cells[:2]:
        run, events = results["runs"][cell.name], read_events(folder / cell.name / "metrics.jsonl")
        accuracies = {event["policy"]: event["value"] for event in of_kind(events, "evaluation")}
        assert {name: one["right"].count("1") / 6 for name, one in run["policies"].items()} == accuracies
        assert list(run["policies"]) == ["M0", "M1", "M2", "M3"]
        for kept, event in zip(run["rounds"], rounds_of(events), strict=True):
            assert (kept["pairs"], kept["mean_length"]) == (event["pairs"], event["lengths"]["mean"])
            if event["consistency"] is None:
                assert kept["agreement"] is None
                continue
            order, untied = (list(map(int, kept["agreement"][key].split())) for key in ("order", "untied"))
            assert len(order) == event["prompts"]
            assert sorted((s / 3 + 1) / 2 for s, u in zip(order, untied, strict=True) if u) == pytest.approx(
                sorted(event["consistency"]["values"])
            )
    rounds = {cell.arm: results["runs"][cell.name]["rounds"] for cell in tiny_cells[:2]}
    assert [one["agreement"]["models"] for one in rounds["cream"]] == ["M1, M1 half-way", "M2, M1"]
    assert rounds["srlm"][0]["agreement"] is None
    assert {run["last_agreement"] for run in results["runs"].values()} == {None}
    assert rounds["srlm"][1]["agreement"]["prompts"] == rounds["cream"][1]["agreement"]["prompts"]


def test_comparing_the_last_models_is_what_one_more_round_would_measure(tiny_cells: list[Cell], tmp_path: Path) -> None:
    short = tiny_cells[0]
    longer = Cell("paper-beta", "cream", 2, short.recipe, (*BACKEND, "rounds=3"))
    assert run_matrix(tmp_path / "short", [short]) == run_matrix(tmp_path / "longer", [longer]) == []
    assert compare_last(tmp_path / "short", [short]) == []
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "short" / short.name).rglob("*.json*")}
    assert compare_last(tmp_path / "short", [short]) == []  # nothing is made again
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "short" / short.name).rglob("*.json*")}
    found = collector.collect(tmp_path / "short", [short])["runs"][short.name]["last_agreement"]
    measured = collector.collect(tmp_path / "longer", [longer])["runs"][longer.name]["rounds"][2]["agreement"]
    assert found == measured
    assert found["models"] == "M3, M2"


def test_collect_refuses_a_run_of_another_recipe(tiny_cells: list[Cell], tmp_path: Path) -> None:
    assert run_matrix(tmp_path / "evidence", tiny_cells[1:2]) == []
    other = Cell("paper-beta", "srlm", 2, tiny_cells[1].recipe, (*BACKEND, "training.learning_rate=5e-4"))
    with pytest.raises(RunFailed, match=r"learning_rate: 0\.0005 -> 0\.001"):
        collector.collect(tmp_path / "evidence", [other])


def test_a_stopped_run_does_not_stop_the_others(tiny_cells: list[Cell], tmp_path: Path) -> None:
    stopping = Cell("paper-beta", "cream", 4, tiny_cells[0].recipe, (*BACKEND, "gates.disabled=[]"))
    folder = tmp_path / "evidence"
    assert run_matrix(folder, [stopping, tiny_cells[1]]) == [stopping.name]
    results = collector.collect(folder, [stopping, tiny_cells[1]])
    assert list(results["runs"]) == [tiny_cells[1].name]
    assert "by gate" in results["missing"][stopping.name]
