"""Kinds of judges that look at the text: beside the prompt's answer, its tests, its constraints, or the other texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selfimprove.artefacts import digest_of
from selfimprove.data.rows import RenderedPrompt, Response, Responses, Scores
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.checkers import constraints
from selfimprove.judging.checkers.code_tasks import program_of
from selfimprove.judging.checkers.constraints import read_constraints
from selfimprove.judging.checkers.exact import exact_match, normalized
from selfimprove.judging.checkers.math_answers import NO_ANSWER, math_verdict
from selfimprove.judging.checkers.pool import in_order, usable_cores
from selfimprove.judging.checkers.sandbox import Limits, run_program, sandbox_problem, why_failed
from selfimprove.judging.outcomes import NO_REFERENCE, Advance, Answered, Look, Rewarded, Verdict
from selfimprove.judging.rewarding import rewarded
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.recipe.judge_kind import AsReward, JudgeKind
from selfimprove.recipe.judges import JudgeOptions, Reward

if TYPE_CHECKING:
    from selfimprove.inference import Inference
    from selfimprove.models.policy import Policy

Job = TypeVar("Job")
One = Callable[[JudgeOptions, RenderedPrompt, Response], Verdict]


def each(
    check: One, loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy
) -> dict[str, list[Verdict]]:
    """A judge that looks at one response at a time."""
    return {prompt.id: [check(judge, prompt, one) for one in its_responses] for prompt, its_responses in responses}


def _forgiving(check: One, judge: JudgeOptions, responses: Responses) -> Scores:
    return {prompt.id: [check(judge, prompt, one)[0] for one in its_responses] for prompt, its_responses in responses}


# ---- exact_match


def _matches(judge: JudgeOptions, prompt: RenderedPrompt, response: Response, lenient: bool = False) -> Verdict:
    """Lenient: the answer stands somewhere in the response."""
    if prompt.answer is None:
        return None, NO_REFERENCE
    if response.finish != "stop":  # the policy's own failure: wrong, not missing
        return 0.0, None
    if not lenient:
        return float(exact_match(response.text, prompt.answer, judge.normalize)), None
    said, wanted = (f" {normalized(text, judge.normalize)} " for text in (response.text, prompt.answer))
    return float(wanted in said), None


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


def _exact_look(options: Mapping[str, Any], *rest: Any) -> Look:
    return partial(_exact, options["normalize"])


EXACT_MATCH = JudgeKind(
    "exact_match",
    partial(each, _matches),
    compares=True,
    lenient=partial(_forgiving, partial(_matches, lenient=True)),
    reward=AsReward(lambda reward, *rest: ({"normalize": list(reward.normalize)}, {}, {}), _exact_look),
)


# ---- math and code: what a checker says, in processes of its own


def _by_checker(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    """The reward of that kind, whose steps it shares."""
    reward = Reward.model_validate({"kind": judge.kind, "tests": judge.tests, "seconds": judge.seconds})
    found = rewarded(loop, responses, reward, f"check answers ({judge.kind})")
    return {id: [(one.value, one.missing) for one in row] for id, row in found.items()}


def check_math(section: Any, search: Sequence[Path], where: str, opening: Opening = PLAIN) -> None:
    """InputError where mathematics cannot be checked here."""
    if find_spec("math_verify") is None:
        raise InputError(f"{where}: answers are checked by math-verify: pip install 'math-verify[antlr4_13_2]'")


def check_code(section: Any, search: Sequence[Path], where: str, opening: Opening = PLAIN) -> None:
    """InputError where programs cannot be run safely here."""
    if problem := sandbox_problem():
        raise InputError(f"{where}: programs cannot be run safely here: {problem}")


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


def _code_look(options: Mapping[str, Any], *rest: Any) -> Look:
    return partial(_code, options["tests"], Limits(seconds=options["seconds"]))


MATH = JudgeKind(
    "math",
    _by_checker,
    compares=True,
    check=check_math,
    reward=AsReward(lambda *section: ({}, {}, {}), lambda *options: _math),
)
CODE = JudgeKind(
    "code",
    _by_checker,
    needs="tests",
    compares=True,
    check=check_code,
    reward=AsReward(
        lambda reward, *rest: ({"tests": reward.tests, "seconds": reward.seconds}, {}, {}),
        _code_look,
    ),
)


# ---- constraints, majority


def _keeps(judge: JudgeOptions, prompt: RenderedPrompt, response: Response, lenient: bool = False) -> Verdict:
    """Lenient: IFEval's loose criterion."""
    if response.finish != "stop":
        return 0.0, None
    asked = read_constraints(prompt.row.get("constraints"), f"prompt {prompt.id!r}")
    return float((constraints.lenient if lenient else constraints.strict)(response.text, asked)), None


def _majority(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    """The share of the prompt's responses with the same normalised text."""
    found: dict[str, list[Verdict]] = {}
    for prompt, its_responses in responses:
        texts = [normalized(one.text, ("lower", "strip", "final_period")) for one in its_responses]
        votes = Counter(texts)
        found[prompt.id] = [(votes[text] / len(texts), None) for text in texts]
    return found


CONSTRAINTS = JudgeKind(
    "constraints",
    partial(each, _keeps),
    reads_rows=True,
    check_row=lambda row, where: read_constraints(row.get("constraints"), where),
    identity=lambda loop, judge, policy: digest_of(["constraints", constraints.VERSION]),
    lenient=partial(_forgiving, partial(_keeps, lenient=True)),
)
MAJORITY = JudgeKind("majority", _majority, bounded=False)
