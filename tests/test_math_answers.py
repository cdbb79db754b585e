"""The mathematical checker: right, wrong, not found and missing are four things, and none of them hangs a run."""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.checkers import math_answers
from selfimprove.judging.checkers.math_answers import (
    NO_ANSWER,
    last_boxed,
    math_verdict,
    math_verdicts,
    reference_answer,
    stated_answer,
)

HANGS = "\\boxed{9^{9^{9^{9}}}}"
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="math-verify is not installed"
)


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    math_answers._stop_all()


# What holds the answer: pure


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("so \\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\fbox{3}", "3"),
        ("$\\boxed 7$ it is", "7"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{open", None),
        ("nothing", None),
    ],
)
def test_the_last_box(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("response", "stated"),
    [
        ("3 + 4 = 7\n#### 1,007", "$\\boxed{1007}$"),
        ("#### $18.\nDone in 3 steps", "$\\boxed{18}$"),
        ("The box \\boxed{x + 1} of 9", "$\\boxed{x + 1}$"),
        ("\\frac{1}{2}", "$\\boxed{\\frac{1}{2}}$"),
        ("Long talk.\nAnswer: \\frac{1}{2}.", "$\\boxed{\\frac{1}{2}}$"),
        ("He has 3 apples", "He has 3 apples"),
        ("It is $x$.", "It is $x$."),
        ("\\boxed{}", ""),
        ("", ""),
    ],
)
def test_what_is_taken_for_the_answer(response: str, stated: str) -> None:
    assert stated_answer(response) == stated


def test_the_reference_is_behind_its_mark_or_all_of_it() -> None:
    assert reference_answer("She has 3 + 4 = 7 eggs.\n#### 1,234") == "$\\boxed{1234}$"
    assert reference_answer("\\left( 3, \\frac{\\pi}{2} \\right)") == "$\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}$"


@given(st.text(alphabet=st.sampled_from("ab1,.$#{}\\ \n")))
def test_any_text_can_be_read(text: str) -> None:
    for response in (text, "\\boxed" + text, "#### " + text, "answer: " + text):
        assert isinstance(stated_answer(response), str) and isinstance(reference_answer(response), str)


# The verdicts

VERDICTS = [
    ("#### 1,234", "a sum\n#### 1234", 1.0, None),
    ("so she pays $18.00 in all", "#### 18", 1.0, None),
    ("It takes 5 + 3 = 8 hours. The answer is 8.", "#### 8", 1.0, None),
    ("\\boxed{\\frac12}", "0.5", 1.0, None),
    ("\\boxed{(x+1)^2}", "x^2+2x+1", 1.0, None),
    ("$\\boxed{\\text{Evelyn}}$", "\\text{Evelyn}", 1.0, None),
    ("\\boxed{\\left(3, \\tfrac{\\pi}{2}\\right)}", "\\left( 3, \\frac{\\pi}{2} \\right)", 1.0, None),
    ("\\begin{pmatrix} -2 \\\\ 1/2 \\end{pmatrix}", "\\begin{pmatrix} -2 \\\\ 0.5 \\end{pmatrix}", 1.0, None),
    ("first \\boxed{3}, no: \\boxed{4}", "4", 1.0, None),
    ("a stray half \ud800 and 5", "5", 1.0, None),
    ("\\boxed{3}", "4", 0.0, None),
    ("The answer is 41", "#### 42", 0.0, None),
    ("I do not know.", "3", 0.0, NO_ANSWER),
    ("", "3", 0.0, NO_ANSWER),
    ("\\boxed{}", "3", 0.0, NO_ANSWER),
    ("5", "", None, "the checker cannot read the reference answer"),
]


@needs_library
def test_right_wrong_not_found_and_missing_are_told_apart() -> None:
    done: list[int] = []
    rows = [(response, answer) for response, answer, _, _ in VERDICTS]
    assert math_verdicts(rows, advance=done.append) == [(score, reason) for _, _, score, reason in VERDICTS]
    assert done == [1] * len(rows)


@needs_library
def test_a_hanging_expression_is_missing_and_the_next_is_checked() -> None:
    started = time.monotonic()
    rows = [("\\boxed{1}", "1"), (HANGS, "3"), ("\\boxed{2}", "2"), (HANGS, "3"), ("\\boxed{3}", "4")]
    late = (None, "the checker took more than 1 s")
    assert math_verdicts(rows, seconds=1.0, workers=2) == [(1.0, None), late, (1.0, None), late, (0.0, None)]
    assert time.monotonic() - started < 60


@needs_library
def test_it_works_in_a_thread_and_leaves_the_signal_alone() -> None:
    before = signal.getsignal(signal.SIGALRM)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(math_verdict("\\boxed{1/2}", "0.5")))
    thread.start()
    thread.join()
    assert found == [(1.0, None)] and signal.getsignal(signal.SIGALRM) is before


@needs_library
def test_a_process_is_kept_and_one_that_died_is_replaced() -> None:
    assert math_verdict("1", "1") == (1.0, None)
    (worker,) = math_answers._idle[-1:]
    assert math_verdict("2", "2") == (1.0, None)
    assert math_answers._idle[-1] is worker
    worker.process.kill()
    worker.process.wait()
    assert math_verdict("2", "2") == (None, "the checker's process died")
    assert worker not in math_answers._idle
    assert math_verdict("2", "2") == (1.0, None)


@needs_library
def test_an_interrupted_question_is_not_the_next_ones_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math_verdict("1", "1") == (1.0, None)
    worker = math_answers._idle[-1]

    def interrupted(seconds: float) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        math_verdict("1", "2")
    assert worker.process.poll() is not None and worker not in math_answers._idle


@needs_library
def test_keys_are_not_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    math_answers._stop_all()
    assert math_verdict("1", "1") == (1.0, None)
    environment = Path(f"/proc/{math_answers._idle[-1].process.pid}/environ")
    if environment.exists():
        assert b"sk-secret" not in environment.read_bytes()


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install 'math-verify"):
        math_verdict("1", "1")


@needs_library
def test_a_process_that_does_not_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    math_answers._stop_all()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunFailed, match="did not start"):
        math_verdict("1", "1")


@pytest.mark.parametrize(
    "response",
    [
        "#### Step 1: Add\n2 + 2 is 4.\nSo the answer is \\boxed{4}",
        "#### Step 2: 10 apples\nThus \\boxed{4}.",
        "#### Final Answer\n\\boxed{4}",
        "#### Step 1\nadd\n#### 4",
    ],
)
def test_a_heading_is_no_answer(response: str) -> None:
    assert math_verdict(response, "4") == (1.0, None)


# Forms in which models state an answer; the kinds are those of math-verify's and lighteval's own tables

RIGHT = {
    "18": [
        *("So 18 is the answer.", "Therefore $18$ is the final answer.", "Answer: 18. This is my final answer."),
        *("**18**", "The answer is **18**.", "Final Answer: **18**", "#### **18**", "**Final answer: 18**", "`18`"),
        *("Answer: €18", "answer: £18.00", "Answer: $18 per day", "Answer: 18 €", "\\boxed{€18}", "#### €18"),
        *("The answer is 18!", "Answer - 18", "Answer — 18", "The answer is 18?", 'The answer is "18".', "- 18"),
        *("<answer>18</answer>", "<answer>The answer is 18</answer>", "<ANSWER>\n**18**\n</ANSWER>"),
        *("\\boxed{18\\$}", "\\boxed{18\\text{ dollars}}", "\\boxed{\\text{18}}", "\\boxed{x = 18}", "\\boxed{18}$"),
        *("Hence \\(18\\) is the correct answer.", "18 dollars is the answer.", "Final Answer\n18", "A: 18"),
        *("The final answer is:\n\n\\[\n18\n\\]", "The answer is:\n**18**", "## Answer\n\n**18**"),
        *("The answer is 18, since 2*9 = 18 and 3 were left", "The answer is 18 (not 19).", "The answer is 18 apples."),
        *("The answer is not 19 but 18.", "The answer is 18. The other one, 19, is not the answer."),
        *("Answer: 18\n\nI hope this helps! Do you have 3 more questions?", "I'd say the answer is 18.", "She has 18."),
    ],
    "1,2": [
        "1,2",
        "2, 1",
        "\\boxed{1,2}",
        "1 and 2",
        "The answers are 1 and 2.",
        "x=1 or x=2",
        "\\boxed{1} and \\boxed{2}",
    ],
    "6 \\text{ and } 8": ["\\boxed{6,8}", "$6$ and $8$"],
    "12345": [
        "12,345",
        "\\boxed{12{,}345}",
        "\\boxed{12\\,345\\text{ m}}",
        "12 345",
        "Answer: $12,345.00",
        "**12,345**.",
    ],
    "\\frac{3}{4}": ["The answer is 3/4.", "\\frac{3}{4} is the answer.", "0.75", "<answer>$\\frac34$</answer>"],
    "120": ["\\boxed{5!}", "The answer is $5!$."],
    "x \\leq 2": ["Thus $x <= 2$ is our answer."],
    "\\text{Evelyn}": ["The answer is Evelyn.", "\\boxed{\\text{Evelyn}}"],
    "12:00": ["The answer is 12:00."],
    "2.5": ["Answer: 2 1/2", "2,500 g are 2.5 kg"],
    "8722": ["89件T恤 * 98美元/件 = 8722美元 所以，他们赚了8722美元。"],
}
WRONG = {
    "18": [
        *(
            "The answer is not 18",
            "The answer isn't 18.",
            "The answer is **not 18**.",
            "The answer cannot be 18.",
            "not 18",
        ),
        *("18 is not the answer.", "18 cannot be the answer.", "I do not know whether it is 18.", "#### not 18"),
        *(
            "18 or 19",
            "The answer is 18 or 19.",
            "The answer is either 18 or perhaps 19.",
            "\\boxed{18 or 19}",
            "18, 19",
        ),
        *(
            "\\boxed{18} or \\boxed{19}",
            "<answer>18 or 19</answer>",
            "The answer is between 18 and 19.",
            "**18 or 19**",
        ),
        *(
            "\\boxed{18",
            "\\boxed{18} and \\boxed{1",
            "<answer>18",
            "The answer is 1",
            "The answer is",
            "<answer></answer>",
        ),
        *("19 is the answer, not 18.", "\\boxed{18}, no: \\boxed{19}", "**17**", "Answer: €17", "The answer is -18"),
        *("The answer is greater than 18", "The answer is 18x", "18^2", "The answer is 1,8", "The answer is 18/2"),
    ],
    "1,2": ["12", "\\boxed{12}", "1.2", "1"],
    "1234": ["12,34", "1,2,3,4"],
    "120": ["The answer is 5!"],  # in prose the mark ends the sentence
    "(1,2)": ["(2,1)"],
}
# Where math-verify's table says otherwise: (reference, response, our verdict, why).
DIFFERENCES = [
    ("1,22", "1.22", 0.0, "a comma that parts no thousands parts a list: references as 1,2 are lists"),
    ("1000.99", "1000,99", 0.0, "the same"),
    ("$9$", "Answer $ \n 9 \n $", 1.0, "a formula in single dollars may go over lines"),
    ("10455", "$\\boxed{255}$ more. The final answer is $10,455$.", 0.0, "a box goes before a sentence"),
    ("$(\\frac{3}{5},\\frac{8}{3}]$", "$(0.6,2.6667]$", 0.0, "six decimal places; theirs asks for four here"),
    ("$f(x)$", "$f(y)$", 0.0, "strict, which is the default; theirs turns it off here"),
    ("$x \\in [-2,7]$", "$-2 \\le x \\le 7$", 0.0, "a relation is not the set of what fulfils it"),
    ("\\boxed{1} papers and \\boxed{2} bins", "$\\boxed{1,2}$", 0.0, "words between two boxes may take one back"),
    ("10", "\\boxed{10\\%}", 1.0, "a percentage has its value, as in theirs; the unit is not compared"),
]


@needs_library
def test_stated_answers_are_found_in_every_form_and_no_wrong_one_is_right() -> None:
    cases = [(response, answer, 1.0) for answer, responses in RIGHT.items() for response in responses]
    cases += [(response, answer, 0.0) for answer, responses in WRONG.items() for response in responses]
    cases += [(response, answer, verdict) for answer, response, verdict, _ in DIFFERENCES]
    found = math_verdicts([(response, answer) for response, answer, _ in cases])
    assert [case for case, (score, _) in zip(cases, found, strict=True) if score != case[2]] == []
