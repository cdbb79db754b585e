"""Judges: from responses to scores, where a failure is a missing value with a reason and never a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfimprove.data.rows import LogProbs, RenderedPrompt, Response, Responses, Scores
from selfimprove.errors import InputError, RunFailed
from selfimprove.evaluation.suites import exact_match, normalized
from selfimprove.judging.asking import ask_judge, find_judge, named_reader, rating_rubric, under
from selfimprove.judging.functions import Verdict, load_function
from selfimprove.judging.pairs import random_scores
from selfimprove.judging.rewards import implicit_reward, mean_log_likelihood
from selfimprove.policy import Policy, resolve_policy
from selfimprove.recipe_sections import JudgeOptions

if TYPE_CHECKING:
    from selfimprove.loop import Loop


def judge_responses(
    loop: Loop, judge: JudgeOptions, responses: Responses, policy: Policy
) -> tuple[Scores, dict[str, int]]:
    """Scores by prompt id, and how many are missing by reason.

    Kinds: `implicit_reward` (log pi_t - log pi_0), `likelihood` (per token, under the policy), `exact_match`
    (against the prompt's answer), `majority` (share of the prompt's responses with the same normalised text),
    `reward_model` (a sequence classifier), `rubric` (a language model reads a rubric's prompt), `function` (the
    user's `module:function(prompt, response, answer)`), `random`.
    """
    if judge.kind == "implicit_reward":
        now, initial = loop.log_probs(responses, policy), loop.log_probs(responses, loop.base_policy)
        return implicit_reward(responses, now, initial), {}
    if judge.kind == "likelihood":
        return mean_log_likelihood(responses, loop.log_probs(responses, policy)), {}
    if judge.kind == "random":
        return random_scores(responses, loop.recipe.seed), {}
    if judge.kind in ("reward_model", "function"):
        verdicts = loop.judged(responses, judge)
    elif judge.kind == "rubric":
        verdicts = _rubric_verdicts(loop, judge, responses, policy)
    elif judge.kind == "majority":
        verdicts = {prompt.id: _majority(its_responses) for prompt, its_responses in responses}
    else:
        verdicts = {
            prompt.id: [_exact_match(prompt, response) for response in its_responses]
            for prompt, its_responses in responses
        }
    missing = Counter(why for row in verdicts.values() for _, why in row if why)
    return {prompt_id: [score for score, _ in row] for prompt_id, row in verdicts.items()}, dict(missing)


def ranking_of(
    loop: Loop, responses: Responses, policy: Policy, now: LogProbs, initial: LogProbs
) -> tuple[Scores, dict[str, int]]:
    """Scores of the recipe's `judge`, and how many are missing by reason; without one the implicit reward."""
    if loop.recipe.judge is None:
        return implicit_reward(responses, now, initial), {}
    return judge_responses(loop, loop.recipe.judge, responses, policy)


def check_judge(
    judge: JudgeOptions, search: Sequence[Path], where: str = "iterative_dpo.judge", trust_remote_code: bool = False
) -> None:
    """Finds what the judge needs before anything is trained; `InputError` where it is not to be had. `where`: the
    recipe's key, for messages."""
    if judge.kind == "function":
        load_function(str(judge.function), f"{where}.function")
    if judge.kind == "rubric":
        rubric = rating_rubric(str(judge.rubric), search, where)
        if judge.server:
            judge.server.connection(f"{where}.server").key()  # said now if it is missing
        named_reader(judge, rubric, where, trust_remote_code)
    if judge.kind == "reward_model":
        with under(where):
            model = resolve_policy(str(judge.model), "judge", trust_remote_code)
        if model.adapter:
            raise InputError(f"{where}.model: {judge.model} is an adapter; merge it into its base first")


def _exact_match(prompt: RenderedPrompt, response: Response) -> Verdict:
    if prompt.answer is None:
        return None, "the prompt has no reference answer"
    # A truncated response is the policy's own failure: wrong, not missing.
    return float(response.finish == "stop" and exact_match(response.text, prompt.answer)), None


def _majority(responses: Sequence[Response]) -> list[Verdict]:
    texts = [normalized(r.text, ("lower", "strip", "final_period")) for r in responses]
    votes = Counter(texts)
    return [(votes[text] / len(texts), None) for text in texts]


def _rubric_verdicts(loop: Loop, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    found = find_judge(loop, judge, str(judge.rubric), policy)
    asked = {
        f"{prompt.id}#{response.index}": found.rubric.messages({"instruction": prompt.text, "response": response.text})
        for prompt, its_responses in responses
        for response in its_responses
    }
    verdicts = ask_judge(loop, found, asked, "rubric").verdicts
    return {
        prompt.id: [verdicts[f"{prompt.id}#{response.index}"] for response in its_responses]
        for prompt, its_responses in responses
    }


def missing_share(scores: Scores) -> float:
    """Share of scores that are missing."""
    flat = [score for row in scores.values() for score in row]
    if not flat:
        raise RunFailed("the judge was given no response")
    return sum(score is None for score in flat) / len(flat)
