"""The soft preference loss and the agreement measures, against hand-computed values and scipy."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import optimize, stats

from selfimprove.judging.agreement import MEASURES, consistency, kendall_tau_a, tie_rate
from selfimprove.training.losses import soft_preference_loss

margins = st.floats(-50, 50)
confidences = st.floats(0, 1)
# Few distinct values, so that ties happen; a list of pairs, so that both sides have the same length.
small = st.integers(-3, 3).map(float)
two_rankings = st.lists(st.tuples(small, small), min_size=2, max_size=7)


def loss(margin: float, confidence: float, dtype: torch.dtype = torch.float64) -> float:
    return float(soft_preference_loss(torch.tensor([margin], dtype=dtype), torch.tensor([confidence], dtype=dtype)))


# ---- the loss


def test_loss_at_zero_margin_is_ln_2_whatever_the_confidence() -> None:
    for confidence in (0.0, 0.24, 0.5, 0.92, 1.0):
        assert loss(0.0, confidence) == pytest.approx(math.log(2), abs=1e-12)


def test_loss_has_the_values_computed_by_hand() -> None:
    # sigma(1) = 0.731059, so -log sigma(1) = 0.313262 and -log sigma(-1) = 1.313262
    assert loss(1.0, 1.0) == pytest.approx(0.313262, abs=1e-6)
    assert loss(1.0, 0.0) == pytest.approx(1.313262, abs=1e-6)
    assert loss(1.0, 0.75) == pytest.approx(0.563262, abs=1e-6)
    assert loss(-2.0, 0.9) == pytest.approx(0.9 * 2.126928 + 0.1 * 0.126928, abs=1e-6)


def test_cream_with_full_confidence_is_plain_dpo() -> None:
    h = torch.linspace(-20, 20, 101, dtype=torch.float64)
    torch.testing.assert_close(soft_preference_loss(h, torch.tensor(1.0)), -F.logsigmoid(h))


@given(margins, confidences)
def test_loss_is_the_papers_mixture_of_both_directions(margin: float, confidence: float) -> None:
    h = torch.tensor(margin, dtype=torch.float64)
    expected = confidence * -F.logsigmoid(h) + (1 - confidence) * -F.logsigmoid(-h)
    # torch's softplus is its argument above 20, so it may be off by exp(-20) = 2e-9.
    assert loss(margin, confidence) == pytest.approx(float(expected), abs=3e-9)


@given(margins, confidences)
@example(-20.5, 0.0)
@example(-20.0, 0.0)
def test_loss_gradient_is_sigmoid_minus_confidence(margin: float, confidence: float) -> None:
    h = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
    soft_preference_loss(h, torch.tensor([confidence], dtype=torch.float64)).sum().backward()
    expected = 1 / (1 + math.exp(-margin)) - confidence
    assert h.grad is not None
    # torch's softplus is its argument above 20: gradient and value are off by exp(-20) = 2e-9 there, and a step must be
    # so long that the jump does not show.
    assert float(h.grad) == pytest.approx(expected, abs=3e-9)
    step = 1e-3
    by_differences = (loss(margin + step, confidence) - loss(margin - step, confidence)) / (2 * step)
    assert by_differences == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("confidence", "optimum"), [(0.92, 2.442), (0.73, 0.995), (0.5, 0.0), (0.46, -0.160)])
def test_loss_is_least_where_the_margin_is_the_logit_of_the_confidence(confidence: float, optimum: float) -> None:
    found = optimize.minimize_scalar(lambda h: loss(h, confidence), bounds=(-10, 10), method="bounded").x
    assert found == pytest.approx(optimum, abs=1e-3)
    assert found == pytest.approx(math.log(confidence / (1 - confidence)), abs=1e-3)


def test_soft_loss_is_not_dpo_weighted_by_twice_the_confidence_minus_one() -> None:
    # Both have the gradient 1/2 - C at a margin of 0. Beyond the optimum (0.995 for C = 0.73) the soft loss pulls
    # the margin back, while weighted DPO pushes it on for ever.
    h = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    (soft,) = torch.autograd.grad(soft_preference_loss(h, torch.tensor(0.73)).sum(), h)
    (weighted,) = torch.autograd.grad(((2 * 0.73 - 1) * -F.logsigmoid(h)).sum(), h)
    assert float(soft[0]) == pytest.approx(float(weighted[0]), abs=1e-6)
    assert float(soft[1]) > 0.2
    assert float(weighted[1]) < 0


@pytest.mark.parametrize("margin", [1e4, -1e4])
def test_loss_does_not_overflow_at_large_margins(margin: float) -> None:
    for confidence in (0.0, 0.3, 1.0):
        h = torch.tensor([margin], dtype=torch.float32, requires_grad=True)
        value = soft_preference_loss(h, torch.tensor([confidence]))
        value.sum().backward()
        wrong_way = 1 - confidence if margin > 0 else confidence
        assert value.item() == pytest.approx(wrong_way * 1e4, rel=1e-5, abs=1e-6)
        assert h.grad is not None and float(h.grad) == pytest.approx(float(margin > 0) - confidence, abs=1e-6)


def test_loss_keeps_one_value_per_pair_and_takes_one_confidence_for_all() -> None:
    h = torch.tensor([1.0, -1.0])
    each = soft_preference_loss(h, torch.tensor([0.9, 0.1]))
    assert each.shape == (2,)
    torch.testing.assert_close(each[0], each[1])
    torch.testing.assert_close(soft_preference_loss(h, 0.7), soft_preference_loss(h, torch.tensor([0.7, 0.7])))


# ---- agreement


def test_five_responses_without_ties_give_only_the_eleven_values_of_tau() -> None:
    order = np.arange(5.0)
    taus = {round(kendall_tau_a(order, np.array(p, dtype=float)), 10) for p in permutations(range(5))}
    assert taus == {round(-1 + 0.2 * i, 10) for i in range(11)}
    assert consistency(order, order[::-1]) == 0.0
    assert consistency(order, order) == 1.0


def test_a_tied_pair_counts_zero_in_kendalls_tau() -> None:
    # Pairs (0,1) and (0,2) agree, (1,2) is tied on one side: tau-a = 2/3, tau-b = 2 / sqrt(3 * 2).
    first, second = [3.0, 2.0, 1.0], [3.0, 2.0, 2.0]
    assert consistency(first, second) == pytest.approx((2 / 3 + 1) / 2)
    assert consistency(first, second, "kendall_b") == pytest.approx((2 / math.sqrt(6) + 1) / 2)


def test_cream_ties_by_position_inflate_agreement() -> None:
    # Both sides know only that the last response is the best. Ranks that break ties by position make the other three
    # agree as well, although neither model said anything about them.
    first, second = [0.0, 0.0, 0.0, 1.0], [-7.0, -7.0, -7.0, -2.0]
    by_position = [stats.rankdata(scores, method="ordinal") for scores in (first, second)]
    assert consistency(*by_position) == 1.0
    assert consistency(first, second) == pytest.approx((3 / 6 + 1) / 2)


def test_cream_top_order_compares_best_and_worst_not_first_and_last() -> None:
    # Best (number 1) and worst (number 2) are the same; responses 0 and -1 change places between the two rankings.
    assert consistency([3, 9, 0, 1], [1, 9, 0, 3], "top_order") == 1.0
    # Responses 0 and -1 have the same rank (and score) in both; the best ones differ.
    assert consistency([2, 9, 5, 0], [2, 5, 9, 0], "top_order") == 0.0
    # The same best, another worst.
    assert consistency([2, 9, 5, 0], [0, 9, 5, 2], "top_order") == 0.0


@given(two_rankings)
def test_kendall_b_and_spearman_are_scipys(rows: list[tuple[float, float]]) -> None:
    first, second = map(list, zip(*rows, strict=True))
    for measure, reference in (("kendall_b", stats.kendalltau), ("spearman", stats.spearmanr)):
        value = consistency(first, second, measure)
        if len(set(first)) == 1 or len(set(second)) == 1:
            assert value is None
        else:
            assert value == pytest.approx((float(reference(first, second).statistic) + 1) / 2, abs=1e-12)


@given(two_rankings)
def test_kendall_without_ties_is_the_same_in_both_variants(rows: list[tuple[float, float]]) -> None:
    n = len(rows)
    first = [a + 0.01 * i for i, (a, _) in enumerate(rows)]
    second = [b + 0.01 * (n - i) for i, (_, b) in enumerate(rows)]
    assert consistency(first, second) == pytest.approx(consistency(first, second, "kendall_b"))


@given(two_rankings, st.randoms(use_true_random=False), st.sampled_from(MEASURES))
def test_agreement_is_symmetric_and_does_not_depend_on_the_order_of_responses(
    rows: list[tuple[float, float]], shuffler: object, measure: str
) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = map(list, zip(*rows, strict=True))
    a, b = map(list, zip(*shuffled, strict=True))
    value = consistency(first, second, measure)
    assert value is None or 0 <= value <= 1
    assert consistency(second, first, measure) == (value if value is None else pytest.approx(value, abs=1e-12))
    assert consistency(a, b, measure) == (value if value is None else pytest.approx(value, abs=1e-12))


def test_agreement_is_one_with_itself_and_zero_with_its_reverse() -> None:
    scores = [0.3, -2.0, 5.5, 1.0, 4.0]
    for measure in MEASURES:
        assert consistency(scores, [2 * s - 7 for s in scores], measure) == pytest.approx(1.0)
        assert consistency(scores, [-s for s in scores], measure) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], []),
        ([1.0], [2.0]),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([1.0, None, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, math.nan, 3.0]),
        ([1.0, 2.0, math.inf], [1.0, 2.0, 3.0]),
    ],
)
def test_undefined_agreement_is_none_and_not_a_number(first: list[float], second: list[float]) -> None:
    assert [consistency(first, second, measure) for measure in MEASURES] == [None] * len(MEASURES)


def test_top_order_is_undefined_where_the_best_or_the_worst_is_tied() -> None:
    assert consistency([1, 3, 3], [1, 2, 3], "top_order") is None
    assert consistency([1, 2, 3], [0, 0, 3], "top_order") is None


def test_rankings_of_different_responses_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        consistency([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="kendall_b"):
        consistency([1.0, 2.0], [1.0, 2.0], "pearson")


def test_tie_rate_is_the_share_of_equal_pairs() -> None:
    assert tie_rate([1.0, 1.0, 2.0]) == pytest.approx(1 / 3)
    assert tie_rate([1.0, 1.0, 1.0]) == 1.0
    assert tie_rate([1.0]) == 0.0
    assert tie_rate([]) == 0.0
