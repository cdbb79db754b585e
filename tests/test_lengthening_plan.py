"""What Self-Lengthen says before it samples: what fits the context, what a round asks for, what it costs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import selfimprove
from selfimprove.artefacts import Store
from selfimprove.cli.check import check_recipe
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.loop.dry import walk
from selfimprove.loop.loop import Loop
from selfimprove.methods.self_lengthen import texts as lengthening
from selfimprove.methods.self_lengthen.cost import lengthening_calls, one_try
from selfimprove.methods.self_lengthen.plan import Room
from selfimprove.methods.self_lengthen.questions import extend
from selfimprove.models.chat import render_prompt
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.shipped import shipped_suites

MakeRecipe = Callable[..., Recipe]


def shown(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> str:
    out = io.StringIO()
    check_recipe(recipe, Console(file=out, width=200))
    return " ".join((out.getvalue() + capsys.readouterr().err).split())


# ---- what fits


def test_the_room_by_hand() -> None:
    room = Room(context=1000, new=300, question=100, training=700, word=1.25)
    assert room.longest == 300 + 200  # an answer behind two thirds of one
    assert room.extendable == 1000 - 100 - 500
    assert room.asked == min(100 + 2 * 500 - 300, 1000 - 300)
    assert room.example == 700  # of 100 + 300 + 500
    assert room.words(500) == 400
    # With 270 new tokens the longest text of 450 is extended too: 100 + 450 + 180 + 270.
    assert room.best_new == 270


@given(st.integers(50, 10**5), st.integers(1, 10**4))
def test_what_is_advised_is_the_largest_that_fits(context: int, question: int) -> None:
    def left(new: int) -> int:
        room = Room(context, new, question, training=context, word=1.0)
        return room.extendable - room.longest

    best = Room(context, 1, question, training=context, word=1.0).best_new
    if best > 0:
        assert left(best) >= 0 and left(best + 2) < 0


def test_a_question_that_cannot_be_asked_is_refused_with_the_numbers(lengthen_recipe: MakeRecipe) -> None:
    recipe = lengthen_recipe(sampling={"max_new_tokens": 400})
    numbers = r"a question about a text, without the text, has \d+ tokens, and 400 new ones .* context of 512"
    with pytest.raises(InputError, match=rf"sampling\.max_new_tokens: {numbers}"):
        check_recipe(recipe, Console(file=io.StringIO()))


def test_lengths_that_do_not_fit_are_warned_of(lengthen_recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(lengthen_recipe(self_lengthen={"high": 2000}), capsys)
    assert "no text gets longer than 66 tokens" in text  # 40 new ones behind 26
    assert "warning: texts of 2,000 words (self_lengthen.high) are not always extended: " in text
    assert "warning: to learn to extend to 2,000 words" in text and "room for 512 (training.max_length" in text


def test_what_does_not_fit_is_counted_and_not_cut(lengthen_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(lengthening, "lengthening_context", lambda loop, policy: 300)
    draw = Loop.draw

    def watched(loop: Any, policy: Any, prompts: Any, label: str, **options: Any) -> Any:
        asked.extend(len(prompt.prompt_ids) + options["max_new_tokens"] for prompt in prompts)
        return draw(loop, policy, prompts, label, **options)

    monkeypatch.setattr(Loop, "draw", watched)
    with pytest.raises(RunFailed, match=r"no room in the model's context: [1-9]"):
        selfimprove.run(lengthen_recipe(), Progress(Console(quiet=True)))
    assert asked and max(asked) <= 300


# ---- what it costs


def test_what_a_round_asks_for_by_hand(lengthen_recipe: MakeRecipe) -> None:
    options = {"instructions": 10, "instruct_tries": 3, "initial": 2, "initial_tries": 4, "extensions": 3}
    recipe = lengthen_recipe(self_lengthen={**options, "extension_tries": 5, "micro_iterations": 2})
    assert lengthening_calls(recipe, prompts=4) == (30, 10 * 2 * 4, 60 * 5 * 2 * 2, 60)
    assert lengthening_calls(one_try(recipe), prompts=4) == (10, 10 * 2, 60 * 2 * 2, 60)
    none = lengthen_recipe(self_lengthen={**options, "instructions": 0, "extension_tries": 1, "micro_iterations": 1})
    assert lengthening_calls(none, prompts=4) == (0, 8 * 4, 8 * 3 * 2, 24)


def test_the_tokens_by_hand(lengthen_recipe: MakeRecipe) -> None:
    recipe = one_try(lengthen_recipe(rounds=2, sft={"epochs": 2}, training={"max_length": 400}))
    quiet = Progress(Console(quiet=True))
    loop = Loop(recipe, Store(Path(recipe.output) / "steps"), EventLog(Path(recipe.output), wait=True), quiet)
    instruction = max(len(prompt.prompt_ids) for prompts in loop.data.round_prompts for prompt in prompts)
    about = instruction + len(render_prompt(loop.tokenizer, extend("", "")))
    # A round: 4 prompts, 8 answers of 40, 8 texts of 26 + 40; 2 micro-iterations of 2 questions each.
    opening, text = 26, 66
    enriched, extended = min(about + text // 2, 512 - 40), min(about + text + opening, 512 - 40)
    outlined, longer, answered = min(about + 40 + text, 400), instruction + text, instruction + 40
    found = walk(loop).tokens()
    assert found.sampled == 2 * (8 + 32) * 40
    assert found.read == 2 * (8 * instruction + 16 * (enriched + extended))
    # The last round's Extender has nothing left to extend, and is not trained.
    assert found.trained == 2 * (2 * 8 * longer + 8 * outlined + 2 * 8 * (answered + longer))


def test_the_estimate_is_of_the_methods_own_steps(
    lengthen_recipe: MakeRecipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = lengthen_recipe()
    text = shown(recipe, capsys)
    assert "each round asks for 8 to 32 answers, 32 to 128 extensions: with one try, and with all tries" in text
    assert "question to the Extender for the whole text" in text and "(an answer, as it was sampled)" in text
    assert "time, if all passes at once" in text


# ---- what is evaluated is never trained on


def test_a_query_of_the_suite_is_refused_as_an_instruction(lengthen_recipe: MakeRecipe, tiny_data: Path) -> None:
    lines = (shipped_suites()["longen"].parent / "longen" / "queries.jsonl").read_text().splitlines()
    queries = sorted((json.loads(line)["query"] for line in lines), key=lambda query: len(query.encode()))
    write_jsonl(tiny_data / "instructions.jsonl", [{"prompt": query} for query in queries[:4]])
    suites = [{"suite": "longen", "max_new_tokens": 6}]
    with pytest.raises(GateError, match="evaluation prompts are in the training data"):
        check_recipe(lengthen_recipe(evaluate=suites), Console(file=io.StringIO()))
