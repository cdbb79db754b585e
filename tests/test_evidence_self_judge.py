"""The evidence for Self-J: its figures by values computed by hand, and what it records of a real run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from selfimprove.recipe.recipe import Recipe
from selfimprove.study.plan import Planned

FOLDER = Path(__file__).parent.parent / "evidence" / "self_judge"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def seed_of(**scores: list[float]) -> dict[str, Any]:
    return {"prompts": [0, 0, 1, 1], "gold": [0, 1, 0, 1], "scores": scores, "labels": {"0.5": 0.25}}


def test_the_table_is_over_the_seeds_that_an_arm_has(module: Callable[[str], Any]) -> None:
    right, wrong, even = [1.0, 2.0, 1.0, 2.0], [2.0, 1.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0]
    answers = {"0": seed_of(untrained=even, gold=right, both=wrong), "1": seed_of(untrained=even, gold=right)}
    rows = module("figures").table(answers, draws=50)
    found = {(row["arm"], row["suite"], row["seed"]): row for row in rows}
    assert found["gold", "spearman", "all"]["value"] == 1 and found["gold", "spearman", "all"]["seeds"] == 2
    assert found["both", "spearman", "all"]["value"] == -1 and found["both", "spearman", "all"]["seeds"] == 1
    assert ("both", "spearman", 1) not in found
    assert found["untrained", "spearman", 0]["value"] == 0 and found["untrained", "auroc", "all"]["value"] == 0.5
    assert found["untrained", "best of 4", "all"]["value"] == 0.5 and found["both", "best of 4", 0]["value"] == 0
    both = found["both", "auroc", "all"]
    assert (both["minus_gold"], both["minus_gold_seeds"]) == (-1, 1) and both["minus_cosine"] is None
    assert found["gold", "spearman", "all"]["minus_gold"] is None
    assert found["chance", "best of 4", "all"]["value"] == 0.5 and found["truth", "best of 4", 1]["value"] == 1
    assert found["gold", "best of 4", 0]["minus_chance"] == 0.5
    assert found["0.5", "labels", 1]["value"] == 0.25
    low, high = (found["untrained", "spearman", "all"][key] for key in ("low", "high"))
    assert -1 <= low <= 0 <= high <= 1


def test_draws_are_of_prompts_with_all_their_answers(module: Callable[[str], Any]) -> None:
    figures = module("figures")
    answers = {"prompts": [0, 0, 1, 1], "gold": [1, 1, 0, 0], "scores": {"gold": [1.0, 1.0, 0.0, 0.0]}}
    drawn = figures._drawn(answers, 100)["best of 4", "gold"]
    assert drawn[0] == 0.5 and set(drawn.tolist()) == {0.0, 0.5, 1.0}


def test_a_run_s_answers_and_scores_are_recorded(
    module: Callable[[str], Any],
    tiny_recipe: Callable[..., Recipe],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("sentence_transformers")
    measure = module("measure")
    rows = [{"prompt": f"Say {word} {n}", "answer": f"{word} {n}"} for word in ("cat", "dog", "sun") for n in range(4)]
    write_jsonl(tiny_data / "labelled.jsonl", rows)
    given = [{"prompt": f"Name {n}", "response": "ab"[: 1 + k] * (1 + n), "score": k} for n in range(6) for k in (0, 1)]
    write_jsonl(tiny_data / "answers.jsonl", given)
    recipe = tiny_recipe(
        "self_judge",
        output=str(tmp_path / "run"),
        data={"prompts": "labelled.jsonl", "prompts_per_round": 6},
        sampling={"n": 2, "max_new_tokens": 6},
        rounds=1,
        training={"batch_size": 8, "micro_batch_size": 4, "learning_rate": 5e-3, "epochs": 2, "max_length": 512},
        gates={"disabled": ["degeneration"]},
        evaluate=[{"suite": "given", "kind": "graded", "data": "answers.jsonl", "checker": "score"}],
    )
    monkeypatch.setattr(
        measure, "gold", lambda loop, responses: {(r.prompt_id, r.index): r.index for r in responses.all()}
    )
    found = measure.judged(Planned("cosine", 0, recipe))
    assert found["prompts"] == [n for n in range(6) for _ in (0, 1)] and found["gold"] == [0, 1] * 6
    assert [*found["scores"]] == ["untrained", "likelihood", "cosine"]
    assert all(len(values) == 12 for values in found["scores"].values())
    assert all(value < 0 for value in found["scores"]["likelihood"])
    assert [*found["labels"]] == ["0", "0.25", "0.5", "0.75", "1"]
    assert found["scores"]["cosine"] != found["scores"]["untrained"]
    assert all(0 <= value <= 9 for value in found["scores"]["cosine"])


def test_gold_labels_are_exact_match_of_whole_answers(module: Callable[[str], Any]) -> None:
    from selfimprove.data.rows import RenderedPrompt, Response, Responses

    texts = [("Cats.", "stop"), ("cat", "stop"), ("cats", "length")]
    responses = [Response("p", i, (1,), finish, text) for i, (text, finish) in enumerate(texts)]
    prompt = RenderedPrompt("p", (1,), "Plural of cat?", "cats")
    found = module("measure").gold(None, Responses({"p": prompt}, {"p": responses}))
    assert found == {("p", 0): 1.0, ("p", 1): 0.0, ("p", 2): 0.0}
