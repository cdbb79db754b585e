"""Suites whose answers a program checks: constraints, IFEval's instructions, or the user's function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from selfimprove.data.rows import Responses
from selfimprove.judging.checkers import constraints
from selfimprove.judging.functions import load_function
from selfimprove.judging.judges import judge_responses, lenient_scores
from selfimprove.models.policy import Policy
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.statistics import share_interval
from selfimprove.suites.dialogues import answer_of, draw_by_group, rendered_items
from selfimprove.suites.kind import Loaded
from selfimprove.suites.matches import require_enough, with_interval
from selfimprove.suites.outcome import Outcome
from selfimprove.suites.suite_kinds import CheckedSuite

if TYPE_CHECKING:
    from selfimprove.inference import Inference

# Of so many items, the first, the answers are kept in the event, and of each so many characters.
_ANSWERS, _CHARACTERS = 100, 600


def checked_by(loop: Inference, loaded: Loaded) -> str:
    """What else than the suite's keys decides about an answer: a function file's digest, the checkers' version,
    IFEval's tokenizers. InputError where the function is not to be had; it is looked for beside the suite's file
    first."""
    suite = loaded.suite
    assert isinstance(suite, CheckedSuite)
    if suite.function is not None:
        where = f"{suite.name}: function"
        code = loop.code_of(suite.function, where, [loaded.path.parent, *loop.recipe.search_folders()])
        load_function(code, where)
        return str(code.digest)
    if suite.checker == "constraints":
        return f"constraints {constraints.VERSION}"
    if suite.checker == "ifeval":
        from selfimprove.judging.checkers.ifeval import tokenizers

        return f"lm-eval {version('lm_eval')}, {tokenizers()}"
    return ""


def checked_outcome(loop: Inference, loaded: Loaded, policy: Policy) -> Outcome:
    """1.0 for an answer that the checker finds right, else 0.0, for each item; a checker's own failure is missing.

    `lenient` in the event: the same by the loose criterion, where there is one; of `ifeval` also the shares over single
    instructions. RunFailed where the checker fails at more than the allowed share.
    """
    suite, items = loaded.suite, loaded.items
    assert isinstance(suite, CheckedSuite)
    prompts = rendered_items(loop, suite, items, policy)
    drawn = draw_by_group(loop, suite, items, prompts, policy, f"{suite.name} with {policy.name}")
    by_id = {item.id: item for item in items}
    asked = {one.id: replace(one, answer=by_id[one.id].answer, row=by_id[one.id].row) for one in prompts}
    responses = Responses(asked, drawn)
    failures = Counter({"prompt too long": len(items) - len(drawn)}) if len(drawn) < len(items) else Counter[str]()
    failures.update("truncated" for one in responses.all() if one.finish == "length")

    figures: dict[str, Any] = {}
    missing: dict[str, int] = {}
    if suite.checker == "ifeval":
        strict, loose = _ifeval(responses, figures)
    else:
        judge = JudgeOptions(
            kind=suite.checker, function=suite.function, seconds=suite.seconds, right_from=suite.right_from
        )
        scores, missing = judge_responses(loop, judge, responses, policy)
        forgiving = lenient_scores(judge, responses)
        finished = {one.prompt_id: one.finish == "stop" for one in responses.all()}
        strict = {
            id: None if row[0] is None else float(finished[id] and row[0] >= suite.right_from)
            for id, row in scores.items()
        }
        loose = {id: float(row[0] or 0.0) for id, row in forgiving.items()} if forgiving else {}
    values = [strict.get(item.id, 0.0) for item in items]
    require_enough(suite.name, values, missing, suite.max_missing, least=1)
    if loose:
        figures["lenient"] = _share([loose.get(item.id, 0.0) for item in items])
    if missing:
        figures["missing"] = missing
    figures["answers"] = [
        {
            "prompt": item.messages[-1]["content"],
            "group": item.group,
            "text": drawn[item.id][0].text[:_CHARACTERS],
            "value": value,
        }
        for item, value in list(zip(items, values, strict=True))[:_ANSWERS]
        if item.id in drawn
    ]
    said = [answer_of(drawn.get(item.id, ())) for item in items]
    lost = " or ".join(missing)
    answers = [replace(one, why=lost) if value is None else one for one, value in zip(said, values, strict=True)]
    return Outcome(policy, values, dict(failures), figures, answers=answers)


def _share(values: Sequence[float]) -> dict[str, float]:
    return with_interval(share_interval(values), len(values))


def _ifeval(responses: Responses, figures: dict[str, Any]) -> tuple[dict[str, float | None], dict[str, float]]:
    """(strict, loose) by prompt; the shares over single instructions go into `figures`. A cut answer is checked as it
    is, as in the authors' code."""
    from selfimprove.judging.checkers.ifeval import verdict

    found = {prompt.id: verdict(row[0].text, prompt.row) for prompt, row in responses}
    for name in ("strict", "loose"):
        each = [float(one) for verdicts in found.values() for one in getattr(verdicts, name)]
        figures[f"instruction_{name}"] = _share(each)
    strict: dict[str, float | None] = {id: float(all(one.strict)) for id, one in found.items()}
    return strict, {id: float(all(one.loose)) for id, one in found.items()}
