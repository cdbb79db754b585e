"""Expert iteration: sample, keep what a judge accepts, train on it, again.

ReST-EM (Singh et al., arXiv 2312.06585, algorithm 1), RFT (Yuan et al., arXiv 2308.01825), RAFT (Dong et al.,
arXiv 2304.06767) and the outer loop of STaR (Zelikman et al., arXiv 2203.14465) are settings of it:

| | restart | most_per_prompt | distinct | other |
|---|---|---|---|---|
| ReST-EM | base | 10 | true | 32 samples (MATH), temperature 0.7 |
| RFT | base | sampling.n | true | one round |
| RAFT | current | 1 | | accept: best |
| STaR | base | 1 | | one sample; its rationalisation is not here |

Which duplicates the papers' code drops differs; here two texts are alike if they are equal but for case and white
space. Where the papers are silent: truncated responses are never accepted (a row without its end would teach to go on),
of more accepted ones than `most_per_prompt` the highest scores are kept, among equal scores the first drawn, and every
round has its own prompts. `mixed_only` is Reinforce-Rej's filter (arXiv 2504.11343, section 3): prompts with all
responses accepted, or none, teach nothing about which to prefer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from selfimprove import gates
from selfimprove.data.rows import Pair, RenderedPrompt, Response, Responses, Scores
from selfimprove.errors import RunFailed
from selfimprove.judging.judges import judge_responses, lenient_scores
from selfimprove.judging.pairs import alike
from selfimprove.loop.data import responses_of
from selfimprove.methods.expert_iteration.acceptance import acceptance_figures
from selfimprove.methods.expert_iteration.options import ExpertIteration
from selfimprove.methods.expert_iteration.report import acceptance_part
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, method
from selfimprove.recipe.recipe import Recipe

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop
    from selfimprove.loop.record import Round


@dataclass(frozen=True)
class Kept:
    """What a round keeps of one prompt: accepted responses, best first, and the refused ones, worst first."""

    prompt: RenderedPrompt
    accepted: Sequence[Response]
    refused: Sequence[Response]


def _suits(recipe: Recipe, options: ExpertIteration) -> None:
    if recipe.sampling.n < 2 and options.pairs:
        raise ValueError("`sampling.n` is 1, and `expert_iteration.pairs` compares a prompt's responses: 2 or more")


@method(
    options=ExpertIteration,
    needs=Needs(prompts=True),
    suits=_suits,
    report=(acceptance_part,),
)
def expert_iteration(loop: Loop, options: ExpertIteration) -> Policy:
    """Every round: `sampling.n` responses a prompt from the current policy, a judge, and training from the base (or
    from the current policy) on what was accepted: SFT, or DPO against what was refused of the same samples."""
    base = policy = loop.base_policy
    loop.evaluate(base)
    by_round: list[list[dict[str, list[int]]]] = []
    for round in loop.rounds():
        responses = loop.sample(policy, round.prompts)
        scores, missing = judge_responses(loop, options.judge, responses, policy)
        accepted = accepted_of(responses, scores, options)
        kept = kept_of(responses, scores, accepted, options)
        pairs = pairs_of(kept, scores) if options.pairs else []
        _report(loop, round, policy, responses, scores, accepted, kept, missing)
        if not (pairs if options.pairs else kept):
            raise RunFailed(_nothing(round, responses, kept))
        start = base if options.restart == "base" else policy
        if options.pairs:
            reference = loop.log_probs(responses_of(pairs), start)
            policy = loop.dpo(start, pairs, reference=reference, round=round).policy
        else:
            by_round.append([_row(one.prompt, response) for one in kept for response in one.accepted])
            policy = loop.sft(start, trained_rows(by_round, options, loop.recipe.seed))
        loop.evaluate(policy, round)
    return loop.kept(policy)


def accepted_of(responses: Responses, scores: Scores, options: ExpertIteration) -> set[tuple[str, int]]:
    """(prompt id, index) of the responses that are accepted. A missing score and a truncated response never are."""
    known = {
        (one.prompt_id, one.index): score
        for one in responses.all()
        if one.finish == "stop" and (score := scores[one.prompt_id][one.index]) is not None
    }
    if options.accept == "best":
        highest: dict[str, float] = {}
        for (id, _), score in known.items():
            highest[id] = max(score, highest.get(id, score))
        return {key for key, score in known.items() if score == highest[key[0]]}
    if options.accept == "top_share":
        most = round(options.top_share * len(known))
        return set(sorted(known, key=lambda key: known[key], reverse=True)[:most])
    return {key for key, score in known.items() if score >= options.judge.accepts_from}


def kept_of(
    responses: Responses, scores: Scores, accepted: set[tuple[str, int]], options: ExpertIteration
) -> list[Kept]:
    """What is kept of each prompt that has any accepted response: distinct ones, the highest scores first, at most
    `most_per_prompt`. `refused`: finished, scored and not accepted."""
    found = []
    for prompt, its_responses in responses:
        usable = [
            (float(score), one)
            for one in its_responses
            if one.finish == "stop" and (score := scores[prompt.id][one.index]) is not None
        ]
        taken = [one for one in usable if (prompt.id, one[1].index) in accepted]
        if not taken or (options.mixed_only and len(taken) == len(usable)):
            continue
        ranked = [one for _, one in sorted(taken, key=lambda one: -one[0])]
        if options.distinct:
            first: dict[str, Response] = {}
            for one in ranked:
                first.setdefault(alike(one.text), one)
            ranked = list(first.values())
        refused = [one for _, one in sorted(usable, key=lambda one: one[0]) if (prompt.id, one.index) not in accepted]
        found.append(Kept(prompt, ranked[: options.most_per_prompt], refused))
    return found


def pairs_of(kept: Sequence[Kept], scores: Scores) -> list[Pair]:
    """Each kept response against a refused one of its prompt, the best against the worst and so on; where fewer were
    refused than kept, these are used again in turn. No pair has the same text on both sides."""
    pairs = []
    for one in kept:
        for place, good in enumerate(one.accepted):
            others = [bad for bad in one.refused if alike(bad.text) not in ("", alike(good.text))]
            if not others:
                continue
            bad = others[place % len(others)]
            values = [float(scores[one.prompt.id][response.index] or 0.0) for response in (good, bad)]
            own = f"{one.prompt.id}|{place}"  # a prompt may have several pairs, and each has log-probs of its own
            chosen, rejected = (replace(response, prompt_id=own) for response in (good, bad))
            pairs.append(Pair(replace(one.prompt, id=own), chosen, rejected, *values))
    return pairs


def trained_rows(
    by_round: Sequence[Sequence[dict[str, list[int]]]], options: ExpertIteration, seed: int
) -> list[dict[str, list[int]]]:
    """The rows of a round's training, from the kept rows of all rounds so far.

    `replay`: a share of each earlier round's, drawn by the seed. `rows: first_round`: as many as this round kept, of
    round 1's only, each used again in turn.
    """
    if options.rows == "first_round":
        return list(islice(cycle(by_round[0]), len(by_round[-1])))
    earlier = []
    for number, rows in enumerate(by_round[:-1]):
        dice = random.Random(f"replay|{seed}|{number}")
        earlier += dice.sample(list(rows), round(options.replay * len(rows)))
    return [*by_round[-1], *earlier]


def _row(prompt: RenderedPrompt, response: Response) -> dict[str, list[int]]:
    return {"prompt_ids": list(prompt.prompt_ids), "response_ids": list(response.ids)}


def _report(
    loop: Loop,
    round: Round,
    policy: Policy,
    responses: Responses,
    scores: Scores,
    accepted: set[tuple[str, int]],
    kept: Sequence[Kept],
    missing: Mapping[str, int],
) -> None:
    """Writes what the round accepted, and stops where the judge mostly fails."""
    recipe, options = loop.recipe, loop.recipe.options
    figures: dict[str, Any] = acceptance_figures(
        responses,
        scores,
        accepted,
        {one.prompt.id: one.accepted for one in kept},
        lenient_scores(options.judge, responses) if options.accept == "threshold" else None,
        options.accept == "threshold",
    )
    judge = options.judge
    figures |= {"judge": judge.label, "oracle": recipe.oracle, "policy": policy.name, "missing": dict(missing)}
    loop.events.emit("acceptance", f"{round.number}|{responses.sampled_by}", round=round.number, **figures)
    loop.check(gates.judge_health(figures["missing_share"], 0.0, recipe.gates.model_dump(), missing))


def _nothing(round: Round, responses: Responses, kept: Sequence[Kept]) -> str:
    """Why a round has nothing to train on, and what to do."""
    groups = Counter(prompt.group or "all" for prompt in responses.prompts.values())
    none = ", ".join(f"{group} ({many} prompts)" for group, many in groups.items())
    what = "no prompt has both kept and refused responses" if kept else "no response was accepted"
    cut = sum(one.finish == "length" for one in responses.all()) / len(responses.all())
    return (
        f"round {round.number}: {what}, so there is nothing to train on. Kinds of prompts with none: {none}. Sample "
        "more (sampling.n), or hotter (sampling.temperature), give prompts that the model gets right sometimes, raise "
        f"sampling.max_new_tokens (truncated responses are never accepted: {cut:.0%} here), or look at the responses "
        "in the sampling step's folder and at what the judge says of them"
    )
