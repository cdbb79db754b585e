"""Studies: what the file means, what is run and what is not, the table, the page, and a kill at any moment."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kill_and_resume import whole_work

from selfimprove.cli.app import main
from selfimprove.errors import InputError
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import read_events
from selfimprove.study import run as study_run
from selfimprove.study.claims import Claim, judged, verdict
from selfimprove.study.collect import Measured, as_csv, as_json, check_items, included, table
from selfimprove.study.page import outcome_sentences, write_page
from selfimprove.study.plan import Study, load_study, planned
from selfimprove.study.run import run_study

MakeStudy = Callable[..., Study]
CLAIM = {"claim": "it gains", "arm": "itself", "round": 1, "suite": "tiny", "column": "minus_start", "says": "above"}


@pytest.fixture
def tiny_study(tiny_recipe: Callable[..., Recipe], tiny_data: Path) -> MakeStudy:
    """`tiny_study("name", arms={...})`: two arms, two seeds, one round on the tiny model; its file in tiny_data."""
    recipe = tiny_recipe("iterative_dpo", rounds=1, iterative_dpo={"sft": False, "judge": {"kind": "likelihood"}})
    (tiny_data / "base.yaml").write_text(recipe.as_yaml())

    def make(name: str = "study", given: tuple[str, ...] = (), **changes: Any) -> Study:
        values = {
            "recipe": "base.yaml",
            "output": str(tiny_data / name),
            "seeds": [0, 1],
            "overrides": {"data.prompts_per_round": 6},
            "arms": {"itself": None, "placebo": {"iterative_dpo.judge": {"kind": "random"}}},
            "placebo": "placebo",
            **changes,
        }
        (tiny_data / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return load_study(tiny_data / f"{name}.yaml", given)

    return make


def results(study: Study) -> list[dict[str, Any]]:
    return list(json.loads((Path(study.output) / "results.json").read_text()))


def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are started from now on."""
    started: list[str] = []
    really = study_run.run
    monkeypatch.setattr(
        study_run, "run", lambda recipe, progress: (started.append(Path(recipe.output).name), really(recipe, progress))
    )
    return started


# The file


def test_an_arm_is_the_recipe_with_the_studys_and_its_own_changes(tiny_study: MakeStudy, tiny_data: Path) -> None:
    study = tiny_study(
        given=("overrides.sampling.n=4", "seeds=[7]"),
        arms={"itself": {}, "other": {"training": {"beta": 0.3}, "iterative_dpo": {"judge": {"kind": "random"}}}},
        placebo="other",
    )
    itself, other = (one.recipe for one in planned(study))
    assert (itself.sampling.n, other.sampling.n, itself.seed, itself.data.prompts_per_round) == (4, 4, 7, 6)
    assert (itself.training.beta, other.training.beta) == (0.1, 0.3) and other.training.batch_size == 4
    assert other.iterative_dpo.judge.kind == "random" and not other.iterative_dpo.sft
    assert itself.output == str(tiny_data / "study/runs/itself-seed7") and itself.store == other.store


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ams": {}}, "study.yaml: unknown key `ams`; did you mean `arms`?"),
        ({"rounds": 2}, "unknown key `rounds`; a key of the recipe goes under `overrides`, or under an arm"),
        ({"placebo": "placbo"}, "`placebo` names no arm: 'placbo'; did you mean 'placebo'?"),
        ({"oracle": "placebo"}, "cannot be both `placebo` and `oracle`"),
        ({"seeds": [0, 0]}, "`seeds`: one of them is there twice"),
        ({"seeds": [-1]}, "greater than or equal to 0; found -1"),
        ({"seeds": []}, "`seeds`"),
        ({"arms": {"a/b": {}}, "placebo": []}, "letters, digits, - and _ only; found 'a/b'"),
        ({"file": "x"}, "unknown key `file`"),
        ({"claims": "it gains"}, "`claims`"),
        ({"claims": ["it gains"]}, "`claims[0]`: Input should be a valid dictionary"),
        ({"claims": [{**CLAIM, "sys": "above"}]}, "`claims[0]`: unknown key `sys`; did you mean `says`?"),
        ({"claims": [CLAIM, {**CLAIM, "says": "more"}]}, "`claims[1]`: key `says`: Input should be 'above', 'below'"),
        ({"claims": [{"claim": "x"}]}, "`claims[0]`: key `arm` is missing"),
        ({"claims": [{**CLAIM, "round": -1}]}, "`claims[0]`: key `round`: Input should be greater than or equal to 0"),
        ({"claims": [{**CLAIM, "decided": "soon"}]}, "`claims[0]`: key `decided`"),
        ({"claims": [{**CLAIM, "arm": "itsel"}]}, "`claims[0]` ('it gains'): no arm 'itsel'; did you mean 'itself'?"),
        (
            {"claims": [{**CLAIM, "column": "minus_strat"}]},
            "no column 'minus_strat' to claim anything of; did you mean",
        ),
        ({"claims": [{**CLAIM, "column": "gap_to_oracle"}]}, "arm 'itself' has: minus_start, minus_placebo"),
        ({"claims": [{**CLAIM, "arm": "placebo", "column": "minus_placebo"}]}, "no column 'minus_placebo'"),
        ({"claims": [CLAIM, {**CLAIM, "claim": "again"}]}, "`claims[1]` ('again'): says of the same row and column"),
    ],
)
def test_a_wrong_study_file_is_refused_with_the_key(tiny_study: MakeStudy, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        tiny_study(**changes)
    assert said in str(error.value) and ", file" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "no-such-recipe"}, "no-such-recipe: no such file and no shipped recipe"),
        ({"arms": {"itself": {"trainin.beta": 1}}, "placebo": []}, "arm 'itself' of"),
        ({"arms": {"itself": {"trainin.beta": 1}}, "placebo": []}, "unknown key `trainin`; did you mean `training`?"),
        ({"overrides": {"seed": 3}}, "`overrides.seed`: the study itself gives every run its seed"),
        ({"overrides": {"evaluate": []}}, "key `evaluate` is empty"),
        ({"overrides": {"evaluate": ["no-such-suite"]}}, "arm 'itself': evaluate: no suite 'no-such-suite'"),
        ({"overrides": {"data.prompts": "none.jsonl"}}, "data file 'none.jsonl' not found"),
        ({"arms": {"a": {}, "b": {"evaluate_limit": 3}}, "placebo": "b"}, "arm 'b' measures other suites, items or"),
        ({"claims": [{**CLAIM, "suite": "tinny"}]}, "no suite 'tinny' measures arm 'itself'; did you mean 'tiny'?"),
        ({"claims": [{**CLAIM, "round": 2}]}, "`claims[0]` ('it gains'): arm 'itself' has 1 rounds; found round 2"),
        ({"include": "none.json"}, "none.json: cannot be read as a study's results.json"),
    ],
)
def test_what_is_wrong_with_an_arm_is_said_before_anything_is_written(
    tiny_study: MakeStudy, changes: dict[str, Any], said: str
) -> None:
    study = tiny_study(**changes)
    with pytest.raises(InputError) as error:
        run_study(study)
    assert said in str(error.value) and not Path(study.output).exists()


# Runs


def test_a_study_shares_steps_writes_one_table_and_starts_nothing_twice(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tiny_study()
    first, folder = run_study(study), Path(study.output)
    noted = capsys.readouterr().err
    assert "run 1 of 4: itself, seed 0\n" in noted and "run 3 of 4: itself, seed 1; about" in noted
    assert not first.failed and "(2 seeds, 6 items)" in first.sentences[0]
    rows = results(study)
    assert rows == first.rows and len(rows) == 2 * 2 * 3  # arms, M0 and M1, two seeds and all
    with (folder / "table.csv").open() as file:
        assert [row["arm"] for row in csv.DictReader(file)] == [row["arm"] for row in rows]
    assert {row["seeds"] for row in rows if row["seed"] == "all"} == {2}
    assert first.sentences[0] in (folder / "study.html").read_text().replace("&#39;", "'")
    events = read_events(folder / "runs/placebo-seed0/metrics.jsonl")
    shared = [one["label"] for one in events if one["event"] == "step" and one["reused"]]
    assert any("M0" in label and "tiny" in label for label in shared) and "sample M0" in shared
    values = [one["values"] for one in events if one["event"] == "evaluation"]
    assert [len(one) for one in values] == [6, 6]

    started = starts(monkeypatch)
    (folder / "results.json").unlink()
    again = run_study(study)
    assert started == [] and again.rows == rows == results(study)
    assert "run 2 of 4: placebo, seed 0: finished before" in capsys.readouterr().err

    changed = {"iterative_dpo.judge": {"kind": "random"}, "training.beta": 0.2}
    run_study(tiny_study(seeds=[0], arms={"itself": {}, "placebo": changed}))
    assert started == ["placebo-seed0"], "only the arm that changed runs again"

    data = Path(study.file).parent / "prompts.jsonl"
    data.write_text(data.read_text().replace("Say ", "Say now "))
    started.clear()
    run_study(tiny_study(seeds=[0], arms={"itself": {}}, placebo=[]))
    assert started == ["itself-seed0"], "the recipes are the same, and the data under their names are not"


def test_a_failed_run_is_recorded_and_the_others_go_on(
    tiny_study: MakeStudy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`exact_match` finds every answer of the tiny model wrong, so no pair is left."""
    study = tiny_study(
        seeds=[0],
        arms={"verifier": {"iterative_dpo.judge": {"kind": "exact_match"}, "gates.max_ties": 1.0}, "placebo": {}},
    )
    found = run_study(study)
    assert (
        list(found.failed) == ["verifier, seed 0"] and "no preference pair is left" in found.failed["verifier, seed 0"]
    )
    assert found.failed == json.loads((Path(study.output) / "failed.json").read_text())
    page = (Path(study.output) / "study.html").read_text()
    assert "verifier, seed 0 failed: round 1: no preference pair is left" in page and "1 of 2 runs finished" in page
    assert [row["arm"] for row in found.rows if row["seed"] == "all"] == ["verifier", "placebo", "placebo"]
    monkeypatch.setattr(sys, "argv", ["selfimprove", "study", study.file])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "error: 1 of 2 runs failed:\n  verifier, seed 0: round 1" in shown.err and "Traceback" not in shown.err
    assert shown.out == f"{found.sentences[0]}\nstudy: {found.page}\n"
    monkeypatch.setattr(sys, "argv", ["selfimprove", "study", study.file, "rounds=1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err


def test_events_of_an_older_version_are_refused(tiny_study: MakeStudy) -> None:
    study = tiny_study(seeds=[1], arms={"itself": {}}, placebo=[])
    run_study(study)
    file = Path(study.output) / "runs/itself-seed1/metrics.jsonl"
    older = [{key: one[key] for key in one if key != "values"} for one in read_events(file)]
    file.write_text("".join(json.dumps(one) + "\n" for one in older))
    with pytest.raises(InputError, match=r"itself-seed1/metrics\.jsonl: .*older version: delete its metrics\.jsonl"):
        run_study(study)
    file.unlink()
    run_study(study)


def test_claims_are_dated_by_what_had_been_measured_and_none_disappears(
    tiny_study: MakeStudy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {**CLAIM, "claim": "chance <b>gains</b> nothing", "arm": "placebo", "says": "nothing"}
    study = tiny_study(seeds=[0], arms={"itself": {}}, placebo=[], claims=[{**CLAIM, "decided": "2026-11-29"}])
    run_study(study)
    file = Path(study.output) / "claims.json"
    (first,) = json.loads(file.read_text())
    assert first["measured_then"] == [] and first["verdict"] in ("not told from noise", "holds", "contradicted")
    assert "decided 2026-11-29, before any result" in (Path(study.output) / "study.html").read_text()

    late = {**CLAIM, "claim": "it loses", "says": "below"}
    study = tiny_study(seeds=[0], claims=[{**CLAIM, "claim": "it gains a lot"}, late, nothing])
    found = run_study(study)
    claims = json.loads(file.read_text())
    assert [one["measured_then"] for one in claims] == [[], ["itself"], ["itself"]], "other words, the same claim"
    assert claims[0]["first_seen"] == first["first_seen"] and claims[0]["claim"] == "it gains a lot"
    page = (Path(study.output) / "study.html").read_text()
    assert "after this arm&#39;s results" in page and "after results of other arms" in page
    assert "chance &lt;b&gt;gains&lt;/b&gt; nothing" in page and "<b>" not in page
    assert any(one.startswith("claim (written after this arm's results): it loses: ") for one in found.sentences)
    monkeypatch.setattr(sys, "argv", ["selfimprove", "study", study.file])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == f"study: {found.page}" and shown[-4].startswith("claim: it gains a lot: ")

    run_study(tiny_study(seeds=[0], claims=[nothing]))
    kept, *dropped = json.loads(file.read_text())
    assert kept["arm"] == "placebo" and [one["claim"] for one in dropped] == ["it gains a lot", "it loses"]
    assert "since a result was there: it gains a lot; it loses." in (Path(study.output) / "study.html").read_text()
    file.write_text("{")
    with pytest.raises(InputError, match=r"claims\.json: not the list of claims"):
        run_study(tiny_study(seeds=[0], claims=[nothing]))


def test_seeds_of_another_machine_are_taken_in(
    tiny_study: MakeStudy, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny_study("whole")
    expected = run_study(whole).rows
    there = tiny_study("there", seeds=[1])
    run_study(there)
    other = Path(there.output) / "results.json"
    other.rename(tiny_data / "there.json")
    here = tiny_study("here", include="there.json")
    started = starts(monkeypatch)
    capsys.readouterr()
    assert run_study(here).rows == expected
    assert started == ["itself-seed0", "placebo-seed0"]
    assert "itself, seed 1: taken from the files of `include`" in capsys.readouterr().err
    assert "4 of 4 runs finished" in (Path(here.output) / "study.html").read_text()

    started.clear()
    assert run_study(here, page_only=True).rows == expected and started == []
    with pytest.raises(InputError, match="no run of this study has measured anything yet"):
        run_study(tiny_study("empty"), page_only=True)
    changed = {"itself": {"training.beta": 0.2}, "placebo": {"iterative_dpo.judge": {"kind": "random"}}}
    run_study(tiny_study("other-beta", include="there.json", arms=changed))
    assert "itself, seed 1: made there with another recipe" in capsys.readouterr().err
    rows = json.loads((tiny_data / "there.json").read_text())
    (tiny_data / "there.json").write_text(as_json([{**row, "made": None} for row in rows]))
    assert included(here, [tiny_data / "there.json"]) == {}, "a run that was not finished there is made here"
    (tiny_data / "there.json").write_text(as_json(rows))
    data = tiny_data / "prompts.jsonl"
    data.write_text(data.read_text().replace("Say ", "Say now "))
    with pytest.raises(InputError, match="key `include`: itself, seed 1 was made there from another model, data"):
        run_study(tiny_study("other-data", include="there.json"))
    (tiny_data / "there.json").write_text(json.dumps([{k: v for k, v in row.items() if k != "values"} for row in rows]))
    with pytest.raises(InputError, match=r"there\.json: its rows hold no single `values`, so an older version"):
        run_study(here)
    (tiny_data / "there.json").write_text(as_json([{**row, "values": ["1"]} for row in rows]))
    with pytest.raises(InputError, match=r"there\.json: itself, seed 1: `values` are numbers, or null"):
        run_study(here)
    (tiny_data / "there.json").write_text("{}")
    with pytest.raises(InputError, match=r"there\.json: not a study's results\.json, which is a list of rows"):
        run_study(here)


def command(study: Study, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", "selfimprove", "study", study.file], stdout=file, stderr=file)


def test_killed_at_random_moments_a_study_ends_with_the_same_results(tiny_study: MakeStudy, tmp_path: Path) -> None:
    undisturbed = tiny_study("undisturbed")
    run_study(undisturbed)
    study, chance = tiny_study("killed"), random.Random(0)
    folder, log = Path(study.output), tmp_path / "log"
    for _ in range(2):
        before = whole_work(folder / "steps")
        process = command(study, log)
        while process.poll() is None and str(process.pid) not in (
            (folder / "lock").read_text() if (folder / "lock").exists() else ""
        ):
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 4.0))
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL), log.read_text()
        assert before.items() <= whole_work(folder / "steps").items(), "what was whole was made again"
    run_study(study)
    for name in ("results.json", "table.csv"):
        assert (folder / name).read_bytes() == (Path(undisturbed.output) / name).read_bytes()


# The table and the page, from events made by hand


def evaluation(round_: int, policy: str, values: list[float | None], suite: str = "words") -> dict[str, Any]:
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known)
    figures = {"value": mean, "low": mean - 0.1, "high": mean + 0.1, "n": len(known), "metric": "accuracy"}
    return {"suite": suite, "round": round_, "policy": policy, "values": values, **figures}


def by_hand(**arms: list[list[float | None]]) -> dict[tuple[str, int], Measured]:
    """Two seeds of the same values: of each arm those of M0, M1, ..."""
    return {
        (arm, seed): {"words": {(place, 0): evaluation(place, f"M{place}", one) for place, one in enumerate(values)}}
        for arm, values in arms.items()
        for seed in (0, 1)
    }


def study_of(tmp_path: Path, *arms: str, **changes: Any) -> Study:
    values = {"recipe": "quickstart", "output": str(tmp_path), "seeds": (0, 1), "arms": {arm: {} for arm in arms}}
    return Study.model_validate({**values, **changes})


HALF: list[float | None] = [1.0, 0.0] * 20
MOST: list[float | None] = [1.0] * 30 + [0.0] * 10


def test_differences_are_to_the_start_the_placebo_and_the_oracle(tmp_path: Path) -> None:
    study = study_of(tmp_path, "verifier", "control", "best", placebo="control", oracle="best")
    one_missing: list[float | None] = [None, *MOST[1:]]
    rows = table(study, by_hand(verifier=[HALF, one_missing], control=[HALF, HALF], best=[HALF, [1.0] * 40]))
    start, last = (
        next(row for row in rows if (row["arm"], row["seed"], row["round"]) == ("verifier", "all", r)) for r in (0, 1)
    )
    assert start["minus_start"] is None and start["minus_placebo"] == start["gap_to_oracle"] == 0.0
    assert last["minus_start"] == pytest.approx(29 / 39 - 19 / 39) and last["minus_start_n"] == 39
    assert last["minus_start"] == last["minus_placebo"] and last["minus_start_low"] > 0 and last["minus_start_p"] < 0.05
    assert last["gap_to_oracle"] == pytest.approx(10 / 39)
    assert last["share_of_oracle"] == pytest.approx(10 / 20)
    assert 0 < last["share_of_oracle_low"] < 0.5 < last["share_of_oracle_high"] < 1
    assert (last["n"], last["seeds"], last["policy"], last["start"]) == (39, 2, "M1", "M0")
    perfect = next(row for row in rows if (row["arm"], row["seed"], row["round"]) == ("best", "all", 1))
    assert perfect["low"] < perfect["high"] == 1.0, "a bootstrap of equal values claims certainty"
    alone = [row for row in rows if row["seed"] == 1 and row["arm"] == "verifier"]
    assert [row["minus_start_p"] for row in alone] == [None, None] and alone[1]["low"] == alone[1]["value"] - 0.1
    control = [row for row in rows if row["arm"] == "control"]
    assert {row["minus_placebo"] for row in control} == {None} and control[-1]["minus_start"] == 0.0


def test_a_seed_that_is_missing_on_one_side_is_left_out_and_counted(tmp_path: Path) -> None:
    study = study_of(tmp_path, "verifier", "control", placebo="control")
    found = by_hand(verifier=[HALF, MOST], control=[HALF, HALF])
    del found["control", 1]["words"][1, 0]
    last = next(row for row in table(study, found) if (row["arm"], row["seed"], row["round"]) == ("verifier", "all", 1))
    assert (last["seeds"], last["minus_start_seeds"], last["minus_placebo_seeds"]) == (2, 2, 1)
    assert table(study, {}) == [] and as_csv([]).strip() == ""


def test_several_placebos_have_a_column_each(tmp_path: Path) -> None:
    study = study_of(tmp_path, "verifier", "random", "wrong", placebo=["random", "wrong"])
    rows = table(study, by_hand(verifier=[HALF, MOST], random=[HALF, HALF], wrong=[HALF, [0.0] * 40]))
    last = next(row for row in rows if (row["arm"], row["seed"], row["round"]) == ("verifier", "all", 1))
    assert (last["minus_placebo_random"], last["minus_placebo_wrong"]) == (0.25, 0.75)
    sentence = outcome_sentences(study, rows)[0]
    assert "beats the placebo random (+0.0" in sentence and "wrong (-50.0" in sentence and ": yes, +75.0" in sentence
    assert (last["beats_placebo_random"], last["beats_placebo_wrong"]) == ("yes", "yes")


def test_claims_are_judged_with_holm_and_one_that_was_not_run_counts(tmp_path: Path) -> None:
    study = study_of(tmp_path, "verifier", "control", placebo="control")
    rows = table(study, by_hand(verifier=[HALF, MOST], control=[HALF, HALF]))

    def claim(arm: str, says: str, column: str = "minus_start") -> dict[str, Any]:
        values = {"claim": says, "arm": arm, "round": 1, "suite": "words", "column": column, "says": says}
        return Claim.model_validate(values).model_dump()

    gains, never, equal = judged(
        [claim("verifier", "above"), claim("away", "above"), claim("control", "nothing")], rows
    )
    raw = next(
        row["minus_start_p"] for row in rows if (row["arm"], row["seed"], row["round"]) == ("verifier", "all", 1)
    )
    assert gains["p"] == pytest.approx(3 * raw) and gains["verdict"] == "holds alone, not with Holm"
    assert gains["found"].startswith("+25.0 [")
    assert (never["verdict"], never["p"], never["found"], never["value"]) == ("not run", 1.0, "", None)
    assert equal["verdict"] == "not contradicted"
    (alone,) = judged([claim("verifier", "above")], rows)
    assert (alone["verdict"], alone["p"], alone["value"]) == ("holds", raw, 0.25)


def test_verdicts_follow_interval_and_holm() -> None:
    assert verdict(0.1, 0.3, "above", 0.01) == "holds" and verdict(0.1, 0.3, "above", 0.2).startswith("holds alone")
    assert verdict(-0.1, 0.3, "above") == "not told from noise" and verdict(-0.3, -0.1, "above") == "contradicted"
    assert verdict(-0.3, -0.1, "below") == "holds" and verdict(0.1, 0.3, "below") == "contradicted"
    assert verdict(-0.1, 0.1, "nothing") == "not contradicted"
    assert verdict(0.1, 0.2, "nothing") == "contradicted (up)"
    assert verdict(-0.2, -0.1, "nothing") == "contradicted (down)"


def test_runs_with_other_items_are_not_paired(tmp_path: Path) -> None:
    found = by_hand(verifier=[HALF, MOST], control=[HALF, HALF[:30]])
    with pytest.raises(InputError, match="words: control, seed 0 has 30 items and verifier, seed 0 has 40"):
        check_items(found)


def test_sentences_say_what_is_no_evidence(tmp_path: Path) -> None:
    alone = study_of(tmp_path, "verifier")
    said = outcome_sentences(alone, table(alone, by_hand(verifier=[HALF, MOST])))
    assert said[0].startswith("verifier, round 1 against the start (M0): +25.0 points [")
    assert said[0].endswith("(2 seeds, 40 items); no placebo arm: this is no evidence of a gain")
    once = study_of(tmp_path, "verifier", seeds=(0,))
    rows = table(once, {("verifier", 0): by_hand(verifier=[HALF, MOST])["verifier", 0]})
    assert "(1 seed, 40 items)" in outcome_sentences(once, rows)[0] and 0 < rows[-1]["minus_start_p"] < 0.05
    both = study_of(tmp_path, "verifier", "control", placebo="control")
    (said_of_both,) = outcome_sentences(both, table(both, by_hand(verifier=[HALF, MOST], control=[HALF, MOST])))
    assert said_of_both.endswith("]): not told, +0.0 [-8.2, +8.2]")
    assert outcome_sentences(both, []) == ["No arm was measured before and after: there is nothing to compare yet."]


def test_the_page_begins_with_the_outcome_and_escapes_everything(tmp_path: Path) -> None:
    study = study_of(tmp_path, "verifier", "control", placebo="control", recipe="<b>x</b>")
    found = by_hand(verifier=[HALF, MOST], control=[HALF, HALF])
    for suites in found.values():
        suites["<i>s</i>"] = {place: {**one, "suite": "<i>s</i>"} for place, one in suites.pop("words").items()}
    rows = table(study, found)
    write_page(study, rows, {"control, seed 1": "<script>alert(1)</script>\x1b[31m"}, "3 of 4 runs finished")
    page = (tmp_path / "study.html").read_text()
    body = page[page.index("<body>") + 6 :].strip()
    assert body.startswith('<h1 class="outcome">verifier, round 1 against the start (M0): +25.0 points')
    for raw in ("<script", "<i>", "<b>", "\x1b"):
        assert raw not in page
    assert "&lt;script&gt;" in page and '<svg role="img" aria-label="Start' in page and "currentColor" in page
    picture = (tmp_path / "study.svg").read_text()
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    assert "http" not in picture.replace(namespaces, "") and "href" not in picture and "<style" not in picture
    assert "#767676" in picture and "white" not in picture and "black" not in picture and "#000" not in picture
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    write_page(study, rows, {}, "4 of 4 runs finished")
    assert (tmp_path / "study.svg").read_text() == picture
    write_page(study, [], {}, "0 of 4 runs finished")
    assert "there is nothing to compare yet" in (tmp_path / "study.html").read_text()
