"""The evidence pages' own figures: intervals and verdicts by values computed by hand, and what is collected of runs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import selfimprove
from selfimprove.errors import RunFailed
from selfimprove.judging.agreement import kendall_tau_a
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.terminal import Progress
from selfimprove.study.plan import Planned

EVIDENCE = Path(__file__).parent.parent / "evidence"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of the folder `evidence`."""
    monkeypatch.syspath_prepend(EVIDENCE)
    return importlib.import_module


@pytest.fixture
def common(module: Callable[[str], Any]) -> Any:
    return module("common")


def ends(estimate: Any) -> tuple[float, float, float]:
    assert estimate is not None
    return estimate.value, estimate.low, estimate.high


def test_the_crossed_interval_of_one_seed_is_the_binomial_one(common: Any) -> None:
    # P(Bin(10, 1/2) <= 1) = 11/1024 = .011 and <= 2: 56/1024 = .055, so the 2.5% quantile is 2; 7 of 10: 1 - .055
    # = .945 is at most 7, 1 - .011 = .989 at most 8: the 97.5% quantile is 8.
    found = common.crossed([[0, 1] * 5])
    assert ends(found) == pytest.approx((0.5, 0.2, 0.8)) and (found.n, found.by_seed) == (10, (0.5,))
    # copies of one seed carry nothing new about items
    assert ends(common.crossed([[0, 1] * 5] * 3)) == pytest.approx((0.5, 0.2, 0.8))


def test_the_crossed_interval_draws_seeds_too(common: Any) -> None:
    # Every item is alike, so only seeds vary: both draws are seed 0 with probability 1/4 > .025, likewise seed 1.
    assert ends(common.crossed([[0] * 50, [1] * 50])) == pytest.approx((0.5, 0, 1))
    # Three seeds: all draws are the first with probability 1/27 = .037 > .025.
    assert ends(common.crossed([[0] * 9, [1] * 9, [1] * 9])) == pytest.approx((2 / 3, 0, 1))


def test_the_nested_interval_draws_within_seeds(common: Any) -> None:
    # Half of Bin(10, 1/2) / 10 plus half of 1: ends (.2 + 1) / 2 and (.8 + 1) / 2.
    found = common.nested([[0, 1] * 5, [1] * 4])
    assert ends(found) == pytest.approx((0.75, 0.6, 0.9)) and (found.n, found.by_seed) == (14, (0.5, 1.0))


def test_intervals_over_seeds_and_of_shares(common: Any) -> None:
    # mean 2, standard deviation 1, t(.975, 2 degrees) = 4.30265; half width 4.30265 / sqrt(3)
    assert ends(common.over_seeds([1, 2, 3])) == pytest.approx((2, 2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert np.isnan(common.over_seeds([5.0]).low) and common.over_seeds([]) is None
    # Wilson for 5 of 10, as in Newcombe (1998)
    assert ends(common.share([2, 3, 0], [4, 6, 0])) == pytest.approx((0.5, 0.2366, 0.7634), abs=5e-5)
    assert common.share([0], [0]) is None
    # standard error 1 / sqrt(3): t = 3.4641; with two degrees p = 1 - t / sqrt(t^2 + 2) = .07418
    assert common.p_value(common.over_seeds([1, 2, 3])) == pytest.approx(0.07418, abs=1e-5)
    assert [common.p_value(common.over_seeds([x] * 5)) for x in (0.0, 0.1)] == [1.0, 0.0]


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=4))
def test_intervals_contain_the_estimate_and_do_not_change(table: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EVIDENCE)
        common = importlib.import_module("common")
    for found, again in (
        (f(table), f(table)) for f in (common.crossed, common.nested, lambda t: common.drawn_seeds(t[0]))
    ):
        assert found == again and found.low <= found.value + 1e-12 and found.value <= found.high + 1e-12


def test_a_verdict_follows_from_the_interval(common: Any) -> None:
    def said(low: float, high: float, says: str = "above", bound: float = 0.0) -> str:
        return str(common.verdict(common.Estimate((low + high) / 2, low, high, 1), says, bound))

    assert said(0.1, 0.3) == said(-0.3, -0.1, "below") == "holds"
    assert said(-0.3, -0.1) == said(0.5, 0.7, "below", 0.38) == "contradicted"
    assert said(-0.1, 0.1) == said(0.0, 0.1) == said(0.0, 0.0, "below") == "cannot be told apart"
    assert common.verdict(None) == "not run"

    class Figures:
        def of(self, *seeds: float) -> Any:
            return common.over_seeds(seeds)

    claims = [{"unit": "points", "figure": ["of", *seeds]} for seeds in ((0.1, 0.11, 0.12), (), (0.1, 0.0, -0.1))]
    first, none, last = common.judged(claims, Figures())
    assert (first["found"], first["each"]) == ("+11.0 [+8.5, +13.5]", "+10.0, +11.0, +12.0")
    assert first["p"] == pytest.approx(2 * common.p_value(first["estimate"]))
    assert (none["verdict"], none["found"], none["p"]) == ("not run", "", None)
    assert [*common.by_verdict([last, first])] == ["holds", "cannot be told apart"]


def test_figures_are_written_in_their_unit(common: Any) -> None:
    assert common.shown(common.Estimate(-0.0004, -0.01, 0.012, 3), "points") == "+0.0 [-1.0, +1.2]"
    assert common.shown(common.over_seeds([0.123]), "accuracy") == "12.3" and common.shown(None, "h") == ""
    assert common.head("", "a") == "|  | a |\n|---|---|"


# Self-Lengthen


def item(asked: int, written: int, value: float, finished: bool = True) -> dict[str, Any]:
    return {
        **{"id": f"{asked}", "kind": "about" if asked < 100 else "below", "asked": asked, "words": written},
        **{"score": value, "distinct_4": 1.0, "longest_repeat": 0 if finished else 12, "finished": finished},
    }


def one_run(more: int) -> dict[str, Any]:
    """Two rounds: answers grow by `more` words, of two longer texts one only repeats itself."""

    def round_of(extra: int) -> dict[str, Any]:
        answers = [[20 + extra, 17 + extra, 1], [40 + extra, 37 + extra, 2]]
        longer = [[60 + extra, 57 + extra, 3], [80 + extra, 40, 9]]
        filters = {"initial": {"wanted": 3, "kept": 2, "rejected": {"unfinished": 4}}}
        return {"texts": answers, "pairs": list(zip(answers, longer, strict=True)), "filters": filters}

    suite = {
        "untrained": [item(60, 200, 0.0, False), item(200, 100, 0.5)],
        "generator 2": [item(60, 210, 0.2), item(200, 110 + more, 0.5)],
        "final": [item(60, 70, 1.0), item(200, 190, 0.9)],
    }
    return {"growth": 1.2, "rounds": {"1": round_of(0), "2": round_of(more)}, "suite": suite}


def test_figures_of_lengths_by_hand(module: Callable[[str], Any]) -> None:
    results = module("self_lengthen.figures").Results({str(seed): one_run(8 + seed) for seed in range(3)})
    first, more = results.mean_words(1, "answers"), results.more_words("answers")
    assert (first.value, first.low) == (30, 30)  # the same in every seed
    half = 4.3027 * 1 / 3**0.5  # t(.975, 2 degrees); 8, 9 and 10 have a standard deviation of 1
    assert (more.value, more.low) == pytest.approx((9, 9 - half), abs=1e-3)
    assert results.mean_words(1, "longer texts").value == 70
    assert results.growth(1, 0).value == (60 / 20 + 80 / 40) / 2
    # 57 of 17 different runs are growth; 40 of 37 are not 1.2 times as many
    assert results.growth(1, 1).value == pytest.approx((57 / 17 + 40 / 37) / 2)
    assert results.only_repetition(1) == (3, 6) and results.repeated(1) == (6, 9)
    assert results.filter(1, "initial") == (9, 6, "unfinished: 12")
    assert results.mean("final", "score").value == pytest.approx(0.95)
    assert results.mean("final", "score", "below").value == pytest.approx(0.9)
    assert results.mean("untrained", "unfinished").value == results.mean("untrained", "repeats").value == 0.5
    assert results.less("generator 2", "untrained", "words").by_seed == (14, 14.5, 15)
    assert results.follows("untrained").value == pytest.approx(-1)
    assert results.follows_more("final", "untrained").value == pytest.approx(2)


def test_a_run_of_self_lengthen_is_collected(
    module: Callable[[str], Any], lengthen_recipe: Callable[..., Recipe], tiny_data: Path, tmp_path: Path
) -> None:
    figures = module("self_lengthen.figures")
    queries = [
        {"type": kind, "constraint": text, "query": f"Say it in {text}."}
        for kind, text in (("about", "5 words"), ("range", "3-9 words"), ("above", "4 words"), ("below", "8 words"))
    ]
    write_jsonl(tiny_data / "queries.jsonl", queries)
    suite = {"name": figures.SUITE, "kind": "length", "data": "queries.jsonl", "max_new_tokens": 24}
    (tiny_data / "suite.yaml").write_text(yaml.safe_dump(suite))
    folder = tmp_path / "run"
    recipe = lengthen_recipe(seed=0, output=str(folder), evaluate=["suite.yaml"])
    selfimprove.run(recipe, Progress(Console(quiet=True)))
    seed, found = figures.one_run(folder)
    assert seed == "0" and [*found["suite"]] == ["untrained", "generator 1", "final"]
    assert [len(items) for items in found["suite"].values()] == [4, 4, 4]
    only = found["rounds"]["1"]
    assert len(only["texts"]) == only["filters"]["initial"]["kept"] > 0
    assert len(only["pairs"]) == only["filters"]["extended"]["kept"] > 0
    assert all(longer[0] > answer[0] for answer, longer in only["pairs"])
    assert figures.Results({seed: found}).mean_words(1, "answers").n == 1
    metrics = folder / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines(keepends=True) if '"event": "done"' not in line]
    metrics.write_text("".join(lines))
    with pytest.raises(RunFailed, match="is not finished"):
        figures.one_run(folder)


# SCoRe


def correction(t1: float, t2: float) -> dict[str, Any]:
    """An evaluation with two attempts, as far as the page reads it."""

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 800}

    return {"self_correction": {"turns": {"1": figure(t1), "2": figure(t2)}, "delta": figure(t2 - t1)}}


def lab_run(t1: float, t2: float, kl: float | None = None) -> dict[str, Any]:
    """A run of two stages from a base of 60 and 50%; M1 is worse than either."""
    policies = {"M0": correction(0.6, 0.5), "M9": correction(0.1, 0.1), "M10": correction(t1, t2)}
    last = {"accuracy/turn_1": t1, "kl/turn_1": kl, "kl/turn_2": 0.0}  # the second turn was not trained
    stages = [{"last": {"kl/turn_1": 9.0}}, {"last": last}] if kl is not None else []
    return {"git": "abcdefgh", "evaluations": {"lab-evaluation-turns": policies}, "stages": stages}


def test_figures_of_two_attempts_are_of_the_last_policy_and_paired_by_seed(module: Callable[[str], Any]) -> None:
    figures = module("score.figures")
    runs = {
        name: {str(seed): lab_run(0.6, 0.6 + delta, 0.05) for seed, delta in enumerate(found)}
        for name, found in {"score": (0.01, 0.03, 0.05), "alpha-0": (0.02, 0.0, 0.03)}.items()
    }
    del runs["alpha-0"]["1"]
    lab = figures.Lab(runs, "lab-evaluation-turns")
    assert lab.methods == ["base", "score", "alpha-0"]
    assert lab.estimate("score", "delta").by_seed == pytest.approx((0.01, 0.03, 0.05))
    between = lab.estimate("score", "delta", "alpha-0")
    # mean .005, half width t(.975, 1 degree) = 12.706 times half the range, .015
    assert between.by_seed == pytest.approx((-0.01, 0.02))
    assert (between.value, between.low) == pytest.approx((0.005, 0.005 - 12.706 * 0.015), abs=1e-5)
    # the base's first attempt is .6, the second attempts .61, .63, .65
    pays = lab.estimate("score", "t2", "base", "t1")
    assert pays.value == pytest.approx(0.03) and figures.gain(pays).endswith("which cannot be told from 0")
    assert lab.estimate("star", "t2") is None and lab.estimate("base", "kl_1") is None
    assert lab.estimate("score", "kl_1").value == pytest.approx(0.05) and lab.estimate("score", "kl_2") is None
    assert figures.codes(lab) == "Code of the runs. abcdefg: seeds 0 to 2 of SCoRe, seeds 0, 2 of alpha 0."


def test_every_method_of_the_lab_has_a_name_and_a_mark(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EVIDENCE.parent)
    methods = importlib.import_module("benchmarks.lab.score_methods").SCORE_METHODS
    assert {*module("score.figures").METHODS} == {"base", *methods}


def test_recorded_bases_of_a_seed_are_one(module: Callable[[str], Any]) -> None:
    """As the page says: of one seed, all methods start from a base that answers alike."""
    for lab in module("score.figures").load()[0]:
        for seed in range(5):
            found = [seeds[seed]["evaluations"][lab.suite]["M0"] for seeds in lab.runs.values()]
            assert all(one["self_correction"] == found[0]["self_correction"] and one["n"] == 800 for one in found)


def test_a_run_of_score_is_collected(module: Callable[[str], Any], tmp_path: Path) -> None:
    figures = module("score.figures")
    row = {"step": 1, "accuracy/turn_1": 0.25, "accuracy/turn_2": 0.5, "kl/turn_1": 0.01}
    seconds = {"seconds/sampling": 6.0, "seconds/rewards": 0.0, "seconds/scoring": 1.0, "seconds/training": 3.0}
    with_examples = correction(0.25, 0.5)["self_correction"] | {"examples": ["long"]}
    one = {"event": "evaluation", "suite": "self-correction", "round": 0, "self_correction": with_examples}
    events: list[dict[str, Any]] = [
        {"event": "run", "recipe": {"seed": 0}, "versions": {"git": "abcdefgh"}, "device": "cpu"},
        {"event": "training", "stage": "sft", "history": []},
        {"event": "training", "stage": "score", "score_stage": 1, "policy": "M1", "history": [row | seconds] * 2},
        {"event": "probe", "stage": "base", "policy": "M0", "prompts": 2, "samples": 4, "figures": {}},
        {"event": "evaluation", "suite": "words", "policy": "M1", "value": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(RunFailed, match="no evaluation with a second attempt"):
        figures.one_run(tmp_path)
    events += [one | {"policy": "M0", "policy_digest": "same"}, one | {"policy": "M1", "policy_digest": "own"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    run = figures.one_run(tmp_path)
    assert len(run["evaluations"]) == 2 and "examples" not in run["evaluations"][0]["self_correction"]
    other = {**run, "evaluations": [run["evaluations"][0]]}
    policies = figures.smollm2_policies({"score": run, "alpha-0": other})
    assert [(one["run"], one["policy"], one["n"]) for one in policies] == [("2 runs", "M0", 800), ("score", "M1", 800)]
    drawn = ["score", "I", "2", "25.0 to 25.0", "50.0 to 50.0", "", "0.010 to 0.010", "", "10.0", "60", "0", "10", "30"]
    assert figures.smollm2_stages({"score": run}) == [drawn]


# CREAM


def test_pair_counts_by_hand(module: Callable[[str], Any]) -> None:
    collect = module("cream.collect")
    # 1<2<3 against 1<3<2: two pairs alike, one opposite
    assert collect.pair_counts([1, 2, 3], [1, 3, 2]) == (1, 3)
    # the last two are one response: their pair is tied on both sides, five of six are left, all alike
    assert collect.pair_counts([1, 2, 3, 3], [4, 5, 6, 6]) == (5, 5)
    assert collect.pair_counts([1, 1], [2, 2]) == (0, 0)
    for scores in np.random.default_rng(0).integers(0, 4, size=(40, 2, 5)).astype(float):
        assert collect.pair_counts(*scores)[0] / 10 == pytest.approx(kendall_tau_a(*scores))


def made_up(arm: str, seed: int, better: int = 0, order: str = "10 0 -5") -> dict[str, Any]:
    """A run whose M2 and M3 have one item more right than M1, or as many."""
    agreement = {"models": "M2, M1", "pairs_per_prompt": 10, "prompts": "x", "order": order, "untied": "10 0 5"}
    values = {"labels_right": 1, "labels_telling": 2, "mean_length": 3.0 + seed, "agreement": agreement}
    m1 = "1" * 99 + "0" * 99
    right = {"M0": "0" * 198, "M1": m1, "M2": m1, "M3": "1" * (99 + better) + "0" * (99 - better)}
    return {
        **{"setting": "paper-beta", "arm": arm, "seed": seed, "last_agreement": agreement},
        "policies": {name: {"right": one} for name, one in right.items()},
        "rounds": [{"round": number, **values} for number in (1, 2)],
    }


def test_figures_of_arms_by_hand(module: Callable[[str], Any]) -> None:
    figures = module("cream.figures")
    runs = [made_up("cream", seed, better=2) for seed in (2, 3, 4)] + [made_up("srlm", seed) for seed in (2, 3)]
    setting = figures.Setting(runs, "paper-beta")
    assert setting.arms == ["cream", "srlm"] and setting.accuracy("srlm", "M1").value == 0.5
    assert setting.change("cream").value == pytest.approx(2 / 198) and setting.change("cream", "M3", "M3").high == 0
    between = setting.difference("cream", "srlm")
    assert (between.n, len(between.by_seed)) == (2 * 198, 2), "of the seeds that both have"
    assert setting.difference("cream", "random") is None and setting.change("verifier") is None
    # of three prompts one has no order; tied pairs left out 10/10 and -5/5, with them 10/10 and -5/10
    assert setting.tau("cream", 1).value == 0 and setting.tau("cream", 1, True).value == pytest.approx(0.25)
    assert setting.last_tau_difference("cream", "srlm").value == 0 and setting.last_tau("random") is None
    assert setting.tied("cream", 1).value == pytest.approx(0.5)
    assert (setting.labels("cream").value, setting.labels("cream").n) == (0.5, 12)
    assert setting.over("cream", 1, "mean_length").value == 6
    runs[3]["last_agreement"] = {**runs[3]["last_agreement"], "prompts": "y"}
    with pytest.raises(ValueError, match="have other prompts"):
        figures.Setting(runs, "paper-beta").last_tau_difference("cream", "srlm")


def test_figures_of_the_lab_by_hand(module: Callable[[str], Any]) -> None:
    def run(gain: float, auroc: float | None) -> dict[str, Any]:
        one = {"labels": {"right": 6, "wrong": 2, "equal": 2}, "pairs": 10, "tau_untied": 0.5, "consistency": 0.7}
        prediction = {"prediction": {"auroc": auroc}}
        accuracies = {f"M{n}": {"value": 0.5 + gain * (n - 1)} for n in (1, 2, 3, 4)}
        return {"evaluations": {"lab-evaluation": accuracies}, "rounds": [one, one | prediction, one | prediction]}

    runs = {"cream": {str(n): run(-0.01, 0.5) for n in range(3)}, "srlm": {str(n): run(-0.1, None) for n in range(2)}}
    runs["srlm"]["2"] = {"stopped": "a gate"}
    lab = module("cream.figures").Lab(runs, "large step")
    assert lab.methods == ["cream", "srlm"]
    assert lab.change("srlm").value == pytest.approx(-0.3) and lab.change("srlm", "M4", "M3").value == pytest.approx(
        -0.1
    )
    assert lab.difference("cream", "srlm").by_seed == pytest.approx((0.27, 0.27)), "of the seeds that both have"
    assert lab.difference("cream", "truth") is None
    assert lab.wrong("cream").value == 0.25 and lab.wrong_by_round("cream") == "25, 25, 25"
    assert lab.equal("cream").value == pytest.approx(0.2) and lab.mean("cream", 1, "consistency") == pytest.approx(0.7)
    assert lab.auroc_by_round("cream") == "-, 0.50, 0.50" and lab.auroc_by_round("srlm") == ""


def test_a_run_of_cream_is_collected(
    module: Callable[[str], Any], tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    collect = module("cream.collect")
    places = {"output": str(tmp_path / "run"), "store": str(tmp_path / "steps")}
    recipe = tiny_recipe("cream", rounds=3, cream={"first_round": "sft_middle"}, **places)
    planned = Planned("cream", 0, recipe)
    assert collect.one_run("paper-beta", planned) is None
    selfimprove.run(recipe, Progress(Console(quiet=True)))
    run = collect.one_run("paper-beta", planned, first=2)
    assert [*run["policies"]] == ["M0", "M1", "M2", "M3"]
    assert {len(one["right"]) for one in run["policies"].values()} == {4}  # of six items
    assert [one["agreement"]["models"] for one in run["rounds"]] == ["M1, M1 half-way", "M2, M1"]
    assert run["last_agreement"]["models"] == "M3, M2"
    setting = module("cream.figures").Setting([run], "paper-beta")
    assert setting.tau("cream", 3) is not None and setting.change("cream").n == 4
    file = tmp_path / "run" / "metrics.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        if event.get("consistency"):
            event["consistency"]["mean"] = 2.0
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(RunFailed, match="round 1: C from the scores is"):
        collect.one_run("paper-beta", planned)
