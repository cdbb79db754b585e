"""The judge's digit: its expected value by hand, its token under every chat template, labels that survive cut-offs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_chat import FAMILIES, byte_tokenizer, each_family, word_tokenizer, wrap
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from selfimprove.errors import InputError
from selfimprove.judging.digit_questions import question_ids
from selfimprove.judging.digits import DIGITS, digit_tokens, expected_digit, stated_digit
from selfimprove.judging.rubric import load_rubric, write_rubric
from selfimprove.models.chat import render_example, render_prompt

QUESTION = [{"role": "user", "content": "question"}]


@pytest.mark.parametrize(
    ("log_probs", "score"),
    [
        ({"7": 0.0}, 7.0),
        ({"0": math.log(0.5), "9": math.log(0.5)}, 4.5),
        ({"2": math.log(0.1), "4": math.log(0.3)}, 3.5),  # renormalised: (2 x 0.1 + 4 x 0.3) / 0.4
        ({"2": math.log(0.1), " 2": math.log(0.2), "▁8": math.log(0.1), "The": math.log(0.6)}, 3.5),
        ({"Ġ3": -700.0, "5": -700.0}, 4.0),  # far below what a float of exp holds apart
        ({str(digit): -2.0 for digit in range(10)}, 4.5),
        ({"1": 0.0, "3": -math.inf}, 1.0),
    ],
)
def test_the_score_is_the_expected_digit(log_probs: dict[str, float], score: float) -> None:
    assert expected_digit(log_probs) == (pytest.approx(score), None)


@pytest.mark.parametrize("log_probs", [{}, {"The": -0.1}, {"12": -0.1, "3.": -2.0}, {"4": -math.inf}, {"²": -0.1}])
def test_without_a_digit_the_score_is_missing_and_not_0(log_probs: dict[str, float]) -> None:
    assert expected_digit(log_probs) == (None, "no digit is among the judge's first tokens")


def test_what_is_no_log_prob_is_missing() -> None:
    assert expected_digit({"4": math.nan})[0] is None
    assert expected_digit({"4": 0.5})[0] is None


@given(st.dictionaries(st.sampled_from([*DIGITS, *(f" {d}" for d in DIGITS)]), st.floats(-1000, 0), min_size=1))
def test_the_score_lies_between_the_digits_that_are_listed(log_probs: dict[str, float]) -> None:
    score, why = expected_digit(log_probs)
    listed = [int(token) for token in log_probs]
    assert why is None and score is not None and min(listed) - 1e-9 <= score <= max(listed) + 1e-9
    shifted, _ = expected_digit({token: value - 3 for token, value in log_probs.items()})
    assert shifted == pytest.approx(score)  # what is not listed does not count


@pytest.mark.parametrize(("text", "score"), [("7", 7.0), (" 3\n", 3.0), ("0.", 0.0), ("4 of 9", 4.0)])
def test_a_written_digit(text: str, score: float) -> None:
    assert stated_digit(text) == (score, None)


@pytest.mark.parametrize("text", ["", "The", "12", "4.5", "10", "-3", "²"])
def test_what_does_not_begin_with_one_digit_is_missing(text: str) -> None:
    assert stated_digit(text)[0] is None


@each_family
def test_the_digit_is_the_first_token_that_is_predicted(name: str) -> None:
    tokenizer, first = byte_tokenizer(name), len(FAMILIES[name].special)
    found = digit_tokens(tokenizer)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert list(found.ids) == [first + letters.index(digit) for digit in DIGITS]
    space = (first + letters.index("Ġ"),)
    assert found.opening == (space if name == "mistral" else ())  # Mistral's template writes a space, which is read
    prompt, answer = render_example(tokenizer, QUESTION, "7")
    assert [*prompt, *found.opening, found.ids[7]] == [*prompt, *answer][: len(prompt) + len(found.opening) + 1]


def test_a_digit_with_its_space_is_one_token_too() -> None:
    family = FAMILIES["mistral"]
    words = [*family.special, *family.words.split(" "), *(f"▁{digit}" for digit in DIGITS)]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, "(other)"])}, unk_token="(other)"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    found = digit_tokens(wrap(core, family))
    assert found.opening == () and list(found.ids) == [words.index(f"▁{digit}") for digit in DIGITS]


def test_a_tokenizer_without_digits_is_refused() -> None:
    with pytest.raises(InputError, match="no token of its own for each of the ten digits"):
        digit_tokens(word_tokenizer("smollm2"))


@each_family
def test_a_cut_question_still_ends_where_the_digit_is_asked_for(name: str) -> None:
    tokenizer, rubric = byte_tokenizer(name), load_rubric("self-judge", [])
    values = {"instruction": "Say cat", "response": "cat é " * 60, "reference": "cat"}
    whole = question_ids(tokenizer, rubric, values, "reference", 10**6)
    assert whole is not None and not whole.cut
    opening = digit_tokens(tokenizer).opening
    assert whole.ids == (*render_prompt(tokenizer, rubric.messages(values, "reference")), *opening)
    empty = question_ids(tokenizer, rubric, {**values, "response": ""}, "reference", 10**6)
    assert empty is not None
    for most in (len(whole.ids) - 1, len(empty.ids) + 30, len(empty.ids) + 1, len(empty.ids)):
        found = question_ids(tokenizer, rubric, values, "reference", most)
        assert found is not None and found.cut and len(found.ids) <= most
        assert found.ids[-60:] == whole.ids[-60:] and found.ids[:60] == whole.ids[:60]
    assert question_ids(tokenizer, rubric, values, "reference", len(empty.ids) - 1) is None


@pytest.mark.parametrize("name", ["self-judge", "five-points", "mt-bench-single", "alpaca-eval", "mt-bench-pair"])
def test_a_rubric_that_was_written_is_the_same(name: str, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    rubric = load_rubric(name, [])
    write_rubric(rubric, folder)
    again = load_rubric(str(folder), [])
    assert (again.digest, again.prompts, again.options) == (rubric.digest, rubric.prompts, rubric.options)
