"""Self-correction (SCoRe, arXiv 2409.12917): a policy reads its own first attempt and answers again, with no word on
whether the first was right. Every turn is a step; what was sampled is read again token for token. In between the
policy may write feedback on its attempt (Self-Refine, Madaan et al., arXiv 2303.17651): read again, and not scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from selfimprove.data.rows import RenderedPrompt, Response
from selfimprove.data.sources import Prompt, content
from selfimprove.data.turns import next_turn
from selfimprove.judging.checkers.checking import verified
from selfimprove.judging.checkers.code_tasks import QUESTIONS, program_of
from selfimprove.judging.checkers.exact import exact_match, normalized
from selfimprove.judging.checkers.math_answers import stated_answer
from selfimprove.models.chat import Message
from selfimprove.models.policy import Policy
from selfimprove.suites.corrections import (
    TOO_LONG,
    TRUNCATED,
    Attempt,
    accuracy,
    correction_figures,
    difference,
    share,
    vote,
)
from selfimprove.suites.dialogues import draw_by_group, rendered_items
from selfimprove.suites.kind import Loaded
from selfimprove.suites.matches import require_enough
from selfimprove.suites.outcome import Answer, Outcome
from selfimprove.suites.suite_kinds import SelfCorrection

if TYPE_CHECKING:
    from selfimprove.inference import Inference

_EXAMPLES = 8
_MOST_FIRST_ATTEMPTS = 8  # times 2K: long corrections of answers of one word would pay for thousands

# (item id, the response or None where its prompt was too long)
Said = tuple[str, Response | None]


def correct(loop: Inference, loaded: Loaded, policy: Policy) -> Outcome:
    """The policy's last attempts, 1.0 right and 0.0 wrong, with every figure of the turns under `self_correction`.

    Raises RunFailed where the checker failed at more than the allowed share of all turns' answers.
    """
    suite, items = loaded.suite, loaded.items
    assert isinstance(suite, SelfCorrection)
    asked = [_asked(suite, item) for item in items]
    prompts = rendered_items(loop, suite, asked, policy)
    greedy = suite.model_copy(update={"temperature": 0.0, "temperatures": {}}) if suite.samples else suite
    what = f"{suite.name} with {policy.name}"
    said: list[Said] = []
    feedback: list[Mapping[str, Response]] = []
    read: Sequence[RenderedPrompt] = prompts
    for turn in range(1, suite.turns + 1):
        responses = _one_each(loop, greedy, asked, read, policy, f"{what}, turn {turn}")
        said += [(item.id, responses.get(item.id)) for item in items]
        if turn < suite.turns:
            later = _later(loop, greedy, asked, read, policy, responses, f"{what}, turn {turn}, feedback")
            read = later.read
            feedback.append(later.feedback)
    attempts = _checked(loop, suite, items, said, f"check {suite.name} of {policy.name}")
    turns = [attempts[start : start + len(items)] for start in range(0, len(attempts), len(items))]
    values = [one.value for one in turns[-1]]
    missing = dict(Counter(one.missing for one in attempts if one.missing))
    require_enough(suite.name, [one.value for one in attempts], missing, suite.max_missing, values, least=1)
    figures = correction_figures(turns) | {
        "checker": suite.checker,
        "instruction": suite.instruction,
        "feedback": _feedback_figures(suite.feedback, feedback),
        "vote": _votes(loop, suite, items, asked, prompts, policy) if suite.samples else None,
        "examples": _examples(items, turns, feedback),
    }
    failures = Counter(one.failure for one in turns[-1] if one.failure)
    more: dict[str, Any] = {"missing": missing} if missing else {}
    answers = [_answer(item, tried, feedback) for item, *tried in zip(items, *turns, strict=True)]
    return Outcome(policy, values, dict(failures), {"self_correction": figures, **more}, answers=answers)


def _asked(suite: SelfCorrection, item: Prompt) -> Prompt:
    """The item as the first turn asks it: programs have a question of their own."""
    if suite.tests is None:
        return item
    question: Message = {"role": "user", "content": QUESTIONS[suite.tests](item.row)}
    return replace(item, messages=(question,))


def _one_each(
    loop: Inference,
    suite: SelfCorrection,
    items: Sequence[Prompt],
    prompts: Sequence[RenderedPrompt],
    policy: Policy,
    label: str,
) -> dict[str, Response]:
    """A response to every prompt, by item id."""
    drawn = draw_by_group(loop, suite, items, prompts, policy, label) if prompts else {}
    return {id: found[0] for id, found in drawn.items()}


@dataclass(frozen=True)
class _Later:
    """What the next attempts read, and the feedback in between: as it was written, and what was read for it."""

    read: Sequence[RenderedPrompt]
    feedback: Mapping[str, Response]
    asked_for_feedback: Sequence[RenderedPrompt]


def _later(
    loop: Inference,
    suite: SelfCorrection,
    items: Sequence[Prompt],
    read: Sequence[RenderedPrompt],
    policy: Policy,
    responses: Mapping[str, Response],
    label: str,
) -> _Later:
    """The next attempts' prompts. Dialogues that leave no room for the feedback or the answer have none."""
    asked: list[RenderedPrompt] = []
    feedback: dict[str, Response] = {}
    if suite.feedback is not None:
        new_tokens = suite.feedback_new_tokens or suite.max_new_tokens
        asked = next_turn(policy, read, responses, suite.feedback, new_tokens)
        its_length = suite.model_copy(update={"max_new_tokens": new_tokens})
        feedback = _one_each(loop, its_length, items, asked, policy, label)
        read, responses = asked, feedback
    return _Later(next_turn(policy, read, responses, suite.instruction, suite.max_new_tokens), feedback, asked)


def _feedback_figures(instruction: str | None, feedback: Sequence[Mapping[str, Response]]) -> dict[str, Any] | None:
    """How feedback was asked for, the share of it that was cut off, and its mean tokens; None without any."""
    if instruction is None:
        return None
    written = [one for turn in feedback for one in turn.values()]
    return {
        "instruction": instruction,
        "truncated": share([one.finish == "length" for one in written]),
        "tokens": _tokens(written) / len(written) if written else None,
    }


def _checked(
    loop: Inference, suite: SelfCorrection, items: Sequence[Prompt], said: Sequence[Said], label: str
) -> list[Attempt]:
    """What the checker says of every response. An item's equal texts are checked once, so that a copy is never right
    where the first attempt was wrong (a checker may run out of time at one of two)."""
    by_id = {item.id: item for item in items}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for id, one in said:
        if one is not None and one.finish != "length" and (id, one.text) not in rows:
            rows[id, one.text] = {"prompt_id": f"{id}|{len(rows)}", **_row(suite, by_id[id], one.text)}
    of: dict[tuple[str, str], tuple[float | None, str | None, str | None]] = {}
    if suite.checker == "exact_match":
        for id, text in rows:
            of[id, text] = float(exact_match(text, str(by_id[id].answer), suite.normalize)), None, None
    else:
        options = {"seconds": suite.seconds} if suite.checker == "code" else {}
        verdicts = verified(loop, suite.checker, list(rows.values()), options, label)
        of = {key: verdicts[row["prompt_id"]] for key, row in rows.items()}
    attempts = []
    for id, one in said:
        if one is None:
            attempts.append(Attempt(0.0, failure=TOO_LONG))
            continue
        value, missing, failure = (0.0, None, TRUNCATED) if one.finish == "length" else of[id, one.text]
        attempts.append(Attempt(value, one.text, answer_of(suite, by_id[id], one.text), failure, missing))
    return attempts


def _row(suite: SelfCorrection, item: Prompt, text: str) -> dict[str, Any]:
    if suite.tests is None:
        return {"text": text, "answer": str(item.answer)}
    program, tests = program_of(suite.tests, item.row, text)
    return {"program": program, "tests": tests}


def answer_of(suite: SelfCorrection, item: Prompt, text: str) -> str:
    """What two responses to an item are compared by: the normalised text, the stated answer, or the program."""
    if suite.checker == "exact_match":
        return normalized(text, suite.normalize)
    if suite.tests is not None:
        return program_of(suite.tests, item.row, text)[0].strip()
    return "".join(stated_answer(text).split())


@dataclass(frozen=True)
class _Arm:
    """One way to spend tokens on every item: `attempts` responses, of which some vote (`voters`, by item id)."""

    attempts: int
    voters: Mapping[str, Sequence[Response | None]]
    tokens_written: int
    tokens_read: int


def _votes(
    loop: Inference,
    suite: SelfCorrection,
    items: Sequence[Prompt],
    asked: Sequence[Prompt],
    prompts: Sequence[RenderedPrompt],
    policy: Policy,
) -> dict[str, Any]:
    """K first attempts with one correction each against 2K first attempts (the same K and as many more), and against
    as many as the tokens written by the corrected ones pay for; the most frequent answer counts in each."""
    k, what = suite.samples, f"{suite.name} with {policy.name}"
    pool = draw_by_group(loop, suite, asked, prompts, policy, f"{what}, {2 * k} first attempts", 2 * k)
    firsts = {f"{id}|{one.index}": one for id, found in pool.items() for one in found[:k]}
    each = [replace(prompt, id=f"{prompt.id}|{place}") for prompt in prompts for place in range(k)]
    whose = [replace(item, id=f"{item.id}|{place}") for item in asked for place in range(k)]
    later = _later(loop, suite, whose, each, policy, firsts, f"{what}, {k} feedbacks")
    seconds = _one_each(loop, suite, whose, later.read, policy, f"{what}, {k} corrections")

    written = _tokens([*firsts.values(), *later.feedback.values(), *seconds.values()])
    affordable = max(written * 2 * k // _tokens(one for found in pool.values() for one in found), 1)
    at_equal = min(affordable, 2 * k * _MOST_FIRST_ATTEMPTS)
    more: dict[str, list[Response]] = {}
    if at_equal > 2 * k:  # under other ids than the pool's: with the same, its very samples could come again
        others = [replace(item, id=f"{item.id}|more") for item in asked]
        renamed = [replace(prompt, id=f"{prompt.id}|more") for prompt in prompts]
        label = f"{what}, {at_equal - 2 * k} more first attempts"
        found = draw_by_group(loop, suite, others, renamed, policy, label, at_equal - 2 * k)
        more = {id.removesuffix("|more"): responses for id, responses in found.items()}
    longer = {id: [*found, *more.get(id, ())][:at_equal] for id, found in pool.items()}

    once, again = (
        sum(len(prompt.prompt_ids) for prompt in some) for some in (prompts, [*later.asked_for_feedback, *later.read])
    )
    corrected = {id: [seconds.get(f"{id}|{place}") for place in range(k)] for id in pool}
    arms = {
        "corrected": _Arm(2 * k, corrected, written, once + again),
        "parallel": _Arm(2 * k, pool, _tokens(one for found in pool.values() for one in found), once),
        "equal_tokens": _Arm(at_equal, longer, _tokens(one for found in longer.values() for one in found), once),
    }
    said = [(id, one) for arm in arms.values() for id, voters in arm.voters.items() for one in voters]
    checked = iter(_checked(loop, suite, items, said, f"check votes of {suite.name} of {policy.name}"))
    values, figures = {}, {}
    for name, arm in arms.items():
        voted = {id: vote([next(checked) for _ in voters]) for id, voters in arm.voters.items()}
        values[name] = [voted.get(item.id, 0.0) for item in items]  # too long to be asked at all: wrong
        figures[name] = {
            **accuracy(values[name]),
            "attempts": arm.attempts,
            "tokens_written": arm.tokens_written,
            "tokens_read": arm.tokens_read,
        }
    return {
        "samples": k,
        "temperature": suite.temperature,
        **figures,
        "capped": affordable > at_equal,
        "difference": difference(values["parallel"], values["corrected"]),
        "difference_at_equal_tokens": difference(values["equal_tokens"], values["corrected"]),
    }


def _tokens(responses: Iterable[Response]) -> int:
    return sum(len(one.ids) for one in responses)


def _answer(item: Prompt, attempts: Sequence[Attempt], feedback: Sequence[Mapping[str, Response]]) -> Answer:
    """The last attempt, beside those before it and the feedback on them."""
    *before, last = attempts
    more = {
        f"turn {turn}, {one.failure or one.missing or ('right' if one.value else 'wrong')}": one.text or ""
        for turn, one in enumerate(before, 1)
    }
    more |= {f"feedback on turn {turn}": one[item.id].text for turn, one in enumerate(feedback, 1) if item.id in one}
    return Answer(last.text or "", last.failure or last.missing or "", more)


def _examples(
    items: Sequence[Prompt], turns: Sequence[Sequence[Attempt]], feedback: Sequence[Mapping[str, Response]]
) -> list[dict[str, Any]]:
    """Some items of each of the four transitions, in the items' order: two of each first, then whatever comes. An
    attempt's `feedback` is what was written before it."""
    kinds: Counter[tuple[float | None, float | None]] = Counter()
    first: list[int] = []
    others: list[int] = []
    for place in range(len(items)):
        kind = (turns[0][place].value, turns[-1][place].value)
        kinds[kind] += 1
        (first if kinds[kind] <= 2 else others).append(place)
    return [
        {
            "prompt": content(items[place]),
            "answer": items[place].answer,
            "attempts": [
                {
                    "text": one[place].text,
                    "value": one[place].value,
                    "why": one[place].failure or one[place].missing,
                    **({"feedback": before[items[place].id].text} if items[place].id in before else {}),
                }
                for one, before in zip(turns, [{}, *feedback], strict=True)
            ],
        }
        for place in sorted((first + others)[:_EXAMPLES])
    ]
