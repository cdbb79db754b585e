"""Win rates that a judge decides: what its verdicts mean, and whole evaluations with tiny models on both sides."""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_tiny_model, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfimprove.artefacts import read_rows
from selfimprove.cli import app as cli
from selfimprove.data.sources import Prompt
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.judging.pairwise import is_switched
from selfimprove.judging.rubric import load_rubric
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result
from selfimprove.suites.alpaca import shipped_gamed
from selfimprove.suites.dialogues import Answers
from selfimprove.suites.length_control import length_controlled_win_rate
from selfimprove.suites.matches import Match, by_item, missing_reasons, order_figures, require_enough
from selfimprove.suites.preference import _questions, known_index
from selfimprove.suites.suites import load_suite
from selfimprove.suites.win_rate import win_rate

MakeRecipe = Callable[..., Recipe]
JUDGES = Path(__file__).parent.parent / "eval" / "judges"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "alpaca_eval"
CONTEXT = 4096  # of the judge: AlpacaEval's prompt alone has more bytes than the tiny model has positions
PLAIN = load_rubric("pair-plain", [])
TALK = load_rubric("mt-bench-pair", [])


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


# ---- verdicts as preferences, by hand


def test_a_preference_is_of_the_policy_whatever_came_first() -> None:
    assert Match("a", 0, {False: 0.9}).preference(False) == pytest.approx(0.1)  # the opponent was shown first
    assert Match("a", 0, {True: 0.9}).preference(False) == 0.9
    # 1 - 0.2 is 0.8; with 0.6 the mean is 0.7
    assert Match("a", 0, {False: 0.2, True: 0.6}).preference(False) == pytest.approx(0.7)
    assert Match("a", 0, {False: 0.2, True: 0.6}).preference(True) == 0.5  # as verdicts, 0.8 and 0.6 disagree


def test_verdicts_that_disagree_are_a_tie_and_those_that_agree_stand() -> None:
    verdicts = {(1.0, 1.0): 0.5, (0.0, 0.0): 0.5, (0.0, 1.0): 1.0, (1.0, 0.0): 0.0, (0.5, 0.5): 0.5, (0.0, 0.5): 0.5}
    for (straight, switched), expected in verdicts.items():
        assert Match("a", 0, {False: straight, True: switched}).preference(True) == expected


def test_one_order_missing_is_missing() -> None:
    for first in ({False: None, True: 0.9}, {False: 0.1, True: None}, {True: None}, {}):
        assert Match("a", 0, first).preference(False) is None and Match("a", 0, first).flipped() is None


def test_flips_and_how_often_the_first_one_won() -> None:
    matches = [
        Match("always the first", 0, {False: 0.9, True: 0.8}),
        Match("ours twice", 0, {False: 0.3, True: 0.6}),
        Match("a tie is no flip", 0, {False: 0.5, True: 0.9}),
        Match("one order", 0, {True: 0.2}),
        Match("not asked", 0, {True: 0.5}, asked=False),
        Match("half missing", 0, {False: None, True: 1.0}),
    ]
    assert [match.flipped() for match in matches] == [True, False, None, None, None, None]
    found = order_figures(matches)
    assert (found["flip_rate"]["value"], found["flip_rate"]["n"]) == (0.5, 2)
    # first won, by pair: 1 and 1, 0 and 1, tie and 1, 0, 1: (1 + 0.5 + 0.75 + 0 + 1) / 5
    assert (found["first_rate"]["value"], found["first_rate"]["n"]) == (pytest.approx(0.65), 5)
    assert order_figures(matches[4:5]) == {"flip_rate": None, "first_rate": None}


def test_turns_are_averaged_and_missing_ones_counted_by_reason() -> None:
    matches = [
        Match("a", 0, {True: 1.0}),
        Match("a", 1, {True: 0.5}),
        Match("b", 0, {True: None}, "too long"),
        Match("b", 1, {True: 0.0}),
        Match("c", 0, {True: None}),
    ]
    assert by_item(matches, False) == {"a": 0.75, "b": 0.0, "c": None}
    assert missing_reasons(matches, False) == {"too long": 1, "no verdict": 1}


def test_the_allowed_share_is_of_judgements_and_two_items_must_be_left() -> None:
    require_enough("x", [None, *[0.5] * 9], {}, 0.1)
    with pytest.raises(RunFailed, match=r"x: 2 of 10 judgements are missing \(too long: 2\), and 10% are allowed"):
        require_enough("x", [None, None, *[0.5] * 8], {"too long": 2}, 0.1)
    # A judge that fails at every second turn leaves every item a value, of its first turn alone.
    with pytest.raises(RunFailed, match="3 of 6 judgements"):
        require_enough("x", [1.0, None] * 3, {}, 0.1, [1.0] * 3)
    with pytest.raises(RunFailed, match="2 must be left"):
        require_enough("x", [1.0, 1.0, None, None], {}, 0.9, [1.0, None])
    require_enough("x", [1.0], {}, 0.1, least=1)


def firsts(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[bool, float | None]]:
    return st.dictionaries(st.booleans(), st.one_of(st.none(), values), max_size=2)


@given(
    st.one_of(
        st.tuples(firsts(st.floats(0, 1)), st.just(False)),
        st.tuples(firsts(st.sampled_from([0.0, 0.5, 1.0])), st.booleans()),
    )
)
def test_the_opponents_preference_is_the_rest(of: tuple[dict[bool, float | None], bool]) -> None:
    first, discrete = of
    ours = Match("a", 0, first)
    theirs = Match("a", 0, {not switched: p for switched, p in first.items()})  # the same texts, in the other roles
    assert theirs.flipped() == ours.flipped()
    preference = ours.preference(discrete)
    if preference is None:
        assert theirs.preference(discrete) is None
    else:
        assert theirs.preference(discrete) == pytest.approx(1 - preference)


@given(st.floats(0, 1), st.floats(0, 1))
def test_both_orders_are_the_mean_of_the_two(straight: float, switched: float) -> None:
    one, other = (Match("a", 0, first).preference(False) for first in ({False: straight}, {True: switched}))
    both = Match("a", 0, {False: straight, True: switched}).preference(False)
    assert one is not None and other is not None and both == pytest.approx((one + other) / 2)
    assert 0 <= both <= 1


# ---- what is asked


def item(id: str, *later: str, references: tuple[str, ...] = ()) -> Prompt:
    return Prompt(id, ({"role": "user", "content": f"Say {id}"},), later_turns=later, references=references)


def said(name: str, **texts: list[str]) -> Answers:
    return Answers(name, texts)


def test_equal_outputs_and_missing_ones_need_no_asking() -> None:
    items = [item(id) for id in ("equal", "ours", "theirs", "neither", "both")]
    theirs = said("them", equal=["x"], ours=[], theirs=["y"], neither=[], both=["a"])
    ours = said("us", equal=["x"], ours=["y"], theirs=[], neither=[], both=["b"])
    orders = {one.id: (False, True) for one in items}
    for lacking in (None, 1.0):  # outputs without the instruction; an opponent that could not answer
        questions, decided, failures = _questions(PLAIN, items, theirs, ours, orders, lacking)
        assert decided == {("equal", 0): 0.5, ("ours", 0): lacking, ("theirs", 0): 0.0, ("neither", 0): 0.5}
        assert failures == {"prompt too long": 2}
        assert list(questions) == ["both|1|straight", "both|1|switched"]
    straight, switched = (questions[id][-1]["content"] for id in questions)
    assert "<output_A>\na\n</output_A>\n\n<output_B>\nb\n</output_B>" in straight
    assert "<output_A>\nb\n</output_A>\n\n<output_B>\na\n</output_B>" in switched
    assert "<instruction>\nSay both\n</instruction>" in straight


def test_a_second_turn_shows_both_turns_and_is_no_tie_because_its_own_texts_are_equal() -> None:
    items = [item("a", "Again"), item("b", "Again"), item("c", "Again")]
    theirs = said("them", a=["x", "same"], b=["x", "y"], c=["x"])
    ours = said("us", a=["z", "same"], b=["x", "q"], c=["w"])
    orders = {one.id: (False,) for one in items}
    questions, decided, failures = _questions(TALK, items, theirs, ours, orders, None)
    assert list(questions) == ["a|1|straight", "a|2|straight", "b|2|straight", "c|1|straight"]
    assert decided == {("b", 0): 0.5, ("c", 1): 0.5} and failures == {"prompt too long": 1}
    shown = questions["a|2|straight"][-1]["content"]
    places = [shown.index(text) for text in ("Say a", "\nx\n", "Again", "same")]
    assert places == sorted(places) and shown.count("same") == 2 and "\nz\n" in shown


def test_references_choose_the_variant_that_shows_them() -> None:
    items = [item("with", "Again", references=("R1", "R2")), item("without", "Again")]
    answers = said("them", **{one.id: ["x", "y"] for one in items}), said("us", **{o.id: ["z", "q"] for o in items})
    questions, _, _ = _questions(TALK, items, *answers, {one.id: (False,) for one in items}, None)
    assert ["R1" in str(turns) for turns in questions.values()] == [True, True, False, False]
    assert ["R2" in str(turns) for turns in questions.values()] == [False, True, False, False]
    with pytest.raises(InputError, match="pair-plain has no prompt for a second turn"):
        _questions(PLAIN, items, *answers, {one.id: (False,) for one in items}, None)


# ---- whole evaluations: tiny models play, a tiny model judges


def widened(folder: Path) -> Path:
    """The same model with room for a judge's prompts."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    return folder


@pytest.fixture(scope="session")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widened(save_tiny_model(tmp_path_factory.mktemp("judge") / "judge", seed=7))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("other") / "other", seed=1)


WORDS = [
    f"{animal} {place}"
    for animal in ("cat", "dog", "bee", "owl")
    for place in ("top", "end", "left", "old", "new", "far")
]
SUITE = """\
name: tiny-pairs
kind: preference
data: items.jsonl
rubric: pair-plain
max_new_tokens: 6
"""


def write_suite(folder: Path, rows: list[dict[str, Any]] | None = None, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    usual = [{"instruction": f"Name {w}", "output": w, "generator": "baseline-model"} for w in WORDS]
    write_jsonl(folder / "items.jsonl", usual if rows is None else rows)
    (folder / "pairs.yaml").write_text(SUITE + more)
    return folder


def evaluation(folder: Path, model: Path | str, judge: Path | str, **changes: Any) -> Recipe:
    """A recipe that measures `model` on the suite in `folder`; `policies` and `output` are the recipe's, others the
    suite's keys."""
    values = {
        "method": "evaluate",
        "model": str(model),
        "policies": changes.pop("policies", []),
        "output": str(folder / changes.pop("output", "run")),
        "evaluate": [{"suite": "pairs.yaml", "judge": {"model": str(judge)}, **changes}],
        "sampling": {"backend": "transformers"},
    }
    return make_recipe(values, folder=folder)


def evaluations(result: Result) -> list[dict[str, Any]]:
    return [event for event in result.events if event["event"] == "evaluation"]


def exported(result: Result, policy: str, suite: str = "tiny-pairs") -> list[dict[str, Any]]:
    return json.loads((result.folder / "annotations" / f"{suite}-{policy}.json").read_text())


def first_by_hand(judge: Path, rubric: str, labels: tuple[str, str], row: Mapping[str, Any], switched: bool) -> float:
    """Probability that the output shown first is the better one, with plain Transformers and text replacement."""
    shown = [row["output_2"], row["output_1"]] if switched else [row["output_1"], row["output_2"]]
    text = (JUDGES / rubric / "prompt.txt").read_text().removesuffix("\n")
    for name, value in zip(("instruction", "output_1", "output_2"), [row["instruction"], *shown], strict=True):
        assert text.count(f"{{{name}}}") == 1
        text = text.replace(f"{{{name}}}", value)
    chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    if (JUDGES / rubric / "system.txt").is_file():
        system = (JUDGES / rubric / "system.txt").read_text().removesuffix("\n")
        chat = f"<|im_start|>system\n{system}<|im_end|>\n{chat}"
    tokenizer = AutoTokenizer.from_pretrained(judge)
    model = AutoModelForCausalLM.from_pretrained(judge, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(chat, add_special_tokens=False)["input_ids"]])).logits[0, -1].double()
    ids = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    assert [len(one) for one in ids] == [1, 1]
    return float(torch.softmax(logits[[one[0] for one in ids]], 0)[0])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, other_model: Path, judge_model: Path) -> Result:
    """Two policies against the baseline's outputs, in both orders."""
    folder = write_suite(tmp_path_factory.mktemp("both"))
    return run(evaluation(folder, tiny_model, judge_model, policies=[str(other_model)], order="both"), quiet())


def test_a_preference_is_the_softmax_of_the_two_labels_and_both_orders_their_mean(
    both: Result, judge_model: Path
) -> None:
    rows = exported(both, "tiny")
    assert [row["instruction"] for row in rows] == [f"Name {w}" for w in WORDS]
    assert [row["output_1"] for row in rows] == WORDS and {row["generator_1"] for row in rows} == {"baseline-model"}
    spread = set()
    for row in rows[:6]:
        straight, switched = (first_by_hand(judge_model, "pair-plain", ("A", "B"), row, s) for s in (False, True))
        assert row["preference"] - 1 == pytest.approx((1 - straight + switched) / 2, abs=1e-5)
        spread.add(round(row["preference"], 3))
    assert len(spread) == 6, "all the same: this test would show nothing"


def test_the_figures_are_those_of_the_win_rate_and_of_length_control(both: Result) -> None:
    first, second = evaluations(both)
    gamed, _ = shipped_gamed()
    fitted = {}
    for event in (first, second):
        rows = exported(both, event["policy"])
        preferences = [row["preference"] - 1 for row in rows]
        rate, figures = win_rate(preferences), event["preference"]
        assert event["metric"] == "win rate" and event["n"] == 24
        assert event["value"] == pytest.approx(rate.win_rate / 100, abs=1e-9)
        assert (event["low"], event["high"]) == pytest.approx((rate.low / 100, rate.high / 100))
        assert figures["standard_error"] == pytest.approx(rate.standard_error / 100)
        assert figures["discrete"] == pytest.approx(rate.discrete / 100)
        assert [figures[name] for name in ("wins", "losses", "ties")] == [rate.wins, rate.losses, rate.draws]
        lengths = [len(row["output_1"]) - len(row["output_2"]) for row in rows]
        controlled = fitted[event["policy"]] = length_controlled_win_rate(
            preferences, lengths, [0.0] * 24, gamed, resamples=200
        )
        found = figures["length_controlled"]
        assert [found[name] * 100 for name in ("value", "low", "high")] == pytest.approx(
            [controlled.win_rate, controlled.low, controlled.high]
        )
        assert figures["mean_length"] == pytest.approx(np.mean([len(row["output_2"]) for row in rows]))
        assert figures["against_mean_length"] == pytest.approx(np.mean([len(w) for w in WORDS]))
        assert figures["published_form"] is False and figures["missing"] == {}
        assert (figures["against"], figures["judge"]) == ("baseline-model", "pair-plain by judge")
        assert figures["cost"]["requests"] == 48 and figures["cost"]["cost"] is None
        assert 0 <= figures["flip_rate"]["value"] <= 1 and figures["first_rate"]["n"] == 24
        assert len(figures["examples"]) == 8 and figures["examples"][0]["against_output"] == WORDS[0]
    # paired: the same instructions before and after
    assert first["paired"] is None and first["preference"]["length_controlled_paired"] is None
    changes = [
        b["preference"] - a["preference"] for a, b in zip(*(exported(both, n) for n in ("tiny", "other")), strict=True)
    ]
    assert second["paired"]["difference"] == pytest.approx(np.mean(changes))
    assert second["paired"]["against"] == "tiny" and second["paired"]["n"] == 24
    paired = second["preference"]["length_controlled_paired"]
    drawn = np.subtract(fitted["other"].resampled, fitted["tiny"].resampled) / 100
    expected = [(fitted["other"].win_rate - fitted["tiny"].win_rate) / 100, *np.percentile(drawn, [2.5, 97.5])]
    assert [paired[name] for name in ("difference", "low", "high")] == pytest.approx(expected)


def test_the_exported_annotations_give_the_same_win_rate(
    both: Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = both.folder / "annotations" / "tiny-pairs-tiny.json"
    monkeypatch.setattr("sys.argv", ["selfimprove", "eval", "alpaca", "--annotations", str(path), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)
    event = evaluations(both)[0]
    assert found["model"] == "tiny" and found["n"] == 24
    assert found["win_rate"] / 100 == pytest.approx(event["value"], abs=1e-9)
    assert found["standard_error"] / 100 == pytest.approx(event["preference"]["standard_error"], abs=1e-9)
    assert found["mean_length"] == pytest.approx(event["preference"]["mean_length"])


def test_random_order_is_alpaca_evals_coin_and_its_own_prompt_is_read_by_m_and_M(
    tmp_path: Path, tiny_model: Path, judge_model: Path
) -> None:
    folder = write_suite(tmp_path / "x")
    result = run(evaluation(folder, tiny_model, judge_model, rubric="alpaca-eval", limit=12), quiet())
    rows = exported(result, "tiny")
    coins = [is_switched(row["instruction"]) for row in rows]
    assert len(rows) == 12 and len(set(coins)) == 2
    for row, switched in zip(rows[:6], coins, strict=False):
        first = first_by_hand(judge_model, "alpaca-eval", ("m", "M"), row, switched)
        assert row["preference"] - 1 == pytest.approx(first if switched else 1 - first, abs=1e-5)
    (event,) = evaluations(result)
    figures = event["preference"]
    assert figures["cost"]["requests"] == 12 and figures["flip_rate"] is None and figures["first_rate"]["n"] == 12
    assert figures["length_controlled"] is None, "12 preferences are too few for it"


def test_the_base_is_a_tie_with_itself_and_a_policy_mirrors_its_opponent(
    tmp_path: Path, tiny_model: Path, other_model: Path, judge_model: Path
) -> None:
    folder = write_suite(tmp_path / "x")
    limits = {"limit": 6, "order": "both"}
    first = run(
        evaluation(folder, tiny_model, judge_model, policies=[str(other_model)], against="base", **limits), quiet()
    )
    itself, other = evaluations(first)
    assert itself["value"] == 0.5 and itself["low"] < 0.3 and itself["high"] > 0.7  # six ties prove little
    assert itself["preference"]["cost"]["requests"] == 0 and itself["preference"]["first_rate"] is None
    assert other["preference"]["against"] == "tiny" and other["preference"]["cost"]["requests"] == 12
    second = run(
        evaluation(folder, tiny_model, judge_model, output="mirrored", against=str(other_model), **limits), quiet()
    )
    (mirrored,) = evaluations(second)
    assert mirrored["preference"]["against"] == "other"
    for one, rest in zip(exported(first, "other"), exported(second, "tiny"), strict=True):
        assert one["preference"] + rest["preference"] == pytest.approx(3)
        assert (one["output_1"], one["output_2"]) == (rest["output_2"], rest["output_1"])
    assert other["value"] + mirrored["value"] == pytest.approx(1)
    assert other["preference"]["flip_rate"] == mirrored["preference"]["flip_rate"]


def test_against_a_file_of_outputs(tmp_path: Path, tiny_model: Path, judge_model: Path) -> None:
    folder = write_suite(tmp_path / "x", [{"instruction": f"Name {w}"} for w in WORDS[:10]])
    rows = [{"instruction": f"Name {w}", "output": f"{w}!", "generator": "theirs"} for w in reversed(WORDS)]
    write_jsonl(folder / "theirs.jsonl", rows)
    make = lambda **changes: evaluation(folder, tiny_model, judge_model, **changes)  # noqa: E731
    result = run(make(against="theirs.jsonl"), quiet())
    assert [row["output_1"] for row in exported(result, "tiny")] == [f"{w}!" for w in WORDS[:10]]
    assert evaluations(result)[0]["preference"]["against"] == "theirs"

    with pytest.raises(InputError, match="have no `output`s to compare with; give another opponent"):
        run(make(against="baseline", output="a"), quiet())
    with pytest.raises(InputError, match=r"no file 'nothing\.json'; looked in"):
        run(make(against="nothing.json", output="b"), quiet())
    write_jsonl(folder / "twice.jsonl", [rows[-1], {**rows[-1], "output": "another"}])
    with pytest.raises(InputError, match="two different outputs for one instruction"):
        run(make(against="twice.jsonl", output="c"), quiet())
    write_jsonl(folder / "few.jsonl", rows[:-2])
    with pytest.raises(InputError, match="has no output for 2 of 10 instructions, for instance 'Name cat top'"):
        run(make(against="few.jsonl", output="d"), quiet())
    # Within the allowed share what the file lacks is missing, with its reason.
    (event,) = evaluations(run(make(against="few.jsonl", output="e", max_missing=0.2), quiet()))
    assert event["n"] == 8 and event["preference"]["missing"] == {"the opponent has no output": 2}


def test_a_judges_failures_are_missing_and_too_many_end_the_evaluation(
    tmp_path: Path, tiny_model: Path, judge_model: Path
) -> None:
    # 400 bytes fit the policy's 512 positions, and not those of a judge as small with a prompt around them.
    long = [{"instruction": "x" * 400 + w, "output": w} for w in WORDS[:2]]
    folder = write_suite(tmp_path / "x", [{"instruction": f"Name {w}", "output": w} for w in WORDS[:8]] + long)
    small = save_tiny_model(tmp_path / "small", seed=7)
    why = "longer than the judge's context"
    with pytest.raises(RunFailed, match=f"tiny-pairs: 2 of 10 judgements are missing \\({why}: 2\\), and 10% are"):
        run(evaluation(folder, tiny_model, small), quiet())
    (event,) = evaluations(run(evaluation(folder, tiny_model, small, max_missing=0.2), quiet()))
    assert event["n"] == 8 and event["preference"]["missing"] == {why: 2} and event["failures"] == {}
    assert [row["preference"] is None for row in exported(run_result(folder), "tiny")] == [False] * 8 + [True] * 2
    # A judge that writes, and writes no verdict.
    (folder / "spoken").mkdir()
    (folder / "spoken" / "rubric.yaml").write_text("parser: verdict\nmax_new_tokens: 4\n")
    (folder / "spoken" / "prompt.txt").write_text("{instruction}\n{output_1}\n{output_2}\n[[A]], [[B]] or [[C]]?\n")
    with pytest.raises(RunFailed, match="cut off by the length limit: 10"):
        run(evaluation(folder, tiny_model, judge_model, rubric="spoken", order="both", output="written"), quiet())


def run_result(folder: Path) -> Result:
    return Result(None, folder / "run", folder / "run" / "report.html", [])


def test_a_prompt_too_long_for_the_policy_is_its_loss_and_for_the_opponent_its_win(
    tmp_path: Path, tiny_model: Path, judge_model: Path, other_model: Path
) -> None:
    rows = [{"instruction": f"Name {w}", "output": w} for w in WORDS[:3]] + [{"instruction": "x" * 600, "output": "y"}]
    folder = write_suite(tmp_path / "x", rows)
    wide = widened(save_tiny_model(tmp_path / "wide", seed=3))
    (event,) = evaluations(result := run(evaluation(folder, tiny_model, judge_model), quiet()))
    assert event["failures"] == {"prompt too long": 1} and event["n"] == 4
    assert exported(result, "tiny")[-1]["preference"] == 1.0 and exported(result, "tiny")[-1]["output_2"] == ""
    assert any("1 of 4 questions to tiny are too long" in str(one.get("text")) for one in result.events)
    result = run(evaluation(folder, wide, judge_model, against=str(tiny_model), output="wide"), quiet())
    assert exported(result, "wide")[-1]["preference"] == 2.0 and evaluations(result)[0]["failures"] == {}
    # neither could answer: a tie, and the policy's failure all the same
    result = run(evaluation(folder, other_model, judge_model, against=str(tiny_model), output="neither"), quiet())
    assert exported(result, "other")[-1]["preference"] == 1.5
    assert evaluations(result)[0]["failures"] == {"prompt too long": 1}
    with pytest.raises(InputError, match="all 4 prompts are too long for tiny: prompt \\+ 600 new tokens"):
        run(evaluation(folder, tiny_model, judge_model, max_new_tokens=600, output="none"), quiet())


def test_the_same_model_twice_is_refused(tmp_path: Path, tiny_model: Path, judge_model: Path) -> None:
    folder = write_suite(tmp_path / "x")
    with pytest.raises(InputError, match=r"is the same model as .*measure it once"):
        run(evaluation(folder, tiny_model, judge_model, policies=[str(tiny_model)]), quiet())


def test_all_policies_of_a_run_are_measured(
    tiny_recipe: MakeRecipe,
    tiny_data: Path,
    judge_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_suite(tiny_data / "x")
    trained = run(tiny_recipe("sft", evaluate=[]), quiet())
    arguments = ["--policy", f"{trained.folder}@all", "--judge", str(judge_model), "--against", "base", "--limit", "4"]
    arguments += ["--order", "both", "--backend", "transformers", "--output", str(tiny_data / "all"), "--json"]
    monkeypatch.setattr("sys.argv", ["selfimprove", "eval", str(tiny_data / "x" / "pairs.yaml"), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    found = json.loads(printed.out)
    assert [one["policy"] for one in found] == ["run@M0", "run@M1"]
    names = {path.name for path in (tiny_data / "all" / "annotations").iterdir()}
    assert names == {"tiny-pairs-run@M0.json", "tiny-pairs-run@M1.json"}
    rows = json.loads((tiny_data / "all" / "annotations" / "tiny-pairs-run@M1.json").read_text())
    assert {row["generator_1"] for row in rows} == {"run@M0"}


# ---- changed suites, interrupted evaluations, leaks


def sampled_lengths(result: Result) -> set[int]:
    return {
        len(row["ids"])
        for path in (result.folder / "steps").glob("sample-*/rows-*.arrow")
        for row in read_rows(path)
        if row["finish"] == "length"
    }


def test_keys_of_a_suite_are_changed_from_the_recipe(tmp_path: Path, tiny_model: Path, judge_model: Path) -> None:
    folder = write_suite(tmp_path / "x")
    result = run(evaluation(folder, tiny_model, judge_model, max_new_tokens=4, limit=5), quiet())
    assert sampled_lengths(result) == {4} and evaluations(result)[0]["n"] == 5
    assert "max_new_tokens: 4" in (result.folder / "recipe.yaml").read_text()
    changed = "as changed by evaluate or the command line"
    for changes, parts in (
        ({"max_new_tokenz": 4}, [changed, "unknown key `max_new_tokenz`; did you mean `max_new_tokens`?"]),
        ({"zzz": 4}, ["unknown key `zzz`; known for kind preference: name, data"]),
        ({"order": "sideways"}, [changed, "key `order`", "found 'sideways'"]),
        ({"judge": {"modle": "x"}}, [changed, "unknown key `judge.modle`; did you mean `model`?"]),
        ({"judge": {"server": {"base_ulr": "http://x/v1", "model": "x"}}}, ["`judge.server.base_ulr`", "`base_url`?"]),
        ({"data": {"path": "items.jsonl", "limits": 3}}, ["unknown key `data.limits`; did you mean `limit`?"]),
        ({"kind": "prefrence"}, ["key `kind`", "prefrence"]),
    ):
        with pytest.raises(InputError) as refused:
            load_suite("pairs.yaml", [folder], changes)
        assert all(part in str(refused.value) for part in parts), str(refused.value)


class Stopping(Progress):
    """Ctrl-C at the first step whose label holds a text."""

    def __init__(self, at: str) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.at = at

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "items") -> Iterator[Callable[[int], None]]:
        if self.at in name:
            raise KeyboardInterrupt
        with super().task(name, total, unit) as advance:
            yield advance


def finished_steps(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("steps/[!.]*/manifest.json")}


def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in ("time", "seconds")} for event in events]


def test_an_interrupted_evaluation_goes_on(
    tmp_path: Path, tiny_model: Path, other_model: Path, judge_model: Path
) -> None:
    folder = write_suite(tmp_path / "x")

    def recipe(output: str) -> Recipe:
        return evaluation(
            folder, tiny_model, judge_model, policies=[str(other_model)], order="both", limit=8, output=output
        )

    undisturbed = run(recipe("undisturbed"), quiet())
    before: dict[str, int] = {}
    for at in ("tiny-pairs judge", "tiny-pairs with other"):
        with pytest.raises(KeyboardInterrupt):
            run(recipe("stopped"), Stopping(at))
        now = finished_steps(folder / "stopped")
        assert len(now) > len(before) and {name: now[name] for name in before} == before
        before = now
    resumed = run(recipe("stopped"), quiet())
    after = finished_steps(folder / "stopped")
    assert {name: after[name] for name in before} == before and set(after) == set(
        finished_steps(folder / "undisturbed")
    )
    assert without_times(evaluations(resumed)) == without_times(evaluations(undisturbed))
    assert exported(resumed, "other") == exported(undisturbed, "other")


def test_a_killed_evaluation_goes_on(tmp_path: Path, tiny_model: Path, judge_model: Path, both: Result) -> None:
    folder = write_suite(tmp_path / "x")
    arguments = ["--policy", str(tiny_model), "--judge", str(judge_model), "--order", "both"]
    arguments += ["--output", str(folder / "run"), "--backend", "transformers"]
    command = [sys.executable, "-m", "selfimprove", "eval", str(folder / "pairs.yaml"), *arguments]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None and not (kept := finished_steps(folder / "run")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert len(kept) == 1 and not (folder / "run" / "annotations").exists()
    result = run(evaluation(folder, tiny_model, judge_model, order="both"), quiet())
    after = finished_steps(folder / "run")
    assert len(after) == 2 and {name: after[name] for name in kept} == kept
    assert exported(result, "tiny") == exported(both, "tiny")


@pytest.mark.parametrize("leaked", ["Name owl far", "Now tell me who lives in that house over there"])
def test_the_leak_gate_sees_later_turns_and_items_beyond_the_limit(
    tiny_recipe: MakeRecipe, tiny_data: Path, judge_model: Path, leaked: str
) -> None:
    rows = [{"turns": [f"Name {w}", "Now tell me who lives in that house over there"]} for w in WORDS]
    write_suite(tiny_data, rows)
    with (tiny_data / "seed.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": leaked, "response": "x"}) + "\n")
    suite = {"suite": "pairs.yaml", "rubric": "mt-bench-pair", "judge": {"model": str(judge_model)}}
    with pytest.raises(GateError, match="no_leak") as stopped:
        run(tiny_recipe("sft", evaluate=[{**suite, "against": "base", "limit": 2}]), quiet())
    assert leaked in str(stopped.value)


# ---- AlpacaEval's own instructions


BROADWAY = "What are the names of some famous actors that started their careers on Broadway?"


def test_an_instruction_of_alpaca_eval_is_known_by_its_text(
    tmp_path: Path, tiny_model: Path, judge_model: Path
) -> None:
    ask = lambda text: Prompt("a", ({"role": "user", "content": text},))  # noqa: E731
    assert known_index(ask(BROADWAY)) == 0 and known_index(ask(BROADWAY + " ")) is None
    folder = write_suite(tmp_path / "x", [{"instruction": text, "output": "y"} for text in ("Name it", BROADWAY)])
    run(evaluation(folder, tiny_model, judge_model), quiet())
    # Numbered all or none: the second row's place is 1, and a number 0 would clash with the first's.
    assert all("index" not in row for row in exported(run_result(folder), "tiny"))
    only = evaluation(
        folder, tiny_model, judge_model, output="only", data={"path": "items.jsonl", "where": {"instruction": BROADWAY}}
    )
    with pytest.raises(RunFailed, match="2 must be left"):
        run(only, quiet())


@pytest.mark.skipif(not SHARED.is_dir(), reason="AlpacaEval's instructions are not at hand")
def test_alpaca_eval_is_known_and_its_difficulties_are_used(
    tmp_path: Path, tiny_model: Path, judge_model: Path
) -> None:
    rows = json.loads((SHARED / "alpaca_eval_gpt4_baseline.json").read_text())
    prompts = [Prompt("a", ({"role": "user", "content": row["instruction"]},)) for row in rows]
    assert [known_index(prompt) for prompt in prompts] == list(range(805))
    # The 24 shortest, out of order: difficulties are found by instruction, not by place.
    short = sorted(rows, key=lambda row: len(row["instruction"]) + len(row["output"]))[:24]
    folder = write_suite(tmp_path / "x", short)
    result = run(evaluation(folder, tiny_model, judge_model, order="both"), quiet())
    (event,) = evaluations(result)
    found = exported(result, "tiny")
    assert event["preference"]["against"] == "gpt4_1106_preview" and not event["preference"]["published_form"]
    gamed, difficulty = shipped_gamed()
    places = [[row["instruction"] for row in rows].index(row["instruction"]) for row in short]
    assert [row["index"] for row in found] == places
    controlled = length_controlled_win_rate(
        [row["preference"] - 1 for row in found],
        [len(row["output_1"]) - len(row["output_2"]) for row in found],
        [difficulty[place] for place in places],
        gamed,
    )
    assert event["preference"]["length_controlled"]["value"] * 100 == pytest.approx(controlled.win_rate)
    assert not math.isclose(controlled.win_rate, 100 * event["value"], abs_tol=0.01)


def test_the_rounds_of_a_recipe_are_judged_too(
    tiny_recipe: Callable[..., Recipe], tiny_data: Path, judge_model: Path
) -> None:
    write_suite(tiny_data / "judged")
    choice = {"suite": "judged/pairs.yaml", "against": "base", "order": "both", "limit": 8}
    judged = choice | {"judge": {"model": str(judge_model)}}
    recipe = tiny_recipe("srlm", rounds=1, sft={"learning_rate": 3e-2}, evaluate=["suite.yaml", judged])
    found = {event["policy"]: event for event in evaluations(run(recipe, quiet())) if event["suite"] == "tiny-pairs"}
    assert [(name, event["round"], event["n"]) for name, event in found.items()] == [
        ("M0", 0, 8), ("M1", 0, 8), ("M2", 1, 8)
    ]  # fmt: skip
    assert {event["preference"]["against"] for event in found.values()} == {"M0"}
    # M0 against itself: equal outputs are ties, and no judge is asked
    assert found["M0"]["value"] == 0.5 and found["M0"]["preference"]["cost"]["requests"] == 0
    assert found["M1"]["value"] != 0.5 and found["M1"]["preference"]["cost"]["requests"] == 16
    assert (found["M1"]["paired"]["against"], found["M2"]["paired"]["against"]) == ("M0", "M1")
