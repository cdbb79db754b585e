"""The evidence for SCoRe: figures and verdicts with values computed by hand, collecting, and the committed page."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from cream_evidence.intervals import over_seeds  # noqa: E402
from evidence_score import main  # noqa: E402
from score_evidence.claims import CLAIMS, OWN, corrected, direction, holm, p_value  # noqa: E402
from score_evidence.lab import BASE, GREEDY, NAMES, SAMPLED, SEEDS, Lab, Term, last_policy  # noqa: E402
from score_evidence.page import LAB_FILE, SMOLLM2_FILE, load, page_text, write_page  # noqa: E402
from score_evidence.plot import LOOKS  # noqa: E402
from score_evidence.smollm2 import collect, named_folders, section, write_results  # noqa: E402

from selfimprove.errors import InputError, RunFailed  # noqa: E402

DOCS = ROOT / "docs" / "evidence"


def correction(t1: float, t2: float, copy: float = 0.8) -> dict[str, Any]:
    """`self_correction` of an evaluation, as far as the page reads it."""

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 800}

    return {
        "turns": {"1": figure(t1), "2": figure(t2)},
        "delta": figure(t2 - t1),
        "i_to_c": figure(0.05),
        "c_to_i": figure(0.05 + t1 - t2),
        "copy": figure(copy),
    }


def lab_run(t1: float, t2: float, *, base: tuple[float, float] = (0.6, 0.5), kl: float | None = None) -> dict[str, Any]:
    """A run of two stages; the page reads M2 and M0. M1 is worse than either."""
    policies = {"M0": correction(*base), "M1": correction(0.1, 0.1), "M2": correction(t1, t2)}
    evaluations = {name: {"self_correction": found} for name, found in policies.items()}
    last = {"accuracy/turn_1": t1, "kl/turn_1": kl, "kl/turn_2": 0.0}  # the second turn was not trained
    stages = [{"last": {"kl/turn_1": 9.0}}, {"last": last}] if kl is not None else []
    return {"git": "abcdefgh", "evaluations": {GREEDY: evaluations, SAMPLED: evaluations}, "stages": stages}


def made_up(**deltas: tuple[float, ...]) -> dict[str, Any]:
    """Runs of seeds 0, 1, ... by method: Acc@t1 .6 as the base's, and each seed's Delta."""
    return {
        name.replace("_", "-"): {str(seed): lab_run(0.6, 0.6 + delta) for seed, delta in enumerate(found)}
        for name, found in deltas.items()
    }


def verdicts(lab: Lab) -> dict[str, str]:
    return {one.number: one.verdict(lab, GREEDY) for one in CLAIMS}


def test_figures_are_of_the_last_policy_and_paired_by_seed() -> None:
    # The second run lacks seed 1: of .01, .03, .05 and .02, .03 only seeds 0 and 2 are in both.
    runs = made_up(score=(0.01, 0.03, 0.05), alpha_0=(0.02, 0.0, 0.03))
    del runs["alpha-0"]["1"]
    lab = Lab(runs)
    alone = lab.estimate(GREEDY, Term("score", "delta"))
    assert alone
    assert alone.by_seed == pytest.approx((0.01, 0.03, 0.05))
    between = lab.estimate(GREEDY, Term("score", "delta"), Term("alpha-0", "delta"))
    assert between
    assert between.by_seed == pytest.approx((-0.01, 0.02))
    # mean .005, half width t(.975, 1 degree) = 12.706 times half the range, .015
    assert (between.value, between.low) == pytest.approx((0.005, 0.005 - 12.706 * 0.015), abs=1e-5)
    # the base's first attempt is .6, the second attempts .61, .63, .65
    pays = lab.estimate(GREEDY, Term("score", "t2"), Term(BASE, "t1"))
    assert pays
    assert pays.value == pytest.approx(0.03)
    assert lab.estimate(GREEDY, Term("star", "t2")) is None
    assert last_policy(["M0", "M9", "M10"]) == "M10"


def test_kl_is_that_of_the_last_stage() -> None:
    lab = Lab({"score": {"0": lab_run(0.6, 0.6, kl=0.05)}, "star": {"0": lab_run(0.6, 0.6)}})
    found = lab.estimate(GREEDY, Term("score", "kl_1"))
    assert found
    assert found.value == 0.05
    assert lab.estimate(GREEDY, Term("score", "kl_2")) is None  # no second turn was trained
    assert lab.estimate(GREEDY, Term("star", "kl_1")) is None
    assert lab.estimate(GREEDY, Term(BASE, "kl_1")) is None


def test_verdicts_follow_from_the_interval() -> None:
    lab = Lab(
        made_up(
            score=(0.04, 0.05, 0.06, 0.05, 0.04),
            alpha_0=(0.08, 0.09, 0.11, 0.1, 0.08),  # more than SCoRe's in every seed
            stage_two_only=(0.04, 0.06, 0.05, 0.05, 0.04),  # 0, -.01, .01, 0, 0 less
        )
    )
    found = verdicts(lab)
    assert (found["1a"], found["1b"], found["2a"]) == ("holds",) * 3
    assert found["4"] == "contradicted"
    assert (found["3a"], found["3b"]) == ("cannot be told apart",) * 2
    assert {found[number] for number in ("2b", "2c", "5a", "5b", "6a", "6b", "7")} == {"not run"}
    base = lab.estimate(GREEDY, Term("alpha-0", "delta"), Term("score", "delta"))
    assert direction(lab, base, "alpha-0", "score") == "higher"
    assert direction(lab, lab.estimate(GREEDY, *OWN[0]), "base-first-attempts", "score") == "not run"
    # six claims have a p-value; the smallest is multiplied by six
    p = corrected(lab, GREEDY)
    raw = {one.number: p_value(e) for one in CLAIMS if one.number in p and (e := one.estimate(lab, GREEDY))}
    assert len(raw) == 6
    assert min(p.values()) == pytest.approx(6 * min(raw.values()))
    assert p["3a"] == 1.0


def test_claim_seven_is_that_there_is_no_gain() -> None:
    """A loss against plain multi-turn RL bears PAG out, a gain contradicts it."""
    for score, expected in ((0.01, "holds"), (0.09, "contradicted")):
        values = tuple(score + seed / 1000 for seed in SEEDS)
        lab = Lab(made_up(score=values, multi_turn_rl=(0.05,) * 5))
        assert verdicts(lab)["7"] == expected


def test_a_verdict_waits_for_every_seed_but_a_stopped_one() -> None:
    runs = made_up(score=(0.04, 0.05, 0.06, 0.05, 0.04))
    assert verdicts(Lab(runs))["1a"] == "holds"
    kept = runs["score"].pop("4")
    assert verdicts(Lab(runs))["1a"] == "not finished"
    one_seed = Lab(made_up(score=(0.04,)))  # its interval is unknown, which must not read as a verdict
    assert verdicts(one_seed)["1a"] == "not finished"
    runs["score"]["4"] = {"stopped": "gate first_attempt:\nno"}
    lab = Lab(runs)
    assert verdicts(lab)["1a"] == "holds"
    page = page_text(lab, {"runs": {}})
    assert "SCoRe, seed 4 (gate first_attempt: no)" in " ".join(page.split())
    assert "n = 4" in page
    for seed in ("2", "3"):
        runs["score"][seed] = {"stopped": "a gate"}
    assert verdicts(Lab(runs))["1a"] == "too few seeds"
    runs["score"]["4"] = kept
    assert "STaR 0" in page_text(Lab(runs), {"runs": {}})


def test_holm_by_hand() -> None:
    # Holm: .01 x 4, .02 x 3 = .06, .03 x 2 = .06, and .04 x 1 = .04, which may not be below the one before it
    found = holm({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.02})
    assert found == pytest.approx({"b": 0.04, "d": 0.06, "a": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_p_value_agrees_with_the_interval() -> None:
    # mean 2, standard error 1 / sqrt(3): t = 3.4641; with two degrees p = 1 - t / sqrt(t^2 + 2) = .07418
    assert p_value(over_seeds([1, 2, 3])) == pytest.approx(0.07418, abs=1e-5)
    assert (p_value(over_seeds([0.0] * 5)), p_value(over_seeds([0.1] * 5))) == (1.0, 0.0)


def events_of_a_run(folder: Path, digest: str, *, evaluated: bool = True, done: bool = True) -> Path:
    """metrics.jsonl of a run with one stage of two updates."""
    row = {"loss": 1.0, "accuracy/turn_1": 0.25, "accuracy/turn_2": 0.5, "kl/turn_1": 0.01}
    seconds = {"seconds/sampling": 6.0, "seconds/rewards": 0.0, "seconds/scoring": 1.0, "seconds/training": 3.0}
    events: list[dict[str, Any]] = [
        {"event": "run", "recipe": {"seed": 0}, "versions": {"git": "abcdefgh"}, "device": "cpu"},
        {"event": "training", "stage": "sft", "history": []},
        {"event": "training", "stage": "score", "score_stage": 1, "policy": "M1", "history": [row | seconds] * 2},
        {"event": "probe", "stage": "base", "policy": "M0", "prompts": 2, "samples": 4, "figures": {}},
    ]
    if evaluated:
        figures = correction(0.25, 0.5) | {"examples": ["long"]}
        one = {"event": "evaluation", "suite": "self-correction", "round": 0}
        events.append(one | {"policy": "M0", "policy_digest": "same", "self_correction": figures})
        events.append(one | {"policy": "M1", "policy_digest": digest, "self_correction": figures})
        events.append({"event": "evaluation", "suite": "words", "policy": "M1", "value": 0.5})
    if done:
        events.append({"event": "done", "seconds": 12.0})
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    return folder


def test_collect_and_its_section(tmp_path: Path) -> None:
    score = events_of_a_run(tmp_path / "a", "one")
    other = events_of_a_run(tmp_path / "b", "two", done=False)
    (tmp_path / "results").mkdir()
    assert main(["--results", str(tmp_path / "results"), "collect", f"score={score}"]) == 0
    assert main(["--results", str(tmp_path / "results"), "collect", f"alpha-0={other}"]) == 0
    file = tmp_path / "results" / SMOLLM2_FILE
    results = json.loads(file.read_text())
    assert [*results["runs"]] == ["score", "alpha-0"]  # the earlier one is kept
    run = results["runs"]["score"]
    assert len(run["evaluations"]) == 2
    assert "examples" not in run["evaluations"][0]["self_correction"]
    assert run["stages"][0]["history"]["seconds/training"] == [3.0, 3.0]
    text = section(results)
    assert "| self-correction | 2 runs | M0 | 800 | 25.0 [15.0, 35.0] | 50.0 [40.0, 60.0] | +25.0" in text
    assert text.count("| M0 |") == 1
    assert "| score | I | 2 | 25.0 to 25.0 | 50.0 to 50.0 |  | 0.010 to 0.010 |  | 10.0 | 60 | 0 | 10 | 30 |" in text
    assert "Not finished: alpha-0." in text
    assert section({"runs": {}}) == ""
    write_results(tmp_path / "again.json", collect(named_folders([f"score={score}", f"alpha-0={other}"])))
    assert (tmp_path / "again.json").read_text() == file.read_text()


def test_collect_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="NAME=RUN_FOLDER"):
        named_folders(["runs/score"])
    with pytest.raises(RunFailed, match="no evaluation with a second attempt"):
        collect({"score": events_of_a_run(tmp_path / "a", "one", evaluated=False)})
    assert main(["--results", str(tmp_path), "collect", f"score={tmp_path / 'nothing'}"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_every_method_has_a_name_and_a_mark() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.lab.score_methods import SCORE_METHODS

    assert {*NAMES} == {*LOOKS} == {BASE, *SCORE_METHODS}


def test_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    page = write_page(tmp_path, load(tmp_path))
    assert "Limits" in page.read_text()
    stopped = {LAB_FILE: {"runs": {"score": {"0": {"stopped": "x"}}}}, SMOLLM2_FILE: {"runs": {}}}
    assert write_page(tmp_path, stopped).is_file()


def test_a_seed_of_some_methods_is_a_page(tmp_path: Path) -> None:
    runs = made_up(score=(0.04, 0.05), single_turn_rl=(-0.1,))
    page = write_page(tmp_path, {LAB_FILE: {"runs": runs}, SMOLLM2_FILE: {"runs": {}}}).read_text()
    assert "nan" not in page
    assert "**Contradicted**" not in page
    assert "SCoRe 2" in page


def test_committed_page_is_what_results_give(tmp_path: Path) -> None:
    results = load()
    runs = results[LAB_FILE]["runs"]
    for suite in (GREEDY, SAMPLED):  # as the page says: of one seed, all methods start from a base that answers alike
        for seed in SEEDS:
            found = [
                seeds[str(seed)] for seeds in runs.values() if "stopped" not in seeds.get(str(seed), {"stopped": ""})
            ]
            bases = [json.dumps(one["evaluations"][suite]["M0"]["self_correction"], sort_keys=True) for one in found]
            assert len({*bases}) <= 1
            assert all(one["evaluations"][suite]["M0"]["n"] == 800 for one in found)
    assert write_page(tmp_path, results).read_text() == (DOCS / "score.md").read_text()
    pinned = re.search(r"^matplotlib==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    if matplotlib.__version__ == pinned[1]:  # another version draws the same values in other bytes
        assert (tmp_path / "score" / "lab.svg").read_text() == (DOCS / "score" / "lab.svg").read_text()
