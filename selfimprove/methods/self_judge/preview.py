"""What `selfimprove check` shows of Self-J."""

from __future__ import annotations

from typing import Any

from selfimprove.judging.digit_questions import question_ids
from selfimprove.methods.self_judge.options import SelfJudge
from selfimprove.methods.self_judge.training import find_rubric
from selfimprove.steps.cost import Preview


def preview(loop: Any, options: SelfJudge) -> Preview:
    """A question to the judge."""
    first = loop.data.round_prompts[0][0]
    values = {
        "instruction": first.text,
        "response": "(a response, as it was sampled)",
        "reference": str(first.answer),
    }
    asked = question_ids(loop.tokenizer, find_rubric(loop), values, "reference", loop.data.room)
    title = "question to the judge, as it is trained with the reference"
    return Preview(examples=[(title, list(asked.ids))] if asked else [])
