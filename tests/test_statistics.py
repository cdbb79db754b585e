"""Intervals: known values, what every interval must satisfy, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.statistics import (
    bootstrap_interval,
    bounded_interval,
    mean_interval,
    paired_difference,
    share_interval,
    wilson_interval,
)

numbers = st.floats(-1e6, 1e6)
samples = st.lists(numbers, min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(samples, st.floats(0.05, 0.999), st.integers(2, 50), st.integers(0, 9))
def test_bootstrap_contains_the_mean_and_is_deterministic(
    values: list[float], level: float, resamples: int, seed: int
) -> None:
    mean, low, high = bootstrap_interval(values, level, resamples, seed)
    assert low <= mean <= high
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    slack = 1e-9 * max(1.0, float(np.abs(values).max()))
    assert min(values) - slack <= low
    assert high <= max(values) + slack
    assert bootstrap_interval(np.array(values), level, resamples, seed) == (mean, low, high)


def test_bootstrap_leaves_the_global_random_state_alone() -> None:
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    first = bootstrap_interval([0, 1, 1, 0, 1])
    assert np.random.random() == expected
    assert first == bootstrap_interval([0, 1, 1, 0, 1])
    assert first != bootstrap_interval(np.random.default_rng(0).random(5), seed=1)


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    mean, low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.03)


def test_bootstrap_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        _, low, high = bootstrap_interval(rng.normal(0, 1, 60), level=0.9, resamples=300, seed=seed)
        covered += low <= 0 <= high
    assert 165 <= covered <= 195  # 90% of 200, three standard deviations either side


@pytest.mark.parametrize("values", [[0.3], [0.1] * 3, [True, True], [0] * 50])
def test_equal_values_have_no_width(values: list[float]) -> None:
    assert bootstrap_interval(values) == (values[0],) * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "non-empty"),
        ([[1.0, 2.0]], "shape"),
        ([1.0, float("nan")], "missing"),
        ([float("inf")], "finite"),
    ],
)
def test_bootstrap_refuses(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5])
def test_levels_are_shares(level: float) -> None:
    for call in (
        lambda: bootstrap_interval([1, 2], level),
        lambda: wilson_interval(1, 2, level),
        lambda: paired_difference([1, 2], [2, 2], level),
    ):
        with pytest.raises(ValueError, match="level"):
            call()


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_known_values(successes: int, n: int, low: float, high: float) -> None:
    # The last row is the worked example of Newcombe, Statistics in Medicine 17 (1998), table I.
    assert wilson_interval(successes, n) == pytest.approx((successes / n, low, high), abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_wilson_contains_the_share_and_is_symmetric(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    share, low, high = wilson_interval(successes, n)
    assert 0 <= low <= share <= high <= 1
    assert wilson_interval(n - successes, n) == pytest.approx((1 - share, 1 - high, 1 - low))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20), st.integers(0, 5))
def test_paired_difference_is_second_minus_first(pairs: list[tuple[float, float]], seed: int) -> None:
    first, second = zip(*pairs, strict=True)
    difference, low, high = paired_difference(first, second, resamples=40, seed=seed)
    assert difference == pytest.approx(np.mean(second) - np.mean(first), abs=1e-6)
    assert low <= difference <= high
    back, back_low, back_high = paired_difference(second, first, resamples=40, seed=seed)
    assert (back, back_low, back_high) == pytest.approx((-difference, -high, -low), abs=1e-6)


def test_pairing_takes_the_items_difficulty_out() -> None:
    first = np.random.default_rng(0).normal(0, 100, 50)
    difference, low, high = paired_difference(first, first + np.tile([0.9, 1.1], 25))
    assert (difference, low, high) == pytest.approx((1, 1, 1), abs=0.05)


def test_paired_difference_needs_the_same_items() -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_difference([1, 2, 3], [1, 2])


# Intervals of values with bounds: a width where all are equal, Wilson's of 0 and 1, and they cover


def test_equal_values_do_not_claim_certainty() -> None:
    assert bounded_interval([10.0] * 20, (1, 10))[1:] == (pytest.approx(8.55, abs=0.01), 10.0)
    assert share_interval([0.5] * 20)[1:] == pytest.approx((0.422, 0.578), abs=1e-3)
    zeros = [0.0] * 20
    for found in (paired_difference(zeros, zeros), paired_difference([1.0] * 20, [1.0] * 20)):
        assert found == (0, pytest.approx(-0.156, abs=1e-3), pytest.approx(0.156, abs=1e-3))
    assert paired_difference(zeros, [1.0] * 20)[1:] == (pytest.approx(0.678, abs=0.001), 1)
    low, high = paired_difference([7.0] * 20, [7.0] * 20, bounds=(1, 10))[1:]
    assert low == -high and high == pytest.approx(1.407, abs=0.001)
    assert mean_interval([0.0, 1.0, 2.5]) == bootstrap_interval([0.0, 1.0, 2.5])  # nothing bounds these
    assert mean_interval([0.0, 1.0, 0.5]) == share_interval([0.0, 1.0, 0.5])


@given(st.integers(1, 300), st.data())
def test_of_right_and_wrong_it_is_wilson_s(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    values = [1.0] * right + [0.0] * (n - right)
    assert share_interval(values) == pytest.approx(wilson_interval(right, n), abs=1e-9)
    scaled = bounded_interval([1 + 9 * value for value in values], (1, 10))
    assert scaled == pytest.approx([1 + 9 * end for end in share_interval(values)], abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_it_holds_the_mean_and_stays_within_the_bounds(values: list[float]) -> None:
    mean, low, high = share_interval(values)
    assert 0 <= low <= mean <= high <= 1 and high > low
    assert share_interval([1 - value for value in values])[1:] == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("values", "bounds"), [([0.0, 2.0], (0, 1)), ([-0.1], (0, 1)), ([1.0], (1, 1))])
def test_values_outside_the_bounds_are_refused(values: list[float], bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="within"):
        bounded_interval(values, bounds)


SHARES = [0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
# What is measured: bounds, and the values with the probability of each when p is what the share is of.
POPULATIONS = {
    "right or wrong": ((0, 1), lambda p: {1: p}),
    "wins with ties": ((0, 1), lambda p: {1: p / 2, 0.5: p}),
    "ties with wins": ((0, 1), lambda p: {1: p, 0.5: 1 - p}),
    "gains alone": ((-1, 1), lambda p: {1: p}),
    "gains and losses": ((-1, 1), lambda p: {1: 0.7 * p, -1: 0.3 * p}),
    "as many losses": ((-1, 1), lambda p: {1: p / 2, -1: p / 2}),
    "ratings of 1 among tens": ((1, 10), lambda p: {1: p, 10: 1 - p}),
    "ratings around 8": ((1, 10), lambda p: {1: p / 4, 7: p / 2, 8: 1 - p, 9: p / 4}),
    "changes of a rating": ((-9, 9), lambda p: {3: p / 2, 1: p / 4, -1: p / 4}),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_intervals_cover_the_truth_in_92_of_100(name: str) -> None:
    bounds, masses = POPULATIONS[name]
    rng = np.random.default_rng(0)
    for p in SHARES:
        mass = {0: 0.0} | masses(p)
        mass[0] += 1 - sum(mass.values())
        values = np.array(list(mass), dtype=float)
        for n in (20, 50, 100):
            # how often each value came, and how often that: the mean and the spread are all that the interval reads
            counts, times = np.unique(rng.multinomial(n, list(mass.values()), size=4000), axis=0, return_counts=True)
            found = [bounded_interval(np.repeat(values, one), bounds) for one in counts]
            truth = float(values @ list(mass.values()))
            covered = sum(
                times for (_, low, high), times in zip(found, times, strict=True) if low - 1e-9 <= truth <= high + 1e-9
            )
            assert covered >= 0.915 * 4000, f"p {p}, n {n}: {covered / 4000}"  # 92% less the noise of 4000 samples
