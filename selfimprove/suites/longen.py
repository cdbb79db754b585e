"""Suites of long texts (LonGen): how well the length that a query demands is met, how much the texts repeat themselves,
and, with a judge, how good they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from selfimprove.data.rows import RenderedPrompt
from selfimprove.data.sources import Prompt, content
from selfimprove.data.words import count_words, demanded, distinct_n, length_score, longest_repeat
from selfimprove.errors import InputError
from selfimprove.judging.asking import Asked, Judge, as_event, ask_judge
from selfimprove.models.context import context_tokens
from selfimprove.models.policy import Policy
from selfimprove.statistics import bootstrap_interval, mean_interval, share_interval, wilson_interval
from selfimprove.suites.dialogues import draw_by_group
from selfimprove.suites.judge_questions import response_question
from selfimprove.suites.kind import Loaded
from selfimprove.suites.matches import require_enough, with_interval
from selfimprove.suites.outcome import Answer, Outcome
from selfimprove.suites.suite_kinds import LengthSuite
from selfimprove.suites.suites import graded, load_suite

if TYPE_CHECKING:
    from selfimprove.inference import Inference

_EXAMPLES = 3


class Demand(NamedTuple):
    """The length that a query asks for, in words: see `length_score`."""

    kind: str
    low: int | None
    high: int | None

    @property
    def words(self) -> float:
        """N, or the middle of a range."""
        known = [bound for bound in (self.low, self.high) if bound is not None]
        return sum(known) / len(known)


class Written(NamedTuple):
    """A text, and whether it came to its end; None where that is not known."""

    text: str
    finished: bool | None = None


def demands_of(loaded: Loaded) -> list[Demand]:
    """The demand of every item, from its columns `type` and `constraint`. InputError for one that cannot be read."""
    found, place = [], loaded.suite.data.path or loaded.suite.data.hub
    for item in loaded.items:
        given = []
        for column in ("type", "constraint"):
            value = item.row.get(column)
            if not isinstance(value, str):
                raise InputError(
                    f"{place}: item {item.id!r}: column {column!r} must be text, found {value!r}; a query needs "
                    "`type` (about, range, above, below) and `constraint` (as 'around 2000 words')"
                )
            given.append(value)
        try:
            found.append(Demand(given[0], *demanded(*given)))
        except ValueError as error:
            raise InputError(f"{place}: item {item.id!r}: `type` and `constraint`: {error}") from None
    return found


def measure_lengths(loop: Inference, loaded: Loaded, policy: Policy, judge: Judge | None) -> Outcome:
    """The policy's length scores, one for each item. A text that does not end within `max_new_tokens` is scored as it
    is, and counted as unfinished.

    Raises InputError where a prompt and `max_new_tokens` do not fit the context, RunFailed where more than the allowed
    share of the judge's verdicts is missing.
    """
    suite, items = loaded.suite, loaded.items
    assert isinstance(suite, LengthSuite)
    prompts = _fitting(loop, suite, items, policy)
    drawn = draw_by_group(loop, suite, items, prompts, policy, f"{suite.name} with {policy.name}")
    written = [Written(one.text, one.finish == "stop") for item in items for one in drawn[item.id]]
    scores, figures = length_figures(items, demands_of(loaded), written)
    if judge is not None:
        _add_quality(loop, suite, items, written, judge, figures)
    answers = [Answer(one.text, "" if one.finished else "unfinished") for one in written]
    return Outcome(policy, scores, {}, {"length_following": figures}, answers=answers)


def _fitting(loop: Inference, suite: LengthSuite, items: Sequence[Prompt], policy: Policy) -> list[RenderedPrompt]:
    """All items' prompts. A text that is cut has another length, so nothing is left out and nothing cut silently."""
    room = context_tokens(policy.base)
    prompts = loop.rendered_for(policy, {item.id: item.messages for item in items}, 1, f"items of {suite.name}")
    if len(prompts) < len(items):
        raise InputError(
            f"{suite.name}: {len(items) - len(prompts)} of {len(items)} prompts fill {policy.name}'s context of {room} "
            "tokens; shorten them, or take a model with a longer one"
        )
    longest = max(len(prompt.prompt_ids) for prompt in prompts)
    if longest + suite.max_new_tokens > room:
        raise InputError(
            f"{suite.name}: the longest prompt ({longest} tokens) and max_new_tokens={suite.max_new_tokens} do not fit "
            f"{policy.name}'s context of {room} tokens; max_new_tokens={room - longest} does, and what does not end "
            "within that counts as unfinished"
        )
    return prompts


def length_figures(
    items: Sequence[Prompt], demands: Sequence[Demand], written: Sequence[Written]
) -> tuple[list[float], dict[str, Any]]:
    """(length score of each item, what an event says of them), without a judge."""
    words = [count_words(one.text) for one in written]
    scores = [length_score(count, *demand) for count, demand in zip(words, demands, strict=True)]
    by_kind: dict[str, list[float]] = {}
    by_language: dict[str, list[float]] = {}
    for item, demand, score in zip(items, demands, scores, strict=True):
        by_kind.setdefault(demand.kind, []).append(score)
        if isinstance(language := item.row.get("language"), str):
            by_language.setdefault(language, []).append(score)
    known = [one.finished for one in written if one.finished is not None]
    unfinished = known.count(False)
    distinct, repeats = [distinct_n(one.text, 4) for one in written], [longest_repeat(one.text) for one in written]
    rows = zip(items, demands, written, words, scores, distinct, repeats, strict=True)
    return scores, {
        "kinds": {kind: with_interval(share_interval(some), len(some)) for kind, some in by_kind.items()},
        "languages": {name: with_interval(share_interval(some), len(some)) for name, some in by_language.items()},
        "words": with_interval(bootstrap_interval(words), len(words)) | {"median": float(np.median(words))},
        "unfinished": with_interval(wilson_interval(unfinished, len(known)), len(known)) if known else None,
        "distinct_4": with_interval(share_interval(distinct), len(distinct)),
        "longest_repeat": with_interval(bootstrap_interval(repeats), len(repeats)),
        "quality": None,
        "items": [
            {"id": item.id, "kind": demand.kind, "asked": demand.words, "words": count, "score": score}
            | {"distinct_4": four, "longest_repeat": repeat}
            | ({} if one.finished is None else {"finished": one.finished})
            for item, demand, one, count, score, four, repeat in rows
        ],
        "examples": [
            {"prompt": content(item), "output": one.text, "words": count, "score": score}
            for item, one, count, score in list(zip(items, written, words, scores, strict=True))[:_EXAMPLES]
        ],
    }


def _add_quality(
    loop: Inference,
    suite: LengthSuite,
    items: Sequence[Prompt],
    written: Sequence[Written],
    judge: Judge,
    figures: dict[str, Any],
) -> None:
    """Asks the judge, and writes what it says into the figures and their examples."""
    questions = {
        item.id: response_question(judge.rubric, item, 0, [one.text]) for item, one in zip(items, written, strict=True)
    }
    asked = ask_judge(loop, judge, questions, f"{suite.name} judge")
    figures["quality"] = _quality(suite, items, judge, asked)
    for example, item in zip(figures["examples"], items, strict=False):
        example["quality"], example["why"] = asked.verdicts[item.id]
        example["verdict"] = asked.texts.get(item.id, "")


def _quality(suite: LengthSuite, items: Sequence[Prompt], judge: Judge, asked: Asked) -> dict[str, Any]:
    verdicts = [asked.verdicts[item.id] for item in items]
    values, missing = [value for value, _ in verdicts], dict(Counter(why for _, why in verdicts if why))
    require_enough(suite.name, values, missing, suite.max_missing, least=1)
    options = judge.rubric.options
    dimensions: dict[str, list[float]] = {}
    for item, value in zip(items, values, strict=True):
        scores = judge.rubric.named(asked.texts[item.id])[0] if options.names and value is not None else None
        for name, score in (scores or {}).items():
            dimensions.setdefault(name, []).append(score)
    bounds = None if options.low is None or options.high is None else (options.low, options.high)

    def mean(some: Sequence[float]) -> dict[str, float]:
        return with_interval(mean_interval(some, bounds), len(some))

    return mean([value for value in values if value is not None]) | {
        "judge": judge.name,
        "rubric": judge.rubric.name,
        "scale": [options.low, options.high],
        "dimensions": {name: mean(some) for name, some in dimensions.items()},
        "missing": missing,
        "cost": as_event(asked.cost),
    }


def score_responses(path: Path, suite: str = "longen", limit: int | None = None) -> dict[str, Any]:
    """The evaluation, as an event, of texts that are there: rows as the suite's, with `response`. No model is read.

    Raises InputError as `measure_responses`, and for a file that is none.
    """
    loaded = load_suite(suite, [Path()], {"data": str(path), **({"limit": limit} if limit else {})})
    written = written_in(loaded)
    return {"event": "evaluation"} | _of_texts(loaded, *length_figures(loaded.items, demands_of(loaded), written))


def measure_responses(loop: Inference, loaded: Loaded, judge: Judge) -> dict[str, Any]:
    """The figures of an `evaluation` event of the texts in the suite's data, with their quality.

    Raises InputError for a suite of another kind and a row without a response or a demand, RunFailed where more than
    the allowed share of the judge's verdicts is missing.
    """
    written = written_in(loaded)
    assert isinstance(loaded.suite, LengthSuite)
    scores, figures = length_figures(loaded.items, demands_of(loaded), written)
    _add_quality(loop, loaded.suite, loaded.items, written, judge, figures)
    return _of_texts(loaded, scores, figures)


def written_in(loaded: Loaded) -> list[Written]:
    """The texts of the suite's data, from its column `response`; InputError where one has none."""
    suite, items = loaded.suite, loaded.items
    if not isinstance(suite, LengthSuite):
        raise InputError(f"--responses: {suite.name} is a suite of kind {suite.kind}; one of kind `length` is needed")
    if lacking := [item.id for item in items if item.output is None]:
        raise InputError(
            f"{suite.data.path}: item {lacking[0]!r} has no text in `response` (of {len(lacking)} without one)"
        )
    return [Written(str(item.output)) for item in items]


def _of_texts(loaded: Loaded, scores: Sequence[float], figures: dict[str, Any]) -> dict[str, Any]:
    value, low, high = share_interval(scores)
    return {
        **{"suite": loaded.suite.name, "policy": Path(str(loaded.suite.data.path)).stem, "metric": "length score"},
        **{"value": value, "low": low, "high": high, "n": len(scores)},
        **{"groups": graded(loaded.items, scores), "length_following": figures},
    }
