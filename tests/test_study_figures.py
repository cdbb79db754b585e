"""A study's mathematics: hand-computed values, limits, and what the intervals cover."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from selfimprove.statistics import paired_difference
from selfimprove.study.figures import crossed, crossed_ratio, holm, p_value


def test_one_seed_is_the_plain_paired_bootstrap() -> None:
    dice = np.random.default_rng(0)
    before, after = dice.integers(0, 2, 150).astype(float), dice.integers(0, 2, 150).astype(float)
    mean, low, high = paired_difference(before, after, resamples=20000)
    found = crossed([after - before], resamples=20000)
    assert found is not None and (found.seeds, found.n) == (1, 150)
    assert found.value == pytest.approx(mean)
    # the resampling error of an end of 20,000 resamples is about 0.0006 here
    assert found.low == pytest.approx(low, abs=0.005) and found.high == pytest.approx(high, abs=0.005)


def test_equal_seeds_add_no_certainty() -> None:
    """Three runs with the same answers are one run: the items alone make the interval."""
    row = np.random.default_rng(1).normal(size=200)
    one, three = crossed([row], resamples=8000), crossed([row] * 3, resamples=8000)
    assert one is not None and three is not None and three.seeds == 3
    assert three.value == pytest.approx(one.value)
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


def test_identical_arms_differ_by_exactly_0() -> None:
    values = np.random.default_rng(2).normal(size=(3, 50))
    found = crossed(values - values)
    assert found is not None
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_equal_values_with_bounds_do_not_claim_certainty() -> None:
    zeros = np.zeros((1, 20))
    one, three = crossed(zeros, bounds=(-1, 1)), crossed(np.zeros((3, 20)), bounds=(-1, 1))
    assert one is not None and three is not None
    assert (one.low, one.high) == paired_difference(zeros[0], zeros[0])[1:] and one.low < -0.1 < 0.1 < one.high
    assert (three.low, three.high) == (one.low, one.high)  # runs with the same answers are one run


def test_bounds_never_narrow_the_interval_of_several_seeds() -> None:
    values = np.repeat([[0.0], [1.0]], 40, axis=1)
    with_bounds, without = crossed(values, bounds=(0, 1)), crossed(values)
    assert with_bounds is not None and without is not None
    assert with_bounds.low <= without.low and with_bounds.high >= without.high


def test_the_spread_of_two_seeds_is_the_one_computed_by_hand() -> None:
    """Two seeds that differ as wholes, 0 and 1 on every item: a resample's mean is 0, 1/2 or 1 with chance 1/4, 1/2,
    1/4, so the 95% interval is all of [0, 1] and the two-sided p is twice a quarter."""
    found = crossed([[0.0] * 40, [1.0] * 40], resamples=20000)
    assert found is not None
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.p == pytest.approx(0.5, abs=0.02)


def test_a_missing_value_leaves_its_place_out_and_not_the_item() -> None:
    found = crossed([[1.0, math.nan, 0.0, math.nan], [0.0, 1.0, math.nan, math.nan]])
    assert found is not None
    assert (found.value, found.n, found.seeds) == (0.5, 3, 2)  # four values; the fourth item has none
    assert found.low <= 0.5 <= found.high
    nothing = crossed([[math.nan, math.nan], [1.0, 2.0]])
    assert nothing is not None and nothing.seeds == 1
    assert crossed([[math.nan]]) is None and crossed(np.empty((0, 0))) is None


def test_what_is_no_matrix_of_finite_values_is_refused() -> None:
    for values in ([1.0, 2.0], [[1.0, math.inf]]):
        with pytest.raises(ValueError, match=r"shape|finite"):
            crossed(values)
    with pytest.raises(ValueError, match="level"):
        crossed([[1.0, 2.0]], level=1.0)


def test_it_is_deterministic_and_one_item_has_no_p() -> None:
    values = np.random.default_rng(3).normal(size=(3, 30))
    assert crossed(values, resamples=200) == crossed(values, resamples=200)
    assert crossed(values, resamples=200) != crossed(values, resamples=200, seed=1)
    single = crossed([[0.7]])
    assert single is not None and single.p is None and (single.low, single.high) == (0.7, 0.7)


@pytest.mark.parametrize(
    ("seeds", "between_seeds", "between_items", "noise", "least", "most"),
    [
        (1, 0.0, 1.0, 0.0, 0.91, 0.98),  # the plain bootstrap
        (3, 0.0, 1.0, 0.0, 0.91, 0.98),  # items differ, seeds do not
        (3, 0.0, 0.6, 0.6, 0.93, 1.00),  # single answers are noisy: a little too wide
        (10, 0.06, 0.6, 0.6, 0.91, 0.99),
        (3, 0.2, 0.6, 0.6, 0.80, 0.95),  # seeds differ as wholes, and three say little of it: too narrow
    ],
)
def test_intervals_cover_what_the_docstring_says(
    seeds: int, between_seeds: float, between_items: float, noise: float, least: float, most: float
) -> None:
    dice, covered = np.random.default_rng(4), 0
    for number in range(300):
        values = 0.3 + between_seeds * dice.normal(size=(seeds, 1)) + between_items * dice.normal(size=(1, 60))
        found = crossed(values + noise * dice.normal(size=(seeds, 60)), resamples=400, seed=number % 2)
        assert found is not None
        covered += found.low <= 0.3 <= found.high
    assert least <= covered / 300 <= most


def test_p_value_by_hand_and_with_the_interval() -> None:
    assert p_value([1.0] * 99) == pytest.approx(2 / 100)  # never on the other side: as small as 99 draws can say
    assert p_value([-1.0, 1.0, 2.0, 3.0]) == pytest.approx(2 * 2 / 5)
    assert p_value([0.0] * 10) == 1.0
    dice = np.random.default_rng(5)
    for shift in np.linspace(-0.5, 0.5, 11):
        found = crossed(shift + dice.normal(size=(2, 60)))
        assert found is not None and found.p is not None
        if abs(found.p - 0.05) > 0.01:
            assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


def test_the_share_of_a_gain() -> None:
    gain = np.random.default_rng(6).normal(1.0, 0.5, size=(3, 80))
    same, half = crossed_ratio(gain, gain), crossed_ratio(gain / 2, gain)
    assert same == pytest.approx((1.0, 1.0, 1.0)) and half == pytest.approx((0.5, 0.5, 0.5))
    assert crossed_ratio(gain, gain - 1.0) is None, "a share of what is not told from nothing"
    assert crossed_ratio(gain, -gain) is None and crossed_ratio(np.empty((0, 0)), np.empty((0, 0))) is None
    with_hole = gain.copy()
    with_hole[0, 0] = math.nan
    assert crossed_ratio(with_hole, gain) == pytest.approx((1.0, 1.0, 1.0)), "only places that both have"
    with pytest.raises(ValueError, match="same seeds"):
        crossed_ratio(gain, gain[:1])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


def test_the_mathematics_needs_numpy_alone() -> None:
    code = (
        "import sys, selfimprove.study.figures; print({'torch', 'scipy', 'pydantic', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
