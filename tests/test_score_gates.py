"""The gates on SCoRe's training: each broken on purpose, passed on purpose, and not broken by noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from selfimprove.gates import Verdict
from selfimprove.methods.score.gates import first_broken, score_gates
from selfimprove.recipe.sections import Gates

BOUNDS = Gates().model_dump()
GOOD = {
    "samples": 64, "accuracy/turn_1": 0.5, "accuracy/turn_2": 0.55, "change_rate": 0.4, "copy_rate": 0.3,
    "kl/turn_1": 0.01, "kl/turn_2": 0.2, "reward_coverage": 1.0,
}  # fmt: skip


def verdicts(base: float | None = 0.5, base_n: int = 128, rows: int = 10, **changes: Any) -> dict[str, Verdict]:
    """By gate, of a window whose rows are all GOOD but for `changes`; of the two on the KL the one that broke."""
    bounds = BOUNDS | {key: changes.pop(key) for key in tuple(changes) if key in BOUNDS}
    row = GOOD | {key.replace("__", "/"): value for key, value in changes.items()}
    found = score_gates([row] * rows, base, base_n, bounds)
    return {one.gate: one for one in sorted(found, key=lambda one: not one.passed)}


def test_a_healthy_training_passes_every_gate_that_a_recipe_can_name() -> None:
    found = score_gates([GOOD] * 10, 0.5, 128, BOUNDS)
    assert [one.gate for one in found] == [
        "first_attempt", "change_rate", "copy_rate", "kl", "kl", "reward_coverage",
    ]  # fmt: skip
    assert all(one.passed for one in found) and first_broken(found, ()) is None
    for one in found:
        Gates(disabled=(one.gate,))
        assert one.value is not None and one.bound is not None and "gates." in one.message


# ---- the first attempt


def test_a_first_attempt_made_worse_is_stopped_with_its_numbers() -> None:
    one = verdicts(accuracy__turn_1=0.2)["first_attempt"]
    assert not one.passed and one.value == pytest.approx(0.3)
    for said in ("0.200", "0.500", "640 samples", "128 samples", "gates.max_first_attempt_drop", "kl/turn_1", "beta2"):
        assert said in one.message, said


def test_a_first_attempt_that_got_better_passes() -> None:
    one = verdicts(accuracy__turn_1=0.9)["first_attempt"]
    assert one.passed and one.value == pytest.approx(-0.4) and "made worse" not in one.message


def test_the_drop_may_be_the_bound_and_twice_its_standard_error() -> None:
    def share_error(share: float, n: int) -> float:  # Agresti and Coull
        smooth = (share * n + 2) / (n + 4)
        return math.sqrt(smooth * (1 - smooth) / (n + 4))

    one = verdicts(accuracy__turn_1=0.3)["first_attempt"]
    error = math.hypot(share_error(0.5, 128), share_error(0.3, 640))
    assert one.bound == pytest.approx(0.1 + 2 * error)
    allowed = one.bound
    assert verdicts(accuracy__turn_1=0.5 - allowed + 0.005)["first_attempt"].passed
    assert not verdicts(accuracy__turn_1=0.5 - allowed - 0.005)["first_attempt"].passed


def test_few_samples_may_fall_farther_than_many() -> None:
    assert verdicts(base_n=12, samples=1, accuracy__turn_1=0.2)["first_attempt"].passed
    assert not verdicts(base_n=1000, samples=100, accuracy__turn_1=0.2)["first_attempt"].passed


def test_samples_that_are_right_together_count_as_fewer() -> None:
    """The spread of the updates knows what a share's own error does not: samples of one prompt are alike."""
    steady = [GOOD | {"accuracy/turn_1": 0.35}] * 10
    jumping = [GOOD | {"accuracy/turn_1": value} for value in (0.05, 0.65) * 5]
    drops = [score_gates(rows, 0.5, 10_000, BOUNDS)[0] for rows in (steady, jumping)]
    assert drops[0].value == pytest.approx(drops[1].value)
    assert [one.passed for one in drops] == [False, True]


def test_without_samples_the_spread_is_what_is_known() -> None:
    rows = [{"accuracy/turn_1": value} for value in (0.2, 0.3) * 5]
    (one,) = score_gates(rows, 0.5, 100_000, BOUNDS)
    assert one.bound == pytest.approx(0.1 + 2 * 0.05 * math.sqrt(10 / 9) / math.sqrt(10), abs=4e-3)
    assert "samples)" in one.message and "updates (" not in one.message


def test_rows_of_more_samples_weigh_more() -> None:
    rows = [GOOD | {"accuracy/turn_1": 1.0, "samples": 300}, GOOD | {"accuracy/turn_1": 0.0, "samples": 100}]
    assert score_gates(rows, 0.5, 64, BOUNDS)[0].value == pytest.approx(0.5 - 0.75)


@pytest.mark.parametrize(("base", "base_n"), [(None, 64), (0.5, 0)])
def test_an_unknown_base_gives_no_verdict(base: float | None, base_n: int) -> None:
    assert "first_attempt" not in verdicts(base, base_n)


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.7])
def test_noise_alone_seldom_stops_a_run(rate: float) -> None:
    """At a true drop of the very bound, 2 standard errors let about 1 window in 44 through by chance."""
    dice = np.random.default_rng(0)
    stopped = 0
    for _ in range(400):
        base = dice.binomial(128, rate) / 128
        rows = [{"samples": 64, "accuracy/turn_1": dice.binomial(64, rate - 0.1) / 64} for _ in range(10)]
        stopped += not score_gates(rows, base, 128, BOUNDS)[0].passed
    assert stopped / 400 < 0.04
    unchanged = 0
    for _ in range(400):
        base = dice.binomial(128, rate) / 128
        rows = [{"samples": 64, "accuracy/turn_1": dice.binomial(64, rate) / 64} for _ in range(10)]
        unchanged += not score_gates(rows, base, 128, BOUNDS)[0].passed
    assert unchanged == 0


# ---- the others


def test_copies_and_unchanged_answers_are_stopped_where_a_bound_is_set() -> None:
    assert verdicts(change_rate=0.0, copy_rate=1.0)["copy_rate"].passed, "the default bounds only report"
    assert verdicts(change_rate=0.0)["change_rate"].passed
    one = verdicts(change_rate=0.04, min_change_rate=0.05)["change_rate"]
    assert not one.passed and "4%" in one.message and "gates.min_change_rate" in one.message
    one = verdicts(copy_rate=0.97, max_copy_rate=0.9)["copy_rate"]
    assert not one.passed and "97%" in one.message and "gates.max_copy_rate" in one.message


@pytest.mark.parametrize("turn", [1, 2])
def test_a_policy_that_runs_away_is_stopped_by_turn(turn: int) -> None:
    one = verdicts(**{f"kl__turn_{turn}": 1.2})["kl"]
    assert not one.passed and one.value == pytest.approx(1.2) and f"turn {turn} is 1.2 nats" in one.message
    assert ("beta2" in one.message) == (turn == 1), "beta2 holds the first turn alone"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_kl_that_is_no_number_does_not_pass(value: float) -> None:
    found = score_gates([GOOD] * 9 + [GOOD | {"kl/turn_2": value}], 0.5, 64, BOUNDS)
    broken = first_broken(found, ())
    assert broken is not None and broken.gate == "kl" and "not a finite number" in broken.message


def test_missing_rewards_are_stopped() -> None:
    one = verdicts(reward_coverage=0.4)["reward_coverage"]
    assert not one.passed and one.value == pytest.approx(0.6) and "60%" in one.message
    assert "gates.max_missing" in one.message
    assert verdicts(reward_coverage=0.5)["reward_coverage"].passed, "the bound itself is allowed"


def test_single_turn_training_has_no_second_turn_to_check() -> None:
    row = {key: GOOD[key] for key in ("samples", "accuracy/turn_1", "kl/turn_1", "reward_coverage")}
    found = score_gates([row] * 10, 0.5, 64, BOUNDS)
    assert [one.gate for one in found] == ["first_attempt", "kl", "reward_coverage"]


def test_figures_that_are_not_there_give_no_verdict() -> None:
    assert score_gates([{}, {"accuracy/turn_1": None, "copy_rate": math.nan}], 0.5, 64, BOUNDS) == []
    assert score_gates([], 0.5, 64, BOUNDS) == []


def test_the_first_broken_gate_that_is_not_disabled() -> None:
    found = score_gates([GOOD | {"accuracy/turn_1": 0.0, "kl/turn_2": 3.0}] * 10, 0.5, 64, BOUNDS)
    names = [one.gate if (one := first_broken(found, off)) else None for off in ((), ("first_attempt",))]
    assert names == ["first_attempt", "kl"]
    assert first_broken(found, ("kl", "first_attempt")) is None
