"""Our kinds of suites, each with what measures a policy on it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from selfimprove.errors import InputError
from selfimprove.inference import Inference
from selfimprove.judging.asking import Judge, find_judge
from selfimprove.models.policy import Policy
from selfimprove.suites import suite_kinds as keys
from selfimprove.suites.answers import answer_outcome
from selfimprove.suites.checked import checked_by, checked_outcome
from selfimprove.suites.dialogues import find_opponent
from selfimprove.suites.graded import find_asks, measure_judge
from selfimprove.suites.judge_questions import variant_of
from selfimprove.suites.kind import Found, Loaded, suite_kind
from selfimprove.suites.longen import demands_of, measure_lengths
from selfimprove.suites.outcome import Outcome
from selfimprove.suites.parts.correction import correction_part
from selfimprove.suites.parts.graded import graded_part
from selfimprove.suites.parts.judges import judges_part
from selfimprove.suites.parts.length import length_part
from selfimprove.suites.parts.preference import preference_part
from selfimprove.suites.parts.rating import rating_part
from selfimprove.suites.preference import compare
from selfimprove.suites.rating import rate
from selfimprove.suites.self_correction import correct


def _can_check(loop: Inference, loaded: Loaded) -> Found:
    """Says now what the suite's checker lacks on this machine."""
    suite = loaded.suite
    checker = getattr(suite, "checker", suite.kind)
    if checker == "math" and find_spec("math_verify") is None:
        raise InputError(f"{suite.name}: answers are checked by math-verify: pip install 'math-verify[antlr4_13_2]'")
    if checker == "code":
        from selfimprove.judging.checkers.sandbox import sandbox_problem

        if problem := sandbox_problem():
            raise InputError(f"{suite.name}: programs cannot be run safely here: {problem}")
    return Found(digests=(None, None))


def _one_judge(loop: Inference, loaded: Loaded) -> Judge:
    """A suite's judge that rates one response, with a prompt for every turn."""
    suite: Any = loaded.suite
    judge = find_judge(loop, suite.judge, suite.rubric)
    if judge.rubric.options.of != "one":
        raise InputError(
            f"{suite.name}: the rubric {judge.rubric.name} compares two outputs, and a {suite.kind} suite "
            "needs one that rates one response"
        )
    _has_turns(judge, loaded)
    return judge


def _has_turns(judge: Judge, loaded: Loaded) -> None:
    for item in loaded.items:
        for turn in range(1 + len(item.later_turns)):
            variant_of(judge.rubric, item, turn)


def _judge_and_opponent(loop: Inference, loaded: Loaded) -> Found:
    suite: Any = loaded.suite
    judge = find_judge(loop, suite.judge, suite.rubric)
    _has_turns(judge, loaded)
    opponent = find_opponent(loop, loaded)
    return Found((judge, opponent), (judge.digest, opponent.digest))


def _rating_judge(loop: Inference, loaded: Loaded) -> Found:
    judge = _one_judge(loop, loaded)
    return Found(judge, (judge.digest, None))


def _demands(loop: Inference, loaded: Loaded) -> Found:
    demands_of(loaded)
    suite: Any = loaded.suite
    return _rating_judge(loop, loaded) if suite.judge else Found(None, (None, None))


def _asks(loop: Inference, loaded: Loaded) -> Found:
    _can_check(loop, loaded)
    asks = find_asks(loop, loaded)
    return Found(asks, (None, None, asks.digest))


def _checks(loop: Inference, loaded: Loaded) -> Found:
    return Found(None, (None, None, checked_by(loop, loaded)))


def _graded(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    return answer_outcome(loop, loaded, policy)


exact_match = suite_kind(keys.ExactMatch, prepare=_can_check)(_graded)
multiple_choice = suite_kind(keys.MultipleChoice, prepare=_can_check)(_graded)
math = suite_kind(keys.Math, prepare=_can_check)(_graded)
code = suite_kind(keys.Code, metric=lambda suite: f"pass@{suite.k}", prepare=_can_check)(_graded)


@suite_kind(keys.CheckedSuite, prepare=_checks, answers=False)
def checked(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    """Constraints, IFEval, or the user's function."""
    return checked_outcome(loop, loaded, policy)


@suite_kind(keys.SelfCorrection, prepare=_can_check, report=(correction_part,))
def self_correction(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    """Attempts, each after reading the one before."""
    return correct(loop, loaded, policy)


@suite_kind(keys.GradedSuite, metric="best of N", prepare=_asks, report=(graded_part,))
def graded(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    """The policy as a judge."""
    return measure_judge(loop, loaded, policy, found)


@suite_kind(
    keys.PreferenceSuite, metric="win rate", prepare=_judge_and_opponent, answers=False, report=(preference_part,)
)
def preference(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    """A judge compares it with an opponent."""
    judge, opponent = found
    return compare(loop, loaded, policy, judge, opponent)


@suite_kind(keys.RatingSuite, metric="rating", prepare=_rating_judge, answers=False, report=(rating_part,))
def rating(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    """A judge rates every answer."""
    return rate(loop, loaded, policy, found)


@suite_kind(keys.LengthSuite, metric="length score", prepare=_demands, answers=False, report=(length_part,))
def length(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    """Long texts, and perhaps a judge of them."""
    return measure_lengths(loop, loaded, policy, found)


@suite_kind(keys.JudgeSuite, answers=False, report=(judges_part,))
def judge(loop: Inference, loaded: Loaded, policy: Policy, found: Any) -> Outcome:
    """Measures a judge and no policy: `selfimprove eval judge`."""
    raise InputError(
        f"evaluate: the suite {loaded.suite.name!r} measures a judge, not a policy: `selfimprove eval judge --data "
        f"{loaded.suite.name} --judge J`"
    )
