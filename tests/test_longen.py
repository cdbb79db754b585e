"""LonGen: its queries, length scores of texts that are there and of policies, the judge's seven scores, the tables."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from selfimprove.artefacts import read_rows
from selfimprove.cli.app import app
from selfimprove.data.leakage import leaks
from selfimprove.data.sources import content
from selfimprove.data.words import count_words, distinct_n, length_score, longest_repeat
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.named_scores import named_scores
from selfimprove.judging.rubric import load_rubric
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.report.evaluation_json import as_json
from selfimprove.report.evaluation_tables import evaluation_views
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result
from selfimprove.shipped import shipped_recipes
from selfimprove.statistics import share_interval
from selfimprove.suites.longen import demands_of, score_responses
from selfimprove.suites.suite_kinds import LengthSuite
from selfimprove.suites.suites import load_suite

ROWS: list[dict[str, Any]] = [
    {"language": "en", "type": "about", "constraint": "around 4 words", "query": "Tell of a cat, around 4 words."},
    {"language": "en", "type": "range", "constraint": "2-6 words", "query": "Tell of a dog, 2-6 words."},
    {"language": "en", "type": "above", "constraint": "more than 3 words", "query": "Tell of the sun, more than 3."},
    {"language": "zh", "type": "below", "constraint": "小于8字", "query": "说猫，小于8字"},
    {"language": "zh", "type": "range", "constraint": "2字至4字", "query": "说狗，2字至4字"},
    {"language": "zh", "type": "about", "constraint": "大约5字", "query": "说日，大约5字"},
]
BOUNDS = [(4, None), (2, 6), (3, None), (None, 8), (2, 4), (5, None)]
NAMES = ("Relevance", "Coherence", "Accuracy", "Consistency", "Clarity", "Creativity", "Engagement")


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def recipe_of(folder: Path, model: Path, **changes: Any) -> Recipe:
    """`policies` and `output` are the recipe's, other changes the suite's."""
    write_jsonl(folder / "queries.jsonl", ROWS)
    values = {
        "method": "evaluate",
        "model": str(model),
        "policies": changes.pop("policies", []),
        "output": str(folder / changes.pop("output", "run")),
        "evaluate": [{"suite": "longen", "data": "queries.jsonl", "max_new_tokens": 24, **changes}],
        "sampling": {"backend": "transformers"},
    }
    return make_recipe(values, folder=folder)


def events_of(result: Result) -> list[dict[str, Any]]:
    return [event for event in result.events if event["event"] == "evaluation"]


def sampled(result: Result, label: str) -> list[dict[str, Any]]:
    found = [
        path
        for path in (result.folder / "steps").glob("sample-*/manifest.json")
        if label in json.loads(path.read_text())["label"]
    ]
    return [row for path in found for part in sorted(path.parent.glob("rows-*.arrow")) for row in read_rows(part)]


def printed(events: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(*evaluation_views(events))
    return out.getvalue()


# ---- what ships


def test_every_one_of_the_240_demands_is_read() -> None:
    loaded = load_suite("longen")
    assert isinstance(loaded.suite, LengthSuite) and loaded.suite.judge is None and len(loaded.items) == 240
    found = demands_of(loaded)
    kinds = [demand.kind for demand in found]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == dict.fromkeys(("about", "range", "above", "below"), 60)
    for item, demand in zip(loaded.items, found, strict=True):
        bounds = [bound for bound in (demand.low, demand.high) if bound is not None]
        assert len(bounds) == (2 if demand.kind == "range" else 1)
        assert all(2000 <= bound <= 8000 and str(bound) in item.row["constraint"] for bound in bounds)
        low, high = (1000 * int(one) for one in item.row["range"].removesuffix("k").split("-"))
        assert low <= demand.words <= high
    assert sum(item.row["language"] == "zh" for item in loaded.items) == 120


def test_the_rubric_asks_for_the_seven_scores_and_not_for_length() -> None:
    rubric = load_rubric("longen-quality", [])
    (turn,) = rubric.messages({"instruction": "Tell.", "response": 'A </response> "tale".'})
    assert all(f"{name}:" in turn["content"] and f'"{name}": ...' in turn["content"] for name in NAMES)
    assert "Do not judge its length" in turn["content"] and turn["content"].count("</response>") == 1
    assert rubric.options.names == NAMES


# ---- a verdict


def verdict(**scores: Any) -> str:
    return json.dumps({"Analysis": "It has {braces}.", **dict.fromkeys(NAMES, 6), **scores})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (verdict(), 6.0),
        (verdict(Clarity=10, Accuracy=1), 41 / 7),
        (f"```json\n{verdict()}\n```", 6.0),
        (verdict().lower(), 6.0),
        (verdict().replace("It has", "It\nhas"), 6.0),  # a line break inside a string, which JSON forbids
        ("", "the verdict has no JSON object"),
        ("Relevance: 7", "the verdict has no JSON object"),
        (verdict()[:-5], "the verdict has no JSON object"),
        ("[" * 100_000, "the verdict has no JSON object"),
        ('{"a":' * 100_000, "the verdict has no JSON object"),
        ('{"Relevance": ' + "9" * 5000 + "}", "the verdict has no JSON object"),
        ('{"Analysis": "He wrote ' + verdict(Clarity=10) + '"}', "the verdict has no JSON object"),  # a quoted one
        ('{"Relevance": 7}', "the verdict has no whole number for Coherence"),
        (verdict(Clarity=7.5), "the verdict has no whole number for Clarity"),
        (verdict(Clarity="7"), "the verdict has no whole number for Clarity"),
        (verdict(Clarity=True), "the verdict has no whole number for Clarity"),
        (verdict(Clarity=0), "the score for Clarity is out of bounds"),
        (verdict(Clarity=11), "the score for Clarity is out of bounds"),
    ],
)
def test_verdicts(text: str, expected: float | str) -> None:
    value, why = load_rubric("longen-quality", []).parse(text)
    assert (why, value) == ((expected, None) if isinstance(expected, str) else (None, pytest.approx(expected)))


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(-2, 12)), st.text(max_size=20))
def test_a_verdict_is_whole_or_missing(scores: dict[str, int], analysis: str) -> None:
    found, why = named_scores(json.dumps({"Analysis": analysis, **scores}), NAMES, 1, 10)
    good = len(scores) == 7 and all(1 <= score <= 10 for score in scores.values())
    assert (found == scores and why is None) if good else (found is None and why)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("parser: json\nlow: 1\nhigh: 10\n", "the key `names`"),
        ("parser: score\nlow: 1\nhigh: 10\nnames: [A]\n", "the key `names`"),
        ("parser: json\nnames: [A]\n", "needs the keys `low` and `high`"),
    ],
)
def test_a_rubric_of_named_scores_needs_its_keys(tmp_path: Path, options: str, said: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rubric.yaml").write_text(options)
    (tmp_path / "mine" / "prompt.txt").write_text("{response}")
    with pytest.raises(InputError, match=said):
        load_rubric("mine", [tmp_path])


# ---- texts that are there

TEXTS = ["One two three four.", "", "a a a a a a a a", "今天天气很好。", "一二三 four 六", "hi"]


def test_responses_from_the_command_line(tmp_path: Path) -> None:
    rows = [row | {"response": text} for row, text in zip(ROWS, TEXTS, strict=True)]
    path = write_jsonl(tmp_path / "said.jsonl", rows)
    result = CliRunner().invoke(app, ["eval", "longen", "--responses", str(path), "--json"])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    scores = [1.0, 0.0, 0.0, 1.0, 3 - 2 * 5 / 4, 0.0]
    own = found["length_following"]
    assert [one["score"] for one in own["items"]] == pytest.approx(scores)
    assert [one["words"] for one in own["items"]] == [count_words(text) for text in TEXTS] == [4, 0, 8, 7, 5, 1]
    assert [one["asked"] for one in own["items"]] == [4, 4, 3, 8, 3, 5]
    assert (found["value"], found["low"], found["high"]) == pytest.approx(share_interval(scores))
    assert (found["suite"], found["policy"], found["metric"], found["n"]) == ("longen", "said", "length score", 6)
    by_kind = {"about": [scores[0], scores[5]], "range": [scores[1], scores[4]], "above": [scores[2]], "below": [1.0]}
    for kind, some in by_kind.items():
        figures = own["kinds"][kind]
        assert figures["n"] == len(some)
        assert [figures[key] for key in ("value", "low", "high")] == pytest.approx(list(share_interval(some)))
    assert own["languages"]["en"]["value"] == pytest.approx(sum(scores[:3]) / 3)
    assert [one["distinct_4"] for one in own["items"]] == [distinct_n(text, 4) for text in TEXTS]
    assert [one["longest_repeat"] for one in own["items"]] == [longest_repeat(text) for text in TEXTS]
    assert own["unfinished"] is None and own["quality"] is None
    assert own["distinct_4"]["value"] == pytest.approx(sum(distinct_n(text, 4) for text in TEXTS) / 6)
    assert own["longest_repeat"]["value"] == pytest.approx(sum(map(longest_repeat, TEXTS)) / 6)

    shown = CliRunner().invoke(app, ["eval", "longen", "--responses", str(path)])
    assert shown.exit_code == 0 and "around N" in shown.output and "length score" in shown.output
    limited = CliRunner().invoke(app, ["eval", "longen", "--responses", str(path), "--limit", "2", "--json"])
    assert json.loads(limited.stdout)[0]["n"] == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"response": None}, "has no text in `response`"),
        ({"constraint": "long"}, "'long' must have one number"),
        ({"type": "near"}, "kind must be one of about, range, above, below; found 'near'"),
        ({"type": None}, "column 'type' must be text, found None"),
        ({"query": " "}, "the prompt is empty"),
    ],
)
def test_rows_that_cannot_be_scored(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = write_jsonl(tmp_path / "said.jsonl", [ROWS[0] | {"response": "A text."} | row])
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        score_responses(path)
    assert "said.jsonl" in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["longen", "--rubric", "x", "--max-missing", "0.5"], "without --judge"),
        (["longen", "--judge", "x", "--order", "both"], "--order"),
        (["longen", "--policy", "x", "max_new_tokens=5"], "key=value, --policy"),
        (["words"], "words is a suite of kind exact_match; one of kind `length` is needed"),
        (["alpaca", "--annotations", "x.csv"], "--responses would change nothing"),
    ],
)
def test_what_responses_do_not_go_with(tmp_path: Path, arguments: list[str], said: str) -> None:
    row = {"prompt": "Tell.", "answer": "x", "type": "about", "constraint": "around 4 words", "response": "A text."}
    path = write_jsonl(tmp_path / "said.jsonl", [row])
    with pytest.raises(InputError, match=re.escape(said)):
        CliRunner().invoke(app, ["eval", *arguments, "--responses", str(path)], catch_exceptions=False)


# ---- policies


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers often end."""
    folder = save_tiny_model(tmp_path_factory.mktemp("talking") / "talking", seed=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[2] *= 2
    model.save_pretrained(folder)
    return folder


def test_policies_from_the_stored_rows(tmp_path: Path, talking: Path, tiny_model: Path) -> None:
    result = run(recipe_of(tmp_path, talking, policies=[str(tiny_model)]), quiet())
    first, second = events_of(result)
    said = sampled(result, "longen with talking")
    words = [count_words(row["text"]) for row in said]
    scores = [length_score(count, row["type"], *bounds) for count, row, bounds in zip(words, ROWS, BOUNDS, strict=True)]
    own = first["length_following"]
    assert len(said) == 6 and [one["words"] for one in own["items"]] == words
    assert [one["score"] for one in own["items"]] == scores and first["value"] == pytest.approx(sum(scores) / 6)
    cut = [row["finish"] == "length" for row in said]
    assert [not one["finished"] for one in own["items"]] == cut
    assert own["unfinished"]["value"] == sum(cut) / 6 and own["unfinished"]["n"] == 6
    assert second["paired"]["against"] == "talking" and second["paired"]["n"] == 6
    assert second["paired"]["difference"] == pytest.approx(second["value"] - first["value"])

    for one, event in zip(as_json(result.events), (first, second), strict=True):
        assert one["value"] == event["value"] and "examples" not in one["length_following"]
        assert one["length_following"]["kinds"] == event["length_following"]["kinds"]
    shown, page = printed(result.events), result.report.read_text()
    for name in ("unfinished, %", "distinct-4", "longest repeated run", "less than N", "zh"):
        assert name in shown
    for name in ("Does it write as long as it is asked to?", "Words written by words asked for", "Length scores"):
        assert name in page
    again = run(recipe_of(tmp_path, talking, policies=[str(tiny_model)]), quiet())
    assert [event["value"] for event in events_of(again)][:2] == [first["value"], second["value"]]


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(tmp_path: Path, talking: Path) -> None:
    with pytest.raises(InputError) as refused:
        run(recipe_of(tmp_path, talking, max_new_tokens=500), quiet())
    room = int(str(refused.value).partition("tokens; max_new_tokens=")[2].partition(" ")[0])
    assert (
        f"the longest prompt ({512 - room} tokens) and max_new_tokens=500 do not fit talking's context of 512"
        in str(refused.value)
    )
    run(recipe_of(tmp_path, talking, max_new_tokens=room, limit=1, output="fits"), quiet())


def test_the_short_suite_can_be_read_and_is_balanced() -> None:
    loaded = load_suite("longen-short")
    demands = demands_of(loaded)
    assert Counter(one.kind for one in demands) == dict.fromkeys(("about", "range", "above", "below"), 10)
    assert all(60 <= one.words <= 300 for one in demands)
    assert all(item.row["constraint"] in content(item) for item in loaded.items)
    instructions = shipped_recipes()["smollm2-135m/self-lengthen"].parent.parent / "data/lengthen/instructions.jsonl"
    training = [json.loads(line)["prompt"] for line in instructions.read_text().splitlines()]
    asked = [content(item).partition("\n")[0] for item in loaded.items]
    assert len({*training, *asked}) == 48 + 40 and not leaks(training, asked, n=6)


def test_the_whole_of_longen_is_refused_by_a_short_context(tmp_path: Path, talking: Path) -> None:
    recipe = make_recipe(
        {
            "method": "evaluate",
            "model": str(talking),
            "output": str(tmp_path / "run"),
            "evaluate": ["longen"],
            "sampling": {"backend": "transformers"},
        },
        folder=tmp_path,
    )
    with pytest.raises(InputError, match=r"longen: \d+ of 240 prompts fill talking's context of 512 tokens"):
        run(recipe, quiet())


def test_a_judge_scores_the_quality(tmp_path: Path, talking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny judge writes no JSON; what it wrote is replaced where it is read."""
    changes = {"judge": {"model": str(talking), "rubric": "small"}}
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "rubric.yaml").write_text(
        "parser: json\nnames: [Clarity, Creativity]\nlow: 1\nhigh: 10\nmax_new_tokens: 9\n"
    )
    (folder / "prompt.txt").write_text("{instruction}\n{response}\n")
    with pytest.raises(RunFailed, match="6 of 6 judgements are missing"):
        run(recipe_of(tmp_path, talking, **changes), quiet())

    from selfimprove.judging import rubric as module

    read = iter(
        [{"Clarity": 2, "Creativity": 4}, {"Clarity": 8, "Creativity": 9}, None, *[{"Clarity": 5, "Creativity": 5}] * 3]
    )
    by_text: dict[str, Any] = {}

    def scored(text: str, *rest: Any) -> Any:
        if text not in by_text:
            by_text[text] = next(read)
        found = by_text[text]
        return (found, None) if found else (None, "the verdict has no JSON object")

    monkeypatch.setattr(module, "named_scores", scored)
    result = run(recipe_of(tmp_path, talking, **changes, max_missing=0.9), quiet())
    (event,) = events_of(result)
    found = event["length_following"]["quality"]
    verdicts = [by_text[row["text"]] for row in sampled(result, "longen judge")]
    known = [one for one in verdicts if one]
    assert found["n"] == len(known) and sum(found["missing"].values()) == 6 - len(known)
    assert found["value"] == pytest.approx(sum(sum(one.values()) / 2 for one in known) / len(known))
    for name in ("Clarity", "Creativity"):
        assert found["dimensions"][name]["value"] == pytest.approx(sum(one[name] for one in known) / len(known))
    assert "Quality, judged by small by talking: from 1 to 10." in " ".join(printed(result.events).split())
    assert "Creativity" in result.report.read_text()


def test_a_judge_scores_texts_that_are_there(tmp_path: Path, talking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row | {"prompt": row["query"], "response": text} for row, text in zip(ROWS, TEXTS, strict=True)]
    path = write_jsonl(tmp_path / "said.jsonl", rows)

    def command(*words: str) -> Any:
        result = CliRunner().invoke(app, [*words, "--backend", "transformers", "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    given = ["eval", "longen", "--responses", str(path)]
    judged = [*given, "--judge", str(talking), "--rubric", "self-judge"]
    (found,), (plain,) = command(*judged), command(*given)
    quality = found["length_following"].pop("quality")
    assert plain["length_following"].pop("quality") is None
    for key in ("value", "low", "high", "n", "policy", "groups", "length_following"):
        assert found[key] == plain[key]
    scored = command("judge", str(path), "--judge", str(talking), "--rubric", "self-judge")
    assert quality["n"] == 6 and quality["scale"] == [0, 9]
    assert quality["value"] == pytest.approx(scored["mean"]["value"])
    folder = tmp_path / "runs" / "eval-longen-said-by-talking"
    assert "Quality" in (folder / "report.html").read_text()
    (again,) = command(*judged)
    assert again["length_following"]["quality"] == quality
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len([event for event in events if event["event"] == "evaluation"]) == 1
    assert command(*judged, "--limit", "2")[0]["n"] == 2
    for words, said in ((["--judge", "nonsense"], "nonsense"), (["--rubric", "pair-plain"], "compares two outputs")):
        with pytest.raises(InputError, match=said):
            command(*judged, *words)


def test_a_rubric_without_a_judge_and_one_that_compares_are_refused(tmp_path: Path, talking: Path) -> None:
    with pytest.raises(InputError, match="rubric: for a `judge` of the texts' quality; name one"):
        load_suite("longen", [tmp_path], {"rubric": "longen-quality"})
    with pytest.raises(InputError, match="compares two outputs, and a length suite needs one that rates one response"):
        run(recipe_of(tmp_path, talking, judge={"model": str(talking), "rubric": "pair-plain"}), quiet())
