"""Judges that know nothing of the task, or all of it: the controls that say what a judge is worth, after the spurious
rewards of Shao et al. (arXiv 2506.10947)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from selfimprove.data.rows import RenderedPrompt, Response, Responses, Scores
from selfimprove.judging.answers import each
from selfimprove.judging.judges import judge_responses, lenient_scores, verdicts_of
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.pairs import random_scores
from selfimprove.recipe.judge_kind import JudgeKind
from selfimprove.recipe.judges import JudgeOptions

if TYPE_CHECKING:
    from selfimprove.inference import Inference
    from selfimprove.models.policy import Policy


def _random(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> Scores:
    """With a rate, given or measured of another judge on the same responses: 1 for so many finished responses of the
    round, wherever they are."""
    scores = random_scores(responses, loop.recipe.seed)
    if judge.rate is None and judge.of is None:
        return scores
    finished = [one for one in responses.all() if one.finish == "stop"]
    if judge.of is not None:
        found, _ = judge_responses(loop, judge.of, responses, policy)
        known = [found[one.prompt_id][one.index] for one in finished]
        most = sum(value is not None and value >= judge.of.right_from for value in known)
    else:
        most = round(float(judge.rate or 0) * len(finished))
    drawn = sorted(finished, key=lambda one: float(scores[one.prompt_id][one.index] or 0.0))[:most]
    taken = {(one.prompt_id, one.index) for one in drawn}
    return {id: [float((id, place) in taken) for place in range(len(row))] for id, row in scores.items()}


def _behind(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    assert judge.of is not None
    return verdicts_of(loop, judge.of, responses, policy)


def _incorrect(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    """What another judge finds wrong is right."""
    assert judge.of is not None
    bound = judge.of.right_from
    return {
        id: [(None if value is None else float(value < bound), why) for value, why in row]
        for id, row in _behind(loop, judge, responses, policy).items()
    }


def _format(judge: JudgeOptions, prompt: RenderedPrompt, response: Response) -> Verdict:
    """Finished, and not empty."""
    return float(response.finish == "stop" and bool(response.text.strip())), None


def _lenient(judge: JudgeOptions, responses: Responses) -> Scores | None:
    return lenient_scores(judge.of, responses) if judge.of else None


RANDOM = JudgeKind(
    "random", _random, of="the judge as many responses score 1 as", link="random, at the rate of", lenient=_lenient
)
INCORRECT = JudgeKind(
    "incorrect",
    _incorrect,
    of="the judge whose wrong answers are taken for right ones",
    needs_of=True,
    link="what is wrong for",
)
ORACLE = JudgeKind(
    "oracle",
    _behind,
    of="the judge that knows the truth, such as {kind: exact_match}",
    needs_of=True,
    link="oracle:",
    truth=True,
    lenient=_lenient,
)
FORMAT = JudgeKind("format", partial(each, _format))
