"""The benchmark of a round on the tiny random model: what its result holds, not how fast anything was."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfimprove.recipe.recipe import Recipe

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("round")


def test_a_round_is_timed_by_stage_on_both_sides(
    benchmark: Any, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe("cream", rounds=1, cream={"first_round": "sft_middle"})
    results = benchmark.benchmark(recipe, tmp_path / "work", repeats=2, tune=False)
    results = json.loads(json.dumps(results, default=str))

    assert results["settings"]["prompts"] == 8 and results["settings"]["repeats"] == 2
    assert results["machine"]["cores"] and results["machine"]["versions"]["torch"]
    assert results["neighbours"]["others_share_of_cores"] >= 0
    assert results["speed"]["large_flops"] > 0 and len(results["engine_start_seconds"]) == 2
    assert set(results["ours"]["stages"]) == {"sample", "score", "train", "score after", "rest", "evaluate"}
    assert set(results["plain"]["stages"]) == {"load", "sample", "score", "train", "rest", "evaluate"}
    for side in ("ours", "plain"):
        assert len(results[side]["repeats"]) == 2
        for name, stage in results[side]["stages"].items():
            assert stage["seconds"]["min"] <= stage["seconds"]["median"] <= stage["seconds"]["max"]
            if name not in ("load", "rest"):
                assert stage["tokens"] > 0 and stage["tokens_per_second"] > 0
                assert 0 < stage["share_of_floor"] < 1
        assert results[side]["round_seconds"]["median"] < results[side]["round_and_evaluation_seconds"]["median"]
    # The same work: 8 prompts, and as many pairs trained.
    assert results["ours"]["repeats"][0]["pairs"] == results["plain"]["repeats"][0]["pairs"] <= 8
    assert [step["label"] for step in results["ours"]["repeats"][0]["steps"]] == [
        "sample M1", "log-probs under M1", "log-probs under M0", "log-probs under M1 half-way", "DPO M1 to M2",
        "log-probs under M2", "tiny with M2",
    ]  # fmt: skip
    assert results["plain"]["settings"]["dpo"]["precompute_ref_log_probs"] is True
    assert set(results["ratio"]) == {"round", "round_and_evaluation"}

    screen = Console(width=160, record=True, file=(tmp_path / "shown.txt").open("w"))
    screen.print(benchmark.table(results))
    assert "score after" in screen.export_text()


def test_m1_is_made_once_and_one_side_can_be_left_out(
    benchmark: Any, tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe("cream", rounds=1, cream={"first_round": "sft_middle"})
    results = benchmark.benchmark(recipe, tmp_path / "work", repeats=1, plain=False)
    assert "plain" not in results and "ratio" not in results
    (made,) = (tmp_path / "work").glob("m1/steps/sft-*")
    before = (made / "manifest.json").stat().st_mtime_ns
    benchmark.benchmark(recipe, tmp_path / "work", repeats=1, plain=False)
    assert (made / "manifest.json").stat().st_mtime_ns == before


def test_the_table_of_costs_is_made_from_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    made = importlib.import_module("cost_table")
    transformers, vllm = made.read("cpu-transformers"), made.read("cpu-vllm")
    assert (transformers["settings"]["backend"], vllm["settings"]["backend"]) == ("transformers", "vllm")
    assert made.table(transformers, vllm) in (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    for results in (transformers, vllm):
        assert results["neighbours"]["quiet"], "measured while other programs had the cores"
        assert '"/' not in json.dumps(results), "a path of the machine that measured"
