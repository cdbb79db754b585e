"""A judge's scores against gold: values by hand, against libraries, what must always hold, and what is undefined."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from selfimprove.suites.calibration import calibration
from selfimprove.suites.judge_scores import (
    Graded,
    Measured,
    best_of_n,
    change,
    kept_gold,
    less,
    measure_scores,
    thinned,
    without_length,
)

# Two prompts with three responses each, the second without any that is good, and one with a single response.
PROMPTS = [0, 0, 0, 1, 1, 1, 2]
GOLD = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
SCORES = [7.0, 3.0, 7.0, 2.0, 1.0, 1.0, 9.0]
LENGTHS = [4, 9, 2, 5, 5, 8, 3]

Response = tuple[int, float | None, float | None, int]  # prompt, score, gold, length
responses = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.none() | st.sampled_from([0.0, 1.5, 4.0, 9.0]),
        st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=25,
)


def graded_of(gold: Any = GOLD, prompts: Any = PROMPTS, lengths: Any = LENGTHS, count: int | None = None) -> Graded:
    return Graded.of(prompts, gold, lengths, count)


def measured(rows: list[Response], flip: bool = False, **options: Any) -> Measured:
    prompts, scores, gold, lengths = zip(*rows, strict=True)
    scores = tuple(score if score is None or not flip else -score for score in scores)
    return measure_scores(scores, Graded.of(prompts, gold, lengths), resamples=20, **options)


# ---- values by hand


def test_figures_by_hand() -> None:
    found = measure_scores(SCORES, graded_of(), resamples=200).figures
    assert (found["n"], found["missing"]) == (7, 0)
    # Of the ten pairs of a good response and another one: 9 beats all five, 7 beats four and ties with one.
    assert found["auroc"]["value"] == pytest.approx(9.5 / 10)
    assert found["pearson"]["value"] == pytest.approx(stats.pearsonr(SCORES, GOLD).statistic)
    assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(SCORES, GOLD).statistic)
    assert found["kendall"]["value"] == pytest.approx(stats.kendalltau(SCORES, GOLD).statistic)
    # Within prompts only the first varies in both: ranks of 7, 3, 7 and of 1, 0, 0.
    assert found["within"]["value"] == pytest.approx(0.5) and found["within"]["n"] == 1
    # Kept: the 9, the two 7s (one of them good), 3, 2, and the two 1s.
    kept = [1, 1.5 / 2, 2 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7]
    assert found["curve"] == [[pytest.approx(k / 7), pytest.approx(gold)] for k, gold in enumerate(kept, 1)]
    assert found["area"]["value"] == pytest.approx(sum(kept) / 7)


def test_the_best_of_n_by_hand() -> None:
    picked, best = best_of_n(np.array(SCORES), graded_of())
    assert picked.tolist() == [0.5, 0.0, 1.0] and best is not None  # the two 7s are averaged
    assert best["value"] == pytest.approx(0.5) and best["n"] == 3
    assert best["mean_length"] == pytest.approx((3 + 5 + 3) / 3)
    # Random: 1/3, 0, 1. The longest of the first prompt is wrong, and so is the shortest.
    assert best["minus_random"]["value"] == pytest.approx((1 / 6) / 3)
    assert best["minus_longest"]["value"] == best["minus_shortest"]["value"] == pytest.approx(0.5 / 3)
    assert best["minus_longest"]["low"] <= 0.5 / 3 <= best["minus_longest"]["high"]


def test_a_score_that_is_length_alone_picks_at_random_once_length_is_taken_out() -> None:
    lengths = np.array([1, 4, 9, 2, 6, 3, 5], dtype=float)
    graded = graded_of(lengths=lengths)
    left = without_length(3 * np.log1p(lengths), lengths)
    assert np.ptp(left) == 0
    found = measure_scores((3 * np.log1p(lengths)).tolist(), graded, resamples=20).figures
    assert found["length_controlled"]["minus_random"]["value"] == pytest.approx(0, abs=1e-12)
    assert without_length(np.array(SCORES), np.full(7, 4.0)).tolist() == SCORES


def test_what_length_leaves_does_not_correlate_with_it() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 50).astype(float)
    left = without_length(rng.normal(size=50) + np.log1p(lengths), lengths)
    assert abs(np.corrcoef(left, np.log1p(lengths))[0, 1]) < 1e-6


def test_calibration_by_hand() -> None:
    graded = Graded.of([0, 1, 2, 3], [0.0, 1.0, 1.0, None], [1, 1, 1, 1])
    found = calibration([0.9, 0.45, 9.0, 5.0], graded, (0, 9), (0, 1), resamples=200)
    assert found is not None
    # 0.9 and 0.45 of 9 are 0.1 and 0.05: the second and the first bin of ten; 9 is in the last.
    assert [(one["score"], one["gold"], one["n"]) for one in found["bins"]] == [
        (pytest.approx(0.05), 1.0, 1),
        (pytest.approx(0.1), 0.0, 1),
        (1.0, 1.0, 1),
    ]
    assert found["error"] == pytest.approx((0.95 + 0.1 + 0) / 3)
    assert found["bias"]["value"] == pytest.approx((0.05 + 0.1 + 1) / 3 - 2 / 3)
    scaled = calibration([0.9, 0.45, 9.0, 5.0], Graded.of([0, 1, 2, 3], [1, 5, 5, None], [1] * 4), (0, 9), (1, 5))
    assert scaled is not None and scaled["error"] == pytest.approx(found["error"])


# ---- what is undefined is None


@pytest.mark.parametrize(
    ("scores", "gold", "none", "there"),
    [
        (SCORES, [1.0] * 7, ["pearson", "spearman", "kendall", "within", "auroc"], ["area", "best_of_n"]),
        ([4.0] * 7, GOLD, ["pearson", "spearman", "kendall", "within"], ["auroc", "area", "best_of_n"]),
        ([None] * 7, GOLD, ["pearson", "within", "auroc", "area", "best_of_n", "length_controlled"], []),
        ([3.0, *[None] * 6], GOLD, ["pearson", "spearman", "auroc", "within"], ["area", "best_of_n"]),
    ],
)
def test_what_is_undefined_is_none_and_not_nan(scores: Any, gold: Any, none: list[str], there: list[str]) -> None:
    found = measure_scores(scores, graded_of(gold), resamples=20).figures
    assert {name for name in none if found[name] is None} == set(none)
    assert all(found[name] is not None for name in there)
    json.dumps(found, allow_nan=False)


def test_equal_scores_are_a_random_choice() -> None:
    found = measure_scores([0.0] * 7, graded_of(), resamples=200).figures
    assert found["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 7}
    assert [gold for _, gold in found["curve"]] == [pytest.approx(2 / 7)] * 7
    assert found["area"]["value"] == pytest.approx(2 / 7)
    assert found["best_of_n"]["minus_random"]["value"] == 0


def test_missing_is_left_out_and_never_a_zero() -> None:
    # A zero for the response without a score would be the lowest of all.
    with_none = measure_scores([*SCORES, None, 5.0], Graded.of([*PROMPTS, 0, 3], [*GOLD, 1.0, None], [*LENGTHS, 1, 1]))
    without = measure_scores(SCORES, graded_of(count=4))
    assert with_none.figures == without.figures | {"missing": 2}
    assert math.isnan(with_none.picked[3])


def test_no_prompt_and_no_range() -> None:
    nothing = Graded.of([], [], [])
    assert measure_scores([], nothing).figures["area"] is None and calibration([], nothing, (0, 9), (0, 1)) is None
    assert calibration(SCORES, graded_of([1.0] * 7), (0, 9), (1.0, 1.0)) is None
    assert thinned(np.empty(0)) == []


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="one score a response"):
        measure_scores(SCORES[1:], graded_of())
    with pytest.raises(ValueError, match="scores must be finite"):
        measure_scores([math.nan, *SCORES[1:]], graded_of())
    with pytest.raises(ValueError, match="one entry a response"):
        graded_of(lengths=[1])
    with pytest.raises(ValueError, match="there are 2 prompts"):
        graded_of(count=2)
    with pytest.raises(ValueError, match="the same number of draws"):
        change(
            measure_scores(SCORES, graded_of(), resamples=5), measure_scores(SCORES, graded_of(), resamples=6), "area"
        )


# ---- what must always hold


@settings(max_examples=60, deadline=None)
@given(responses)
def test_every_figure_is_within_its_bounds_and_its_interval(rows: list[Response]) -> None:
    found = measured(rows).figures
    json.dumps(found, allow_nan=False)
    known = [gold for _, score, gold, _ in rows if score is not None and gold is not None]
    assert found["n"] == len(known) and found["n"] + found["missing"] == len(rows)
    for name in ("pearson", "spearman", "kendall", "within", "auroc", "area", "best_of_n"):
        if found[name] is not None:
            lowest = 0 if name in ("auroc", "area", "best_of_n") else -1
            assert lowest - 1e-9 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1 + 1e-9
    if known:
        assert found["curve"][-1] == [1.0, pytest.approx(np.mean(known))]
        assert min(known) - 1e-9 <= min(gold for _, gold in found["curve"])


@settings(max_examples=60, deadline=None)
@given(responses)
def test_the_oracle_is_above_and_every_order_of_ties_is_averaged(rows: list[Response]) -> None:
    own, oracle = measured(rows).figures, measured([(p, g if s is not None else None, g, n) for p, s, g, n in rows])
    if own["area"] is not None:
        assert own["area"]["value"] <= oracle.figures["area"]["value"] + 1e-9
        assert own["best_of_n"]["value"] <= oracle.figures["best_of_n"]["value"] + 1e-9
    back = measured(rows[::-1]).figures
    for name in ("spearman", "kendall", "auroc", "area", "best_of_n"):
        assert (own[name] is None) == (back[name] is None)
        assert own[name] is None or own[name]["value"] == pytest.approx(back[name]["value"])


@settings(max_examples=60, deadline=None)
@given(responses)
def test_turning_the_scores_round_turns_the_figures_round(rows: list[Response]) -> None:
    straight, turned = measured(rows).figures, measured(rows, flip=True).figures
    for name in ("pearson", "spearman", "kendall", "within"):
        assert straight[name] is None or straight[name]["value"] == pytest.approx(-turned[name]["value"])
    assert straight["auroc"] is None or straight["auroc"]["value"] == pytest.approx(1 - turned["auroc"]["value"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5]), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_that_of_scikit_learn(rows: list[tuple[float, bool]]) -> None:
    scores, good = zip(*rows, strict=True)
    found = measure_scores(scores, Graded.of([0] * len(rows), list(map(float, good)), [1] * len(rows)), resamples=2)
    if len(set(good)) == 2:
        assert found.figures["auroc"]["value"] == pytest.approx(roc_auc_score(good, scores))
    else:
        assert found.figures["auroc"] is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_curve_is_the_mean_over_all_orders_of_equal_scores(rows: list[tuple[int, int]]) -> None:
    scores, gold = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(rows)) for _ in range(2000)]
    sorted_gold = [gold[order][np.argsort(-scores[order], kind="stable")] for order in orders]
    plain = np.mean([np.cumsum(one) / np.arange(1, len(rows) + 1) for one in sorted_gold], axis=0)
    assert kept_gold(scores, gold) == pytest.approx(plain, abs=0.25)
    assert kept_gold(scores, gold)[-1] == pytest.approx(gold.mean())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500))
def test_a_curve_is_thinned_to_its_ends_and_41_points_at_most(n: int) -> None:
    points = thinned(np.arange(n, dtype=float))
    assert len(points) == min(n, 41)
    assert points[0] == [1 / n, 0.0] and points[-1] == [1.0, n - 1.0]
    assert [coverage for coverage, _ in points] == sorted({coverage for coverage, _ in points})


# ---- intervals


def clustered(count: int, each: int, seed: int) -> tuple[Graded, list[float], list[float]]:
    """Prompts of very different difficulty: responses to one are nearly the same. And a good score, and a poor one."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.normal(size=count), each)
    gold = level + 0.1 * rng.normal(size=count * each)
    good, poor = gold + rng.normal(size=count * each), gold + 4 * rng.normal(size=count * each)
    prompts = np.repeat(np.arange(count), each).tolist()
    return Graded.of(prompts, gold.tolist(), [1] * (count * each)), good.tolist(), poor.tolist()


def test_intervals_draw_prompts_and_not_responses() -> None:
    graded, good, _ = clustered(40, 8, 0)
    alone = Graded.of(range(320), graded.gold.tolist(), [1] * 320)
    together, apart = (measure_scores(good, one, 0.0, 400).figures for one in (graded, alone))
    for name in ("area", "pearson"):
        assert together[name]["value"] == pytest.approx(apart[name]["value"])
        widths = [one[name]["high"] - one[name]["low"] for one in (together, apart)]
        assert widths[0] > 1.3 * widths[1]


def test_the_interval_covers_the_truth() -> None:
    truth = 1 / math.sqrt(2.01 / 1.01)  # correlation of gold and gold + noise, whose variances are 1.01 and 2.01
    covered = 0
    for seed in range(40):
        graded, good, _ = clustered(50, 2, seed)
        found = measure_scores(good, graded, 0.0, 80).figures["pearson"]
        covered += found["low"] <= truth <= found["high"]
    assert covered >= 33  # 95% of 40, less three standard deviations and the few draws


def test_differences_are_paired_over_the_same_draws() -> None:
    graded, good, poor = clustered(60, 3, 1)
    first, second = measure_scores(good, graded, 0.0, 200), measure_scores(poor, graded, 0.0, 200)
    found = less(first, second)
    assert found["spearman"]["low"] > 0 and found["auroc"]["low"] > 0
    for name in ("pearson", "spearman", "kendall", "auroc", "area"):
        difference = first.figures[name]["value"] - second.figures[name]["value"]
        assert found[name]["value"] == pytest.approx(difference)
    assert less(first, first)["spearman"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 180}
    assert less(first, measure_scores([0.0] * 180, graded, 0.0, 200))["spearman"] is None
    # A judge whose missing scores empty a prompt still has the same draws.
    fewer = measure_scores([None, None, None, *good[3:]], graded, 0.0, 200)
    assert fewer.resampled["spearman"].shape == first.resampled["spearman"].shape
    narrow = less(fewer, first)["spearman"]
    assert narrow["high"] - narrow["low"] < 0.1
    assert less(fewer, first)["best_of_n"]["n"] == 59
