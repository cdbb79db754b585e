"""Suites that a judge decides by comparing: win rates of a policy against an opponent, AlpacaEval's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.artefacts import write_json
from selfimprove.data.sources import Prompt, content
from selfimprove.judging.asking import Asked, Judge, as_event, ask_judge
from selfimprove.judging.pairwise import is_switched
from selfimprove.judging.rubric import Rubric
from selfimprove.models.chat import Message
from selfimprove.models.policy import Policy
from selfimprove.suites.alpaca import instruction_index, shipped_gamed
from selfimprove.suites.dialogues import Answers, Opponent, answer_items
from selfimprove.suites.judge_questions import pair_question, response_question
from selfimprove.suites.kind import Loaded
from selfimprove.suites.length_control import LengthControlled, contradiction, length_controlled_win_rate
from selfimprove.suites.matches import (
    EACH_BY_ITSELF,
    Match,
    by_item,
    missing_reasons,
    order_figures,
    rated_match,
    require_enough,
)
from selfimprove.suites.outcome import Answer, Outcome
from selfimprove.suites.suite_kinds import PreferenceSuite
from selfimprove.suites.win_rate import WinRate, win_rate

if TYPE_CHECKING:
    from selfimprove.inference import Inference

_EXAMPLES = 8
# Below this many preferences the model of length has more freedom than data.
_LEAST_FOR_LENGTH_CONTROL = 20
_RESAMPLES = 200
_OFFICIAL_BASELINE = "gpt4_1106_preview"
_OFFICIAL_JUDGE = "gpt-4-1106-preview"


def compare(loop: Inference, loaded: Loaded, policy: Policy, judge: Judge, opponent: Opponent) -> Outcome:
    """The policy's preferences against the opponent, each in [0, 1], one for each item; see `Outcome`. A judge that
    rates one response rates both outputs by themselves, in no order: see `rated_match`.

    Raises RunFailed where more than the allowed share of judgements is missing.
    """
    suite, items = loaded.suite, loaded.items
    assert isinstance(suite, PreferenceSuite)
    theirs, ours = opponent.says(loop, suite, items), answer_items(loop, suite, items, policy)
    rated = judge.rubric.options.of == "one"
    orders = {item.id: () if rated else _orders(suite, item) for item in items}
    questions, given, failures = _questions(judge.rubric, items, theirs, ours, orders, 1.0 if opponent.policy else None)
    asked = ask_judge(loop, judge, questions, f"{suite.name} judge")
    matches = _matches(items, asked, given, orders)
    discrete = judge.rubric.options.parser == "verdict"
    preferences = by_item(matches, discrete)
    values = [preferences[item.id] for item in items]
    missing = missing_reasons(matches, discrete)
    require_enough(suite.name, [match.preference(discrete) for match in matches], missing, suite.max_missing, values)
    rate = win_rate([np.nan if value is None else value for value in values])
    lengths = [_length(ours, item) for item in items], [_length(theirs, item) for item in items]
    controlled = None
    if not any(item.later_turns for item in items) and rate.n >= _LEAST_FOR_LENGTH_CONTROL:
        controlled = _length_controlled(items, values, lengths)
    figures = {
        "against": opponent.name,
        "judge": judge.name,
        "rubric": judge.rubric.name,
        "order": EACH_BY_ITSELF if rated else suite.order,
        **_rates(rate),
        "missing": missing,
        "length_controlled": _shares(controlled),
        "length_warning": contradiction(rate.win_rate, controlled.win_rate) if controlled else None,
        "published_form": _is_published_form(suite, items, judge, opponent),
        "mean_length": float(np.mean(lengths[0])),
        "against_mean_length": float(np.mean(lengths[1])),
        "truncated": ours.truncated,
        "empty": sum(not text.strip() for texts in ours.texts.values() for text in texts),
        **order_figures(matches),
        "cost": as_event(asked.cost),
        "examples": [_example(item, ours, theirs, preferences[item.id]) for item in items[:_EXAMPLES]],
    }
    _export(loop, suite, items, ours, theirs, values, judge, policy)
    return Outcome(
        policy,
        values,
        failures,
        {"preference": figures},
        controlled.resampled if controlled else (),
        answers=[_answer(item, ours, theirs, preferences[item.id]) for item in items],
    )


def _orders(suite: PreferenceSuite, item: Prompt) -> tuple[bool, ...]:
    return (False, True) if suite.order == "both" else (is_switched(content(item)),)


def _questions(
    rubric: Rubric,
    items: Sequence[Prompt],
    theirs: Answers,
    ours: Answers,
    orders: Mapping[str, Sequence[bool]],
    lacking: float | None,
) -> tuple[dict[str, list[Message]], dict[tuple[str, int], float | None], dict[str, int]]:
    """What is asked, what needs no asking (equal outputs are a tie, none at all a loss), and the policy's failures.

    `lacking`: the preference where the opponent alone has no output: 1.0 for a policy that could not answer either, as
    ours would have lost; None (missing) for outputs that never had the instruction.
    """
    questions: dict[str, list[Message]] = {}
    given: dict[tuple[str, int], float | None] = {}
    failures = Counter[str]()
    for item in items:
        for turn in range(1 + len(item.later_turns)):
            their, our = (list(side.texts[item.id]) for side in (theirs, ours))
            if len(our) <= turn:
                failures["prompt too long"] += 1
                given[item.id, turn] = 0.5 if len(their) <= turn else 0.0
            elif len(their) <= turn:
                given[item.id, turn] = lacking
            elif our[: turn + 1] == their[: turn + 1]:
                given[item.id, turn] = 0.5
            else:
                questions |= _asked_of(rubric, item, turn, our, their, orders[item.id])
    return questions, given, dict(failures)


def _asked_of(
    rubric: Rubric, item: Prompt, turn: int, our: Sequence[str], their: Sequence[str], orders: Sequence[bool]
) -> dict[str, list[Message]]:
    """About two outputs: one question in each order, or one about each output."""
    if rubric.options.of == "one":
        sides = {_OURS: our, _THEIRS: their}
        return {_id(item, turn, side): response_question(rubric, item, turn, own) for side, own in sides.items()}
    shown = {switched: (our, their) if switched else (their, our) for switched in orders}
    return {_id(item, turn, _ORDERS[s]): pair_question(rubric, item, turn, *pair) for s, pair in shown.items()}


_ORDERS = {False: "straight", True: "switched"}
_OURS, _THEIRS = "ours", "theirs"


def _id(item: Prompt, turn: int, shown: str) -> str:
    return f"{item.id}|{turn + 1}|{shown}"


def _matches(
    items: Sequence[Prompt],
    asked: Asked,
    given: Mapping[tuple[str, int], float | None],
    orders: Mapping[str, Sequence[bool]],
) -> list[Match]:
    found = []
    for item in items:
        for turn in range(1 + len(item.later_turns)):
            if (item.id, turn) in given:
                value = given[item.id, turn]
                why = "the opponent has no output" if value is None else None
                found.append(Match(item.id, turn, {True: value}, why, False))
                continue
            if not orders[item.id]:
                ours, theirs = (asked.verdicts[_id(item, turn, side)] for side in (_OURS, _THEIRS))
                found.append(rated_match(item.id, turn, ours, theirs))
                continue
            verdicts = {switched: asked.verdicts[_id(item, turn, _ORDERS[switched])] for switched in orders[item.id]}
            reason = next((why for _, why in verdicts.values() if why), None)
            found.append(Match(item.id, turn, {switched: value for switched, (value, _) in verdicts.items()}, reason))
    return found


def _rates(rate: WinRate) -> dict[str, Any]:
    return {
        "standard_error": rate.standard_error / 100,
        "discrete": rate.discrete / 100,
        "wins": rate.wins,
        "losses": rate.losses,
        "ties": rate.draws,
    }


def _length(answers: Answers, item: Prompt) -> int:
    return sum(map(len, answers.texts[item.id]))


def known_index(item: Prompt) -> int | None:
    """The instruction's number in AlpacaEval, None where it is none of the 805."""
    return instruction_index(content(item))


def _length_controlled(
    items: Sequence[Prompt], values: Sequence[float | None], lengths: tuple[Sequence[int], Sequence[int]]
) -> LengthControlled:
    """As published, difficulties by instruction (for all of the 805 in their order the two are the same); an
    instruction that AlpacaEval does not have counts as neither hard nor easy."""
    gamed, difficulty = shipped_gamed()
    places = [known_index(item) for item in items]
    return length_controlled_win_rate(
        [np.nan if value is None else value for value in values],
        [float(their - our) for our, their in zip(*lengths, strict=True)],
        [0.0 if place is None else float(difficulty[place]) for place in places],
        gamed,
        resamples=_RESAMPLES,
    )


def _is_published_form(suite: PreferenceSuite, items: Sequence[Prompt], judge: Judge, opponent: Opponent) -> bool:
    """Whether this is the leaderboard's own measurement: its instructions, opponent, judge and order."""
    return (
        opponent.name == _OFFICIAL_BASELINE
        and suite.order == "random"
        and judge.rubric.name == "alpaca-eval"
        and judge.reader.server is not None
        and judge.reader.server.model == _OFFICIAL_JUDGE
        and sorted(index for item in items if (index := known_index(item)) is not None) == list(range(805))
    )


def _shares(controlled: LengthControlled | None) -> dict[str, float | None] | None:
    if controlled is None:
        return None
    ends = {name: getattr(controlled, name) for name in ("low", "high")}
    return {"value": controlled.win_rate / 100, **{n: None if end is None else end / 100 for n, end in ends.items()}}


def length_controlled_change(before: Outcome, after: Outcome) -> dict[str, Any] | None:
    """The change of the LC win rate, over the same draws of instructions; None where one of them has none."""
    old, new = (one.figures.get("preference", {}).get("length_controlled") for one in (before, after))
    if not old or not new or len(before.resampled) != len(after.resampled) or not len(after.resampled):
        return None
    drawn = (np.asarray(after.resampled) - np.asarray(before.resampled)) / 100
    low, high = (float(end) for end in np.percentile(drawn, [2.5, 97.5]))
    return {"against": before.policy.name, "difference": new["value"] - old["value"], "low": low, "high": high}


def _answer(item: Prompt, ours: Answers, theirs: Answers, value: float | None) -> Answer:
    """Both outputs, as the browser shows them."""
    why = "no judgement" if value is None else "" if ours.texts[item.id] else "prompt too long"
    return Answer("\n\n".join(ours.texts[item.id]), why, {theirs.name: "\n\n".join(theirs.texts[item.id])})


def _example(item: Prompt, ours: Answers, theirs: Answers, value: float | None) -> dict[str, Any]:
    return {
        "prompt": "\n\n".join([content(item), *item.later_turns]),
        "output": "\n\n".join(ours.texts[item.id]),
        "against_output": "\n\n".join(theirs.texts[item.id]),
        "preference": value,
        "why": None if value is not None else "no judgement",
        "length": _length(ours, item),
        "against_length": _length(theirs, item),
    }


def _export(
    loop: Inference,
    suite: PreferenceSuite,
    items: Sequence[Prompt],
    ours: Answers,
    theirs: Answers,
    values: Sequence[float | None],
    judge: Judge,
    policy: Policy,
) -> None:
    """`annotations/SUITE-POLICY.json` in the run's folder, in the form of AlpacaEval's own annotations."""
    if any(item.later_turns for item in items):
        return
    folder = Path(loop.recipe.output) / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    # All or none: whoever reads the file numbers the rows without an index by their place.
    places = [known_index(item) for item in items]
    known = None not in places
    rows = [
        {
            "instruction": content(item),
            "output_1": "".join(theirs.texts[item.id]),
            "generator_1": theirs.name,
            "output_2": "".join(ours.texts[item.id]),
            "generator_2": policy.name,
            "annotator": judge.name,
            "preference": None if value is None else 1 + value,
            **({"index": place} if known else {}),
        }
        for item, value, place in zip(items, values, places, strict=True)
    ]
    write_json(folder / f"{suite.name}-{policy.name}.json".replace("/", "-"), rows)
