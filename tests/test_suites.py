"""Suites: what ships, items from a file, and how answers, choices, mathematics, programs and ratings are graded."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoModelForCausalLM

from selfimprove.artefacts import Store, read_rows
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError, RunFailed
from selfimprove.inference import Inference, Written
from selfimprove.judging.asking import Judge
from selfimprove.judging.checkers.sandbox import sandbox_problem
from selfimprove.judging.rubric import load_rubric
from selfimprove.models.chat import Message
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import Reader
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.shipped import shipped_suites
from selfimprove.suites.answers import answer_outcome, named_choice
from selfimprove.suites.kind import Loaded
from selfimprove.suites.outcome import Outcome
from selfimprove.suites.rating import rate
from selfimprove.suites.suite_kinds import MultipleChoice
from selfimprove.suites.suites import _parsed, graded, load_suite

needs_sandbox = pytest.mark.skipif(sandbox_problem() is not None, reason=str(sandbox_problem()))
HUB = [
    "alpaca", "arc-challenge", "arc-easy", "gsm8k", "human-votes", "humaneval", "math-500", "mbpp", "openbookqa",
    "self-correction-math", "social-iqa",
]  # fmt: skip


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


# ---- what ships


def test_every_shipped_suite_is_one() -> None:
    assert {"words", "alpaca", "mt-bench", "mt-bench-pair", "llmbar", *HUB} <= set(shipped_suites())
    for name, path in shipped_suites().items():
        suite = _parsed(path, {})
        assert suite.name == name and suite.description, name
        assert (suite.data.hub is not None) == (name in HUB), name


def test_the_suites_with_data_here_load_whole() -> None:
    words = load_suite("words")
    assert len(words.items) == len(words.every) == 300 and len({item.group for item in words.items}) == 6
    for name in ("mt-bench", "mt-bench-pair"):
        items = load_suite(name).items
        assert len(items) == 80 and {len(item.later_turns) for item in items} == {1}
        with_references = [item for item in items if item.references]
        assert len(with_references) == 30 and {len(item.references) for item in with_references} == {2}
        assert {item.group for item in with_references} == {"math", "reasoning", "coding"}
        groups = {item.group for item in items}
        assert len(groups) == 8 and set(load_suite(name).suite.temperatures) < groups  # type: ignore[union-attr]
    pairs = load_suite("llmbar").pairs
    assert len(pairs) == 419 and all(len(pair.votes) == 1 for pair in pairs)
    assert len({pair.group for pair in pairs}) == 5


@pytest.mark.parametrize("name", HUB)
def test_a_suite_of_the_hub_says_what_to_do_without_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)  # else the client tries for 24 seconds
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=rf"(?s)^{name}: .*could not be loaded.*Without network.*`--data FILE`"):
        load_suite(name)


CHOICES = {"text": ["one", "two", "three"], "label": ["A", "B", "C"]}


@pytest.mark.parametrize(
    ("name", "row", "asked", "expected"),
    [
        ("arc-easy", {"question": "Which?", "choices": CHOICES, "answerKey": "C"}, "Which?", {"right_choice": 2}),
        (
            "arc-challenge",
            {"question": "Which?", "choices": {**CHOICES, "label": ["1", "2", "3"]}, "answerKey": "2"},
            "Which?",
            {"right_choice": 1, "choices": ("one", "two", "three")},
        ),
        ("openbookqa", {"question_stem": "It is", "choices": CHOICES, "answerKey": "A"}, "It is", {"right_choice": 0}),
        (
            "social-iqa",
            {"context": "K ran.", "question": "Why?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"},
            "K ran. Why?",
            {"right_choice": 2, "choices": ("x", "y", "z")},
        ),
        (
            "gsm8k",
            {"question": "How many?", "answer": "2 + 2 = 4\n#### 4"},
            "How many?\n\nThink step by step, and end with the final number in \\boxed{}.",
            {"answer": "2 + 2 = 4\n#### 4"},
        ),
        (
            "math-500",
            {"problem": "$1+1$?", "solution": "It is 2.", "answer": "2"},
            "$1+1$?\n\nThink step by step, and end with the final answer in \\boxed{}.",
            {"answer": "2"},
        ),
        ("alpaca", {"instruction": "Sing", "output": "La", "generator": "them"}, "Sing", {"output": "La"}),
    ],
)
def test_a_file_instead_of_the_hub_is_read_by_the_same_columns(
    tmp_path: Path, name: str, row: dict[str, Any], asked: str, expected: dict[str, Any]
) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [row])
    (item,) = load_suite(name, [tmp_path], {"data": "mine.jsonl"}).items
    assert item.messages[-1]["content"] == asked
    assert {key: getattr(item, key) for key in expected} == expected
    # A mapping says all by itself; the suite's own way of reading is then gone.
    if name == "social-iqa":
        with pytest.raises(InputError, match="has no answer"):
            load_suite(name, [tmp_path], {"data": {"path": "mine.jsonl"}})


def test_items_that_a_suite_cannot_grade_are_refused(tmp_path: Path) -> None:
    def refused(row: dict[str, Any], suite: str, said: str) -> None:
        write_jsonl(tmp_path / "items.jsonl", [row])
        (tmp_path / "s.yaml").write_text(f"name: s\ndata: items.jsonl\n{suite}")
        with pytest.raises(InputError, match=said):
            load_suite("s.yaml", [tmp_path])

    code = "kind: code\ntests: "
    refused({"prompt": "q"}, "kind: exact_match", "has no answer")
    refused({"prompt": "q"}, "kind: math", "has no answer")
    refused(
        {"prompt": "q", "answer": "d", "choices": ["a", "b"]}, "kind: multiple_choice", "'d' is none of its choices"
    )
    refused(
        {"prompt": "q", "answer": "a", "choices": "a b"}, "kind: multiple_choice", "choices must be a list of texts"
    )
    refused({"turns": ["q", "r"], "answer": "a"}, "kind: exact_match", "several turns, which only a judge can read")
    refused({"turns": ["q", "r", "s"]}, "kind: rating", "has 3 turns; judges' prompts show two at most")
    refused({"prompt": "q"}, code + "humaneval", "is no task of humaneval: it has no column 'entry_point'")
    refused({"prompt": "q", "test": "", "entry_point": "f"}, code + "humaneval", "does not define 'f'")
    refused({"prompt": "q"}, code + "mbpp", "is no task of mbpp: it has no column 'test_list'")
    refused(MBPP, code + "mbpp\nn: 2\nk: 3\ntemperature: 1", "pass@3 needs at least so many programs an item; `n` is 2")
    refused(MBPP, code + "mbpp\nn: 2", "2 programs an item are all the same at temperature 0; set `temperature`")
    refused({"prompt": "q"}, "kind: rating\nsecnds: 3", "unknown key `secnds`; known for kind rating")
    refused({"prompt": "q"}, "kind: ratings", "key `kind`")
    refused({"prompt": "q"}, "description: x", "key `kind`")


# ---- choices by what is written


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("the correct answer is answer2", 1),
        ("Answer 3", 2),
        ("ANSWER1: because answer2 is wrong", 0),
        ("2", 1),
        (" (2) two", 1),
        ("3. three", 2),
        ("Answer: 2", 1),
        ("The answer is 2.", 1),
        ("I take option (3).", 2),
        ("It is two", None),
        ("answer0", None),
        ("answer4", None),
        ("answer 12", None),
        ("10", None),
        ("2nd", None),
        ("-1", None),
        ("I think 2", None),
        ("", None),
        ("answer" + "9" * 5000, None),  # Python's int refuses as many digits
        ("0" * 5000 + "1", None),
    ],
)
def test_the_choice_that_an_answer_names_first(text: str, place: int | None) -> None:
    assert named_choice(text, 3) == place


@given(st.text(alphabet="answerANSWER 0123456789().²٣\n", max_size=40), st.integers(0, 5))
def test_whatever_is_written_names_one_of_the_choices_or_none(text: str, choices: int) -> None:
    place = named_choice(text, choices)
    assert place is None or 0 <= place < choices


# ---- graded answers: what the policy says is given here, the checkers are the real ones


NOBODY = Policy("p", "nowhere", "digest")


class Answering(Inference):
    """Steps as usual, but the policy's answers are given: by item id, one text for each sample (None: too long for its
    context; a text that ends with "…" is truncated); and the judge's, by question id."""

    def __init__(self, folder: Path, answers: Mapping[str, Sequence[str] | None] | None = None) -> None:
        values = {"method": "evaluate", "output": str(folder), "evaluate": ["words"]}
        recipe = make_recipe({**values, "sampling": {"backend": "transformers"}})
        super().__init__(recipe, Store(folder / "steps"), EventLog(folder), quiet())
        self.answers = answers
        self.shown: dict[str, Sequence[Message]] = {}
        self.verdicts: Callable[[str], str | None] = lambda id: ""

    def rendered_for(
        self, policy: Policy, questions: Mapping[str, Sequence[Message]], new_tokens: int, label: str
    ) -> list[RenderedPrompt]:
        if self.answers is None:
            return super().rendered_for(policy, questions, new_tokens, label)
        self.shown = dict(questions)
        return [RenderedPrompt(id, (1,), "") for id in questions if self.answers[id] is not None]

    def draw(self, policy: Policy, prompts: Sequence[RenderedPrompt], label: str, **options: Any) -> Responses:
        if self.answers is None:
            return super().draw(policy, prompts, label, **options)
        found = {}
        for prompt in prompts:
            texts = self.answers[prompt.id] or ()
            assert len(texts) == options["n"]
            finishes = ["length" if text.endswith("…") else "stop" for text in texts]
            found[prompt.id] = [
                Response(prompt.id, i, (5,), finish, text)
                for i, (text, finish) in enumerate(zip(texts, finishes, strict=True))
            ]
        return Responses({prompt.id: prompt for prompt in prompts}, found)

    def ask(
        self, policy: Policy, questions: Mapping[str, Sequence[Message]], new_tokens: int, label: str
    ) -> dict[str, Written]:
        self.shown = dict(questions)
        return {id: Written(text, 30, 2) for id in questions if (text := self.verdicts(id)) is not None}


@pytest.fixture
def graded_by(tmp_path: Path) -> Iterator[Callable[..., tuple[Outcome, Answering]]]:
    """`graded_by(suite, rows, answers)`: the outcome, one item for each row, whose ids are "0", "1", ..."""
    opened: list[EventLog] = []

    def grade(suite: str, rows: list[dict[str, Any]], answers: list[list[str] | None]) -> tuple[Outcome, Answering]:
        folder = tmp_path / f"run-{len(opened)}"
        folder.mkdir()
        write_jsonl(folder / "items.jsonl", [{**row, "id": str(i)} for i, row in enumerate(rows)])
        (folder / "s.yaml").write_text(f"name: s\ndata: items.jsonl\n{suite}")
        loop = Answering(folder, {str(i): texts for i, texts in enumerate(answers)})
        opened.append(loop.events)
        return answer_outcome(loop, load_suite("s.yaml", [folder]), NOBODY), loop

    yield grade
    for log in opened:
        log.close()


Grade = Callable[..., tuple[Outcome, Answering]]


def test_short_answers(graded_by: Grade) -> None:
    rows = [{"prompt": "q", "answer": "Two words"}] * 5
    answers = [["two  WORDS."], ["three words"], ["two words…"], None, ["Answer: two words"]]
    outcome, _ = graded_by("kind: exact_match", rows, answers)
    assert outcome.values == [1.0, 0.0, 0.0, 0.0, 0.0] and outcome.mean() == 0.2
    assert outcome.failures == {"truncated": 1, "prompt too long": 1}
    outcome, _ = graded_by("kind: exact_match\nnormalize: [after_answer, lower, final_period, strip]", rows, answers)
    assert outcome.values == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_choices_by_generation_are_shown_with_numbers_and_read(graded_by: Grade) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "Which?", "choices": CHOICES, "answer": "B"}] * 6
    answers = [["the correct answer is answer2"], ["answer1"], ["two"], ["answer2…"], None, ["answer7"]]
    outcome, loop = graded_by("kind: multiple_choice\nby: generation", rows, answers)
    assert outcome.values == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert outcome.failures == {"truncated": 1, "prompt too long": 1, "names no choice": 2}
    assert loop.shown["0"][-1]["content"] == (
        "Please choose the correct answer to the question: Which?\n\nAnswer1: one Answer2: two Answer3: three\n\n"
        "Answer format: answer1/answer2/answer3"
    )


def test_choices_too_long_for_the_context_are_wrong_and_counted(tmp_path: Path, tiny_policy: Policy) -> None:
    items = [
        Prompt(str(n), ({"role": "user", "content": "Pick"},), "a", None, ("a", "b" * size), 0)
        for n, size in enumerate((3, 600))
    ]
    suite = MultipleChoice(name="s", kind="multiple_choice", data="x")  # type: ignore[arg-type]
    loop = Answering(tmp_path)
    outcome = answer_outcome(loop, Loaded(suite, tmp_path, items, items, []), tiny_policy)
    assert outcome.values[1] == 0.0 and outcome.failures == {"prompt too long": 1}
    with pytest.raises(InputError, match="all 1 items are too long for M0's 512 tokens"):
        answer_outcome(loop, Loaded(suite, tmp_path, items, items[1:], []), tiny_policy)
    loop.events.close()


def test_mathematics_is_checked_by_math_verify(graded_by: Grade) -> None:
    rows = [{"prompt": "q", "answer": answer} for answer in ("2 + 2 = 4\n#### 4", "\\frac{1}{2}", "4", "4", "4", "4")]
    answers = [
        ["It is \\boxed{4}."],
        ["So \\boxed{0.5}"],
        ["\\boxed{5}"],
        ["I do not know"],
        ["First, 2 + 2 is \\boxed{4}, and then…"],
        None,
    ]
    outcome, _ = graded_by("kind: math", rows, answers)
    assert outcome.values == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0] and "missing" not in outcome.figures
    assert outcome.failures == {"no answer found": 1, "truncated": 1, "prompt too long": 1}


def test_what_the_checker_cannot_read_is_missing_and_too_much_of_it_ends_the_evaluation(graded_by: Grade) -> None:
    rows = [{"prompt": "q", "answer": "4"}] * 3 + [{"prompt": "q", "answer": ""}]
    answers = [["\\boxed{4}"], ["\\boxed{4}"], ["\\boxed{3}"], ["\\boxed{4}"]]
    outcome, _ = graded_by("kind: math\nmax_missing: 0.25", rows, answers)
    assert outcome.values == [1.0, 1.0, 0.0, None] and outcome.mean() == pytest.approx(2 / 3)
    why = "the checker cannot read the reference answer"
    assert outcome.figures == {"missing": {why: 1}} and outcome.failures == {}
    with pytest.raises(RunFailed, match=f"s: 1 of 4 judgements are missing \\({why}: 1\\), and 10% are allowed"):
        graded_by("kind: math", rows, answers)


def test_mathematics_without_math_verify_is_refused_before_anything_is_sampled(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    write_jsonl(tmp_path / "math.jsonl", [{"prompt": "1 + 1?", "answer": "2"}])
    (tmp_path / "math.yaml").write_text("name: m\nkind: math\ndata: math.jsonl\n")
    values = {
        "method": "evaluate",
        "model": str(tiny_model),
        "output": str(tmp_path / "run"),
        "evaluate": ["math.yaml"],
    }
    recipe = make_recipe({**values, "sampling": {"backend": "transformers"}}, folder=tmp_path)
    with pytest.raises(InputError, match=r"m: answers are checked by math-verify: pip install"):
        run(recipe, quiet())
    assert not (tmp_path / "run" / "steps").exists()


ADD = 'def add(a, b):\n    """ The sum. """\n'
HUMANEVAL = {
    "task_id": "Own/0",
    "prompt": ADD,
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
MBPP = {
    "task_id": 9,
    "prompt": "Write a function to add.",
    "text": "Write a function to add.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
}
RIGHT, WRONG, ENDLESS = (
    f"```python\ndef add(a, b):\n    {body}\n```" for body in ("return a + b", "return a - b", "while True: pass")
)


@needs_sandbox
@pytest.mark.parametrize(("tests", "row"), [("humaneval", HUMANEVAL), ("mbpp", MBPP)])
def test_programs_pass_at_k(graded_by: Grade, tests: str, row: dict[str, Any]) -> None:
    answers = [[RIGHT, RIGHT], [WRONG, RIGHT], [WRONG, "I cannot."], None]
    suite = f"kind: code\ntests: {tests}\nn: 2\ntemperature: 0.8\n"
    outcome, loop = graded_by(suite, [row] * 4, answers)
    assert outcome.values == [1.0, 0.5, 0.0, 0.0]  # pass@1
    assert outcome.failures == {"program failed": 3, "prompt too long": 1}
    assert ("def add" if tests == "humaneval" else "assert add(1, 2) == 3") in loop.shown["0"][-1]["content"]
    outcome, _ = graded_by(suite + "k: 2\n", [row] * 4, answers)
    assert outcome.values == [1.0, 1.0, 0.0, 0.0]


@needs_sandbox
def test_a_program_that_never_ends_is_wrong_and_says_so(graded_by: Grade) -> None:
    outcome, _ = graded_by(
        "kind: code\ntests: humaneval\nseconds: 0.5\n", [HUMANEVAL] * 2, [[ENDLESS], ["    return a + b"]]
    )
    assert outcome.values == [0.0, 1.0] and outcome.failures == {"program timed out": 1}


# ---- whole evaluations of a model that answers junk


@needs_sandbox
def test_a_random_models_answers_are_wrong_by_reason(tmp_path: Path, tiny_model: Path) -> None:
    # It ends no turn within six tokens, but a program that was cut is run all the same.
    write_jsonl(tmp_path / "math.jsonl", [{"prompt": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)])
    write_jsonl(tmp_path / "code.jsonl", [{**MBPP, "task_id": n} for n in range(2)])
    choices = [{"prompt": f"Pick {n}", "choices": ["a", "b"], "answer": "a"} for n in range(3)]
    write_jsonl(tmp_path / "choices.jsonl", [*choices, {**choices[0], "prompt": "x" * 600}])
    (tmp_path / "math.yaml").write_text("name: m\nkind: math\ndata: math.jsonl\nmax_new_tokens: 6\n")
    (tmp_path / "code.yaml").write_text(
        "name: c\nkind: code\ntests: mbpp\ndata: {path: code.jsonl, fields: {id: task_id}}\nmax_new_tokens: 6\n"
        "n: 2\ntemperature: 1.0\n"
    )
    (tmp_path / "choices.yaml").write_text(
        "name: w\nkind: multiple_choice\nby: generation\ndata: choices.jsonl\nmax_new_tokens: 6\n"
    )
    values = {
        "method": "evaluate",
        "model": str(tiny_model),
        "output": str(tmp_path / "run"),
        "evaluate": ["math.yaml", {"suite": "code.yaml", "limit": 1}, "choices.yaml"],
        "sampling": {"backend": "transformers"},
    }
    recipe: Recipe = make_recipe(values, folder=tmp_path)
    result = run(recipe, quiet())
    found = {event["suite"]: event for event in result.events if event["event"] == "evaluation"}
    assert [(name, one["value"], one["n"]) for name, one in found.items()] == [("m", 0, 3), ("c", 0, 1), ("w", 0, 4)]
    assert found["m"]["failures"] == {"truncated": 3}
    assert found["c"]["failures"] == {"program failed": 2} and found["c"]["metric"] == "pass@1"
    assert found["w"]["failures"] == {"truncated": 3, "prompt too long": 1}
    assert 0 == found["m"]["low"] < found["m"]["high"] < 1


# ---- MT-Bench


@pytest.fixture(scope="session")
def talking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for MT-Bench's questions, whose answers often end."""
    folder = save_tiny_model(tmp_path_factory.mktemp("talking") / "talking", seed=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[2] *= 3
    model.config.max_position_embeddings = 4096
    model.save_pretrained(folder)
    return folder


SINGLE = load_rubric("mt-bench-single", [])


def rated(
    folder: Path, policy: Policy, verdicts: Callable[[str], str | None], change: dict[str, Any] | None = None
) -> tuple[Outcome, Answering]:
    loop = Answering(folder)
    loop.verdicts = verdicts
    loaded = load_suite("mt-bench", [], {"max_new_tokens": 5, **(change or {})})
    try:
        return rate(loop, loaded, policy, Judge(SINGLE, Reader(), policy)), loop
    finally:
        loop.events.close()


def test_mt_benchs_second_turn_goes_on_token_for_token(tmp_path: Path, talking_model: Path) -> None:
    policy = resolve_policy(str(talking_model), "talking")
    outcome, loop = rated(tmp_path, policy, lambda id: "Fine. Rating: [[7]]" if id.endswith("|1") else "[[4]]")
    items = {item.id: item for item in load_suite("mt-bench").items}

    steps = [step for step in loop.store.all() if step.manifest["step"] == "sample"]
    turns: dict[int, dict[str, tuple[list[int], list[int], str]]] = {1: {}, 2: {}}
    temperatures: dict[str, float] = {}
    for step in steps:
        turn = int(step.manifest["label"].partition("turn ")[2][0])
        prompts = {row["prompt_id"]: row["prompt_ids"] for row in read_rows(step.folder / "inputs" / "prompts.arrow")}
        for row in step.rows():
            turns[turn][row["prompt_id"]] = (prompts[row["prompt_id"]], row["ids"], row["finish"])
            temperatures[row["prompt_id"]] = step.manifest["options"]["temperature"]
        assert step.manifest["options"]["max_new_tokens"] == 5
    assert len(turns[1]) == len(turns[2]) == 80
    assert {finish for _, _, finish in turns[1].values()} == {"stop", "length"}
    for id, (prompt, answer, finish) in turns[1].items():
        second = turns[2][id][0]
        assert second[: len(prompt) + len(answer)] == [*prompt, *answer]
        # The tokenizer writes a byte a token, so the rest can be read by itself: an answer that was cut is closed.
        text = bytes_of(talking_model, second[len(prompt) + len(answer) :])
        end = "<|im_end|>" if finish == "length" else ""
        said = items[id].later_turns[0]
        assert text == f"{end}\n<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
    expected = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
    assert temperatures == {id: expected.get(str(item.group), 0.0) for id, item in items.items()}

    # What the judge is shown: the references where there are any, and both turns in the second.
    assert len(loop.shown) == 160
    for id, item in items.items():
        first, second_shown = (str(loop.shown[f"{id}|{turn}"][-1]["content"]) for turn in (1, 2))
        assert item.references[0] in first if item.references else "Reference" not in first, id
        assert all(text in second_shown for text in (item.messages[-1]["content"], item.later_turns[0])), id
        assert all(reference in second_shown for reference in item.references)

    # 7 and 4 everywhere: 5.5, in every category.
    assert outcome.values == [5.5] * 80 and outcome.interval() == pytest.approx((5.5, 5.313, 5.687), abs=1e-3)
    figures = outcome.figures["rating"]
    assert {turn: one["value"] for turn, one in figures["turns"].items()} == {"1": 7.0, "2": 4.0}
    groups = graded(list(items.values()), outcome.values)
    assert len(groups) == 8 and all(one == {"value": 5.5, "n": 10} for one in groups.values())
    assert (figures["low"], figures["high"], figures["missing"], outcome.failures) == (1, 10, {}, {})
    assert figures["truncated"] == sum(finish == "length" for turn in turns.values() for _, _, finish in turn.values())


def bytes_of(model: Path, ids: list[int]) -> str:
    from selfimprove.models.policy import _tokenizer

    return str(_tokenizer(str(model), False).decode(ids, skip_special_tokens=False))


def test_ratings_are_averaged_over_turns_items_and_categories(tmp_path: Path, talking_model: Path) -> None:
    policy = resolve_policy(str(talking_model), "talking")
    items = load_suite("mt-bench").items
    # The k-th item of a category gets k in the first turn and 10 in the second; three verdicts cannot be read.
    number = {item.id: 1 + n % 10 for n, item in enumerate(items)}
    unread = {f"{items[0].id}|1", f"{items[1].id}|2", f"{items[2].id}|2"}

    def verdict(id: str) -> str | None:
        item, _, turn = id.partition("|")
        if id in unread:
            return "no number" if turn == "1" else "[[11]]"
        return f"[[{number[item] if turn == '1' else 10}]]"

    outcome, _ = rated(tmp_path, policy, verdict)
    assert outcome.values[:4] == [10.0, 2.0, 3.0, 7.0]  # one turn is left of the first three; (4 + 10) / 2
    groups = graded(items, outcome.values)
    # k = 1 ... 10 beside 10: the mean is (5.5 + 10) / 2 = 7.75
    assert groups["math"] == {"value": 7.75, "n": 10}
    assert groups["writing"]["value"] == pytest.approx((10 + 2 + 3 + sum((k + 10) / 2 for k in range(4, 11))) / 10)
    figures = outcome.figures["rating"]
    assert figures["missing"] == {"the verdict has no rating": 1, "the rating is out of bounds": 2}
    assert figures["turns"]["1"]["value"] == pytest.approx((440 - 1) / 79) and figures["turns"]["1"]["n"] == 79
    assert figures["turns"]["2"]["value"] == 10.0 and figures["turns"]["2"]["n"] == 78
    assert figures["examples"][0]["why"] == "the verdict has no rating" and figures["examples"][0]["rating"] == 10.0


def test_a_judge_that_fails_at_every_second_turn_ends_the_evaluation(tmp_path: Path, talking_model: Path) -> None:
    policy = resolve_policy(str(talking_model), "talking")
    with pytest.raises(
        RunFailed, match=r"mt-bench: 80 of 160 judgements are missing \(longer than the judge's context"
    ):
        rated(tmp_path, policy, lambda id: "[[9]]" if id.endswith("|1") else None)


def test_an_answer_that_could_not_be_given_has_the_lowest_rating(tmp_path: Path, tiny_model: Path) -> None:
    write_jsonl(
        tmp_path / "items.jsonl",
        [
            {"id": "a", "turns": ["Say a", "Again"]},
            {"id": "b", "turns": ["Say b", "x" * 500]},
            {"id": "c", "turns": ["x" * 600, "Again"]},
        ],
    )
    policy = resolve_policy(str(tiny_model), "tiny")
    loop = Answering(tmp_path / "run")
    loop.verdicts = lambda id: "[[8]]"
    loaded = load_suite("mt-bench", [tmp_path], {"data": "items.jsonl", "max_new_tokens": 5})
    outcome = rate(loop, loaded, policy, Judge(SINGLE, Reader(), policy))
    assert outcome.values == [8.0, 4.5, 1.0] and outcome.failures == {"prompt too long": 3}
    assert list(loop.shown) == ["a|1", "a|2", "b|1"]
    loop.events.close()


def test_a_rating_of_one_is_no_share() -> None:
    ratings = Outcome(NOBODY, [1.0] * 10, {}, {"rating": {}})
    assert ratings.interval() == (1.0, 1.0, 1.0)
    right = Outcome(NOBODY, [1.0] * 10).interval()  # Wilson: 10 / (10 + 1.96^2)
    assert right[1] == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6) and right[2] == 1.0
    assert not math.isnan(Outcome(NOBODY, [0.5, None, 1.0]).mean())
