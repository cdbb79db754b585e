"""AlpacaEval 2: the leaderboard's numbers from its own annotations, limits of the model, and files that are wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimprove.cli import app as cli
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.pairwise import is_switched, stated_preference, weighted_preference
from selfimprove.suites import alpaca
from selfimprove.suites.alpaca import Measured, measure, read_annotations, shipped_gamed
from selfimprove.suites.length_control import LengthControlled, contradiction, length_controlled_win_rate
from selfimprove.suites.win_rate import win_rate

FIXTURE = Path(__file__).parent / "data" / "alpaca_annotations.csv"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "alpaca_eval"
# model: win rate, standard error, discrete win rate, length-controlled win rate (percent) of the leaderboard, and how
# near the last one must be
LEADERBOARD = {
    "claude-2": (17.188240356708075, 1.17482825615589, 16.33540372670807, 28.155196141629148, 1e-4),
    "gemma-2b-it": (3.4019714381366457, 0.5389981250162534, 2.857142857142857, 5.437453620377121, 0.02),
    "phi-2": (2.350209543026152, 0.4496590405673333, 2.054794520547945, 4.398682270855682, 1e-4),
}


def lc(one: Measured) -> LengthControlled:
    assert one.controlled is not None and one.uncontrolled is None
    return one.controlled


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    return {one.model: one for one in measure(FIXTURE, resamples=20)}


@pytest.mark.parametrize("model", LEADERBOARD)
def test_rates_are_the_leaderboards(model: str, measured: dict[str, Measured]) -> None:
    rate, error, discrete, controlled, near = LEADERBOARD[model]
    found = measured[model]
    assert found.rate.win_rate == pytest.approx(rate, abs=1e-6)
    assert found.rate.standard_error == pytest.approx(error, abs=1e-6)
    assert found.rate.discrete == pytest.approx(discrete, abs=1e-6)
    assert lc(found).win_rate == pytest.approx(controlled, abs=near)
    low, high = lc(found).low, lc(found).high
    assert low is not None and high is not None
    assert low < lc(found).win_rate < high


@pytest.mark.skipif(not SHARED.is_dir(), reason="the annotations of all twelve models are not at hand")
def test_all_models_at_hand_are_the_leaderboards() -> None:
    leaderboard = pd.read_csv(SHARED / "v2_weighted_alpaca_eval_gpt4_turbo.csv", index_col=0)
    found = list(measure(SHARED / "annotations_v2" / "annotations.csv", resamples=0))
    assert len(found) == 12
    off = []
    for one in found:
        row = leaderboard.loc[one.model]
        assert one.rate.win_rate == pytest.approx(row["win_rate"], abs=1e-6)
        assert (one.rate.wins, one.rate.draws, one.rate.losses) == (row["n_wins"], row["n_draws"], row["n_wins_base"])
        off.append(abs(lc(one).win_rate - row["length_controlled_winrate"]))
    assert sum(difference < 1e-4 for difference in off) >= 10
    assert max(off) < 0.02


def test_the_command_prints_one_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["selfimprove", "eval", "alpaca", "--annotations", str(FIXTURE), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in found] == list(LEADERBOARD)
    for one in found:
        assert {"model", "win_rate", "length_controlled_win_rate", "standard_error", "n"} <= set(one)
        assert one["win_rate"] == pytest.approx(LEADERBOARD[one["model"]][0], abs=1e-6)
    assert [one["n"] for one in found] == [805, 805, 803]


def test_difficulty_by_instruction_is_another_number_only_where_rows_are_missing(tmp_path: Path) -> None:
    """The published rates look it up by row: phi-2 lacks two instructions, so most of its rows are another's."""
    rows = pd.read_csv(FIXTURE)
    rows["row"] = rows["index"]
    rows.to_csv(tmp_path / "by-instruction.csv", index=False)
    whole = {one.model: lc(one).win_rate for one in measure(FIXTURE, resamples=0)}
    moved = {one.model: lc(one).win_rate for one in measure(tmp_path / "by-instruction.csv", resamples=0)}
    assert moved["claude-2"] == whole["claude-2"]
    assert abs(moved["phi-2"] - whole["phi-2"]) > 0.1


def test_without_a_row_column_a_rows_place_counts(tmp_path: Path) -> None:
    pd.read_csv(FIXTURE).drop(columns="row").to_csv(tmp_path / "no-row.csv", index=False)
    first, second = (read_annotations(path)["phi-2"]["row"].tolist() for path in (FIXTURE, tmp_path / "no-row.csv"))
    assert first == second


def test_an_instructions_text_decides_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its place in the file, nor a number beside it; what is none of AlpacaEval's has no difficulty."""
    numbers = {f"question {i}": i for i in range(805)}
    monkeypatch.setattr(alpaca, "instruction_index", numbers.get)
    rows = pd.read_csv(FIXTURE).query("model == 'claude-2'").drop(columns="row")
    rows["instruction"] = [f"question {i}" for i in rows["index"]]

    def found(name: str, rows: pd.DataFrame, corrected: bool) -> Measured:
        rows.to_csv(tmp_path / name, index=False)
        (one,) = measure(tmp_path / name, corrected, resamples=0)
        return one

    mixed = rows.sample(frac=1, random_state=1).assign(index=range(805))
    for corrected in (False, True):
        one, other = (lc(found("mine.csv", given, corrected)) for given in (rows, mixed))
        assert one.win_rate == pytest.approx(other.win_rate, abs=1e-6)
    own = found("own.csv", rows.assign(instruction=["mine", *rows["instruction"][1:]]), False)
    assert own.controlled is None and "1 of 805 instructions are none" in str(own.uncontrolled)
    assert own.rate.n == 805 and own.as_json()["length_controlled_win_rate"] is None
    with pytest.raises(InputError, match="second row of claude-2 for instruction 'question 0'"):
        found("twice.csv", pd.concat([rows, rows[:1]]), False)


# ---- the pure parts


def test_win_rate_by_hand() -> None:
    found = win_rate([1.0, 0.75, 0.5, 0.0, float("nan")])
    assert (found.win_rate, found.n, found.wins, found.losses, found.draws, found.missing) == (56.25, 4, 2, 1, 1, 1)
    # deviations .4375, .1875, -.0625, -.5625: squares sum to .546875; / 3, root .426956; / 2
    assert found.standard_error == pytest.approx(21.3478, abs=1e-4)
    assert found.discrete == 62.5
    assert found.low <= found.win_rate <= found.high


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_opponents_win_rate_is_the_rest(preferences: list[float]) -> None:
    ours, theirs = win_rate(preferences), win_rate([1 - p for p in preferences])
    assert ours.win_rate + theirs.win_rate == pytest.approx(100)
    assert ours.discrete + theirs.discrete == pytest.approx(100)


def test_a_preference_outside_its_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        win_rate([0.5, 1.2])
    with pytest.raises(ValueError, match="at least two"):
        win_rate([0.5, float("nan")])


def made_up(
    bias: float, length_effect: float, extra: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Preferences drawn from the model itself: `extra` characters more than the baseline on average."""
    draw = np.random.default_rng(seed)
    _, difficulty = shipped_gamed()
    difference = -extra + 400 * draw.standard_normal(805)
    logit = bias - length_effect * np.tanh(difference / difference.std(ddof=1))
    return 1 / (1 + np.exp(-logit)), difference, difficulty


def test_a_model_that_wins_by_length_alone_is_brought_back_to_one_half() -> None:
    gamed, _ = shipped_gamed()
    preference, difference, difficulty = made_up(bias=0.0, length_effect=0.8, extra=300)
    assert win_rate(preference).win_rate > 58
    # Not to the point: the gamed rows, in which length weighs more than here, pull a little.
    assert length_controlled_win_rate(preference, difference, difficulty, gamed).win_rate == pytest.approx(50, abs=2.5)


@pytest.mark.parametrize(
    ("raw", "controlled", "far"),
    # alpaca_eval's examples: 20 is contradicted below 10 and above 40, 50 below 37.5 and above 62.5
    [(20, 9.9, True), (20, 10.1, False), (20, 39.9, False), (20, 40.1, True), (50, 37.4, True), (50, 62.5, False)],
)
def test_a_length_control_that_contradicts_the_win_rate_is_said(raw: float, controlled: float, far: bool) -> None:
    said = contradiction(raw, controlled)
    assert (said is not None) == far
    if said:
        assert said.startswith(f"Length controlled win rate is very different from the raw one: {controlled:.1f}%")
        one = Measured("m", win_rate([0, 1]), LengthControlled(0.0, 0, 0, 0, 0, 0, 1), 1.0)
        assert one.as_json()["warning"] == contradiction(50, 0)


def test_centring_changes_nothing_where_lengths_are_alike_on_average() -> None:
    gamed, _ = shipped_gamed()
    preference, difference, difficulty = made_up(bias=-0.5, length_effect=0.5, extra=0)
    difference -= difference.mean()
    plain, centred = (
        length_controlled_win_rate(preference, difference, difficulty, gamed, centred=c).win_rate for c in (False, True)
    )
    assert plain == pytest.approx(centred, abs=1e-6)


def test_equal_lengths_everywhere_leave_the_win_rate() -> None:
    gamed, _ = shipped_gamed()
    preference, _, difficulty = made_up(bias=-0.5, length_effect=0.0, extra=0)
    found = length_controlled_win_rate(preference, np.zeros(805), difficulty, gamed)
    assert found.win_rate == pytest.approx(win_rate(preference).win_rate, abs=0.5)


def test_missing_preferences_are_left_out_of_the_fit() -> None:
    gamed, _ = shipped_gamed()
    preference, difference, difficulty = made_up(bias=0.3, length_effect=0.5, extra=100)
    holes = preference.copy()
    holes[::9] = np.nan
    whole, rest = (
        length_controlled_win_rate(p, difference, difficulty, gamed, resamples=30) for p in (preference, holes)
    )
    assert rest.win_rate == pytest.approx(whole.win_rate, abs=1.0)
    with pytest.raises(ValueError, match="one value an instruction"):
        length_controlled_win_rate(preference, difference[1:], difficulty, gamed)
    with pytest.raises(ValueError, match="finite"):
        length_controlled_win_rate(preference, difference * np.nan, difficulty, gamed)


# ---- the judge's first token


def test_the_weighted_preference_is_the_stored_one() -> None:
    stored = json.loads((FIXTURE.parent / "alpaca_raw_completions.json").read_text())
    assert len(stored) == 40 and {one["switched"] for one in stored} == {True, False}
    for one in stored:
        value, missing = weighted_preference(one["top_logprobs"])
        assert missing is None and value is not None
        assert 1 + (value if one["switched"] else 1 - value) == pytest.approx(one["preference"], abs=1e-9)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the raw completions are not at hand")
def test_raw_completions_give_the_stored_preferences_in_the_authors_order(tmp_path: Path) -> None:
    source = SHARED / "alpaca-7b_first40_with_raw_completion.json"
    given = json.loads(source.read_text())
    (tmp_path / "raw.json").write_text(json.dumps([{**one, "preference": None} for one in given]))
    stored, parsed = (read_annotations(path)["alpaca-7b"] for path in (source, tmp_path / "raw.json"))
    assert parsed["preference"].to_numpy() == pytest.approx(stored["preference"].to_numpy(), abs=1e-9)
    assert (parsed["len_output_2"] == stored["len_output_2"]).all() and len(parsed) == 40


def test_verdicts_by_hand() -> None:
    assert weighted_preference({"m": math.log(0.3), "M": math.log(0.1), "The": math.log(0.6)})[0] == pytest.approx(0.75)
    assert weighted_preference({"M": -0.1}) == (0.0, None)
    # far below what exp can hold
    assert weighted_preference({"m": -900.0, "M": -900.0 - math.log(3)})[0] == pytest.approx(0.75)
    assert weighted_preference({"The": -0.1}) == (None, "neither label is among the judge's first tokens")
    assert weighted_preference({"m": float("nan"), "M": -1.0})[0] is None
    assert weighted_preference({"m": 2.0, "M": -1.0})[0] is None
    assert [stated_preference(text)[0] for text in ("m", " M.\n", '"m"', "**M**")] == [1.0, 0.0, 1.0, 0.0]
    assert stated_preference("Model m is better") == (None, "the judge's answer is none of the labels")


def test_an_answer_without_log_probs_is_read_and_nonsense_is_missing(tmp_path: Path) -> None:
    outputs = {"generator_2": "a", "output_1": "xx", "output_2": "yyy"}
    answers = ["m", "M", "<html>", None]
    rows = [
        {**outputs, "instruction": f"q{i}", "raw_completion": {"message": {"content": answer}}}
        for i, answer in enumerate(answers)
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    found = read_annotations(tmp_path / "mine.json")["a"]
    expected = [float(is_switched("q0")), float(not is_switched("q1"))]
    assert found["preference"].tolist()[:2] == expected
    assert found["preference"].isna().tolist() == [False, False, True, True]
    assert found["index"].tolist() == [-1] * 4 and set(found["len_output_2"]) == {3}


# ---- files that are wrong


HEADER = "model,row,index,preference,len_output_1,len_output_2\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["not readable as CSV"]),
        (HEADER, ["has no rows"]),
        ("model,index,prefrence,len_output_1,len_output_2\na,0,1,2,3\n", ["no column 'preference'", "'prefrence'"]),
        (HEADER + "a,0,0,1.5,10,20\na,1,1,high,10,20\n", ["line 3", "preference must be 1 to 2", "'high'"]),
        (HEADER + "a,0,0,0.7,10,20\n", ["line 2", "found '0.7'"]),
        (HEADER + "a,0,0,inf,10,20\n", ["line 2", "found 'inf'"]),
        (HEADER + "a,0,805,1.5,10,20\n", ["index must be 0 to 804", "'805'"]),
        (HEADER + "a,0,,1.5,10,20\n", ["index must be 0 to 804", "found ''"]),
        (HEADER + "a,0,0,1.5,10,\n", ["len_output_2 must be a number of characters"]),
        (HEADER + "a,0,3,1.5,10,20\na,1,3,1.2,10,20\n", ["line 3", "second row of a for instruction 3"]),
    ],
)
def test_a_wrong_file_is_said_with_line_and_column(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        list(measure(path))
    for part in [f"--annotations: {path}", *parts]:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable as JSON"),
        ('{"a": 1}', "must be a list of annotations"),
        ('[{"generator_2": "a", "instruction": "q", "output_1": "x"}]', "annotation 0: 'output_2' must be a text"),
        ("[]", "has no rows"),
    ],
)
def test_a_wrong_json_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read_annotations(tmp_path / "mine.json")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not readable as CSV"):
        read_annotations(tmp_path / "nowhere.csv")


def test_too_many_missing_verdicts_end_the_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "holes.csv"
    rows = [f"a,{i},{i},{'' if i % 4 == 0 else 1.5 - 0.01 * i},{10 + i},{20 + i % 3}" for i in range(20)]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    with pytest.raises(RunFailed, match=r"a: 5 of 20 preferences are missing.*--max-missing"):
        list(measure(path))
    (found,) = measure(path, max_missing=0.3, resamples=5)
    assert (found.rate.n, found.rate.missing) == (15, 5)


def test_eval_says_which_option_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, said in (
        (["alpaca"], "--policy, or --annotations FILE.csv, is missing"),
        (["words"], "--policy is missing"),
        (["words", "--annotations", "x.csv"], "belongs to `eval alpaca`"),
        (["alpaca", "--annotations", "x.csv", "--limit", "5", "--order", "both"], "so --order, --limit would change"),
        (["alpaca", "--policy", "x", "--corrected"], "--corrected belongs to --annotations"),
    ):
        monkeypatch.setattr("sys.argv", ["selfimprove", "eval", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2 and said in capsys.readouterr().err
