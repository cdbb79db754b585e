"""A thought is not an answer: in responses, in judges' verdicts, and where its marks are special tokens."""

from __future__ import annotations

import doctest

import pytest
from conftest import byte_tokenizer

from selfimprove.data.rows import RenderedPrompt, Response
from selfimprove.gates import rendered_pairs
from selfimprove.judging.rubric import load_rubric
from selfimprove.models import thoughts
from selfimprove.models.thoughts import answer_of, opens_thought, said


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(thoughts).failed == 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("4", "4"),
        ("  4\n", "  4\n"),  # without a thought a text stays to the byte
        ("<think>3?</think>4", "4"),
        ("<THINK>3?</THINK>\n4", "4"),
        ("<think>one</think> no <think>two</think> yes", "yes"),
        ("<think>\n\n</think>\n\n4", "4"),
        ("3?\n</think>\n\n4", "4"),  # the template opened it
        ("<thinking>3?</thinking>4", "4"),
        ("<seed:think>3?</seed:think>4", "4"),
        ("[THINK]3?[/THINK]4", "4"),
        ("<|begin_of_thought|>3?<|end_of_thought|>4", "4"),
        ("<|channel|>analysis<|message|>3?<|end|><|start|>assistant<|channel|>final<|message|>4", "4"),
        ("<think>3?", None),
        ("<think>3?</think>\n<think>but", None),
        ("<|channel|>analysis<|message|>3?", None),
        ("An <think> tag in a line is spoken of", "An <think> tag in a line is spoken of"),
        ("<think></think>", ""),
    ],
)
def test_what_follows_the_last_thought(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer


def test_a_prompt_that_opens_a_thought() -> None:
    assert opens_thought("<|im_start|>assistant\n<think>\n")
    assert opens_thought("<|start|>assistant<|channel|>analysis")
    assert not opens_thought("<|im_start|>assistant\n")
    assert not opens_thought("say <think></think>")
    assert answer_of("no close", opened=True) is None
    assert answer_of("a close</think>4", opened=True) == "4"


def test_marks_that_are_special_tokens_and_lost_in_the_text() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = tokenizer("[THINK]three[/THINK]four", add_special_tokens=False)["input_ids"]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert "three" in text
    assert said(tokenizer, ids, text) == "four"
    assert said(tokenizer, ids[:3], "t") is None
    plain = tokenizer("four", add_special_tokens=False)["input_ids"]
    assert said(tokenizer, plain, "four") == "four"


@pytest.mark.parametrize(
    ("rubric", "verdict", "value"),
    [
        ("five-points", "<think>\nScore: 2?\n</think>\nScore: 4", 4),
        ("five-points", "Score: 2, or so\n</think>\nIt is right. Score: 4", 4),
        ("five-points", "Score: 4,5", 4.5),
        ("five-points", "Score: 4,500", None),
        ("five-points", "<think>Score: 4", None),
        ("mt-bench-single", "<think>[[3]]</think> Rating: [[9]]", 9),
        ("mt-bench-single", "<think>[[3]]", None),
        ("mt-bench-pair", "<think>[[B]]?</think> [[A]]", 1.0),
        ("mt-bench-pair", "<think>[[B]]", None),
    ],
)
def test_a_verdict_weighed_in_a_thought_is_none(rubric: str, verdict: str, value: float | None) -> None:
    found = load_rubric(rubric, ())
    assert found.parse(verdict)[0] == value
    cut, why = found.parse(verdict, cut=True)
    assert cut is None and why == "the verdict was cut off by the length limit"


def test_labels_and_digits_are_one_token_and_never_cut() -> None:
    assert load_rubric("alpaca-eval", ()).parse("m", {"m": -0.1, "M": -3.0}, cut=True)[0] is not None
    assert load_rubric("five-points", ()).parse("Score: 3")[0] == 3


def test_an_open_thought_may_end_its_turn() -> None:
    tokenizer = byte_tokenizer()
    from selfimprove.data.rows import Pair
    from selfimprove.models.chat import end_of_turn_id, render_prompt

    end = end_of_turn_id(tokenizer)
    asked = RenderedPrompt("p", tuple(render_prompt(tokenizer, [{"role": "user", "content": "x"}])), "x")
    good = Response("p", 0, (5, end), "stop", "a")
    thought = Response("p", 1, (6, end), "length", "", open_thought=True)
    cut = Response("p", 1, (6, end), "length", "b")
    assert rendered_pairs(tokenizer, [Pair(asked, good, thought, 1.0, 0.0)], [end]).passed
    assert not rendered_pairs(tokenizer, [Pair(asked, good, cut, 1.0, 0.0)], [end]).passed


def test_a_judge_sees_the_whole_conversation() -> None:
    turns = ({"role": "system", "content": "In French."}, {"role": "user", "content": "Again?"})
    assert RenderedPrompt("p", (), "Again?", messages=turns[1:]).conversation == "Again?"
    assert "In French." in RenderedPrompt("p", (), "Again?", messages=turns).conversation
