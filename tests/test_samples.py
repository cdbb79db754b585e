"""Every answer of a run is kept with what it is worth, and the page about them finds, counts and compares."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from conftest import WORDS, write_jsonl
from rich.console import Console
from test_rubrics import folder_with

from selfimprove.artefacts import read_rows
from selfimprove.judging.checkers.sandbox import sandbox_problem
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import EventLog, read_events
from selfimprove.report.page import write_report
from selfimprove.report.samples import MOST_CHARACTERS, Sample, samples_of, within, write_samples, write_samples_page
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> \u202egnp.exe \x1b[2J \ud83d"


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def evaluations(result: Result) -> list[dict[str, Any]]:
    return [event for event in result.events if event["event"] == "evaluation"]


# ---- what a run keeps


def test_every_answer_is_the_steps_text_with_the_events_value(tiny_recipe: Callable[..., Recipe]) -> None:
    result = run(tiny_recipe("sft"), quiet())
    assert [event["policy"] for event in evaluations(result)] == ["M0", "M1"]
    for event in evaluations(result):
        found = samples_of(result.folder, event)
        assert [one.value for one in found] == event["values"]
        assert [(one.prompt, one.reference) for one in found] == [(f"Name {word}", word) for word in WORDS[:6]]
        step = next(
            one
            for one in result.events
            if one["event"] == "step" and one["step"] == "sample" and one["label"] == f"tiny with {event['policy']}"
        )
        (rows,) = (result.folder / "steps" / step["folder"]).glob("rows-*.arrow")
        drawn = {row["prompt_id"]: row for row in read_rows(rows)}
        for one in found:
            assert one.text == drawn[one.id]["text"]
            assert one.why == ("truncated" if drawn[one.id]["finish"] == "length" else "")
    assert 'href="samples.html"' in (result.folder / "report.html").read_text()
    before = {path.name: path.read_bytes() for path in (result.folder / "samples").iterdir()}
    run(tiny_recipe("sft"), quiet())
    assert before == {path.name: path.read_bytes() for path in (result.folder / "samples").iterdir()}


def suites(folder: Path) -> list[dict[str, Any]]:
    """One of each kind that needs no judge, sandbox or further package."""
    words = [{"prompt": f"Tell of {word}.", "answer": word, "choices": [word, "x", "yy"]} for word in WORDS[:4]]
    demands = {"type": "about", "constraint": "around 5 words"}
    write_jsonl(folder / "held.jsonl", [{**row, **demands} for row in words])
    write_jsonl(folder / "numbers.jsonl", [{"prompt": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)])
    (folder / "own.py").write_text(
        "def good(prompt, response):\n    if 'cat' in prompt:\n        raise ValueError\n    return len(response) > 9\n"
    )
    held = {"data": "held.jsonl", "max_new_tokens": 30}
    return [
        {"suite": "exact", "kind": "exact_match", **held},
        {"suite": "likely", "kind": "multiple_choice", **held},
        {"suite": "written", "kind": "multiple_choice", "by": "generation", **held},
        {"suite": "sums", "kind": "math", "data": "numbers.jsonl", "max_new_tokens": 30},
        {"suite": "own", "kind": "checked", "function": "own.py:good", "max_missing": 0.5, **held},
        {"suite": "again", "kind": "self_correction", "instruction": "Again.", "feedback": "Say why.", **held},
        {"suite": "long", "kind": "length", **held},
    ]


def test_every_kind_of_suite_keeps_its_answers(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, writing_model: Path
) -> None:
    recipe = tiny_recipe("evaluate", model=str(writing_model), evaluate=suites(tiny_data))
    result = run(recipe, quiet())
    found = {event["suite"]: samples_of(result.folder, event) for event in evaluations(result)}
    for event in evaluations(result):
        name = event["suite"]
        assert [one.value for one in found[name]] == event["values"], name
        reasons = [one.why for one in found[name] if one.value == 0.0 and one.why]
        if name not in ("own", "long"):
            assert {why: reasons.count(why) for why in set(reasons)} == event["failures"], name
        assert any(one.text for one in found[name]), name
    assert found["own"][0].value is None and found["own"][0].why == "the function raised ValueError"
    assert "- cat\n- x\n- yy" in found["likely"][0].prompt and found["likely"][0].text in ("cat", "x", "yy")
    assert {"names no choice"} >= {one.why for one in found["written"]} - {"truncated", ""}
    (first, *_) = found["again"]
    assert any(name.startswith("turn 1, ") for name in first.more) and "feedback on turn 1" in first.more


@pytest.mark.skipif(sandbox_problem() is not None, reason=str(sandbox_problem()))
def test_programs_are_kept_with_what_became_of_each(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, writing_model: Path
) -> None:
    row = {"task_id": 1, "text": "Add.", "code": "def f(): pass", "test_list": ["assert f() == 1"], "prompt": "Add."}
    write_jsonl(tiny_data / "programs.jsonl", [{**row, "answer": "x"}])
    suite = {"suite": "programs", "kind": "code", "tests": "mbpp", "n": 2, "temperature": 1.0, "max_new_tokens": 20}
    recipe = tiny_recipe("evaluate", model=str(writing_model), evaluate=[{**suite, "data": "programs.jsonl"}])
    result = run(recipe, quiet())
    (event,) = evaluations(result)
    (one,) = samples_of(result.folder, event)
    assert one.value == event["values"][0] == 0.0 and one.why
    assert [name.partition(",")[0] for name in one.more] == ["sample 1", "sample 2"]


def test_judged_answers_are_kept_with_the_judges_words_and_the_opponents(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, writing_model: Path
) -> None:
    write_jsonl(tiny_data / "judged.jsonl", [{"prompt": f"Tell of {w}.", "output": f"{w}!"} for w in WORDS[:4]])
    pair = folder_with(
        tiny_data / "pair", "parser: labels\nlabels: [m, M]\nmax_new_tokens: 1\n", prompt="{output_1}|{output_2}"
    )
    one = folder_with(tiny_data / "one", "parser: digits\n", prompt="<r>{response}</r>")
    shared = {"data": "judged.jsonl", "max_new_tokens": 20, "judge": {"model": str(writing_model)}}
    chosen = [
        {"suite": "beside", "kind": "preference", "rubric": str(pair), **shared},
        {"suite": "rated", "kind": "rating", "rubric": str(one), **shared},
    ]
    result = run(tiny_recipe("evaluate", model=str(writing_model), evaluate=chosen), quiet())
    beside, rated = (samples_of(result.folder, event) for event in evaluations(result))
    assert [[one.value for one in found] for found in (beside, rated)] == [one["values"] for one in evaluations(result)]
    assert [one.more for one in beside] == [{"baseline": f"{word}!"} for word in WORDS[:4]]
    assert [one.text for one in beside] == [one.text for one in rated] and all(
        0 <= (one.value or 0) <= 9 for one in rated
    )
    page = (result.folder / "samples.html").read_text()
    assert '"marks":"won"' in page and '"marks":"score"' in page


# ---- the page


def a_run(folder: Path, items: int = 120, text: Callable[[str, int], str] | None = None) -> Path:
    """Two policies on a suite of right and wrong: M1 is right at even items, M0 at every fourth."""
    with EventLog(folder) as log:
        log.emit("run", "r", name="mine", method="sft")
        for round_, policy in enumerate(("M0", "M1")):
            values = [float(n % (4 - 2 * round_) == 0) for n in range(items)]
            fields = {"policy": policy, "suite": "sums", "metric": "accuracy", "value": 0.5, "values": values}
            write = text or (lambda policy, n: f"The answer of {policy} is {n} and no more.")
            rows = [
                Sample(f"i{n}", f"What is item {n}?", f"{n}", "odd" if n % 2 else "even", write(policy, n), value)
                for n, value in enumerate(values)
            ]
            write_samples(folder, "sums", policy, f"sums|{policy}", rows)
            log.emit("evaluation", f"sums|{policy}", round=round_, **fields)
        log.emit("done", "d", policy="M1", seconds=1.0)
    write_report(folder)
    return folder / "samples.html"


def choose(page: Browser, **choices: str) -> str:
    """Sets filters as a person does; gives the line that counts."""
    for id, value in choices.items():
        page.run(
            f"(() => {{ const one = document.getElementById('{id}'); one.value = {json.dumps(value)};"
            "one.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
    return str(page.run("document.getElementById('count').textContent"))


@needs_chromium
def test_the_page_filters_counts_and_compares(tmp_path: Path) -> None:
    path = a_run(tmp_path)
    with Browser() as page:
        page.open(path)
        count = "document.querySelectorAll('article').length"
        assert choose(page) == "120 of 120 items · M0 30 right · M1 60 right"
        assert page.run(count) == 50
        page.run("document.getElementById('more').click()")
        assert page.run(count) == 100
        assert page.run("document.activeElement.querySelector('pre').textContent") == "What is item 50?"
        assert choose(page, change="better") == "30 of 120 items · M0 0 right · M1 30 right"
        assert choose(page, change="worse").startswith("0 of 120 items")
        assert choose(page, change="same").startswith("0 of 120 items")
        assert choose(page, change="", value="bad") == "60 of 120 items · M0 0 right · M1 0 right"
        assert choose(page, policy="0").startswith("90 of 120 items · M0 0 right")
        assert page.run("document.getElementById('change').disabled"), "nothing is beside M0"
        assert choose(page, policy="all", value="good") == "60 of 120 items · M0 30 right · M1 60 right"
        assert page.run("document.querySelectorAll('article .sides > div').length") == 100
        view = page.run("location.href")
        page.send("Page.navigate", url="about:blank")
        page.open(view)
        assert choose(page).startswith("60 of 120 items"), "the address holds the view"
        assert page.said == [] and {one.partition("#")[0] for one in page.asked} <= {path.as_uri(), "about:blank"}


@needs_chromium
def test_a_text_is_typed_and_found_and_the_differing_words_are_marked(tmp_path: Path) -> None:
    with Browser(390, 800, dark=True) as page:
        page.open(a_run(tmp_path))
        page.press("/", 191)
        assert page.run("document.activeElement.id") == "search" and page.run("document.activeElement.value") == ""
        page.type("ITEM 11?")
        assert choose(page).startswith("1 of 120 items")
        assert page.run("document.querySelector('mark').textContent") == "item 11?"
        assert page.run("[...document.querySelectorAll('del, ins')].map((one) => one.textContent)") == ["M0 ", "M1 "]
        assert (
            page.run("document.querySelectorAll('.sides pre')[1].textContent") == "The answer of M1 is 11 and no more."
        )
        assert page.run("document.documentElement.scrollWidth") == 390, "nothing stands out of a phone"
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"


@needs_chromium
def test_a_difference_of_words_puts_both_texts_together_again(tmp_path: Path) -> None:
    texts = ["", " ", "a", "a b c", "a  b\nc", "b c a b", "one two three four", "two one four three", "x " * 3000]
    with Browser() as page:
        page.open(a_run(tmp_path, items=1))
        page.run(f"window.texts = {json.dumps(texts)}")
        wrong = page.run(
            "texts.flatMap((a) => texts.map((b) => [a, b])).filter(([a, b]) => {"
            "  const parts = difference(a, b);"
            "  const without = (kind) => parts.filter((one) => one[0] !== kind).map((one) => one[1]).join('');"
            "  return without('new') !== a || without('gone') !== b || "
            "    (a === b && parts.some((one) => one[0] !== 'same'));"
            "})"
        )
        assert wrong == []
        assert page.run("difference('a b c', 'a x c')") == [
            ["same", "a "],
            ["gone", "b "],
            ["new", "x "],
            ["same", "c"],
        ]


@needs_chromium
@pytest.mark.parametrize("script", [True, False])
def test_what_a_model_writes_stays_text(tmp_path: Path, script: bool) -> None:
    path = a_run(tmp_path, items=3, text=lambda policy, n: f"{policy} {EVIL}")
    evil = [Sample(EVIL, EVIL, EVIL, EVIL, EVIL, None, EVIL, {EVIL: EVIL})]
    write_samples(tmp_path, "sums", "M1", "sums|M1", evil)
    write_samples_page(tmp_path, EVIL, read_events(tmp_path / "metrics.jsonl"))
    with Browser() as page:
        page.send("Emulation.setScriptExecutionDisabled", value=not script)
        page.open(path)
        page.send("Emulation.setScriptExecutionDisabled", value=False)
        assert page.run("window.hacked === undefined && document.images.length === 0")
        assert page.run("document.scripts.length") == 2
        shown = page.run("document.body.innerText")
        assert "\\u202egnp.exe \\x1b[2J \\ud83d" in shown and "\u202e" not in shown and "<img src=x onerror=" in shown
        assert "missing" in shown
        if script:
            page.run("document.querySelectorAll('details').forEach((one) => one.open = true)")
            assert choose(page, search="</SCRIPT>").startswith("1 of 4 items")
        else:
            assert "Without JavaScript the first 10 items" in shown
        assert page.said == [] and page.asked == [path.as_uri()]


@needs_chromium
def test_a_script_that_is_not_the_pages_own_does_not_run(tmp_path: Path) -> None:
    path = a_run(tmp_path, items=1)
    path.write_text(path.read_text().replace("</body>", "<script>window.hacked = 1</script></body>"))
    with Browser() as page:
        page.open(path)
        assert page.run("window.hacked") is None and "Content Security Policy" in " ".join(page.said)


# ---- its bounds


def test_a_large_run_keeps_the_first_items_of_each_suite() -> None:
    small = {"name": "small", "items": [{"prompt": "x"}] * 3}
    large = {"name": "large", "items": [{"prompt": "x" * 100, "id": n} for n in range(1000)]}
    one, other = within([large, small], 20_000)
    assert other["items"] == small["items"] and 150 < len(one["items"]) < 200
    assert [item["id"] for item in one["items"]] == list(range(len(one["items"])))
    assert within([large, small], 10**9) == [large, small]


def test_the_page_says_how_many_items_are_left_out(tmp_path: Path) -> None:
    a_run(tmp_path)
    path = write_samples_page(tmp_path, "mine", read_events(tmp_path / "metrics.jsonl"), most=5_000)
    assert path is not None and path.stat().st_size < 50_000
    (_, _, rest) = path.read_text().partition('id="data">')
    (suite,) = json.loads(rest.partition("</script>")[0])["suites"]
    assert 5 < len(suite["items"]) < 120 and suite["total"] == 120 and suite["files"] is True


def test_a_long_text_is_cut_and_says_by_how_much(tmp_path: Path) -> None:
    a_run(tmp_path, items=1, text=lambda policy, n: "y" * (MOST_CHARACTERS + 7))
    page = (tmp_path / "samples.html").read_text()
    assert "(7 characters more)" in page and "y" * (MOST_CHARACTERS + 1) not in page


def test_a_run_without_answers_has_no_page_and_no_link(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.emit("run", "r", name="mine")
    (tmp_path / "samples.html").write_text("of an earlier start")
    write_report(tmp_path)
    assert not (tmp_path / "samples.html").exists()
    assert "samples.html" not in (tmp_path / "report.html").read_text()


def test_an_older_run_shows_the_answers_of_its_events(tmp_path: Path) -> None:
    answers = [
        {"prompt": "Say", "group": "g", "text": EVIL, "value": 1.0},
        {"prompt": "Do", "text": "x", "value": None},
    ]
    rated = {"examples": [{"prompt": ["One", "Two"], "output": "o", "rating": 7.0, "why": None}]}
    with EventLog(tmp_path) as log:
        log.emit("evaluation", "1", suite="own", policy="M0", metric="accuracy", values=[1.0] * 9, answers=answers)
        log.emit("evaluation", "2", suite="mt", policy="M0", metric="rating", rating=rated)
    found = [samples_of(tmp_path, event) for event in read_events(tmp_path / "metrics.jsonl")]
    assert [(one.prompt, one.text, one.value) for one in found[0]] == [("Say", EVIL, 1.0), ("Do", "x", None)]
    assert [(one.prompt, one.text, one.value) for one in found[1]] == [("One\n\nTwo", "o", 7.0)]
    write_report(tmp_path)
    assert '"total":9' in (tmp_path / "samples.html").read_text()


def test_a_damaged_line_is_left_out_and_the_rest_is_shown(tmp_path: Path) -> None:
    a_run(tmp_path, items=3)
    (file,) = (tmp_path / "samples").glob("sums-M0-*.jsonl")
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], b"\xff{", b"[]", b'{"id": 1}', lines[2][:-3], lines[1]]))
    write_report(tmp_path)
    event = next(one for one in read_events(tmp_path / "metrics.jsonl") if one.get("policy") == "M0")
    assert [one.id for one in samples_of(tmp_path, event)] == ["i0", "i1"]


def test_names_that_are_no_file_names_do_not_meet_or_leave_the_folder(tmp_path: Path) -> None:
    for policy in ("../../x", "a/b", "a-b", ".", "\x00\u202e", "ü" * 300):
        write_samples(tmp_path, "s/../..", policy, policy, [Sample("1", "p", "", "", policy, 1.0)])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6 and {path.parent for path in files} == {tmp_path / "samples"}
