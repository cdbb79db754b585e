"""Win rates, ratings and judges: in the report, in the terminal, and for machines."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_reporting import EVIL, Page, evaluation, full_run, write

from selfimprove.report.evaluation_json import as_json
from selfimprove.report.evaluation_tables import evaluation_views, evaluations_view, parts_view
from selfimprove.report.events import read_events
from selfimprove.report.groups import groups
from selfimprove.report.page import write_report
from selfimprove.report.policies import policies_table
from selfimprove.report.summary import evaluations_of, first_metric, metric_of, rate, total
from selfimprove.report.terminal import rounds_table
from selfimprove.report.text import visible

JUDGE = "alpaca-eval by gpt-4-1106-preview"
Logged = tuple[str, str, dict[str, Any]]
COST = {
    "requests": 100, "input_tokens": 51234, "output_tokens": 100, "cost": 0.53, "currency": "USD",
}  # fmt: skip


def interval(value: float, by: float = 0.05, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - by, "high": value + by, **more}


def win_rate(
    policy: str, round_: int, value: float, controlled: float, length: float, suite: str = "alpaca", **more: Any
) -> Logged:
    change = {"against": "M0", "difference": value - 0.5, "low": value - 0.58, "high": value - 0.43}
    preference = {
        "against": "M0", "judge": JUDGE, "rubric": "alpaca-eval", "order": "both", "standard_error": 0.031,
        "discrete": 0.52, "wins": 20, "losses": 18, "ties": 10, "missing": {"no verdict": 2, "refused": 1},
        "length_controlled": interval(controlled, 0.07), "length_controlled_paired": {**change, "difference": 0.01},
        "published_form": True, "mean_length": length, "against_mean_length": 1200.0, "truncated": 3, "empty": 0,
        "flip_rate": interval(0.2, n=48), "first_rate": interval(0.61), "cost": COST,
        "examples": [
            {"prompt": f"Name a river. {EVIL}", "output": "The Rhine.", "against_output": EVIL, "preference": 0.83,
             "why": None, "length": 10, "against_length": 50},
            {"prompt": "Name a lake.", "output": "Which?", "against_output": "Ohrid.", "preference": None,
             "why": "no verdict", "length": 6, "against_length": 6},
            {"prompt": "Say a.", "output": "a", "against_output": "a", "preference": 0.5, "why": None},
        ],
    }  # fmt: skip
    fields = {
        **evaluation(policy, round_, value, suite), "metric": "win rate", "n": 48, "failures": {},
        "groups": {"helpful_base": {"value": value, "n": 30}, "koala": {"value": 0.4, "n": 18}},
        "paired": None if policy == "M1" else {**change, "against": "M1"}, "paired_previous": None,
        "preference": {**preference, **more},
    }  # fmt: skip
    return ("evaluation", f"{suite}/{policy}", fields)


def rating(policy: str, round_: int, value: float) -> Logged:
    fields = {
        **evaluation(policy, round_, value, "mt-bench"), "metric": "rating", "low": value - 0.4, "high": value + 0.4,
        "n": 160, "failures": {},
        "groups": {
            name: {"value": value + place / 5 - 0.6, "n": 20}
            for place, name in enumerate(("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem"))
        },
        "paired": {"against": "M0", "difference": 0.25, "low": -0.1, "high": 0.6},
        "rating": {
            "judge": "gpt-4-0613", "rubric": "mt-bench", "low": 1, "high": 10,
            "turns": {"1": interval(value + 0.5, 0.4, n=80), "2": interval(value - 0.5, 0.5, n=80)},
            "missing": {"no rating": 4}, "mean_length": 931.0, "truncated": 1, "cost": {**COST, "cost": None},
            "examples": [{"prompt": ["One", "Two"], "output": EVIL, "rating": 7, "why": None,
                          "verdict": f"Good. [[7]] {EVIL}"},
                         {"prompt": "p", "output": "o", "rating": None, "why": "no rating", "verdict": "Hm"}],
        },
    }  # fmt: skip
    return ("evaluation", f"mt/{policy}", fields)


def judged(judge: str, accuracy: float, people: bool = True, data: str = "llmbar") -> Logged:
    human = {"judge": interval(0.62, n=200), "ceiling": interval(0.69, n=200)}
    fields = {
        "judge": judge, "rubric": "alpaca-eval", "data": data, "order": "both", "n": 200,
        "accuracy": interval(accuracy, n=196), "accuracy_first_order": accuracy - 0.02, "flip_rate": interval(0.18),
        "tie_rate": interval(0.03, 0.01), "missing": {"no verdict": 4}, "missing_rate": 0.02,
        "first_rate": interval(0.57), "longer_rate": interval(0.66, n=190), "label_longer_rate": 0.51,
        "groups": {"natural": {"value": 0.8, "n": 100}, "adversarial": {"value": 0.48, "n": 100}},
        "human": human if people else None, "cost": COST,
    }  # fmt: skip
    return ("judge_evaluation", f"{judge}/{data}", fields)


def judged_run() -> list[Logged]:
    return [
        win_rate("M1", 0, 0.44, 0.47, 1010.0),
        win_rate("M2", 1, 0.56, 0.52, 1480.0),
        win_rate("M3", 2, 0.63, 0.49, 2110.0),
        win_rate("M1", 0, 0.48, 0.48, 700.0, "own prompts", against_mean_length=720.0),
        win_rate("M2", 1, 0.53, 0.54, 740.0, "own prompts", against_mean_length=720.0),
        win_rate("M3", 2, 0.55, 0.53, 800.0, "own prompts", against_mean_length=720.0),
        *(rating(policy, max(place, 0), 5.5 + place / 3) for place, policy in enumerate(("M1", "M2", "M3"))),
        judged(JUDGE, 0.71),
        judged("pairwise by Qwen2.5-1.5B-Instruct", 0.56, people=False),
        ("evaluation", "p1", {**evaluation("M3", 2, 0.31, "humaneval"), "metric": "pass@1"}),
        ("evaluation", "p5", {**evaluation("M3", 2, 0.52, "humaneval"), "metric": "pass@5"}),
    ]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return read_events(write(tmp_path_factory.mktemp("judged"), judged_run()) / "metrics.jsonl")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write(tmp_path_factory.mktemp("judged"), judged_run())).read_text(encoding="utf-8")


def printed(what: Any, width: int = 80) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=width).print(what)
    return [line.rstrip() for line in output.getvalue().splitlines()]


def logged(*evaluations: Logged) -> list[dict[str, Any]]:
    return [{"event": event, "id": id_, **fields} for event, id_, fields in evaluations]


# --- metrics


def test_a_metric_says_how_its_values_are_shown() -> None:
    shown = {name: metric_of({"metric": name}) for name in ("accuracy", "pass@5", "win rate", "rating", "bits")}
    assert [(one.kind, one.scale, one.unit) for one in shown.values()] == [
        ("accuracy", 100, ", %"), ("accuracy", 100, ", %"), ("preference", 100, ", %"), ("rating", 1, ""),
        ("other", 1, ""),
    ]  # fmt: skip
    assert metric_of({}).name == metric_of(None).name == metric_of({"metric": None}).name == "accuracy"
    assert first_metric([]).name == "accuracy"


def test_two_metrics_on_one_suite_stand_beside_each_other(events: list[dict[str, Any]]) -> None:
    found = evaluations_of(events)
    assert list(found) == ["alpaca", "own prompts", "mt-bench", "humaneval", "humaneval, pass@5"]
    assert [found[name]["M3"]["value"] for name in ("humaneval", "humaneval, pass@5")] == [0.31, 0.52]
    assert list(evaluations_of(events, "rating")) == ["mt-bench"]


def test_rates_and_totals_of_whatever_is_there() -> None:
    assert [rate(v) for v in (interval(0.5), {"value": 0.5}, 0.5, None, "x", {})] == [
        "50.0 [45.0, 55.0]", "50.0", "50.0", "", "", "",
    ]  # fmt: skip
    assert [total(v) for v in ({"a": 2, "b": 1}, {"a": None}, None, 3)] == [3, 0, 0, 0]


@pytest.mark.parametrize(
    ("evaluated", "header", "change", "row"),
    [
        (win_rate("M2", 1, 0.56, 0.52, 9.0), "win rate", "+6.0 [-2.0, +13.0]", "56.0 [51.0, 61.0]"),
        (rating("M2", 1, 5.5), "rating", "+0.25 [-0.10, +0.60]", "5.50 [5.10, 5.90]"),
    ],
)
def test_the_rounds_tables_name_the_first_suites_metric(evaluated: Logged, header: str, change: str, row: str) -> None:
    events = logged(evaluated)
    assert policies_table(events).cells[0][1:] == [cell for cell in (row, change) if cell]
    unit = ", %" if header == "win rate" else ""
    assert policies_table(events).columns[1:] == [
        f"{header}{unit} [95%]",
        "change, points [95%]" if unit else "change [95%]",
    ]
    lines = printed(rounds_table(events))
    assert lines[0].startswith(f"{evaluated[2]['suite']}: {header}{' in %' if unit else ''}, with 95%")
    assert any(line.startswith("policy") and header in line for line in lines)
    assert max(map(len, lines)) <= 80 and "accuracy" not in "".join(lines)
    assert ("in points" in "".join(lines)) == bool(unit)


def test_groups_are_in_the_unit_of_their_metric(events: list[dict[str, Any]]) -> None:
    assert groups("", events, "rating").columns == ["suite", "group", "M1", "M2", "M3"]
    assert groups("", events, "rating").cells[0][2] == "4.90 (of 20)"
    assert groups("", events, "preference").cells[0][1:3] == ["helpful_base", "44.0 (of 30)"]


# --- the report


def test_report_shows_preferences_ratings_and_judges(page: str) -> None:
    shown = " ".join(Page(page).text.split())
    for expected in (
        "Win rate and the paired changes are on alpaca.",
        "Is it preferred?",
        "alpaca M3 M0 63.0 [58.0, 68.0] 49.0 [42.0, 56.0] 3.10 52.0 20 10 18 48 3 (no verdict: 2, refused: 1) "
        f"+13.0 [+5.0, +20.0] +1.0 [+5.0, +20.0] M1 {JUDGE}",
        f"alpaca M3 {JUDGE} alpaca-eval both as published 20.0 [15.0, 25.0] (of 48) 61.0 [56.0, 66.0] 2110 1200 3 0 "
        "100 51,234 100 0.53 USD",
        "Judged outputs of M3 against M0 on alpaca (3)",
        "preference for M3 0.83",
        "preference for M3 0.50 (tie)",
        "missing: no verdict",
        "How is it rated?",
        "mt-bench M1 1 to 10 5.50 [5.10, 5.90] 6.00 [5.60, 6.40] 5.00 [4.50, 5.50] +0.25 [-0.10, +0.60] M0 160 "
        "4 (no rating: 4) 931 1 gpt-4-0613 mt-bench 100 51,234 100",
        "rating 7 (1 to 10)",
        "Can the judge be trusted?",
        f"{JUDGE} alpaca-eval llmbar both 200 71.0 [66.0, 76.0] 69.0 62.0 [57.0, 67.0] 69.0 [64.0, 74.0] "
        "18.0 [13.0, 23.0] 3.0 [2.0, 4.0] 57.0 [52.0, 62.0] 66.0 [61.0, 71.0] 51.0 2.0%: 4 (no verdict: 4)",
        f"{JUDGE} llmbar adversarial 48.0 100",
        "humaneval, pass@5 M3 pass@5, % 52.0 [47.0, 57.0]",
    ):
        assert expected in shown, expected
    assert shown.count("M0 50 characters <script>") == shown.count(" preferred ") == 6, (
        "only the policy's side is marked, and nothing at a tie"
    )


def test_report_has_their_plots(page: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(svgs) == 7
    labels = ["win rate (%)", "mean length (characters)", "mean length of M0", "own prompts, LC", "turn 2", "stem"]
    labels += ["share of the pairs (%)", "ceiling", "agreement with people", f"{JUDGE} on llmbar", "pass@1, pass@5 (%)"]
    for label in labels:
        assert any(f">{label}</text>" in svg for svg in svgs), label
    for svg in svgs:
        ET.fromstring(svg.replace("xlink:href", "href"))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_a_policy_alone_gets_its_names_in_the_plot_by_length(tmp_path: Path) -> None:
    page = write_report(write(tmp_path, [win_rate("M2", 1, 0.5, 0.5, 1200.0)])).read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    for label in ("win rate", "LC win rate", "M2"):
        assert f">{label}</text>" in page


def test_report_escapes_what_model_and_judge_wrote(page: str) -> None:
    parsed = Page(page)
    assert "script" not in parsed.tags and not any(name.startswith("on") for name, _ in parsed.attributes)
    assert parsed.text.count(visible(EVIL)) >= 12, "outputs of both sides, prompts and verdicts"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", page)


def test_hostile_names_reach_no_element(tmp_path: Path) -> None:
    evil = f'"><img src=x onerror=alert(1)> $x^$ {EVIL}'
    names = {"against": evil, "judge": evil, "rubric": evil, "order": evil, "missing": {evil: 1}}
    event, _, fields = win_rate(evil, 1, 0.5, 0.4, 10.0, evil, **names)
    rated = rating(evil, 1, 5.0)[2]
    rated["rating"] |= {"judge": evil, "rubric": evil, "turns": {evil: interval(5.0)}, "missing": {evil: 1}}
    judge = {**judged(evil, 0.5, data=evil)[2], "rubric": evil, "groups": {evil: {"value": 0.5, "n": 1}}}
    run = [
        (event, "w", {**fields, "groups": {evil: {"value": 0.5, "n": 1}}}),
        ("evaluation", "r", {**rated, "groups": {evil: {"value": 5.0, "n": 1}}}),
        ("evaluation", "x", {**evaluation(evil, 1, 0.5, "x"), "metric": evil}),
        ("judge_evaluation", "j", judge),
    ]
    page = write_report(write(tmp_path, run)).read_text(encoding="utf-8")
    assert not {"img", "script"} & set(Page(page).tags)
    assert not any(name.startswith("on") for name, _ in Page(page).attributes)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page)
    events = read_events(tmp_path / "metrics.jsonl")
    for shown in (evaluations_view(events), parts_view(events), rounds_table(events)):
        lines = printed(shown)
        assert max(map(len, lines)) <= 80 and not re.search("[\x00-\x1f\u202e\ud800-\udfff]", "".join(lines))


def emptied(value: Any, nothing: Any) -> list[Any]:
    """Every copy of a nested object in which one thing more is missing: replaced by `nothing`, or left out."""
    if not isinstance(value, dict):
        return []
    found = []
    for key, one in value.items():
        without = {other: kept for other, kept in value.items() if other != key}
        found += [without, {**value, key: nothing}, *({**value, key: inner} for inner in emptied(one, nothing))]
    return found


@pytest.mark.parametrize("nothing", [None, {}, "x", []], ids=repr)
def test_any_key_may_be_missing(nothing: Any) -> None:
    whole = [win_rate("M2", 1, 0.5, 0.4, 10.0), rating("M2", 1, 5.0), judged(JUDGE, 0.7)]
    for event, id_, fields in whole:
        for less in emptied(fields, nothing):
            events = logged((event, id_, less))
            json.dumps(as_json(events), allow_nan=False)
            lines = [*printed(evaluations_view(events)), *printed(parts_view(events)), *printed(rounds_table(events))]
            assert max(map(len, lines)) <= 80 and "None" not in "".join(lines)


@pytest.mark.parametrize("nothing", [None, {}, "x", []], ids=repr)
def test_report_of_emptied_events(tmp_path: Path, nothing: Any) -> None:
    keep = ("round", "policy", "suite", "metric", "n", "judge", "data")
    run = []
    for place, (event, id_, fields) in enumerate(judged_run()):
        less = {key: value if key in keep else nothing for key, value in fields.items()}
        halves = {
            key: {inner: kept if count % 2 else nothing for count, (inner, kept) in enumerate(value.items(), place)}
            for key, value in fields.items()
            if isinstance(value, dict)
        }
        run += [(event, f"{id_} less", less), (event, f"{id_} halves", {**fields, "policy": f"P{place}", **halves})]
    page = write_report(write(tmp_path, run)).read_text(encoding="utf-8")
    assert "Is it preferred?" in page and "None" not in page


def test_a_run_without_judgements_has_none_of_their_parts(tmp_path: Path) -> None:
    page = write_report(write(tmp_path, full_run())).read_text(encoding="utf-8")
    for title in ("Is it preferred?", "How is it rated?", "Can the judge be trusted?"):
        assert title not in page


# --- the terminal


def test_terminal_shows_win_rates_in_80_columns(events: list[dict[str, Any]]) -> None:
    lines = printed(evaluations_view(events))
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"alpaca: win rate in % against M0, judged by {JUDGE}"
    assert lines[1].split() == ["policy", "win", "rate", "change", "LC", "win", "rate", "n", "missing", "length"]
    assert [line.split() for line in lines[3:7]] == [
        ["M1", "44.0", "-", "47.0", "48", "3", "1010"],
        ["[39.0,", "49.0]", "[40.0,", "54.0]"],
        ["M2", "56.0", "+6.0", "52.0", "48", "3", "1480"],
        ["[51.0,", "61.0]", "[-2.0,", "+13.0]", "[45.0,", "59.0]"],
    ]
    text = " ".join(" ".join(lines).split())
    assert "[95%]: over instructions; change: paired, item by item, in points, against M1; " in text
    assert "LC: at equal lengths (as published); length: mean, in characters." in text
    assert "missing judgements, in no rate: no verdict: 6, refused: 3" in text
    assert "the judge: 300 requests, 153,702 tokens read" in text and "1.59 USD" in text


def test_terminal_shows_one_policys_accuracy_on_one_line() -> None:
    lines = printed(evaluations_view(logged(("evaluation", "e", evaluation("M0", 0, 0.3)))))
    assert lines[0] == "gsm8k: accuracy in %" and lines[3].split() == ["M0", "30.0", "[25.0,", "35.0]", "330"]
    assert lines[4:] == ["[95%]: Wilson's interval.", "counted as wrong: no_answer: 4"]


def test_terminal_shows_ratings_by_turn_and_group(events: list[dict[str, Any]]) -> None:
    lines = printed(evaluations_view([event for event in events if event.get("metric") == "rating"]))
    assert lines[0] == "mt-bench: rating from 1 to 10, judged by gpt-4-0613"
    assert lines[3].split() == ["M1", "5.50", "+0.25", "6.00", "5.00", "160", "4", "931"]
    assert any(line.split()[:3] == ["writing", "4.90", "(of"] for line in lines if line)
    assert "USD" not in "".join(lines), "a price only where that of each is known"


def test_terminal_takes_many_policies_with_long_names() -> None:
    found = [win_rate(f"HuggingFaceTB/SmolLM2-1.7B-Instruct@M{i}", 0, 1.0, 1.0, 12345.0) for i in range(5)]
    found += [judged(f"a judge with a long name {i} " + "x" * 40, 1.0, data="y" * 50) for i in range(4)]
    for shown in (evaluations_view(logged(*found)), parts_view(logged(*found))):
        lines = printed(shown)
        assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)
    assert printed(evaluations_view([])) == printed(parts_view([])) == evaluation_views([]) == []
    assert len(evaluation_views(logged(*found))) == 2 and len(evaluation_views(logged(found[-1]))) == 1


def test_terminal_says_which_win_rates_compare_with_published_ones() -> None:
    fields = win_rate("M2", 1, 0.5, 0.4, 10.0, published_form=False)[2]
    text = " ".join(printed(evaluations_view(logged(("evaluation", "w", {**fields, "failures": {"too long": 1}})))))
    assert "LC: at equal lengths (not comparable with published numbers)" in " ".join(text.split())
    assert "without an output: too long: 1" in text


def test_terminal_shows_judges_side_by_side(events: list[dict[str, Any]]) -> None:
    lines = printed(parts_view(events))
    assert max(map(len, lines)) <= 80
    rows = {name: cells for name, *cells in (re.split(r"  +", line) for line in lines)}
    assert rows["accuracy, % [95%]"] == ["71.0 [66.0, 76.0]", "56.0 [51.0, 61.0]"]
    assert rows["ceiling, % [95%]"] == ["69.0 [64.0, 74.0]", "-"] and rows["longer by the labels, %"] == [
        "51.0",
        "51.0",
    ]
    assert rows["cost"] == ["0.53 USD", "0.53 USD"] and rows["missing"] == ["2.0%: 4 (no verdict: 4)"] * 2
    assert sum("adversarial" in line and line.endswith("48.0    100") for line in lines) == 2
    text = " ".join(lines)
    assert "guessing gives 50%" in text and "over the pairs" in text and "50% where the order does not matter" in text


# --- for machines


def test_json_of_a_win_rate_is_that_of_eval_alpaca_and_more(events: list[dict[str, Any]]) -> None:
    one = as_json(events)[2]
    assert {key: value for key, value in one.items() if not isinstance(value, dict | list)} == {
        "suite": "alpaca", "metric": "win rate", "value": 0.63, "low": 0.63 - 0.05, "high": 0.63 + 0.05, "n": 48,
        "policy_digest": "ab" * 32, "policy": "M3", "paired_previous": None, "model": "M3", "win_rate": 63.0,
        "length_controlled_win_rate": 49.0, "standard_error": 3.1, "discrete_win_rate": 52.0, "wins": 20,
        "losses": 18, "ties": 10, "missing": 3, "mean_length": 2110.0,
    }  # fmt: skip
    assert one["missing_reasons"] == {"no verdict": 2, "refused": 1}
    assert one["win_rate_interval"] == pytest.approx([58, 68])
    assert one["length_controlled_interval"] == pytest.approx([42, 56])
    assert one["preference"]["flip_rate"]["value"] == 0.2 and "examples" not in one["preference"]


def test_json_has_every_evaluation_and_no_nan(events: list[dict[str, Any]]) -> None:
    found = as_json(events)
    named = [(one.get("suite"), one.get("policy") or one["judge"]) for one in found]
    assert len(named) == len(set(named)) + 1 == 13, "humaneval has two metrics"
    today = {"suite", "metric", "value", "low", "high", "n", "failures", "groups", "policy_digest"}
    assert all(today <= one.keys() for one in found if "suite" in one)
    assert found[6]["rating"]["turns"]["1"]["n"] == 80 and "examples" not in found[6]["rating"]
    assert found[-2]["judge"] == JUDGE and found[-2]["human"]["ceiling"]["value"] == 0.69
    assert not {"event", "id", "time"} & found[-1].keys()
    broken = logged(win_rate("M2", 1, float("nan"), float("inf"), float("nan"), truncated=float("nan")))
    (one,) = as_json(broken)
    assert (one["win_rate"], one["length_controlled_win_rate"], one["mean_length"]) == (None, None, None)
    json.dumps(one, allow_nan=False)
