"""HumanEval's and MBPP's programs from what models write, and pass@k. The two tasks here were written for this test."""

from __future__ import annotations

import builtins
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.judging.checkers.code_tasks import (
    QUESTIONS,
    extract_code,
    humaneval_program,
    mbpp_names,
    mbpp_program,
    pass_at_k,
    program_of,
)
from selfimprove.judging.checkers.sandbox import Limits, run_program, sandbox_problem

BODY = "    total = 0\n    for n in numbers:\n        if n > limit:\n            total += twice(n)\n    return total\n"
PROMPT = '''from typing import List


def twice(n: int) -> int:
    """ Two times n. """
    return 2 * n


def double_large(numbers: List[int], limit: int) -> int:
    """ Add up twice each number above the limit.
    >>> double_large([1, 5], 3)
    10
    """
'''
HUMANEVAL: dict[str, Any] = {
    "task_id": "Own/0",
    "prompt": PROMPT,
    "entry_point": "double_large",
    "canonical_solution": BODY,
    "test": "def check(candidate):\n    assert candidate([1, 5], 3) == 10\n    assert candidate([4], 3) == twice(4)\n",
}
SIGNATURE = "def double_large(numbers: List[int], limit: int) -> int:\n"
MBPP: dict[str, Any] = {
    "task_id": 9001,
    "text": "Write a function to count the leaves of a tree.",
    "code": "class Node:\r\n    def __init__(self, *below):\r\n        self.below = below\r\n"
    "def helper(x):\r\n    return x\r\n"
    "def count_leaves(node):\r\n    return sum(map(count_leaves, node.below)) if node.below else 1",
    "test_setup_code": "root = Node(Node(), Node(Node()))",
    "test_list": ["assert count_leaves(root) == 2", "assert count_leaves(Node()) == 1"],
}

needs_sandbox = pytest.mark.skipif(sandbox_problem() is not None, reason=str(sandbox_problem()))


def outcome(program: tuple[str, str]) -> str:
    ran = run_program(*program, Limits(seconds=5))
    return ran.outcome if ran.outcome == "passed" else ran.detail


def fenced(code: str, language: str = "python") -> str:
    return f"Here it is:\n\n```{language}\n{code.rstrip()}\n```\n\nIt runs in linear time."


RIGHT = {
    "a continuation": BODY,
    "a continuation without its first indentation": BODY.strip(),
    "a continuation without indentation": "\n".join(line[4:] for line in BODY.split("\n")),
    "a continuation of one line, stripped": "return sum(twice(n) for n in numbers if n > limit)",
    "a continuation with more behind it": BODY + "\n\ndef main():\n    exit(1)\n\nprint(main())\n",
    "a continuation that closes the prompt's fence": BODY + "```\n\nThis adds up the large ones.",
    "a continuation in a fence": fenced(BODY),
    "a function without the imports": fenced(SIGNATURE + BODY),
    "a function without a fence": SIGNATURE + BODY,
    "the whole prompt again": fenced(PROMPT + BODY),
    "with imports from the future": fenced("from __future__ import annotations\nimport math\n\n" + SIGNATURE + BODY),
    "with a main block": fenced(SIGNATURE + BODY + "\nif __name__ == '__main__':\n    print(double_large(input()))\n"),
    "in a fence in a list": "1. Code:\n   ```python\n   " + (SIGNATURE + BODY).replace("\n", "\n   ") + "```",
    "with windows lines": fenced(SIGNATURE + BODY).replace("\n", "\r\n"),
    "a fence that was never closed": "```python\n" + SIGNATURE + BODY,
    "the second try": fenced(SIGNATURE + "    return 0\n") + "\n\nNo, rather:\n\n" + fenced(SIGNATURE + BODY),
    "an example behind": fenced(SIGNATURE + BODY) + "\n```python\nprint(double_large([1], 0))\n```\n```\n2\n```",
    "a shell before": "```bash\npip install x\n```\n" + fenced(SIGNATURE + BODY),
}


@needs_sandbox
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_response_passes_in_every_form(name: str) -> None:
    assert outcome(humaneval_program(HUMANEVAL, RIGHT[name])) == "passed"


@needs_sandbox
@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("    return 10\n", "AssertionError"),
        (fenced("def another():\n    return 10\n"), "AssertionError"),
        ("I cannot do that.", "SyntaxError"),
        ("", "AssertionError"),
        # what the tests take from the prompt is not the response's to change
        (fenced("def twice(n):\n    return 10\n\n" + SIGNATURE + "    return 10\n"), "AssertionError"),
    ],
)
def test_a_wrong_response_fails(response: str, said: str) -> None:
    assert outcome(humaneval_program(HUMANEVAL, response)).startswith(said)


@needs_sandbox
def test_mbpp_passes_and_fails() -> None:
    assert outcome(mbpp_program(MBPP, fenced(MBPP["code"]))) == "passed"
    assert outcome(mbpp_program(MBPP, MBPP["code"])) == "passed"
    assert outcome(mbpp_program(MBPP, fenced("def count_leaves(node):\n    return 2"))).startswith("NameError")
    assert outcome(mbpp_program(MBPP, MBPP["code"].replace("else 1", "else 2"))).startswith("AssertionError")


@needs_sandbox
def test_mbpp_sanitized_has_its_own_fields() -> None:
    task = {
        "prompt": "Write a function for the area of a circle.",
        "code": "def area(r):\n    return 3.141592653589793 * r * r",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(area(2), math.pi * 4)"],
    }
    assert outcome(mbpp_program(task, fenced(task["code"]))) == "passed"
    assert "area of a circle" in QUESTIONS["mbpp"](task)


@needs_sandbox
def test_a_function_that_is_asked_for_under_a_built_ins_name_is_tested() -> None:
    task = {"text": "", "code": "def sum(a, b):\n    return a + b", "test_list": ["assert sum(1, 2) == 3"]}
    assert outcome(mbpp_program(task, task["code"])) == "passed"
    assert outcome(mbpp_program(task, "def sum(a, b):\n    return a")) != "passed"
    assert outcome(mbpp_program(task, "x = 1")).startswith("ImportError")


def test_the_names_that_are_asked_for() -> None:
    assert mbpp_names(MBPP) == ["Node", "count_leaves"]
    assert not set(mbpp_names(MBPP)) & set(dir(builtins))


def test_a_program_and_its_tests_are_kept_apart() -> None:
    program, tests = program_of("humaneval", HUMANEVAL, BODY)
    assert "check" not in program and "assert" not in program
    assert tests.endswith("check(double_large)\n") and "total" not in tests
    assert program_of("mbpp", MBPP, "x")[0] == "x"


def test_questions_show_the_task() -> None:
    assert PROMPT.strip() in QUESTIONS["humaneval"](HUMANEVAL)
    asked = QUESTIONS["mbpp"](MBPP)
    assert all(test in asked for test in MBPP["test_list"]) and MBPP["text"] in asked and MBPP["code"] not in asked


def test_the_last_block_that_defines_something_is_the_code() -> None:
    text = "```python\nx = 1\n```\n```python\ndef f():\n    pass\n```\n```text\noutput\n```"
    assert extract_code(text) == "def f():\n    pass\n"
    assert extract_code("```python\nx = 1\n```\n```python\ny = 2\n```") == "x = 1\n"
    assert extract_code("```json\n{}\n```") == "{}\n"
    assert extract_code("no fence") == "no fence"
    assert extract_code("```python\n```") == ""


@given(st.text(), st.lists(st.text(max_size=5), max_size=3))
def test_any_text_can_be_read(text: str, names: list[str]) -> None:
    extract_code(text, names)
    humaneval_program(HUMANEVAL, text)
    mbpp_program(MBPP, text)


@given(st.text(alphabet="ab `~\n", max_size=60))
def test_fences_in_any_place_can_be_read(text: str) -> None:
    assert isinstance(extract_code(text), str)


def test_a_prompt_without_its_function_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not define 'other'"):
        humaneval_program({**HUMANEVAL, "entry_point": "other"}, BODY)


@pytest.mark.parametrize(
    ("n", "correct", "k", "value"),
    [(1, 0, 1, 0.0), (1, 1, 1, 1.0), (10, 3, 1, 0.3), (5, 2, 2, 0.7), (4, 1, 4, 1.0), (200, 0, 100, 0.0)],
)
def test_pass_at_k_by_hand(n: int, correct: int, k: int, value: float) -> None:
    assert pass_at_k(n, correct, k) == pytest.approx(value)  # 5, 2, 2: 1 - C(3, 2) / C(5, 2) = 1 - 3 / 10


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations(range(n), k))
    share = sum(any(sample < correct for sample in draw) for draw in draws) / len(draws)
    assert math.isclose(pass_at_k(n, correct, k), share, abs_tol=1e-12)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, correct, k)


@pytest.mark.parametrize(
    "response",
    [
        "Here is the function:\n\ndef f(x):\n    return x + 1\n\nIt adds one to x (see above).",
        "Sure!\n[PYTHON]\ndef f(x):\n    return x + 1\n[/PYTHON]\n[TESTS]\nassert f(1) == 3\n[/TESTS]",
        "<code>\ndef f(x):\n    return x + 1\n</code> This is it.",
        "Import it.\nfrom math import inf\n\ndef f(x):\n    if x == inf:\n        x\n    return x + 1\n\nDone.",
        'Use this:\ndef f(x):\n    """\nAdds one.\n\nIn words: x and 1.\n    """\n    return x + 1\nIt works.',
        "I define a constant too.\nONE = 1\n\ndef g():\n    pass\n\nBut better:\n\ndef f(x):\n    return x + 1\n\nBye.",
        "def f(x):\n    return x + 1\n\nThis function adds one, as asked. For example, f(1) is 2.",
        "[PYTHON]\ndef f(x):\n    return x + 1",
    ],
)
def test_code_in_prose_and_between_marks_is_found(response: str) -> None:
    code = extract_code(response, ["f"])
    made: dict[str, Any] = {}
    exec(code, made)  # ours, not a model's
    assert made["f"](1) == 2


def test_code_alone_and_a_continuation_stay_as_they_are() -> None:
    whole = "import math\n\nONE = 1\n\ndef f(x):\n    return x + ONE\n\nif __name__ == '__main__':\n    print(f(1))\n"
    assert extract_code(whole, ["f"]) == whole
    rest = "    return x + 1\n\ndef g():\n    pass\n"
    assert extract_code(rest, ["f"]) == rest
