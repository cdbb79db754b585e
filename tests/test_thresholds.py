"""Thresholds of a judge's scores: what is kept, how much of it is good, and what cannot be had."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from selfimprove.errors import RunFailed
from selfimprove.statistics import wilson_interval
from selfimprove.tasks.thresholds import Threshold, threshold_for

SCORES = st.sampled_from([*np.linspace(0, 9, 7), -math.inf])  # few values, so that there are ties
ANSWERS = st.lists(st.tuples(SCORES, st.sampled_from([0, 1])), min_size=1, max_size=30)
SHARES = st.floats(0.01, 1)


def split(answers: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [score for score, _ in answers], [good for _, good in answers]


def kept_share(scores: list[float], value: float) -> float:
    return sum(score >= value for score in scores) / len(scores)


def test_a_threshold_by_hand() -> None:
    scores, good = [9, 8, 8, 5, 3, 1, -math.inf], [1, 1, 0, 1, 0, 0, 0]
    # Wilson's lower ends by kept answers: 1 of 1 .207, 2 of 3 .208, 3 of 4 .301, 3 of 5 .231, 3 of 6 .188
    found = threshold_for(scores, good, precision=0.3)
    assert (found.value, found.n) == (5.0, 7)
    assert found.coverage == 4 / 7 and found.precision == 3 / 4
    assert found.coverage_low < 4 / 7 < found.coverage_high and found.precision_low < 3 / 4 < found.precision_high
    assert found.precision_low == pytest.approx(0.301, abs=1e-3)
    assert threshold_for(scores, good, precision=0.23).value == 3.0
    assert threshold_for(scores, good, coverage=2 / 7).value == 8.0  # the two eights are kept together
    assert threshold_for(scores, good, coverage=2 / 7).coverage == 3 / 7


@given(ANSWERS, SHARES)
def test_what_is_kept_has_the_wanted_precision_and_no_lower_score_would(
    answers: list[tuple[float, int]], wanted: float
) -> None:
    scores, good = split(answers)
    by_value = {
        value: wilson_interval(sum(kept), len(kept))
        for value in scores
        if math.isfinite(value)
        for kept in [[g for score, g in answers if score >= value]]
    }
    reaching = [value for value, (_, low, _) in by_value.items() if low >= wanted]
    if not reaching:
        with pytest.raises(RunFailed):
            threshold_for(scores, good, precision=wanted)
        return
    found = threshold_for(scores, good, precision=wanted)
    assert found.value == min(reaching)
    assert found.precision == pytest.approx(by_value[found.value][0]) and found.precision_low >= wanted
    assert found.coverage == pytest.approx(kept_share(scores, found.value))
    assert 0 <= found.precision_low <= found.precision <= found.precision_high <= 1


@given(ANSWERS, SHARES)
def test_the_highest_threshold_that_keeps_the_wanted_coverage(answers: list[tuple[float, int]], wanted: float) -> None:
    scores, good = split(answers)
    assume(np.isfinite(scores).mean() >= wanted)
    found = threshold_for(scores, good, coverage=wanted)
    assert found.coverage == pytest.approx(kept_share(scores, found.value)) and found.coverage >= wanted
    higher = [score for score in scores if score > found.value]
    assert not higher or kept_share(scores, min(higher)) < wanted


@given(ANSWERS, SHARES, SHARES)
def test_less_coverage_never_lowers_the_threshold(answers: list[tuple[float, int]], one: float, other: float) -> None:
    scores, good = split(answers)
    assume(np.isfinite(scores).mean() >= max(one, other))
    less, more = (threshold_for(scores, good, coverage=share) for share in sorted((one, other)))
    assert less.value >= more.value and less.coverage <= more.coverage


@given(ANSWERS, st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_more_precision_never_raises_the_coverage(answers: list[tuple[float, int]], one: float, other: float) -> None:
    scores, good = split(answers)
    found: list[Threshold] = []
    for share in sorted((one, other)):
        try:
            found.append(threshold_for(scores, good, precision=share))
        except RunFailed:
            break
    if len(found) < 2:
        return
    assert found[0].coverage >= found[1].coverage and found[0].value <= found[1].value


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20))
def test_limits(scores: list[float]) -> None:
    everything = threshold_for(scores, [1] * len(scores), precision=0.2)
    assert everything.coverage == everything.precision == 1.0 and everything.value == min(scores)
    assert threshold_for(scores, [0] * len(scores), coverage=1.0).value == min(scores)
    assert threshold_for(scores, [0] * len(scores), coverage=1e-9).value == max(scores)


def test_a_judge_that_knows_nothing_reaches_no_high_precision() -> None:
    reached = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        try:
            threshold_for(rng.normal(size=100), rng.permutation(np.arange(100) % 2), precision=0.8)
            reached += 1
        except RunFailed:
            pass
    assert reached <= 5


def test_what_cannot_be_had_is_said_with_the_best_that_can() -> None:
    with pytest.raises(
        RunFailed, match=r"no threshold reaches a precision \(by.*of 90\.0%.*the best is precision 50\.0%"
    ):
        threshold_for([3, 2, 1], [0, 1, 0], precision=0.9)
    with pytest.raises(RunFailed, match=r"coverage of 100\.0%.*at coverage 50\.0%"):
        threshold_for([3, -math.inf], [1, 0], coverage=1.0)
    with pytest.raises(RunFailed, match="no held-out answer has a score"):
        threshold_for([-math.inf], [0], coverage=0.5)
    # of equally precise ones the one that keeps most
    with pytest.raises(RunFailed, match=r"at coverage 100\.0%"):
        threshold_for([4, 4, 1, 1], [1, 0, 1, 0], precision=0.9)


@pytest.mark.parametrize(
    ("scores", "good", "wanted"),
    [
        ([1, 2], [1, 0], {}),
        ([1, 2], [1, 0], {"precision": 0.5, "coverage": 0.5}),
        ([1, 2], [1, 0], {"precision": 0}),
        ([1, 2], [1, 0], {"coverage": 1.5}),
        ([1, 2], [1], {"coverage": 0.5}),
        ([], [], {"coverage": 0.5}),
        ([math.nan], [1], {"coverage": 0.5}),
        ([math.inf], [1], {"coverage": 0.5}),
        ([1], [0.5], {"coverage": 0.5}),
    ],
)
def test_other_arguments_are_refused(scores: list[float], good: list[float], wanted: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        threshold_for(scores, good, **wanted)
