"""Suites that a program checks: strict and lenient, answers kept, the user's function, IFEval, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from rich.console import Console

from selfimprove.errors import InputError, RunFailed
from selfimprove.methods.expert_iteration.report import acceptance_part
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.outcome import before_after, outcome_sentences
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result
from selfimprove.suites.suites import load_suite

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def evaluated(tiny_recipe: MakeRecipe, tiny_data: Path, writing_model: Path) -> Callable[..., list[dict[str, Any]]]:
    """The evaluation events of a run of method `evaluate` with this suite, on the model that ends its sentences."""

    def go(suite: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
        given = {"max_new_tokens": 30, **suite}
        recipe = tiny_recipe("evaluate", model=str(writing_model), evaluate=[given], **changes)
        result: Result = run(recipe, Progress(Console(file=io.StringIO())))
        return [event for event in result.events if event["event"] == "evaluation"]

    return go


def items(folder: Path, **columns: Any) -> str:
    write_jsonl(folder / "held.jsonl", [{"prompt": f"Tell of {w}.", **columns} for w in ("cat", "sun", "pen", "cup")])
    return "held.jsonl"


def test_constraints_are_checked_strictly_and_leniently(evaluated: Any, tiny_data: Path) -> None:
    data = items(tiny_data, constraints=[{"kind": "words_at_least", "n": 1}])
    (event,) = evaluated({"suite": "easy", "kind": "checked", "data": data})
    assert event["suite"] == "easy" and event["metric"] == "accuracy" and event["n"] == 4
    cut = event["failures"].get("truncated", 0)
    assert event["value"] == pytest.approx(1 - cut / 4) and event["lenient"]["value"] >= event["value"]
    assert [one["prompt"] for one in event["answers"]] == [f"Tell of {w}." for w in ("cat", "sun", "pen", "cup")]
    assert all(isinstance(one["text"], str) and one["value"] in (0.0, 1.0) for one in event["answers"])
    (event,) = evaluated({"suite": "hard", "kind": "checked", "data": items(
        tiny_data, constraints=[{"kind": "words_at_least", "n": 99}])}, output=str(tiny_data / "hard"))  # fmt: skip
    assert event["value"] == 0.0 == event["lenient"]["value"]


def test_a_function_that_fails_at_some_is_missing_and_at_most_is_refused(evaluated: Any, tiny_data: Path) -> None:
    data = items(tiny_data)
    body = "def good(prompt, response):\n    if 'cat' in prompt:\n        raise ValueError\n    return 1\n"
    (tiny_data / "own.py").write_text(body)
    suite = {"suite": "own", "kind": "checked", "data": data, "function": "own.py:good", "max_missing": 0.3}
    (event,) = evaluated(suite)
    assert event["n"] == 3 and event["missing"] == {"the function raised ValueError": 1}
    with pytest.raises(RunFailed, match=r"1 of 4 judgements are missing \(the function raised ValueError: 1\)"):
        evaluated(suite | {"max_missing": 0.1}, output=str(tiny_data / "strict"))


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ({"checker": "function"}, "checker function needs `function`"),
        ({"function": "gone.py:good"}, "no file 'gone.py'"),
        ({"function": "operator:gone"}, "has no attribute 'gone'"),
        ({"suite": "words"}, "is the name of a suite that is there"),
        ({"kind": ["checked"]}, "must be one of"),
        ({"chekcer": "ifeval"}, "did you mean `checker`"),
        ({"kind": "cheked"}, "did you mean 'checked'"),
        ({}, "constraints must be a list"),
        ({"checker": "ifeval"}, "instruction_id_list"),
    ],
)
def test_what_is_wrong_with_a_suite_in_the_recipe_is_said_first(
    evaluated: Any, tiny_data: Path, suite: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        evaluated({"suite": "own", "kind": "checked", "data": items(tiny_data), **suite})
    assert not list((tiny_data / "run" / "steps").glob("sample-*"))


def test_ifeval_s_suite_has_its_four_figures(evaluated: Any) -> None:
    (event,) = evaluated({"suite": "ifeval", "limit": 3, "max_new_tokens": 8})
    assert event["n"] == 3
    strict, loose = event["instruction_strict"], event["instruction_loose"]
    assert strict["n"] == loose["n"] >= 3 and strict["value"] <= loose["value"]
    assert event["value"] <= event["lenient"]["value"]


def test_the_shipped_suites_load_whole() -> None:
    assert {name: len(load_suite(name).items) for name in ("instructions", "instructions-unseen", "ifeval")} == {
        "instructions": 240,
        "instructions-unseen": 100,
        "ifeval": 541,
    }


# ---- what is said of two such evaluations


def event(policy: str, values: list[float], **more: Any) -> dict[str, Any]:
    answers = [
        {"prompt": f"q{i}", "group": None, "text": f"{policy} says {i}", "value": v} for i, v in enumerate(values)
    ]
    return {"event": "evaluation", "suite": "own", "policy": policy, "metric": "accuracy", "answers": answers,
            "value": sum(values) / len(values), "round": int(policy[1:]), **more}  # fmt: skip


def test_before_and_after_count_both_directions() -> None:
    events = [event("M0", [0, 0, 1, 1, 0]), event("M1", [1, 0, 0, 1, 1])]
    table = before_after(events, most=2)
    assert "of the first 5 items 2 became right and 1 wrong" in table.title
    assert table.cells == [
        ["q0", "M0 says 0", "wrong", "M1 says 0", "right"],
        ["q2", "M0 says 2", "right", "M1 says 2", "wrong"],
    ]
    assert not before_after(events[:1])


@pytest.mark.parametrize(("low", "noise"), [(0.01, False), (-0.01, True)])
def test_the_outcome_says_whether_it_can_be_told_from_noise(low: float, noise: bool) -> None:
    paired = {"against": "M0", "difference": 0.2, "low": low, "high": 0.4, "n": 5}
    events = [event("M0", [0, 0, 1, 1, 0]), event("M1", [1, 0, 0, 1, 1], paired=paired)]
    (sentence,) = outcome_sentences(events)
    assert sentence.startswith("own: M0 40.0%, M1 60.0%: +20.0 points [") and "5 items, paired" in sentence
    assert sentence.endswith("not told from noise.") == noise
    assert outcome_sentences(json.loads(json.dumps(events[:1]))) == []


def test_kinds_that_no_sample_ever_got_right_are_named() -> None:
    rounds = [
        {"event": "acceptance", "round": 1, "without": {"begin": [2, 5], "list": [4, 4], "loud": [3, 3]}},
        {"event": "acceptance", "round": 2, "without": {"begin": [0, 5], "list": [3, 4], "loud": [2, 2]}},
    ]
    never = acceptance_part(rounds).outcome
    assert never.startswith("Never right in any sample: loud (5 prompts). Filtering")
    first = acceptance_part(rounds[:1]).outcome
    assert first.startswith("Never right in any sample: list (4 prompts), loud (3 prompts).")
    assert acceptance_part([]).outcome == "" and never in acceptance_part(rounds).text
    method = {"event": "run", "method": "expert_iteration"}
    assert outcome_sentences([method, *rounds]) == [never], "the first lines say it too"
