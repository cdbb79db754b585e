"""How far a judge can be trusted: judges whose faults are known, people who disagree, and LLMBar with a tiny model."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import save_tiny_model, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from selfimprove.cli import app as cli
from selfimprove.data.labelled import LabelledPair, load_labelled_pairs
from selfimprove.data.sources import DataSource
from selfimprove.errors import InputError, RunFailed
from selfimprove.recipe.recipe import Recipe, make_recipe
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.runs.results import Result
from selfimprove.suites.judge_quality import human_agreement, quality
from selfimprove.suites.matches import Match

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "alpaca_eval"


def pair(id: int, first: str, second: str, *votes: float, group: str | None = None) -> LabelledPair:
    messages = ({"role": "user", "content": f"question {id}"},)
    return LabelledPair(str(id), messages, first, second, group, list(votes))


# A judge: the probability that it takes the first of two texts that it is shown.
Judging = Callable[[str, str], float | None]


def figures(judge: Judging, pairs: Sequence[LabelledPair], discrete: bool = False) -> dict[str, Any]:
    matches = [
        Match(one.id, 0, {False: judge(one.output_1, one.output_2), True: judge(one.output_2, one.output_1)})
        for one in pairs
    ]
    return quality(pairs, matches, [match.preference(discrete) for match in matches])


# ---- by hand


PAIRS = [
    pair(0, "right", "wrong, and long", 0.0, group="short is right"),
    pair(1, "wrong", "right, and long", 1.0, group="long is right"),
    pair(2, "right, and long", "wrong", 0.0, group="long is right"),
    pair(3, "wrong", "right", 1.0),  # of one length
]


def test_a_judge_that_is_always_right() -> None:
    found = figures(lambda first, second: float(first.startswith("right")), PAIRS)
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (1.0, 4)
    assert found["accuracy_first_order"]["value"] == 1.0
    assert found["flip_rate"]["value"] == 0.0 and found["first_rate"]["value"] == 0.5
    assert found["tie_rate"]["value"] == 0.0
    # Of the three pairs with a longer output, it is the better one in two.
    assert (found["longer_rate"]["value"], found["longer_rate"]["n"]) == (pytest.approx(2 / 3), 3)
    assert found["label_longer_rate"] == pytest.approx(2 / 3)
    assert found["groups"] == {
        "short is right": {"value": 1.0, "n": 1},
        "long is right": {"value": 1.0, "n": 2},
        "all": {"value": 1.0, "n": 1},
    }
    assert found["human"] is None


def test_a_judge_that_always_takes_the_first() -> None:
    found = figures(lambda first, second: 1.0, PAIRS, discrete=True)
    assert found["accuracy"]["value"] == 0.5 and found["accuracy"]["low"] < 0.3  # four pairs prove little
    assert found["accuracy_first_order"]["value"] == 0.5  # pairs 0 and 2
    assert found["flip_rate"]["value"] == 1.0 and found["first_rate"]["value"] == 1.0
    assert found["tie_rate"]["value"] == 1.0 and found["longer_rate"] is None, "verdicts that disagree are a tie"


def test_a_judge_that_always_takes_the_longer() -> None:
    found = figures(lambda a, b: 0.5 if len(a) == len(b) else float(len(a) > len(b)), PAIRS)
    assert found["longer_rate"]["value"] == 1.0 and found["label_longer_rate"] == pytest.approx(2 / 3)
    assert found["accuracy"]["value"] == (0 + 1 + 1 + 0.5) / 4  # a tie counts half
    assert (found["tie_rate"]["value"], found["tie_rate"]["n"]) == (0.25, 4)
    assert (found["flip_rate"]["value"], found["flip_rate"]["n"]) == (0.0, 3)
    assert found["groups"]["short is right"] == {"value": 0.0, "n": 1}


def test_probabilities_are_averaged_and_each_order_is_right_or_wrong_by_itself() -> None:
    # Straight 0.9 for the first, switched 0.8 for the first: the mean is (0.1 + 0.8) / 2 = 0.45 for the second.
    one = [pair(0, "a", "bb", 0.0)]
    match = Match("0", 0, {False: 0.9, True: 0.8})
    found = quality(one, [match], [match.preference(False)])
    assert match.preference(False) == pytest.approx(0.45)
    assert found["accuracy"]["value"] == 0.5 and found["accuracy_first_order"]["value"] == 1.0
    assert (
        found["flip_rate"]["value"] == 1.0 and found["longer_rate"]["value"] == 0.0 and found["tie_rate"]["value"] == 0
    )


def test_missing_verdicts_and_even_votes_are_in_no_rate() -> None:
    pairs = [pair(0, "a", "bb", 1.0), pair(1, "a", "bb", 1.0), pair(2, "a", "bb", 0.0, 1.0)]
    firsts: list[dict[bool, float | None]] = [
        {False: None, True: None},
        {False: None, True: 1.0},
        {False: 0.0, True: 1.0},
    ]
    matches = [Match(one.id, 0, first) for one, first in zip(pairs, firsts, strict=True)]
    found = quality(pairs, matches, [match.preference(False) for match in matches])
    # The second's other order is known and right; the third has no right answer.
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (1.0, 1)
    assert found["accuracy_first_order"] is None
    assert found["tie_rate"]["n"] == 1 and found["longer_rate"]["n"] == 1
    assert found["label_longer_rate"] == 1.0, "of the two pairs that have a label"


# ---- people


def test_human_agreement_by_hand() -> None:
    # 3 to 1: each of the three agrees with a majority of 2 to 1 of the others, the fourth with none: 3/4.
    # 2 to 2: each one's others are 2 to 1 against it: 0. All alike: 1.
    votes = [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0] * 4, [1.0]]
    found = human_agreement(votes, [1.0, 1.0, 1.0, 0.0])
    assert found is not None
    assert found["ceiling"]["value"] == pytest.approx((0.75 + 0 + 1) / 3) and found["ceiling"]["n"] == 3
    # The judge says "second": all four majorities of the first, half of the second's (by the two left out that voted
    # against it), none of the third. One vote alone has nobody to be compared with.
    assert found["judge"]["value"] == pytest.approx((1 + 0.5 + 0) / 3) and found["judge"]["n"] == 3
    # Two votes: each is the other's majority. Three, 2 to 1: two of them face an even pair, which counts half.
    even = human_agreement([[1.0, 0.0], [1.0, 1.0, 0.0]], [0.5, None])
    assert even is not None
    assert even["ceiling"]["value"] == pytest.approx((0 + (0.5 + 0.5 + 0) / 3) / 2)
    assert (even["judge"]["value"], even["judge"]["n"]) == (0.5, 1)
    assert human_agreement([[1.0], [0.0]], [1.0, 0.0]) is None
    assert human_agreement([[1.0, 0.0]], [None]) is None


many_votes = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=6), min_size=1, max_size=8)


@given(many_votes, st.randoms(use_true_random=False))
def test_agreement_does_not_depend_on_which_output_is_called_the_second(
    votes: list[list[float]], draw: random.Random
) -> None:
    preferences = [draw.choice([0.0, 0.3, 0.5, 0.9]) for _ in votes]
    one = human_agreement(votes, list(preferences))
    other = human_agreement([[1 - v for v in own] for own in votes], [1 - p for p in preferences])
    assert one is not None and other is not None
    for name in ("judge", "ceiling"):
        assert one[name]["value"] == pytest.approx(other[name]["value"])
        assert 0 <= one[name]["low"] <= one[name]["value"] <= one[name]["high"] <= 1


@given(many_votes)
def test_nobody_agrees_with_the_majorities_more_than_the_majority_itself(votes: list[list[float]]) -> None:
    best = human_agreement(
        votes, [float(sum(own) > len(own) / 2) if sum(own) * 2 != len(own) else 0.5 for own in votes]
    )
    assert best is not None and best["judge"]["value"] >= best["ceiling"]["value"] - 1e-12
    for always in (0.0, 1.0):
        found = human_agreement(votes, [always] * len(votes))
        assert found is not None and found["judge"]["value"] <= best["judge"]["value"] + 1e-12


# ---- judges on many pairs


def made_up(count: int, noise: float = 0.0, seed: int = 0) -> list[LabelledPair]:
    """Pairs whose better output holds "good"; `noise`: the share of labels that say the opposite."""
    draw = random.Random(seed)
    pairs = []
    for id in range(count):
        outputs = ["good" + "x" * draw.randrange(9), "poor" + "x" * draw.randrange(9)]
        second = draw.random() < 0.5
        label = float(second) if draw.random() >= noise else 1 - float(second)
        pairs.append(pair(id, *(reversed(outputs) if second else outputs), label))
    return pairs


def by_merit(first: str, second: str) -> float:
    return float(first.startswith("good"))


@given(st.integers(0, 10_000))
def test_a_right_judge_has_one_minus_the_noise(seed: int) -> None:
    pairs = made_up(40, noise=0.2, seed=seed)
    wrong = sum((one.output_2.startswith("good")) != (one.votes == [1.0]) for one in pairs)
    found = figures(by_merit, pairs)
    assert found["accuracy"]["value"] == pytest.approx(1 - wrong / 40)
    assert found["longer_rate"]["n"] == sum(len(one.output_1) != len(one.output_2) for one in pairs)


def test_a_random_judge_is_at_chance_within_its_interval() -> None:
    draw = random.Random(1002)
    found = figures(lambda first, second: draw.random(), made_up(600, seed=2))
    for name in ("accuracy", "flip_rate", "first_rate", "longer_rate"):
        assert found[name]["low"] < 0.5 < found[name]["high"], name
        assert found[name]["high"] - found[name]["low"] < 0.1


_GRID = st.integers(0, 100).map(lambda number: number / 100)


@given(st.lists(st.tuples(_GRID, _GRID), min_size=1, max_size=12), st.booleans())
def test_every_figure_is_a_share_and_exchanging_the_outputs_changes_none_but_the_first_orders(
    probabilities: list[tuple[float, float]], discrete: bool
) -> None:
    pairs = made_up(len(probabilities))
    exchanged = [pair(int(one.id), one.output_2, one.output_1, 1 - one.votes[0]) for one in pairs]
    found = []
    for given_pairs, sides in ((pairs, (False, True)), (exchanged, (True, False))):
        matches = [
            Match(one.id, 0, dict(zip(sides, values, strict=True)))
            for one, values in zip(given_pairs, probabilities, strict=True)
        ]
        # Verdicts are read from probabilities here: averages at exactly one half may round to either side.
        preferences = [None if p is None else round(p, 9) for p in (match.preference(discrete) for match in matches)]
        found.append(quality(given_pairs, matches, preferences))
    for name in ("accuracy", "flip_rate", "first_rate", "longer_rate"):
        one, other = (each[name] and each[name]["value"] for each in found)
        if discrete and name == "longer_rate":
            continue  # see above: 1 - p is rounded, so two equal probabilities need not stay equal
        assert one == pytest.approx(other) if one is not None else other is None
        assert one is None or 0 <= one <= 1


# ---- the data


def test_rows_with_the_same_texts_are_votes_on_one_pair(tmp_path: Path) -> None:
    row = {"instruction": "q", "output_1": "a", "output_2": "b"}
    rows = [{**row, "preference": 1}, {**row, "output_2": "c", "preference": 2}, {**row, "preference": 1.5}]
    write_jsonl(tmp_path / "votes.jsonl", [{**one, "group": "g"} for one in rows])
    first, second = load_labelled_pairs(DataSource(path="votes.jsonl"), [tmp_path])
    assert (first.votes, second.votes, first.group, first.output_2) == ([0.0, 0.5], [1.0], "g", "b")
    assert first.id != second.id
    for broken, said in (
        ({"preference": 3}, "label must be a number from 1 .* to 2, found 3"),
        ({"preference": True}, "label must be .*, found True"),
        ({"preference": "1"}, "label must be .*, found '1'"),
        ({}, "no column 'label'"),
    ):
        write_jsonl(tmp_path / "wrong.jsonl", [{**row, **broken}])
        with pytest.raises(InputError, match=f"wrong.jsonl, line 1: {said}"):
            load_labelled_pairs(DataSource(path="wrong.jsonl"), [tmp_path])


TURNS = [("user", "Who?"), ("assistant", "Me."), ("user", "Why?"), ("assistant", "So.")]
OTHERS = [("user", "Who?"), ("assistant", "You."), ("user", "Why?"), ("assistant", "")]


def conversation(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


# Rows as people publish them, and what they say: (question, output_1, output_2, votes, group)
FORMS: dict[str, tuple[list[dict[str, Any]], list[tuple[Any, ...]]]] = {
    "PandaLM": (
        [{"idx": 0, "instruction": "Add.", "input": "1 + 1", "response1": "2", "response2": "3", "annotator1": 1,
          "annotator2": 0, "annotator3": 2}],
        [("Add.\n\n1 + 1", "2", "3", [0.0, 0.5, 1.0], None)],
    ),
    "MT-Bench, several judges and turns": (
        [{"question_id": 81, "model_a": "x", "model_b": "y", "winner": winner, "judge": "expert", "turn": turn,
          "conversation_a": conversation(TURNS), "conversation_b": conversation(OTHERS)}
         for winner, turn in (("model_a", 1), ("tie", 1), ("model_b", 2))],
        [("Who?", "Me.", "You.", [0.0, 0.5], None),
         ("[Question 1]\nWho?\n\n[Question 2]\nWhy?", "[Answer 1]\nMe.\n\n[Answer 2]\nSo.",
          "[Answer 1]\nYou.\n\n[Answer 2]\n", [1.0], None)],
    ),
    "RewardBench": (
        [{"id": 30, "prompt": "q", "chosen": "good", "chosen_model": "m", "rejected": "bad", "subset": "chat-easy"}],
        [("q", "good", "bad", [0.0], "chat-easy")],
    ),
    "RewardBench, of turns": (
        [{"prompt": "q", "chosen": conversation([("user", "q"), ("assistant", "good")]),
          "rejected": conversation([("user", "q"), ("assistant", "")])}],
        [("q", "good", "", [0.0], None)],
    ),
    "JudgeBench": (
        [{"pair_id": "p", "source": "mmlu-pro", "question": "q", "response_model": "m", "response_A": "x",
          "response_B": "y", "label": label} for label in ("A>B", "B>A")],
        [("q", "x", "y", [0.0, 1.0], "mmlu-pro")],
    ),
    "ties and empty outputs": (
        [{"instruction": "q", "output_1": "", "output_2": "b", "preference": value} for value in (0, 1.5, 2)]
        + [{"instruction": "r", "output_1": "a", "output_2": None, "label": "tie (bothbad)"}],
        [("q", "", "b", [0.5, 0.5, 1.0], None), ("r", "a", "", [0.5], None)],
    ),
    "annotators of whom some said nothing": (
        [{"instruction": "q", "output_1": "a", "output_2": "b", "annotator_1": None, "annotator_2": 2}],
        [("q", "a", "b", [1.0], None)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_pairs_are_read_as_people_publish_them(form: str, tmp_path: Path) -> None:
    rows, expected = FORMS[form]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    found = load_labelled_pairs(DataSource(path="pairs.json"), [tmp_path])
    assert [
        (one.messages[-1]["content"], one.output_1, one.output_2, one.votes, one.group) for one in found
    ] == expected


def test_a_table_and_columns_of_other_names_are_read(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text('q,one,two,ann,bob\n"Who, then?",me,,1,2\nWhy?,so,because,2,\n')
    fields: dict[Any, Any] = {"prompt": "q", "output_1": "one", "output_2": "two", "label": ["ann", "bob"]}
    first, second = load_labelled_pairs(DataSource(path="pairs.csv", fields=fields), [tmp_path])
    assert (first.messages[0]["content"], first.output_2, first.votes) == ("Who, then?", "", [0.0, 1.0])
    assert second.votes == [1.0]
    with pytest.raises(InputError, match=r"no column 'winer' \(fields.label\); columns found: q, one"):
        load_labelled_pairs(DataSource(path="pairs.csv", fields=fields | {"label": "winer"}), [tmp_path])


def test_the_command_takes_the_columns_of_a_table(
    judge_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "mine.csv").write_text("q,one,two,best\nWho?,me,you,model_a\nWhy?,so,because,tie\nHow?,well,,model_a\n")
    monkeypatch.chdir(tmp_path)
    fields = ["fields.prompt=q", "fields.output_1=one", "fields.output_2=two", "fields.label=best"]
    command = ["eval", "judge", "--judge", str(judge_model), "--data", "mine.csv", "--rubric", "pair-plain", *fields]
    monkeypatch.setattr(sys, "argv", ["selfimprove", *command, "--json", "--max-missing", "1", "--output", "run"])
    with suppress(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    (event,) = json.loads(out or "[{}]")
    assert (event.get("n"), event.get("data")) == (3, "mine"), err


@pytest.mark.skipif(not SHARED.is_dir(), reason="people's votes are not at hand")
def test_people_agree_as_alpaca_eval_says() -> None:
    """Its table says 65.66, that is 1702 of 648 x 4: it takes the first four votes of each pair."""
    source = DataSource(path=str(SHARED / "alpaca_farm_human_crossannotations.json"))
    votes = [one.votes for one in load_labelled_pairs(source, [])]
    assert len(votes) == 648 and sum(map(len, votes)) == 2596
    first_four = human_agreement([own[:4] for own in votes], [0.5] * 648)
    every = human_agreement(votes, [0.5] * 648)
    assert first_four is not None and every is not None
    assert first_four["ceiling"]["value"] * 100 == pytest.approx(65.66358024691358)
    assert every["ceiling"]["value"] == pytest.approx(first_four["ceiling"]["value"], abs=0.001)


# ---- LLMBar with a tiny model


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("judge") / "judge", seed=7)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


def judged(folder: Path, judge: Path, **changes: Any) -> tuple[Result, dict[str, Any]]:
    values = {
        "method": "evaluate_judge",
        "output": str(folder / "run"),
        "evaluate": [{"suite": "llmbar", "judge": {"model": str(judge)}, **changes}],
        "sampling": {"backend": "transformers"},
    }
    recipe: Recipe = make_recipe(values, folder=folder)
    result = run(recipe, Progress(Console(file=io.StringIO())))
    (event,) = (event for event in result.events if event["event"] == "judge_evaluation")
    return result, event


def test_llmbar_end_to_end(tmp_path: Path, judge_model: Path) -> None:
    result, event = judged(tmp_path, judge_model, rubric="pair-plain", limit=6)
    assert result.policy is None and result.report.is_file()
    assert (event["judge"], event["data"], event["n"], event["order"]) == ("pair-plain by judge", "llmbar", 6, "both")
    assert event["cost"]["requests"] == 12 and event["missing"] == {} and event["missing_rate"] == 0
    assert event["accuracy"]["n"] == 6 and event["groups"]["natural"]["n"] == 6
    assert event["groups"]["natural"]["value"] == event["accuracy"]["value"]
    assert event["accuracy"]["value"] * 12 == int(event["accuracy"]["value"] * 12)
    assert event["human"] is None and event["first_rate"]["n"] == 6
    # Again: nothing is asked a second time, and the event is not written twice.
    steps = {path.name: path.stat().st_mtime_ns for path in (result.folder / "steps").iterdir()}
    again, _ = judged(tmp_path, judge_model, rubric="pair-plain", limit=6)
    assert {path.name: path.stat().st_mtime_ns for path in (again.folder / "steps").iterdir()} == steps


def test_a_judge_that_sees_too_little_is_no_judge(tmp_path: Path, tiny_model: Path) -> None:
    why = "longer than the judge's context"
    with pytest.raises(RunFailed, match=rf"llmbar: \d of 6 judgements are missing \({why}: \d\)"):
        judged(tmp_path, tiny_model, rubric="pair-plain", limit=6)


def test_suites_of_judges_and_of_policies_are_told_apart(tmp_path: Path, judge_model: Path) -> None:
    def refused(method: str, suites: list[Any], said: str) -> None:
        values = {"method": method, "model": str(judge_model), "output": str(tmp_path / "x"), "evaluate": suites}
        recipe = make_recipe({**values, "sampling": {"backend": "transformers"}}, folder=tmp_path)
        with pytest.raises(InputError, match=said):
            run(recipe, Progress(Console(file=io.StringIO())))

    read = {"judge": {"model": str(judge_model)}}
    refused("evaluate_judge", ["words"], "'words' measures policies; one of kind `judge` is needed")
    refused("evaluate", [{"suite": "llmbar", **read}], "'llmbar' measures a judge.*eval judge --data llmbar --judge J")
    refused("evaluate_judge", ["llmbar"], "nobody reads the rubric; give a judge")
    refused("evaluate", ["mt-bench"], "nobody reads the rubric; give a judge")
    pair_rubric = {"suite": "mt-bench", "rubric": "pair-plain", **read}
    refused("evaluate", [pair_rubric], "the rubric pair-plain compares two outputs, and a rating suite needs one that")
    refused("evaluate", ["words", {"suite": "words", "limit": 3}], "two suites are named 'words'")


def test_a_file_of_votes_on_the_command_line(
    tmp_path: Path, judge_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"instruction": "q", "output_1": "a"}
    rows = [{**row, "output_2": f"b{n}", "preference": 1 + (n + vote) % 2} for n in range(4) for vote in (0, 0, 1)]
    path = write_jsonl(tmp_path / "mine.jsonl", rows)
    arguments = ["--judge", str(judge_model), "--data", str(path), "--rubric", "pair-plain", "--json"]
    arguments += ["--backend", "transformers", "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["selfimprove", "eval", "judge", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    (found,) = json.loads(printed.out)
    assert found["n"] == 4 and found["data"] == "mine"
    # 2 votes to 1: the two face an even pair, which counts half, the third a pair against it
    assert found["human"]["ceiling"]["value"] == pytest.approx(1 / 3)
    assert 0 <= found["human"]["judge"]["value"] <= 1
