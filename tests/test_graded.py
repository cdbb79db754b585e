"""Suites of graded responses: tiny models as judges, end to end, and every figure from the stored rows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_model, write_jsonl
from rich.console import Console
from scipy import stats
from test_reporting import EVIL, evaluation, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import read_rows
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.checkers.exact import normalized
from selfimprove.judging.digits import expected_digit
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.report.evaluation_json import as_json
from selfimprove.report.evaluation_tables import evaluation_views
from selfimprove.report.page import write_report
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result
from selfimprove.suites.suite_kinds import GradedSuite
from selfimprove.suites.suites import load_suite

STEPS = ("lower", "strip", "final_period")
WORDS = ["cat", "sun", "map", "pen", "cup", "hat"]


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def recipe_of(folder: Path, model: Path, answers: list[str] | None = None, **changes: Any) -> Recipe:
    """Measures `model` as a judge; `output` and `policies` are the recipe's, other changes the suite's."""
    rows = [{"id": w, "prompt": f"Name {w}", "answer": a} for w, a in zip(WORDS, answers or WORDS, strict=True)]
    if not (folder / "items.jsonl").is_file() or answers:
        write_jsonl(folder / "items.jsonl", rows)
    (folder / "graded.yaml").write_text("name: judged\nkind: graded\ndata: items.jsonl\n")
    given = changes.get("checker") == "score"
    values = {
        "method": "evaluate",
        "model": str(model),
        "policies": changes.pop("policies", []),
        "output": str(folder / changes.pop("output", "run")),
        "evaluate": [{"suite": "graded.yaml", **({} if given else {"max_new_tokens": 6, "samples": 3}), **changes}],
        "sampling": {"backend": "transformers"},
    }
    return make_recipe(values, folder=folder)


def event_of(result: Result, policy: str | None = None) -> dict[str, Any]:
    events = [event for event in result.events if event["event"] == "evaluation"]
    return [event for event in events if policy in (None, event["policy"])][-1]


def rows_of(result: Result, step: str, label: str = "") -> list[dict[str, Any]]:
    """The rows of the steps of a kind whose label holds these words."""
    manifests = [
        path
        for path in (result.folder / "steps").glob(f"{step}-*/manifest.json")
        if label in json.loads(path.read_text())["label"]
    ]
    return [row for path in manifests for part in sorted(path.parent.glob("rows-*.arrow")) for row in read_rows(part)]


def printed(events: list[dict[str, Any]]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(*evaluation_views(events))
    return out.getvalue().splitlines()


# ---- whole evaluations of tiny models


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers often end."""
    folder = save_tiny_model(tmp_path_factory.mktemp("talking") / "talking", seed=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[2] *= 2
    model.save_pretrained(folder)
    return folder


def ended(result: Result) -> dict[str, str]:
    """The first response to each item that ended, where there is one."""
    found: dict[str, str] = {}
    for row in rows_of(result, "sample"):
        if row["finish"] == "stop":
            found.setdefault(row["prompt_id"], row["text"])
    return found


def test_every_figure_from_the_stored_rows(tmp_path: Path, talking: Path) -> None:
    before = run(recipe_of(tmp_path, talking, output="before"), quiet())
    said, first = rows_of(before, "sample"), ended(before)
    assert len(said) == 18 and event_of(before)["graded"]["truncated"] == sum(r["finish"] == "length" for r in said)
    # Each item's answer is now what was said to it.
    result = run(recipe_of(tmp_path, talking, [first.get(word, "?") for word in WORDS]), quiet())
    wanted = {word: normalized(text, STEPS) for word, text in first.items()}
    gold = [float(r["finish"] == "stop" and normalized(r["text"], STEPS) == wanted[r["prompt_id"]]) for r in said]
    digits: dict[str, dict[str, float]] = {}
    for row in rows_of(result, "log_probs", "judged judge"):
        digits.setdefault(row["prompt_id"], {})[str(row["index"])] = row["log_prob"]
    asked: dict[tuple[str, str], float] = {}
    for row in said:
        id = f"{row['prompt_id']}|{row['index']}"
        if (row["prompt_id"], row["text"]) not in asked:
            value, _ = expected_digit(digits.pop(id))
            assert value is not None
            asked[row["prompt_id"], row["text"]] = value
    assert not digits  # equal responses to a prompt were asked about once
    scores = [asked[row["prompt_id"], row["text"]] for row in said]

    event = event_of(result)
    found = event["graded"]
    own = found["scores"]
    assert (own["n"], own["missing"], found["missing"]) == (18, 0, {})
    assert own["pearson"]["value"] == pytest.approx(stats.pearsonr(scores, gold).statistic)
    assert own["kendall"]["value"] == pytest.approx(stats.kendalltau(scores, gold).statistic)
    likelihood = {
        (row["prompt_id"], row["index"]): row for row in rows_of(result, "log_probs", "judged: likelihood under")
    }
    each = [likelihood[row["prompt_id"], row["index"]] for row in said]
    baselines = found["baselines"]
    for name, values in {
        "length": [len(row["text"]) for row in said],
        "shortness": [-len(row["text"]) for row in said],
        "likelihood": [row["log_prob"] / row["tokens"] for row in each],
        "likelihood_summed": [row["log_prob"] for row in each],
    }.items():
        assert baselines[name]["spearman"]["value"] == pytest.approx(stats.spearmanr(values, gold).statistic), name
        difference = own["spearman"]["value"] - baselines[name]["spearman"]["value"]
        assert found["less"][name]["spearman"]["value"] == pytest.approx(difference)

    picked = []
    for word in WORDS:
        rows = [
            (score, value) for score, value, row in zip(scores, gold, said, strict=True) if row["prompt_id"] == word
        ]
        top = [value for score, value in rows if score == max(rows)[0]]
        picked.append(sum(top) / len(top))
    assert (event["metric"], event["n"], event["value"]) == ("best of N", 6, pytest.approx(sum(picked) / 6))
    assert own["best_of_n"]["value"] == event["value"] and own["best_of_n"]["low"] == event["low"]
    assert baselines["random"]["area"]["value"] == pytest.approx(sum(gold) / 18) == found["mean_gold"]
    assert baselines["oracle"]["best_of_n"]["value"] == pytest.approx(len(first) / 6)
    assert baselines["oracle"]["auroc"]["value"] == 1.0 and baselines["random"]["auroc"]["value"] == 0.5
    longest, shortest = (baselines[name] for name in ("length", "shortness"))
    assert longest["auroc"]["value"] + shortest["auroc"]["value"] == pytest.approx(1)
    (kept, worth), *_ = shortest["curve"]  # the shortest responses alone, which the longest ones' curve does not tell
    least = min(len(row["text"]) for row in said)
    short = [value for value, row in zip(gold, said, strict=True) if len(row["text"]) == least]
    assert (kept, worth) == (pytest.approx(1 / 18), pytest.approx(sum(short) / len(short)))
    assert own["curve"][-1] == [1.0, pytest.approx(found["mean_gold"])]
    assert found["calibration"]["bias"]["value"] == pytest.approx(sum(scores) / 18 / 9 - sum(gold) / 18)


def test_two_judges_of_the_same_answers_and_the_report(tmp_path: Path, talking: Path, tiny_model: Path) -> None:
    first = ended(run(recipe_of(tmp_path, talking, output="before"), quiet()))
    recipe = recipe_of(tmp_path, talking, [first.get(word, "?") for word in WORDS], policies=[str(tiny_model)])
    result = run(recipe, quiet())
    assert len(list((result.folder / "steps").glob("sample-*"))) == 1  # the second judged the same answers
    own, other = (event_of(result, name) for name in ("talking", "tiny"))
    assert own["graded"]["baselines"] == other["graded"]["baselines"] and other["graded"]["answers_of"] == "talking"
    assert own["paired"] is None and other["paired"]["against"] == "talking"
    change = other["graded"]["spearman_paired"]
    values = [one["graded"]["scores"]["spearman"]["value"] for one in (own, other)]
    assert change["difference"] == pytest.approx(values[1] - values[0]) and change["against"] == "talking"
    assert change["low"] <= change["difference"] <= change["high"]
    page = result.report.read_text()
    for words in (
        "How good is it as a judge?",
        "Best of N",
        "likelihood per token",
        "oracle (gold itself)",
        "coverage",
    ):
        assert words in page
    lines = printed(result.events)
    assert max(map(len, lines)) <= 80
    shown = "\n".join(lines)
    wanted = ("judged: best of N", "Policies less what needs no judge", "area", "Calibration error of tiny", "; bias ")
    assert all(words in shown for words in wanted)
    (one, _) = as_json(result.events)
    assert one["metric"] == "best of N" and one["graded"]["scores"]["n"] == 18
    told = io.StringIO()
    run(recipe, Progress(Console(file=told, width=200)))
    assert told.getvalue().count("done, ") == told.getvalue().count("already done, reused") == 6


def scored_rows(folder: Path) -> list[dict[str, Any]]:
    rows = [
        {"prompt": f"Name {w}", "output": text, "score": score, "id": w}
        for w in WORDS[:3]
        for text, score in (("a " + w, 5), ("no", 1.5), ("yes", 3))
    ]
    write_jsonl(folder / "items.jsonl", rows)
    return rows


def test_responses_with_scores_of_their_own_are_not_sampled(tmp_path: Path, tiny_model: Path) -> None:
    scored_rows(tmp_path)
    result = run(recipe_of(tmp_path, tiny_model, checker="score", good_from=3, limit=2), quiet())
    found = event_of(result)["graded"]
    assert not list((result.folder / "steps").glob("sample-*"))
    assert (found["scores"]["n"], found["good"], found["answers_of"]) == (6, 4, None)
    assert found["mean_gold"] == pytest.approx(9.5 / 3) and found["baselines"]["oracle"]["best_of_n"]["value"] == 5
    assert found["calibration"]["bins"] and 0 <= found["calibration"]["error"] <= 1
    rated = event_of(result)
    assert 1.5 <= rated["low"] <= rated["value"] <= rated["high"] <= 5


def test_a_reference_is_shown_where_it_is_asked_for(tmp_path: Path, tiny_model: Path) -> None:
    without = run(recipe_of(tmp_path, tiny_model, output="without"), quiet())
    shown = run(recipe_of(tmp_path, tiny_model, reference=True), quiet())
    values = [event_of(one)["graded"]["calibration"]["bias"]["value"] for one in (without, shown)]
    assert values[0] != values[1] and event_of(shown)["graded"]["reference"] is True
    prompts = [
        path.parent / "inputs" / "responses.arrow"
        for path in (shown.folder / "steps").glob("log_probs-*/manifest.json")
        if "judged judge" in json.loads(path.read_text())["label"]
    ]
    asked = AutoTokenizer.from_pretrained(tiny_model).decode(read_rows(prompts[0])[0]["prompt_ids"])
    assert "<reference>\ncat\n</reference>" in asked


def test_what_is_too_long_is_missing_and_too_much_of_it_ends_the_evaluation(tmp_path: Path, tiny_model: Path) -> None:
    rows = scored_rows(tmp_path)
    write_jsonl(tmp_path / "items.jsonl", [*rows, {"prompt": "Name cat", "output": "x" * 600, "score": 9, "id": "cat"}])
    with pytest.raises(RunFailed, match="1 of 10 judgements are missing"):
        run(recipe_of(tmp_path, tiny_model, checker="score", max_missing=0.05), quiet())
    found = event_of(run(recipe_of(tmp_path, tiny_model, checker="score"), quiet()))["graded"]
    assert sum(found["missing"].values()) == 1 and found["scores"]["n"] == 9
    assert {one["n"] for one in found["baselines"].values()} == {9}  # every row is over the same responses
    assert found["baselines"]["oracle"]["best_of_n"]["value"] == 5


# ---- the suites


def test_the_shipped_suite() -> None:
    loaded = load_suite("judged-words")
    assert isinstance(loaded.suite, GradedSuite) and len(loaded.items) == 300
    assert (loaded.suite.samples, loaded.suite.temperature, loaded.suite.rubric) == (4, 1.0, "self-judge")
    assert "MIT" in loaded.suite.description


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": 2, "temperature": 0}, "2 samples an item are all the same at temperature 0"),
        (
            {"checker": "score"},
            "checker score takes the data's responses; leave max_new_tokens, normalize, samples out",
        ),
        ({"checker": "judge"}, "key `checker`: .*; found 'judge'"),
        ({"answer_of": "base"}, "unknown key `answer_of`; did you mean `answers_of`"),
    ],
)
def test_what_a_suite_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_suite("judged-words", [tmp_path], change)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q", "response": "a"}, "no column 'score'"),
        ({"prompt": "q", "response": "a", "score": True}, "score must be a finite number, found True"),
        ({"prompt": "q", "score": 1}, "no column 'response'"),
        ({"prompt": "other", "response": "a", "score": 1, "id": "cat"}, "id 'cat' is that of another question"),
    ],
)
def test_rows_without_a_response_and_its_score_are_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    write_jsonl(tmp_path / "items.jsonl", [{"prompt": "q?", "response": "b", "score": 0, "id": "cat"}, row])
    (tmp_path / "s.yaml").write_text("name: s\nkind: graded\nchecker: score\ndata: items.jsonl\n")
    with pytest.raises(InputError, match=said):
        load_suite("s.yaml", [tmp_path])


def test_what_is_not_to_be_had_is_said_before_anything_is_sampled(tmp_path: Path, tiny_model: Path) -> None:
    for change, said in (
        ({"rubric": "alpaca-eval"}, "compares two responses"),
        ({"rubric": "five-points", "reference": True}, "shows no reference"),
        ({"rubric": "self-judg"}, "did you mean 'self-judge'"),
    ):
        with pytest.raises(InputError, match=said):
            run(recipe_of(tmp_path, tiny_model, **change), quiet())
    write_jsonl(tmp_path / "items.jsonl", [{"prompt": "q"}])
    with pytest.raises(InputError, match="has no answer"):
        run(recipe_of(tmp_path, tiny_model), quiet())


# ---- reports of whatever is there


def test_a_report_of_half_an_event_and_of_evil_names(tmp_path: Path) -> None:
    whole = evaluation(EVIL, 0, 0.4, EVIL) | {"metric": "best of N"}
    whole["graded"] = {"scores": {"n": 3, "curve": [[0.5, 1.0], [1.0, None], "x"], "best_of_n": None}, "less": 3}
    bare = evaluation("M1", 1, 0.4, EVIL) | {"metric": "best of N", "graded": {"calibration": {"bins": [{}, None]}}}
    page = write_report(write(tmp_path / "run", [("evaluation", "a", whole), ("evaluation", "b", bare)])).read_text()
    assert "<script>alert" not in page and "How good is it as a judge?" in page
    assert printed([{"event": "evaluation", **whole}, {"event": "evaluation", **bare}])
