"""Rewards: whether answers are right, by a checker in memory (while a policy is trained) or in a durable step.

Three outcomes are kept apart. What the checker itself fails at is missing: no value, and a reason. An answer that is
not found or cannot be read, or a program that crashes, is wrong: 0, and the failure. A truncated answer is wrong too,
with a failure of its own, and no checker sees it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from selfimprove.data.rows import Responses
from selfimprove.errors import InputError, RunFailed
from selfimprove.inference import Inference
from selfimprove.judging.asking import named_reader, rating_rubric, under
from selfimprove.judging.checkers.code_tasks import program_of
from selfimprove.judging.checkers.exact import exact_match, normalized
from selfimprove.judging.checkers.math_answers import NO_ANSWER, math_verdict
from selfimprove.judging.checkers.pool import in_order, usable_cores
from selfimprove.judging.checkers.sandbox import Limits, run_program, sandbox_problem, why_failed
from selfimprove.judging.functions import (
    Judged,
    function_of_step,
    function_step,
    function_verdict,
    load_function,
    reads_rows,
)
from selfimprove.judging.outcomes import TRUNCATED, Answered, Rewarded, Verdict
from selfimprove.judging.reward_readers import (
    DigitReader,
    PolicyReader,
    RewardModelReader,
    ServerReader,
    rubric_as_options,
    rubric_of_options,
)
from selfimprove.judging.rubric import Rubric
from selfimprove.models.journal import Journal
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import Policy, pick_device
from selfimprove.models.resolve import resolve_policy
from selfimprove.models.server import Server
from selfimprove.recipe.judges import Reward
from selfimprove.registry import find_code
from selfimprove.steps.run import StepRequest

_NO_REFERENCE = "the prompt has no reference answer"
_COMPARES = ("exact_match", "math", "code")  # with the prompt's answer, which the others can do without

Advance = Callable[[int], None]
Job = TypeVar("Job")


Look = Callable[[Sequence[Answered], Advance], list[Rewarded]]


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
        found = dict.fromkeys(distinct, Rewarded(None, missing=_NO_REFERENCE))
        asked = [one for one in distinct if one.answer is not None or not self._needs_answer]
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            advance(more)

        found.update(zip(asked, self._look(asked, count) if asked else [], strict=True))
        advance(len(answered) - done)
        return [Rewarded(0.0, TRUNCATED) if one.truncated else found[one] for one in answered]


def check_one_label(model: Policy, where: str) -> None:
    """Raises InputError for a classifier whose head gives several numbers: none of them is known to be the reward."""
    from safetensors import safe_open

    for file in sorted(Path(model.base).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                rows = (
                    tensors.get_slice(name).get_shape()[0]
                    if name.endswith(("score.weight", "classifier.weight"))
                    else 1
                )
                if rows != 1:
                    raise InputError(
                        f"{where}.model: {model.base} is a classifier with {rows} labels; a reward model has one"
                    )


def reward_step(
    reward: Reward, search: Sequence[Path], dtype: str, device: str, batch_tokens: int, opening: Opening = PLAIN
) -> tuple[dict[str, Any], dict[str, Policy], dict[str, Any]]:
    """(options, policies, execution) of a step that checks answers: its options are what of a reward changes a value.

    Not in them: what counts as right (`right_from`), prices, and where a server is.
    """
    policies: dict[str, Policy] = {}
    options: dict[str, Any] = {"kind": reward.kind}
    execution: dict[str, Any] = {}
    if reward.kind == "exact_match":
        options["normalize"] = list(reward.normalize)
    elif reward.kind == "code":
        options |= {"tests": reward.tests, "seconds": reward.seconds}
    elif reward.kind == "function":
        own, execution = function_step(
            find_code(str(reward.function), search, "reward.function"), reward.version, reward.seconds
        )
        options |= own
    elif reward.kind == "reward_model":
        policies["judge"] = resolve_policy(str(reward.model), "judge", opening)
    elif reward.kind == "rubric":
        rubric, judge = _rubric_and_reader(reward, search, "reward", opening)
        options["rubric"] = rubric_as_options(rubric)
        if judge is not None:
            policies["judge"] = judge.named("judge")
        elif reward.server is not None:
            options |= {"server": reward.server.model, "version": reward.version}
            if rubric.options.parser == "digits":
                options["log_probs"] = reward.log_probs
    if policies:
        options["dtype"] = dtype
    execution |= {"device": device, "batch_tokens": batch_tokens}
    return options, policies, execution | {"server": reward.server.model_dump() if reward.server else None}


def make_checker(
    options: Mapping[str, Any], policy: Policy | None, execution: Mapping[str, Any], journal: Path | None = None
) -> Checker:
    """The checker of a step, from what `reward_step` says; `policy` is the judge's or the reward model.

    Args:
        journal: where a server's answers are kept the moment they come; without it they are asked for again.
    """
    kind, device = options["kind"], pick_device(execution["device"])
    look: Look
    if kind == "exact_match":
        look = partial(_exact, options["normalize"])
    elif kind == "math":
        look = _math
    elif kind == "code":
        look = partial(_code, options["tests"], Limits(seconds=options["seconds"]))
    elif kind == "function":
        look = partial(_function, function_of_step(options, execution, "reward.function"), options["seconds"])
    elif kind == "reward_model":
        assert policy is not None
        look = _read_by(RewardModelReader(policy, options["dtype"], device, execution["batch_tokens"]))
    elif policy is not None:
        rubric = rubric_of_options(options["rubric"])
        reader = DigitReader if rubric.options.parser == "digits" else PolicyReader
        look = _read_by(reader(rubric, policy, options["dtype"], device, execution["batch_tokens"]))
    else:
        server, listed = Server(**execution["server"], where="reward.server"), options.get("log_probs", 0)
        look = _read_by(ServerReader(rubric_of_options(options["rubric"]), server, Journal(journal), listed))
    return Checker(look, kind in _COMPARES)


def check_reward(reward: Reward, search: Sequence[Path], where: str = "score.reward", opening: Opening = PLAIN) -> None:
    """Finds what the reward needs before anything is trained; `InputError` where it is not to be had. `where`: the
    recipe's key, for messages."""
    if reward.kind == "function" and reads_rows(load_function(str(reward.function), f"{where}.function", search)):
        raise InputError(f"{where}.function: a reward's function reads prompt, response and answer, and no row")
    if reward.kind == "math" and find_spec("math_verify") is None:
        raise InputError(f"{where}: answers are checked by math-verify: pip install 'math-verify[antlr4_13_2]'")
    if reward.kind == "code" and (problem := sandbox_problem()):
        raise InputError(f"{where}: programs cannot be run safely here: {problem}")
    if reward.kind == "rubric":
        _rubric_and_reader(reward, search, where, opening)
        if reward.server:
            if find_spec("openai") is None:
                raise InputError(f"{where}.server: needs the openai client: pip install openai")
            reward.server.connection(f"{where}.server").key()  # said now if it is missing
    if reward.kind == "reward_model":
        with under(where):
            judge = resolve_policy(str(reward.model), "judge", opening)
        if judge.adapter:
            raise InputError(f"{where}.model: {reward.model} is an adapter; merge it into its base first")
        check_one_label(judge, where)


def _exact(steps: Sequence[str], asked: Sequence[Answered], advance: Advance) -> list[Rewarded]:
    found = []
    for one in asked:
        if not normalized(str(one.answer), steps):  # or saying nothing would be right
            found.append(Rewarded(None, missing="nothing is left of the reference answer after `normalize`"))
        elif not normalized(one.text, steps):
            found.append(Rewarded(0.0, NO_ANSWER))
        else:
            found.append(Rewarded(float(exact_match(one.text, str(one.answer), steps))))
        advance(1)
    return found


def _math(asked: Sequence[Answered], advance: Advance) -> list[Rewarded]:
    def compare(one: Answered) -> Rewarded:
        value, why = math_verdict(one.text, str(one.answer))
        return Rewarded(value, missing=why) if value is None else Rewarded(value, why)

    return _each(compare, asked, advance)


def _code(tests: str, limits: Limits, asked: Sequence[Answered], advance: Advance) -> list[Rewarded]:
    def run(one: Answered) -> Rewarded:
        try:
            program = program_of(tests, json.loads(str(one.answer)), one.text)
        except (KeyError, TypeError, ValueError) as error:
            return Rewarded(None, missing=f"the prompt's answer is no task of {tests} ({type(error).__name__})")
        why = why_failed(run_program(*program, limits))
        return Rewarded(1.0) if why is None else Rewarded(0.0, why)

    return _each(run, asked, advance)


def _each(check: Callable[[Job], Rewarded], jobs: Sequence[Job], advance: Advance) -> list[Rewarded]:
    """`check` of each, as many at a time as there are cores. Where it cannot be done (no memory for a process, a full
    disk) the reward is missing; where it can be done for none of several, this is no accident, and raised."""
    broken: list[Exception] = []

    def attempt(job: Job) -> Rewarded:
        try:
            return check(job)
        except (RunFailed, OSError) as error:
            broken.append(error)
            return Rewarded(None, missing=f"the checker could not be run ({type(error.__cause__ or error).__name__})")

    found = in_order(attempt, jobs, usable_cores(), advance)
    if len(broken) == len(jobs) > 1:
        raise broken[0]
    return found


def _function(
    function: Callable[..., object], seconds: float, asked: Sequence[Answered], advance: Advance
) -> list[Rewarded]:
    found = []
    for one in asked:
        found.append(_of_verdict(function_verdict(function, Judged(one.prompt, one.text, one.answer), seconds)))
        advance(1)
    return found


def _read_by(reader: Callable[[Sequence[Answered], Advance], list[Verdict]]) -> Look:
    return lambda asked, advance: [_of_verdict(verdict) for verdict in reader(asked, advance)]


def _of_verdict(verdict: Verdict) -> Rewarded:
    return Rewarded(verdict[0], missing=verdict[1])


def _rubric_and_reader(
    reward: Reward, search: Sequence[Path], where: str, opening: Opening
) -> tuple[Rubric, Policy | None]:
    """The reward's rubric, and the policy that reads it; None where a server does. InputError where nobody does."""
    rubric = rating_rubric(str(reward.rubric), search, where)
    judge = named_reader(reward, rubric, where, opening)
    if judge is None and reward.server is None:
        raise InputError(
            f"{where}: nobody reads the rubric {reward.rubric}; give `model` (a policy) or `server`, or a judge that "
            "has its own model in its folder (`policy/`), as runs/x/judge"
        )
    return rubric, judge


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
    texts = [
        {
            "prompt_id": prompt.id,
            "index": response.index,
            "prompt": prompt.conversation if reward.kind in ("rubric", "reward_model") else prompt.text,
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
