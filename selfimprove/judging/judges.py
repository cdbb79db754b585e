"""Judges: from responses to scores, where a failure is a missing value with a reason and never a number."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.data.rows import LogProbs, RenderedPrompt, Response, Responses, Scores
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.asking import ask_judge, find_judge, named_reader, under
from selfimprove.judging.checkers import constraints
from selfimprove.judging.checkers.constraints import read_constraints
from selfimprove.judging.checkers.exact import exact_match, normalized
from selfimprove.judging.comparisons import compared
from selfimprove.judging.functions import function_step, load_function, reads_rows
from selfimprove.judging.likelihoods import implicit_reward, mean_log_likelihood
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.pairs import random_scores
from selfimprove.judging.rewarding import check_one_label, check_reward, rewarded
from selfimprove.judging.rubric import load_rubric
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.judges import JudgeOptions, Reward
from selfimprove.steps.run import StepRequest

if TYPE_CHECKING:
    from selfimprove.inference import Inference


def judge_responses(
    loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy
) -> tuple[Scores, dict[str, int]]:
    """Scores by prompt id, and how many are missing by reason.

    Kinds: `implicit_reward` (log pi_t - log pi_0), `likelihood` (per token, under the policy), `exact_match` and `math`
    (against the prompt's answer), `code` (its tests), `constraints` (those of the prompt's row), `majority` (share of
    the prompt's responses with the same normalised text), `reward_model` (a sequence classifier), `rubric` (a language
    model reads a rubric's prompt; of one that compares two, the share of comparisons won in both orders), `function`
    (the user's), `oracle` (another judge, by its true name).

    Controls, after the spurious rewards of Shao et al. (arXiv 2506.10947): `random`, `incorrect` (what another judge
    finds wrong is right) and `format` (finished and not empty). `random` with a rate, given or measured of another
    judge on the same responses, scores 1 for so many finished responses of the round, wherever they are.
    """
    return loop.scores_of(judge, responses, *_scores(loop, judge, responses, policy))


def _scores(
    loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy
) -> tuple[Scores, dict[str, int]]:
    if judge.kind == "implicit_reward":
        assert loop.base_policy is not None
        now, initial = loop.log_probs(responses, policy), loop.log_probs(responses, loop.base_policy)
        return implicit_reward(responses, now, initial), {}
    if judge.kind == "likelihood":
        return mean_log_likelihood(responses, loop.log_probs(responses, policy)), {}
    if judge.kind == "random":
        return _random(loop, judge, responses, policy), {}
    if judge.kind == "oracle":
        assert judge.of is not None
        return judge_responses(loop, judge.of, responses, policy)
    if judge.kind == "incorrect":
        assert judge.of is not None
        scores, lost = judge_responses(loop, judge.of, responses, policy)
        bound = judge.of.right_from
        turned = {id: [None if one is None else float(one < bound) for one in row] for id, row in scores.items()}
        return turned, lost
    if judge.kind in ("reward_model", "function"):
        verdicts = judged(loop, responses, judge)
    elif judge.kind in ("math", "code"):
        verdicts = _rewarded(loop, judge, responses)
    elif judge.kind == "rubric":
        verdicts = _rubric_verdicts(loop, judge, responses, policy)
    elif judge.kind == "majority":
        verdicts = {prompt.id: _majority(its_responses) for prompt, its_responses in responses}
    else:
        check = {"exact_match": _exact_match, "constraints": _constraints, "format": _format}[judge.kind]
        verdicts = {
            prompt.id: [check(judge, prompt, response) for response in its_responses]
            for prompt, its_responses in responses
        }
    missing = Counter(why for row in verdicts.values() for _, why in row if why)
    return {prompt_id: [score for score, _ in row] for prompt_id, row in verdicts.items()}, dict(missing)


def lenient_scores(judge: JudgeOptions, responses: Responses) -> Scores | None:
    """What a check that forgives the form would say, by prompt id; None where the judge has none.

    `constraints`: IFEval's loose criterion. `exact_match`: the answer stands in the response. A gain in these beside
    none in the strict ones, or the other way round, is a gain in form.
    """
    kind = judge.of.kind if judge.of and judge.kind in ("oracle", "random") else judge.kind
    if kind not in ("constraints", "exact_match"):
        return None
    check = _constraints if kind == "constraints" else _exact_match
    asked = judge.of or judge
    return {
        prompt.id: [check(asked, prompt, response, lenient=True)[0] for response in its_responses]
        for prompt, its_responses in responses
    }


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
    if judge.kind == "function":
        load_function(str(judge.function), f"{where}.function", search)
    if judge.kind in ("math", "code"):
        check_reward(Reward.model_validate({"kind": judge.kind, "tests": judge.tests}), search, where)
    if judge.kind == "rubric":
        with under(where):
            rubric = load_rubric(str(judge.rubric), search)
        if judge.server:
            judge.server.connection(f"{where}.server").key()  # said now if it is missing
        named_reader(judge, rubric, where, opening)
    if judge.kind == "reward_model":
        with under(where):
            model = resolve_policy(str(judge.model), "judge", opening)
        if model.adapter:
            raise InputError(f"{where}.model: {judge.model} is an adapter; merge it into its base first")
        check_one_label(model, where)


def _exact_match(judge: JudgeOptions, prompt: RenderedPrompt, response: Response, lenient: bool = False) -> Verdict:
    if prompt.answer is None:
        return None, "the prompt has no reference answer"
    if response.finish != "stop":  # the policy's own failure: wrong, not missing
        return 0.0, None
    if not lenient:
        return float(exact_match(response.text, prompt.answer, judge.normalize)), None
    said, wanted = (f" {normalized(text, judge.normalize)} " for text in (response.text, prompt.answer))
    return float(wanted in said), None


def _constraints(judge: JudgeOptions, prompt: RenderedPrompt, response: Response, lenient: bool = False) -> Verdict:
    if response.finish != "stop":
        return 0.0, None
    asked = read_constraints(prompt.row.get("constraints"), f"prompt {prompt.id!r}")
    return float((constraints.lenient if lenient else constraints.strict)(response.text, asked)), None


def _format(judge: JudgeOptions, prompt: RenderedPrompt, response: Response) -> Verdict:
    return float(response.finish == "stop" and bool(response.text.strip())), None


def _random(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> Scores:
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


def _rewarded(loop: Inference, judge: JudgeOptions, responses: Responses) -> dict[str, list[Verdict]]:
    reward = Reward.model_validate({"kind": judge.kind, "tests": judge.tests, "seconds": judge.seconds})
    found = rewarded(loop, responses, reward, f"check answers ({judge.kind})")
    return {id: [(one.value, one.missing) for one in row] for id, row in found.items()}


def _majority(responses: Sequence[Response]) -> list[Verdict]:
    texts = [normalized(r.text, ("lower", "strip", "final_period")) for r in responses]
    votes = Counter(texts)
    return [(votes[text] / len(texts), None) for text in texts]


def _rubric_verdicts(
    loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy
) -> dict[str, list[Verdict]]:
    found = find_judge(loop, judge, str(judge.rubric), policy)
    if found.rubric.options.of == "pair":
        return compared(loop, found, responses)
    asked = {
        f"{prompt.id}#{response.index}": found.rubric.messages(
            {"instruction": prompt.conversation, "response": response.text}
        )
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


def judged(loop: Inference, responses: Responses, judge: JudgeOptions) -> dict[str, list[Verdict]]:
    """Verdicts of a `reward_model` or a `function` on every response, as a durable step."""
    options: dict[str, Any] = {"dtype": loop.dtype}
    execution: dict[str, Any] = {"device": loop.device, "batch_tokens": loop.recipe.sampling.batch_tokens}
    policies, with_rows = {}, False
    if judge.kind == "reward_model":
        policies["reward_model"] = resolve_policy(str(judge.model), "judge", loop.recipe.opening)
    else:
        code = loop.code_of(str(judge.function), "judge.function")
        options, more = function_step(code, judge.version, judge.seconds)
        execution |= more
        with_rows = reads_rows(load_function(code, "judge.function"))
    texts = [
        {
            "prompt_id": prompt.id,
            "index": response.index,
            "prompt": prompt.text,
            "text": response.text,
            "answer": prompt.answer,
            "messages": list(prompt.messages) or [{"role": "user", "content": prompt.text}],
            **({"row": json.dumps(prompt.row, default=str, sort_keys=True)} if with_rows else {}),
        }
        for prompt, its_responses in responses
        for response in its_responses
    ]
    artefact = loop.step(
        StepRequest(
            step=judge.kind,
            label=f"judge {Path(str(judge.model or judge.function)).name}",
            options=options,
            inputs={"texts": texts},
            policies=policies,
            seed=0,
            execution=execution,
        )
    )
    verdicts: dict[str, list[Verdict]] = {}
    for row in artefact.rows():
        verdicts.setdefault(row["prompt_id"], []).append((row["score"], row["missing"]))
    return verdicts
