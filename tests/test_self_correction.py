"""Self-correction: the figures by hand, votes, and whole evaluations of tiny models over two turns and three."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_reporting import EVIL, evaluation, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import read_rows
from selfimprove.cli import app as cli
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.checkers.exact import normalized
from selfimprove.judging.checkers.sandbox import sandbox_problem
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.report.evaluation_tables import evaluation_views
from selfimprove.report.events import read_events
from selfimprove.report.page import write_report
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result
from selfimprove.suites.corrections import (
    TRUNCATED,
    Attempt,
    between,
    correction_figures,
    edit_distance,
    edit_ratio,
    majority,
    vote,
)
from selfimprove.suites.self_correction import answer_of
from selfimprove.suites.suite_kinds import SelfCorrection
from selfimprove.suites.suites import load_suite

STEPS = ("lower", "strip", "final_period")
AGAIN = "Look once more, and answer again."


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


# ---- edit distance


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0), ("kitten", "sitting", 3), ("ab", "ba", 2),
        ("flaw", "lawn", 2), ("a" * 70, "a" * 69 + "b", 1), ("été 日本", "ete 日本", 2), ("abc", "xabc", 1),
    ],
)  # fmt: skip
def test_edit_distances_by_hand(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == distance


def by_the_table(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for place, one in enumerate(first, 1):
        new = [place]
        for other, before in zip(second, range(len(second)), strict=True):
            new.append(min(row[before + 1] + 1, new[-1] + 1, row[before] + (one != other)))
        row = new
    return row[-1]


@given(st.text("abc", max_size=40), st.text("abc", max_size=40))
def test_the_distance_is_that_of_the_plain_table(first: str, second: str) -> None:
    assert edit_distance(first, second) == by_the_table(first, second) == edit_distance(second, first)


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_ratio_lies_between_0_for_a_copy_and_1_for_an_empty_text(first: str, second: str) -> None:
    ratio = edit_ratio(first, second)
    assert 0 <= ratio <= 1 and (ratio == 0) == (first == second)
    assert (ratio == 1) == ((first == "") != (second == ""))
    assert edit_ratio("abcd", "wxyz") == 0.5


# ---- figures


def attempt(value: float | None, text: str | None = "x", **more: Any) -> Attempt:
    return Attempt(value, text, text, **more)


def test_transitions_by_hand() -> None:
    first = [
        attempt(0.0, "a"),
        attempt(1.0, "b"),
        attempt(1.0, "c"),
        attempt(0.0, "abcd", failure=TRUNCATED),
        attempt(None, "e", missing="the checker raised ValueError"),
        attempt(1.0, "f"),
    ]
    second = [
        attempt(1.0, "b"),
        attempt(0.0, "a"),
        attempt(1.0, "c"),
        attempt(0.0, "abcd", failure=TRUNCATED),
        attempt(1.0, "e"),
        attempt(0.0, None, failure="prompt too long"),
    ]
    found = correction_figures([first, second])
    turns = found["turns"]
    assert (turns["1"]["value"], turns["1"]["n"], turns["2"]["value"], turns["2"]["n"]) == (0.6, 5, 0.5, 6)
    assert turns["1"]["failures"] == {"truncated": 1}
    assert turns["1"]["missing"] == {"the checker raised ValueError": 1} and turns["2"]["missing"] == {}
    assert turns["2"]["failures"] == {"truncated": 1, "prompt too long": 1}
    assert [turns[turn]["truncated"]["value"] for turn in "12"] == [pytest.approx(1 / 6)] * 2
    # of the five known in both: one better, two worse, one right twice, one wrong twice
    values = {key: found[key]["value"] for key in ("delta", "i_to_c", "c_to_i", "c_to_c", "i_to_i")}
    assert values == pytest.approx({"delta": -0.2, "i_to_c": 0.2, "c_to_i": 0.4, "c_to_c": 0.2, "i_to_i": 0.2})
    assert {found[key]["n"] for key in values} == {5}
    # of the five with two texts: two new answers, three copies; "a" and "b" have a ratio of 1 / 2
    assert (found["change"]["value"], found["copy"]["value"], found["change"]["n"]) == (0.4, 0.6, 5)
    assert found["edit_ratio"]["value"] == pytest.approx(0.2)
    assert found["edit_ratio"]["histogram"] == [3, 0, 0, 0, 0, 2, 0, 0, 0, 0] and found["steps"] == []
    assert found["delta"]["low"] < -0.2 < found["delta"]["high"] and found["i_to_c"]["low"] > 0


def test_another_answer_is_not_another_text() -> None:
    found = between([Attempt(1.0, "So it is 4.", "4")], [Attempt(1.0, "It is 4.", "4")])
    assert (found["change"]["value"], found["copy"]["value"]) == (0.0, 0.0) and found["edit_ratio"]["value"] > 0


def test_nothing_known_is_none_and_not_zero() -> None:
    nothing = between([attempt(None, None)], [attempt(1.0, None)])
    assert set(nothing.values()) == {None}
    assert correction_figures([[attempt(None)], [attempt(1.0)]])["turns"]["1"]["value"] is None


def test_each_turn_and_each_step_of_three() -> None:
    turns = [[attempt(0.0, "a"), attempt(0.0, "b")], [attempt(1.0, "c"), attempt(0.0, "b")], [attempt(1.0, "c")] * 2]
    found = correction_figures(turns)
    assert [found["turns"][turn]["value"] for turn in "123"] == [0.0, 0.5, 1.0] and found["delta"]["value"] == 1.0
    steps = [(step["from"], step["to"], step["delta"]["value"], step["copy"]["value"]) for step in found["steps"]]
    assert steps == [(1, 2, 0.5, 0.5), (2, 3, 0.5, 0.5)]
    assert found["copy"]["value"] == 0.0  # from the first to the last


VALUES = st.sampled_from([0.0, 1.0, None])
PAIRS = st.lists(st.tuples(VALUES, VALUES, st.text("ab .", max_size=4), st.text("ab .", max_size=4)), min_size=1)


@given(PAIRS)
def test_delta_is_what_was_gained_less_what_was_lost(rows: list[tuple[Any, Any, str, str]]) -> None:
    first = [Attempt(a, x, normalized(x, STEPS)) for a, _, x, _ in rows]
    second = [Attempt(b, y, normalized(y, STEPS)) for _, b, _, y in rows]
    found = between(first, second)
    known = [(a, b) for a, b, _, _ in rows if a is not None and b is not None]
    if known:
        delta, *four = (found[key]["value"] for key in ("delta", "i_to_c", "c_to_i", "c_to_c", "i_to_i"))
        assert delta == pytest.approx(four[0] - four[1], abs=1e-12) and sum(four) == pytest.approx(1)
        right = [sum(side) / len(known) for side in zip(*known, strict=True)]
        assert delta == pytest.approx(right[1] - right[0], abs=1e-12)
    assert found["change"]["value"] + found["copy"]["value"] <= 1 + 1e-12  # a copy changes no answer
    assert sum(found["edit_ratio"]["histogram"]) == len(rows) == found["edit_ratio"]["n"]
    assert found["edit_ratio"]["histogram"][0] >= round(found["copy"]["value"] * len(rows))
    for key in found:
        assert found[key] is None or found[key]["low"] <= found[key]["value"] <= found[key]["high"]


# ---- votes


def test_the_most_frequent_answer_wins_and_of_equals_the_first_seen() -> None:
    assert majority(["a", "b", "b"]) == 1 and majority(["a", "b", "b", "a"]) == 0 and majority(["c"]) == 0
    assert majority(["x", "a", "b", "b", "a"]) == 1
    with pytest.raises(ValueError, match="no answer"):
        majority([])


def test_a_vote_is_the_winners_value() -> None:
    right, wrong, other = Attempt(1.0, "4", "4"), Attempt(0.0, "5", "5"), Attempt(0.0, "6", "6")
    assert vote([wrong, right, right]) == 1.0 and vote([wrong, right, wrong]) == 0.0
    assert vote([right, wrong]) == 1.0 and vote([wrong, right]) == 0.0  # the first seen
    assert vote([wrong, wrong, right, right, other]) == 0.0


def test_what_has_no_end_no_answer_or_no_value_does_not_vote() -> None:
    right = Attempt(1.0, "4", "4")
    cut, unread = (Attempt(0.0, "5", "5", failure=why) for why in (TRUNCATED, "no answer found"))
    missing = Attempt(None, "5", "5", missing="the checker took more than 10 s")
    for mute in (cut, unread, missing):
        assert vote([mute, mute, right]) == 1.0
    assert vote([cut, unread]) == 0.0 and vote([]) == 0.0
    assert vote([cut, missing]) is None


# ---- the suites


def suite_of(**changes: Any) -> SelfCorrection:
    values = {"name": "s", "kind": "self_correction", "data": "x", "instruction": AGAIN}
    return SelfCorrection(**{**values, **changes})


def test_answers_are_compared_by_what_the_checker_reads() -> None:
    item = Prompt("a", ({"role": "user", "content": "q"},), "4", row={"code": "def f(): ...", "test_list": ["f()"]})
    assert answer_of(suite_of(), item, " Two  Words. ") == "two words"
    math = suite_of(checker="math")
    same = ["So \\boxed{4}.", "Thus\n\\boxed{ 4 }", "#### 4", "the answer is 4."]
    assert len({answer_of(math, item, text) for text in same}) == 1
    assert answer_of(math, item, "\\boxed{5}") != answer_of(math, item, same[0])
    code = suite_of(checker="code", tests="mbpp")
    assert answer_of(code, item, "Here:\n```python\ndef f(): pass\n```\nDone.") == "def f(): pass"


def test_the_shipped_suites_ask_without_saying_what_was_right(tmp_path: Path) -> None:
    words, math = load_suite("self-correction"), None
    assert isinstance(words.suite, SelfCorrection) and len(words.items) == 300
    assert [item.answer for item in words.items] == [item.answer for item in load_suite("words").items]
    write_jsonl(tmp_path / "mine.jsonl", [{"problem": "$1+1$?", "answer": "2"}])
    math = load_suite("self-correction-math", [tmp_path], {"data": "mine.jsonl"})
    assert isinstance(math.suite, SelfCorrection) and math.suite.checker == "math"
    assert math.items[0].messages[-1]["content"].endswith("final answer in \\boxed{}.")
    for suite in (words.suite, math.suite):
        assert (suite.turns, suite.temperature, suite.samples) == (2, 0.0, 0) and "may" in suite.instruction


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checker": "code"}, "checker code needs `tests` \\(humaneval or mbpp\\)"),
        ({"tests": "mbpp"}, "checker code needs `tests`"),
        ({"samples": 3}, "3 samples an item are all the same at temperature 0; set `temperature`"),
        ({"samples": 3, "temperature": 1, "checker": "code", "tests": "mbpp"}, "programs are seldom equal"),
        ({"turns": 1}, "key `turns`: Input should be greater than or equal to 2"),
        ({"turnz": 3}, "unknown key `turnz`; did you mean `turns`"),
        ({"instruction": ""}, "key `instruction`"),
        ({"checker": "maths"}, "key `checker`: .*; found 'maths'"),
    ],
)
def test_what_a_suite_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_suite("self-correction", [tmp_path], change)


def test_items_without_an_answer_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "items.jsonl", [{"prompt": "q"}])
    with pytest.raises(InputError, match="has no answer"):
        load_suite("self-correction", [tmp_path], {"data": "items.jsonl"})
    with pytest.raises(InputError, match="is no task of mbpp: it has no column 'test_list'"):
        load_suite("self-correction", [tmp_path], {"data": "items.jsonl", "checker": "code", "tests": "mbpp"})


# ---- whole evaluations of tiny models


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers often end."""
    folder = save_tiny_model(tmp_path_factory.mktemp("talking") / "talking", seed=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[2] *= 2
    model.save_pretrained(folder)
    return folder


QUESTIONS = [f"Name {what} {n}" for n in range(8) for what in ("a cat", "the sun", "one map")]
Row = tuple[list[int], list[int], str, str]  # prompt ids, response ids, finish, text


def recipe_of(folder: Path, model: Path, answers: list[str] | None = None, **changes: Any) -> Recipe:
    """A recipe that measures `model` on the questions; `output` and `policies` are the recipe's, others the suite's."""
    given = answers or ["?"] * len(QUESTIONS)
    questions = changes.pop("questions", QUESTIONS)
    rows = [{"id": f"q{n}", "prompt": q, "answer": a} for n, (q, a) in enumerate(zip(questions, given, strict=False))]
    write_jsonl(folder / "items.jsonl", rows)
    (folder / "again.yaml").write_text(
        f"name: again\nkind: self_correction\ndata: items.jsonl\nmax_new_tokens: 12\ninstruction: {AGAIN}\n"
    )
    values = {
        "method": "evaluate",
        "model": str(model),
        "policies": changes.pop("policies", []),
        "output": str(folder / changes.pop("output", "run")),
        "evaluate": [{"suite": "again.yaml", **changes}],
        "sampling": {"backend": "transformers"},
    }
    return make_recipe(values, folder=folder)


def sampled(result: Result, label: str) -> dict[tuple[str, int], Row]:
    """The rows of the sampling step whose label ends so, by prompt id and index."""
    found: dict[tuple[str, int], Row] = {}
    for manifest in (result.folder / "steps").glob("sample-*/manifest.json"):
        if not json.loads(manifest.read_text())["label"].endswith(label):
            continue
        prompts = {
            row["prompt_id"]: row["prompt_ids"] for row in read_rows(manifest.parent / "inputs" / "prompts.arrow")
        }
        for path in sorted(manifest.parent.glob("rows-*.arrow")):
            for row in read_rows(path):
                key = (row["prompt_id"], row["index"])
                found[key] = (prompts[row["prompt_id"]], row["ids"], row["finish"], row["text"])
    return found


def event_of(result: Result) -> dict[str, Any]:
    return [event for event in result.events if event["event"] == "evaluation"][-1]


def follows(model: Path, before: Row, after: Row) -> None:
    """The next prompt is what was read and written, token for token, and then the instruction alone."""
    prompt, answer, finish, _ = before
    assert after[0][: len(prompt) + len(answer)] == [*prompt, *answer]
    tokenizer = AutoTokenizer.from_pretrained(model)
    rest = tokenizer.decode(after[0][len(prompt) + len(answer) :])
    end = "<|im_end|>" if finish == "length" else ""  # an answer that was cut is closed
    assert rest == f"{end}\n<|im_start|>user\n{AGAIN}<|im_end|>\n<|im_start|>assistant\n"


def right(row: Row, answer: str) -> float:
    return float(row[2] == "stop" and normalized(row[3], STEPS) == normalized(answer, STEPS))


def test_two_turns_from_the_stored_rows_by_hand(tmp_path: Path, talking: Path) -> None:
    before = run(recipe_of(tmp_path, talking, output="before"), quiet())
    said = [sampled(before, f"turn {turn}") for turn in (1, 2)]
    assert len(said[0]) == len(said[1]) == len(QUESTIONS)
    for key, row in said[0].items():
        follows(talking, row, said[1][key])
    assert {row[2] for row in said[0].values()} == {"stop", "length"}

    # The answers are now chosen from what was said: of the first attempt, of the second, of neither, in turn.
    pairs = [tuple(turn[f"q{n}", 0] for turn in said) for n in range(len(QUESTIONS))]
    answers = [[pair[0][3], pair[1][3], "?"][n % 3] for n, pair in enumerate(pairs)]
    result = run(recipe_of(tmp_path, talking, answers), quiet())
    event = event_of(result)
    found = event["self_correction"]
    values = [(right(a, answer), right(b, answer)) for (a, b), answer in zip(pairs, answers, strict=True)]
    n = len(values)
    assert [found["turns"][turn]["value"] for turn in "12"] == [sum(side) / n for side in zip(*values, strict=True)]
    gained, lost = sum(a < b for a, b in values), sum(a > b for a, b in values)
    assert gained and lost
    assert (found["i_to_c"]["value"], found["c_to_i"]["value"]) == (gained / n, lost / n)
    assert found["delta"]["value"] == pytest.approx((gained - lost) / n)
    copies = [a[3] == b[3] for a, b in pairs]
    changes = [normalized(a[3], STEPS) != normalized(b[3], STEPS) for a, b in pairs]
    assert (found["copy"]["value"], found["change"]["value"]) == (sum(copies) / n, sum(changes) / n)
    ratios = [by_the_table(a[3], b[3]) / max(len(a[3]) + len(b[3]), 1) for a, b in pairs]
    assert found["edit_ratio"]["value"] == pytest.approx(sum(ratios) / n)
    cut = [sum(pair[turn][2] == "length" for pair in pairs) for turn in (0, 1)]
    assert [found["turns"][turn]["truncated"]["value"] * n for turn in "12"] == pytest.approx(cut)
    # The suite's own value is that of the last turn.
    assert (event["metric"], event["value"], event["n"]) == ("accuracy", found["turns"]["2"]["value"], n)
    assert event["failures"] == {"truncated": cut[1]} and event["paired"] is None
    assert (event["low"], event["high"]) == (found["turns"]["2"]["low"], found["turns"]["2"]["high"])
    shown = found["examples"]
    assert len(shown) == 8 and {tuple(one["value"] for one in example["attempts"]) for example in shown} == set(values)
    assert found["instruction"] == AGAIN and found["vote"] is None and found["checker"] == "exact_match"


def test_an_evaluation_that_was_stopped_between_the_turns_goes_on(tmp_path: Path, talking: Path) -> None:
    recipe = recipe_of(tmp_path, talking)
    whole = run(recipe, quiet())
    rows = sampled(whole, "turn 2")
    (second,) = [
        path.parent
        for path in (whole.folder / "steps").glob("sample-*/manifest.json")
        if json.loads(path.read_text())["label"].endswith("turn 2")
    ]
    shutil.rmtree(second)
    told = io.StringIO()
    again = run(recipe, Progress(Console(file=told, width=200)))
    assert "turn 1: already done, reused" in told.getvalue() and "turn 2: done, 24 responses" in told.getvalue()
    assert sampled(again, "turn 2") == rows and event_of(again)["self_correction"] == event_of(whole)["self_correction"]
    told = io.StringIO()
    run(recipe, Progress(Console(file=told, width=200)))
    assert told.getvalue().count("already done, reused") == 2


def test_three_turns_and_two_policies(tmp_path: Path, talking: Path, tiny_model: Path) -> None:
    questions = QUESTIONS[:6]
    first = run(recipe_of(tmp_path, talking, questions=questions, turns=3, output="before"), quiet())
    said = [sampled(first, f"turn {turn}") for turn in (1, 2, 3)]
    for before, after in pairwise(said):
        assert len(after) == 6
        for key, row in before.items():
            follows(talking, row, after[key])
    answers = [said[2][f"q{n}", 0][3] for n in range(6)]
    recipe = recipe_of(tmp_path, tiny_model, answers, questions=questions, turns=3, policies=[str(talking)])
    result = run(recipe, quiet())
    event = event_of(result)
    found = event["self_correction"]
    ended = sum(said[2][f"q{n}", 0][2] == "stop" for n in range(6))
    assert ended and event["value"] == found["turns"]["3"]["value"] == ended / 6
    assert [(step["from"], step["to"]) for step in found["steps"]] == [(1, 2), (2, 3)]
    gain = found["turns"]["3"]["value"] - found["turns"]["1"]["value"]
    assert found["delta"]["value"] == pytest.approx(gain)
    assert sum(step["delta"]["value"] for step in found["steps"]) == pytest.approx(gain)
    # The other policy ends no answer in twelve tokens: the change is item by item, from the last turn's values.
    assert event["paired"]["against"] == "tiny" and event["paired"]["difference"] == ended / 6
    page = result.report.read_text()
    assert "From turn to turn" in page and "Acc@t3" in page
    assert max(map(len, printed(result.events))) <= 80


def test_a_truncated_answer_is_wrong_in_its_turn_and_read_all_the_same(tmp_path: Path, tiny_model: Path) -> None:
    before = run(recipe_of(tmp_path, tiny_model, max_new_tokens=4, limit=5, output="before"), quiet())
    said = [sampled(before, f"turn {turn}") for turn in (1, 2)]
    for key, row in said[0].items():
        follows(tiny_model, row, said[1][key])
    answers = [said[0][f"q{n}", 0][3] for n in range(5)]
    event = event_of(run(recipe_of(tmp_path, tiny_model, answers, max_new_tokens=4), quiet()))
    found = event["self_correction"]
    assert event["value"] == 0.0 and event["failures"] == {"truncated": 5}
    for turn in "12":
        assert (found["turns"][turn]["value"], found["turns"][turn]["truncated"]["value"]) == (0.0, 1.0)
    assert found["edit_ratio"]["n"] == 5 and found["edit_ratio"]["value"] > 0


def test_a_second_turn_that_does_not_fit_is_wrong_and_counted(tmp_path: Path, talking: Path) -> None:
    # 440 characters and twelve tokens of answer fit 512 positions, and not with the instruction behind them.
    questions = [*QUESTIONS[:3], "x" * 440, "x" * 600]
    event = event_of(run(recipe_of(tmp_path, talking, ["?"] * 5, questions=questions), quiet()))
    found = event["self_correction"]
    assert [found["turns"][turn]["failures"].get("prompt too long") for turn in "12"] == [1, 2]
    assert event["n"] == 5 and found["copy"]["n"] == found["edit_ratio"]["n"] == 3 and found["delta"]["n"] == 5
    alone = run(recipe_of(tmp_path, talking, ["?"], questions=["x" * 440], output="alone"), quiet())
    assert event_of(alone)["failures"] == {"prompt too long": 1}
    assert event_of(alone)["self_correction"]["copy"] is None and max(map(len, printed(alone.events))) <= 80


# ---- checkers


def test_what_the_checker_cannot_read_is_missing_in_both_turns(tmp_path: Path, talking: Path) -> None:
    ended = [
        n
        for n in range(len(QUESTIONS))
        if all(
            row[2] == "stop" and row[3].strip()
            for row in (sampled(first_run(tmp_path, talking), f"turn {turn}")[f"q{n}", 0] for turn in (1, 2))
        )
    ]
    assert len(ended) >= 2
    answers = ["4"] * len(QUESTIONS)
    answers[ended[0]] = ""
    why = "the checker cannot read the reference answer"
    event = event_of(run(recipe_of(tmp_path, talking, answers, checker="math", output="math"), quiet()))
    found = event["self_correction"]
    assert event["n"] == found["delta"]["n"] == len(QUESTIONS) - 1 and event["missing"] == {why: 2}
    assert [found["turns"][turn]["missing"] for turn in "12"] == [{why: 1}] * 2
    assert found["copy"]["n"] == len(QUESTIONS)
    answers = [""] * len(QUESTIONS)
    with pytest.raises(
        RunFailed, match=rf"again: \d+ of 48 judgements are missing \({why}: \d+\), and 10% are allowed"
    ):
        run(recipe_of(tmp_path, talking, answers, checker="math", output="lost"), quiet())


def first_run(folder: Path, model: Path) -> Result:
    return run(recipe_of(folder, model, output="before"), quiet())


def test_mathematics_without_its_checker_is_refused_before_anything_is_sampled(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(InputError, match=r"again: answers are checked by math-verify: pip install"):
        run(recipe_of(tmp_path, tiny_model, checker="math"), quiet())
    assert not (tmp_path / "run" / "steps").exists()


@pytest.mark.skipif(sandbox_problem() is not None, reason=str(sandbox_problem()))
def test_programs_are_run_in_every_turn(tmp_path: Path, talking: Path) -> None:
    task = {"text": "Add.", "prompt": "Add.", "code": "def add(a, b): ...", "test_list": ["assert add(1, 2) == 3"]}
    recipe = recipe_of(tmp_path, talking, checker="code", tests="mbpp", limit=3)
    write_jsonl(tmp_path / "items.jsonl", [{**task, "task_id": n, "text": f"Add {n}."} for n in range(3)])
    result = run(recipe, quiet())
    found = event_of(result)["self_correction"]
    for turn in "12":
        reasons = Counter(found["turns"][turn]["failures"])
        assert sum(reasons.values()) == 3 and set(reasons) <= {"truncated", "program failed"}
    prompt = next(iter(sampled(result, "turn 1").values()))[0]
    assert "assert add(1, 2) == 3" in AutoTokenizer.from_pretrained(talking).decode(prompt)


# ---- votes


@pytest.mark.parametrize("most", [12, 3])
def test_votes_from_the_stored_rows_by_hand(tmp_path: Path, talking: Path, most: int) -> None:
    k, questions = 3, QUESTIONS[:8]
    options = {"samples": k, "temperature": 1.0, "max_new_tokens": most, "questions": questions}
    before = run(recipe_of(tmp_path, talking, output="before", **options), quiet())
    pool, corrections = sampled(before, f"{2 * k} first attempts"), sampled(before, f"{k} corrections")
    assert len(pool) == 8 * 2 * k and len(corrections) == 8 * k
    for n in range(8):
        for place in range(k):
            follows(talking, pool[f"q{n}", place], corrections[f"q{n}|{place}", 0])
    # The turns stay greedy.
    assert {key: row[:2] for key, row in sampled(before, "turn 1").items()} == {
        key: row[:2] for key, row in sampled(run(recipe_of(tmp_path, talking, questions=questions, max_new_tokens=most,
                                                           output="greedy"), quiet()), "turn 1").items()
    }  # fmt: skip

    choose = random.Random(0)
    answers = [choose.choice([pool[f"q{n}", 0][3], corrections[f"q{n}|0", 0][3]]) for n in range(8)]
    result = run(recipe_of(tmp_path, talking, answers, **options), quiet())
    found = event_of(result)["self_correction"]["vote"]

    def length(rows: list[Row]) -> int:
        return sum(len(row[1]) for row in rows)

    def voted(rows: list[Row], answer: str) -> float:
        voters = [normalized(row[3], STEPS) for row in rows if row[2] == "stop"]
        return float(bool(voters) and Counter(voters).most_common(1)[0][0] == normalized(answer, STEPS))

    firsts = [row for (_, place), row in pool.items() if place < k]
    written = length(firsts) + length(list(corrections.values()))
    at_equal = written * 2 * k // length(list(pool.values()))
    more = sampled(result, f"{at_equal - 2 * k} more first attempts")
    assert len(more) == 8 * max(at_equal - 2 * k, 0)
    arms = {
        "corrected": [[corrections[f"q{n}|{place}", 0] for place in range(k)] for n in range(8)],
        "parallel": [[pool[f"q{n}", place] for place in range(2 * k)] for n in range(8)],
        "equal_tokens": [
            [*(pool[f"q{n}", place] for place in range(min(at_equal, 2 * k))),
             *(more[f"q{n}|more", place] for place in range(at_equal - 2 * k))]
            for n in range(8)
        ],
    }  # fmt: skip
    values = {
        name: [voted(rows, answer) for rows, answer in zip(arm, answers, strict=True)] for name, arm in arms.items()
    }
    assert any(values["corrected"]) or any(values["parallel"])
    for name in arms:
        assert found[name]["value"] == sum(values[name]) / 8 and found[name]["n"] == 8
    attempts = {name: found[name]["attempts"] for name in arms}
    assert attempts == {"corrected": 6, "parallel": 6, "equal_tokens": at_equal}
    assert found["corrected"]["tokens_written"] == written
    assert found["parallel"]["tokens_written"] == length(list(pool.values()))
    assert found["equal_tokens"]["tokens_written"] == sum(length(rows) for rows in arms["equal_tokens"])
    once = sum(len(pool[f"q{n}", 0][0]) for n in range(8))
    assert found["parallel"]["tokens_read"] == once
    assert found["corrected"]["tokens_read"] == once + sum(len(row[0]) for row in corrections.values())
    assert found["difference"]["value"] == pytest.approx((sum(values["corrected"]) - sum(values["parallel"])) / 8)
    assert found["capped"] is False and (found["samples"], found["temperature"]) == (k, 1.0)
    lines = printed(result.events)
    assert any("3, each corrected" in line for line in lines) and max(map(len, lines)) <= 80
    assert "6 first" in result.report.read_text()


# ---- what is shown


def printed(events: list[dict[str, Any]]) -> list[str]:
    output = io.StringIO()
    for view in evaluation_views(events):
        Console(file=output, width=80).print(view)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def shown(policy: str, round_: int, second: float, **vote: Any) -> tuple[str, str, dict[str, Any]]:
    first = [attempt(float(n < 30), "a") for n in range(60)]
    then = [attempt(float(n < 60 * second), "a" if n % 3 else f"b {EVIL}") for n in range(60)]
    figures = correction_figures([first, then]) | {"vote": vote or None}
    figures["examples"] = [{"prompt": EVIL, "answer": EVIL, "attempts": [
        {"text": EVIL, "value": 0.0, "why": "truncated"}, {"text": "fine", "value": 1.0, "why": None},
        {"text": None, "value": None, "why": "the checker raised ValueError"},
    ]}]  # fmt: skip
    fields = {**evaluation(policy, round_, second, "again"), "self_correction": figures}
    return ("evaluation", f"again/{policy}", fields)


ARM = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60, "attempts": 16, "tokens_written": 12345, "tokens_read": 99999}
VOTE = {
    "samples": 8, "temperature": 0.7, "corrected": ARM, "parallel": ARM, "equal_tokens": {**ARM, "attempts": 19},
    "difference": {"value": 0.05, "low": -0.1, "high": 0.2, "n": 60}, "capped": True,
    "difference_at_equal_tokens": {"value": -0.05, "low": -0.2, "high": 0.1, "n": 60},
}  # fmt: skip


def test_the_report_answers_whether_it_corrects_itself(tmp_path: Path) -> None:
    events = [shown("M0", 0, 0.45), shown("M1", 0, 0.5, **VOTE), shown("M2", 1, 0.7), shown("M3", 2, 0.75)]
    run_dir = write(tmp_path, [*events, ("evaluation", "other", evaluation("M3", 2, 0.4))])
    page = write_report(run_dir).read_text()
    assert "Does it correct itself?" in page and page.count("Accuracy of each turn") >= 1
    assert "<script>alert" not in page and "right" in page and "wrong (truncated)" in page
    assert "8, each corrected" in page and "19 first" in page and "12,345" in page
    assert "From turn to turn" not in page
    lines = printed(read_events(run_dir / "metrics.jsonl"))
    assert max(map(len, lines)) <= 80
    whole = "\n".join(lines)
    assert (
        "Acc@t1" in whole
        and "-5.0" in whole
        and "+25.0" in whole
        and "16 first" in whole
        and "8, each corrected" in whole
    )
    assert "more first attempts than are ever drawn" in whole
    assert "Does it correct itself?" not in write_report(
        write(tmp_path / "x", [("evaluation", "other", evaluation("M3", 2, 0.4))])
    ).read_text()  # fmt: skip


def test_the_command_reads_items_from_a_file_and_prints_json(
    tmp_path: Path, talking: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [{"prompt": question, "answer": "?"} for question in QUESTIONS[:4]])
    arguments = ["self-correction", "max_new_tokens=6", f"instruction={AGAIN}", "--policy", str(talking), "--json"]
    arguments += ["--data", str(tmp_path / "mine.jsonl"), "--backend", "transformers", "--output", str(tmp_path / "r")]
    monkeypatch.setattr("sys.argv", ["selfimprove", "eval", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr()
    assert ended.value.code == 0, out.err
    (found,) = json.loads(out.out)
    assert (found["suite"], found["metric"], found["n"]) == ("self-correction", "accuracy", 4)
    assert set(found["self_correction"]["turns"]) == {"1", "2"} and "examples" not in found["self_correction"]


def test_a_suite_of_a_recipe_runs_on_every_policy(tiny_recipe: Callable[..., Recipe], tiny_data: Path) -> None:
    change = {"suite": "self-correction", "data": "items.jsonl", "max_new_tokens": 4, "instruction": AGAIN}
    result = run(tiny_recipe("sft", evaluate=["suite.yaml", change]), quiet())
    found = [event for event in result.events if event["event"] == "evaluation" and "self_correction" in event]
    assert [(event["policy"], event["n"]) for event in found] == [("M0", 6), ("M1", 6)]
    assert found[1]["paired"]["against"] == "M0"
