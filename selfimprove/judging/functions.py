"""The kind `function`: the user's own judge. A function of a response that returns a score, or None for missing; or a
judge of all responses at once (`selfimprove.judge`).

Its parameters are found by name: any of `prompt` (its last turn), `response`, `answer` (the reference, or None) and
`row` (all columns of the prompt's data). With other names it is called as `function(prompt, response, answer)`.
"""

from __future__ import annotations

import inspect
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.artefacts import digest_of
from selfimprove.errors import InputError
from selfimprove.judging.judges import said_by
from selfimprove.judging.outcomes import Advance, Answered, Look, Rewarded, Verdict, reward_of
from selfimprove.judging.scored import scored_texts
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.recipe.judge_kind import AsReward, JudgeKind
from selfimprove.registry import Code, code_at, find_code, load_code

if TYPE_CHECKING:
    from selfimprove.data.rows import Responses
    from selfimprove.inference import Inference
    from selfimprove.models.policy import Policy
    from selfimprove.recipe.judges import JudgeOptions, Reward

_NAMES = ("prompt", "response", "answer", "row")


@dataclass(frozen=True)
class Judged:
    """What a function may look at."""

    prompt: str
    response: str
    answer: str | None = None
    row: Mapping[str, Any] | None = None


def load_function(
    name: str | Code, where: str = "iterative_dpo.judge.function", search: Sequence[Path] = (Path(),)
) -> Callable[..., object]:
    """The function a recipe names under the key `where`; `InputError` where it cannot be had, or cannot be called."""
    code = name if isinstance(name, Code) else find_code(name, search, where)
    found: Callable[..., object] = load_code(code, where)
    if isinstance(found, JudgeKind):
        raise InputError(f"{where}: {code.name!r} judges all responses of a round at once; here one is looked at")
    if not callable(found):
        raise InputError(f"{where}: {code.name!r} is no function, but {type(found).__name__}")
    if inspect.isfunction(found) and not _parameters(found):
        names = list(inspect.signature(found).parameters)
        moved = [one for place, one in enumerate(names) if one in _NAMES and _NAMES.index(one) != place]
        try:
            inspect.signature(found).bind("prompt", "response", "answer")
        except TypeError:
            moved = moved or names or ["nothing"]
        if moved:
            raise InputError(
                f"{where}: {code.name!r} takes {', '.join(names) or 'nothing'}; name what it reads among "
                f"{', '.join(_NAMES)}, or take prompt, response and answer in this order under other names"
            )
    return found


def function_step(code: Code, version: int, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options, execution) of a step that asks a function: in its key are its name, a file's digest, and the limits."""
    options = {"function": code.name, "version": version, "seconds": seconds}
    return options | ({"digest": code.digest} if code.digest else {}), {"function_file": code.file}


def function_of_step(
    options: Mapping[str, Any], execution: Mapping[str, Any], where: str = "judge.function"
) -> Callable[..., object]:
    """The function of the step that has these. InputError where its file has changed since the step began."""
    file = execution.get("function_file")
    code = code_at(options["function"], Path(file), where) if file else Code(options["function"])
    if code.digest != options.get("digest"):
        raise InputError(f"{where}: {code.file} changed while it was being used; run the same command again")
    return load_function(code, where)


def reads_rows(function: Callable[..., object]) -> bool:
    """Whether it wants the columns of the prompt's data."""
    return "row" in _parameters(function)


def _parameters(function: Callable[..., object]) -> list[str]:
    """The names it is called by; nothing where it is called by place."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # what is written in C may have none
        return []
    required = [one.name for one in parameters if one.default is one.empty and one.kind not in (2, 4)]
    named = [one.name for one in parameters if one.name in _NAMES and one.kind in (1, 3)]
    return named if named and set(required) <= set(named) else []


class _TooSlow(BaseException):
    """Not an Exception: a function that catches all of these must not swallow its own time limit."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises _TooSlow in here, again and again, once the time is up; only where signals arrive, in the main thread, and
    between two steps of the interpreter: a long call into C is not cut short, but what comes of it does not count."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    fired = False

    def late(number: int, frame: Any) -> None:
        nonlocal fired
        fired = True
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if fired:
        raise _TooSlow


def function_verdict(function: Callable[..., object], judged: Judged, seconds: float = 10.0) -> Verdict:
    """The function's score; its failure is missing with a reason, never a score."""
    names, value, number = _parameters(function), None, math.nan
    try:
        with _at_most(seconds):
            if names:
                value = function(**{name: getattr(judged, name) for name in names})
            else:
                value = function(judged.prompt, judged.response, judged.answer)
            try:
                number = math.nan if value is None else float(value)  # type: ignore[arg-type]
            except Exception:  # whatever a strange number raises
                return None, f"the function returned {type(value).__name__}, not a number"
    except _TooSlow:
        return None, f"the function took more than {seconds:g} s (`seconds`)"
    except (Exception, SystemExit) as error:  # the user's code may raise anything; its failure is not the response's
        return None, f"the function raised {type(error).__name__}"
    if value is None:
        return None, "the function returned None"
    return (number, None) if math.isfinite(number) else (None, "the function's score is not finite")


# ---- the kind


def _judge(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> Any:
    where = "judge.function"
    code = loop.code_of(judge.code, where)
    found = load_code(code, where)
    if isinstance(found, JudgeKind):
        return said_by(found, loop, judge, responses, policy)
    options, execution = function_step(code, judge.version, judge.seconds)
    name = Path(judge.code).name if judge.function else judge.kind
    with_rows = reads_rows(load_function(code, where))
    return scored_texts(loop, "function", name, responses, options, execution, with_rows=with_rows)


def _check_judge(judge: JudgeOptions, search: Sequence[Path], where: str, opening: Opening = PLAIN) -> None:
    code = find_code(judge.code, search, f"{where}.function")
    found = load_code(code, f"{where}.function")
    if not isinstance(found, JudgeKind):
        load_function(code, f"{where}.function")
    try:
        if isinstance(found, JudgeKind):
            judge.given(found)
        elif judge.options:
            raise ValueError("`options` is for a judge that `@selfimprove.judge` made; a function has none")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _check_reward(reward: Reward, search: Sequence[Path], where: str, opening: Opening = PLAIN) -> None:
    if reads_rows(load_function(reward.code, f"{where}.function", search)):
        raise InputError(f"{where}.function: a reward's function reads prompt, response and answer, and no row")


def _identity(loop: Inference, judge: JudgeOptions, policy: Policy) -> str:
    code = loop.code_of(judge.code, "judge.function")
    return digest_of([code.name, code.digest])


def _look(options: Mapping[str, Any], policy: Policy | None, execution: Mapping[str, Any], *rest: Any) -> Look:
    return partial(_looked_at, function_of_step(options, execution, "reward.function"), options["seconds"])


def _looked_at(
    function: Callable[..., object], seconds: float, asked: Sequence[Answered], advance: Advance
) -> list[Rewarded]:
    found = []
    for one in asked:
        found.append(reward_of(function_verdict(function, Judged(one.prompt, one.text, one.answer), seconds)))
        advance(1)
    return found


def _step(
    reward: Reward, search: Sequence[Path], opening: Opening
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    options, execution = function_step(
        find_code(reward.code, search, "reward.function"), reward.version, reward.seconds
    )
    return options, {}, execution


FUNCTION = JudgeKind(
    "function",
    _judge,
    needs="function",
    reads_rows=True,
    check=_check_judge,
    identity=_identity,
    reward=AsReward(_step, _look, _check_reward),
)
