"""Suites with a reference: short answers, choices, mathematics and programs, graded without a judge."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.data.sources import Prompt
from selfimprove.errors import InputError
from selfimprove.judging.checkers.checking import verified
from selfimprove.judging.checkers.code_tasks import QUESTIONS, pass_at_k, program_of
from selfimprove.judging.checkers.exact import exact_match
from selfimprove.models.chat import Message, render_choice
from selfimprove.models.context import context_tokens
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.suites.dialogues import Decoded, answer_of, draw_by_group, rendered_items
from selfimprove.suites.kind import Loaded
from selfimprove.suites.matches import require_enough
from selfimprove.suites.outcome import Answer, Outcome
from selfimprove.suites.suite_kinds import Code, ExactMatch, Math, MultipleChoice

if TYPE_CHECKING:
    from selfimprove.inference import Inference


def answer_outcome(loop: Inference, loaded: Loaded, policy: Policy) -> Outcome:
    """What the suite says of the policy: 1.0 for right and 0.0 for wrong, or pass@k, for each item."""
    suite = loaded.suite
    if isinstance(suite, ExactMatch):
        return _exact_match(loop, suite, loaded.items, policy)
    if isinstance(suite, MultipleChoice):
        by = _by_likelihood if suite.by == "likelihood" else _by_generation
        return by(loop, suite, loaded.items, policy)
    if isinstance(suite, Math):
        return _math(loop, suite, loaded.items, policy)
    assert isinstance(suite, Code)
    return _code(loop, suite, loaded.items, policy)


def _exact_match(loop: Inference, suite: ExactMatch, items: Sequence[Prompt], policy: Policy) -> Outcome:
    said = _answers(loop, suite, items, policy)
    right = [
        not said[item.id].why and exact_match(said[item.id].text, str(item.answer), suite.normalize) for item in items
    ]
    return Outcome(policy, list(map(float, right)), _reasons(said), answers=list(said.values()))


def _answers(
    loop: Inference, suite: Decoded, items: Sequence[Prompt], policy: Policy, asked: Sequence[Prompt] | None = None
) -> dict[str, Answer]:
    """Each item's answer, in the items' order; those that are none or have no end say so."""
    drawn = _drawn(loop, suite, asked or items, policy)
    return {item.id: answer_of(drawn.get(item.id, ())) for item in items}


def _reasons(said: Mapping[str, Answer]) -> dict[str, int]:
    return dict(Counter(one.why for one in said.values() if one.why))


def _drawn(
    loop: Inference, suite: Decoded, asked: Sequence[Prompt], policy: Policy, n: int = 1
) -> dict[str, list[Response]]:
    prompts = rendered_items(loop, suite, asked, policy)
    return draw_by_group(loop, suite, asked, prompts, policy, f"{suite.name} with {policy.name}", n)


def _by_likelihood(loop: Inference, suite: MultipleChoice, items: Sequence[Prompt], policy: Policy) -> Outcome:
    tokenizer, room = load_tokenizer(policy), context_tokens(policy.base, scored=True)
    prompts: dict[str, RenderedPrompt] = {}
    by_prompt: dict[str, list[Response]] = {}
    for item in items:
        rendered = [render_choice(tokenizer, list(item.messages), choice) for choice in item.choices or ()]
        if not all(ids for _, ids in rendered):
            raise InputError(f"{suite.name}: item {item.id!r} has a choice without a text, which has no likelihood")
        if max(len(asked) + len(ids) for asked, ids in rendered) > room:
            continue
        prompts[item.id] = RenderedPrompt(item.id, tuple(rendered[0][0]), item.messages[-1]["content"])
        by_prompt[item.id] = [
            Response(item.id, index, tuple(ids), "stop", choice)
            for index, ((_, ids), choice) in enumerate(zip(rendered, item.choices or (), strict=True))
        ]
    if not prompts:
        raise InputError(f"{suite.name}: all {len(items)} items are too long for {policy.name}'s {room} tokens")
    scored = loop.log_probs(Responses(prompts, by_prompt), policy, f"{suite.name} with {policy.name}")
    right, said = [], {}
    for item in items:
        options = by_prompt.get(item.id, [])
        values = [scored.of(option) / _length(suite, option) for option in options]
        best = values.index(max(values)) if values else None
        right.append(best is not None and best == item.right_choice)
        said[item.id] = answer_of(()) if best is None else Answer(options[best].text)
    return Outcome(policy, list(map(float, right)), _reasons(said), answers=list(said.values()))


def _length(suite: MultipleChoice, choice: Response) -> int:
    """What a choice's summed log-likelihood is divided by."""
    return {"summed": 1, "per_token": len(choice.ids), "per_character": len(choice.text)}[suite.score]


def _by_generation(loop: Inference, suite: MultipleChoice, items: Sequence[Prompt], policy: Policy) -> Outcome:
    """The choices are shown as "Answer1: ...", the form of CREAM's data; the first "answerN" that is written counts."""
    asked = [_with_choices(item) for item in items]
    said = _answers(loop, suite, items, policy, asked)
    right = []
    for item in items:
        one = said[item.id]
        named = None if one.why else named_choice(one.text, len(item.choices or ()))
        if named is None and not one.why:
            said[item.id] = replace(one, why="names no choice")
        right.append(named is not None and named == item.right_choice)
    return Outcome(policy, list(map(float, right)), _reasons(said), answers=list(said.values()))


def _with_choices(item: Prompt) -> Prompt:
    choices = item.choices or ()
    shown = " ".join(f"Answer{number}: {text}" for number, text in enumerate(choices, 1))
    names = "/".join(f"answer{number}" for number in range(1, len(choices) + 1))
    last: Message = {
        "role": "user",
        "content": f"Please choose the correct answer to the question: {item.messages[-1]['content']}\n\n{shown}\n\n"
        f"Answer format: {names}",
    }
    return Prompt(item.id, (*item.messages[:-1], last), item.answer, item.group)


def named_choice(text: str, choices: int) -> int | None:
    """The place of the choice that an answer names first ("answer 2" or "2"), from 0; None where it names none."""
    for pattern in (r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*\(?(\d+)", r"^\s*\(?(\d+)\b"):
        if found := re.search(pattern, text, flags=re.IGNORECASE):
            number = int(found[1][:9]) - 1  # Python reads no number of thousands of digits
            return number if 0 <= number < choices else None
    return None


def _math(loop: Inference, suite: Math, items: Sequence[Prompt], policy: Policy) -> Outcome:
    said = _answers(loop, suite, items, policy)
    rows = [
        {"prompt_id": item.id, "text": said[item.id].text, "answer": str(item.answer)}
        for item in items
        if not said[item.id].why
    ]
    verdicts = verified(loop, "math", rows, {}, f"check {suite.name}")
    values = [verdicts.get(item.id, (0.0, None, None))[0] for item in items]
    failures = _reasons(said)
    for id, (_, missing, failure) in verdicts.items():
        said[id] = replace(said[id], why=missing or failure or "")
    return _checked(suite, policy, values, verdicts, failures, list(said.values()))


def _checked(
    suite: Math | Code,
    policy: Policy,
    values: list[float | None],
    verdicts: Mapping[str, tuple[float | None, str | None, str | None]],
    failures: Mapping[str, int],
    answers: Sequence[Answer],
) -> Outcome:
    """The outcome of a checker's verdicts: why an answer is wrong is counted among the failures, what the checker
    itself failed at is missing. RunFailed where that is more than the allowed share."""
    found = Counter(failures) + Counter(failure for _, _, failure in verdicts.values() if failure)
    missing = dict(Counter(why for _, why, _ in verdicts.values() if why))
    require_enough(suite.name, values, missing, suite.max_missing, least=1)
    return Outcome(policy, values, dict(found), {"missing": missing} if missing else {}, answers=answers)


def _code(loop: Inference, suite: Code, items: Sequence[Prompt], policy: Policy) -> Outcome:
    asked = [
        Prompt(item.id, ({"role": "user", "content": QUESTIONS[suite.tests](item.row)},), group=item.group)
        for item in items
    ]
    drawn = _drawn(loop, suite, asked, policy, suite.n)
    rows: list[dict[str, Any]] = []
    failures = Counter[str]()
    for item in items:
        failures["prompt too long"] += item.id not in drawn
        for response in drawn.get(item.id, ()):
            program, tests = program_of(suite.tests, item.row, response.text)
            rows.append({"prompt_id": f"{item.id}|{response.index}", "program": program, "tests": tests})
    verdicts = verified(loop, "code", rows, {"seconds": suite.seconds}, f"run programs of {suite.name}")
    values: list[float | None] = []
    said = []
    for item in items:
        responses = drawn.get(item.id, ())
        found = [verdicts[f"{item.id}|{response.index}"] for response in responses]
        own = [value for value, _, _ in found]
        values.append(pass_at_k(len(own), sum(value == 1.0 for value in own), suite.k) if own else 0.0)
        more = {
            f"sample {place}, {'passes' if value else missing or failure or 'fails'}": response.text
            for place, (response, (value, missing, failure)) in enumerate(zip(responses, found, strict=True), 1)
        }
        first = answer_of(responses)
        why = first.why or next((missing or failure or "" for _, missing, failure in found if missing or failure), "")
        said.append(Answer(first.text, "" if values[-1] == 1.0 else why, more if len(more) > 1 else {}))
    return _checked(suite, policy, values, verdicts, failures, said)
