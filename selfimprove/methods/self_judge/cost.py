"""What a run of Self-J takes, and what `selfimprove check` shows of it."""

from __future__ import annotations

from typing import Any

from selfimprove.judging.digit_questions import question_ids
from selfimprove.methods.self_judge.options import SelfJudge
from selfimprove.methods.self_judge.training import find_rubric
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps.cost import PROBE, Cost, Data, Preview, Tokens


def cost(recipe: Recipe, options: SelfJudge) -> Cost:
    """A judge a round, and the copy in `judge/`."""
    return Cost(
        lambda data: _tokens(recipe, options, data), trains=("judge",), each_round=1, questions=True, kept_more=1
    )


def preview(loop: Any, options: SelfJudge) -> Preview:
    """A question to the judge, and how long it is without the texts in it."""
    found, first = _question(loop, "", "", ""), loop.data.round_prompts[0][0]
    asked = _question(loop, first.text, "(a response, as it was sampled)", str(first.answer))
    title = "question to the judge, as it is trained with the reference"
    return Preview(examples=[(title, list(asked.ids))] if asked else [], between=len(found.ids) if found else 0)


def _question(loop: Any, instruction: str, response: str, reference: str) -> Any:
    """What a judge is asked about a response, with the reference; None where it is too long for training."""
    values = {"instruction": instruction, "response": response, "reference": reference}
    return question_ids(loop.tokenizer, find_rubric(loop), values, "reference", loop.data.room)


def _tokens(recipe: Recipe, options: SelfJudge, data: Data) -> Tokens:
    """Every round: responses, one question about each with the reference, and training on it and the one without. A
    reference is taken to be as long as a response can be."""
    rows, rounds, question = data.rows, len(data.prompts), data.between
    n, new, most = recipe.sampling.n, recipe.sampling.max_new_tokens, recipe.training.max_length
    plain, reference = (n * sum(min(row + question + texts * new, most) for row in rows) for texts in (1, 2))
    held = options.held_out
    return Tokens(
        read=sum(rows),
        sampled=n * len(rows) * new,
        scored=reference + held * plain + 2 * rounds * PROBE * plain / (n * len(rows)),
        trained=recipe.training.epochs * (1 - held) * (plain + reference),
        policies=rounds + 1,
    )
