"""Suites in which a judge gives each answer a number: MT-Bench's single grading, over one turn or two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.data.sources import Prompt, content
from selfimprove.judging.asking import Asked, Judge, as_event, ask_judge
from selfimprove.judging.outcomes import Verdict
from selfimprove.models.chat import Message
from selfimprove.models.policy import Policy
from selfimprove.statistics import mean_interval
from selfimprove.suites.dialogues import Answers, answer_items
from selfimprove.suites.judge_questions import response_question
from selfimprove.suites.kind import Loaded
from selfimprove.suites.matches import require_enough, with_interval
from selfimprove.suites.outcome import Answer, Outcome
from selfimprove.suites.suite_kinds import RatingSuite

if TYPE_CHECKING:
    from selfimprove.inference import Inference

_EXAMPLES = 8


def rate(loop: Inference, loaded: Loaded, policy: Policy, judge: Judge) -> Outcome:
    """The policy's ratings, one for each item: the mean over its turns. An answer that the policy could not give (its
    prompt is too long) gets the rubric's lowest rating.

    Raises RunFailed where more than the allowed share of ratings is missing.
    """
    suite, items = loaded.suite, loaded.items
    assert isinstance(suite, RatingSuite)
    answers = answer_items(loop, suite, items, policy)
    questions: dict[str, list[Message]] = {}
    for item in items:
        for turn in range(len(answers.texts[item.id])):
            said = answers.texts[item.id]
            questions[f"{item.id}|{turn + 1}"] = response_question(judge.rubric, item, turn, said)
    asked = ask_judge(loop, judge, questions, f"{suite.name} judge")
    low, high = judge.rubric.options.low, judge.rubric.options.high
    bounds = None if low is None or high is None else (low, high)
    turns = [[_verdict(asked, item, turn, low) for turn in range(1 + len(item.later_turns))] for item in items]
    values = [_mean([value for value, _ in one]) for one in turns]
    missing = dict(Counter(why for one in turns for _, why in one if why))
    judgements = [value for one in turns for value, _ in one]
    require_enough(suite.name, judgements, missing, suite.max_missing, values)
    too_long = sum(1 + len(item.later_turns) - len(answers.texts[item.id]) for item in items)
    figures = {
        "judge": judge.name,
        "rubric": judge.rubric.name,
        "low": low,
        "high": high,
        "turns": _by_turn(turns, bounds),
        "missing": missing,
        "mean_length": float(np.mean([sum(map(len, answers.texts[item.id])) for item in items])),
        "truncated": answers.truncated,
        "cost": as_event(asked.cost),
        "examples": [_example(item, answers, asked, value) for item, value in zip(items, values, strict=True)][
            :_EXAMPLES
        ],
    }
    return Outcome(
        policy,
        values,
        {"prompt too long": too_long} if too_long else {},
        {"rating": figures},
        bounds=bounds,
        answers=[_answer(item, answers, asked) for item in items],
    )


def _verdict(asked: Asked, item: Prompt, turn: int, lowest: float | None) -> Verdict:
    return asked.verdicts.get(f"{item.id}|{turn + 1}", (lowest, None))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _by_turn(turns: Sequence[Sequence[Verdict]], bounds: tuple[float, float] | None) -> dict[str, dict[str, float]]:
    found = {}
    for turn in range(max(map(len, turns))):
        known = [value for one in turns if turn < len(one) and (value := one[turn][0]) is not None]
        if known:
            found[str(turn + 1)] = with_interval(mean_interval(known, bounds), len(known))
    return found


def _answer(item: Prompt, answers: Answers, asked: Asked) -> Answer:
    texts = answers.texts[item.id]
    ids = [f"{item.id}|{turn + 1}" for turn in range(len(texts))]
    lost = "" if len(texts) > len(item.later_turns) else "prompt too long"
    why = next((why for id in ids if (why := asked.verdicts[id][1])), lost)
    return Answer("\n\n".join(texts), why or "", {"the judge": "\n\n".join(asked.texts.get(id, "") for id in ids)})


def _example(item: Prompt, answers: Answers, asked: Asked, value: float | None) -> dict[str, Any]:
    ids = [f"{item.id}|{turn + 1}" for turn in range(1 + len(item.later_turns))]
    reasons = [why for id in ids if id in asked.verdicts and (why := asked.verdicts[id][1])]
    return {
        "prompt": "\n\n".join([content(item), *item.later_turns]),
        "output": "\n\n".join(answers.texts[item.id]),
        "rating": value,
        "why": reasons[0] if reasons else None,
        "verdict": "\n\n".join(asked.texts.get(id, "") for id in ids),
    }
