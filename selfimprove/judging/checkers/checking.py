"""Answers checked as a durable step: by a program that reads mathematics, or by running what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfimprove.inference import Inference
from selfimprove.steps.request import StepRequest


def verified(
    loop: Inference, checker: str, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any], label: str
) -> dict[str, tuple[float | None, str | None, str | None]]:
    """What a checker says of each row, by its `prompt_id`: (1.0 right or 0.0 wrong, None, why it is wrong), or
    (None, why the checker failed, None). `checker`: `math` (rows of `text` and `answer`) or `code` (of `program`
    and `tests`, in the sandbox)."""
    if not rows:
        return {}
    artefact = loop.step(
        StepRequest(
            step=f"verify_{checker}",
            label=label,
            options=options,
            inputs={"rows": rows},
            policies={},
            seed=0,
            execution={},
        )
    )
    return {row["prompt_id"]: (row["value"], row["missing"], row["failure"]) for row in artefact.rows()}
