"""Rewards: whether answers are right, by a checker in memory (while a policy is trained) or in a durable step.

Three outcomes are kept apart. What the checker itself fails at is missing: no value, and a reason. An answer that is
not found or cannot be read, or a program that crashes, is wrong: 0, and the failure. A truncated answer is wrong too,
with a failure of its own, and no checker sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfimprove.data.rows import Responses
from selfimprove.errors import InputError
from selfimprove.inference import Inference
from selfimprove.judging.outcomes import NO_REFERENCE, TRUNCATED, Advance, Answered, Look, Rewarded
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import Policy
from selfimprove.recipe.judge_kind import AsReward, JudgeKind, judge_kind
from selfimprove.recipe.judges import Reward
from selfimprove.steps.request import StepRequest


class Checker:
    """Checks answers again and again, with what it needs (a judge, a reward model, processes) kept between calls."""

    def __init__(self, look: Look, needs_answer: bool) -> None:
        self._look, self._needs_answer = look, needs_answer

    def check(self, answered: Sequence[Answered], advance: Advance = lambda n: None) -> list[Rewarded]:
        """One outcome for each answer, in order; `advance` is told of answers that are done.

        Equal ones of a call are checked once: a copy of a first attempt is then never right where that was wrong
        (a checker may run out of time at one of two), and programs and mathematics are slow.
        """
        distinct = list(dict.fromkeys(one for one in answered if not one.truncated))
        found = dict.fromkeys(distinct, Rewarded(None, missing=NO_REFERENCE))
        asked = [one for one in distinct if one.answer is not None or not self._needs_answer]
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            advance(more)

        found.update(zip(asked, self._look(asked, count) if asked else [], strict=True))
        advance(len(answered) - done)
        return [Rewarded(0.0, TRUNCATED) if one.truncated else found[one] for one in answered]


def reward_step(
    reward: Reward, search: Sequence[Path], dtype: str, device: str, batch_tokens: int, opening: Opening = PLAIN
) -> tuple[dict[str, Any], dict[str, Policy], dict[str, Any]]:
    """(options, policies, execution) of a step that checks answers: its options are what of a reward changes a value.

    Not in them: what counts as right (`right_from`), prices, and where a server is.
    """
    kind = reward.found
    own, policies, execution = _as_reward(kind).step(reward, search, opening)
    options = {"kind": kind.name, **own, **({"dtype": dtype} if policies else {})}
    execution = {**execution, "device": device, "batch_tokens": batch_tokens}
    return options, policies, execution | {"server": reward.server.model_dump() if reward.server else None}


def make_checker(
    options: Mapping[str, Any], policy: Policy | None, execution: Mapping[str, Any], journal: Path | None = None
) -> Checker:
    """The checker of a step, from what `reward_step` says; `policy` is the judge's or the reward model.

    Args:
        journal: where a server's answers are kept the moment they come; without it they are asked for again.
    """
    kind = judge_kind(options["kind"])
    return Checker(_as_reward(kind).look(options, policy, execution, journal), kind.compares)


def check_reward(reward: Reward, search: Sequence[Path], where: str = "score.reward", opening: Opening = PLAIN) -> None:
    """Finds what the reward needs before anything is trained; `InputError` where it is not to be had. `where`: the
    recipe's key, for messages."""
    if check := _as_reward(reward.found).check or reward.found.check:
        check(reward, search, where, opening)


def reads_conversation(reward: Reward) -> bool:
    """Whether it is shown all turns of a prompt, and not the last alone."""
    return _as_reward(reward.found).whole


def _as_reward(kind: JudgeKind) -> AsReward:
    if kind.reward is None:
        raise InputError(f"reward: judge {kind.name!r} scores a batch of responses, and a reward one answer")
    return kind.reward


def reward_step_of(loop: Inference, reward: Reward) -> tuple[dict[str, Any], dict[str, Policy], dict[str, Any]]:
    """(options, policies, execution) of a step that checks answers, on this machine: see `judging/rewarding.py`."""
    recipe = loop.recipe
    return reward_step(
        reward,
        recipe.search_folders(),
        loop.dtype,
        loop.device,
        recipe.sampling.batch_tokens,
        recipe.opening,
    )


def rewarded(loop: Inference, responses: Responses, reward: Reward, label: str) -> dict[str, list[Rewarded]]:
    """The reward of every response, as a durable step. Equal responses to a prompt are checked once: give several
    turns' attempts in one call, so that a copy is never right where the first attempt was wrong."""
    whole = reads_conversation(reward)
    texts = [
        {
            "prompt_id": prompt.id,
            "index": response.index,
            "prompt": prompt.conversation if whole else prompt.text,
            "text": response.text,
            "answer": prompt.answer,
            "truncated": response.finish == "length",
        }
        for prompt, its_responses in responses
        for response in its_responses
    ]
    found: dict[str, list[Rewarded]] = {id: [] for id in responses.by_prompt}
    if not texts:
        return found
    options, policies, execution = reward_step_of(loop, reward)
    artefact = loop.step(
        StepRequest(
            step="rewards",
            label=label,
            options=options,
            inputs={"texts": texts},
            policies=policies,
            seed=0,
            execution=execution,
        )
    )
    for row in artefact.rows():
        found[row["prompt_id"]].append(Rewarded(row["value"], row["failure"], row["missing"]))
    return found
