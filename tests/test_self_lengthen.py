"""Self-Lengthen end to end on a tiny model: texts that grow, what is trained of them, and a kill between two tries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import WORDS
from rich.console import Console

import selfimprove
from selfimprove.artefacts import read_rows
from selfimprove.data.words import count_words
from selfimprove.errors import InputError, RunFailed
from selfimprove.methods.self_lengthen import texts as lengthening
from selfimprove.methods.self_lengthen.growth import growth_figures
from selfimprove.methods.self_lengthen.text import Extended, Text
from selfimprove.models.policy import load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.summary import stage_of
from selfimprove.report.terminal import Progress


def run(recipe: Recipe) -> Any:
    return selfimprove.run(recipe, Progress(Console(quiet=True)))


def events_of(result: Any, kind: str) -> list[dict[str, Any]]:
    return [event for event in result.events if event["event"] == kind]


def test_texts_grow_and_both_roles_and_the_final_model_are_trained(lengthen_recipe: Callable[..., Recipe]) -> None:
    recipe = lengthen_recipe(rounds=2)
    result = run(recipe)
    lengths = events_of(result, "lengths")[0]
    assert lengths["extended"]["mean"] > lengths["initial"]["mean"] and lengths["growth"] > 1
    filters = {event["what"]: event for event in events_of(result, "filter") if event["round"] == 1}
    assert filters["initial"]["wanted"] == 8 and 0 < filters["extended"]["kept"] <= filters["extended"]["wanted"]
    trained = events_of(result, "training")
    assert [event["role"] for event in trained] == ["Generator", "Extender", "Generator", "final"]
    base, extender_start, second_start, final_start = (event["start_digest"] for event in trained)
    assert base == extender_start == final_start != second_start == trained[0]["policy_digest"]
    assert result.policy.name == "M4"
    tokenizer = load_tokenizer(resolve_policy(recipe.model))
    folders = [event["folder"] for event in events_of(result, "step") if event["step"] == "sft"]
    generator, extender, _, final = (
        read_rows(Path(recipe.output) / "steps" / folder / "inputs" / "examples.arrow") for folder in folders
    )
    texts = [json.loads(line) for line in (Path(recipe.output) / "texts.jsonl").read_text().splitlines()]
    assert {(text["round"], text["role"]) for text in texts} == {
        (r, w) for r in (1, 2) for w in ("initial", "extended")
    }
    assert all(text["instruction"] and count_words(text["response"]) == text["words"] for text in texts)
    shown = [tokenizer.decode(rows[0]["prompt_ids"]) for rows in (generator, extender, final)]
    assert "outline" not in shown[0] and "outline" in shown[1] and "words" in shown[2]
    page = Path(result.report).read_text()
    assert "Did the texts grow?" in page and "Words by round" in page and "grew by repetition alone" in page
    sampled = {event["label"] for event in events_of(result, "step") if event["step"] == "sample"}
    assert {stage_of({"step": "sample", "label": label}) for label in sampled} == {"sampling"}
    again = run(recipe)
    assert all(event["reused"] for event in events_of(again, "step")[len(events_of(result, "step")) :])


def test_roles_may_begin_anew_and_the_last_generator_may_answer_more(lengthen_recipe: Callable[..., Recipe]) -> None:
    recipe = lengthen_recipe(rounds=2, self_lengthen={"restart": True, "collect": 3})
    result = run(recipe)
    assert len({event["start_digest"] for event in events_of(result, "training")}) == 1
    texts = [json.loads(line) for line in (Path(recipe.output) / "texts.jsonl").read_text().splitlines()]
    collected = [text for text in texts if text["role"] == "collected"]
    assert 1 <= len(collected) <= 3 and {text["round"] for text in collected} == {3}
    asked = {text["instruction"] for text in texts if text["role"] != "collected"}
    assert not asked & {text["instruction"] for text in collected}  # no round had them
    with pytest.raises(InputError, match=r"self_lengthen\.collect: 9 prompts that no round has"):
        run(lengthen_recipe(rounds=2, self_lengthen={"collect": 9}))


def test_authors_decoding_reaches_the_sampler_and_stop_texts_are_cut(lengthen_recipe: Callable[..., Recipe]) -> None:
    stop = next(word for word in WORDS)[:2]
    recipe = lengthen_recipe(sampling={"top_k": 20, "repetition_penalty": 1.1, "stop": [stop]})
    result = run(recipe)
    texts = [json.loads(line) for line in (Path(recipe.output) / "texts.jsonl").read_text().splitlines()]
    assert texts and not any(stop in text["response"] for text in texts if text["role"] == "initial")
    (step, *_) = [event for event in events_of(result, "step") if event["step"] == "sample"]
    options = json.loads((Path(recipe.output) / "steps" / step["folder"] / "manifest.json").read_text())["options"]
    assert (options["top_k"], options["repetition_penalty"], options["stop"]) == (20, 1.1, [stop])


def test_growth_by_repetition_alone_is_counted() -> None:
    answer = Text("1", "Tell.", "a b c d e f g h i j.")
    longer = ["a b c d e f g h i j. " * 3, "a b c d e f g h i j k l m n o p q r s t u v."]
    found = growth_figures([answer], [Extended(answer, Text(one, "Tell.", one)) for one in longer], 1.2)
    assert found["texts"] == [(10, 7, 0)]
    # Said three times, an answer has only the runs over its ends more, which are three.
    assert found["pairs"] == [((10, 7, 0), (30, 10, 20)), ((10, 7, 0), (22, 19, 0))]
    assert found["growth"] == (3 + 2.2) / 2 and found["only_repetition"] == 0
    assert growth_figures([answer], [Extended(answer, Text("1", "Tell.", longer[0]))], 1.5)["only_repetition"] == 1


def test_a_longer_text_begins_with_the_forced_beginning(
    lengthen_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    written = lengthening._written

    def watched(loop: Any, policy: Any, questions: Any, label: str) -> Any:
        found = written(loop, policy, questions, label)
        asked.extend((questions[id][1], text) for id, (text, _) in found.items() if questions[id][1])
        return found

    monkeypatch.setattr(lengthening, "_written", watched)
    run(lengthen_recipe())
    assert asked and all(text.startswith(beginning) for beginning, text in asked)


def test_what_failed_is_drawn_anew_and_a_kill_loses_nothing(
    lengthen_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = lengthen_recipe(self_lengthen={"micro_iterations": 1})
    whole = run(lengthen_recipe(self_lengthen={"micro_iterations": 1}, output=recipe.output + "-whole"))
    calls, written = [0], lengthening._written

    def killed(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return written(*args)

    with monkeypatch.context() as patch:
        patch.setattr(lengthening, "_written", killed)
        with pytest.raises(KeyboardInterrupt):
            run(recipe)
    resumed = run(recipe)
    assert resumed.policy.digest == whole.policy.digest
    assert events_of(resumed, "lengths")[-1]["extended"] == events_of(whole, "lengths")[-1]["extended"]


def test_self_instruct_keeps_what_the_model_calls_suitable(
    lengthen_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = lengthen_recipe(self_lengthen={"instructions": 3, "instruct_tries": 2})
    with pytest.raises(RunFailed, match=r"no new instruction passed in 2 tries .*self_lengthen\.instructions=0"):
        run(recipe)
    monkeypatch.setattr(
        lengthening, "normalized", lambda text, steps: "yes"
    )  # the tiny model says neither yes nor no; which of its lines are kept is what is asked here
    monkeypatch.setattr(
        lengthening, "_instruction", lambda text: f"Tell of {text.split()[0] if text else ''} and more."
    )
    result = run(lengthen_recipe(self_lengthen={"instructions": 3, "instruct_tries": 2}))
    found = [event for event in events_of(result, "filter") if event["what"] == "instructions"]
    assert found[0]["kept"] == 0 and 0 < found[-1]["kept"] <= 3


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("3. Write of a cat.\nAnd more", "Write of a cat."),
        ('\n\n "Tell it."', "Tell it."),
        ("- A line", "A line"),
        ("Here is a third one:\n\n3. Write of bees.", "Write of bees."),
        ("1.5 degrees of warming: tell of it.", "1.5 degrees of warming: tell of it."),
        ("**Write an essay** on bees.", "**Write an essay** on bees."),
        ("", ""),
    ],
)
def test_an_instruction_is_the_first_line(text: str, instruction: str) -> None:
    assert lengthening._instruction(text) == instruction


def test_lengths_that_were_not_reached_are_said(lengthen_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RunFailed, match=r"no text of \d+ has 1000 to 1999 words \(the longest has \d+\)"):
        run(lengthen_recipe(self_lengthen={"low": 1000, "high": 2000}))


def test_texts_that_keep_no_rule_of_their_language_are_said(lengthen_recipe: Callable[..., Recipe]) -> None:
    """The model ends its sentences with a full stop of ASCII, which ends no Chinese text."""
    with pytest.raises(RunFailed, match=r"no initial answer is left \(.*ending: \d+.*self_lengthen\.language says"):
        run(lengthen_recipe(self_lengthen={"language": "zh"}))


def test_what_does_not_fit_the_context_is_counted_and_never_cut(lengthen_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises((RunFailed, InputError), match=r"no room|too long"):
        run(lengthen_recipe(sampling={"max_new_tokens": 5000}))


def test_words_of_a_text_are_the_authors() -> None:
    assert lengthening.Text("1", "Tell.", "一二三 four five.").words == count_words("一二三 four five.") == 5


def test_texts_that_grew_too_little_are_counted(lengthen_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(RunFailed, match=r"no text became longer \(.*grew too little: [1-9]"):
        run(lengthen_recipe(self_lengthen={"growth": 50.0}))
