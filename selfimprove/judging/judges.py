"""Judges: from responses to scores, where a failure is a missing value with a reason and never a number. What each kind
does stands beside its work (`registry.OURS["judge"]`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.data.rows import LogProbs, Responses, Scores
from selfimprove.errors import RunFailed
from selfimprove.judging.likelihoods import implicit_reward
from selfimprove.judging.outcomes import Verdict
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import Policy
from selfimprove.recipe.judge_kind import JudgeKind
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.registry import OURS, find, said_with_place

if TYPE_CHECKING:
    from selfimprove.inference import Inference


def judge_responses(
    loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy
) -> tuple[Scores, dict[str, int]]:
    """Scores by prompt id, and how many are missing by reason. `policy`: the model of judges that are the model itself.

    RunFailed where a judge gives other scores than one for each response.
    """
    verdicts = verdicts_of(loop, judge, responses, policy)
    missing = Counter(why for row in verdicts.values() for _, why in row if why)
    scores: Scores = {prompt_id: [score for score, _ in row] for prompt_id, row in verdicts.items()}
    return loop.scores_of(judge, responses, scores, dict(missing))


def verdicts_of(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    """By prompt id, each response's score, or why it is missing."""
    found = said_by(judge.found, loop, judge, responses, policy)
    asked = {prompt.id: len(its_responses) for prompt, its_responses in responses}
    given = {id: len(row) for id, row in found.items()} if isinstance(found, Mapping) else None
    if given != asked:
        raise RunFailed(
            f"judge {judge.label}: gives a score for each response of each prompt, by prompt id; of "
            f"{sum(asked.values())} responses to {len(asked)} prompts it gave "
            + (f"{sum(given.values())}, to {len(given)} prompts" if given is not None else f"{type(found).__name__}")
        )
    return {id: [_verdict(one) for one in found[id]] for id in asked}


def said_by(kind: JudgeKind, loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> Any:
    """What the kind's function says. RunFailed, with the place, for what a stranger's raises."""
    ours = kind.name in OURS["judge"] and find("judge", kind.name) is kind
    with nullcontext() if ours else said_with_place(f"judge {judge.label}", kind.run):
        return kind.run(loop, judge.given(kind), responses, policy)


def _verdict(given: Any) -> Verdict:
    """What a judge said of a response, as it counts."""
    score, why = given if isinstance(given, tuple) else (given, None)
    if score is None:
        return None, str(why or "the judge gave no score")
    try:
        number = float(score)
    except (TypeError, ValueError):
        return None, f"the judge gave {type(score).__name__}, not a number"
    return (number, None) if math.isfinite(number) else (None, "the judge's score is not finite")


def lenient_scores(judge: JudgeOptions, responses: Responses) -> Scores | None:
    """What a check that forgives the form would say, by prompt id; None where the judge has none.

    `constraints`: IFEval's loose criterion. `exact_match`: the answer stands in the response. A gain in these beside
    none in the strict ones, or the other way round, is a gain in form.
    """
    lenient = judge.found.lenient
    return lenient(judge, responses) if lenient else None


def ranking_of(
    loop: Inference, responses: Responses, policy: Policy, now: LogProbs, initial: LogProbs
) -> tuple[Scores, dict[str, int]]:
    """Scores of the recipe's `judge`, and how many are missing by reason; without one the implicit reward."""
    if loop.recipe.judge is None:
        return implicit_reward(responses, now, initial), {}
    return judge_responses(loop, loop.recipe.judge, responses, policy)


def check_judge(
    judge: JudgeOptions, search: Sequence[Path], where: str = "iterative_dpo.judge", opening: Opening = PLAIN
) -> None:
    """Finds what the judge needs before anything is trained; `InputError` where it is not to be had. `where`: the
    recipe's key, for messages."""
    if judge.of is not None:
        check_judge(judge.of, search, f"{where}.of", opening)
    if check := judge.found.check:
        check(judge, search, where, opening)
