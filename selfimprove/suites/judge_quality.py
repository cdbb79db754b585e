"""How far a judge can be trusted: measured on pairs of answers with a known better one, in both orders (or each answer
by itself), and beside the people who voted on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.data.labelled import LabelledPair
from selfimprove.judging.asking import Asked, Judge, as_event, ask_judge
from selfimprove.judging.rubric import Rubric
from selfimprove.models.chat import Message
from selfimprove.statistics import share_interval, wilson_interval
from selfimprove.suites.kind import Loaded
from selfimprove.suites.matches import (
    EACH_BY_ITSELF,
    Match,
    missing_reasons,
    order_figures,
    rated_match,
    require_enough,
    with_interval,
)
from selfimprove.suites.suite_kinds import JudgeSuite

if TYPE_CHECKING:
    from selfimprove.inference import Inference

_ORDERS = {False: "straight", True: "switched"}
_OUTPUTS = ("first", "second")


def measure_judge(loop: Inference, loaded: Loaded, judge: Judge) -> dict[str, Any]:
    """The figures of a `judge_evaluation` event: every pair is shown in both orders. A judge that rates one
    response rates both outputs by themselves: see `rated_match`.

    Raises RunFailed where more than the suite's allowed share of verdicts is missing.
    """
    suite, pairs = loaded.suite, loaded.pairs
    assert isinstance(suite, JudgeSuite)
    rated = judge.rubric.options.of == "one"
    questions: dict[str, list[Message]] = {}
    for pair in pairs:
        questions |= _questions(judge.rubric, pair)
    asked = ask_judge(loop, judge, questions, f"{suite.name} judge")
    matches = [_rated(asked, pair) if rated else _compared(asked, pair) for pair in pairs]
    discrete = judge.rubric.options.parser == "verdict"
    preferences = [match.preference(discrete) for match in matches]
    missing = missing_reasons(matches, discrete)
    require_enough(suite.name, preferences, missing, suite.max_missing)
    return {
        "judge": judge.name,
        "rubric": judge.rubric.name,
        "data": suite.name,
        "order": EACH_BY_ITSELF if rated else "both",
        "n": len(pairs),
        **quality(pairs, matches, preferences),
        "missing": missing,
        "missing_rate": sum(missing.values()) / len(pairs),
        "cost": as_event(asked.cost),
    }


def _questions(rubric: Rubric, pair: LabelledPair) -> dict[str, list[Message]]:
    """The pair in both orders, or each of its outputs."""
    outputs = pair.output_1, pair.output_2
    shown: dict[str, dict[str, str]]
    if rubric.options.of == "one":
        shown = {name: {"response": output} for name, output in zip(_OUTPUTS, outputs, strict=True)}
    else:
        orders = outputs, outputs[::-1]
        names = _ORDERS.values()
        shown = {name: {"output_1": a, "output_2": b} for name, (a, b) in zip(names, orders, strict=True)}
    instruction = {"instruction": pair.messages[-1]["content"]}
    return {f"{pair.id}|{name}": rubric.messages(instruction | values) for name, values in shown.items()}


def _compared(asked: Asked, pair: LabelledPair) -> Match:
    verdicts = {switched: asked.verdicts[f"{pair.id}|{name}"] for switched, name in _ORDERS.items()}
    reason = next((why for _, why in verdicts.values() if why), None)
    return Match(pair.id, 0, {switched: value for switched, (value, _) in verdicts.items()}, reason)


def _rated(asked: Asked, pair: LabelledPair) -> Match:
    first, second = (asked.verdicts[f"{pair.id}|{name}"] for name in _OUTPUTS)
    return rated_match(pair.id, 0, second, first)  # the second plays the policy


def quality(
    pairs: Sequence[LabelledPair], matches: Sequence[Match], preferences: Sequence[float | None]
) -> dict[str, Any]:
    """What the verdicts say of the judge. Pure.

    Args:
        matches: of each pair; the second output plays the policy, so that `preference` is of it.
        preferences: of both orders together, see `Match.preference`.

    `accuracy` is the mean over both orders of being right (a tie counts half), as LLMBar takes it (arXiv 2310.07641);
    pairs whose votes are even have no right answer and are in no accuracy. Intervals: 95%, over pairs.
    """
    labels = [_label(pair) for pair in pairs]
    both, straight, groups = [], [], dict[str, list[float]]()
    for pair, match, label in zip(pairs, matches, labels, strict=True):
        if label is None:
            continue
        by_order = {
            switched: _right(p if switched else 1 - p, label) for switched, p in match.first.items() if p is not None
        }
        if by_order:
            both.append(sum(by_order.values()) / len(by_order))
            groups.setdefault(pair.group or "all", []).append(both[-1])
        if False in by_order:
            straight.append(by_order[False])
    known = [(pair, p) for pair, p in zip(pairs, preferences, strict=True) if p is not None]
    ties = sum(p == 0.5 for _, p in known)
    decided = [(pair, p > 0.5) for pair, p in known if p != 0.5 and len(pair.output_1) != len(pair.output_2)]
    longer = [second == (len(pair.output_2) > len(pair.output_1)) for pair, second in decided]
    truly = [
        (label == 1.0) == (len(pair.output_2) > len(pair.output_1))
        for pair, label in zip(pairs, labels, strict=True)
        if label is not None and len(pair.output_1) != len(pair.output_2)
    ]
    return {
        "accuracy": _mean(both),
        "accuracy_first_order": _mean(straight),
        **order_figures(matches),
        "tie_rate": with_interval(wilson_interval(ties, len(known)), len(known)),
        "longer_rate": with_interval(wilson_interval(sum(longer), len(longer)), len(longer)) if longer else None,
        "label_longer_rate": sum(truly) / len(truly) if truly else None,
        "groups": {group: {"value": float(np.mean(values)), "n": len(values)} for group, values in groups.items()},
        "human": human_agreement([pair.votes for pair in pairs], preferences),
    }


def human_agreement(votes: Sequence[Sequence[float]], preferences: Sequence[float | None]) -> dict[str, Any] | None:
    """Agreement with people, where pairs have several votes; None where none has.

    Each vote in turn is left out and compared with the majority of the others: the mean over all is the `ceiling`, how
    well one person agrees with the rest. The judge's verdict is compared with the same majorities. Even majorities, and
    verdicts that are ties, count half.

    Args:
        votes: of each pair, 1.0 for the second output, 0.0 for the first.
        preferences: the judge's, in [0, 1] for the second output; None is missing, and not compared.
    """
    people, judged = [], []
    for own, preference in zip(votes, preferences, strict=True):
        if len(own) < 2:
            continue
        majorities = [(sum(own) - vote) / (len(own) - 1) for vote in own]
        people.append(float(np.mean([_agree(vote, rest) for vote, rest in zip(own, majorities, strict=True)])))
        if preference is not None:
            judged.append(float(np.mean([_agree(preference, rest) for rest in majorities])))
    if not people or not judged:
        return None
    return {"judge": _mean(judged), "ceiling": _mean(people)}


def _label(pair: LabelledPair) -> float | None:
    """1.0 where the second output is the better one by most votes, 0.0 for the first, None where they are even."""
    mean = sum(pair.votes) / len(pair.votes)
    return None if mean == 0.5 else float(mean > 0.5)


def _right(second: float, label: float) -> float:
    return 0.5 if second == 0.5 else float((second > 0.5) == (label == 1.0))


def _agree(one: float, other: float) -> float:
    return 0.5 if 0.5 in (one, other) else float((one > 0.5) == (other > 0.5))


def _mean(values: Sequence[float]) -> dict[str, float] | None:
    return with_interval(share_interval(values), len(values)) if values else None
