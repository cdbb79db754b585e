"""No training: prompts are answered with the best of n by a judge's score, and declined where that is too low.

Selective instruction following and best-of-n, as Self-J uses its judge (arXiv 2409.00935); the judge may be any.
`selfimprove answer` is this method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from selfimprove.artefacts import digest_of
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.data.sources import Prompt, content
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.asking import Judge, ask_judge, find_judge, short_name
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.rewarding import check_reward, rewarded
from selfimprove.loop.data import prompts_of
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.contract import Options, task
from selfimprove.recipe.judges import Reader, Reward
from selfimprove.recipe.recipe import Recipe
from selfimprove.recipe.sections import Positive
from selfimprove.statistics import wilson_interval
from selfimprove.tasks.answers_report import answers_part
from selfimprove.tasks.judge_file import RUBRIC, adopt, rating_judge, refuse_own_file, write_json_lines
from selfimprove.tasks.thresholds import Threshold, threshold_for

if TYPE_CHECKING:
    from selfimprove.inference import Inference

FILE_NAME = "answers.jsonl"
_TOO_LONG = "the prompt is too long for the policy"
_SHOWN = 10  # answers in the event, for the terminal and the report


class Answer(Options):
    """Section `answer`, of what `selfimprove answer` does. Keep one of `threshold`, `precision` and `coverage`."""

    judge: Reader | None = None
    """Who scores the answers; its folder, or keys."""
    prompt: Annotated[str, Field(min_length=1)] | None = None
    """One prompt, instead of `data.prompts`."""
    n: Positive | None = None
    """Answers drawn for a prompt; by default 8 with a judge and 1 without."""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """By default 0.8, and 0 for one answer."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = 256
    """Tokens of an answer."""
    threshold: float | None = None
    """The score below which the best answer is declined."""
    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    """Chooses the threshold on `data.held_out`: so large a share of the kept answers is good, by the lower end of its
    95% interval."""
    coverage: Annotated[float, Field(gt=0, le=1)] | None = None
    """Chooses it there so that such a share is kept."""
    checker: Literal["exact_match", "math"] = "exact_match"
    """What is good on `data.held_out`."""

    @model_validator(mode="after")
    def _declines_by_one_bound(self) -> Self:
        bounds = [self.threshold, self.precision, self.coverage]
        if sum(bound is not None for bound in bounds) > 1:
            raise ValueError("keep one of `threshold`, `precision` and `coverage`: each alone says what is declined")
        if self.judge is None and (any(bound is not None for bound in bounds) or (self.n or 1) > 1):
            raise ValueError(
                "to pick among `n` answers, or to decline below a `threshold`, needs a `judge` whose scores decide"
            )
        if (self.n or 8) > 1 and self.judge is not None and self.temperature == 0:
            raise ValueError("at `temperature` 0 all `n` answers to a prompt are the same; raise it, or set n to 1")
        return self

    @property
    def drawn(self) -> tuple[int, float]:
        """(n, temperature), with their defaults."""
        n = self.n or (8 if self.judge else 1)
        return n, (0.8 if n > 1 else 0.0) if self.temperature is None else self.temperature


class Picked(NamedTuple):
    """A prompt's answers, the judge's verdict on each (none without a judge), and the place of the best one; None where
    there is none, for the reason `missing`."""

    prompt: Prompt
    answers: Sequence[Response]
    verdicts: Sequence[Verdict]
    best: int | None
    missing: str | None = None

    @property
    def score(self) -> float | None:
        return self.verdicts[self.best][0] if self.best is not None and self.verdicts else None


class Asked(NamedTuple):
    """What is to be answered, and the labelled prompts that the threshold is chosen on."""

    prompts: list[Prompt]
    held_out: list[Prompt]


def prompts_to_answer(recipe: Recipe, options: Answer) -> Asked:
    """The prompts, checked; nothing is written yet."""
    search = recipe.search_folders()
    sources, held_out_sources = recipe.data.prompts or (), recipe.data.held_out or ()
    refuse_own_file([*sources, *held_out_sources], recipe, FILE_NAME)
    if options.prompt is not None:
        if not options.prompt.strip():
            raise InputError("answer.prompt (--prompt) is empty")
        prompts = [Prompt("prompt", ({"role": "user", "content": options.prompt},))]
    else:
        prompts = prompts_of(sources, search)
    held_out = prompts_of(held_out_sources, search)
    if lacking := [number for number, one in enumerate(held_out, start=1) if one.answer is None]:
        raise InputError(f"data.held_out (--held-out): row {lacking[0]} has no `answer`, so nothing tells a good one")
    asked = {_plain(one) for one in prompts}
    if shared := [number for number, one in enumerate(held_out, start=1) if _plain(one) in asked]:
        raise InputError(
            f"data.held_out (--held-out): {len(shared)} of {len(held_out)} prompts, first that of row {shared[0]}, are "
            "among those to be answered; a threshold must be chosen on other prompts: remove them from one of the two"
        )
    if held_out:
        check_reward(Reward(kind=options.checker), search, "answer.checker")
    return Asked(prompts, held_out)


def answer_with(loop: Inference, options: Answer) -> tuple[Asked, Judge | None]:
    """The prompts and the judge; the policy becomes the loop's own. Nothing is asked yet."""
    recipe = loop.recipe
    asked = prompts_to_answer(recipe, options)
    loop.base_policy = resolve_policy(recipe.model, short_name(recipe.model), recipe.opening)
    judge = rating_judge(find_judge(loop, options.judge, RUBRIC)) if options.judge else None
    inputs = {"the model": loop.base_policy.digest, "the judge": judge.digest if judge else "none"}
    for name, prompts in (("the prompts", asked.prompts), ("the held-out prompts", asked.held_out)):
        inputs[name] = digest_of([[one.id, list(one.messages), one.answer] for one in prompts])
    adopt(loop, inputs)
    return asked, judge


def _suits(recipe: Recipe, options: Answer) -> None:
    """Something to answer, and held-out prompts where a threshold is to be chosen."""
    if (options.prompt is None) == (recipe.data.prompts is None):
        raise ValueError("method 'answer' needs one of `data.prompts` and `answer.prompt`")
    chosen = options.precision is not None or options.coverage is not None
    if chosen and recipe.data.held_out is None:
        raise ValueError("a threshold for a `precision` or a `coverage` is chosen on `data.held_out`: give it")
    if recipe.data.held_out is not None and not chosen:
        raise ValueError("`data.held_out` needs `answer.precision` or `answer.coverage`: what to choose by")


@task(
    options=Answer,
    reads=("data.held_out",),
    suits=_suits,
    check=prompts_to_answer,
    prepare=answer_with,
    report=(answers_part,),
)
def answer(loop: Inference, options: Answer, found: tuple[Asked, Judge | None]) -> None:
    """Chooses the threshold where one is to be chosen, answers every prompt, and writes `answers.jsonl`.

    Raises RunFailed where the held-out answers allow no threshold of the wanted kind.
    """
    (prompts, held_out), judge = found
    chosen, unchecked = _chosen(loop, held_out, judge) if held_out else (None, {})
    threshold = chosen.value if chosen else options.threshold
    rows = [answer_row(one, threshold) for one in best_answers(loop, prompts, judge, "answers")]
    target = Path(loop.recipe.output) / FILE_NAME
    write_json_lines(target, rows)
    answered, low, high = wilson_interval(sum(not row["declined"] for row in rows), len(rows))
    assert loop.base_policy is not None
    loop.events.emit(
        "answers",
        digest_of([[row["id"], row["score"], row["declined"]] for row in rows] + [chosen]),
        policy=loop.base_policy.name,
        judge=judge.name if judge else None,
        file=str(target),
        n=len(rows),
        drawn=options.drawn[0],
        answered={"value": answered, "low": low, "high": high},
        declined=dict(Counter(row["reason"] for row in rows if row["declined"])),
        truncated=sum(row["truncated"] is True and not row["declined"] for row in rows),
        threshold=threshold,
        held_out=chosen._asdict() | {"unchecked": unchecked} if chosen else None,
        examples=[{**row, "candidates": None} for row in rows[:_SHOWN]],
    )


def best_answers(loop: Inference, prompts: Sequence[Prompt], judge: Judge | None, label: str) -> list[Picked]:
    """The policy's answers to each prompt and the best of them: the first one of the highest score."""
    policy, options = loop.base_policy, loop.recipe.options
    assert policy is not None
    n, temperature = options.drawn
    rendered = loop.rendered_for(policy, {one.id: one.messages for one in prompts}, options.max_new_tokens, label)
    drawn: dict[str, Sequence[Response]] = {}
    if rendered:
        drawn |= loop.draw(
            policy,
            rendered,
            f"{label} of {policy.name}",
            n=n,
            temperature=temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
        ).by_prompt
    if judge is None:
        return [
            Picked(one, drawn[one.id], (), 0) if one.id in drawn else Picked(one, (), (), None, _TOO_LONG)
            for one in prompts
        ]
    # Equal answers to a prompt are judged once, so that they tie exactly.
    questions = {
        (one.id, answer.text): judge.rubric.messages({"instruction": content(one), "response": answer.text})
        for one in prompts
        for answer in drawn.get(one.id, ())
    }
    ids = {key: str(number) for number, key in enumerate(questions)}
    verdicts = ask_judge(loop, judge, {ids[key]: asked for key, asked in questions.items()}, f"{label} judged").verdicts
    return [
        _best(one, drawn[one.id], [verdicts[ids[one.id, answer.text]] for answer in drawn[one.id]])
        if one.id in drawn
        else Picked(one, (), (), None, _TOO_LONG)
        for one in prompts
    ]


def answer_row(picked: Picked, threshold: float | None) -> dict[str, Any]:
    """A line of `answers.jsonl`. `answer` is null, with a `reason`, where the best one is declined."""
    best, score = picked.best, picked.score
    below = threshold is not None and score is not None and score < threshold
    reason = "score below the threshold" if below else picked.missing
    return {
        "id": picked.prompt.id,
        "prompt": content(picked.prompt) if len(picked.prompt.messages) == 1 else list(picked.prompt.messages),
        "answer": None if best is None or below else picked.answers[best].text,
        "declined": reason is not None,
        "reason": reason,
        "score": score,
        "threshold": threshold,
        "n": len(picked.answers),
        "truncated": None if best is None else picked.answers[best].finish == "length",
        "candidates": [
            {"answer": one.text, "score": score, "missing": missing, "truncated": one.finish == "length"}
            for one, (score, missing) in zip(
                picked.answers, picked.verdicts or [(None, None)] * len(picked.answers), strict=True
            )
        ],
    }


def _best(prompt: Prompt, answers: Sequence[Response], verdicts: Sequence[Verdict]) -> Picked:
    known = [(-score, place) for place, (score, _) in enumerate(verdicts) if score is not None]
    if not known:
        why = next(reason for _, reason in verdicts)
        return Picked(prompt, answers, verdicts, None, f"no score: {why}")
    return Picked(prompt, answers, verdicts, min(known)[1])


def _chosen(loop: Inference, held_out: Sequence[Prompt], judge: Judge | None) -> tuple[Threshold, dict[str, int]]:
    """The threshold, and the held-out answers that the checker failed at, by reason; they count for nothing."""
    options = loop.recipe.options
    picked = best_answers(loop, held_out, judge, "held-out answers")
    best = {one.prompt.id: [one.answers[one.best]] for one in picked if one.best is not None}
    prompts = {one.id: RenderedPrompt(one.id, (), content(one), one.answer) for one in held_out if one.id in best}
    checked = rewarded(loop, Responses(prompts, best), Reward(kind=options.checker), "check held-out answers")
    scores, good, unchecked = [], [], Counter[str]()
    for one in picked:
        value, _, missing = checked[one.prompt.id][0] if one.best is not None else (0.0, None, None)
        if value is None:
            unchecked[str(missing)] += 1
            continue
        scores.append(float("-inf") if one.score is None else one.score)  # what has no score is always declined
        good.append(value)
    if not scores:
        raise RunFailed(f"data.held_out (--held-out): no answer could be checked ({next(iter(unchecked))})")
    if unchecked:
        loop.note(f"{sum(unchecked.values())} of {len(held_out)} held-out answers could not be checked; left out")
    found = threshold_for(scores, good, precision=options.precision, coverage=options.coverage)
    return found, dict(unchecked)


def _plain(prompt: Prompt) -> tuple[str, ...]:
    """The prompt's turns without differences of case and white space."""
    return tuple(" ".join(turn["content"].split()).casefold() for turn in prompt.messages)
