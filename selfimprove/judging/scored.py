"""Scores of responses by a durable step that looks at one text at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selfimprove.judging.outcomes import Verdict
from selfimprove.steps.request import StepRequest

if TYPE_CHECKING:
    from selfimprove.data.rows import Responses
    from selfimprove.inference import Inference
    from selfimprove.models.policy import Policy


def scored_texts(
    loop: Inference,
    step: str,
    name: str,
    responses: Responses,
    options: Mapping[str, Any],
    execution: Mapping[str, Any],
    policies: Mapping[str, Policy] | None = None,
    with_rows: bool = False,
) -> dict[str, list[Verdict]]:
    """Verdicts of the step `step` on every response. `with_rows`: it is shown all columns of the prompts' data."""
    texts = [
        {
            "prompt_id": prompt.id,
            "index": response.index,
            "prompt": prompt.text,
            "text": response.text,
            "answer": prompt.answer,
            "messages": list(prompt.messages) or [{"role": "user", "content": prompt.text}],
            **({"row": json.dumps(prompt.row, default=str, sort_keys=True)} if with_rows else {}),
        }
        for prompt, its_responses in responses
        for response in its_responses
    ]
    artefact = loop.step(
        StepRequest(
            step=step,
            label=f"judge {name}",
            options=options,
            inputs={"texts": texts},
            policies=policies or {},
            seed=0,
            execution={"device": loop.device, "batch_tokens": loop.recipe.sampling.batch_tokens, **execution},
        )
    )
    verdicts: dict[str, list[Verdict]] = {}
    for row in artefact.rows():
        verdicts.setdefault(row["prompt_id"], []).append((row["score"], row["missing"]))
    return verdicts
