"""Self-Refine: the policy's own feedback stands between two attempts, token for token, and is paid for in votes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_self_correction
from test_self_correction import AGAIN, QUESTIONS, Row, event_of, printed, quiet, recipe_of, sampled
from transformers import AutoTokenizer

from selfimprove.errors import InputError
from selfimprove.runs.execute import run
from selfimprove.suites.suite_kinds import SelfCorrection
from selfimprove.suites.suites import load_suite

talking = test_self_correction.talking  # a fixture: the tiny model whose answers often end
FEEDBACK = "What is wrong with it?"


def follows(model: Path, before: Row, after: Row, said: str) -> None:
    """`after` reads what `before` read and wrote, token for token, and then `said` alone."""
    prompt, answer, finish, _ = before
    assert after[0][: len(prompt) + len(answer)] == [*prompt, *answer]
    rest = AutoTokenizer.from_pretrained(model).decode(after[0][len(prompt) + len(answer) :])
    end = "<|im_end|>" if finish == "length" else ""  # what was cut is closed
    assert rest == f"{end}\n<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"


def options(**more: Any) -> dict[str, Any]:
    return {"feedback": FEEDBACK, "feedback_new_tokens": 7, "questions": QUESTIONS[:8], **more}


def test_the_next_attempt_reads_the_feedback_and_only_attempts_are_scored(tmp_path: Path, talking: Path) -> None:
    result = run(recipe_of(tmp_path, talking, **options(turns=3)), quiet())
    first, feedback, second, other, third = (
        sampled(result, label) for label in ("turn 1", "turn 1, feedback", "turn 2", "turn 2, feedback", "turn 3")
    )
    for key, row in first.items():
        follows(talking, row, feedback[key], FEEDBACK)
        follows(talking, feedback[key], second[key], AGAIN)
        follows(talking, second[key], other[key], FEEDBACK)
        follows(talking, other[key], third[key], AGAIN)
    written = [*feedback.values(), *other.values()]
    assert {len(row[1]) for row in first.values()} - set(range(8)) and all(len(row[1]) <= 7 for row in written)

    found = event_of(result)["self_correction"]
    assert set(found["turns"]) == {"1", "2", "3"} and found["instruction"] == AGAIN
    assert found["feedback"]["instruction"] == FEEDBACK
    assert found["feedback"]["tokens"] == pytest.approx(sum(len(row[1]) for row in written) / 16)
    assert found["feedback"]["truncated"]["value"] == sum(row[2] == "length" for row in written) / 16
    for n, example in enumerate(found["examples"]):
        attempts = example["attempts"]
        assert "feedback" not in attempts[0] and attempts[1]["feedback"] == feedback[f"q{n}", 0][3]
        assert [one["text"] for one in attempts] == [turn[f"q{n}", 0][3] for turn in (first, second, third)]
    page = result.report.read_text()
    assert "Self-Refine" in "\n".join(printed(result.events)) and ">feedback<" in page.replace(" ", "").replace(
        "\n", ""
    )


def test_without_it_nothing_is_asked_between_the_attempts(tmp_path: Path, talking: Path) -> None:
    result = run(recipe_of(tmp_path, talking, questions=QUESTIONS[:4]), quiet())
    assert event_of(result)["self_correction"]["feedback"] is None
    assert not sampled(result, "feedback") and "Self-Refine" not in "\n".join(printed(result.events))


def test_votes_pay_for_the_feedback_they_read_and_write(tmp_path: Path, talking: Path) -> None:
    k = 2
    result = run(recipe_of(tmp_path, talking, **options(samples=k, temperature=1.0)), quiet())
    pool, feedback, seconds = (
        sampled(result, label) for label in (f"{2 * k} first attempts", f"{k} feedbacks", f"{k} corrections")
    )
    assert len(feedback) == len(seconds) == 8 * k
    for (id, _), row in feedback.items():
        name, _, place = id.partition("|")
        follows(talking, pool[name, int(place)], row, FEEDBACK)
        follows(talking, row, seconds[id, 0], AGAIN)
    firsts = [row for (_, place), row in pool.items() if place < k]
    arm = event_of(result)["self_correction"]["vote"]["corrected"]
    assert arm["tokens_written"] == sum(len(row[1]) for row in [*firsts, *feedback.values(), *seconds.values()])
    once = sum(len(pool[f"q{n}", 0][0]) for n in range(8))
    assert arm["tokens_read"] == once + sum(len(row[0]) for row in [*feedback.values(), *seconds.values()])


def test_a_dialogue_without_room_for_feedback_has_no_second_attempt(tmp_path: Path, talking: Path) -> None:
    questions = [QUESTIONS[0], "x" * 440]
    result = run(recipe_of(tmp_path, talking, **options(questions=questions)), quiet())
    found = event_of(result)["self_correction"]
    assert found["turns"]["1"]["failures"].get("prompt too long") is None
    assert found["turns"]["2"]["failures"]["prompt too long"] == 1 and found["turns"]["2"]["n"] == 2


def test_the_shipped_suite_and_what_is_refused(tmp_path: Path) -> None:
    suite = load_suite("self-refine").suite
    assert isinstance(suite, SelfCorrection) and suite.feedback and suite.feedback_new_tokens == 64
    with pytest.raises(InputError, match="`feedback_new_tokens` belongs to `feedback`"):
        load_suite("self-correction", [tmp_path], {"feedback_new_tokens": 5})
    with pytest.raises(InputError, match="key `feedback`"):
        load_suite("self-correction", [tmp_path], {"feedback": ""})
